"""Readers of tagging datasets: each returns a ``Dataset``; files are never downloaded."""

from .base import Dataset
from .jamendo import jamendo
from .magnatagatune import magnatagatune
from .msd import msd
from .plain import plain

__all__ = ["Dataset", "jamendo", "magnatagatune", "msd", "plain"]
