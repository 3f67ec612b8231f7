"""Oracle of the trace buffer: what waits, what is due, what follows an earlier decision. Plain dicts and lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Seen:
    """A span as the buffer sees it. `rv` and `th` are 56 bits or None; `rows` the predictions it carries."""

    trace_id: bytes
    span_id: bytes
    start_ns: int
    end_ns: int
    root: bool
    error: bool
    rv: int | None
    th: int | None
    service: str
    rows: int
    size: int


@dataclass
class _Trace:
    first_ns: int
    root_ns: int | None = None
    spans: list[tuple[int, Seen]] = field(default_factory=list)


@dataclass(frozen=True)
class Verdict:
    keep: bool
    sampling: str


class PlainBuffer:
    def __init__(self, wait_ns: int, wait_after_root_ns: int, max_traces: int, remember_kept: int, remember_dropped: int) -> None:
        self._wait_ns, self._wait_after_root_ns, self._max_traces = wait_ns, wait_after_root_ns, max_traces
        self._capacity = {True: remember_kept, False: remember_dropped}
        self._memory: dict[bool, list[tuple[bytes, str]]] = {True: [], False: []}
        self._traces: dict[bytes, _Trace] = {}
        self._late: list[tuple[int, Seen, Verdict]] = []

    def add(self, spans: Iterable[Seen], receive_ns: int, sequence: int) -> None:
        for span in spans:
            if span.trace_id not in self._traces and (verdict := self._decided(span.trace_id)):
                self._late.append((sequence, span, verdict))
                continue
            trace = self._traces.setdefault(span.trace_id, _Trace(receive_ns))
            trace.spans.append((sequence, span))
            if span.root and trace.root_ns is None:
                trace.root_ns = receive_ns

    def _decided(self, trace_id: bytes) -> Verdict | None:
        return next((Verdict(keep, text) for keep in (True, False) for known, text in self._memory[keep] if known == trace_id), None)

    @property
    def waiting(self) -> list[tuple[int, Seen]]:
        return [span for trace in self._traces.values() for span in trace.spans] + [(sequence, span) for sequence, span, _ in self._late]

    @property
    def late(self) -> int:
        return len(self._late)

    def _due_ns(self, trace: _Trace) -> int:
        times = [trace.first_ns + self._wait_ns]
        if self._wait_after_root_ns and trace.root_ns is not None:
            times.append(trace.root_ns + self._wait_after_root_ns)
        return min(times)

    def due(self, now_ns: int, limit: int, *, everything: bool = False) -> list[bytes]:
        ordered = sorted((self._due_ns(trace), trace_id) for trace_id, trace in self._traces.items())
        due = sum(everything or time <= now_ns for time, _ in ordered)
        count = max(due, len(ordered) - self._max_traces)
        return [trace_id for _, trace_id in ordered[: min(count, limit)]]

    def facts(self, trace_id: bytes) -> dict[str, object]:
        """The row of the due table."""
        spans = [span for _, span in self._traces[trace_id].spans]
        rvs = [span.rv for span in spans if span.rv is not None]
        ths = [span.th for span in spans if span.th is not None]
        start = min((span.start_ns for span in spans if span.start_ns), default=0)
        return {
            "randomness": min(rvs) if rvs else int.from_bytes(trace_id[-7:], "big"),
            "threshold": max(ths, default=0),
            "sampled": bool(ths),
            "spans": len(spans),
            "bytes": sum(span.size for span in spans),
            "start_ns": start,
            "end_ns": max(start, *(span.end_ns for span in spans)),
            "error": any(span.error for span in spans),
            "predictions": sum(span.rows for span in spans),
            "service": min((not span.root, span.start_ns, span.service) for span in spans)[2],
        }

    def decide(self, decisions: Sequence[tuple[bytes, bool, str]]) -> tuple[list[tuple[bytes, str]], Counter[str]]:
        """((span id, sampling) of what is kept, in any order; counts of kept, dropped, rescued, predictions)."""
        kept, counts = [], Counter[str]()
        given = []
        for trace_id, keep, sampling in decisions:
            if trace := self._traces.pop(trace_id, None):
                given += [(span, Verdict(keep, sampling)) for _, span in trace.spans]
                self._remember(trace_id, keep, sampling)
        given += [(span, Verdict(True, "rescued") if span.error and not verdict.keep else verdict) for _, span, verdict in self._late]
        self._late = []
        for span, verdict in given:
            counts["kept" if verdict.keep else "dropped"] += 1
            counts["rescued"] += verdict.sampling == "rescued"
            counts["predictions"] += span.rows
            if verdict.keep:
                kept.append((span.span_id, verdict.sampling))
        return kept, counts

    def remember(self, decisions: Sequence[tuple[bytes, bool, str]]) -> None:
        for trace_id, keep, sampling in decisions:
            if trace_id not in self._traces:
                self._remember(trace_id, keep, sampling)

    def _remember(self, trace_id: bytes, keep: bool, sampling: str) -> None:
        # what is superseded keeps its turn, as a hole
        self._memory = {
            kept: [(b"" if known == trace_id else known, text) for known, text in memory] for kept, memory in self._memory.items()
        }
        self._memory[keep] = [*self._memory[keep], (trace_id, sampling)][-self._capacity[keep] or len(self._memory[keep]) + 1 :]
