"""A baseline from a time range of table `sketches`.

A stored series is atoms (exact values with weights) and a digest of the rest. Both become points with weights: atoms as they are, the digest
by its quantiles. Bins are made from the points of the whole range; counts over them follow from the shares below each edge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from leadline.errors import ConfigError
from leadline.evaluate.baseline.bins import DEFAULT_BINS, Bins, Floats, categorical_bins, numeric_bins
from leadline.evaluate.baseline.reference import Baseline, Reference
from leadline.model.ports import Store

LEVELS = tuple((step + 0.5) / 500 for step in range(500))
"""Quantiles that stand for a digest: each carries 0.2 % of its weight, a twenty-fifth of a bin."""
MAX_WINDOWS = 20_000

_WHERE = """
FROM sketches
WHERE model = {model:String} AND role != 'shadow' AND ({version:String} = '' OR version = {version:String})
  AND window_start >= fromUnixTimestamp({since_s:Int64}) AND window_start < fromUnixTimestamp({until_s:Int64})"""

_SERIES = f"""
SELECT series, sum(estimated) AS estimated, sum(weight_sq) AS weight_sq, sum(length(categories)) > 0 AS is_text
{_WHERE} AND series NOT IN ('', '(other)') GROUP BY series ORDER BY series"""

_WINDOWS = f"""
SELECT intDiv(toInt64(toUnixTimestamp(window_start)), {{width_s:Int64}}) * {{width_s:Int64}} AS start,
       sum(observed) AS observed, sum(estimated) AS estimated, sum(nulls) AS nulls, sum(non_finite) AS non_finite,
       sumMap(mapKeys(atoms), mapValues(atoms)) AS atoms, sumMap(categories) AS categories,
       quantilesTDigestMerge({", ".join(map(str, LEVELS))})(digest) AS quantiles
{_WHERE} AND series = {{series:String}} GROUP BY start ORDER BY start"""


async def from_store(
    store: Store,
    *,
    name: str,
    model: str,
    version: str = "",
    since_ns: int,
    until_ns: int,
    bins: int = DEFAULT_BINS,
    window_s: int = 3600,
    progress: Callable[[float], None] | None = None,
) -> Baseline:
    """Freezes what was measured in [since, until).

    Parameters
    ----------
    name, model, version : str
        All versions together where `version` is empty; shadow predictions are left out.
    since_ns, until_ns : int
        Kept to whole windows of sketches.
    bins : int
        Quantile bins of each numeric series.
    window_s : int
        Width of the history's windows; at least 28 days of them calibrate best (`evaluate/drift/calibration.py`).
    progress : function of the share done, in [0, 1]

    Raises
    ------
    ConfigError
        If nothing was measured in the range, or it holds more than `MAX_WINDOWS` windows.
    StoreError
        If ClickHouse does not answer.

    Notes
    -----
    One query a series and width. Shares are those of the digest, within 0.2 % of the weight.
    """
    if (until_ns - since_ns) // 1_000_000_000 > MAX_WINDOWS * window_s:
        raise ConfigError(
            [f"baseline {name}: expected at most {MAX_WINDOWS} windows of {window_s} s in the range; make them wider, or the range shorter"]
        )
    parameters = {"model": model, "version": version, "since_s": since_ns // 1_000_000_000, "until_s": until_ns // 1_000_000_000}
    found = await store.query(_SERIES, parameters)
    if not found:
        what = f"model {model!r}" + (f", version {version!r}" if version else "")
        look = "SELECT model, version, min(window_start), max(window_start) FROM sketches GROUP BY ALL"
        raise ConfigError([f"baseline {name}: nothing was measured of {what} in the range; {look} says what there is"])
    references, notes = [], []
    for index, row in enumerate(found):
        windows = await store.query(_WINDOWS, {**parameters, "series": row["series"], "width_s": window_s})
        made = _reference(row, windows, bins)
        if made is None:
            notes.append(f"{row['series']}: left out, it has no values in the range")
        else:
            references.append(made)
        if progress:
            progress((index + 1) / len(found))
    source = f"sketches, {parameters['since_s']} to {parameters['until_s']} seconds since 1970"
    return Baseline(name, model, version, tuple(references), window_s, source, tuple(notes))


def _reference(series: Mapping[str, Any], windows: Sequence[Mapping[str, Any]], bins: int) -> Reference | None:
    made: Bins
    history: dict[int, Floats] = {}
    if series["is_text"]:
        total: dict[str, float] = {}
        for row in windows:
            for text, weight in row["categories"].items():
                total[text] = total.get(text, 0.0) + float(weight)
        total.pop("(other)", None)
        if not total:
            return None
        made = categorical_bins(total)
        for row in windows:
            history[int(row["start"])] = made.count_texts(
                {text: float(weight) for text, weight in row["categories"].items()}, _part(row, "nulls")
            )
    else:
        points = {int(row["start"]): _points(row) for row in windows}
        values = np.concatenate([values for values, _ in points.values()] or [np.empty(0)])
        weights = np.concatenate([weights for _, weights in points.values()] or [np.empty(0)])
        if not (weights > 0).any():
            return None
        made = numeric_bins(values, weights, bins=bins)
        for row in windows:
            start = int(row["start"])
            values, weights = points[start]
            history[start] = made.count(values, _part(row, "nulls"), weights)
            history[start][1] += _part(row, "non_finite")
    squared = float(series["weight_sq"])
    n_eff = float(series["estimated"]) ** 2 / squared if squared > 0 else 0.0
    return Reference(series["series"], made, np.sum(list(history.values()), axis=0), n_eff, history)


def _part(row: Mapping[str, Any], name: str) -> float:
    """A count of predictions in weights: it is assumed to weigh as the others."""
    observed = float(row["observed"])
    return float(row[name]) * float(row["estimated"]) / observed if observed else 0.0


def _points(row: Mapping[str, Any]) -> tuple[Floats, Floats]:
    """Atoms, and the digest's quantiles with equal shares of what the atoms leave."""
    values, weights = (np.array(part, np.float64) for part in row["atoms"])
    rest = float(row["estimated"]) - _part(row, "nulls") - _part(row, "non_finite") - float(weights.sum())
    quantiles = np.array(row["quantiles"], np.float64)
    if rest <= 1e-9 * float(row["estimated"]) or not np.isfinite(quantiles).all():
        return values, weights
    return np.concatenate([values, quantiles]), np.concatenate([weights, np.full(len(quantiles), rest / len(quantiles))])
