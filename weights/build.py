"""Rebuild the embedded model files, byte for byte, from the musicnn 0.1.0 wheel on PyPI.

    python weights/build.py [musicnn-0.1.0-py3-none-any.whl] [--to FOLDER]

Without a wheel it is downloaded with pip. Needs fcntag installed (or the repository on PYTHONPATH), no TensorFlow.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from fcntag.convert import convert
from fcntag.modelfile import read_model, write_model

REQUIREMENT = "musicnn==0.1.0"
WHEEL_SHA256 = "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa"
MODELS = ("mtt-vgg", "msd-vgg")


def download(folder: Path) -> Path:
    """The wheel, fetched by pip from the registry it is configured for."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*command, "--dest", str(folder), REQUIREMENT], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def build(wheel: Path, folder: Path) -> list[Path]:
    """Write both model files into ``folder`` and return their paths."""
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise SystemExit(f"{wheel}: sha256 is {digest}; the wheel of {REQUIREMENT} has {WHEEL_SHA256}")
    paths = []
    for name in MODELS:
        path = folder / f"{name}.safetensors"
        write_model(path, *convert(wheel, name))
        paths.append(path)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path, nargs="?", help=f"the wheel of {REQUIREMENT}; default: pip downloads it")
    parser.add_argument("--to", type=Path, default=Path(__file__).resolve().parent, help="folder to write to")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for path in build(arguments.wheel or download(Path(folder)), arguments.to):
            # fcntag/data/catalogue.json records this digest as model_sha256.
            print(read_model(path).sha256, path)


if __name__ == "__main__":
    main()
