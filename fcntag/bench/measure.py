"""What ``fcntag bench`` times, and how: one report from settings."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..audio import open_track
from ..catalogue.names import load_any
from ..engine import Engine, create_engine
from ..errors import FcntagError
from ..model.file import write_model
from ..pipeline.decode import read_windows
from ..pipeline.segments import plan_segments
from ..reduce import reduce_model
from ..tagger import Tagger
from . import clips, machine, peers
from .report import Report, Row
from .samples import median_ratio
from .timing import alternate, contention, run_process

if TYPE_CHECKING:
    from ..model.file import Model

# Largest difference of a score between two engines that compute the same thing; more, and one of them does not.
MAX_DIFFERENCE = {"float32": 1e-4, "bfloat16": 5e-2}
MAX_STARTS = 5  # processes and engines started per model: the first of each is what is measured, not a mean of many


@dataclass(frozen=True)
class Settings:
    """What to time. ``threads`` 0: as the engine chooses; ``audio`` "": the demo piece.

    ``repeats`` samples a row, but no more than ``seconds`` seconds for a group of rows that are timed in turn.
    """

    models: tuple[str, ...] = ("mtt-vgg",)
    batches: tuple[int, ...] = (1, 8, 64)
    threads: int = 0
    device: str = "cpu"
    precision: str = "float32"
    peers: tuple[str, ...] = ()
    peers_reduced: bool = False
    reduce: bool = True
    repeats: int = 15
    seconds: float = 20.0
    contend: int = 0
    audio: str = ""


@dataclass(frozen=True)
class _Variant:
    """A network as an engine is given it, and the inputs that fit it."""

    network: str  # "original" or "reduced"
    model: Model
    height: int
    width: int
    multiply_adds: int  # of one window

    def crop(self, x: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(x[:, : self.height, : self.width])

    def bytes(self, batch: int) -> float:
        weights = sum(a.nbytes for name, a in self.model.tensors.items() if not name.startswith("input."))
        return float(weights + 4 * batch * (self.height * self.width + len(self.model.document.tags)))


class SettingsError(ValueError):
    """A setting, or a variable of the environment, that the engine refuses."""


def measure(settings: Settings, say: Callable[[str], None]) -> Report:
    """Time everything that ``settings`` names; ``say`` is told what is going on, one line at a time.

    Raises ModelError, DeviceError, AudioError or SettingsError before anything is timed.
    """
    with tempfile.TemporaryDirectory(prefix="fcntag-bench-") as folder:
        try:
            bench = _Bench(settings, Path(folder), say)
        except FcntagError:
            raise
        except ValueError as error:
            raise SettingsError(str(error)) from None
        return bench.run()


class _Bench:
    def __init__(self, settings: Settings, folder: Path, say: Callable[[str], None]) -> None:
        self.settings, self.folder, self.say = settings, folder, say
        self.loaded = {name: load_any(name) for name in dict.fromkeys(settings.models)}
        for model, _ in self.loaded.values():  # a device or model that does not work must fail now, not after minutes
            with self.engine(model) as engine:
                self.threads = engine.threads
        self.audio = Path(settings.audio) if settings.audio else clips.write_clip(folder)
        with open_track(self.audio) as track:
            self.clip_s = track.length(track.sample_rate) / track.sample_rate
        self.report = Report(machine.environment(self.threads), asdict(settings))
        self.report.settings["audio"] = settings.audio or f"demo piece, {self.audio.suffix[1:].upper()}"
        self.report.settings["audio_s"] = self.clip_s
        self.peers = self.find_peers()

    def engine(self, model: Model) -> Engine:
        s = self.settings
        return create_engine(
            model,
            device=s.device,
            precision=s.precision,
            max_batch=max(64, *s.batches),
            threads=s.threads,
            reduce=s.reduce,
        )

    def find_peers(self) -> list[str]:
        there = []
        for name in self.settings.peers:
            try:
                self.report.peers[name] = peers.version(name)
                there.append(name)
            except ImportError as error:
                self.report.peers[name] = str(error)
        return there

    def run(self) -> Report:
        report = self.report
        load = machine.others_load(0)
        report.environment["load_before"] = load
        if load is not None and load > machine.QUIET_LOAD:
            self.warn(f"load average {load:.1f} before the start: other processes disturb the times")
        self.say("ceilings")
        report.ceilings = machine.ceilings(self.threads)
        for name, (model, random) in self.loaded.items():
            self.time_model(name, model, random)
            again = machine.ceilings(self.threads)  # the machine may have been busy the first time
            report.ceilings = {what: max(value, again[what]) for what, value in report.ceilings.items()}
        load = machine.others_load(self.threads + self.settings.contend)
        report.environment["load_after"] = load
        if load is not None and load > machine.QUIET_LOAD:
            self.warn(f"load average of other processes {load:.1f} at the end: they disturbed the times")
        busiest = max((row.others_cores or 0 for row in report.rows if not row.contend), default=0)
        if busiest > machine.QUIET_LOAD:
            self.warn(f"other processes kept up to {busiest:.1f} cores busy while something was timed")
        return report

    def warn(self, text: str) -> None:
        self.report.warnings.append(text)

    # ---- one model ----

    def time_model(self, name: str, model: Model, random: bool) -> None:
        windows = self.windows(model)
        info: dict[str, Any] = {
            "random_weights": random,
            "sha256": model.sha256,
            "windows_per_clip": len(windows),
            "window_s": self.clip_s / len(windows),
            "multiply_adds": model.document.multiply_adds(),
        }
        self.report.models[name] = info
        self.say(f"{name}: cold start")
        self.time_cold(name, model)
        self.say(f"{name}: first call")
        self.time_first(name, model, windows)
        with self.engine(model) as engine:
            info["memory_bytes"] = engine.memory_bytes
            ours, reduced = self.variants(model, engine)
            info["reduced_multiply_adds"] = reduced.multiply_adds if reduced else None
            info["fcntag_network"] = ours.network
            self.say(f"{name}: stages of a clip")
            self.time_stages(name, model, engine, ours, windows)
            x = engine.log_mel(windows)
            for batch in self.settings.batches:
                self.say(f"{name}: batch {batch}")
                inputs = np.ascontiguousarray(np.resize(x, (batch, *x.shape[1:])))
                self.time_blocks(name, engine, ours, inputs)
                self.time_network(name, model, engine, ours, reduced, inputs)

    def windows(self, model: Model) -> np.ndarray:
        """The clip's windows [n, n_samples], as ``tag`` would cut them."""
        document = model.document
        rate = document.frontend.sample_rate
        with open_track(self.audio) as track:
            plan = plan_segments(document.segments, document.frontend, track.length(rate))
            return np.stack(list(read_windows(track, plan)))

    def variants(self, model: Model, engine: Engine) -> tuple[_Variant, _Variant | None]:
        """The network as fcntag runs it, and the reduced one if there is use for it."""
        original = _Variant("original", model, *model.document.input_size(), model.document.multiply_adds())
        engine_reduces = engine.reduction is not None
        if not (engine_reduces or (self.settings.peers_reduced and self.peers)):
            return original, None
        small, reduction = reduce_model(model)
        reduced = _Variant("reduced", small, *reduction.input_after, reduction.macs_after)
        return (reduced if engine_reduces else original), reduced

    def time_cold(self, name: str, model: Model) -> None:
        """A user's first `fcntag tag`: a new process, from its start to its end."""
        s = self.settings
        path = self.folder / "model.safetensors"
        write_model(path, model.document, model.tensors)
        package = str(Path(__file__).resolve().parent.parent.parent)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([package, *filter(None, sys.path)])}
        command = [sys.executable, "-m", "fcntag", "tag", "-q", "-f", "jsonl", "--model", str(path)]
        command += ["--device", s.device, "--precision", s.precision, "--threads", str(s.threads), str(self.audio)]
        command += [] if s.reduce else ["--no-reduce"]
        run_process(command, environment)  # fills the file cache and writes bytecode
        others = machine.OthersCpu()
        runs = [run_process(command, environment) for _ in range(min(s.repeats, MAX_STARTS))]
        self.add(
            Row(
                model=name,
                stage="cold",
                engine="fcntag",
                batch=0,
                samples_s=tuple(run.wall_s for run in runs),
                audio_s=self.clip_s,
                others_cores=others.cores(),
                peak_rss_bytes=max(run.peak_rss_bytes for run in runs),
            )
        )
        path.unlink()

    def time_first(self, name: str, model: Model, windows: np.ndarray) -> None:
        load, first = [], []
        for _ in range(min(self.settings.repeats, MAX_STARTS)):
            start = time.perf_counter()
            with self.engine(model) as engine:
                loaded = time.perf_counter()
                engine.scores(windows)
                load.append(loaded - start)
                first.append(time.perf_counter() - loaded)
            gc.collect()
        self.add(Row(name, "load", "fcntag", 0, tuple(load)))
        self.add(Row(name, "first", "fcntag", 0, tuple(first), audio_s=self.clip_s))

    def time_stages(self, name: str, model: Model, engine: Engine, ours: _Variant, windows: np.ndarray) -> None:
        """Decode, resample, mel and network of one clip apart, and the whole path."""
        document, audio = model.document, self.audio
        rate = document.frontend.sample_rate
        with open_track(audio) as track:
            own_rate = track.sample_rate
            plan = plan_segments(document.segments, document.frontend, track.length(rate))
            mono = np.concatenate(list(track.blocks(own_rate)))
        start = max(0, plan.starts[0]) * own_rate // rate
        stop = -(-(plan.starts[-1] + plan.n_samples) * own_rate // rate)

        def decode() -> None:
            with open_track(audio) as track:
                track.length(rate)
                for _ in track.blocks(own_rate, start, stop):
                    pass

        def resample() -> None:
            with open_track(mono, sample_rate=own_rate) as track:
                for _ in read_windows(track, plan):
                    pass

        x = engine.log_mel(windows)
        s = self.settings
        with Tagger(model, device=s.device, precision=s.precision, threads=s.threads, reduce=s.reduce) as tagger:
            calls: dict[str, Callable[[], Any]] = {
                "decode": decode,
                "resample": resample,
                "mel": lambda: engine.log_mel(windows),
                "network": lambda: engine.scores_of(x),
                "tag": lambda: tagger.tag(audio),
            }
            others = machine.OthersCpu()
            samples = alternate(calls, s.repeats, s.seconds, pause=0.0)
        cores = others.cores()
        for stage, values in samples.items():
            network = stage == "network"
            self.add(
                Row(
                    model=name,
                    stage=stage,
                    engine="fcntag",
                    batch=0,
                    samples_s=tuple(values),
                    network=ours.network if stage in ("network", "tag") else "original",
                    audio_s=self.clip_s,
                    flop=2.0 * len(windows) * ours.multiply_adds if network else 0.0,
                    bytes=ours.bytes(len(windows)) if network else 0.0,
                    others_cores=cores,
                )
            )

    def time_blocks(self, name: str, engine: Engine, ours: _Variant, x: np.ndarray) -> None:
        """Every block and the rest, by the engine's own clocks, inside whole runs."""
        engine.scores_of(x)
        others = machine.OthersCpu()
        times: list[list[float]] = []
        # Two runs a round, both of which count: what is timed is inside them.
        rounds = (self.settings.repeats + 1) // 2
        alternate({"run": lambda: times.append(engine.block_times(x))}, rounds, self.settings.seconds)
        cores = others.cores()
        blocks = ours.model.document.blocks
        sizes = ours.model.document.sizes_from(ours.height, ours.width)
        for i, samples in enumerate(zip(*times, strict=True)):
            stage = f"block {i}" if i < len(blocks) else "head"
            flop = 0.0
            if i < len(blocks):
                macs = sizes[i][0] * sizes[i][1] * blocks[i].kernel ** 2
                flop = 2.0 * len(x) * macs * blocks[i].in_channels * blocks[i].out_channels
            self.add(Row(name, stage, "fcntag", len(x), samples, network=ours.network, flop=flop, others_cores=cores))

    def time_network(
        self, name: str, model: Model, engine: Engine, ours: _Variant, reduced: _Variant | None, x: np.ndarray
    ) -> None:
        """Blocks and head of one batch, ours and every peer's in turn, after a check that all compute the same."""
        reference, own_difference = self.reference(model, engine, x)
        calls: dict[tuple[str, str], Callable[[], Any]] = {("fcntag", ours.network): lambda: engine.scores_of(x)}
        variants = {ours.network: ours}
        differences = {("fcntag", ours.network): own_difference}
        original = _Variant("original", model, *model.document.input_size(), model.document.multiply_adds())
        for variant in [original] if reduced is None or not self.settings.peers_reduced else [original, reduced]:
            variants[variant.network] = variant
            for peer in self.peers:
                made = self.peer(peer, name, variant, x, reference)
                if made is not None:
                    calls[peer, variant.network], differences[peer, variant.network] = made
        for contend in (0, self.settings.contend) if self.settings.contend else (0,):
            with contention(contend):
                others = machine.OthersCpu()
                samples = alternate(
                    {"/".join(key): call for key, call in calls.items()}, self.settings.repeats, self.settings.seconds
                )
                cores = others.cores()
            self.add_network_rows(name, samples, calls, variants, differences, len(x), contend, cores)

    def add_network_rows(
        self,
        name: str,
        samples: dict[str, list[float]],
        keys: Any,
        variants: dict[str, _Variant],
        differences: dict[tuple[str, str], float | None],
        batch: int,
        contend: int,
        cores: float | None,
    ) -> None:
        baseline = next(iter(samples.values()))
        for key in keys:
            peer, network = key
            values = samples["/".join(key)]
            self.add(
                Row(
                    model=name,
                    stage="network",
                    engine=peer,
                    batch=batch,
                    samples_s=tuple(values),
                    network=network,
                    contend=contend,
                    audio_s=batch * self.report.models[name]["window_s"],
                    flop=2.0 * batch * variants[network].multiply_adds,
                    bytes=variants[network].bytes(batch),
                    max_score_difference=differences[key],
                    ratio=None if peer == "fcntag" else median_ratio(values, baseline),
                    others_cores=cores,
                )
            )

    def reference(self, model: Model, engine: Engine, x: np.ndarray) -> tuple[np.ndarray, float | None]:
        """fcntag's float32 scores of ``x``, and how far this engine is from them if it is not a float32 one."""
        if self.settings.precision == "float32":
            return engine.scores_of(x), None
        with create_engine(model, device=self.settings.device, threads=self.settings.threads) as exact:
            reference = exact.scores_of(x)
        return reference, float(np.abs(engine.scores_of(x) - reference).max())

    def peer(
        self, peer: str, name: str, variant: _Variant, x: np.ndarray, reference: np.ndarray
    ) -> tuple[Callable[[], Any], float] | None:
        """A call of ``peer`` and its largest score difference; None, and a word in the report, if it does not fit."""
        where = f"{peer} on {name} ({variant.network}), batch {len(x)}"
        inputs = variant.crop(x)
        try:
            made = peers.make(peer, variant.model, len(x), variant.height, variant.width, self.threads)
            difference = float(np.abs(made.run(inputs) - reference).max())
        except Exception as error:  # whatever a runtime does, the others are timed
            text = " ".join(str(error).split())[:200]
            self.report.refused.append(f"{where}: not timed: {type(error).__name__}: {text}")
            return None
        allowed = MAX_DIFFERENCE["bfloat16" if "bf16" in peer else "float32"]
        if not difference <= allowed:  # NaN is a difference, too
            self.report.refused.append(
                f"{where}: not timed: scores differ by {difference:.1e}, more than {allowed:.0e}"
            )
            return None
        return (lambda: made.run(inputs)), difference

    def add(self, row: Row) -> None:
        self.report.rows.append(row)
