"""Digests of everything that fcntag computes, to show that a change of the code changes no result by a bit.

    python tests/digests.py -o before.json            # on the commit before
    python tests/digests.py --compare before.json     # on the commit after, same machine and libraries

Every line is one array (or file) under a name that says which: the front end's output, scores, logits, features, block
means and block maps of embedded, pulled, paper's and small random models, on every instruction set and precision of
this machine, reduced and whole, by either algorithm; the CUDA kernels on the emulator in every precision; what
``Tagger`` makes of real and synthetic tracks by every segment rule; and the sha256 of every converted checkpoint.
Models to pull and real tracks need the reference material (``FCNTAG_SHARED``); without it they are left out.
"""

from __future__ import annotations

import argparse
import atexit
import functools
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))

from support.emulated_cuda import build, installed  # noqa: E402
from support.make_models import block, make_model  # noqa: E402
from support.model_fixtures import ORIGINAL_FILES  # noqa: E402
from support.run_folder import open_run  # noqa: E402

from fcntag import Tagger, demo, load_model  # noqa: E402
from fcntag.engine import CpuEngine, create_engine  # noqa: E402
from fcntag.model.document import Log  # noqa: E402
from fcntag.model.file import Model  # noqa: E402
from fcntag.model.paper import PAPER, paper_model  # noqa: E402
from fcntag.pull import pull  # noqa: E402

SHARED = Path(os.environ.get("FCNTAG_SHARED", REPOSITORY.parent / "shared"))
EMBEDDED = ("mtt-vgg", "msd-vgg", "msd-vgg-as-shipped", "fcn3-narrow-music21")
PRECISIONS = ("float32", "tf32", "float16", "bfloat16")
ISAS = ("avx512", "avx2", "neon", "generic")


def digest(array: Any) -> str:
    """Of shape, type and every bit."""
    array = np.ascontiguousarray(array)
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()[:24]


def small_models() -> dict[str, Model]:
    """Random models that between them take every path of the kernels: windows, strides, activations, front ends."""
    rng = np.random.default_rng(20161)
    wide = [block(37, window=(2, 2)), block(64, affine=True, window=(2, 2)), block(19, activation="elu")]
    odd = [
        block(20, window=(3, 5), stride=(2, 3), activation="elu", affine=True),
        block(33, kernel=1, window=(1, 2), activation="none"),
        block(48, window=(3, 3), affine=True),
    ]
    small = [
        block(24, window=(2, 2)),
        block(40, window=(2, 4), activation="elu"),
        block(16, window=(1, 1), affine=True),
    ]
    mfcc = dict(kind="mfcc", n_mfcc=8)
    stft = dict(kind="stft", n_bins=24, first_bin=1, merged_bins=2, n_mels=0, fmin=0.0, fmax=0.0, mel_norm="none")
    below_max = Log(kind="db", amin=1e-10, ref="max", top_db=80.0)
    models = {
        "wide": make_model(rng, wide, n_samples=16000),
        "odd": make_model(rng, odd, n_samples=12000, flatten="hwc", normalization="per_mel"),
        "max": make_model(rng, small, n_samples=9000, flatten="max", layout="time_mel", framing="valid"),
        "standardize": make_model(rng, small, n_samples=9000, normalization="standardize", log=below_max),
        "log10": make_model(rng, small, n_samples=9000, framing="same_theano", log=Log(kind="log10p1", gain=1e4)),
        "float16": make_model(rng, small, n_samples=9000, framing="same_tensorflow", rounding="float16"),
        "mfcc": make_model(rng, small, n_samples=9000, **mfcc),
        "stft": make_model(rng, small, n_samples=9000, **stft),
    }
    dead = make_model(rng, [block(32, window=(2, 2)), block(32, window=(2, 2), activation="elu")], n_samples=9000)
    tensors = dict(dead.tensors)
    for name in ("blocks.0.weight", "blocks.1.weight"):  # channels that are constants, above and below zero
        tensors[name] = tensors[name].copy()
        tensors[name][5:20] = 0.0
    models["constants"] = Model(dead.document, tensors, dead.sha256, dead.path)
    return models


def waves_of(model: Model, batch: int) -> np.ndarray:
    """Half music, half noise, [batch, n_samples]."""
    n = model.document.segments.n_samples
    piece = np.resize(demo.synthesise(1).mean(axis=1), n * batch).reshape(batch, n)
    noise = np.random.default_rng(5).uniform(-0.3, 0.3, (batch, n))
    return np.where(np.arange(batch)[:, None] % 2 == 0, piece, noise).astype(np.float32)


class Digests:
    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def add(self, name: str, value: Callable[[], Any]) -> None:
        """The digest of an array, or the text of an error where there is one to expect."""
        assert name not in self.found, name
        try:
            self.found[name] = digest(value())
        except (ValueError, RuntimeError) as error:
            self.found[name] = f"{type(error).__name__}: {error}"

    def engine(self, name: str, engine: Any, waves: np.ndarray, *, maps: bool = True) -> None:
        x = engine.log_mel(waves)
        self.add(f"{name}: log-mel", lambda: x)
        self.add(f"{name}: scores", lambda: engine.scores(waves))
        self.add(f"{name}: scores of one", lambda: engine.scores(waves[:1]))
        self.add(f"{name}: logits", lambda: engine.logits(x))
        self.add(f"{name}: features", lambda: engine.features(waves))
        if maps:
            self.add(f"{name}: block means", lambda: engine.features(waves, "blocks"))
            for i, found in enumerate(engine.blocks(x)):
                self.add(f"{name}: map {i}", lambda found=found: found)


def cpu(digests: Digests, isa: str) -> None:
    """Everything that ``isa`` computes; the process must have been started with it."""
    small = small_models()
    named = {name: load_model(name) for name in EMBEDDED}
    if (SHARED / "weights").is_dir():
        named |= {name: load_model(name) for name in ORIGINAL_FILES}
    for name, model in (small | named).items():
        waves = waves_of(model, 3)
        for precision in ("float32", "bfloat16"):
            for reduce in (True, False):
                title = f"{isa}, {name}, {precision}, {'reduced' if reduce else 'whole'}"
                try:
                    engine = create_engine(model, device="cpu", precision=precision, reduce=reduce, threads=2)
                except RuntimeError:
                    continue  # this instruction set has no bfloat16
                with engine:
                    digests.engine(title, engine, waves)
        if name in small:
            for algorithm in ("direct", "winograd"):
                with CpuEngine(model, algorithm=algorithm, reduce=False, threads=1) as engine:
                    digests.engine(f"{isa}, {name}, {algorithm}", engine, waves)
    for name in PAPER:
        if isa == "generic" and not name.endswith("narrow"):
            continue  # plain code takes minutes for a wide network, and its kernels are the narrow ones'
        model = paper_model(name)
        for precision in ("float32", "bfloat16"):
            try:
                engine = create_engine(model, device="cpu", precision=precision, threads=2)
            except RuntimeError:
                continue
            with engine:
                digests.engine(f"{isa}, {name}, {precision}", engine, waves_of(model, 2), maps=name.endswith("narrow"))


def cuda(digests: Digests) -> None:
    """The CUDA kernels on the emulator."""
    with installed(build()):
        for name, model in small_models().items():
            waves = waves_of(model, 3)
            for precision in PRECISIONS:
                for reduce in (True, False) if precision == "float32" else (True,):
                    title = f"emulated, {name}, {precision}, {'reduced' if reduce else 'whole'}"
                    with create_engine(
                        model, device="cuda", precision=precision, max_batch=2 + 2 * reduce, reduce=reduce
                    ) as engine:
                        digests.engine(title, engine, waves)
        model = load_model("mtt-vgg")
        with create_engine(model, device="cuda", max_batch=1) as engine:
            digests.engine("emulated, mtt-vgg, float32", engine, waves_of(model, 1))
            pcm = np.random.default_rng(7).uniform(-0.5, 0.5, (1, 132653, 2)).astype(np.float32)
            digests.add("emulated, mtt-vgg, pcm", lambda: engine.scores(pcm, sample_rate=44100))


def tracks(digests: Digests) -> None:
    """Whole tracks through ``Tagger``, and the model files that conversions write."""
    pieces: dict[str, Any] = {"synthetic": (demo.synthesise(0), demo.SAMPLE_RATE)}
    names: list[str] = [*EMBEDDED]
    if (SHARED / "weights").is_dir():
        names += ORIGINAL_FILES
        for path in sorted(path for path in (SHARED / "music").iterdir() if path.suffix in (".mp3", ".ogg", ".flac")):
            pieces[path.name] = (path, None)
    for name in names:
        model = load_model(name)
        if name in ORIGINAL_FILES:
            digests.found[f"file of {name}"] = model.sha256
        with Tagger(model, device="cpu") as tagger:
            for piece, (source, rate) in pieces.items():
                for rule in (None, "all", "center", "dense") if piece == "synthetic" else (None,):
                    title = f"{name}, {piece}, segments {rule}"
                    scores = functools.partial(tagger.tag, source, sample_rate=rate, segments=rule)
                    digests.add(title, lambda scores=scores: scores().segments)
                embed = functools.partial(tagger.embed, source, sample_rate=rate)
                digests.add(f"{name}, {piece}, embed", lambda embed=embed: embed().mean)


def part(name: str) -> dict[str, str]:
    """One part in this process."""
    digests = Digests()
    if name == "emulated":
        cuda(digests)
    elif name == "tracks":
        tracks(digests)
    else:
        cpu(digests, name)
    return digests.found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, help="where to write the digests, as JSON")
    parser.add_argument("--compare", type=Path, help="a file of an earlier run; exit code 1 where anything differs")
    parser.add_argument("--parts", default=",".join(("emulated", "tracks", *ISAS)), help="default: %(default)s")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        json.dump(part(arguments.only), sys.stdout)
        return 0
    open_run(atexit.register)
    found: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as home:
        os.environ["FCNTAG_HOME"] = home
        if (SHARED / "weights").is_dir():
            for name, file in ORIGINAL_FILES.items():
                pull(name, source=SHARED / "weights" / file)
        for name in arguments.parts.split(","):
            environment = {**os.environ, **({"FCNTAG_FORCE_ISA": name} if name in ISAS else {})}
            command = [sys.executable, __file__, "--only", name]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode and name in ISAS and "FCNTAG_FORCE_ISA" in done.stderr:
                print(f"{name}: not of this machine")
                continue
            if done.returncode:
                print(done.stderr, file=sys.stderr)
                return 2
            found[name] = json.loads(done.stdout)
            print(f"{name}: {len(found[name])} digests", flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    if arguments.compare:
        return compare(json.loads(arguments.compare.read_text()), found)
    return 0


def compare(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> int:
    """Print every digest that differs, for the parts that were computed now; 1 if any does."""
    equal = differing = 0
    for name, found in after.items():
        earlier = before.get(name, {})
        for key in sorted(earlier.keys() | found.keys()):
            if earlier.get(key) == found.get(key):
                equal += 1
            else:
                differing += 1
                print(f"{key}: {earlier.get(key, 'missing')} -> {found.get(key, 'missing')}")
    print(f"{equal} equal, {differing} not")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
