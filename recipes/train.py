#!/usr/bin/env python3
"""Train a network of Choi, Fazekas and Sandler (arXiv:1606.00298), or any model document, on tagged clips.

    python recipes/train.py dataset.csv --network fcn5-narrow --out runs/narrow

As the paper did: Adam, binary cross-entropy, batch-norm, dropout 0.5 after every max-pool, early stopping on the
validation ROC-AUC. --out gets the model file NAME.safetensors, log.json, checkpoint.pt and scores.npz (of the test
clips, PyTorch's and fcntag's). The same command goes on where it was stopped, killed or cut off by --stop-after, and on
one CPU ends in the same bits as an uninterrupted run. Before the model file gets its name, fcntag tags the test clips
with it: scores and ROC-AUC must be PyTorch's.

Exit codes: 0 ok, 1 the model file does not give PyTorch's scores, 2 usage, dataset or document, 75 stopped by
--stop-after: run it again. Needs pip install "fcntag[train]".
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import hashlib
import io
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

try:
    import torch
    from sklearn.metrics import average_precision_score, roc_auc_score
except ImportError as error:
    sys.exit(f'train.py: {error.name} is not installed; it comes with: pip install "fcntag[train]"')

from train_data import Clips, LogMels, Stopped, batches, read_dataset
from train_network import Network, folded, read_document, with_tags
from train_options import make_parser

import fcntag
from fcntag.bench import machine
from fcntag.errors import DeviceError, FcntagError
from fcntag.model.document import Metric, ModelDocument, Source
from fcntag.model.file import read_model, write_atomically, write_model
from fcntag.model.paper import about_network

# A run fails if fcntag's scores or ROC-AUC differ from PyTorch's by more. Both compute the same float32 log-mel and
# network, in which only the folding and the order of the sums differ.
MAX_SCORE_ERROR = 1e-4
MAX_AUC_ERROR = 1e-4
# The exit code of --stop-after, EX_TEMPFAIL: nothing is wrong, and the run is not finished.
STOPPED = 75


def main(arguments: list[str] | None = None) -> int:
    options = make_parser((__doc__ or "").splitlines()[0]).parse_args(arguments)
    try:
        return Training(options).run()
    except FcntagError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    except Stopped:
        print(f"train.py: stopped after {options.stop_after:g} s; run it again to go on", file=sys.stderr)
        return STOPPED


def keep_memory() -> None:
    """Have glibc keep freed memory. A map has 100 MB and more, and asking the kernel for it took half of a step."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX: no block gets a mapping of its own, which would go back when it is freed
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: the heap's end does not go back either


class Training:
    """One run: its data, its network, and its state, which a checkpoint holds."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.deadline = time.monotonic() + options.stop_after if options.stop_after else float("inf")
        self.out = Path(options.out)
        threads = options.threads or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else [1])
        torch.set_num_threads(threads)
        self.threads = threads
        self.device = torch.device(
            options.device if options.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        )
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise DeviceError("--device cuda: PyTorch finds no GPU it can use")
        # cuDNN's fastest gradients add up in any order. On a CPU, a fixed order costs nothing.
        torch.use_deterministic_algorithms(self.device.type == "cpu")
        torch.utils.deterministic.fill_uninitialized_memory = False  # it costs a pass over each map, to find bugs
        torch.manual_seed(options.seed)
        tags, self.splits = read_dataset(options.dataset, options.audio)
        self.document = with_tags(read_document(options.network), tags)
        self.network = Network(self.document, options.dropout).to(self.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=options.lr)
        self.sha256 = hashlib.sha256(Path(options.dataset).read_bytes()).hexdigest()
        self.settings = {
            **{name: getattr(options, name) for name in ("batch", "lr", "dropout", "seed", "bf16")},
            "decay_over": options.epochs if options.decay else 0,
            "dataset_sha256": self.sha256,
            "document": json.loads(self.document.to_json()),
        }
        # The state of the run. With the settings and the files, everything else follows from it.
        self.epoch, self.step, self.loss_sum, self.seconds = 0, 0, 0.0, 0.0
        self.best: dict[str, Any] = {"roc_auc": -1.0, "epoch": -1, "state": None}
        self.log: list[dict[str, Any]] = []

    def run(self) -> int:
        options = self.options
        if options.estimate:
            return self.estimate()
        self.resume()
        cache = Path(options.cache) if options.cache else self.out / "cache"
        self.mels = LogMels(self.document, cache, self.threads)
        for name, clips in self.splits.items():
            self.splits[name] = self.mels.prepare(clips, name, self.deadline)
            if len(clips) and not len(self.splits[name]):
                raise FcntagError(f"{options.dataset}: no clip of the split {name} can be read")
        if self.network.affine and self.epoch == self.step == 0:
            normalization = self.document.frontend.normalization
            self.network.standardize(*self.mels.statistics(self.splits["train"], normalization))
        while self.epoch < options.epochs and self.epoch - self.best["epoch"] <= options.patience:
            self.train_epoch()
        return self.finish()

    # ---- one epoch ----

    def train_epoch(self) -> None:
        """The rest of the current epoch, its validation, and a checkpoint."""
        options, clips = self.options, self.splits["train"]
        rng = np.random.default_rng([options.seed, self.epoch])
        draws = list(zip(rng.permutation(len(clips)).tolist(), rng.random(len(clips)).tolist(), strict=True))
        # A last batch that is not full is left out: of a single 1 x 1 map, a batch-norm has no variance.
        n_steps = max(1, len(draws) // options.batch)
        draws = draws[self.step * options.batch : n_steps * options.batch]
        started = saved = time.monotonic()
        before = self.seconds
        self.network.train()
        for x, y in batches(self.mels, clips, draws, options.batch):
            if options.decay:
                left = 1 - (self.epoch + self.step / n_steps) / options.epochs
                self.optimizer.param_groups[0]["lr"] = options.lr * left
            # Dropout's draws follow from the step alone, so that a run may be cut anywhere.
            torch.manual_seed(int(np.random.SeedSequence([options.seed, self.epoch, self.step]).generate_state(1)[0]))
            self.loss_sum += self.train_step(torch.from_numpy(x), torch.from_numpy(y))
            self.step += 1
            now = time.monotonic()
            self.seconds = before + now - started
            if now >= self.deadline:
                self.save()
                raise Stopped
            if now - saved >= options.checkpoint_every:
                self.save()
                saved = now
        scores = self.scores(self.splits["validation"])
        entry = {"epoch": self.epoch, "loss": self.loss_sum / n_steps, **figures(self.splits["validation"], scores)}
        entry["seconds"] = before + time.monotonic() - started
        self.log.append(entry)
        print(
            f"epoch {self.epoch}: loss {entry['loss']:.4f}, validation ROC-AUC {entry['roc_auc']:.4f}, "
            f"PR-AUC {entry['pr_auc']:.4f}, {entry['seconds']:.0f} s",
            file=sys.stderr,
            flush=True,
        )
        if entry["roc_auc"] > self.best["roc_auc"]:
            state = {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}
            self.best = {"roc_auc": entry["roc_auc"], "epoch": self.epoch, "state": state}
        self.epoch, self.step, self.loss_sum, self.seconds = self.epoch + 1, 0, 0.0, 0.0
        self.save()
        if time.monotonic() >= self.deadline:
            raise Stopped

    def train_step(self, x: torch.Tensor, y: torch.Tensor) -> float:
        x, y = x.to(self.device), y.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.bf16):
            logits = self.network(x)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), y)
        if not torch.isfinite(loss):
            raise FcntagError(f"epoch {self.epoch}, step {self.step}: the loss is {loss.item()}; try a lower --lr")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def scores(self, clips: Clips) -> np.ndarray:
        """Float32 scores [n_clips, n_tags]: the mean over each clip's windows, as fcntag tags it."""
        self.network.eval()
        rows = []
        with torch.inference_mode():
            for path in clips.paths:
                x = torch.from_numpy(self.mels.load(path))
                parts = [self.network(part.to(self.device)).sigmoid() for part in x.split(self.options.batch)]
                rows.append(torch.cat(parts).double().mean(0).cpu().numpy())
        return np.array(rows, np.float32)

    # ---- checkpoints and the log ----

    def save(self) -> None:
        checkpoint = {
            "settings": json.dumps(self.settings, sort_keys=True),
            "position": [self.epoch, self.step, self.loss_sum, self.seconds],
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "log": self.log,
        }
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_atomically(self.out / "checkpoint.pt", buffer.getvalue())
        self.write_log()

    def resume(self) -> None:
        """Go on from the checkpoint in --out, if there is one. One of other settings is refused."""
        path = self.out / "checkpoint.pt"
        if not path.exists():
            return
        try:
            checkpoint = torch.load(path, map_location=self.device, weights_only=True)
            settings = json.loads(checkpoint["settings"])
        except Exception as error:  # torch.load may raise anything on a damaged file
            raise FcntagError(f"{path}: not a checkpoint of this recipe: {error!s:.80}") from None
        changed = sorted(name for name in self.settings if settings.get(name) != self.settings[name])
        if changed:
            raise FcntagError(f"{path}: made with another {', '.join(changed)}; choose another --out, or remove it")
        self.network.load_state_dict(checkpoint["network"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.epoch, self.step, self.loss_sum, self.seconds = checkpoint["position"]
        self.best, self.log = checkpoint["best"], checkpoint["log"]

    def write_log(self, **more: Any) -> None:
        data = {
            "environment": {**machine.environment(self.threads), "torch": torch.__version__, "device": self._device()},
            "settings": self.settings,
            "clips": {name: len(clips) for name, clips in self.splits.items()},
            "parameters": sum(p.numel() for p in self.network.parameters()),
            "epochs": self.log,
            "best_epoch": self.best["epoch"],
            **more,
        }
        write_atomically(self.out / "log.json", (json.dumps(data, indent=1) + "\n").encode())

    # ---- the end ----

    def finish(self) -> int:
        """Write the best epoch's model file, and give it its name if fcntag computes PyTorch's scores with it."""
        if self.best["state"] is None:
            raise FcntagError("no epoch was trained: --epochs must be at least 1")
        self.network.load_state_dict(self.best["state"])
        split = "test" if len(self.splits["test"]) else "validation"
        clips = self.splits[split]
        expected = self.scores(clips)
        found = figures(clips, expected)
        document, tensors = folded(self.network, self.described(split, found))
        path = self.out / f"{document.name}.safetensors"
        unchecked = self.out / f"{document.name}.unchecked.safetensors"
        write_model(unchecked, document, tensors)
        actual = engine_scores(unchecked, clips, self.threads)
        check = compare(clips, actual, expected)
        buffer = io.BytesIO()
        folder = self.options.audio or Path(self.options.dataset).parent
        paths = [os.path.relpath(clip, folder) for clip in clips.paths]
        np.savez_compressed(
            buffer, paths=paths, tags=document.tags, labels=clips.labels, pytorch=expected, fcntag=actual
        )
        write_atomically(self.out / "scores.npz", buffer.getvalue())
        self.write_log(**{split: found}, check=check)
        print(
            f"{split}: ROC-AUC {found['roc_auc']:.4f}, PR-AUC {found['pr_auc']:.4f}; fcntag's scores differ by "
            f"{check['max_abs_error']:.1e}, its ROC-AUC by {check['roc_auc_error']:.1e}",
            file=sys.stderr,
        )
        if not check["passed"]:
            print(f"train.py: {unchecked}: fcntag does not compute PyTorch's scores with it", file=sys.stderr)
            return 1
        os.replace(unchecked, path)
        print(path)
        return 0

    def described(self, split: str, found: dict[str, Any]) -> ModelDocument:
        options, counts = self.options, {name: len(clips) for name, clips in self.splits.items()}
        dataset = options.dataset_name or Path(options.dataset).stem
        base = self.document.name
        decay = f" falling to 0 over {options.epochs} epochs" if options.decay else ""
        notes = [
            f"Trained by recipes/train.py of fcntag {fcntag.__version__} with PyTorch {torch.__version__}: Adam, "
            f"learning rate {options.lr:g}{decay}, batches of {options.batch}, dropout {options.dropout:g}, seed "
            f"{options.seed}; epoch {self.best['epoch'] + 1} of {self.epoch}, the best on the validation clips.",
            f"Clips: {counts['train']} to train, {counts['validation']} to validate, {counts['test']} to test.",
        ]
        return dataclasses.replace(
            self.document,
            name=options.name or f"{base}-{dataset}",
            description=f"The network {base}, trained on {dataset}",
            licence=options.licence,
            licence_notice="",
            training_data=options.training_data or dataset,
            source=Source(
                url="",
                sha256=self.sha256,
                file=Path(options.dataset).name,
                authors=options.authors,
                note="The list of clips that it was trained on; there is no original checkpoint.",
            ),
            metrics=(
                Metric(dataset=f"{dataset}, {split}", name="ROC-AUC", value=found["roc_auc"], by="recipes/train.py"),
                Metric(dataset=f"{dataset}, {split}", name="PR-AUC", value=found["pr_auc"], by="recipes/train.py"),
            ),
            notes=(*notes, *about_network(self.document.notes)),
        ).validate()

    def estimate(self) -> int:
        """Print the time of a step, an epoch and all epochs, from the median of some steps on random input."""
        batch, n_tags = self.options.batch, len(self.document.tags)
        rng = np.random.default_rng(0)
        x = torch.from_numpy(rng.standard_normal((batch, *self.document.input_size()), np.float32))
        y = torch.from_numpy(rng.integers(0, 2, (batch, n_tags)).astype(np.float32))
        self.network.train()
        self.train_step(x, y)  # gets memory, and has oneDNN or cuDNN choose its kernels
        samples = []
        while len(samples) < 3 or (sum(samples) < 5 and len(samples) < 50):
            started = time.perf_counter()
            self.train_step(x, y)
            samples.append(time.perf_counter() - started)
        self.network.eval()
        with torch.inference_mode():
            started = time.perf_counter()
            self.network(x.to(self.device)).cpu()
            evaluation = time.perf_counter() - started
        step = float(np.median(samples))
        epoch = step * max(1, len(self.splits["train"]) // batch) + evaluation * len(self.splits["validation"]) / batch
        found = {
            "network": self.document.name,
            "device": self._device(),
            "threads": self.threads,
            "batch": batch,
            "bf16": self.options.bf16,
            "step_s": step,
            "clips_per_s": batch / step,
            "evaluation_clip_s": evaluation / batch,
            "epoch_s": epoch,
            "all_epochs_s": epoch * self.options.epochs,
        }
        print(json.dumps({k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in found.items()}))
        return 0

    def _device(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"


def figures(clips: Clips, scores: np.ndarray) -> dict[str, Any]:
    """ROC-AUC and PR-AUC, means over the tags that some clips have and others lack; 0 if there are no such tags."""
    mixed = [k for k, column in enumerate(clips.labels.T) if 0 < column.sum() < len(column)]
    if not mixed:
        return {"roc_auc": 0.0, "pr_auc": 0.0, "n_tags": 0}
    y, p = clips.labels[:, mixed], scores[:, mixed]
    return {
        "roc_auc": float(np.mean([roc_auc_score(y[:, k], p[:, k]) for k in range(len(mixed))])),
        "pr_auc": float(np.mean([average_precision_score(y[:, k], p[:, k]) for k in range(len(mixed))])),
        "n_tags": len(mixed),
    }


def engine_scores(model: Path, clips: Clips, threads: int) -> np.ndarray:
    """Scores [n_clips, n_tags] as a user gets them: the model file, read back, on the sound files."""
    with fcntag.Tagger(read_model(model), threads=threads) as tagger:
        return np.array([result.scores for result in tagger.tag_many(clips.paths, on_error="raise")])


def compare(clips: Clips, actual: np.ndarray, expected: np.ndarray) -> dict[str, Any]:
    """The differences between two computations of the clips' scores, and whether they are within the limits."""
    error = float(np.abs(actual.astype(np.float64) - expected).max())
    roc_auc = figures(clips, actual)["roc_auc"]
    auc_error = abs(roc_auc - figures(clips, expected)["roc_auc"])
    passed = error <= MAX_SCORE_ERROR and auc_error < MAX_AUC_ERROR  # False for NaN
    return {"max_abs_error": error, "roc_auc": roc_auc, "roc_auc_error": auc_error, "passed": passed}


if __name__ == "__main__":
    keep_memory()  # concerns the whole process, so main() leaves it to the program that calls it
    sys.exit(main())
