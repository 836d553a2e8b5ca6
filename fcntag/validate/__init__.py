"""Is the engine right on this machine? Stage by stage against the float64 oracle, another framework, or stored arrays.

* ``mel``: the network's input, computed from the same waveform. STFT and MFCC front ends have this stage too.
* ``block 1`` ... : each block **on its own**. The reference computes it from the map that the engine's block really
  had. A wrong block therefore shows in its own line and in no other.
* ``head``: the logits, computed from the engine's own last map.
* ``scores``: from the waveform to the scores. The reference computes them all by itself, and the engine computes them
  as it does for a user, its lossless reduction included.

Blocks and head are those of the whole network, because the reduced one has other channels. The tolerances and their
reasons are in ``fcntag.validate.tolerances``.
"""

from __future__ import annotations

from .cases import Case
from .measure import Stage
from .references import REFERENCES, Reference
from .report import CaseReport, Report
from .run import check, validate
from .stored import StoredError

__all__ = ["REFERENCES", "Case", "CaseReport", "Reference", "Report", "Stage", "StoredError", "check", "validate"]
