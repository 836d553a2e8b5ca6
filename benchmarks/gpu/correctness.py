"""Everything that the CUDA engine computes, on the hardware at hand, against the float64 oracle.

``check()`` gives a row for each measurement: case, precision, value, and the largest value allowed. The script needs
NumPy and numba, and no sound library; with ``--stored`` not even numba. With ``core``, a small part of the cases runs
on the emulator.

    export PYTHONPATH=.:tests
    python benchmarks/gpu/correctness.py [--json FILE] [--minutes M]     all of it
    python benchmarks/gpu/correctness.py --stored                        all of it, with the oracle's stored values
    python benchmarks/gpu/correctness.py --smoke                         the scores of two models, by stored values
    python benchmarks/gpu/correctness.py --once                          every kernel once, for compute-sanitizer
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gpu import cases
from gpu.cases import NETWORKS, ONCE, PRECISIONS, SMALL, WHOLE
from gpu.measurements import Measurements, Save, max_abs, relative_l2, unequal
from gpu.record import replace_file
from gpu.references import Computed, NetworkReference, References, Stored

from fcntag.catalogue.names import load_any
from fcntag.engine.cuda import CudaEngine

# A measurement above its limit fails, and with it the run. docs/numerics.md lists these limits.
# Differences of sigmoid scores on real audio. Where the largest logit is above 1, the limit is as many times larger.
SCORES = {"float32": 1e-5, "tf32x3": 1e-5, "tf32": 1e-3, "float16": 2e-3, "bfloat16": 1e-2}
# Relative L2 of a block's maps: five blocks add independent errors of 1e-6 each.
FLOAT32_BLOCKS = 3e-6
# The other types may have twice the error that the oracle's own arithmetic has with maps and weights rounded to that
# type, and the floor on top.
ROUNDED_FACTOR, ROUNDED_FLOOR = 2.0, 1e-6
# Relative L2 of the log-mel. The float32 engine transforms in double precision, the others in float, here on sounds
# without silent bands. Where a document rounds the power to float16, its last bit may fall either way.
LOG_MEL = {"float32": 2e-6, "other": 2e-5, "float16 power": 2e-4}
# Differences of scores from PCM, every sample of which was rounded to float32 twice.
RESAMPLED = 1e-4
# Relative L2 of MFCCs.
MFCC = 1e-5


# The models and precisions of the smoke test: what a run is for, and the float32 that others are compared with.
SMOKE = ("fcn5-narrow", "fcn4")
SMOKE_PRECISIONS = ("bfloat16", "float32")
# Their scores must be the same bits whenever a case is run again. Models of which that is checked:
SAME_BITS = ("fcn4", "fcn5-narrow", "mtt-vgg")


class Checker(Measurements):
    """The cases: each runs the engine on an input, and measures how far it is from what ``references`` say."""

    references: References

    # ---- networks ----

    def network(self, name: str, model: Any, x: np.ndarray, batches: tuple[int, ...] = (1,)) -> None:
        """Blocks, logits and scores of network inputs x [B, H, W] in every precision; other batches bit for bit."""
        try:
            reference = self.references.network(name, model, x)
        except Exception as error:
            self.add(name, "oracle", "no error", float("inf"), 0.0, f"{type(error).__name__}: {error}")
            return
        for precision in (*self.precisions, *(["tf32x3"] if "tf32" in self.precisions else [])):
            with self.case(name, precision) as there_is_time:
                if there_is_time:
                    self.one_network(name, model, precision, x, reference, batches)

    def one_network(
        self,
        name: str,
        model: Any,
        precision: str,
        x: np.ndarray,
        reference: NetworkReference,
        batches: tuple[int, ...],
    ) -> None:
        allowed = [FLOAT32_BLOCKS] * len(reference.maps)
        if precision not in ("float32", "tf32x3"):
            allowed = [ROUNDED_FACTOR * error + ROUNDED_FLOOR for error in reference.rounded(precision)]
        logits = reference.logits
        expected = cases.sigmoid(logits)
        scale = max(1.0, float(np.abs(logits).max()))
        # tf32x3 is float32 computed by three products of tf32 parts: an algorithm, and no precision of its own.
        how = {"algorithm": "tf32x3"} if precision == "tf32x3" else {"precision": precision}
        with CudaEngine(model, max_batch=max(len(x), *batches), **how) as engine:
            for i, (ours, theirs) in enumerate(zip(engine.blocks(x), reference.maps, strict=True)):
                self.add(name, precision, f"block {i + 1}, relative L2", theirs.relative_l2(ours), allowed[i])
            scores = engine.scores_of(x)
            self.add(name, precision, "scores, maximum", max_abs(scores, expected), scale * SCORES[precision])
            self.add(name, precision, "logits, relative L2", relative_l2(engine.logits(x), logits), 2 * max(allowed))
            for batch in batches:
                many = np.ascontiguousarray(np.resize(x, (batch, *x.shape[1:])))
                again = np.resize(scores, (batch, scores.shape[1]))
                self.add(
                    name, precision, f"batch {batch}, values of other bits", unequal(engine.scores_of(many), again), 0
                )
                for plan in engine.describe_plan(batch):
                    kernel = tuple(plan[key] for key in ("rows", "channels", "threads", "split"))
                    self.plans.add((precision, *kernel))

    # ---- front ends ----

    def front_end(self, name: str, model: Any) -> None:
        """Log-mel of sounds, by the engines whose transforms are in double and in float."""
        waves = cases.sounds(name, model, 3)
        rounded = model.document.frontend.rounding == "float16"
        for precision in [p for p in self.precisions if p in ("float32", "float16")]:
            with self.case(name, precision) as there_is_time:
                if there_is_time:
                    expected = self.references.log_mel(name, model, waves)
                    with CudaEngine(model, precision=precision, max_batch=len(waves)) as engine:
                        ours = engine.log_mel(waves)
                    limit = LOG_MEL["float16 power" if rounded else "float32" if precision == "float32" else "other"]
                    self.add(name, precision, "log-mel, relative L2", expected.relative_l2(ours), limit)

    def pcm(self, model: Any) -> None:
        """Scores from PCM at other rates, which the GPU mixes and resamples."""
        for name, own, pcm, mono in cases.pcm_sounds(model):
            with self.case(name, "float32") as there_is_time:
                if there_is_time:
                    expected = self.references.scores(name, model, mono, made_of=pcm)
                    with CudaEngine(model, max_batch=2) as engine:
                        ours = engine.scores(pcm, sample_rate=own)
                        self.add(name, "float32", "scores, maximum", max_abs(ours, expected), RESAMPLED)
                        alone = engine.scores(pcm[1:], sample_rate=own)
                        self.add(name, "float32", "alone, values of other bits", unequal(alone, ours[1:]), 0)

    def mfcc(self, core: Any) -> None:
        """MFCCs and their deltas of random log-mels, against their definition."""
        for n_mels, n_mfcc, n_frames in ((96, 20, 300), (20, 7, 9), (128, 40, 33)):
            name = f"MFCC, {n_mfcc} of {n_mels} bands, {n_frames} frames"
            with self.case(name, "float32") as there_is_time:
                if there_is_time:
                    log_mel = (40 * cases.rng_of(name).standard_normal((3, n_mels, n_frames))).astype(np.float32)
                    ours = core.Mfcc(n_mels=n_mels, n_mfcc=n_mfcc, device=0).run(log_mel)
                    expected = cases.mfcc_reference(log_mel, n_mfcc)
                    self.add(name, "float32", "relative L2", relative_l2(ours, expected), MFCC)

    # ---- bits that must stay the same ----

    def invariance(self, name: str, model: Any, repeats: int) -> None:
        """Bits do not depend on batch size, position, graphs, repetition, earlier runs, or what else runs."""
        case = f"{name}, same bits"
        waves = cases.sounds(case, model, 5)
        for precision in self.precisions:
            with self.case(case, precision) as there_is_time:
                if there_is_time:
                    expected = self.references.scores(case, model, waves[:1])
                    with CudaEngine(model, precision=precision, max_batch=4) as engine:
                        self.one_invariance(case, precision, engine, waves, expected, repeats)

    def one_invariance(
        self, name: str, precision: str, engine: Any, waves: np.ndarray, expected: np.ndarray, repeats: int
    ) -> None:
        scores = engine.scores(waves)
        limit = max(1.0, cases.largest_logit(expected)) * SCORES[precision]
        self.add(name, precision, "scores, maximum", max_abs(scores[:1], expected), limit)

        def add(what: str, found: np.ndarray, wanted: np.ndarray = scores) -> None:
            self.add(name, precision, f"{what}, values of other bits", unequal(found, wanted), 0)

        add("alone", np.concatenate([engine.scores(wave[None]) for wave in waves]))
        add("backwards", engine.scores(waves[::-1].copy()), scores[::-1].copy())
        for size in (2, 3):
            add(
                f"in batches of {size}", np.concatenate([engine.scores(waves[i : i + size]) for i in range(0, 5, size)])
            )
        worst = max(unequal(engine.scores(waves), scores) for _ in range(repeats))
        self.add(name, precision, f"{repeats} repetitions, values of other bits", worst, 0)
        engine.scores(np.full_like(waves, np.nan))
        engine.scores(np.full_like(waves, 1e30))
        add("after NaN and overflow", engine.scores(waves))
        engine.use_graphs(False)
        add("without graphs", engine.scores(waves))
        engine.use_graphs(True)
        add("beside another engine", self.concurrent(engine, precision, waves, repeats, scores))
        for kind, found in cases.from_device_arrays(engine, waves[:4]):
            add(f"from {kind} arrays", found, scores[:4])

    def concurrent(
        self, engine: Any, precision: str, waves: np.ndarray, repeats: int, wanted: np.ndarray
    ) -> np.ndarray:
        """Scores while a second engine runs in another thread: the first that differ from ``wanted``, else the last."""
        stop = threading.Event()
        with CudaEngine(engine.whole_model, precision=precision, max_batch=3) as other:

            def busy() -> None:
                while not stop.is_set():
                    other.scores(waves)

            thread = threading.Thread(target=busy)
            thread.start()
            try:
                found = [engine.scores(waves) for _ in range(repeats)]
            finally:
                stop.set()
                thread.join()
        return next((f for f in found if unequal(f, wanted)), found[-1])

    # ---- whole models ----

    def whole(self, name: str, model: Any) -> None:
        """Scores of sounds, and blocks of noise, by a model of the bench at full size."""
        self.from_waves(name, model)
        with self.case(name, "model") as there_is_time:
            if there_is_time:
                self.network(name, model, cases.inputs(name, model, 2, *WHOLE[name]))

    def from_waves(self, name: str, model: Any) -> None:
        """Scores of sounds in every precision."""
        case = f"{name}, from waves"
        waves = cases.sounds(name, model, 2)
        for precision in self.precisions:
            with self.case(case, precision) as there_is_time:
                if there_is_time:
                    expected = self.references.scores(name, model, waves)
                    with CudaEngine(model, precision=precision, max_batch=2) as engine:
                        ours = engine.scores(waves)
                    limit = SCORES[precision]
                    self.add(case, precision, "scores, maximum", max_abs(ours, expected), limit)
                    gap = max(cases.top_gap(a, e) for a, e in zip(ours, expected, strict=True))
                    self.add(case, precision, "top 5 apart, gap", gap, 2 * limit)


def check(
    core: Any = None,
    *,
    references: References | None = None,
    precisions: tuple[str, ...] = PRECISIONS,
    minutes: float = 60.0,
    say: Callable[[str], None] = print,
    save: Save = lambda result: None,
) -> dict[str, Any]:
    """Run the cases; return all rows, the cases that there was no time for, and the kernels that ran.

    The whole models come first: what is left out for want of time are corner cases.

    Parameters
    ----------
    core : a module compiled for the emulator, to put in the place of ``fcntag._cuda``; it gets the small cases only
    references : where the expected values come from (default: the oracle)
    precisions : those to check, if the GPU has them
    minutes : no case begins after so long
    say, save : get the progress, and the result as it grows
    """
    with cases.installed(core):
        module = _usable(core)
        checker = _checker(module, references or Computed(), precisions, minutes, say, save)
        walk(checker, module, bool(module.emulated))
    return checker.result()


def walk(checker: Any, module: Any, small: bool) -> None:
    """Give ``checker``, or make_oracle.py's Asker, every case; with ``small`` those that the emulator gets."""
    for name in () if small else WHOLE:
        checker.begin(f"model {name}")
        model = load_any(name)[0]
        checker.whole(name, model)
        if name in SAME_BITS:
            checker.invariance(name, model, 20)
    checker.begin("same bits")
    checker.invariance("tiny", cases.tiny(), 2 if small else 20)
    for name in SMALL if small else NETWORKS:
        checker.begin(f"network {name}")
        model = cases.network(name)
        checker.network(name, model, cases.inputs(name, model, 3), (1, 2) if small else (1, 2, 8, 40))
    for name, options in cases.FRONT_ENDS.items():
        checker.begin(f"front end {name}")
        checker.front_end(f"front end, {name}", cases.tiny(**options))
    checker.pcm(cases.tiny())
    checker.mfcc(module)


def smoke(
    core: Any = None,
    *,
    references: References,
    models: Iterable[str] = SMOKE,
    load: Callable[[str], Any] = lambda name: load_any(name)[0],
    say: Callable[[str], None] = print,
    save: Save = lambda result: None,
) -> dict[str, Any]:
    """Scores of a few models in the precisions that matter, in seconds: is anything worth timing at all?"""
    with cases.installed(core):
        checker = _checker(_usable(core), references, SMOKE_PRECISIONS, 60.0, say, save)
        for name in models:
            checker.begin(f"model {name}")
            checker.from_waves(name, load(name))
    return checker.result()


def _checker(
    module: Any,
    references: References,
    precisions: tuple[str, ...],
    minutes: float,
    say: Callable[[str], None],
    save: Save,
) -> Checker:
    usable = tuple(p for p in precisions if p in _precisions(module))
    checker = Checker(usable, say, save, time.monotonic() + 60 * minutes)
    checker.references = references
    return checker


def _usable(core: Any) -> Any:
    """The module ``fcntag._cuda``; ends the program, with the reason, where no GPU can be used."""
    from fcntag.engine import cuda_core

    if core is None and cuda_core.unavailable():
        raise SystemExit(f"correctness: {cuda_core.unavailable()}")
    return cuda_core.core()


def _precisions(module: Any) -> tuple[str, ...]:
    """The precisions that the GPU has: tf32 and bfloat16 came with compute capability 8.0."""
    new = tuple(module.device_info(0)["capability"]) >= (8, 0)
    return PRECISIONS if new else ("float32", "float16")


def once(core: Any = None) -> int:
    """Run every kind of kernel a single time, on tiny networks, in every precision, and compare nothing."""
    with cases.installed(core):
        module = _usable(core)
        precisions = _precisions(module)
        rng = np.random.default_rng(1)
        runs = 0
        for name in ONCE:
            model = cases.network(name)
            waves = cases.sounds(name, model, 2)
            for precision in precisions:
                with CudaEngine(model, precision=precision, max_batch=2) as engine:
                    engine.scores(waves)
                    engine.scores(waves[:1])
                    engine.features(waves, "blocks")
                    runs += 1
            if "tf32" in precisions:
                with CudaEngine(model, algorithm="tf32x3", max_batch=2) as engine:
                    engine.scores(waves)
                    runs += 1
        for name, options in cases.FRONT_ENDS.items():
            model = cases.tiny(**options)
            for precision in ("float32", "float16"):  # transforms in double and in float
                with CudaEngine(model, precision=precision, max_batch=2) as engine:
                    engine.log_mel(cases.sounds(name, model, 2))
                    runs += 1
        model = cases.tiny(normalization="standardize")
        with CudaEngine(model, max_batch=2) as engine:
            n_in = -(-model.document.segments.n_samples * 44100 // model.document.frontend.sample_rate)
            engine.scores(rng.uniform(-0.5, 0.5, (2, n_in, 2)).astype(np.float32), sample_rate=44100)
        module.Mfcc(n_mels=20, n_mfcc=7, device=0).run(rng.standard_normal((2, 20, 30)).astype(np.float32))
    print(f"{runs} engines ran")
    return runs


def main() -> int:
    """The command; its exit code is 1 if a measurement failed."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--json", type=Path, help="write the result here as well")
    options.add_argument("--minutes", type=float, default=60.0, help="begin no case after so long")
    options.add_argument("--stored", action="store_true", help="compare with the oracle's stored values")
    options.add_argument("--smoke", action="store_true", help="the scores of two models only; implies --stored")
    options.add_argument("--once", action="store_true", help="run every kernel once and compare nothing")
    arguments = options.parse_args()
    if arguments.once:
        once()
        return 0

    def save(result: dict[str, Any]) -> None:
        if arguments.json:
            replace_file(arguments.json, json.dumps(result, indent=1) + "\n")

    def say(text: str) -> None:
        print(text, flush=True)

    try:
        references = Stored() if arguments.stored or arguments.smoke else Computed()
    except ImportError as error:
        raise SystemExit(f"correctness: {error}") from None
    if arguments.smoke:
        found = smoke(references=references, say=say, save=save)
    else:
        found = check(references=references, minutes=arguments.minutes, say=say, save=save)
    if isinstance(references, Stored):
        found["recomputed"] = sorted(set(references.recomputed))
        for name in found["recomputed"]:
            print(f"other inputs than the stored values are of, the oracle computed: {name}")
    save(found)
    for name in found["left_out"]:
        print(f"no time left for {name}")
    print(f"{len(found['rows'])} measurements, {found['failed']} failed, {len(found['kernels'])} kernels")
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
