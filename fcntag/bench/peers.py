"""The peers on the CPU: the same network in other runtimes, with the same weights and order of operations.

Each peer is set up as its documentation recommends for latency on a CPU: static shapes, as many threads as fcntag has,
weights packed ahead, denormals flushed. A runtime is imported when its peer is made; a missing one is named.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

    from ..model.file import Model


class Peer(Protocol):
    """One network in one runtime, for inputs of one shape [B, H, W]."""

    def run(self, x: np.ndarray) -> np.ndarray:
        """Scores [B, n_tags]."""


@contextlib.contextmanager
def denormals_flushed() -> Iterator[None]:
    """Flush denormals on this thread within the block only: the mode would change every later computation here.

    PyTorch's threads inherit the mode from the thread that starts them. ONNX Runtime and OpenVINO set it and leave it
    set, which the end of the block undoes.
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
            warnings.simplefilter("ignore")  # torch.jit is deprecated, and still PyTorch's fastest way on a CPU
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
        # Spinning is fastest for a single caller. Beside threads that decode, it would take their cores.
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


@dataclass(frozen=True)
class PeerEntry:
    """A peer that the bench can time: the modules that it needs, the first of which has its version, and its maker."""

    needs: tuple[str, ...]
    make: Callable[..., Any]

    def version(self) -> str:
        """Version of the runtime behind the peer. Raises ImportError, "not installed", that names a second module."""
        for module in self.needs:
            if importlib.util.find_spec(module) is None:
                also = "" if module == self.needs[0] else f" (needs {module})"
                raise ImportError(f"not installed{also}")
        return importlib.metadata.version(self.needs[0])


# A new peer is a class above and a row here. fcntag/cli/bench.py repeats the names, for its help; a test compares them.
# Every peer but PyTorch reads an ONNX graph.
PEERS: dict[str, PeerEntry] = {
    "torch": PeerEntry(("torch",), Torch),
    "onnxruntime": PeerEntry(("onnxruntime", "onnx"), OnnxRuntime),
    "openvino": PeerEntry(("openvino", "onnx"), OpenVino),
    "openvino-bf16": PeerEntry(("openvino", "onnx"), OpenVinoBfloat16),
}


def version(name: str) -> str:
    """Version of the runtime behind peer ``name``. Raises ImportError where it is not installed."""
    return PEERS[name].version()


def make(name: str, model: Model, batch: int, height: int, width: int, threads: int) -> Peer:
    """Peer ``name`` with ``model``, for inputs [batch, height, width]. Raises whatever the runtime raises."""
    return PEERS[name].make(model, batch, height, width, threads)
