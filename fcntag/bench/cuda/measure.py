"""What ``fcntag bench --device cuda`` times, and how: stages by events, whole runs beside peers in turn."""

from __future__ import annotations

import gc
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...catalogue.names import load_any
from ...engine import MAX_GPU_BATCH, create_engine
from ...errors import DeviceError, FcntagError
from ...model.file import write_model
from ...reduce import reduce_model
from .. import machine
from ..measure import SettingsError
from ..report import Report, Row
from ..timing import run_process
from . import gpu, peers, work
from .group import CHECKED_CLIPS, MAX_DIFFERENCE, MIN_REPEATS, Key, Ours, Reference, alternate, checked_peer
from .peers import STAGES, Contender, n_inputs
from .work import Variant

if TYPE_CHECKING:
    from ...model.file import Model

MAX_STARTS = 3
COLD_CACHE_BYTES = 1 << 28  # cleared before a run "from a cold cache": more than any level-2 cache
MAX_COPIED_BYTES = 1 << 27  # of a batch of waves timed "end to end": beyond that it times the host's memory
COMPILE_S = 60.0  # that one search of the longest-searching peer may take: none starts later than this before the end
_SLOW = ("torch-compile",)

_COLD = """
import sys
import numpy as np
from fcntag.engine import create_engine
from fcntag.model.file import read_model
model = read_model(sys.argv[1])
waves = np.zeros((1, model.document.segments.n_samples), np.float32)
with create_engine(model, device=sys.argv[2], precision=sys.argv[3], max_batch=1, reduce=sys.argv[4] == "1") as engine:
    engine.scores(waves)
"""


@dataclass(frozen=True)
class Settings:
    """What to time, on one GPU.

    ``repeats`` samples a row, fewer where a group of contenders would take longer than ``seconds`` for one stage. After
    ``minutes`` (0: never) no new group is begun. ``cold``: also a new process for each model, in the first precision.
    """

    models: tuple[str, ...] = ("mtt-vgg",)
    batches: tuple[int, ...] = (1, 8, 64)
    device: str = "cuda"
    precisions: tuple[str, ...] = ("float32",)
    peers: tuple[str, ...] = ()
    peers_reduced: bool = False
    reduce: bool = True
    repeats: int = 200
    seconds: float = 3.0
    minutes: float = 0.0
    cold: bool = True


def measure(
    settings: Settings, say: Callable[[str], None], save: Callable[[Report], None] = lambda report: None
) -> Report:
    """Time everything that ``settings`` names; ``say`` is told what is going on, ``save`` gets the report as it grows.

    Raises ModelError, DeviceError or SettingsError before anything is timed.
    """
    try:
        bench = _Bench(settings, say, save)
    except FcntagError:
        raise
    except ValueError as error:
        raise SettingsError(str(error)) from None
    return bench.run()


class _Bench:
    def __init__(self, settings: Settings, say: Callable[[str], None], save: Callable[[Report], None]) -> None:
        self.settings, self.say, self.save = settings, say, save
        if max(settings.batches) > MAX_GPU_BATCH:
            raise ValueError(f"batch {max(settings.batches)}: at most {MAX_GPU_BATCH} on a GPU")
        self.end = time.monotonic() + 60 * settings.minutes if settings.minutes else float("inf")
        self.loaded = {name: load_any(name) for name in dict.fromkeys(settings.models)}
        for model, _ in self.loaded.values():  # what does not work must fail now, not after minutes
            for precision in settings.precisions:
                with self.engine(model, precision, 1) as engine:
                    info, self.device = dict(engine.device_info), str(engine.device)
        self.index = int(self.device.partition(":")[2] or 0)
        environment = machine.environment(0)
        environment["gpu"], environment["gpu_info"], environment["gpu_states"] = info["name"], info, []
        self.report = work.CudaReport(environment, asdict(settings))
        self.report.settings["precision"] = ", ".join(settings.precisions)
        self.cached_variants: dict[str, list[Variant]] = {}
        self.references: dict[str, Reference] = {}
        self.peers = self.find_peers()

    def engine(self, model: Model, precision: str, max_batch: int = 0) -> Any:
        """An engine for the largest batch that is timed, or the largest that the GPU's memory holds."""
        s = self.settings
        limits = [max_batch] if max_batch else sorted({CHECKED_CLIPS, *s.batches}, reverse=True)
        for limit in limits:
            try:
                return create_engine(model, device=s.device, precision=precision, max_batch=limit, reduce=s.reduce)
            except DeviceError as error:
                if "lower max_batch" not in str(error) or limit == limits[-1]:
                    raise
                text = f"{model.document.name}, {precision}: no memory for batch {limit}: {error}"
                if text not in self.report.warnings:
                    self.report.warnings.append(text)
        raise AssertionError("unreachable")

    def find_peers(self) -> list[str]:
        there = []
        for name in (name for name in peers.PEERS if name in self.settings.peers):
            try:
                self.report.peers[name] = peers.version(name)
                there.append(name)
            except ImportError as error:
                self.report.peers[name] = str(error)
        return there

    def run(self) -> Report:
        report = self.report
        self.read_clocks("before")
        self.say("ceilings")
        self.measure_ceilings()
        self.read_clocks("after the ceilings")
        for name, (model, random) in self.loaded.items():
            self.time_alone(name, model, random)
            self.read_clocks(f"after {name} alone")
        quick = [peer for peer in self.peers if peer not in _SLOW]
        slow = [peer for peer in self.peers if peer in _SLOW]
        self.time_beside(quick, 0.0)
        self.read_clocks("after the peers")
        if slow:
            self.time_beside(slow, COMPILE_S)
        self.measure_ceilings()  # something else may have used the GPU the first time
        self.read_clocks("after everything")
        self.save(report)
        return report

    def read_clocks(self, when: str) -> None:
        self.report.environment["gpu_states"].append({"when": when, **gpu.state(self.index)})

    def measure_ceilings(self) -> None:
        found = gpu.ceilings(self.index)
        flat = {"copy_gbytes": found["copy_gb_s"]}
        flat.update({f"tflops_{precision}": value for precision, value in found["matrix_tflop_s"].items()})
        known = self.report.ceilings
        known.update({name: max(float(value), known.get(name, 0.0)) for name, value in flat.items()})

    def refuse(self, what: str, error: Exception | str) -> None:
        text = error if isinstance(error, str) else f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        self.report.refused.append(f"{what}: not timed: {text}")
        self.say(self.report.refused[-1])

    # ---- fcntag alone ----

    def time_alone(self, name: str, model: Model, random: bool) -> None:
        n_samples, rate = model.document.segments.n_samples, model.document.frontend.sample_rate
        info: dict[str, Any] = {
            "random_weights": random,
            "sha256": model.sha256,
            "window_s": n_samples / rate,
            "multiply_adds": model.document.multiply_adds(),
            "reduced_multiply_adds": None,
            "memory_bytes": {},
        }
        self.report.models[name] = info
        self.say(f"{name}: check against the oracle")
        try:
            self.references[name] = self.reference(name, model)
        except (DeviceError, RuntimeError) as error:
            self.refuse(name, error)
            return
        for precision in self.settings.precisions:
            if time.monotonic() > self.end:
                self.report.warnings.append(f"no time left for {name}, {precision}")
                continue
            try:
                self.time_starts(name, model, precision)
                with self.engine(model, precision) as engine:
                    info["memory_bytes"][precision] = int(engine.memory_bytes)
                    variant = self.variants(name, model)[0]
                    info["reduced_multiply_adds"] = variant.multiply_adds if variant.network == "reduced" else None
                    for batch in (b for b in self.settings.batches if b <= engine.max_batch):
                        self.say(f"{name}, {precision}: stages of batch {batch}")
                        self.time_stages(name, variant, precision, engine, batch)
            except (DeviceError, RuntimeError) as error:
                self.refuse(f"{name}, {precision}", error)
            self.save(self.report)

    def reference(self, name: str, model: Model) -> Reference:
        """Random clips, and what fcntag makes of them in float32, itself checked on the first clip."""
        rng = np.random.default_rng(0)
        waves = rng.random((CHECKED_CLIPS, model.document.segments.n_samples), np.float32) - np.float32(0.5)
        with self.engine(model, "float32", CHECKED_CLIPS) as engine:
            scores, log_mel = engine.scores(waves), engine.log_mel(waves)
        try:
            from ... import oracle

            expected, against = oracle.scores(model, waves[:1]), "the float64 oracle"
        except ImportError:
            with create_engine(model, device="cpu") as exact:
                expected, against = exact.scores(waves[:1]), "fcntag's CPU engine (the oracle needs numba)"
        difference = float(np.abs(scores[:1] - expected).max())
        self.report.models[name]["float32_difference"] = difference
        self.report.models[name]["checked_against"] = against
        if not difference <= MAX_DIFFERENCE["float32"]:
            raise RuntimeError(f"float32 scores differ from {against} by {difference:.1e}")
        return Reference(waves, scores, log_mel)

    def variants(self, name: str, model: Model) -> list[Variant]:
        """The network as fcntag runs it first; then, if it is another, the original."""
        if name not in self.cached_variants:
            self.cached_variants[name] = self.make_variants(model)
        return self.cached_variants[name]

    def make_variants(self, model: Model) -> list[Variant]:
        original = Variant("original", model, model, *model.document.input_size(), model.document.multiply_adds())
        if not self.settings.reduce:
            return [original]
        small, reduction = reduce_model(model)
        return [Variant("reduced", model, small, *reduction.input_after, reduction.macs_after), original]

    def time_starts(self, name: str, model: Model, precision: str) -> None:
        """A new process to its end; an engine from a model in memory; its first call."""
        starts = min(self.settings.repeats, MAX_STARTS)
        if self.settings.cold and precision == self.settings.precisions[0]:
            self.time_cold(name, model, precision, starts)
        waves = np.zeros((1, model.document.segments.n_samples), np.float32)
        load, first = [], []
        for _ in range(starts):
            start = time.perf_counter()
            with self.engine(model, precision) as engine:
                loaded = time.perf_counter()
                engine.scores(waves)
                load.append(loaded - start)
                first.append(time.perf_counter() - loaded)
            gc.collect()
        for stage, samples in (("load", load), ("first", first)):
            self.add(Row(name, stage, "fcntag", 0, tuple(samples), precision=precision))

    def time_cold(self, name: str, model: Model, precision: str, starts: int) -> None:
        self.say(f"{name}, {precision}: cold start")
        with tempfile.TemporaryDirectory(prefix="fcntag-bench-") as folder:
            path = Path(folder) / "model.safetensors"
            write_model(path, model.document, model.tensors)
            package = str(Path(__file__).resolve().parent.parent.parent)
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join([package, *filter(None, sys.path)])}
            command = [sys.executable, "-c", _COLD, str(path), self.settings.device, precision]
            command.append(str(int(self.settings.reduce)))
            run_process(command, environment)  # fills the file cache
            runs = [run_process(command, environment) for _ in range(starts)]
        peak = max(run.peak_rss_bytes for run in runs)
        samples = tuple(run.wall_s for run in runs)
        self.add(Row(name, "cold", "fcntag", 0, samples, precision=precision, peak_rss_bytes=peak))

    def time_stages(self, name: str, variant: Variant, precision: str, engine: Any, batch: int) -> None:
        probe = engine.stage_times(batch, 2)
        once = sum(statistics.median(seconds) for seconds in probe.values())
        repeats = self.repeats(once, 1)
        for stage, samples in engine.stage_times(batch, repeats).items():
            self.add(self.row(name, stage, variant, precision, batch, samples))
        samples = engine.replay_times(
            batch, self.repeats(once, 1), inputs=n_inputs(batch, variant.n_samples), flush_bytes=COLD_CACHE_BYTES
        )
        self.add(self.row(name, "scores, cold cache", variant, precision, batch, samples))

    def repeats(self, once: float, contenders: int) -> int:
        share = self.settings.seconds / contenders
        return min(self.settings.repeats, max(MIN_REPEATS, int(share / max(once, 1e-9))))

    # ---- beside peers ----

    def time_beside(self, names: list[str], reserve: float) -> None:
        """fcntag and the peers ``names`` in turn; nothing begins within ``reserve`` seconds of the end."""
        for name, (model, _) in self.loaded.items():
            if name not in self.references:
                continue
            for precision in self.settings.precisions:
                if precision not in self.report.models[name]["memory_bytes"]:
                    continue  # refused before
                left = list(self.settings.batches)
                try:
                    with self.engine(model, precision) as engine:
                        left = [batch for batch in left if batch <= engine.max_batch]
                        while left and time.monotonic() + reserve < self.end:
                            batch = left.pop(0)
                            for some in self.that_fit(names, self.variants(name, model)[-1], batch, precision):
                                self.say(f"{name}, {precision}, batch {batch}: beside {', '.join(some) or 'no peer'}")
                                self.time_group(name, model, precision, engine, batch, some)
                                self.save(self.report)
                except (DeviceError, RuntimeError) as error:
                    self.refuse(f"{name}, {precision}", error)
                if left:
                    batches = ", ".join(map(str, left))
                    what = f"{name}, {precision}, batch {batches}: beside {', '.join(names) or 'no peer'}"
                    self.report.warnings.append(f"no time left for {what}")

    def that_fit(self, names: list[str], variant: Variant, batch: int, precision: str) -> list[list[str]]:
        """``names`` in parts, each of as many peers as the GPU's memory holds at once."""
        memory = 0.6 * self.report.environment["gpu_info"]["memory_bytes"]
        count = max(1, int(memory / work.peer_bytes(variant, batch, precision)))
        return [names[i : i + count] for i in range(0, len(names), count)] or [[]]

    def time_group(self, name: str, model: Model, precision: str, engine: Any, batch: int, names: list[str]) -> None:
        variants = self.variants(name, model)
        ours = ("fcntag", variants[0].network)
        reference = self.references[name]
        difference = float(np.abs(engine.scores(reference.waves) - reference.scores).max())
        if not difference <= MAX_DIFFERENCE[precision]:
            self.refuse(f"{name}, {precision}", f"scores differ from float32's by {difference:.1e}")
            return
        made: dict[Key, Contender] = {ours: Ours(engine, batch)}
        differences: dict[Key, float] = {ours: difference}
        by_network = {variant.network: variant for variant in variants}
        wanted = ["original"]
        if self.settings.peers_reduced and variants[0].multiply_adds < 0.95 * variants[-1].multiply_adds:
            wanted.append(variants[0].network)
        for network in wanted:
            for peer in names:
                if network == "original" or peer not in peers.FRONT_ENDS:
                    self.add_peer(name, peer, by_network[network], precision, batch, made, differences)
        try:
            for stage in STAGES:
                if stage == "end to end" and 4 * batch * variants[0].n_samples > MAX_COPIED_BYTES:
                    continue
                self.time_stage(name, stage, by_network, precision, batch, made, differences)
        finally:
            for contender in made.values():
                contender.close()
            gc.collect()

    def add_peer(
        self,
        name: str,
        peer: str,
        variant: Variant,
        precision: str,
        batch: int,
        made: dict[Key, Contender],
        differences: dict[Key, float],
    ) -> None:
        """Make a peer and check it; a word in the report if it does not fit."""
        try:
            contender, difference = checked_peer(peer, variant, precision, batch, self.device, self.references[name])
        except Exception as error:  # whatever a runtime does, the others are timed
            self.refuse(f"{peer} on {name} ({variant.network}), {precision}, batch {batch}", error)
            return
        made[peer, variant.network], differences[peer, variant.network] = contender, difference

    def time_stage(
        self,
        name: str,
        stage: str,
        by_network: dict[str, Variant],
        precision: str,
        batch: int,
        made: dict[Key, Contender],
        differences: dict[Key, float],
    ) -> None:
        taking_part = {key: contender for key, contender in made.items() if stage in contender.stages}
        if stage == "mel" and len(taking_part) == 1:
            return  # timed among the stages
        rounds = alternate(
            taking_part,
            stage,
            lambda once: self.repeats(once, len(taking_part)),
            lambda key, error: self.refuse(f"{key[0]} on {name} ({key[1]}), {precision}, {stage} of {batch}", error),
        )
        ours = next(iter(made))
        for key, samples in rounds.items():
            ratio = None
            if key != ours:
                pairs = zip(samples, rounds[ours], strict=True)
                ratio = statistics.median(statistics.median(a) / statistics.median(b) for a, b in pairs)
            everything = [s for part in samples for s in part]
            row = self.row(name, stage, by_network[key[1]], precision, batch, everything, key[0])
            self.add(replace(row, max_score_difference=differences[key], ratio=ratio))

    def row(
        self,
        name: str,
        stage: str,
        variant: Variant,
        precision: str,
        batch: int,
        samples: list[float],
        engine: str = "fcntag",
    ) -> Row:
        return Row(
            model=name,
            stage=stage,
            engine=engine,
            batch=batch,
            samples_s=tuple(samples),
            network=variant.network,
            audio_s=batch * self.report.models[name]["window_s"] if stage in (*STAGES, "scores, cold cache") else 0.0,
            flop=work.flop(variant, stage, batch),
            bytes=work.bytes_moved(variant, stage, batch, precision),
            precision=precision,
        )

    def add(self, row: Row) -> None:
        """A row; what a later group times again of fcntag's joins the samples of the same row."""
        rows = self.report.rows
        for i, earlier in enumerate(rows):
            if earlier.key == row.key and row.engine == "fcntag":
                joined = earlier.samples_s + row.samples_s
                rows[i] = replace(earlier, samples_s=joined, max_score_difference=row.max_score_difference)
                return
        rows.append(row)
