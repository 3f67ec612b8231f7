"""The sampling part: holds undecided traces, decides what is due, gives out what is stored."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from leadline._kernel import PREDICTION_COLUMNS, SPAN_COLUMNS, SpanBatch, Taken, TraceBuffer
from leadline.model.blocks import Block
from leadline.model.ports import Bodies
from leadline.model.requests import Cut, Request
from leadline.sample.decisions import DecisionBatch, decide
from leadline.sample.plan import Planner
from leadline.sample.policies import Matches, Slow, policies_of
from leadline.settings import SampleConfig

Quantiles = Callable[[Sequence[float]], list[tuple[str, str, str, float, Any]]]
"""Quantiles of duration_ms by (model, version, role) over what has been measured lately, with the weight behind them."""

_BATCH = 12_500
_BATCH_SPANS = 125_000
"""Traces and spans decided at once: few enough to be held in memory, and below the million rows that ClickHouse writes as one part."""
_BODIES_BYTES = 32 * 2**20
"""Bytes of requests that are read back at once."""
_MIN_WEIGHT = 100.0
"""Observations below which a quantile of durations is not used: the 0.99 quantile of fewer is their maximum."""
_SERVICES = 1_000
_RECENT = 2_048


class Sampler:
    """Undecided traces and the plan. A `Sampling` part.

    Parameters
    ----------
    config : SampleConfig
    collector : str
    quantiles : callable
        Where limits of `slow` come from.
    segments : sequence of str
        Names that expressions may use bare.
    export : bool
        Whether kept spans are also given out as OTLP.
    """

    def __init__(
        self, config: SampleConfig, collector: str, quantiles: Quantiles, *, segments: Sequence[str] = (), export: bool = False
    ) -> None:
        self._config, self._collector, self._quantiles, self._export = config, collector, quantiles, export
        self._policies = policies_of(config, segments)
        self._rows = any(isinstance(policy, Matches) for policy in self._policies)
        self._levels = sorted({p.limit.quantile for p in self._policies if isinstance(p, Slow) and p.limit.threshold is None})
        self._planner = Planner(config)
        self._stored_revision: int | None = None
        self._services: dict[str, np.ndarray[Any, Any]] = {}
        self._buffer = TraceBuffer(
            int(config.decision_wait * 1e9),
            wait_after_root_ns=int(config.decision_wait_after_root * 1e9),
            max_bytes=config.max_bytes,
            max_traces=config.max_traces,
            remember_kept=config.remember_kept,
            remember_dropped=config.remember_dropped,
        )
        self.bodies: Bodies | None = None
        """Where undecided requests can be read again; without it they are held in memory."""
        self.kept_by_policy: dict[str, int] = {}
        self.rescued = 0

    # -- the part --------------------------------------------------------------------------------------------------------

    def control(self, rules: Mapping[str, Any]) -> None:
        """Sampling follows its settings alone."""

    def add(self, request: Request) -> None:
        if isinstance(request.decoded, SpanBatch):
            elsewhere = self.bodies is not None and self.bodies.size(request.sequence) == request.decoded.size
            self._buffer.add(request.decoded, request.sequence, hold=not elsewhere)

    def cut(self, cut: Cut) -> list[Block]:
        return []

    def waiting(self) -> dict[tuple[str, str], int]:
        return {("traces", ""): self._buffer.spans, **{("predictions", model): n for model, n in self._buffer.predictions.items()}}

    @property
    def oldest_sequence(self) -> int | None:
        return self._buffer.oldest_sequence

    # -- deciding --------------------------------------------------------------------------------------------------------

    def due(self, now_ns: int, *, everything: bool = False) -> DecisionBatch | None:
        self._planner.refill(now_ns)
        table = self._buffer.due(now_ns, _BATCH, everything=everything, rows=self._rows)
        spans = np.cumsum(table["spans"], dtype=np.int64)
        if len(spans) and spans[-1] > _BATCH_SPANS:
            fitting = max(1, int(np.searchsorted(spans, _BATCH_SPANS)))
            table = self._buffer.due(now_ns, fitting, everything=everything, rows=self._rows)
        self._planner.solve(now_ns, self._slow_limits)
        if not len(table["spans"]) and not self._buffer.late:
            return None
        self._observe_services(table)
        budgeted = self._config.budget.traces_per_second is not None
        if self._stored_revision is None and self._planner.plan.revision:  # this run's plans are not those of the run before
            self._planner.resume(self._planner.plan.revision + 1)
        decisions = decide(table, self._policies, self._planner.plan, self._planner.fit, budgeted=budgeted)
        if decisions.plan_revision == self._stored_revision:
            return replace(decisions, plan="")
        self._stored_revision = decisions.plan_revision
        return decisions

    def decode(self, payload: bytes) -> DecisionBatch:
        return DecisionBatch.from_bytes(payload)

    def take(self, decisions: DecisionBatch, segment: int) -> tuple[list[Block], dict[tuple[str, str], int]]:
        self._planner.resume(decisions.plan_revision)
        taken = list(self._carried_out(decisions, segment))
        for index, n in enumerate(np.bincount(decisions.policy[decisions.keep], minlength=len(decisions.policies))):
            name = decisions.policies[index]
            self.kept_by_policy[name] = self.kept_by_policy.get(name, 0) + int(n)
        self.rescued += sum(part.spans_rescued for part in taken)
        token = f"{self._collector}/{segment}"
        spans_kept = sum(part.spans_kept for part in taken)
        predictions = Counter[str]()
        for part in taken:
            predictions.update(part.predictions)
        messages = [message for part in taken for message in part.otlp]
        blocks = [
            Block(
                "otel_traces",
                _SPANS,
                "RowBinary",
                b"".join(part.span_rows for part in taken),
                f"{token}/otel_traces/0",
                spans_kept,
                {("traces", ""): spans_kept},
            ),
            Block(
                "predictions",
                _PREDICTIONS,
                "RowBinary",
                b"".join(part.prediction_rows for part in taken),
                f"{token}/predictions/0",
                sum(predictions.values()),
                {("predictions", model): n for model, n in predictions.items()},
            ),
            *(Block("(otlp)", (), "otlp", message, f"{token}/otlp/{n}", 1) for n, message in enumerate(messages)),
        ]
        if decisions.plan:
            plan = json.loads(decisions.plan)
            row = {"collector": self._collector, "revision": plan["revision"], "plan": decisions.plan, "segment": segment}
            blocks.append(
                Block("sampling_plans", tuple(row), "JSONEachRow", (json.dumps(row) + "\n").encode(), f"{token}/sampling_plans/0", 1)
            )
        return blocks, {("traces", ""): sum(part.spans_dropped for part in taken)}

    def _carried_out(self, decisions: DecisionBatch, segment: int) -> Iterator[Taken]:
        """What the decisions give out; in parts, where the requests to be read back are many."""
        sources = self._buffer.sources(decisions.trace_ids, decisions.keep)
        sizes = [self.bodies.size(sequence) or 0 for sequence in sources if self.bodies is not None]
        if sum(sizes) > _BODIES_BYTES and len(decisions) > 1:
            half = len(decisions) // 2
            yield from self._carried_out(decisions.part(0, half), segment)
            yield from self._carried_out(decisions.part(half, len(decisions)), segment)
            return
        read = {sequence: self.bodies.read(sequence) for sequence in sources if self.bodies is not None}
        bodies = {sequence: body for sequence, body in read.items() if body is not None}  # spans of the others are counted as missing
        arrays, words = decisions.for_buffer()
        yield self._buffer.decide(*arrays, **words, collector=self._collector, segment=segment, bodies=bodies, otlp=self._export)

    def remember(self, decisions: DecisionBatch) -> None:
        self._planner.resume(decisions.plan_revision)
        arrays, words = decisions.for_buffer()
        self._buffer.remember(*arrays, **words)

    # -- what `slow` needs -----------------------------------------------------------------------------------------------

    def _slow_limits(self) -> dict[tuple[str, str, str], float]:
        if not self._levels:
            return {}
        level = self._levels[0]
        limits = {
            (model, version, role): float(values[0]) * 1e6
            for model, version, role, weight, values in self._quantiles([level])
            if weight >= _MIN_WEIGHT
        }
        for service, durations in self._services.items():
            if len(durations) >= _MIN_WEIGHT:
                limits[("", service, "")] = float(np.quantile(durations, level))
        return {**self._planner.plan.slow_ns, **limits}

    def _observe_services(self, table: Mapping[str, Any]) -> None:
        """Durations of the latest traces without a prediction, by service, for the quantiles that `slow` uses of them."""
        alone = table["predictions"] == 0
        if not self._levels or not alone.any():
            return
        codes, names = table["service"]
        duration_ns = (table["end_ns"] - table["start_ns"])[alone]
        for code in np.unique(codes[alone]):
            name = names[code]
            if name in self._services or len(self._services) < _SERVICES:
                both = np.concatenate([self._services.get(name, np.empty(0)), duration_ns[codes[alone] == code]])
                self._services[name] = both[-_RECENT:]

    @property
    def plan_revision(self) -> int:
        return self._planner.plan.revision

    @property
    def base_probability(self) -> float:
        return self._planner.plan.base

    def buffer_status(self) -> dict[str, float]:
        return {"buffer_spans": self._buffer.spans, "buffer_traces": self._buffer.traces, "buffer_bytes": self._buffer.bytes}


_SPANS = tuple(name for name, _ in SPAN_COLUMNS)
_PREDICTIONS = tuple(name for name, _ in PREDICTION_COLUMNS)
