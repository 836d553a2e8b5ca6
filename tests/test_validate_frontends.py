"""``fcntag validate`` of STFT and MFCC front ends: clean against every reference, and errors in them are named."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from support.cli_runner import run
from support.make_models import block, make_model
from test_frontends import MFCC, STFT
from test_validate import BFLOAT16, Tampered, failing

from fcntag.engine import CpuEngine
from fcntag.engine.packing import melspec_config
from fcntag.model import filters, paper
from fcntag.model.document import Log, ModelDocument
from fcntag.model.file import Model, write_model
from fcntag.validate import REFERENCES, check, validate
from fcntag.validate.cases import built_in
from fcntag.validate.references import make

KINDS = {
    "stft": dict(STFT, n_fft=256, log=Log(kind="db", amin=1e-10, ref="max", top_db=80.0), normalization="scalar"),
    "mfcc": dict(MFCC, normalization="per_mel"),
}


@pytest.fixture(params=KINDS)
def model(request, rng) -> Model:
    """Two blocks behind a front end of the kind; scales that leave the random network's logits near 1."""
    model = make_model(rng, [block(8, window=(2, 4)), block(6, window=(3, 3))], n_samples=8000, **KINDS[request.param])
    tensors = model.tensors
    return dataclasses.replace(model, tensors={**tensors, "input.scale": np.float32(0.05) * tensors["input.scale"]})


def thin(document: ModelDocument, channels: int) -> ModelDocument:
    """The same front end and pools with ``channels`` in every block."""
    blocks = [
        dataclasses.replace(b, in_channels=channels if i else 1, out_channels=channels)
        for i, b in enumerate(document.blocks)
    ]
    head = dataclasses.replace(document.head, in_features=channels)
    return dataclasses.replace(document, blocks=tuple(blocks), head=head).validate()


@pytest.mark.parametrize("against", REFERENCES)
@pytest.mark.parametrize("precision", ["float32", BFLOAT16])
@pytest.mark.parametrize("name", ["fcn4-stft", "fcn4-mfcc"])
def test_the_paper_s_front_ends_are_clean(capsys, tmp_path, name, precision, against) -> None:
    """Whole windows of 29 s through the command; few channels, since it is the front end that is new here."""
    model = paper.random_model(thin(paper.document(name), 8))
    path = tmp_path / "thin.safetensors"
    write_model(path, model.document, model.tensors)
    options = ["--against", against, "--precision", precision, "--device", "cpu"]
    code, out, err = run(capsys, "validate", path, "--json", tmp_path / "report.json", *options)
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines() if line.startswith("  mel ")] == ["mel", "mel"]
    cases = json.loads((tmp_path / "report.json").read_text())["cases"]
    network = ["block 1", "block 2", "block 3", "block 4", "head", "scores"]
    expected = [["mel", *network], network, ["mel", *network]]
    assert [[stage["name"] for stage in case["stages"]] for case in cases] == expected


@pytest.mark.parametrize("against", REFERENCES)
def test_a_wrong_filter_of_the_engine_is_named(model, monkeypatch, against) -> None:
    def wrong(*arguments):
        config = melspec_config(*arguments)
        filters = config["filters"].reshape(config["n_mels"], -1).copy()
        filters[7] *= 1.001
        return {**config, "filters": filters.ravel()}

    assert validate(model, against=against, device="cpu").ok
    monkeypatch.setattr("fcntag.engine.cpu.melspec_config", wrong)
    found = failing(validate(model, against=against, device="cpu"))
    assert found["random input"] == []
    for name in ("noise", "synthetic piece"):
        assert found[name][0] == "mel"
        assert not any(stage.startswith("block") for stage in found[name])


@pytest.mark.parametrize("against", ["torch", "onnxruntime"])
@pytest.mark.parametrize("what", ["dct_matrix", "delta_weights", "delta_frames"])
def test_a_wrong_table_of_mfcc_is_named(rng, monkeypatch, what, against) -> None:
    """The reference has the wrong one; the engine's own tables are in C++."""
    model = make_model(rng, [block(4, window=(3, 4))], n_samples=8000, **KINDS["mfcc"])
    right = getattr(filters, what)

    def wrong(*arguments):
        table = right(*arguments)
        if what == "delta_frames":  # the last frame's alone: a wrong end
            table[-1] -= 1
        else:
            table[1] *= 1.001
        return table

    monkeypatch.setattr(filters, what, wrong)
    found = failing(validate(model, against=against, device="cpu"))
    assert found["noise"][0] == found["synthetic piece"][0] == "mel"
    assert found["random input"] == []


@pytest.mark.parametrize("against", REFERENCES)
def test_deltas_one_frame_late_are_named(rng, against) -> None:
    model = make_model(rng, [block(4, window=(3, 4))], n_samples=8000, **KINDS["mfcc"])
    n_mfcc = model.document.frontend.n_mfcc

    def late(x):
        x[:, n_mfcc:] = np.roll(x[:, n_mfcc:], 1, axis=2)
        return x

    with CpuEngine(model) as engine:
        wrong = Tampered(engine, "log_mel", late)
        stages = check(wrong, engine, make(against, model), built_in(model.document)[0])  # type: ignore[arg-type]
    assert [stage.name for stage in stages if stage.problem is not None] == ["mel"]
