"""What the float64 oracle says of the cases of benchmarks/gpu/correctness.py: computed on the spot, or stored.

A run on a lent GPU has no minute for the oracle, so ``make_oracle.py`` stores its values: scores and logits as they
are, and of every map a sketch. A sketch adds the map's values, each with a random sign, to a few hundred sums. The
sketch of a difference has about the norm of that difference, so every element of the map counts.

Stored values belong to inputs: a digest of the weights and of the inputs stands beside them. Where a digest does not
fit (another version of NumPy may draw other random numbers), the oracle computes that case, if numba is there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from gpu import cases
from gpu.measurements import relative_l2

from fcntag.model.file import Model

STORED = Path(__file__).resolve().parent / "oracle.safetensors"
# The version of the file's layout, and of the inputs that ``cases`` makes.
FORMAT = "1"
# Sums of a sketch. The norm of a difference is estimated to 1 / sqrt(2 * SUMS) of itself, 4 %.
SUMS = 256
# The precisions that round: the oracle's own error with maps and weights of that type is part of a reference.
ROUNDED = ("tf32", "float16", "bfloat16")


def sketch(values: np.ndarray) -> np.ndarray:
    """Sums [SUMS] of the values [...] with random signs, in float64; the signs and places depend on the size alone."""
    flat = np.asarray(values, np.float64).ravel()
    # NumPy promises the bits of the generator itself, and of nothing that is drawn from it.
    bits = np.random.PCG64(flat.size).random_raw(-(-flat.size // 4)).view(np.uint16)[: flat.size]
    return np.bincount(bits % SUMS, np.where(bits & 0x8000, flat, -flat), SUMS)


class Maps(Protocol):
    """Values of the oracle that an engine's can be compared with."""

    def relative_l2(self, actual: np.ndarray) -> float:
        """||actual - expected|| / ||expected||; infinite for another shape or a value that is not finite."""


@dataclass(frozen=True)
class WholeMaps:
    """The values themselves."""

    values: np.ndarray

    def relative_l2(self, actual: np.ndarray) -> float:
        """See Maps."""
        return relative_l2(actual, self.values)


@dataclass(frozen=True)
class SketchedMaps:
    """Shape, norm and sketch of the values."""

    shape: tuple[int, ...]
    norm: float
    sums: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> SketchedMaps:
        """The sketch that is stored of ``values``."""
        return cls(values.shape, float(np.linalg.norm(values)), sketch(values))

    def relative_l2(self, actual: np.ndarray) -> float:
        """See Maps; estimated."""
        if actual.shape != self.shape or not np.isfinite(actual).all():
            return float("inf")
        error = float(np.linalg.norm(sketch(actual) - self.sums))
        return error / self.norm if self.norm else (0.0 if error == 0 else float("inf"))


@dataclass(frozen=True)
class NetworkReference:
    """A network's maps block by block, its logits [B, n_tags], and what rounding alone does to the maps.

    ``rounded(precision)`` is the relative L2 of every block's maps with maps and weights rounded to that type.
    """

    maps: list[Maps]
    logits: np.ndarray
    rounded: Callable[[str], list[float]]


class References(Protocol):
    """Where the expected values of a case come from. ``name`` is the case's, and each method has names of its own."""

    def network(self, name: str, model: Model, x: np.ndarray) -> NetworkReference:
        """Of network inputs x [B, H, W]."""

    def log_mel(self, name: str, model: Model, waves: np.ndarray) -> Maps:
        """Network inputs of waves [B, n_samples]."""

    def scores(self, name: str, model: Model, waves: np.ndarray, made_of: np.ndarray | None = None) -> np.ndarray:
        """Scores [B, n_tags] of waves [B, n_samples]; ``made_of``: what these waves were computed from, if anything.

        A computation's last bits may differ from machine to machine, so stored scores are known by what they are of.
        """


class Computed:
    """The oracle, now. Making one raises ImportError, with the command that helps, where numba cannot be imported."""

    def __init__(self) -> None:
        from fcntag import oracle

        self.oracle = oracle

    def network(self, name: str, model: Model, x: np.ndarray) -> NetworkReference:
        """See References."""
        del name
        maps = self.oracle.blocks(model, x)

        def rounded(precision: str) -> list[float]:
            found = cases.rounded_blocks(model, x, precision)
            return [relative_l2(r, m) for r, m in zip(found, maps, strict=True)]

        return NetworkReference([WholeMaps(m) for m in maps], cases.logits_of(model, maps[-1]), rounded)

    def log_mel(self, name: str, model: Model, waves: np.ndarray) -> Maps:
        """See References."""
        del name
        return WholeMaps(self.oracle.network_input(model, waves))

    def scores(self, name: str, model: Model, waves: np.ndarray, made_of: np.ndarray | None = None) -> np.ndarray:
        """See References."""
        del name, made_of
        return self.oracle.scores(model, waves)


class Stored:
    """The values of ``STORED``. ``recomputed`` names the cases that it does not have, which the oracle computed."""

    def __init__(self, path: Path = STORED) -> None:
        from safetensors import safe_open

        self.tensors: dict[str, np.ndarray] = {}
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"{path}: format {metadata.get('format')!r}; this version reads {FORMAT!r}")
            for key in file.keys():  # noqa: SIM118 (no mapping)
                self.tensors[key] = file.get_tensor(key)
        self.recomputed: list[str] = []
        self._computed: Computed | None = None

    def _oracle(self, name: str) -> Computed:
        """The oracle, for a case without stored values."""
        self.recomputed.append(name)
        if self._computed is None:
            self._computed = Computed()
        return self._computed

    def _has(self, key: str, model: Model, inputs: np.ndarray) -> bool:
        found = self.tensors.get(f"{key}: digest")
        return found is not None and found.tobytes() == digest(model, inputs).tobytes()

    def _maps(self, key: str) -> SketchedMaps:
        shape = tuple(int(n) for n in self.tensors[f"{key}: shape"])
        return SketchedMaps(shape, float(self.tensors[f"{key}: norm"][0]), self.tensors[f"{key}: sums"])

    def network(self, name: str, model: Model, x: np.ndarray) -> NetworkReference:
        """See References."""
        key = f"network {name}"
        if not self._has(key, model, x):
            return self._oracle(name).network(name, model, x)
        maps: list[Maps] = [self._maps(f"{key}: block {i + 1}") for i in range(len(model.document.blocks))]
        errors = dict(zip(ROUNDED, self.tensors[f"{key}: rounded"], strict=True))
        return NetworkReference(maps, self.tensors[f"{key}: logits"], lambda precision: errors[precision].tolist())

    def log_mel(self, name: str, model: Model, waves: np.ndarray) -> Maps:
        """See References."""
        key = f"log-mel {name}"
        return self._maps(key) if self._has(key, model, waves) else self._oracle(name).log_mel(name, model, waves)

    def scores(self, name: str, model: Model, waves: np.ndarray, made_of: np.ndarray | None = None) -> np.ndarray:
        """See References."""
        found = self.known_scores(name, model, waves if made_of is None else made_of)
        return self._oracle(name).scores(name, model, waves) if found is None else found

    def known_scores(self, name: str, model: Model, inputs: np.ndarray) -> np.ndarray | None:
        """The stored scores of a case; None where there are none of these weights and inputs."""
        key = f"scores {name}"
        return self.tensors[f"{key}: scores"] if self._has(key, model, inputs) else None


class Recorder(Computed):
    """The oracle, and everything that it was asked for as the tensors of ``STORED``."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: dict[str, np.ndarray] = {}

    def _add_maps(self, key: str, maps: Maps) -> None:
        assert isinstance(maps, WholeMaps)
        found = SketchedMaps.of(maps.values)
        self.tensors[f"{key}: shape"] = np.array(found.shape, np.int64)
        self.tensors[f"{key}: norm"] = np.array([found.norm])
        self.tensors[f"{key}: sums"] = found.sums.astype(np.float32)

    def network(self, name: str, model: Model, x: np.ndarray) -> NetworkReference:
        """See References."""
        found, key = super().network(name, model, x), f"network {name}"
        for i, maps in enumerate(found.maps):
            self._add_maps(f"{key}: block {i + 1}", maps)
        self.tensors[f"{key}: digest"] = digest(model, x)
        self.tensors[f"{key}: logits"] = found.logits
        self.tensors[f"{key}: rounded"] = np.array([found.rounded(precision) for precision in ROUNDED])
        return found

    def log_mel(self, name: str, model: Model, waves: np.ndarray) -> Maps:
        """See References."""
        found = super().log_mel(name, model, waves)
        self.tensors[f"log-mel {name}: digest"] = digest(model, waves)
        self._add_maps(f"log-mel {name}", found)
        return found

    def scores(self, name: str, model: Model, waves: np.ndarray, made_of: np.ndarray | None = None) -> np.ndarray:
        """See References."""
        found = super().scores(name, model, waves)
        self.tensors[f"scores {name}: digest"] = digest(model, waves if made_of is None else made_of)
        self.tensors[f"scores {name}: scores"] = found
        return found


def digest(model: Model, inputs: np.ndarray) -> np.ndarray:
    """16 bytes that no other network, front end, weights and inputs have."""
    document = model.document
    computes = (document.frontend, document.segments.n_samples, document.blocks, document.head)
    found = hashlib.sha256(repr(computes).encode())
    for name in sorted(model.tensors):
        found.update(f"{name} {model.tensors[name].shape}".encode())
        found.update(np.ascontiguousarray(model.tensors[name]).tobytes())
    found.update(str(inputs.shape).encode() + np.ascontiguousarray(inputs).tobytes())
    return np.frombuffer(found.digest()[:16], np.uint8).copy()


def write(path: Path, tensors: Mapping[str, Any]) -> None:
    """Write a Recorder's tensors."""
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path, {"format": FORMAT})
