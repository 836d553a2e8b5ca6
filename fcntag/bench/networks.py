"""The networks that can be timed: everything the catalogue knows, and the paper's with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelError
from ..networks import PAPER, paper_model

if TYPE_CHECKING:
    from ..modelfile import Model


def load(name: str) -> tuple[Model, bool]:
    """The model ``name`` (a name of PAPER, of the catalogue, or a path) and whether its weights are random.

    Raises ModelError for an unknown or missing model.
    """
    if name in PAPER:
        return paper_model(name), True
    from ..catalogue import load_model

    try:
        model = load_model(name)
    except ModelError as error:
        if Path(name).suffix or "/" in name:
            raise
        raise ModelError(f"{error}; with random weights: {', '.join(PAPER)}") from None
    return model, model.document.random_weights
