"""The facts about every published model, read from ``catalogue.json``: origin, sha256, licence, published figures."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelError
from ..model.document import Metric

DEFAULT = "mtt-vgg"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """One published file that holds a model's weights; several may hold the same weights."""

    url: str
    file: str  # path inside the repository, or for an archive the folder of the checkpoint in it
    sha256: str  # of the file at ``url``, in hex; a prefix of at least 16 digits where the whole was never recorded
    git_blob: str = ""  # git's object id of the same bytes (or a prefix): a second check where sha256 is a prefix
    members: dict[str, str] = dataclasses.field(default_factory=dict)  # of an archive: path in it -> sha256
    note: str = ""

    def matches(self, data: bytes) -> bool:
        """Whether ``data`` is this file."""
        return hashlib.sha256(data).hexdigest().startswith(self.sha256) and git_blob_id(data).startswith(self.git_blob)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One model of the catalogue."""

    name: str
    description: str
    embedded: bool  # shipped with the package; else it has to be pulled
    base: str | None  # of a variant: the model whose file it shares
    origins: tuple[Origin, ...]  # the first is the one that ``pull`` downloads; none of a model that we trained
    authors: str
    licence: str
    licence_notice: str
    training_data: str
    tags: tuple[str, ...]
    metrics: tuple[Metric, ...]
    notes: tuple[str, ...]
    test_clips: int = 0  # of the test set that ``metrics`` are for; 0 where it is not on record
    model_sha256: str = ""  # embedded: of the model file

    @property
    def url(self) -> str:
        """Where the original weights are published; "" where there are none."""
        return self.origins[0].url if self.origins else ""

    @property
    def sha256(self) -> str:
        """Of the file at ``url``; a prefix where the whole was never recorded, "" where there is none."""
        return self.origins[0].sha256 if self.origins else ""


@functools.cache
def entries() -> tuple[Entry, ...]:
    """Every model of the catalogue, variants included, the default first."""
    data = json.loads((Path(__file__).resolve().parent / "catalogue.json").read_text(encoding="utf-8"))
    found: dict[str, Entry] = {}
    for item in data["models"]:
        if "base" not in item:
            item = {"base": None, "embedded": False, **item}
            item["origins"] = tuple(Origin(**origin) for origin in item["origins"])
            item["tags"] = tuple(data["tags"][item["tags"]])
            item["metrics"] = tuple(Metric(**metric) for metric in item["metrics"])
            item["notes"] = tuple(item["notes"])
            item["licence_notice"] = data["notices"][item["licence_notice"]]
            found[item["name"]] = Entry(**item)
        else:  # a variant states only what differs
            item["notes"] = (*item["notes"], *found[item["base"]].notes)
            item["metrics"], item["test_clips"] = (), 0
            found[item["name"]] = dataclasses.replace(found[item["base"]], **item)
    return tuple(found.values())


def entry(name: str) -> Entry:
    """The entry called ``name``; raises ModelError that lists the known names."""
    for item in entries():
        if item.name == name:
            return item
    from ..model.paper import PAPER

    if name in PAPER:
        raise ModelError(
            f"{name}: a network of the paper, whose trained weights were never released; "
            f"for random ones: fcntag models new {name} -o FILE.safetensors, and name that file"
        )
    raise ModelError(f"{name}: unknown model; known: {', '.join(e.name for e in entries())}, or a .safetensors file")


def git_blob_id(data: bytes) -> str:
    """The id that git gives a file with these bytes: repositories list it where no sha256 was ever published."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
