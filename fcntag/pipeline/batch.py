"""Batches: windows of one length, from as many tracks as are ready, on their way through one function."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from .decode import Job

    Function = Callable[[np.ndarray], np.ndarray]  # float32 [B, n_samples] -> [B, K]


# Bytes of one batch. ``max_batch`` suits windows of some seconds; fewer long windows already fill every core or GPU.
BATCH_BYTES = 128 << 20


class Batch:
    """Windows of one length on their way through ``function``."""

    def __init__(self, function: Function, max_batch: int) -> None:
        self._function, self._max_batch = function, max_batch
        self._buffer: np.ndarray | None = None  # [rows, n_samples], kept from batch to batch
        self._rows: list[tuple[Job, int, int]] = []  # job, its plan's number, first row
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, job: Job, window: np.ndarray) -> None:
        """Copy one window in, running the batch first where it is full or of another length."""
        import numpy as np

        n_samples = len(window)
        if self._buffer is None or self._buffer.shape[1] != n_samples:
            self.run()
            rows = max(1, min(self._max_batch, BATCH_BYTES // (4 * n_samples)))
            self._buffer = np.empty((rows, n_samples), np.float32)
        if self._count == len(self._buffer):
            self.run()
        if not self._rows or self._rows[-1][:2] != (job, job.plans):
            self._rows.append((job, job.plans, self._count))
        self._buffer[self._count] = window
        self._count += 1
        job.waiting += 1

    def run(self) -> None:
        """Send what is there through the function and hand the values to their jobs."""
        if not self._count:
            return
        assert self._buffer is not None
        values = self._function(self._buffer[: self._count])
        ends = [first for _, _, first in self._rows[1:]] + [self._count]
        for (job, plans, first), end in zip(self._rows, ends, strict=True):
            job.waiting -= end - first
            if plans == job.plans:
                job.parts.append(values[first:end])
        self._rows.clear()
        self._count = 0
