"""The peers on a GPU: the same model in other runtimes, with the same weights and order of operations, waves to scores.

Each peer is set up to be fast: channels-last maps, cuDNN's own search for the best algorithm, activations in place,
half precisions throughout, recorded CUDA graphs (one for each input, so that no input is copied first), and the
compilers' longest search. Batch-norm is folded for all of them. The inputs lie in GPU memory, and each call takes
another one.

With ``device="cpu"`` the peers compute the same and are timed by the wall clock, for the tests.
"""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..peers import PeerEntry
from .frontends import TorchaudioFrontend, TorchFrontend, jax_frontend
from .work import DEVICE_TIME

if TYPE_CHECKING:
    from ..variants import Variant

# The stages that contenders are timed on: a front end, a network, both, the same without the host's launches, and with
# the copies to and from the host.
STAGES = ("mel", "network", "scores", "scores" + DEVICE_TIME, "end to end")
# Seconds that the GPU is kept busy while the host launches what "device time" is of, and about as many cycles.
SPIN_S, _SPIN_CYCLES = 1e-4, 200_000
# Untimed calls in front of every series, beside one with each input.
WARM_UP = 3
# The inputs that are used in turn have about so many bytes together: more than any level-2 cache holds.
_ROTATED_BYTES = 1 << 28


class Contender(Protocol):
    """One engine with one network, precision and batch size, ready to be timed."""

    stages: tuple[str, ...]  # those of STAGES that it has

    def output(self, waves: np.ndarray) -> np.ndarray:
        """Scores [batch, n_tags] of waves [batch, n_samples]. A front end alone gives the network's input."""

    def times(self, stage: str, repeats: int) -> list[float]:
        """Seconds of ``repeats`` calls."""

    def close(self) -> None:
        """Give the GPU's memory back."""


def n_inputs(batch: int, n_samples: int) -> int:
    """Number of inputs that are used in turn: 8, or fewer where these outgrow every cache, but at least 2."""
    return max(2, min(8, _ROTATED_BYTES // (4 * batch * n_samples)))


# ---- PyTorch ----


@contextlib.contextmanager
def torch_settings(precision: str) -> Iterator[None]:
    """Switch cuDNN's search on within the block, and TF32 in convolutions only for precision "tf32"."""
    import torch

    saved = torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions have other names for these settings, and warn of these
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = False  # the mel filters must not be rounded
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = saved[:2]
            torch.backends.cuda.matmul.allow_tf32 = saved[2]


def record(cuda: Any, call: Callable[[], Any], pool: Any) -> tuple[Any, Any]:
    """``call`` as a CUDA graph, and the result that each replay overwrites. ``cuda`` is the module torch.cuda."""
    stream = cuda.Stream()
    stream.wait_stream(cuda.current_stream())
    with cuda.stream(stream):
        for _ in range(WARM_UP):  # algorithms are searched and compiled here, not while recording
            call()
    cuda.current_stream().wait_stream(stream)
    cuda.synchronize()
    graph = cuda.CUDAGraph()
    with cuda.graph(graph, pool=pool):
        result = call()
    return graph, result


def event_times(cuda: Any, call: Callable[[int], Any], count: int, repeats: int, spin_cycles: int = 0) -> list[float]:
    """Seconds by events around each call, as fcntag times itself: the GPU idle before it, or busy for some cycles."""
    start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
    seconds = []
    for k in range(-count - WARM_UP, repeats):
        if spin_cycles:
            cuda._sleep(spin_cycles)
        start.record()
        call(k % count)
        end.record()
        end.synchronize()
        if k >= 0:
            seconds.append(start.elapsed_time(end) / 1e3)
    return seconds


class Torch:
    """PyTorch in one of three modes.

    "eager" runs operation by operation. "graph" records these operations as a CUDA graph. "compile" compiles the
    network with the longest search, and records that.
    """

    stages: tuple[str, ...] = ("network", "scores", "end to end")
    whole = "scores"  # the stage whose result is checked
    frontend_class: type[TorchFrontend] = TorchFrontend

    def __init__(self, variant: Variant, precision: str, batch: int, device: str, mode: str = "eager") -> None:
        import torch

        self.torch, self.device, self.mode, self.precision = torch, device, mode, precision
        self.on_gpu = device.startswith("cuda")
        if self.on_gpu:
            torch.cuda.set_device(device)  # streams and graphs are the current device's
        elif mode != "eager":
            raise ValueError(f"{mode}: on a GPU only")
        # Recorded work is launched faster than the spin ends; operation by operation takes longer.
        if mode != "eager" and "scores" in self.stages and hasattr(torch.cuda, "_sleep"):
            self.stages = (*self.stages, "scores" + DEVICE_TIME)
        self.pool: Any = None
        self.frontend = self.frontend_class(variant.original, variant.height, variant.width, device)
        self.graphs: dict[str, list[tuple[Any, Any]]] = {}
        n_samples = variant.original.document.segments.n_samples
        generator = torch.Generator(device).manual_seed(0)
        self.waves = [
            torch.rand(batch, n_samples, generator=generator, device=device) - 0.5
            for _ in range(n_inputs(batch, n_samples))
        ]
        self.pinned = torch.empty(batch, n_samples, pin_memory=self.on_gpu)
        self.calls: dict[str, Callable[[int], Any]] = {}
        self.prepare(variant)

    def prepare(self, variant: Variant) -> None:
        from ...export.torch import network_layers

        torch = self.torch
        dtype = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(self.precision, torch.float32)
        module = torch.nn.Sequential(*network_layers(variant.model)).eval().requires_grad_(False)
        for layer in module:
            if hasattr(layer, "inplace"):
                layer.inplace = True
        module = module.to(device=self.device, dtype=dtype, memory_format=torch.channels_last)
        self.network = module
        if self.mode == "compile":
            torch._dynamo.reset()  # after eight networks, dynamo would silently run the next ones uncompiled
            self.network = torch.compile(module, mode="max-autotune-no-cudagraphs", dynamic=False)
        self.dtype = dtype
        with self.settings():
            self.x = [self.frontend(w) for w in self.waves]
        self.calls = {
            "network": self.callable("network", lambda i: self.run_network(self.x[i])),
            "scores": self.callable("scores", lambda i: self.run_network(self.frontend(self.waves[i]))),
        }

    @contextlib.contextmanager
    def settings(self) -> Iterator[None]:
        with torch_settings(self.precision), self.torch.inference_mode():
            yield

    def run_network(self, x: Any) -> Any:
        # This makes [B, 1, H, W] with the strides of channels-last. With one channel, .to(memory_format) would not.
        return self.network(x.to(self.dtype)[..., None].permute(0, 3, 1, 2)).float()

    def callable(self, stage: str, call: Callable[[int], Any]) -> Callable[[int], Any]:
        """``call`` itself, or, in the other modes, the replay of its graphs, of which each input has one."""
        if self.mode == "eager":
            return call
        if self.pool is None:
            self.pool = self.torch.cuda.graph_pool_handle()
        with self.settings():
            self.graphs[stage] = [
                record(self.torch.cuda, lambda i=i: call(i), self.pool) for i in range(len(self.waves))
            ]

        def replay(i: int) -> Any:
            graph, result = self.graphs[stage][i]
            graph.replay()
            return result

        return replay

    def output(self, waves: np.ndarray) -> np.ndarray:
        return self.host_call(self.whole, waves)

    def host_call(self, stage: str, waves: np.ndarray) -> np.ndarray:
        with self.settings():
            self.pinned.copy_(self.torch.from_numpy(waves))
            self.waves[0].copy_(self.pinned, non_blocking=True)
            return self.calls[stage](0).cpu().numpy()

    def times(self, stage: str, repeats: int) -> list[float]:
        if stage == "end to end":
            waves = [w.cpu().numpy() for w in self.waves[:2]]
            return _wall_times(lambda i: self.host_call("scores", waves[i]), len(waves), repeats)
        call, count = self.calls[stage.removesuffix(DEVICE_TIME)], len(self.waves)
        with self.settings():
            if not self.on_gpu:
                return _wall_times(call, count, repeats)
            spin = _SPIN_CYCLES if stage.endswith(DEVICE_TIME) else 0
            return event_times(self.torch.cuda, call, count, repeats, spin)

    def close(self) -> None:
        self.calls.clear()
        self.graphs.clear()
        for name in ("network", "frontend", "x", "waves", "pinned"):
            self.__dict__.pop(name, None)
        if self.on_gpu:
            self.torch.cuda.synchronize()
            self.torch.cuda.empty_cache()


class Torchaudio(Torch):
    """The front end alone, by torchaudio."""

    stages = ("mel",)
    whole = "mel"
    frontend_class = TorchaudioFrontend

    def prepare(self, variant: Variant) -> None:
        del variant
        self.calls = {"mel": self.callable("mel", lambda i: self.frontend(self.waves[i]))}


# ---- JAX ----


class Jax:
    """JAX, compiled by XLA, in NHWC. It has no events: its times are the wall clock's until the result is there."""

    stages = ("network", "scores", "end to end")

    def __init__(self, variant: Variant, precision: str, batch: int, device: str) -> None:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the other contenders need memory, too
        import jax

        self.jax = jax
        kind, _, index = device.partition(":")
        self.device = jax.devices("gpu" if kind == "cuda" else "cpu")[int(index or 0)]
        n_samples = variant.original.document.segments.n_samples
        rng = np.random.default_rng(0)
        network, parameters = _jax_network(variant, precision)
        frontend = jax_frontend(variant.original, variant.height, variant.width)
        self.parameters = jax.device_put(parameters, self.device)
        self.host = [
            rng.random((batch, n_samples), np.float32) - np.float32(0.5) for _ in range(n_inputs(batch, n_samples))
        ]
        self.waves = jax.device_put(self.host, self.device)
        # float32 would be TF32 on these GPUs unless told otherwise.
        self.rounding = {"float32": "highest", "tf32": "tensorfloat32"}.get(precision, "default")
        with jax.default_matmul_precision(self.rounding):
            self.run_network = jax.jit(network)
            self.run = jax.jit(lambda parameters, waves: network(parameters, frontend(waves)))
            self.x = [jax.jit(frontend)(w) for w in self.waves]
            self.run(self.parameters, self.waves[0]).block_until_ready()  # the first call compiles

    def output(self, waves: np.ndarray) -> np.ndarray:
        with self.jax.default_matmul_precision(self.rounding):
            return np.asarray(self.run(self.parameters, self.jax.device_put(waves, self.device)))

    def times(self, stage: str, repeats: int) -> list[float]:
        calls: dict[str, Callable[[int], Any]] = {
            "network": lambda i: self.run_network(self.parameters, self.x[i]).block_until_ready(),
            "scores": lambda i: self.run(self.parameters, self.waves[i]).block_until_ready(),
            "end to end": lambda i: np.asarray(
                self.run(self.parameters, self.jax.device_put(self.host[i], self.device))
            ),
        }
        with self.jax.default_matmul_precision(self.rounding):
            return _wall_times(calls[stage], len(self.waves), repeats)

    def close(self) -> None:
        for name in ("parameters", "waves", "x", "run", "run_network", "host"):
            self.__dict__.pop(name, None)
        self.jax.clear_caches()


def _jax_network(variant: Variant, precision: str) -> tuple[Callable[[Any, Any], Any], dict[str, np.ndarray]]:
    """A function of (parameters, x [B, H, W]) -> scores [B, n_tags], and its parameters."""
    import jax
    from jax import lax
    from jax import numpy as jnp

    model, document = variant.model, variant.model.document
    dtype = {"float16": jnp.float16, "bfloat16": jnp.bfloat16}.get(precision, jnp.float32)
    parameters = {name: value for name, value in model.tensors.items() if not name.startswith("input.")}
    for name, value in parameters.items():
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
        parameters[name] = np.ascontiguousarray(value).astype(dtype)

    def network(p: Any, x: Any) -> Any:
        x = x.astype(dtype)[..., None]
        for i, block in enumerate(document.blocks):
            x = lax.conv_general_dilated(
                x, p[f"blocks.{i}.weight"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = x + p[f"blocks.{i}.bias"]
            if block.activation != "none":
                x = jax.nn.relu(x) if block.activation == "relu" else jax.nn.elu(x)
            if block.post_affine:
                x = x * p[f"blocks.{i}.scale"] + p[f"blocks.{i}.shift"]
            window, stride = ((1, *size, 1) for size in (block.pool.window, block.pool.stride))
            if window != (1, 1, 1, 1) or stride != (1, 1, 1, 1):
                x = lax.reduce_window(x, np.asarray(-np.inf, dtype), lax.max, window, stride, "VALID")
        if document.head.flatten == "max":
            x = x.max((1, 2))
        elif document.head.flatten == "mean":
            x = x.mean((1, 2))
        elif document.head.flatten == "chw":
            x = x.transpose(0, 3, 1, 2)
        x = x.reshape(x.shape[0], -1)
        for i, layer in enumerate(document.head.hidden):
            x = x @ p[f"head.hidden.{i}.weight"].T + p[f"head.hidden.{i}.bias"]
            if layer.activation != "none":
                x = jax.nn.relu(x) if layer.activation == "relu" else jax.nn.elu(x)
        x = x @ p["head.weight"].T + p["head.bias"]
        return jax.nn.sigmoid(x.astype(jnp.float32))

    return network, parameters


def _wall_times(call: Callable[[int], Any], count: int, repeats: int) -> list[float]:
    seconds = []
    for k in range(-count - WARM_UP, repeats):
        start = time.perf_counter()
        call(k % count)
        if k >= 0:
            seconds.append(time.perf_counter() - start)
    return seconds


# ---- all of them ----

# A new peer is a class above and a row here. fcntag/cli/bench.py and benchmarks/gpu/check.py repeat the names; tests
# compare them. The rows are in the order of timing: the compilers' search takes minutes, so it gets the time that is
# left at the end.
PEERS: dict[str, PeerEntry] = {
    "torch": PeerEntry(("torch",), Torch),
    "torch-graph": PeerEntry(("torch",), partial(Torch, mode="graph")),
    "jax": PeerEntry(("jax",), Jax),
    "torchaudio": PeerEntry(("torchaudio", "torch"), Torchaudio),
    "torchaudio-graph": PeerEntry(("torchaudio", "torch"), partial(Torchaudio, mode="graph")),
    "torch-compile": PeerEntry(("torch",), partial(Torch, mode="compile")),
}
# These peers have no network, so they are not timed on a reduced one.
FRONT_ENDS = ("torchaudio", "torchaudio-graph")


def version(name: str) -> str:
    """Version of the runtime behind peer ``name``. Raises ImportError where it is not installed."""
    return PEERS[name].version()


def device_name(device: str) -> str:
    """The peers' name of the engine's device. Beside the emulator, the peers run on the CPU."""
    return device if device.startswith("cuda") else "cpu"


def make(name: str, variant: Variant, precision: str, batch: int, device: str) -> Contender:
    """Peer ``name``, its inputs on ``device``. Raises whatever the runtime raises."""
    return PEERS[name].make(variant, precision, batch, device)
