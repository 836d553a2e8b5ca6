"""The published models: the facts about each, its file on this machine, and loading a model by any name."""

from __future__ import annotations

from .facts import DEFAULT, Entry, Origin, entries, entry, git_blob_id
from .names import load_any
from .store import home, is_here, load_model, model_path, verify

__all__ = [
    "DEFAULT",
    "Entry",
    "Origin",
    "entries",
    "entry",
    "git_blob_id",
    "home",
    "is_here",
    "load_any",
    "load_model",
    "model_path",
    "verify",
]
