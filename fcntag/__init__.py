"""fcntag: fast, framework-free music tagging with fully convolutional networks.

>>> import fcntag
>>> with fcntag.Tagger("mtt-vgg") as tagger:
...     tagger.tag("song.mp3").top(5)

Names are imported when they are first used: ``import fcntag`` itself loads no NumPy and no decoder.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .catalogue.store import load_model
    from .errors import AudioError, DatasetError, DeviceError, FcntagError, ModelError
    from .model.document import ModelDocument
    from .model.file import Model, read_model, write_model
    from .result import EmbedResult, Result
    from .tagger import Tagger

__version__ = "0.1.0"

_HOMES = {
    "AudioError": "errors",
    "DatasetError": "errors",
    "DeviceError": "errors",
    "EmbedResult": "result",
    "FcntagError": "errors",
    "Model": "model.file",
    "ModelDocument": "model.document",
    "ModelError": "errors",
    "Result": "result",
    "Tagger": "tagger",
    "load_model": "catalogue.store",
    "read_model": "model.file",
    "write_model": "model.file",
}

__all__ = [
    "AudioError",
    "DatasetError",
    "DeviceError",
    "EmbedResult",
    "FcntagError",
    "Model",
    "ModelDocument",
    "ModelError",
    "Result",
    "Tagger",
    "__version__",
    "load_model",
    "read_model",
    "write_model",
]

logging.getLogger("fcntag").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name == "eval":  # a package of its own, which ``import fcntag`` alone does not load
        return importlib.import_module(".eval", __name__)
    if name in _HOMES:
        value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
