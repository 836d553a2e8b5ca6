"""The GPU's bench: its settings, and everything that one run times: stages by events, whole runs beside peers."""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...engine import MAX_GPU_BATCH, create_engine
from ...errors import DeviceError
from .. import machine
from ..report import Report, Row
from ..shared import Bench, cold_starts, engine_starts, settings_checked
from ..variants import Variant, original_variant, reduced_variant
from . import gpu, peers, work
from .clocks import ClockSampler
from .group import (
    CHECKED_CLIPS,
    MAX_DIFFERENCE,
    MIN_REPEATS,
    Checked,
    Key,
    Ours,
    Reference,
    alternate,
    checked_peer,
    make_reference,
)
from .peers import SPIN_S, STAGES, n_inputs
from .work import DEVICE_TIME

if TYPE_CHECKING:
    from ...model.file import Model

# No more processes and engines than these are started for a model and precision: a start with a GPU takes seconds.
MAX_STARTS = 3
# So many bytes are cleared before a run "from a cold cache": more than any level-2 cache holds.
COLD_CACHE_BYTES = 1 << 28
# A batch whose waves have more bytes than this is not timed "end to end": it would time the host's memory.
MAX_COPIED_BYTES = 1 << 27
# The peers of _SLOW search for their best kernels, which takes up to so many seconds each time.
COMPILE_S = 60.0
_SLOW = ("torch-compile",)

# A new process as ``cold`` times it: the program's arguments are model file, device, precision, and 1 to reduce.
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
    """The models, batches, precisions and peers to time on one GPU, and how long.

    Attributes
    ----------
    peers_reduced : time the peers on the reduced network as well, where it saves more than 5 % of the work
    reduce : let fcntag run the reduced network, as it does by default
    repeats : samples of a row
    seconds : one stage of a group takes no longer than about so much, even if its rows get fewer samples then
    minutes : no new group is begun after so long; 0 sets no limit
    cold : also time a new process for each model, in the first precision
    starts : time engines made of a model in memory, and their first calls
    alone : time every stage of fcntag alone, and the starts; else only whole runs, beside the peers
    compile_s : no peer that searches for its kernels begins later than so many seconds before the end
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
    starts: bool = True
    alone: bool = True
    compile_s: float = COMPILE_S


def measure(
    settings: Settings,
    say: Callable[[str], None],
    save: Callable[[Report], None] = lambda report: None,
    known: Mapping[str, np.ndarray] | None = None,
) -> Report:
    """Time everything that ``settings`` names on one GPU.

    Parameters
    ----------
    settings : the models, batches, precisions and peers, and how often and how long they are timed
    say : is told the progress, one line at a time
    save : gets the report whenever it has grown
    known : by model, the float64 oracle's scores [1, n_tags] of the first of ``group.random_clips``, where somebody
        keeps them; for the others the oracle computes them

    Raises
    ------
    ModelError, DeviceError, SettingsError : before anything is timed
    """
    with settings_checked():
        bench = _CudaBench(settings, say, save, known or {})
    with ClockSampler(bench.index) as bench.clocks:
        return bench.run()


class _CudaBench(Bench):
    clocks: ClockSampler

    def __init__(
        self,
        settings: Settings,
        say: Callable[[str], None],
        save: Callable[[Report], None],
        known: Mapping[str, np.ndarray],
    ) -> None:
        if max(settings.batches) > MAX_GPU_BATCH:
            raise ValueError(f"batch {max(settings.batches)}: at most {MAX_GPU_BATCH} on a GPU")
        self.end = time.monotonic() + 60 * settings.minutes if settings.minutes else float("inf")
        super().__init__(settings.models, say)
        self.settings, self.save, self.known = settings, save, known
        # A model or precision that does not work must fail now, not after minutes.
        for model, _ in self.loaded.values():
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
        self.peers = self.find_peers((name for name in peers.PEERS if name in settings.peers), peers.version)

    def engine(self, model: Model, precision: str, max_batch: int = 0) -> Any:
        """An engine for the largest batch that is timed, or for the largest one that the GPU's memory holds."""
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
                    self.warn(text)
        raise AssertionError("unreachable")

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
        precisions, batches = self.settings.precisions, self.settings.batches
        if quick or not slow:
            for name in self.loaded:
                for precision in precisions:
                    self.time_beside(name, precision, list(batches), quick, 0.0)
            self.read_clocks("after the peers")
        if slow:  # the largest part of the time goes here, so the first batch of all models comes first
            for batch in batches:
                for name in self.loaded:
                    for precision in precisions:
                        self.time_beside(name, precision, [batch], slow, self.settings.compile_s)
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
        if any("torch" in peers.PEERS[name].needs for name in self.peers):
            try:
                flat.update(gpu.library_ceilings(self.index))
            except Exception as error:  # whatever PyTorch raises: the peers go on, and name it again
                self.refuse("the library's large product", error)
        ceilings = self.report.ceilings
        ceilings.update({name: max(float(value), ceilings.get(name, 0.0)) for name, value in flat.items()})

    @contextlib.contextmanager
    def window(self, what: str) -> Iterator[None]:
        """Have the report know the clock while ``what`` is timed, and the vendor's peak at the clocks so far."""
        start = time.monotonic()
        yield
        windows = self.report.environment.setdefault("clock_windows", [])
        if found := self.clocks.between(start, time.monotonic()):
            windows.append({"when": what, **found})
            mhz = statistics.median(window["sm_mhz"] for window in windows)
            self.report.ceilings.update(gpu.datasheet(self.report.environment["gpu_info"], mhz))

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
                self.warn(f"no time left for {name}, {precision}")
                continue
            try:
                if self.settings.alone:
                    self.time_starts(name, model, precision)
                with self.engine(model, precision) as engine:
                    info["memory_bytes"][precision] = int(engine.memory_bytes)
                    variant = self.variants(name, model)[0]
                    info["reduced_multiply_adds"] = variant.multiply_adds if variant.name == "reduced" else None
                    for batch in (b for b in self.settings.batches if b <= engine.max_batch and self.settings.alone):
                        self.say(f"{name}, {precision}: stages of batch {batch}")
                        with self.window(f"{name}, {precision}, batch {batch}, alone"):
                            self.time_stages(name, variant, precision, engine, batch)
            except (DeviceError, RuntimeError) as error:
                self.refuse(f"{name}, {precision}", error)
            self.save(self.report)

    def reference(self, name: str, model: Model) -> Reference:
        """fcntag's float32 results; RuntimeError if they are wrong, for then nothing can be compared with them."""
        known = self.known.get(name)
        reference = make_reference(model, lambda: self.engine(model, "float32", CHECKED_CLIPS), known)
        self.report.models[name]["float32_difference"] = reference.difference
        self.report.models[name]["checked_against"] = reference.checked_against
        if not reference.difference <= MAX_DIFFERENCE["float32"]:
            raise RuntimeError(f"float32 scores differ from {reference.checked_against} by {reference.difference:.1e}")
        return reference

    def variants(self, name: str, model: Model) -> list[Variant]:
        """The network as fcntag runs it, and, if that is the reduced one, the original after it."""
        if name not in self.cached_variants:
            reduced = [reduced_variant(model)] if self.settings.reduce else []
            self.cached_variants[name] = [*reduced, original_variant(model)]
        return self.cached_variants[name]

    def time_starts(self, name: str, model: Model, precision: str) -> None:
        """Time new processes to their end, engines made of a model in memory, and their first calls."""
        count = min(self.settings.repeats, MAX_STARTS)
        if self.settings.cold and precision == self.settings.precisions[0]:
            self.say(f"{name}, {precision}: cold start")
            options = [self.settings.device, precision, str(int(self.settings.reduce))]
            starts = cold_starts(model, lambda path: ["-c", _COLD, str(path), *options], count)
            peak = starts.peak_rss_bytes
            self.add(Row(name, "cold", "fcntag", 0, starts.samples_s, precision=precision, peak_rss_bytes=peak))
        if not self.settings.starts:
            return
        waves = np.zeros((1, model.document.segments.n_samples), np.float32)
        load, first = engine_starts(lambda: self.engine(model, precision), waves, count)
        for stage, samples in (("load", load), ("first", first)):
            self.add(Row(name, stage, "fcntag", 0, samples, precision=precision))

    def time_stages(self, name: str, variant: Variant, precision: str, engine: Any, batch: int) -> None:
        probe = engine.stage_times(batch, 2)
        once = sum(statistics.median(seconds) for seconds in probe.values())
        repeats = self.repeats(once, 1)
        for stage, samples in engine.stage_times(batch, repeats).items():
            self.add(self.row(name, stage, variant, precision, batch, samples))
        for stage, samples in engine.stage_times(batch, repeats, spin_s=SPIN_S).items():
            self.add(self.row(name, stage + DEVICE_TIME, variant, precision, batch, samples))
        samples = engine.replay_times(
            batch, self.repeats(once, 1), inputs=n_inputs(batch, variant.n_samples), flush_bytes=COLD_CACHE_BYTES
        )
        self.add(self.row(name, "scores, cold cache", variant, precision, batch, samples))

    def repeats(self, once: float, contenders: int) -> int:
        share = self.settings.seconds / contenders
        return min(self.settings.repeats, max(MIN_REPEATS, int(share / max(once, 1e-9))))

    # ---- beside peers ----

    def time_beside(self, name: str, precision: str, left: list[int], names: list[str], reserve: float) -> None:
        """Time fcntag and the peers ``names`` in turn, in batches of ``left``.

        No group begins within ``reserve`` seconds of the end.
        """
        if name not in self.references or precision not in self.report.models[name]["memory_bytes"]:
            return  # time_alone refused it
        model, _ = self.loaded[name]
        try:
            with self.engine(model, precision) as engine:
                left = [batch for batch in left if batch <= engine.max_batch]
                while left and time.monotonic() + reserve < self.end:
                    batch = left.pop(0)
                    for some in self.that_fit(names, self.variants(name, model)[-1], batch, precision):
                        what = f"{name}, {precision}, batch {batch}: beside {', '.join(some) or 'no peer'}"
                        self.say(what)
                        with self.window(what):
                            self.time_group(name, model, precision, engine, batch, some)
                        self.save(self.report)
        except (DeviceError, RuntimeError) as error:
            self.refuse(f"{name}, {precision}", error)
        if left:
            batches = ", ".join(map(str, left))
            self.warn(f"no time left for {name}, {precision}, batch {batches}: beside {', '.join(names) or 'no peer'}")

    def that_fit(self, names: list[str], variant: Variant, batch: int, precision: str) -> list[list[str]]:
        """``names`` in parts, each of as many peers as the GPU's memory holds at once."""
        memory = 0.6 * self.report.environment["gpu_info"]["memory_bytes"]
        count = max(1, int(memory / work.peer_bytes(variant, batch, precision)))
        return [names[i : i + count] for i in range(0, len(names), count)] or [[]]

    def time_group(self, name: str, model: Model, precision: str, engine: Any, batch: int, names: list[str]) -> None:
        """Make and check fcntag and the peers ``names`` on one batch, then time them in turn, stage by stage."""
        variants = self.variants(name, model)
        reference = self.references[name]
        difference = float(np.abs(engine.scores(reference.waves) - reference.scores).max())
        if not difference <= MAX_DIFFERENCE[precision]:
            self.refuse(f"{name}, {precision}", f"scores differ from float32's by {difference:.1e}")
            return
        checked = {("fcntag", variants[0].name): Checked(Ours(engine, batch), variants[0], difference)}
        wanted = [variants[-1]]  # the original
        if self.settings.peers_reduced and variants[0].multiply_adds < 0.95 * variants[-1].multiply_adds:
            wanted.append(variants[0])
        for variant in wanted:
            for peer in names:
                if variant.name == "original" or peer not in peers.FRONT_ENDS:
                    try:
                        made = checked_peer(peer, variant, precision, batch, self.device, reference)
                        checked[peer, variant.name] = made
                    except Exception as error:  # a runtime may raise anything; the others are timed all the same
                        self.refuse(f"{peer} on {name} ({variant.name}), {precision}, batch {batch}", error)
        try:
            for stage in STAGES:
                if stage == "end to end" and 4 * batch * variants[0].n_samples > MAX_COPIED_BYTES:
                    continue
                self.time_stage(name, stage, precision, batch, checked)
        finally:
            for one in checked.values():
                one.contender.close()
            gc.collect()

    def time_stage(self, name: str, stage: str, precision: str, batch: int, checked: dict[Key, Checked]) -> None:
        """Time one stage of the contenders that have it, in turn. The first of ``checked`` is fcntag."""
        taking_part = {key: one.contender for key, one in checked.items() if stage in one.contender.stages}
        if stage == "mel" and len(taking_part) == 1:
            return  # fcntag's is timed among its own stages
        rounds = alternate(
            taking_part,
            stage,
            lambda once: self.repeats(once, len(taking_part)),
            lambda key, error: self.refuse(f"{key[0]} on {name} ({key[1]}), {precision}, {stage} of {batch}", error),
        )
        ours = next(iter(checked))
        for key, samples in rounds.items():
            ratio = None
            if key != ours:
                pairs = zip(samples, rounds[ours], strict=True)
                ratio = statistics.median(statistics.median(a) / statistics.median(b) for a, b in pairs)
            one, everything = checked[key], [s for part in samples for s in part]
            row = self.row(name, stage, one.variant, precision, batch, everything, key[0])
            self.add(replace(row, max_score_difference=one.difference, ratio=ratio))

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
            variant=variant.name,
            audio_s=batch * self.report.models[name]["window_s"] if stage in (*STAGES, "scores, cold cache") else 0.0,
            flop=work.flop(variant, stage.removesuffix(DEVICE_TIME), batch),
            bytes=work.bytes_moved(variant, stage.removesuffix(DEVICE_TIME), batch, precision),
            precision=precision,
        )

    def add(self, row: Row) -> None:
        """Add a row. A row of fcntag's that is there already gets the new samples: every group times fcntag again."""
        rows = self.report.rows
        for i, earlier in enumerate(rows):
            if earlier.key == row.key and row.engine == "fcntag":
                joined = earlier.samples_s + row.samples_s
                rows[i] = replace(earlier, samples_s=joined, max_score_difference=row.max_score_difference)
                return
        rows.append(row)
