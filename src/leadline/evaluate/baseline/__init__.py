"""Baselines: frozen references that drift is measured against.

If you have the training set, use `from_file` (CSV or Parquet). If the model has run for some weeks that you trust, use `from_store`: their
history by the hour then calibrates the alarms (`evaluate/drift/calibration.py`). Either gives a `Baseline`, whose `blocks` go to
tables `baselines` and `baseline_windows`.
"""

from __future__ import annotations

from leadline.evaluate.baseline.bins import Bins, categorical_bins, numeric_bins
from leadline.evaluate.baseline.file import from_file
from leadline.evaluate.baseline.reference import Baseline, Reference
from leadline.evaluate.baseline.stored import from_store

__all__ = ["Baseline", "Bins", "Reference", "categorical_bins", "from_file", "from_store", "numeric_bins"]
