"""The references that the engine is compared with: the float64 oracle, PyTorch in float64, ONNX Runtime in float32.

Each computes one stage at a time, from any input that it is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..model.activation import sigmoid

if TYPE_CHECKING:
    from ..model.file import Model

Array = np.ndarray[Any, Any]


class Reference(Protocol):
    """A model's stages in one runtime."""

    name: str
    about: str  # version and arithmetic
    exact: bool  # float64; else its own float32 error counts
    n_blocks: int
    n_dense: int  # layers of the head, the last one included

    def mel(self, waves: Array) -> Array:
        """Waves [B, n_samples] -> network input [B, H, W], whatever the kind of front end."""

    def block(self, i: int, x: Array) -> Array:
        """Block ``i`` from its input map [B, C, H, W]."""

    def dense(self, i: int, x: Array) -> Array:
        """Dense layer ``i`` of the head, from its input [B, F], the first from the last map [B, C, H, W].

        The last one gives the logits [B, n_tags].
        """


class Oracle:
    """``fcntag.oracle``: framework-free, float64, plain loops."""

    name, exact = "oracle", True

    def __init__(self, model: Model) -> None:
        from .. import oracle

        self._oracle, self._model = oracle, model
        self.n_blocks, self.n_dense = len(model.document.blocks), len(model.document.head.hidden) + 1
        self.about = "float64 loops"

    def mel(self, waves: Array) -> Array:
        return self._oracle.network_input(self._model, waves)

    def block(self, i: int, x: Array) -> Array:
        return self._oracle.one_block(self._model.document.blocks[i], self._model.tensors, i, x)

    def dense(self, i: int, x: Array) -> Array:
        oracle, head = self._oracle, self._model.document.head
        if i == 0:
            x = oracle.flatten(np.asarray(x, np.float64), head.flatten)
        stem = self._model.document.dense_layers()[i][0]
        y = oracle.dense_layer(self._model, stem, x)
        return y if i == len(head.hidden) else oracle.activate(y, head.hidden[i].activation)


class Torch:
    """PyTorch's operators in float64."""

    name, exact = "torch", True

    def __init__(self, model: Model) -> None:
        from ..export import torch as builders

        self._torch = torch = builders.torch
        self._blocks = [
            torch.nn.Sequential(*builders.block_layers(model, i)).double().eval()
            for i in range(len(model.document.blocks))
        ]
        self.n_blocks, self.n_dense = len(self._blocks), len(model.document.head.hidden) + 1
        self._dense = [
            torch.nn.Sequential(
                *([builders.Features(model)] if i == 0 else []), *builders.dense_layers(model, i)
            ).double()
            for i in range(self.n_dense)
        ]
        self._mel = torch.nn.Sequential(builders.LogMel(model), builders.Normalise(model).double())
        self.about = f"PyTorch {torch.__version__}, float64"

    def mel(self, waves: Array) -> Array:
        return self._run(self._mel, waves)

    def block(self, i: int, x: Array) -> Array:
        return self._run(self._blocks[i], x)

    def dense(self, i: int, x: Array) -> Array:
        return self._run(self._dense[i], x)

    def _run(self, module: Any, x: Array) -> Array:
        with self._torch.inference_mode():
            out: Array = module(self._torch.from_numpy(np.array(x, dtype=np.float64))).numpy()
        return out


class OnnxRuntime:
    """ONNX Runtime's CPU provider on the exported graph's stages, in float32 (its front end: float64)."""

    name, exact = "onnxruntime", False

    def __init__(self, model: Model) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise ImportError('onnxruntime is not installed: pip install "fcntag[validate]"') from None
        from ..export.onnx import stage_bytes

        self._sessions: dict[int, Any] = {}
        self.n_blocks, self.n_dense = len(model.document.blocks), len(model.document.head.hidden) + 1

        def session(stage: int) -> Any:
            if stage not in self._sessions:
                options = onnxruntime.SessionOptions()
                options.log_severity_level = 3  # errors
                self._sessions[stage] = onnxruntime.InferenceSession(
                    stage_bytes(model, stage), options, providers=["CPUExecutionProvider"]
                )
            return self._sessions[stage]

        self._session = session
        self.about = f"ONNX Runtime {onnxruntime.__version__}, float32"

    def mel(self, waves: Array) -> Array:
        return self._run(0, waves)

    def block(self, i: int, x: Array) -> Array:
        return self._run(i + 1, x)

    def dense(self, i: int, x: Array) -> Array:
        return self._run(self.n_blocks + 1 + i, x)

    def _run(self, stage: int, x: Array) -> Array:
        (out,) = self._session(stage).run(None, {"x": np.ascontiguousarray(x, dtype=np.float32)})
        return np.asarray(out)


REFERENCES: dict[str, type[Oracle] | type[Torch] | type[OnnxRuntime]] = {
    "oracle": Oracle,
    "torch": Torch,
    "onnxruntime": OnnxRuntime,
}


def make(name: str, model: Model) -> Reference:
    """Reference ``name`` (of REFERENCES). Raises ImportError that names the extra where its package is missing."""
    return REFERENCES[name](model)


def chain(reference: Reference, x: Array) -> tuple[list[Array], Array]:
    """Every block's map, and the scores [B, n_tags], all of the reference's own, from network input [B, H, W]."""
    maps: list[Array] = []
    y = np.asarray(x)[:, None]
    for i in range(reference.n_blocks):
        y = reference.block(i, y)
        maps.append(y)
    for i in range(reference.n_dense):
        y = reference.dense(i, y)
    return maps, sigmoid(np.asarray(y, np.float64))
