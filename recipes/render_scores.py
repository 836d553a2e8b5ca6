"""The scores that the PyPI package music21 ships: the collections, their terms, and their reading as plain notes.

music21's own licence (BSD) does not cover its corpus. "Used": scores whose own file or folder says that they are free,
and music out of copyright whose encoders reserved nothing (corpus/license.txt: distributed with their permission).
"Also": ``--also NAME`` adds it, for those who may use it; by default nothing of it is taken.

=================== ============ ============================================================== =======
collection          style        terms found in music21 10.5.1                                  taken
=================== ============ ============================================================== =======
ryansMammoth        folk         none stated; tunes of 1883, transcribed by Bob Puckette et al. used
oneills1850         folk         none stated; tunes of 1903                                     used
airdsAirs           folk         none stated; tunes of 1778 to 1801                             used
trecento            medieval     none stated; most encoded for music21                          used
ciconia, luca       medieval     CC BY-SA 3.0                                                   used
josquin             renaissance  GPL-2.0-or-later                                               used
monteverdi          renaissance  none stated, but 5.4 and 5.5: copyright Ut Orpheus Edizioni    used, without those two
lusitano            renaissance  none stated                                                    used
corelli             baroque      CC BY                                                          used
cpebach, handel     baroque      none stated                                                    used
haydn, mozart       classical    none stated                                                    used
beethoven           classical    none stated                                                    used
schumann_clara      romantic     op. 1: CC BY-SA 4.0; op. 17/3: an empty copyright sign         used
weber               romantic     released to the public domain                                  used
schumann_robert,    romantic     none stated ("Lindenbaum" has an empty copyright line)         used
schubert, chopin,
verdi
palestrina          renaissance  copyright 2000 John Miller, rights to derivatives reserved     also
bach                baroque      copyright of the engraving, used by permission; 3 of CCARH     also
essenFolksong       folk         non-commercial, status unclear                                 never
leadSheet           (popular)    one "All Rights Reserved"                                      never
the others          (various)    test files, pieces still in copyright somewhere, or from       never
                                 MuseScore.com without their terms
=================== ============ ============================================================== =======
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from render_plan import Note, Piece

# No movement is longer, so a longer score was misread, and is left out.
MAX_QUARTERS = 4000
EXTENSIONS = (".abc", ".mxl", ".xml", ".musicxml", ".krn")


@dataclass(frozen=True)
class Collection:
    """A folder of music21's corpus."""

    style: str
    taken: str  # "used", or "also": only if asked for


COLLECTIONS = {
    **dict.fromkeys(("ryansMammoth", "oneills1850", "airdsAirs"), Collection("folk", "used")),
    **dict.fromkeys(("trecento", "ciconia", "luca"), Collection("medieval", "used")),
    **dict.fromkeys(("josquin", "monteverdi", "lusitano"), Collection("renaissance", "used")),
    **dict.fromkeys(("corelli", "cpebach", "handel"), Collection("baroque", "used")),
    **dict.fromkeys(("haydn", "mozart", "beethoven"), Collection("classical", "used")),
    **dict.fromkeys(
        ("schumann_clara", "schumann_robert", "schubert", "chopin", "verdi", "weber"), Collection("romantic", "used")
    ),
    "palestrina": Collection("renaissance", "also"),
    "bach": Collection("baroque", "also"),
}
RESERVED = {"monteverdi/madrigal.5.4.mxl", "monteverdi/madrigal.5.5.mxl"}


def sources(corpus: Path, also: list[str]) -> list[tuple[str, Path]]:
    """(collection, file) of every score to read, in order."""
    taken = [name for name, collection in COLLECTIONS.items() if collection.taken == "used" or name in also]
    found: dict[Path, tuple[str, Path]] = {}
    for name in taken:
        for path in sorted((corpus / name).rglob("*")):
            if path.suffix in EXTENSIONS and path.relative_to(corpus).as_posix() not in RESERVED:
                found.setdefault(path.with_suffix(""), (name, path))  # some are there in two formats
    return list(found.values())


def read_pieces(collection: str, path: Path, corpus: Path) -> tuple[list[Piece], list[str]]:
    """The pieces of one file, and a line on each that cannot be read."""
    from music21 import converter

    style = COLLECTIONS[collection].style
    name = str(path.relative_to(corpus).with_suffix(""))
    if path.suffix != ".abc":
        try:
            # The title is that of the mass, which the files of its movements share.
            titles = tuple(re.findall(r"(?m)^!!!OPR: *(.*\S)", path.read_text())) if collection == "palestrina" else ()
            return [_piece(converter.parse(path), name, collection, style, titles)], []
        except Exception as error:  # music21 raises anything on a score that it does not understand
            return [], [f"{name}: {type(error).__name__}: {error}"[:200]]
    pieces: list[Piece] = []
    bad = []
    for number, text in enumerate(split_tunes(path.read_text(encoding="utf-8", errors="replace")), 1):
        found = re.search(r"^X:\s*(\d+)", text)
        key = f"{name}#{number}-{found.group(1) if found else ''}"
        try:
            score = converter.parse(text, format="abc")
            score = score.scores[0] if hasattr(score, "scores") else score
            pieces.append(_piece(score, key, collection, style, titles_of(text)))
        except Exception as error:
            bad.append(f"{key}: {type(error).__name__}: {error}"[:200])
    if collection == "josquin" and pieces:  # each voice is a "tune" of its own
        parts = tuple(part for piece in pieces for part in piece.parts)
        return [dataclasses.replace(pieces[0], id=name, titles=(), parts=parts)], bad
    return pieces, bad


def split_tunes(text: str) -> list[str]:
    """The tunes of an ABC file: each goes from an X: line to the next. Lines in front of the first are left out."""
    return [part for part in re.split(r"(?m)^(?=X:)", text) if part.startswith("X:")]


def titles_of(text: str) -> tuple[str, ...]:
    """The T: lines of an ABC tune."""
    return tuple(title.strip() for title in re.findall(r"(?m)^T:(.*)$", text) if title.strip())


def _piece(score: Any, name: str, collection: str, style: str, titles: tuple[str, ...]) -> Piece:
    parts = []
    for part in score.parts if score.parts else [score]:
        notes = []
        for element in part.flatten().stripTies().notes:
            length = float(element.quarterLength)
            if length <= 0 or element.__class__.__name__ == "ChordSymbol":
                continue
            notes += [Note(round(float(element.offset), 4), round(length, 4), pitch.midi) for pitch in element.pitches]
        if notes:
            parts.append(tuple(sorted(notes)))
    if not parts:
        raise ValueError("no notes")
    end = max(note.onset + note.length for part in parts for note in part)
    if end > MAX_QUARTERS:
        raise ValueError(f"{end:g} quarters long")
    signature = next(iter(score.recurse().getElementsByClass("TimeSignature")), None)
    beat = beat_of(signature.numerator, signature.denominator) if signature is not None else 1.0
    bar = float(signature.barDuration.quarterLength) if signature is not None else 4.0
    title = score.metadata.title if score.metadata is not None else None
    titles = titles or ((title,) if title and style == "folk" else ())
    return Piece(name, collection, style, titles, beat, bar, tuple(parts))


def beat_of(numerator: int, denominator: int) -> float:
    """Length of a beat in quarters: three units in a compound bar and in 3/8, else the signature's unit."""
    unit = 4 / denominator
    compound = numerator % 3 == 0 and (numerator > 3 or denominator >= 8)
    return 3 * unit if compound else unit
