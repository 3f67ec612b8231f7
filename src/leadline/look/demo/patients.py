"""The data: 442 patients of B. Efron et al. (2004), "Least Angle Regression", as scikit-learn ships them, with readable names."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MODEL: Final = "diabetes-progression"
FEATURES: Final = {
    "age": "float32",
    "sex": "categorical",
    "bmi": "float32",
    "blood_pressure": "float32",
    "cholesterol": "float32",
    "ldl": "float32",
    "hdl": "float32",
    "cholesterol_ratio": "float32",
    "log_triglycerides": "float32",
    "glucose": "float32",
}
"""Name -> dtype, in the data set's order (there: age, sex, bmi, bp, s1 … s6)."""
NUMERIC: Final = tuple(name for name, dtype in FEATURES.items() if dtype != "categorical")
MMOL: Final = 18.016
"""mg/dl of glucose in one mmol/l: its molar mass, 180.16 g/mol, over 10."""

Row = dict[str, float | str]


@dataclass(frozen=True, slots=True)
class Patients:
    """Rows of features, and whether the disease went on faster than the median a year later."""

    rows: tuple[Row, ...]
    fast: tuple[bool, ...]


def load() -> Patients:
    """Reads the data set out of scikit-learn's package; nothing is downloaded."""
    from sklearn.datasets import load_diabetes

    data, target = load_diabetes(return_X_y=True, scaled=False)
    rows = tuple(
        {
            name: f"{value:.0f}" if dtype == "categorical" else float(value)
            for (name, dtype), value in zip(FEATURES.items(), row, strict=True)
        }
        for row in data
    )
    median = sorted(target)[len(target) // 2]
    return Patients(rows, tuple(bool(value > median) for value in target))


def write_csv(rows: Iterable[Row], path: Path) -> None:
    """The training set as a file, for `leadline baseline create`."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(FEATURES))
        writer.writeheader()
        writer.writerows(rows)
