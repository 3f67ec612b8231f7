"""Spans and events of a real SDK, kept in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from leadline.sdk import Monitor


@dataclass
class Recorder:
    """A tracer and a logger provider whose output can be read."""

    traces: TracerProvider = field(default_factory=TracerProvider)
    logs: LoggerProvider = field(default_factory=LoggerProvider)

    def __post_init__(self) -> None:
        self._spans, self._events = InMemorySpanExporter(), InMemoryLogRecordExporter()
        self.traces.add_span_processor(SimpleSpanProcessor(self._spans))
        self.logs.add_log_record_processor(SimpleLogRecordProcessor(self._events))

    def monitor(self, model: str = "fraud", version: str = "1", **more: Any) -> Monitor:
        return Monitor(model, version, tracer_provider=self.traces, logger_provider=self.logs, **more)

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._spans.get_finished_spans())

    @property
    def span(self) -> ReadableSpan:
        (span,) = self.spans
        return span

    @property
    def attributes(self) -> dict[str, Any]:
        return dict(self.span.attributes or {})

    @property
    def events(self) -> list[Any]:
        return [one.log_record for one in self._events.get_finished_logs()]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()
