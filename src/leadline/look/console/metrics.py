"""Leadline's own metrics, declared once: Prometheus text."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from leadline.flow import Collector
from leadline.model.accounting import TERMS, lost

METRICS: Mapping[str, tuple[str, str]] = {
    "leadline_items_total": ("counter", "Spans, data points, records and predictions by where they went (term)"),
    "leadline_items_waiting": ("gauge", "Items taken and not yet stored"),
    "leadline_items_lost": ("gauge", "received less every other term; 0, or something is broken"),
    "leadline_rejected_total": ("counter", "Spans, data points and records refused one by one, by reason"),
    "leadline_doubtful_total": ("counter", "Times, values and events that are doubtful or were left out of what was taken, by note"),
    "leadline_requests_undecodable_total": ("counter", "Requests whose bytes are not OTLP"),
    "leadline_requests_refused_total": ("counter", "Requests told to come back later"),
    "leadline_requests_total": ("counter", "Requests by transport, signal and outcome"),
    "leadline_journal_bytes": ("gauge", "Bytes of journal on disk"),
    "leadline_journal_syncs_total": ("counter", "Groups of frames that the journal has written and synced"),
    "leadline_journal_backlog_bytes": ("gauge", "Bytes written and not yet measured"),
    "leadline_requests_remembered": ("gauge", "Requests by which a retry is known"),
    "leadline_requests_forgotten_early_total": ("counter", "Requests forgotten before journal.retry_horizon, because there were too many"),
    "leadline_outbox_bytes": ("gauge", "Encoded blocks waiting for ClickHouse"),
    "leadline_outbox_blocks_refused": ("gauge", "Blocks that ClickHouse refuses; kept on disk"),
    "leadline_store_rows_total": ("counter", "Rows that ClickHouse acknowledged, by table"),
    "leadline_store_bytes_total": ("counter", "Bytes that ClickHouse acknowledged, by table"),
    "leadline_store_failures_total": ("counter", "Sends that failed and were tried again"),
    "leadline_buffer_spans": ("gauge", "Spans of undecided traces"),
    "leadline_buffer_traces": ("gauge", "Undecided traces"),
    "leadline_buffer_bytes": ("gauge", "Memory of undecided traces; their spans lie in the journal"),
    "leadline_traces_kept_total": ("counter", "Kept traces by the policy that raised them"),
    "leadline_spans_rescued_total": ("counter", "Late errors of dropped traces, kept to look at, weight 0"),
    "leadline_plan_revision": ("gauge", "Sampling plan in force"),
    "leadline_plan_base_probability": ("gauge", "Probability of a trace that no policy raises"),
    "leadline_sketch_overflow_total": ("counter", "Values that went to (other), by what was full"),
    "leadline_slis_refused": ("gauge", "SLIs in force whose expression does not compile here"),
    "leadline_resident_bytes": ("gauge", "Resident memory of this process"),
}

Sample = tuple[str, Mapping[str, str], float]


async def exposition(collector: Collector) -> str:
    """All metrics, in the order in which they are declared."""
    samples: dict[str, list[str]] = {name: [] for name in METRICS}
    buffer = await asyncio.to_thread(collector.sampler.buffer_status)  # waits for the buffer, which may be at a large request
    for name, labels, value in [*await _accounting(collector), *_parts(collector, buffer)]:
        shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        samples[name].append(f"{name}{{{shown}}} {_number(value)}" if shown else f"{name} {_number(value)}")
    lines = []
    for name, (kind, text) in METRICS.items():
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *samples[name]]
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    """Every digit of it: a counter of which the last are missing does not add up."""
    value = float(value)
    return str(int(value)) if value.is_integer() else repr(value)


async def _accounting(collector: Collector) -> list[Sample]:
    samples: list[Sample] = []
    for signal, model, terms in (await collector.journal.totals()).rows():
        labels = {"signal": signal, "model": model}
        samples += [("leadline_items_total", {**labels, "term": term}, terms[term]) for term in TERMS if term != "waiting"]
        samples += [("leadline_items_waiting", labels, terms["waiting"]), ("leadline_items_lost", labels, lost(terms))]
    return samples


def _parts(collector: Collector, buffer: Mapping[str, float]) -> Iterator[Sample]:
    journal, writer, sampler, measure = collector.journal, collector.writer, collector.sampler, collector.measure
    for (signal, reason), n in sorted(collector.machine.rejected.copy().items()):
        yield "leadline_rejected_total", {"signal": signal, "reason": reason}, n
    for (signal, note), n in sorted(collector.machine.doubtful.copy().items()):
        yield "leadline_doubtful_total", {"signal": signal, "note": note}, n
    yield "leadline_requests_undecodable_total", {}, journal.undecodable_requests
    status = {**journal.status(), **buffer}
    yield "leadline_requests_refused_total", {}, status["requests_refused"]
    yield "leadline_journal_bytes", {}, status["journal_bytes"]
    yield "leadline_journal_syncs_total", {}, status["journal_syncs"]
    yield "leadline_journal_backlog_bytes", {}, status["journal_backlog_bytes"]
    yield "leadline_requests_remembered", {}, status["requests_remembered"]
    yield "leadline_requests_forgotten_early_total", {}, status["requests_forgotten_early"]
    yield "leadline_outbox_bytes", {}, status["outbox_bytes"]
    yield "leadline_outbox_blocks_refused", {}, len(writer.refused)
    for table, n in writer.rows.items():
        yield "leadline_store_rows_total", {"table": table}, n
    for table, n in writer.bytes.items():
        yield "leadline_store_bytes_total", {"table": table}, n
    yield "leadline_store_failures_total", {}, writer.failures
    for name in ("buffer_spans", "buffer_traces", "buffer_bytes"):
        yield f"leadline_{name}", {}, status[name]
    for policy, n in sampler.kept_by_policy.items():
        yield "leadline_traces_kept_total", {"policy": policy}, n
    yield "leadline_spans_rescued_total", {}, sampler.rescued
    yield "leadline_plan_revision", {}, sampler.plan_revision
    yield "leadline_plan_base_probability", {}, sampler.base_probability
    for kind, n in measure.overflow.items():
        yield "leadline_sketch_overflow_total", {"full": kind}, n
    yield "leadline_slis_refused", {}, len(measure.refused)
    yield "leadline_resident_bytes", {}, resident_bytes()
    for transport, signal, outcome, n in collector.outcomes:
        yield "leadline_requests_total", {"transport": transport, "signal": signal, "outcome": outcome}, n


def resident_bytes() -> int:
    """Resident memory of this process; 0 where /proc is not to be had."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
