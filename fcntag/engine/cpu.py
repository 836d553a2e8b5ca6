"""The engine on a CPU: fcntag's own kernels for the instruction set of this machine, on a pool of threads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .. import _C
from ..errors import ModelError
from .base import Engine, check_inputs
from .packing import block_dicts, head_dict, map_head_dict, melspec_config

if TYPE_CHECKING:
    from ..model.file import Model


class CpuEngine(Engine):
    """A model on the CPU; see :class:`fcntag.engine.base.Engine`.

    Parameters
    ----------
    precision : "float32", or "bfloat16" where ``_C.build_info()["bfloat16"]``
    threads : 1 to 1024; None or 0: ``FCNTAG_NUM_THREADS``, else the CPUs of the affinity mask and cgroup quota
    algorithm : "auto" lets the cost model decide how each block is computed, from the model's shapes alone; "direct"
        and "winograd" force one wherever it can be, for tests and measurements
    """

    device = "cpu"

    def __init__(
        self,
        model: Model,
        *,
        precision: str = "float32",
        max_batch: int = 64,
        threads: int | None = None,
        reduce: bool = True,
        algorithm: Literal["auto", "direct", "winograd"] = "auto",
    ) -> None:
        super().__init__(model, precision, max_batch, reduce)
        self._algorithm = algorithm
        self.threads = thread_count(threads, _C.available_threads())
        self.isa: str = _C.build_info()["isa"]
        self._make_core()

    @property
    def algorithms(self) -> list[str]:
        """How each block is computed, "direct" or "winograd"."""
        with self._in_use():
            return list(self._network.algorithms)

    def describe_plan(self, batch: int = 1) -> list[dict[str, Any]]:
        """How each block is computed: index, algorithm, pool window and stride, code, and the numbers of its tiling.

        A CPU's plan is the same for every batch.
        """
        with self._in_use():
            needed = self._needed_size(*self.document.input_size())
            found: list[dict[str, Any]] = self._network.describe_plan(*needed)
            return found

    def block_times(self, x: np.ndarray) -> list[float]:
        """Seconds of every block, then of input copies and head, for one run of network inputs [B, H, W]."""
        x = check_inputs(x)
        parts = [self._run_needed(self._needed_part(part), times=True)["seconds"] for part in self._batches(x)]
        return [float(s) for s in np.sum(parts, axis=0)]

    # ---- for fcntag.engine.dense: inputs of any length ----

    def track_rows(self, waves: np.ndarray) -> np.ndarray:
        """The network's input [B, H, W] of waves [B, n_samples] of any length that the front end takes."""
        with self._in_use():
            # The buffers of a long track go with its front end, which is therefore not kept.
            melspec = self._make_melspec(*self.document.input_size())
            return self._run_melspec(melspec, waves, self.document.frontend.n_frames(waves.shape[1]))

    def map_network(self, model: Model, height: int, width: int) -> Any:
        """A network of ``model``'s blocks for inputs of one size, whose features are the last map, [C, h, w]."""
        with self._in_use():
            return self._network_with(model, map_head_dict(model, height, width), height, width)

    def last_map(self, network: Any, x: np.ndarray) -> np.ndarray:
        """The last map of :meth:`map_network`'s ``network`` for x [B, H, W], one row [C * h * w] an input."""
        with self._in_use():
            found: np.ndarray = network.run(x, features=True)["features"]
            return found

    # ---- inside ----

    def _host_scores(self, waves: np.ndarray, sample_rate: int | None) -> np.ndarray:
        return np.concatenate([self._run_needed(self._needed_rows(part))["scores"] for part in self._batches(waves)])

    def _make_core(self) -> None:
        self._pool: Any = _C.ThreadPool(self.threads)
        try:
            height, width = self._needed_size(*self.document.input_size())
            self._melspec = self._make_melspec(height, width)
            self._network = self._make_network(self.needed_model, height, width)
        except MemoryError:
            raise ModelError(f"{self.document.name}: not enough memory for its weights and buffers") from None

    def _begin_in_child(self, torn: bool) -> None:
        # The pool starts threads anew by itself, and weights that nobody was changing stay shared with the parent.
        # No destructor runs on the torn core: the frame of the call that the fork cut off has it for ever.
        if torn:
            self._whole_melspec = self._whole_network = None
            self._make_core()

    def _make_melspec(self, height: int, width: int) -> Any:
        return _C.MelSpec(melspec_config(self.whole_model, height, width), pool=self._pool)

    def _make_network(self, model: Model, height: int, width: int) -> Any:
        return self._network_with(model, head_dict(model), height, width)

    def _network_with(self, model: Model, head: dict[str, Any], height: int, width: int) -> Any:
        return _C.Network(
            block_dicts(model),
            head,
            height=height,
            width=width,
            precision=self.precision,
            algorithm=self._algorithm,
            pool=self._pool,
        )

    def _release(self) -> None:
        super()._release()
        self._pool = None


def thread_count(threads: int | None, available: int) -> int:
    """The number of threads to use for ``threads`` as a caller gave it; ValueError where it is out of range."""
    if threads is None or threads == 0:
        text = os.environ.get("FCNTAG_NUM_THREADS", "")
        if text:
            if not text.isdigit() or int(text) < 1:
                raise ValueError(f"FCNTAG_NUM_THREADS={text!r}; must be a whole number, at least 1")
            return min(int(text), 1024)
        return available
    if not 1 <= threads <= 1024:
        raise ValueError(f"threads={threads}; allowed: 0 (all available) to 1024")
    return threads
