"""Rebuild musicnn's embedded model files, byte for byte, from the musicnn 0.1.0 wheel on PyPI.

    python weights/build.py [musicnn-0.1.0-py3-none-any.whl] [--to FOLDER]
    python weights/build.py --trained runs/NAME/NAME.safetensors [--to FOLDER]

Without a wheel it is downloaded with pip. With --trained, take over a model that recipes/train.py made, with the
licence, notes and authors of the catalogue's entry of that name. Needs fcntag installed (or the repository on
PYTHONPATH), no TensorFlow.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from fcntag import catalogue
from fcntag.convert import convert
from fcntag.model.file import read_model, write_model

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


def adopt(trained: Path, folder: Path) -> Path:
    """Write a model that we trained into ``folder``, described as the catalogue does; its path."""
    model = read_model(trained)
    item = catalogue.entry(model.document.name)
    document = dataclasses.replace(
        model.document,
        description=item.description,
        licence=item.licence,
        licence_notice=item.licence_notice,
        training_data=item.training_data,
        source=dataclasses.replace(model.document.source, authors=item.authors),
        notes=(*item.notes, *model.document.notes),
    )
    path = folder / f"{document.name}.safetensors"
    write_model(path, document.validate(), model.tensors)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path, nargs="?", help=f"the wheel of {REQUIREMENT}; default: pip downloads it")
    parser.add_argument("--to", type=Path, default=Path(__file__).resolve().parent, help="folder to write to")
    parser.add_argument("--trained", type=Path, metavar="FILE", help="a model file of recipes/train.py to take over")
    arguments = parser.parse_args()
    if arguments.trained:
        path = adopt(arguments.trained, arguments.to)
        print(read_model(path).sha256, path)
        return
    with tempfile.TemporaryDirectory() as folder:
        for path in build(arguments.wheel or download(Path(folder)), arguments.to):
            # fcntag/catalogue/catalogue.json records this digest as model_sha256.
            print(read_model(path).sha256, path)


if __name__ == "__main__":
    main()
