"""Loading by any name: a model of the catalogue, a network of the paper with random weights, or a path."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelError
from ..model.paper import PAPER, paper_model

if TYPE_CHECKING:
    from ..model.file import Model


def load_any(name: str) -> tuple[Model, bool]:
    """The model ``name`` (a name of PAPER, of the catalogue, or a path) and whether its weights are random.

    Raises ModelError for an unknown or missing model.
    """
    if name in PAPER:
        return paper_model(name), True
    from .store import load_model

    try:
        model = load_model(name)
    except ModelError as error:
        if Path(name).suffix or "/" in name:
            raise
        raise ModelError(f"{error}; with random weights: {', '.join(PAPER)}") from None
    return model, model.document.random_weights
