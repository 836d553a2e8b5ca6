"""The same network in other runtimes: same weights, same order of operations as the model document says.

Each gets what its documentation recommends for latency on a CPU: static shapes, as many threads as fcntag has, weights
packed ahead, denormals flushed. Everything here is imported on first use; a runtime that is missing is named.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

    from ..model.file import Model


class Peer(Protocol):
    """One network in one runtime, for inputs of one shape [B, H, W]."""

    def run(self, x: np.ndarray) -> np.ndarray:
        """Scores [B, n_tags]."""


@contextlib.contextmanager
def denormals_flushed() -> Iterator[None]:
    """Denormals flushed on this thread, for this block only: the mode would change every later computation here.

    PyTorch's threads inherit it from the thread that starts them; ONNX Runtime and OpenVINO set it and leave it so.
    """
    from fcntag import _C

    before = _C.set_flush_denormals(True)
    try:
        yield
    finally:
        _C.set_flush_denormals(before)


class Torch:
    """PyTorch, traced, frozen and with weights packed for oneDNN."""

    def __init__(self, model: Model, batch: int, height: int, width: int, threads: int) -> None:
        import warnings

        import torch

        from ..export.torch import network_layers

        torch.set_num_threads(threads)
        self._torch = torch
        module = torch.nn.Sequential(*network_layers(model)).eval()
        x = torch.zeros(batch, 1, height, width)
        with denormals_flushed(), torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated, and still the fastest eager-free path on a CPU
            frozen = torch.jit.freeze(torch.jit.trace(module, x))
            self._module = torch.jit.optimize_for_inference(frozen)
            for _ in range(3):  # the profiling executor compiles on its second run
                self._module(x)

    def run(self, x: np.ndarray) -> np.ndarray:
        with denormals_flushed(), self._torch.inference_mode():
            return self._module(self._torch.from_numpy(x[:, None])).numpy()


class OnnxRuntime:
    """ONNX Runtime's CPU provider."""

    def __init__(
        self, model: Model, batch: int, height: int, width: int, threads: int, *, spinning: bool = True
    ) -> None:
        import onnxruntime

        from ..export.onnx import network_bytes

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        # Spinning is the fastest for one caller; where other threads decode at the same time it takes their cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        graph = network_bytes(model, batch, height, width)
        with denormals_flushed():
            self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def run(self, x: np.ndarray) -> np.ndarray:
        with denormals_flushed():
            return self._session.run(None, {"x": x[:, None]})[0]


class OpenVino:
    """OpenVINO's CPU plugin in float32."""

    precision = "f32"

    def __init__(self, model: Model, batch: int, height: int, width: int, threads: int) -> None:
        import openvino

        from ..export.onnx import network_bytes

        with denormals_flushed():
            core = openvino.Core()
            if self.precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
                raise RuntimeError("this CPU has no bfloat16 instructions")
            self._request = core.compile_model(
                core.read_model(network_bytes(model, batch, height, width)),
                "CPU",
                {
                    "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_NUM_THREADS": threads,
                    "INFERENCE_PRECISION_HINT": self.precision,
                    "CPU_DENORMALS_OPTIMIZATION": True,
                    # Pinning would also pin the calling thread, and with it whoever runs next in this process.
                    "ENABLE_CPU_PINNING": False,
                },
            ).create_infer_request()

    def run(self, x: np.ndarray) -> np.ndarray:
        with denormals_flushed():
            return self._request.infer({0: x[:, None]}, share_inputs=True)[0]


class OpenVinoBfloat16(OpenVino):
    """OpenVINO's CPU plugin in bfloat16, where the CPU has it."""

    precision = "bf16"


PEERS: dict[str, type[Torch] | type[OnnxRuntime] | type[OpenVino]] = {
    "torch": Torch,
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
    "openvino-bf16": OpenVinoBfloat16,
}
_NEEDS = {  # modules; the peers but torch read an ONNX graph
    "torch": ("torch",),
    "onnxruntime": ("onnxruntime", "onnx"),
    "openvino": ("openvino", "onnx"),
    "openvino-bf16": ("openvino", "onnx"),
}


def version(name: str) -> str:
    """Version of the runtime behind peer ``name``. Raises ImportError, "not installed", that says what is missing."""
    for module in _NEEDS[name]:
        if importlib.util.find_spec(module) is None:
            also = "" if module == _NEEDS[name][0] else f" (needs {module})"
            raise ImportError(f"not installed{also}")
    return importlib.metadata.version(_NEEDS[name][0])


def make(name: str, model: Model, batch: int, height: int, width: int, threads: int) -> Peer:
    """Peer ``name`` with ``model``, for inputs [batch, height, width]. Raises whatever the runtime raises."""
    return PEERS[name](model, batch, height, width, threads)
