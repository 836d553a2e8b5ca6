"""mtt-vgg end to end as one writes it for production: soundfile, soxr, a float32 mel in SciPy or NumPy, ONNX Runtime.

Nothing is done twice or converted without need. Mono is (L + R) / 2 in place of a mean over an axis; soxr resamples at
HQ; one mel of the whole track is cut into patches; decode threads overlap, as all these libraries release the GIL.
There are two ways to use the cores. Compare with the faster:

* batched: decode threads in front, batches over several files through one session with all threads;
* per_file: every thread takes a file from start to end, with one-threaded runs of a shared session.
"""

from __future__ import annotations

import importlib.util
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import soundfile
import soxr
from mel_peers import NumpyMel

from fcntag.export.onnx import network_bytes
from fcntag.model.file import Model
from fcntag.reduce import reduce_model

MODES = ("batched", "per_file")
MAX_BATCH = 64


class Pipeline:
    """Files in, scores [n_tags] out, in order.

    ``reduced``: give ONNX Runtime the losslessly reduced network and the cropped patches.
    """

    def __init__(self, model: Model, threads: int, mode: str, reduced: bool = False) -> None:
        if model.document.name not in ("mtt-vgg", "msd-vgg"):
            raise ValueError(f"pipeline: {model.document.name} is not built; built: mtt-vgg, msd-vgg")
        self.threads, self.mode = threads, mode
        self.rate = model.document.frontend.sample_rate
        self.patch_frames = model.document.input_size()[0]
        self.mel = NumpyMel(model, fft="scipy" if importlib.util.find_spec("scipy") else "numpy")
        self.height, self.width = model.document.input_size()
        network = model
        if reduced:
            network, reduction = reduce_model(model)
            self.height, self.width = reduction.input_after
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads if mode == "batched" else 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        # Idle session threads would spin on the cores that decode.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        graph = network_bytes(network, "batch", self.height, self.width)
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def run(self, paths: Sequence[Path]) -> list[np.ndarray]:
        """Scores of every file."""
        with ThreadPoolExecutor(self.threads) as pool:
            if self.mode == "per_file":
                return list(pool.map(lambda path: self.scores(self.patches(path)).mean(axis=0), paths))
            return list(self._batched(pool, paths))

    def patches(self, path: Path) -> np.ndarray:
        """Decode, mix, resample, mel, cut: [n, 1, H, W]."""
        audio, rate = soundfile.read(path, dtype="float32")
        if audio.ndim == 2:
            left, right = audio.T
            audio = np.add(left, right)
            audio *= np.float32(0.5)
        mel = self.mel(soxr.resample(audio, rate, self.rate, quality="HQ"))
        n = len(mel) // self.patch_frames
        patches = mel[: n * self.patch_frames].reshape(n, 1, self.patch_frames, -1)
        return np.ascontiguousarray(patches[:, :, : self.height, : self.width])

    def scores(self, patches: np.ndarray) -> np.ndarray:
        """[n, 1, H, W] -> [n, n_tags]"""
        return self.session.run(None, {"x": patches})[0]

    def _batched(self, pool: ThreadPoolExecutor, paths: Sequence[Path]) -> Iterator[np.ndarray]:
        ahead: deque[Future[np.ndarray]] = deque()
        waiting = iter(paths)
        for path in waiting:
            ahead.append(pool.submit(self.patches, path))
            if len(ahead) == 2 * self.threads:
                break
        while ahead:
            parts: list[np.ndarray] = []
            while ahead and sum(map(len, parts)) < MAX_BATCH and (not parts or ahead[0].done()):
                parts.append(ahead.popleft().result())
                path = next(waiting, None)
                if path is not None:
                    ahead.append(pool.submit(self.patches, path))
            scores = self.scores(np.concatenate(parts))
            ends = np.cumsum([len(part) for part in parts])
            for end, part in zip(ends, parts, strict=True):
                yield scores[end - len(part) : end].mean(axis=0)
