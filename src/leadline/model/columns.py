"""Columns: what expressions are evaluated on, in numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Column:
    """One column of n rows.

    Parameters
    ----------
    values : array, shape (n,)
        float64, int64, bool, or uint32 codes into `categories`.
    null : bool array, shape (n,), or None
        True where the value is missing; None means that nothing is.
    categories : tuple of str, or None
        For text: the distinct values that the codes index.
    """

    values: NDArray[Any]
    null: NDArray[np.bool_] | None = None
    categories: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.null is not None and self.null.shape != self.values.shape:
            raise ValueError(f"null has shape {self.null.shape}, values {self.values.shape}")

    def __len__(self) -> int:
        return int(self.values.shape[0])


Columns = Mapping[str, Column]


def columns_of(raw: Mapping[str, tuple[NDArray[Any], NDArray[np.bool_] | None, list[str] | None]]) -> dict[str, Column]:
    """The kernel's `prediction_columns` as `Column`s."""
    return {name: Column(values, null, None if names is None else tuple(names)) for name, (values, null, names) in raw.items()}
