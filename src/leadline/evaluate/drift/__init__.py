"""Drift detectors. Each is one function of a rule and a reading (`evaluate/detector.py`); `DETECTORS` is the registry.

If you want one number that SQL can recompute over frozen bins, for numbers and categories alike, use ``psi``.
"""

from __future__ import annotations

from leadline.evaluate.detector import Detectors
from leadline.evaluate.drift.rule import psi

DETECTORS: Detectors = {"psi": psi}
"""Measure -> detector, in the order the documents show."""
