"""``fcntag validate``: clean where the engine is right, and names the stage where something is wrong."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from support.make_models import block, make_model
from support.model_fixtures import ORIGINAL_FILES

from fcntag import _C, oracle
from fcntag.catalogue.names import load_any
from fcntag.engine import CpuEngine
from fcntag.model.file import Model
from fcntag.validate import REFERENCES, Case, StoredError, check, stored, validate
from fcntag.validate.cases import built_in
from fcntag.validate.measure import compare, compare_scores
from fcntag.validate.references import Oracle, chain, make

BFLOAT16 = pytest.param(
    "bfloat16", marks=pytest.mark.skipif(not _C.build_info()["bfloat16"], reason="this CPU has no AVX512_BF16")
)
EMBEDDED = ("mtt-vgg", "msd-vgg", "msd-vgg-as-shipped", "fcn3-narrow-music21")
STAGES = ["mel", "block 1", "block 2", "block 3", "head", "scores"]


def failing(report) -> dict[str, list[str]]:
    """Input -> its stages beyond tolerance."""
    return {case.name: [stage.name for stage in case.stages if stage.problem is not None] for case in report.cases}


# ---- clean ----


@pytest.mark.parametrize("against", REFERENCES)
@pytest.mark.parametrize("precision", ["float32", BFLOAT16])
@pytest.mark.parametrize(
    "name", [*EMBEDDED, *(pytest.param(name, marks=pytest.mark.shared) for name in ORIGINAL_FILES)]
)
def test_every_published_model_is_clean(models, name, precision, against) -> None:
    model = models(name)
    report = validate(model, against=against, precision=precision, device="cpu")
    assert report.ok, report.failures()
    blocks = [f"block {i}" for i in range(1, len(model.document.blocks) + 1)]
    expected = [["mel", *blocks, "head", "scores"], [*blocks, "head", "scores"], ["mel", *blocks, "head", "scores"]]
    assert [[stage.name for stage in case.stages] for case in report.cases] == expected
    assert all(stage.top == stage.n_top == 5 or precision != "float32" for stage in report.cases[2].stages[-1:])


@pytest.mark.parametrize(("name", "against"), [("fcn5-narrow", "oracle"), ("fcn4", "onnxruntime"), ("fcn3", "torch")])
def test_networks_of_the_paper_are_clean(name, against) -> None:
    report = validate(load_any(name)[0], against=against, device="cpu")
    assert report.ok, report.failures()


@pytest.mark.shared
def test_real_tracks_are_clean(models, shared) -> None:
    tracks = [str(path) for path in sorted((shared / "music").iterdir()) if path.suffix in (".mp3", ".ogg", ".wav")]
    report = validate(models("mtt-vgg"), tracks[:6], windows=2, device="cpu")
    assert report.ok, report.failures()
    assert [case.name for case in report.cases[3:]] == tracks[:6]


@pytest.mark.parametrize("precision", ["float32", "tf32", "float16", "bfloat16"])
def test_the_emulated_gpu_is_clean_and_its_corruption_is_found(cuda_core, rng, monkeypatch, precision) -> None:
    model = make_model(rng, [block(16, window=(2, 2)), block(16, window=(2, 4))], n_samples=6000, n_tags=3)
    report = validate(model, device="cuda", precision=precision)
    assert report.ok, report.failures()
    assert report.facts["device"] == "emulated:0"
    corrupt(monkeypatch, 1, weight=0.5, module="fcntag.engine.cuda")
    broken = validate(model, device="cuda", precision=precision)
    assert all(names[:2] in (["block 2"], ["block 2", "scores"]) for names in failing(broken).values())


@pytest.mark.parametrize("against", REFERENCES)
@pytest.mark.parametrize("flatten", ["hwc", "mean"])
def test_hidden_layers_are_stages_and_a_wrong_one_is_named(rng, monkeypatch, flatten, against) -> None:
    from fcntag.engine.packing import head_dict

    hidden = [(40, "relu"), (9, "elu")]
    model = make_model(rng, [block(16, window=(4, 4))], n_samples=6000, n_tags=3, flatten=flatten, hidden=hidden)
    report = validate(model, against=against, device="cpu")
    assert report.ok, report.failures()
    names = [stage.name for stage in report.cases[0].stages]
    assert names == ["mel", "block 1", "hidden 1", "hidden 2", "head", "scores"]

    def wrong(model):
        head = head_dict(model)
        head["hidden"][1]["weight"] = head["hidden"][1]["weight"] * np.float32(1.01)
        return head

    monkeypatch.setattr("fcntag.engine.cpu.head_dict", wrong)
    assert all(found[0] == "hidden 2" for found in failing(validate(model, against=against, device="cpu")).values())


# ---- something is wrong, and where ----


def corrupt(monkeypatch, i: int, weight: float, module: str = "fcntag.engine.cpu", where=...) -> None:
    """Add ``weight`` to the weights of block ``i``, or to those at ``where``, in what the cores are given."""
    from fcntag.engine.packing import block_dicts

    def wrong(model):
        blocks = block_dicts(model)
        blocks[i]["weight"] = blocks[i]["weight"].copy()
        blocks[i]["weight"][where] += np.float32(weight)
        return blocks

    monkeypatch.setattr(f"{module}.block_dicts", wrong)


@pytest.mark.parametrize("against", REFERENCES)
@pytest.mark.parametrize("i", [0, 1, 2])
def test_one_wrong_weight_names_its_block(three_blocks, monkeypatch, i, against) -> None:
    corrupt(monkeypatch, i, weight=0.01, where=(0, 0, 1, 1))
    report = validate(three_blocks, against=against, device="cpu")
    found = failing(report)
    assert found["random input"][0] == f"block {i + 1}"
    for name, stages in found.items():  # none where a ReLU holds the channel that the weight multiplies at 0
        assert stages in ([], [f"block {i + 1}"], [f"block {i + 1}", "scores"]), name
    assert f": block {i + 1} relative L2 " in report.failures()[0]
    assert "allowed 1e-06" in report.failures()[0] or against == "onnxruntime"


class Tampered:
    """An engine whose output is changed on the way out, as a wrong kernel would."""

    def __init__(self, engine: CpuEngine, method: str, change) -> None:
        self._engine, self._method, self._change = engine, method, change

    def __getattr__(self, name: str):
        value = getattr(self._engine, name)
        return value if name != self._method else lambda *arguments: self._change(value(*arguments))


def tampered(model: Model, method: str, change) -> list[str]:
    with CpuEngine(model, reduce=False) as engine:
        case = built_in(model.document)[2]
        wrong = Tampered(engine, method, change)
        stages = check(wrong, wrong, Oracle(model), case)  # type: ignore[arg-type]
    assert [stage.name for stage in stages] == STAGES
    return [f"{stage.name} {stage.problem}" for stage in stages if stage.problem is not None]


def test_a_wrong_kernel_names_its_block(three_blocks) -> None:
    def scaled(maps):
        maps[1] *= np.float32(1 + 1e-5)
        return maps

    failures = tampered(three_blocks, "blocks", scaled)
    assert failures[0].startswith("block 2 relative L2 1.0e-05, allowed 1e-06")

    def one_value(maps):
        maps[0][0, 3, 2, 5] += np.float32(1e-3) * np.abs(maps[0]).max()
        return maps

    assert tampered(three_blocks, "blocks", one_value)[0].startswith("block 1 ")

    def shifted(maps):
        maps[2] = np.roll(maps[2], 1, axis=3)
        return maps

    assert tampered(three_blocks, "blocks", shifted)[0].startswith("block 3 relative L2")

    def not_a_number(maps):
        maps[2][0, 0, 0, 0] = np.nan
        return maps

    assert tampered(three_blocks, "blocks", not_a_number)[0].startswith("block 3 1 of ")


def test_a_wrong_head_or_wrong_scores_are_named(three_blocks) -> None:
    (failure,) = tampered(three_blocks, "logits", lambda z: z + np.float32(1e-3))
    assert failure.startswith("head relative L2")
    (failure,) = tampered(three_blocks, "scores", lambda s: s + np.float32(1e-4))
    assert failure.startswith("scores max abs 1.0e-04, allowed 1e-05")
    (failure,) = tampered(three_blocks, "scores", lambda s: s[:, ::-1])
    assert failure.startswith("scores max abs")


def test_a_wrong_mel_filter_is_named(three_blocks, monkeypatch) -> None:
    from fcntag.model import filters

    right = filters.row_filters

    def wrong(frontend):
        rows = right(frontend)
        rows[7] *= 1.001
        return rows

    monkeypatch.setattr(filters, "row_filters", wrong)  # the oracle holds the right one by its own name
    report = validate(three_blocks, device="cpu")
    found = failing(report)
    assert found["noise"][0] == found["synthetic piece"][0] == "mel"
    assert not any(name.startswith("block") for names in found.values() for name in names)
    assert found["random input"] == []


def test_a_reduction_that_loses_something_shows_in_the_scores_alone(three_blocks, monkeypatch) -> None:
    from fcntag.engine import base as engine_module

    right = engine_module.reduce_model

    def wrong(model):
        reduced, reduction = right(model)
        tensors = {**reduced.tensors, "head.bias": reduced.tensors["head.bias"] + np.float32(0.01)}
        return dataclasses.replace(reduced, tensors=tensors), reduction

    monkeypatch.setattr(engine_module, "reduce_model", wrong)
    found = failing(validate(three_blocks, device="cpu"))
    assert found == {"noise": ["scores"], "random input": [], "synthetic piece": ["scores"]}
    assert validate(three_blocks, device="cpu", reduce=False).ok


def test_measures() -> None:
    ones = np.ones((1, 2, 8, 8))
    one_off = ones.copy()
    one_off[0, 0, 0, 0] += 2e-4  # relative L2 1.8e-5
    assert compare("block 1", one_off, ones, 1e-4, 1e-2).problem is None
    assert "one value off by 2.0e-04, allowed 1e-04" in str(compare("block 1", one_off, ones, 1e-4, 1e-4).problem)
    assert compare("mel", ones * 0, ones * 0, 1e-6, 1e-6).problem is None
    assert compare("mel", ones * 1e-3, ones * 0, 1e-6, 1.0).problem is not None
    assert "shape [2, 8, 8]" in str(compare("mel", ones[0], ones, 1e-6, 1e-6).problem)
    assert "of the reference" in str(compare("mel", ones, ones * np.inf, 1e-6, 1e-6).problem)
    tags = ("a", "b", "c")
    scores = np.array([[0.9, 0.5, 0.5001]])
    swapped = np.array([[0.9, 0.5001, 0.5]])
    stage = compare_scores(swapped, scores, 1e-3, tags, 3)
    assert (stage.problem, stage.top, stage.n_top) == (None, 1, 3)
    assert "max abs 1.0e-04" in str(compare_scores(swapped, scores, 1e-5, tags, 3).problem)
    json.dumps(compare("mel", ones * np.nan, ones, 1e-6, 1e-6).to_dict(), allow_nan=False)


def test_the_references_agree_with_one_another(three_blocks) -> None:
    case = built_in(three_blocks.document)[0]
    chains = {}
    for name in REFERENCES:
        reference = make(name, three_blocks)
        chains[name] = chain(reference, reference.mel(case.waves))
    for name, tolerance in (("torch", 1e-12), ("onnxruntime", 1e-5)):
        for mine, theirs in zip(chains[name][0], chains["oracle"][0], strict=True):
            np.testing.assert_allclose(mine, theirs, atol=tolerance * np.abs(theirs).max())
        np.testing.assert_allclose(chains[name][1], chains["oracle"][1], atol=tolerance)
    np.testing.assert_allclose(chains["oracle"][1], oracle.scores(three_blocks, case.waves), atol=1e-14)


# ---- stored arrays ----


def test_a_saved_reference_finds_what_is_wrong(three_blocks, tmp_path, monkeypatch) -> None:
    path = str(tmp_path / "golden.npz")
    assert validate(three_blocks, device="cpu", save=path).ok
    with np.load(path) as file:
        assert file.files == ["waves", "mel", "scores", "block1", "block2", "block3"]
        assert file["waves"].shape == (2, 8000)
    report = validate(three_blocks, device="cpu", against=path)
    assert report.ok, report.failures()
    assert [stage.name for stage in report.cases[0].stages] == [*STAGES[:4], "scores"]
    corrupt(monkeypatch, 1, weight=0.01)
    (found,) = failing(validate(three_blocks, device="cpu", against=path)).values()
    assert found[0] == "block 2"


def test_stored_without_waves(three_blocks, tmp_path, rng) -> None:
    x = rng.standard_normal((2, *three_blocks.document.input_size())).astype(np.float32)
    maps = oracle.blocks(three_blocks, x)
    path = str(tmp_path / "blocks.npz")
    np.savez(path, mel=x, block2=maps[1], scores=oracle.scores_of(three_blocks, x))
    assert [stage.name for stage in validate(three_blocks, device="cpu", against=path).cases[0].stages] == [
        "block 2",
        "scores",
    ]
    assert validate(three_blocks, device="cpu", against=path).ok
    np.savez(path, mel=x, block2=maps[1].astype(np.float16))  # half a spacing of float16 is allowed for
    assert validate(three_blocks, device="cpu", against=path).ok
    np.savez(path, mel=x, block2=1.0001 * maps[1])
    assert (
        "block 2 relative L2 1.0e-04, allowed 2e-06" in validate(three_blocks, device="cpu", against=path).failures()[0]
    )


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mel": np.zeros((1, 3, 4), np.float32)}, r"mel: float32 \[1, 3, 4\]; random has floats \[batch, 20, 32\]"),
        (
            {"block4": np.zeros((1, 3), np.float32)},
            "'block4': unknown array; known: waves, mel, block1 to block3, scores",
        ),
        ({"scores": np.zeros((1, 6), np.int64)}, r"scores: int64 \[1, 6\]"),
        ({"scores": np.full((1, 6), np.nan)}, "scores: holds NaN"),
        ({"scores": np.zeros((1, 6))}, "neither mel nor waves"),
        ({"waves": np.zeros((1, 8000))}, "nothing to compare with"),
        ({"waves": np.zeros((1, 8000)), "scores": np.zeros((2, 6))}, "scores: 2 segments, other arrays have 1"),
        ({"mel": np.zeros((0, 20, 32))}, r"mel: float64 \[0, 20, 32\]"),
    ],
)
def test_stored_arrays_that_do_not_fit(three_blocks, tmp_path, arrays, message) -> None:
    path = tmp_path / "golden.npz"
    np.savez(path, **arrays)
    with pytest.raises(StoredError, match=f"^{path}: .*{message}"):
        validate(three_blocks, device="cpu", against=str(path))


def test_stored_files_that_are_none(three_blocks, tmp_path) -> None:
    path = tmp_path / "golden.npz"
    with pytest.raises(StoredError, match="No such file"):
        stored.read(str(path), three_blocks.document)
    path.write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(StoredError, match=r"not an \.npz file"):
        stored.read(str(path), three_blocks.document)
    np.savez(path, scores=np.array([object()]))
    with pytest.raises(StoredError, match=r"not an \.npz file of NumPy, or damaged"):  # a pickle: never loaded
        stored.read(str(path), three_blocks.document)


def test_cases_are_repeatable(three_blocks) -> None:
    for first, second in zip(built_in(three_blocks.document), built_in(three_blocks.document), strict=True):
        assert isinstance(first, Case)
        for name in ("waves", "x"):
            np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
