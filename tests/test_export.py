"""Exports compute what the original checkpoints' own code computed, load without fcntag, and carry the document."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.cli_runner import run
from support.make_models import block, make_model
from support.model_fixtures import ORIGINAL_FILES
from support.numerics import SCORES, assert_block, assert_scores, max_abs
from test_golden_choi import COMPACT, KERAS2, R1, R4, synth
from test_golden_choi import golden as choi_golden
from test_golden_musicnn import PREFIX
from test_golden_musicnn import golden as musicnn_golden
from test_golden_won2020 import golden as won_golden

import fcntag.export
from fcntag.export import check, export
from fcntag.export.check import run_file
from fcntag.model.file import Model, write_model

FORMATS = (".onnx", ".pt", ".pt2")
EMBEDDED = ("mtt-vgg", "msd-vgg", "msd-vgg-as-shipped")


@pytest.fixture
def exported(tmp_path: Path) -> Callable[..., Callable[[np.ndarray], list[np.ndarray]]]:
    """``exported(model, suffix, **options)``: the written file as a function from its input to its outputs."""

    def make(model: Model, suffix: str, **options: bool) -> Callable[[np.ndarray], list[np.ndarray]]:
        path = str(tmp_path / f"model{suffix}")
        export(model, path, **options)
        return lambda x: run_file(path, np.ascontiguousarray(x, dtype=np.float32))

    return make


# ---- the original code's own outputs ----


@pytest.mark.shared
@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("name", PREFIX)
def test_musicnn(exported, models, shared, name, suffix) -> None:
    g, prefix = musicnn_golden(shared, "metal_muldjord_chaos_god"), PREFIX[name]
    patch = int(g["patch_index"])
    expected = g[f"{prefix}_sigmoid_all"][patch]
    # the golden's log-mel is [time, mel], as the original had it; an export takes librosa's [mel, time]
    scores, *maps = exported(models(name), suffix, blocks=True)(g["logmel"].T[None])
    assert_scores(scores[0], expected, SCORES["engine"])
    if name != "msd-vgg-as-shipped":
        assert_block(maps[4][0].transpose(1, 2, 0), g[f"{prefix}_pool5"], 1e-5, what="pool5")
    (scores,) = exported(models(name), suffix, frontend=True)(g["wave"][None])
    assert_scores(scores[0], expected, SCORES["engine"])


@pytest.mark.shared
@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("name", ["won2020-fcn-mtat", "won2020-fcn-msd"])
def test_won2020(exported, models, shared, name, suffix) -> None:
    g = won_golden(shared, name.rsplit("-", 1)[1])
    scores, *maps = exported(models(name), suffix, blocks=True)(g["log_mel_db"][None])
    assert_scores(scores[0], g["sigmoid"], SCORES["engine"])
    for i in (3, 4, 5):
        assert_block(maps[i - 1][0], g[f"pool{i}"], 3e-6, what=f"pool{i}")
    (scores,) = exported(models(name), suffix, frontend=True)(won_golden(shared, "wave")["wave"][None])
    assert_scores(scores[0], g["sigmoid"], SCORES["engine"])


CHOI = {  # name -> (golden of mels, its key, golden of scores, its key)
    R1: ("golden_mels_bensound", "mels", "golden_fcn5_R1", "y_batch4_k105"),
    R4: ("golden_mels_bensound", "mels", "golden_fcn5_R4", "y_std_input_running"),
    COMPACT: ("golden_compact", "mel", "golden_compact", "y_batch4_trackref"),
    KERAS2: ("golden_keras2compact", "mel", "golden_keras2compact", "y"),
}
CHOI_WAVES = {  # from the synthetic signal
    R1: ("golden_fcn5_R1", "y_frozen4_synth"),
    R4: ("golden_fcn5_R4", "y_std_input_running_synth"),
    COMPACT: ("golden_compact", "y_frozen4_synth"),
    KERAS2: ("golden_keras2compact", "y_synth"),
}


@pytest.mark.shared
@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("name", CHOI)
def test_choi(exported, models, shared, name, suffix) -> None:
    file, key, scores_file, scores_key = CHOI[name]
    mels, g = choi_golden(shared, file)[key], choi_golden(shared, scores_file)
    if mels.ndim == 2:
        expected = g[scores_key][list(g["tracks"]).index(str(g["block_track"]))][None]
        mels = mels[None]
    else:
        expected = g[scores_key]
    (scores,) = exported(models(name), suffix)(mels)
    assert_scores(scores, expected, SCORES["engine"])
    file, key = CHOI_WAVES[name]
    waves = synth(shared, models(name).document.segments.n_samples)
    (scores,) = exported(models(name), suffix, frontend=True)(waves)
    assert_scores(scores[0], choi_golden(shared, file)[key], SCORES["engine"])


# ---- anywhere ----

NETWORKS = {  # every operation of the document
    "relu, affine, strided pool": dict(
        blocks=[block(4, affine=True, window=(4, 1), stride=(2, 2)), block(5, kernel=1, window=(2, 2))]
    ),
    "elu, no pool, hwc": dict(blocks=[block(3, activation="elu"), block(2, window=(5, 4))], flatten="hwc"),
    "hidden, hwc": dict(blocks=[block(3, window=(3, 2))], flatten="hwc", hidden=[(9, "relu"), (4, "none"), (6, "elu")]),
    "hidden, global mean": dict(blocks=[block(5, window=(2, 2))], flatten="mean", hidden=[(8, "elu")]),
    "no activation, global max": dict(blocks=[block(3, activation="none", window=(2, 2))], flatten="max"),
}
FRONT_ENDS = {
    "per_mel, time_mel": dict(normalization="per_mel", layout="time_mel"),
    "per_frame, valid, slaney": dict(normalization="per_frame", framing="valid", pad_mode="constant"),
    "standardize, theano": dict(normalization="standardize", framing="same_theano", window="hann_reversed"),
    "tensorflow, squared, htk": dict(framing="same_tensorflow", power_exponent=2, mel_scale="htk", mel_norm="none"),
    "scalar, zeros": dict(normalization="scalar", pad_mode="constant"),
}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_operation_and_any_batch(exported, rng, network, suffix) -> None:
    from fcntag import oracle

    model = make_model(rng, **NETWORKS[network], normalization="scalar")
    call = exported(model, suffix, blocks=True)
    x = check.random_log_mel(model, rng, 5)
    expected = oracle.blocks(model, check.normalised(model, x))
    scores, *maps = call(x)
    for i, (mine, theirs) in enumerate(zip(maps, expected, strict=True)):
        assert_block(mine, theirs, 2e-6, what=f"block {i}")
    assert max_abs(scores, oracle.scores_of(model, check.normalised(model, x))) <= 1e-5
    for batch in (1, 2):
        assert max_abs(call(x[:batch])[0], scores[:batch]) <= 1e-6


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("frontend", FRONT_ENDS)
def test_every_front_end(exported, rng, frontend, suffix) -> None:
    from fcntag import oracle
    from fcntag.model.document import Log

    for log in (Log(kind="log10p1", gain=1e4), Log(kind="db", amin=1e-10), Log(kind="db", amin=1e-7, top_db=30.0)):
        model = make_model(rng, [block(4, window=(2, 2))], n_tags=3, **{"log": log, **FRONT_ENDS[frontend]})
        waves = rng.uniform(-0.5, 0.5, (3, model.document.segments.n_samples)).astype(np.float32)
        (scores,) = exported(model, suffix, frontend=True)(waves)
        assert max_abs(scores, oracle.scores(model, waves)) <= 2e-6


WITHOUT_FCNTAG = """
import sys, json, numpy as np
sys.modules["fcntag"] = None  # an import of it fails
path = sys.argv[1]
x = np.load(sys.argv[2])
if path.endswith(".onnx"):
    import onnxruntime
    session = onnxruntime.InferenceSession(path)
    y = session.run(["scores"], {"log_mel": x})[0]
    document = session.get_modelmeta().custom_metadata_map["fcntag"]
else:
    import torch
    extra = {"fcntag.json": ""}
    if path.endswith(".pt2"):
        program = torch.export.load(path, extra_files=extra).module()
    else:
        program = torch.jit.load(path, _extra_files=extra)
    y = program(torch.from_numpy(x)).detach().numpy()
    document = extra["fcntag.json"]
np.save(sys.argv[3], y)
print(json.loads(document)["name"], len(json.loads(document)["tags"]))
"""


@pytest.mark.parametrize("suffix", FORMATS)
def test_loads_without_fcntag_and_carries_the_document(tmp_path, models, rng, suffix) -> None:
    model = models("mtt-vgg")
    path, x, y = tmp_path / f"model{suffix}", tmp_path / "x.npy", tmp_path / "y.npy"
    export(model, path)
    np.save(x, check.random_log_mel(model, rng, 2))
    command = [sys.executable, "-c", WITHOUT_FCNTAG, str(path), str(x), str(y)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["mtt-vgg", "50"]
    np.testing.assert_allclose(np.load(y), run_file(str(path), np.load(x))[0], atol=1e-6)


def test_the_licence_notice_travels(tmp_path, models) -> None:
    import onnx

    export(models("msd-vgg"), tmp_path / "model.onnx")
    proto = onnx.load(tmp_path / "model.onnx")
    assert "Permission to use, copy, modify" in proto.doc_string
    properties = {entry.key: entry.value for entry in proto.metadata_props}
    assert properties["tags"].split("\n") == list(models("msd-vgg").document.tags)
    assert json.loads(properties["fcntag"])["licence"] == "ISC"
    assert {node.domain for node in proto.graph.node} == {""}


# ---- the command line ----


@pytest.mark.parametrize("suffix", FORMATS)
def test_command_line(capsys, tmp_path, suffix) -> None:
    path = tmp_path / f"narrow{suffix}"
    code, out, err = run(capsys, "export", "fcn5-narrow", "--to", path, "--blocks")
    assert (code, out) == (0, "")
    assert "log_mel [batch, 96, 1366] -> scores [batch, 50]" in err
    assert "compared with the engine on random input: scores within" in err
    assert path.stat().st_size > 3_000_000


def test_a_wrong_export_is_found(capsys, tmp_path, rng, monkeypatch) -> None:
    import fcntag.export.onnx as onnx_export

    model = make_model(rng, [block(4, window=(2, 2))])
    write_model(tmp_path / "model.safetensors", model.document, model.tensors)
    right = onnx_export.model_bytes

    def wrong(model, **options):
        bias = model.tensors["head.bias"] + np.float32(0.01)
        return right(Model(model.document, {**model.tensors, "head.bias": bias}, "", ""), **options)

    monkeypatch.setattr(onnx_export, "model_bytes", wrong)
    code, _, err = run(capsys, "export", tmp_path / "model.safetensors", "--to", tmp_path / "model.onnx")
    assert code == 1
    assert "scores differ from the engine's by" in err


def test_what_cannot_be_exported(capsys, tmp_path, monkeypatch) -> None:
    code, _, err = run(capsys, "export", "mtt-vgg", "--to", tmp_path / "model.tflite")
    assert (code, "allowed: .onnx, .pt, .pt2" in err) == (2, True)
    code, _, err = run(capsys, "export", "no-such-model", "--to", tmp_path / "model.onnx")
    assert (code, "no-such-model" in err) == (3, True)
    code, _, err = run(capsys, "export", "mtt-vgg", "--to", tmp_path / "nowhere" / "model.onnx")
    assert (code, "no such folder" in err) == (2, True)
    for module, name, extra in (("onnx", "model.onnx", "onnx"), ("torch", "model.pt", "validate")):
        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.delitem(sys.modules, f"fcntag.export.{module}", raising=False)
        monkeypatch.delattr(fcntag.export, module, raising=False)
        code, _, err = run(capsys, "export", "mtt-vgg", "--to", tmp_path / name)
        assert (code, f'pip install "fcntag[{extra}]"' in err) == (2, True)
        assert not (tmp_path / name).exists()


def test_the_fixtures_cover_every_catalogue_checkpoint() -> None:
    assert set(ORIGINAL_FILES) == {*CHOI, "won2020-fcn-mtat", "won2020-fcn-msd"}
