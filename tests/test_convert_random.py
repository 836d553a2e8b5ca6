"""Random networks of the document's block, written by PyTorch's exporters and in the style of others, are converted.

The converted model must give what ONNX Runtime gives of the file, and what float64 PyTorch gives of the layers that the
file was made from. FCNTAG_RANDOM_NETWORKS sets how many networks each test tries; a failure names the seed that
repeats it.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from support import onnx_styles, random_networks, random_torch
from support.numerics import max_abs

from fcntag.convert import convert_stack
from fcntag.engine import CpuEngine
from fcntag.export.check import normalised
from fcntag.model.file import Model

MANY = int(os.environ.get("FCNTAG_RANDOM_NETWORKS", "0"))
pytestmark = pytest.mark.timeout(0 if MANY else 600)
# Both compute in float32, in another order of sums: 1e-6 as a rule. A layer that is read wrongly moves scores by 1e-2.
SCORES = 1e-5


def check(seed: int, how: str, folder: Path, like: str) -> None:
    rng = np.random.default_rng([seed, list(HOWS).index(how)])
    network = random_networks.make(rng)
    path = folder / "net.onnx"
    shape = HOWS[how](network, rng, path)
    where = f"seed {seed}, {how}: {network.kinds()}"
    try:
        converted = convert_stack(str(path), like=like)
    except Exception as error:
        raise AssertionError(f"{where}: {error}") from error
    model = Model(converted.document, converted.tensors, "", "")
    x = rng.uniform(-2, 2, (2, random_networks.BANDS, random_networks.FRAMES)).astype(np.float32)
    image = x.transpose(0, 2, 1) if network.time_first else x
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (there,) = session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(image.reshape(2, *shape))})
    with CpuEngine(model) as engine:
        here = engine.scores_of(normalised(model, x))
    assert max_abs(here, there.reshape(here.shape)) <= SCORES, where
    assert max_abs(here, random_networks.truth(network, image)) <= SCORES, where
    assert model.document.frontend.layout == ("time_mel" if network.time_first else "mel_time"), where


HOWS = {
    "PyTorch's legacy exporter": lambda network, rng, path: random_torch.write(network, rng, path, dynamo=False),
    "PyTorch's exporter": lambda network, rng, path: random_torch.write(network, rng, path, dynamo=True),
    **{
        style: lambda network, rng, path, style=style: onnx_styles.Writer(network, style, rng).write(path)
        for style in onnx_styles.STYLES
    },
}
SAMPLE = {"PyTorch's legacy exporter": 12, "PyTorch's exporter": 3, **dict.fromkeys(onnx_styles.STYLES, 10)}


@pytest.mark.parametrize("how", HOWS)
def test_random_networks(tmp_path, like, how) -> None:
    for seed in range(MANY or SAMPLE[how]):
        folder = tmp_path / str(seed)
        folder.mkdir()
        check(seed, how, folder, like)
