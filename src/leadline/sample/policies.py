"""Policies: each raises a trace's probability of being kept, and none breaks its weight.

If errors matter, `error`. If slowness has a known limit, `slow: {threshold: 500ms}`; if not, `slow` alone takes the quantile of the
trace's own model. If you want a plain share of everything, `probabilistic: 5%`. If a rule of yours says it, `expression`. To keep all,
`always`. With a budget and no `probabilistic`, what the policies leave of the budget goes to all other traces evenly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from leadline.errors import ConfigError, ExpressionError
from leadline.expression import TRACE_COLUMNS, Expression, compile_expression, with_segments
from leadline.model.columns import Column, columns_of
from leadline.sample.plan import Plan
from leadline.settings import KeepExpression, KeepProbabilistic, KeepSlow, SampleConfig, SlowLimit

Table = Mapping[str, Any]
"""The columns of `TraceBuffer.due`."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Policy(Protocol):
    """Says with which probability each trace is to be kept at least."""

    @property
    def name(self) -> str: ...

    def probability(self, table: Table, plan: Plan) -> Floats:
        """Shape (n,), in [0, 1]; a function of the table's columns and the plan, never of their order."""


@dataclass(frozen=True, slots=True)
class Always:
    """Every trace."""

    name: str = "always"

    def probability(self, table: Table, plan: Plan) -> Floats:
        return np.ones(len(table["spans"]))


@dataclass(frozen=True, slots=True)
class Error:
    """Traces with a span whose status is ERROR."""

    name: str = "error"

    def probability(self, table: Table, plan: Plan) -> Floats:
        return table["error"].astype(np.float64)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Probabilistic:
    """A share of all traces."""

    share: float
    name: str = "probabilistic"

    def probability(self, table: Table, plan: Plan) -> Floats:
        return np.full(len(table["spans"]), self.share)


@dataclass(frozen=True, slots=True)
class Slow:
    """Traces longer than a fixed limit, or with a prediction slower than the plan's quantile of its own model.

    A trace without a prediction is held against the quantile of its service.
    """

    limit: SlowLimit
    name: str = "slow"

    def probability(self, table: Table, plan: Plan) -> Floats:
        duration_ns = np.maximum(table["end_ns"] - table["start_ns"], 0)
        if self.limit.threshold is not None:
            slow = duration_ns > self.limit.threshold * 1e9
        else:
            codes, names = table["service"]
            of_service = np.array([plan.slow_ns.get(("", name, ""), np.inf) for name in names] or [np.inf])
            slow = (table["predictions"] == 0) & (duration_ns > of_service[codes])
            if len(table["p_trace"]):
                of_group = np.array([plan.slow_ns.get(tuple(group), np.inf) for group in table["groups"]])
                mine = table["p_duration_ns"] > of_group[table["p_group"]]
                np.logical_or.at(slow, table["p_trace"], mine)
        return np.where(slow, self.limit.probability, 0.0)


@dataclass(frozen=True, slots=True)
class Matches:
    """Traces with a row for which the expression is true: their predictions, or the trace itself where it has none."""

    expression: Expression
    raised_to: float
    name: str

    def probability(self, table: Table, plan: Plan) -> Floats:
        n = len(table["spans"])
        matched = np.zeros(n, dtype=bool)
        if len(table["p_trace"]):
            rows = columns_of(table["rows"])
            of_trace = _trace_columns(table)
            rows.update({name: _taken(of_trace[name], table["p_trace"]) for name in ("span_count", "error", "service")})
            value, null = self.expression.evaluate(rows, len(table["p_trace"]))
            np.logical_or.at(matched, table["p_trace"], value & ~null)
        value, null = self.expression.evaluate(_trace_columns(table), n)
        matched |= value & ~null & (table["predictions"] == 0)
        return np.where(matched, self.raised_to, 0.0)


def policies_of(config: SampleConfig, segments: Sequence[str] = ()) -> tuple[Policy, ...]:
    """The policies of `sample.keep`, in its order.

    Raises
    ------
    ConfigError
        For expressions outside the grammar: every one, with its key and column.
    """
    made: list[Policy] = []
    faults: list[str] = []
    for index, keep in enumerate(config.keep):
        match keep:
            case "always":
                made.append(Always())
            case "error":
                made.append(Error())
            case "slow":
                made.append(Slow(SlowLimit()))
            case KeepSlow():
                made.append(Slow(keep.slow))
            case KeepProbabilistic():
                made.append(Probabilistic(keep.probabilistic))
            case KeepExpression():
                try:
                    condition = compile_expression(keep.expression, columns=with_segments(segments, TRACE_COLUMNS))
                except ExpressionError as error:
                    faults.append(f"sample.keep[{index}].expression: {error}")
                    continue
                made.append(Matches(condition, keep.probability, keep.name or "expression"))
    if faults:
        raise ConfigError(faults)
    return tuple(made)


def _trace_columns(table: Table) -> dict[str, Column]:
    """The rows of traces that have no prediction: what a trace says of itself; everything else is missing."""
    codes, names = table["service"]
    nothing = np.ones(len(codes), dtype=bool)
    no_text = Column(np.zeros(len(codes), dtype=np.uint32), nothing, ("",))
    no_number = Column(np.zeros(len(codes)), nothing)
    return {
        **dict.fromkeys(("model", "version", "role", "task", "predicted"), no_text),
        **dict.fromkeys(("score", "confidence"), no_number),
        "duration_ns": Column(np.maximum(table["end_ns"] - table["start_ns"], 0)),
        "span_count": Column(table["spans"].astype(np.int64)),
        "error": Column(table["error"].astype(bool)),
        "service": Column(codes, None, tuple(names)),
        "error_type": Column(table["error"].astype(np.uint32), None, ("", "error")),
    }


def _taken(column: Column, index: NDArray[np.uint32]) -> Column:
    return Column(column.values[index], None if column.null is None else column.null[index], column.categories)
