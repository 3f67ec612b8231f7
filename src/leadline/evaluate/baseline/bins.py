"""Frozen bins: made from the reference alone, the same for every window that is ever compared with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

DEFAULT_BINS = 20
"""Quantile bins of a numeric series: 5 % of the reference each, enough to see where a shift is, few enough to need only hundreds of values."""

TOP_CATEGORIES = 64
"""Categories with a bin of their own; the rest share *unseen*. A category's bin should expect some predictions in every window."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bins:
    """Frozen bins of one series; the layout of their counts is `Sketches.set_references`'.

    Numeric: ``[null, non_finite, under, bin…, over, atom…]``, bin i being edges[i] <= x < edges[i+1], the last closed; a value equal to an
    atom counts there alone. Categorical: ``[null, category…, unseen]``.
    """

    kind: Literal["numeric", "categorical"]
    edges: tuple[float, ...] = ()
    atoms: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Entries in the counts."""
        return len(self.categories) + 2 if self.kind == "categorical" else 3 + len(self.edges) + len(self.atoms)

    def id(self, model: str, series: str) -> str:
        """16 hex digits of what the bins are."""
        content = [model, series, self.kind, self.edges, self.atoms, self.categories]
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()[:16]

    def count(self, values: Floats, nulls: float = 0.0, weights: Floats | None = None) -> Floats:
        """Counts of numbers, or the sums of their weights. O(n log bins)."""
        finite = np.isfinite(values)
        edges, atoms = np.array(self.edges), np.array(self.atoms)
        is_atom = np.isin(values, atoms)
        rest = finite & ~is_atom
        place = np.searchsorted(edges, values[rest], side="right")  # 0: under; len(edges): over
        place[values[rest] == edges[-1]] = len(edges) - 1

        def weight(chosen: NDArray[np.bool_]) -> Floats:
            return np.ones(int(chosen.sum())) if weights is None else weights[chosen]

        return np.concatenate(
            [
                [nulls, weight(~finite).sum()],
                np.bincount(place, weight(rest), minlength=len(edges) + 1),
                np.bincount(np.searchsorted(atoms, values[is_atom]), weight(is_atom), minlength=len(atoms)),
            ]
        )

    def count_texts(self, weights: Mapping[str, float], nulls: float = 0.0) -> Floats:
        """Counts of texts, given text -> weight."""
        known = [weights.get(category, 0.0) for category in self.categories]
        return np.array([nulls, *known, max(0.0, sum(weights.values()) - sum(known))])


def numeric_bins(values: Floats, weights: Floats | None = None, *, bins: int = DEFAULT_BINS) -> Bins:
    """Quantile bins of finite values, each with about ``1 / bins`` of the weight.

    A value that alone would fill half a bin (2.5 % of the weight for 20 bins) is kept apart, or quantiles would move with it; lighter ties shift an
    edge by less than that, and more atoms would only thin the evidence. If a float32 holds the value exactly, it becomes an atom, which
    counts what is *equal*. If not (32.1), servers that send float32 would never equal it: it gets a narrow bin of its own.
    For the same reason edges lie half-way between two values and never on one, and the outer two just past the last.

    Parameters
    ----------
    values : float64 array, shape (n,)
        At least one; in any order, repeats allowed.
    weights : float64 array, shape (n,), optional
        1 each if not given.
    bins : int
        Of the weight that is not in atoms; at least one.

    Raises
    ------
    ValueError
        Without a finite value of positive weight.
    """
    weights = np.ones(len(values)) if weights is None else weights
    usable = np.isfinite(values) & (weights > 0)
    if not usable.any():
        raise ValueError("expected at least one finite value")
    distinct, place = np.unique(values[usable] + 0.0, return_inverse=True)
    weight = np.bincount(place, weights[usable])
    total = float(weight.sum())
    heavy = weight >= total / (2 * bins)
    # distinct values that no tie makes heavy: a small reference has few values, not atoms
    heavy &= weight > weight.min() if len(distinct) > 1 else True
    with np.errstate(over="ignore"):
        exact = distinct.astype(np.float32).astype(np.float64) == distinct
    atom = heavy & exact
    rest, rest_weight, alone = distinct[~atom], weight[~atom], heavy[~atom]
    if not len(rest):
        rest, rest_weight, alone = distinct[:1], weight[:1] * 0, np.array([False])
    wanted = max(1, round(bins * (1 - float(weight[atom].sum()) / total)))
    cumulated = np.cumsum(rest_weight)
    cuts = set(np.searchsorted(cumulated, cumulated[-1] * np.arange(1, wanted) / wanted).tolist()) if cumulated[-1] > 0 else set()
    for index in np.flatnonzero(alone).tolist():
        cuts |= {index - 1, index}
    inner = [_between(float(rest[index]), float(rest[index + 1])) for index in sorted(cuts) if 0 <= index < len(rest) - 1]
    edges = sorted({_outside(float(rest[0]), -np.inf), *inner, _outside(float(rest[-1]), np.inf)})
    return Bins("numeric", tuple(edges), tuple((distinct[atom] + 0.0).tolist()))


def categorical_bins(weights: Mapping[str, float], *, top: int = TOP_CATEGORIES) -> Bins:
    """The heaviest categories, heaviest first; ties by name."""
    ordered = sorted(weights, key=lambda text: (-weights[text], text))
    return Bins("categorical", categories=tuple(ordered[:top]))


def _between(low: float, high: float) -> float:
    middle = low / 2 + high / 2
    return middle if low < middle < high else high


def _outside(value: float, towards: float) -> float:
    """Two float32 past the value (to round it to float32 may itself go one), or the last finite float64 where float32 ends."""
    with np.errstate(over="ignore"):
        past = float(np.nextafter(np.nextafter(np.float32(value), np.float32(towards)), np.float32(towards)))
    return past if np.isfinite(past) else float(np.copysign(np.finfo(np.float64).max, towards))
