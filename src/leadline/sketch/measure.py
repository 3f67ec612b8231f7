"""The sketching part: every prediction is measured before anything is dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from leadline._kernel import SKETCH_COLUMNS, Sketches, SpanBatch, prediction_columns
from leadline.model.blocks import Block
from leadline.model.columns import Columns, columns_of
from leadline.model.requests import Cut, Request
from leadline.settings import SketchConfig
from leadline.sketch.slis import COLUMNS, SliCounters

_LAGS = 4_096
_BATCH = 50_000
"""Predictions whose columns are evaluated at once: few enough to keep the interpreter free, many enough to be cheap."""


class Measure:
    """Sketches and SLI counters of one collector.

    A `Part`: what it gives out at a cut is a function of the requests it took since the last.
    """

    def __init__(self, config: SketchConfig, collector: str, segments: Sequence[str]) -> None:
        self._collector = collector
        self._sketches = Sketches(
            int(config.window * 1e9), max_groups=config.max_groups, max_series=config.max_series, max_categories=config.max_categories
        )
        self._slis = SliCounters(int(config.sli_window * 1e9), segments)
        self._uncounted: list[SpanBatch] = []
        self._uncounted_rows = 0
        self._since: int | None = None
        self._counted_since: int | None = None
        self._latest: SpanBatch | None = None
        self._lags = np.empty(0, dtype=np.int64)
        self.overflow: dict[str, int] = {}

    @property
    def sketches(self) -> Sketches:
        """Measured and not yet given out: what the plan asks for quantiles."""
        return self._sketches

    @property
    def refused(self) -> dict[str, str]:
        """SLIs that do not compile: id -> why."""
        return self._slis.refused

    @property
    def lag_p99_ms(self) -> float:
        """Receive time less event time of the latest predictions, p99; 0 before the first."""
        return float(np.quantile(self._lags, 0.99)) / 1e6 if len(self._lags) else 0.0

    def control(self, rules: Mapping[str, Any]) -> None:
        self._count()
        self._slis.set_slis(rules.get("slis", []))
        references = [
            (r["model"], r["series"], r["bins_id"], r.get("edges", []), r.get("atoms", []), r.get("categories", []))
            for r in rules.get("references", [])
        ]
        try:
            self._sketches.set_references(references)
        except ValueError as error:
            self._slis.refused["references"] = str(error)  # those in force stay

    def add(self, request: Request) -> None:
        if not isinstance(request.decoded, SpanBatch):
            return
        rows = sum(request.items.values()) - request.items.get(("traces", ""), 0)  # all but the spans themselves
        if not rows:
            return
        if self._since is None:
            self._since = request.sequence
        self._sketches.add(request.decoded)
        self._latest = request.decoded
        if self._slis.active:
            if self._counted_since is None:
                self._counted_since = request.sequence
            self._uncounted.append(request.decoded)
            self._uncounted_rows += rows
            if self._uncounted_rows >= _BATCH:
                self._count()

    def cut(self, cut: Cut) -> list[Block]:
        self._count()
        if self._latest is not None:  # without an SLI: a request a segment is enough to know how late predictions come
            self._note_lags(columns_of(prediction_columns([self._latest])))
            self._latest = None
        token = f"{self._collector}/{cut.sequence}"
        data, rows = self._slis.drain(self._collector, cut.sequence)
        self._counted_since = None
        blocks = [Block("sli_counts", COLUMNS, "JSONEachRow", data, f"{token}/sli_counts/0", rows)]
        if cut.sketches:
            for kind, n in self._sketches.overflow.items():
                self.overflow[kind] = self.overflow.get(kind, 0) + n
            data, rows = self._sketches.drain(self._collector, cut.sequence)
            self._since = None
            columns = tuple(name for name, _ in SKETCH_COLUMNS)
            blocks.append(Block("sketches", columns, "RowBinary", data, f"{token}/sketches/0", rows))
        return blocks

    def waiting(self) -> dict[tuple[str, str], int]:
        return {}

    @property
    def oldest_sequence(self) -> int | None:
        since = [position for position in (self._since, self._counted_since) if position is not None]
        return min(since) if since else None

    def _count(self) -> None:
        if self._uncounted:
            columns = columns_of(prediction_columns(self._uncounted))
            self._note_lags(columns)
            self._slis.count(columns)
            self._uncounted, self._uncounted_rows, self._latest = [], 0, None

    def _note_lags(self, columns: Columns) -> None:
        lag_ns = columns["receive_time"].values - columns["event_time"].values
        self._lags = np.concatenate([self._lags, lag_ns[:: max(1, len(lag_ns) // _LAGS)]])[-_LAGS:]
