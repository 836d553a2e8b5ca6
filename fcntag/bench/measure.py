"""The CPU's bench: its settings, and everything that one run times and checks."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..audio import open_track
from ..engine import Engine, create_engine
from ..pipeline.decode import read_windows
from ..pipeline.segments import plan_segments
from ..tagger import Tagger
from . import clips, machine, peers
from .report import Report, Row
from .samples import median_ratio
from .shared import Bench, cold_starts, engine_starts, settings_checked
from .timing import alternate, contention
from .variants import Variant, original_variant, reduced_variant

if TYPE_CHECKING:
    from ..model.file import Model

# A peer's scores may differ from fcntag's float32 ones by so much. A peer that differs more is named and not timed: it
# computes something else.
MAX_DIFFERENCE = {"float32": 1e-4, "bfloat16": 5e-2}
# No more processes and engines than these are started for a model, however many samples a row gets: each start is a
# first time by itself, and takes long.
MAX_STARTS = 5

Key = tuple[str, str]  # engine, variant


@dataclass(frozen=True)
class Settings:
    """The models, batches and peers to time on the CPU, and how long.

    Attributes
    ----------
    threads : of fcntag and of its peers; 0 leaves the number to the engine
    peers_reduced : time the peers on the reduced network as well
    reduce : let fcntag run the reduced network, as it does by default
    repeats : samples of a row
    seconds : rows that are timed in turn take no longer than so much, even if their samples are fewer then
    contend : time the networks again beside so many busy processes; 0 leaves that out
    audio : path of the clip; "" stands for the demo piece
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


def measure(settings: Settings, say: Callable[[str], None]) -> Report:
    """Time everything that ``settings`` names on this machine's CPU.

    Parameters
    ----------
    settings : the models, batches and peers, and how often and how long they are timed
    say : is told the progress, one line at a time

    Raises
    ------
    ModelError, DeviceError, AudioError, SettingsError : before anything is timed
    """
    with tempfile.TemporaryDirectory(prefix="fcntag-bench-") as folder:
        with settings_checked():
            bench = _CpuBench(settings, Path(folder), say)
        return bench.run()


class _CpuBench(Bench):
    def __init__(self, settings: Settings, folder: Path, say: Callable[[str], None]) -> None:
        super().__init__(settings.models, say)
        self.settings = settings
        for model, _ in self.loaded.values():  # a device or model that does not work must fail now, not after minutes
            with self.engine(model) as engine:
                self.threads = engine.threads
        self.audio = Path(settings.audio) if settings.audio else clips.write_clip(folder)
        with open_track(self.audio) as track:
            self.clip_s = track.length(track.sample_rate) / track.sample_rate
        self.report = Report(machine.environment(self.threads), asdict(settings))
        self.report.settings["audio"] = settings.audio or f"demo piece, {self.audio.suffix[1:].upper()}"
        self.report.settings["audio_s"] = self.clip_s
        self.peers = self.find_peers(settings.peers, peers.version)

    def engine(self, model: Model) -> Engine:
        """An engine for ``model``, as the settings say."""
        s = self.settings
        return create_engine(
            model,
            device=s.device,
            precision=s.precision,
            max_batch=max(64, *s.batches),
            threads=s.threads,
            reduce=s.reduce,
        )

    def run(self) -> Report:
        """Time every model between two readings of the machine's load."""
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
            report.ceilings = {unit: max(value, again[unit]) for unit, value in report.ceilings.items()}
        load = machine.others_load(self.threads + self.settings.contend)
        report.environment["load_after"] = load
        if load is not None and load > machine.QUIET_LOAD:
            self.warn(f"load average of other processes {load:.1f} at the end: they disturbed the times")
        busiest = max((row.others_cores or 0 for row in report.rows if not row.contend), default=0)
        if busiest > machine.QUIET_LOAD:
            self.warn(f"other processes kept up to {busiest:.1f} cores busy while something was timed")
        return report

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
            info["fcntag_network"] = ours.name
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

    def variants(self, model: Model, engine: Engine) -> tuple[Variant, Variant | None]:
        """The network as fcntag runs it, and the reduced one where fcntag or a peer is timed on it."""
        engine_reduces = engine.reduction is not None
        if not (engine_reduces or (self.settings.peers_reduced and self.peers)):
            return original_variant(model), None
        reduced = reduced_variant(model)
        return (reduced if engine_reduces else original_variant(model)), reduced

    def time_cold(self, name: str, model: Model) -> None:
        """A user's first ``fcntag tag``: a new process, from its start to its end."""
        s = self.settings

        def arguments(path: Path) -> list[str]:
            command = ["-m", "fcntag", "tag", "-q", "-f", "jsonl", "--model", str(path)]
            command += ["--device", s.device, "--precision", s.precision, "--threads", str(s.threads), str(self.audio)]
            return command if s.reduce else [*command, "--no-reduce"]

        starts = cold_starts(model, arguments, min(s.repeats, MAX_STARTS))
        self.add(
            Row(
                model=name,
                stage="cold",
                engine="fcntag",
                batch=0,
                samples_s=starts.samples_s,
                audio_s=self.clip_s,
                others_cores=starts.others_cores,
                peak_rss_bytes=starts.peak_rss_bytes,
            )
        )

    def time_first(self, name: str, model: Model, windows: np.ndarray) -> None:
        """An engine made of a model in memory, and its first call."""
        count = min(self.settings.repeats, MAX_STARTS)
        load, first = engine_starts(lambda: self.engine(model), windows, count)
        self.add(Row(name, "load", "fcntag", 0, load))
        self.add(Row(name, "first", "fcntag", 0, first, audio_s=self.clip_s))

    def time_stages(self, name: str, model: Model, engine: Engine, ours: Variant, windows: np.ndarray) -> None:
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
            counted = stage == "network"  # the only stage whose operations are counted
            self.add(
                Row(
                    model=name,
                    stage=stage,
                    engine="fcntag",
                    batch=0,
                    samples_s=tuple(values),
                    variant=ours.name if stage in ("network", "tag") else "original",
                    audio_s=self.clip_s,
                    flop=2.0 * len(windows) * ours.multiply_adds if counted else 0.0,
                    bytes=ours.min_bytes(len(windows)) if counted else 0.0,
                    others_cores=cores,
                )
            )

    def time_blocks(self, name: str, engine: Engine, ours: Variant, x: np.ndarray) -> None:
        """Every block, and the head, by the engine's own clocks, inside whole runs."""
        engine.scores_of(x)
        others = machine.OthersCpu()
        times: list[list[float]] = []
        # alternate() puts an untimed run in front of a timed one. Both count here: the engine's clocks are inside them.
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
            self.add(Row(name, stage, "fcntag", len(x), samples, variant=ours.name, flop=flop, others_cores=cores))

    def time_network(
        self, name: str, model: Model, engine: Engine, ours: Variant, reduced: Variant | None, x: np.ndarray
    ) -> None:
        """Blocks and head of one batch, ours and every peer's in turn, after a check that all compute the same."""
        reference, own_difference = self.reference(model, engine, x)
        calls: dict[Key, Callable[[], Any]] = {("fcntag", ours.name): lambda: engine.scores_of(x)}
        variants = {ours.name: ours}
        differences = {("fcntag", ours.name): own_difference}
        original = original_variant(model)
        for variant in [original] if reduced is None or not self.settings.peers_reduced else [original, reduced]:
            variants[variant.name] = variant
            for peer in self.peers:
                made = self.peer(peer, name, variant, x, reference)
                if made is not None:
                    calls[peer, variant.name], differences[peer, variant.name] = made
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
        keys: Iterable[Key],
        variants: dict[str, Variant],
        differences: dict[Key, float | None],
        batch: int,
        contend: int,
        cores: float | None,
    ) -> None:
        baseline = next(iter(samples.values()))
        for key in keys:
            peer, variant = key
            values = samples["/".join(key)]
            self.add(
                Row(
                    model=name,
                    stage="network",
                    engine=peer,
                    batch=batch,
                    samples_s=tuple(values),
                    variant=variant,
                    contend=contend,
                    audio_s=batch * self.report.models[name]["window_s"],
                    flop=2.0 * batch * variants[variant].multiply_adds,
                    bytes=variants[variant].min_bytes(batch),
                    max_score_difference=differences[key],
                    ratio=None if peer == "fcntag" else median_ratio(values, baseline),
                    others_cores=cores,
                )
            )

    def reference(self, model: Model, engine: Engine, x: np.ndarray) -> tuple[np.ndarray, float | None]:
        """fcntag's float32 scores of ``x``, and this engine's distance from them; None if it is a float32 one."""
        if self.settings.precision == "float32":
            return engine.scores_of(x), None
        with create_engine(model, device=self.settings.device, threads=self.settings.threads) as exact:
            reference = exact.scores_of(x)
        return reference, float(np.abs(engine.scores_of(x) - reference).max())

    def peer(
        self, peer: str, name: str, variant: Variant, x: np.ndarray, reference: np.ndarray
    ) -> tuple[Callable[[], Any], float] | None:
        """A call of ``peer`` and its largest score difference.

        A peer that fails, or whose scores differ too much, gives None, and the report names it.
        """
        where = f"{peer} on {name} ({variant.name}), batch {len(x)}"
        inputs = variant.crop(x)
        try:
            made = peers.make(peer, variant.model, len(x), variant.height, variant.width, self.threads)
            difference = float(np.abs(made.run(inputs) - reference).max())
        except Exception as error:  # a runtime may raise anything; the others are timed all the same
            text = " ".join(str(error).split())[:200]
            self.report.refused.append(f"{where}: not timed: {type(error).__name__}: {text}")
            return None
        allowed = MAX_DIFFERENCE["bfloat16" if "bf16" in peer else "float32"]
        if not difference <= allowed:  # this refuses NaN as well
            self.report.refused.append(
                f"{where}: not timed: scores differ by {difference:.1e}, more than {allowed:.0e}"
            )
            return None
        return (lambda: made.run(inputs)), difference
