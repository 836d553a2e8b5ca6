"""Tagged clips from a CSV file, and their log-mels on disk as fcntag's own front end computes them."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import fcntag
from fcntag.audio import open_track
from fcntag.engine import create_engine
from fcntag.errors import AudioError, FcntagError
from fcntag.eval.datasets.plain import SPLITS
from fcntag.model.document import Block, Head, ModelDocument
from fcntag.model.file import Model, write_atomically
from fcntag.pipeline.decode import read_windows
from fcntag.pipeline.segments import plan_segments

# The normalizations whose tensors come from the training data.
AFFINE = ("scalar", "per_mel", "per_frame")


class DatasetError(FcntagError, ValueError):
    """A dataset's CSV file is unreadable or inconsistent; the message names it, the line and the value."""


class Stopped(Exception):
    """The given time is over. All work so far is on disk."""


@dataclass(frozen=True)
class Clips:
    """Clips of one split."""

    paths: list[str]
    labels: np.ndarray  # float32 [n_clips, n_tags], 0 or 1

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, keep: list[int]) -> Clips:
        return Clips([self.paths[i] for i in keep], self.labels[keep])


def read_dataset(path: str, audio: str | None) -> tuple[tuple[str, ...], dict[str, Clips]]:
    """Tags, and the clips of "train", "validation" and "test", of a CSV file in one of two forms.

    ``path,split,rock,jazz`` and then 0 or 1 a tag; or ``path,split,tags`` and then as many tags as a clip has, one a
    field or separated by ``;``. Paths start at the folder ``audio`` (None: that of the CSV file). A path may not be in
    two splits. Raises DatasetError.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [(number, row) for number, row in enumerate(csv.reader(file), 1) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from None
    header = [field.strip() for field in rows[0][1]] if rows else []
    if [name.lower() for name in header[:2]] != ["path", "split"] or len(header) < 3:
        raise DatasetError(f"{path}: line 1: the header must be path,split,TAG,TAG,... or path,split,tags")
    lists = len(header) == 3 and header[2].lower() in ("tag", "tags")
    found: dict[str, tuple[str, set[str]]] = {}
    for number, row in rows[1:]:
        where = f"{path}: line {number}"
        if not lists and len(row) != len(header):
            raise DatasetError(f"{where}: {len(row)} fields; {len(header)} expected")
        split = SPLITS.get(row[1].strip().lower() if len(row) > 1 else "")
        if split is None:
            raise DatasetError(f"{where}: split {row[1:2]} is not one of {', '.join(SPLITS)}")
        if row[0] in found:
            raise DatasetError(f"{where}: {row[0]!r} appears twice")
        if lists:
            names = {name.strip() for field in row[2:] for name in field.split(";")} - {""}
        else:
            bad = next((value for value in row[2:] if value.strip() not in ("0", "1")), None)
            if bad is not None:
                raise DatasetError(f"{where}: {bad!r} is not 0 or 1")
            names = {name for name, value in zip(header[2:], row[2:], strict=True) if value.strip() == "1"}
        found[row[0]] = (split, names)
    tags = sorted(set().union(*(names for _, names in found.values()))) if lists else header[2:]
    if not tags or len(set(tags)) != len(tags):
        raise DatasetError(f"{path}: {'no tags' if not tags else 'a tag appears twice in the header'}")
    folder = Path(path).parent if audio is None else Path(audio)
    column = {tag: k for k, tag in enumerate(tags)}
    splits = {}
    for split in ("train", "validation", "test"):
        paths = [name for name, (its, _) in found.items() if its == split]
        labels = np.zeros((len(paths), len(tags)), np.float32)
        for i, name in enumerate(paths):
            labels[i, [column[tag] for tag in found[name][1]]] = 1
        splits[split] = Clips([str(folder / name) for name in paths], labels)
    for split in ("train", "validation"):
        if len(splits[split]) < 2:  # one has neither a variance nor an AUC
            raise DatasetError(f"{path}: {len(splits[split])} clips have the split {split}; at least 2 are needed")
    return tuple(tags), splits


class LogMels:
    """Log-mels of clips [n_windows, H, W], one .npy file each, made once for a front end, segmenting and version.

    The windows are those that tagging takes. input.scale and input.shift, which the training data decide, are not
    applied, so that networks that differ only in these share the files.
    """

    def __init__(self, document: ModelDocument, folder: Path, threads: int) -> None:
        normalization = document.frontend.normalization
        frontend = dataclasses.replace(
            document.frontend, normalization="none" if normalization in AFFINE else normalization
        )
        # The engine computes log-mels for whole models; this one has next to no network.
        one = Block(kernel=1, in_channels=1, out_channels=1, activation="none")
        head = Head(flatten="max", in_features=1)
        self._document = dataclasses.replace(
            document, tags=("tag",), frontend=frontend, blocks=(one,), head=head, variants=()
        ).validate()
        key = [dataclasses.asdict(part) for part in (frontend, document.segments)]
        text = json.dumps([fcntag.__version__, key], sort_keys=True)
        self.folder = folder / f"logmel-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        self._threads = threads

    def prepare(self, clips: Clips, say: str, deadline: float = float("inf")) -> Clips:
        """Compute the log-mels that are missing; return the clips that can be read, and name the others on stderr.

        Raises Stopped at ``deadline``, in time.monotonic()'s seconds.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = [i for i in range(len(clips)) if not self._file(clips.paths[i]).exists()]
        bad: set[int] = set()
        if missing:
            print(f"{say}: log-mels of {len(missing)} clips", file=sys.stderr, flush=True)
            tensors = {name: np.zeros(shape, np.float32) for name, shape in self._document.tensor_shapes().items()}
            model = Model(self._document, tensors, sha256="", path="")
            with create_engine(model, threads=1) as engine, ThreadPoolExecutor(self._threads) as pool:
                jobs = ((i, clips.paths[i]) for i in missing)
                for i, waves in _ahead(pool, lambda job: (job[0], self._decode(job[1])), jobs, 4 * self._threads):
                    if isinstance(waves, FcntagError):
                        print(f"left out: {waves}", file=sys.stderr, flush=True)
                        bad.add(i)
                        continue
                    buffer = io.BytesIO()
                    np.save(buffer, np.concatenate([engine.log_mel(waves[k : k + 1]) for k in range(len(waves))]))
                    write_atomically(self._file(clips.paths[i]), buffer.getvalue())
                    if time.monotonic() >= deadline:
                        raise Stopped
        return clips.take([i for i in range(len(clips)) if i not in bad])

    def load(self, path: str) -> np.ndarray:
        """Log-mels float32 [n_windows, H, W] of a clip that was prepared."""
        return np.load(self._file(path))

    def statistics(self, clips: Clips, normalization: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation over the clips in float64: [1], [n_mels] or [n_frames]."""
        mel_first = self._document.frontend.time_axis == 1
        axis = {"scalar": None, "per_mel": 1 if mel_first else 2, "per_frame": 2 if mel_first else 1}[normalization]
        count, total, squares = 0, 0.0, 0.0
        for path in clips.paths:
            x = self.load(path).astype(np.float64)
            others = tuple(k for k in range(3) if k != axis)
            count += x.size // (1 if axis is None else x.shape[axis])
            total = total + x.sum(others)
            squares = squares + (x * x).sum(others)
        mean = np.atleast_1d(total / count)
        return mean, np.sqrt(np.maximum(np.atleast_1d(squares / count) - mean**2, 1e-8))

    def _decode(self, path: str) -> np.ndarray | FcntagError:
        frontend = self._document.frontend
        try:
            with open_track(path) as track:
                plan = plan_segments(self._document.segments, frontend, track.length(frontend.sample_rate))
                return np.stack(list(read_windows(track, plan)))
        except AudioError as error:
            return error
        except OSError as error:
            return AudioError(f"{path}: {error}")

    def _file(self, path: str) -> Path:
        try:
            status = os.stat(path)
            identity = f"{os.path.abspath(path)}\0{status.st_size}\0{status.st_mtime_ns}"
        except OSError:
            identity = path  # decoding will say what is wrong
        return self.folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:24]}.npy"


def batches(
    mels: LogMels, clips: Clips, draws: Sequence[tuple[int, float]], size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Log-mels [B, H, W] and labels [B, n_tags], read two batches ahead.

    A draw is a clip's index and a place 0 <= u < 1 in it: of n windows it takes number floor(n u).
    """

    def read(group: Sequence[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
        rows = []
        for index, where in group:
            windows = mels.load(clips.paths[index])
            rows.append(windows[int(where * len(windows))])
        return np.stack(rows), clips.labels[[index for index, _ in group]]

    with ThreadPoolExecutor(1) as pool:
        yield from _ahead(pool, read, (draws[k : k + size] for k in range(0, len(draws), size)), 2)


def _ahead(pool: ThreadPoolExecutor, function: Callable[[Any], Any], items: Iterable[Any], depth: int) -> Iterator[Any]:
    """``map`` in a pool that runs at most ``depth`` items ahead of the caller."""
    waiting = []
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > depth:
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()
