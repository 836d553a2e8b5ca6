"""The origin of a checkpoint, and the part of the model document that follows from it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..catalogue.facts import Entry, Origin
from ..model.document import FORMAT, ModelDocument, Source


@dataclass(frozen=True)
class Provenance:
    """A checkpoint to convert: the catalogue model whose network it has, and the published file that it is, if any."""

    entry: Entry
    origin: Origin | None  # None: not a file that the catalogue knows
    sha256: str
    file: str

    def document(self, **network: Any) -> ModelDocument:
        """The model document with ``network``'s fields (frontend, segments, blocks, head, variants)."""
        entry = self.entry
        known = ModelDocument(
            format=FORMAT,
            name=entry.name,
            description=entry.description,
            tags=entry.tags,
            licence=entry.licence,
            licence_notice=entry.licence_notice,
            training_data=entry.training_data,
            source=Source(url="", sha256=self.sha256, file=self.file, authors=entry.authors),
            metrics=entry.metrics,
            notes=entry.notes,
            **network,
        )
        if self.origin is not None:
            origin = self.origin
            source = dataclasses.replace(known.source, url=origin.url, file=origin.file, note=origin.note)
            return dataclasses.replace(known, source=source)
        # These are other weights in the same network. Nothing that is known about the published ones holds for them.
        return dataclasses.replace(
            known,
            name=f"{entry.name}-unverified",
            description=f"Weights of unknown origin in the network of {entry.name}",
            licence="unknown",
            licence_notice="",
            training_data="unknown",
            source=dataclasses.replace(known.source, authors="unknown"),
            metrics=(),
            notes=(f"Not the published file of {entry.name}; its tags and constants are assumed.", *entry.notes),
        )
