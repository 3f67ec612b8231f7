"""Exact good and bad counters of each SLI in force, by event-time window and (model, version, role). Pure."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadline.errors import ExpressionError
from leadline.expression import Expression, compile_expression, with_segments
from leadline.model.columns import Column, Columns

COLUMNS = (
    "window_start", "window_s", "sli", "model", "version", "role", "good", "bad", "unknown", "good_estimated", "bad_estimated", "collector", "segment",
)  # fmt: skip

Counts = NDArray[np.float64]
"""good, bad, unknown (observed), good, bad (by inbound weight)."""


@dataclass(frozen=True, slots=True)
class Sli:
    """What is counted: `good` among the predictions of `model` for which `among` is true."""

    id: str
    model: str
    good: Expression
    among: Expression | None

    @classmethod
    def of(cls, definition: Mapping[str, Any], segments: Sequence[str]) -> Sli:
        among, columns = definition.get("among"), with_segments(segments)
        return cls(
            definition["id"],
            definition["model"],
            compile_expression(definition["good"], columns=columns),
            compile_expression(among, columns=columns) if among else None,
        )


class SliCounters:
    """Counts since the last drain.

    Parameters
    ----------
    window_ns : int
        Event-time window of a counter.
    segments : sequence of str
        Names of configured segments, which expressions may use bare.
    """

    def __init__(self, window_ns: int, segments: Sequence[str] = ()) -> None:
        self._window_ns, self._segments = window_ns, tuple(segments)
        self._slis: list[Sli] = []
        self._counts: defaultdict[tuple[int, str, str, str, str], Counts] = defaultdict(lambda: np.zeros(5))
        self.refused: dict[str, str] = {}

    def set_slis(self, definitions: Sequence[Mapping[str, Any]]) -> None:
        """SLIs in force from here on. One that does not compile is left out and named in `refused`."""
        self._slis, self.refused = [], {}
        for definition in definitions:
            try:
                self._slis.append(Sli.of(definition, self._segments))
            except ExpressionError as error:
                self.refused[definition["id"]] = str(error)

    @property
    def active(self) -> bool:
        return bool(self._slis)

    def count(self, columns: Columns) -> None:
        """Counts every prediction of `columns` in each SLI. Cost: a pass over the columns an expression names."""
        events = columns["event_time"].values
        windows, window_of = np.unique(events // self._window_ns, return_inverse=True)
        groups, group_of = _groups([columns[name] for name in ("model", "version", "role")])
        cell = window_of * len(groups) + group_of
        weight_column = columns["inbound_weight"]
        weight = weight_column.values if weight_column.null is None else np.where(weight_column.null, 1.0, weight_column.values)
        for sli in self._slis:
            mine = np.array([sli.model in (model, "") for model, _, _ in groups], dtype=bool)[group_of]
            if not mine.any():
                continue
            if sli.among is not None:
                value, null = sli.among.evaluate(columns, len(events))
                mine &= value & ~null
            good, unknown = sli.good.evaluate(columns, len(events))
            n = len(windows) * len(groups)
            masks = (mine & good & ~unknown, mine & ~good & ~unknown, mine & unknown)
            totals = [np.bincount(cell[mask], minlength=n) for mask in masks]
            totals += [np.bincount(cell[mask], weights=weight[mask], minlength=n) for mask in masks[:2]]
            stacked = np.stack([np.asarray(total, dtype=np.float64) for total in totals])
            for index in np.flatnonzero(stacked[:3].any(axis=0)):
                window, group = divmod(int(index), len(groups))
                self._counts[(int(windows[window]), sli.id, *groups[group])] += stacked[:, index]

    def drain(self, collector: str, segment: int) -> tuple[bytes, int]:
        """JSONEachRow of `COLUMNS`, sorted, and the number of rows; then starts afresh."""
        lines = []
        for (window, sli, model, version, role), (good, bad, unknown, good_estimated, bad_estimated) in sorted(self._counts.items()):
            start_s = window * self._window_ns // 10**9
            row = (
                start_s, round(self._window_ns / 1e9), sli, model, version, role,
                int(good), int(bad), int(unknown), good_estimated, bad_estimated, collector, segment,
            )  # fmt: skip
            lines.append(json.dumps(dict(zip(COLUMNS, row, strict=True))) + "\n")
        self._counts.clear()
        return "".join(lines).encode(), len(lines)


def _groups(columns: Sequence[Column]) -> tuple[list[tuple[str, str, str]], NDArray[np.intp]]:
    """The distinct (model, version, role), and which of them each row is."""
    key = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        assert column.categories is not None
        key = key * max(1, len(column.categories)) + column.values
    _, first, index = np.unique(key, return_index=True, return_inverse=True)
    names = [tuple(str(column.categories[int(column.values[row])]) for column in columns if column.categories is not None) for row in first]
    return [(model, version, role) for model, version, role in names], index
