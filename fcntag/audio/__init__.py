"""Sound in: a path, bytes, a file object or an array becomes mono float32 samples at the rate a model needs."""

from .open import open_track
from .source import display_name
from .track import Track

__all__ = ["Track", "display_name", "open_track"]
