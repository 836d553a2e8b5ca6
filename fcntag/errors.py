"""The exceptions a caller may want to tell apart; each message is one line that names the file or field."""

from __future__ import annotations


class FcntagError(Exception):
    """Base of every error that fcntag raises on purpose."""


class AudioError(FcntagError, ValueError):
    """A sound file or array cannot be analysed: the message names it, what is wrong and what is allowed."""


class ModelError(FcntagError, ValueError):
    """A model name, model file or checkpoint is unknown, damaged or inconsistent."""


class DeviceError(FcntagError, RuntimeError):
    """The device or precision asked for is not available on this machine."""


class DatasetError(FcntagError, ValueError):
    """An annotation, list or scores file of ``fcntag eval`` is unreadable or inconsistent: the message names it."""
