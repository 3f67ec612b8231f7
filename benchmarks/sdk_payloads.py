"""Requests as the SDK itself makes them: real spans of `Monitor`, encoded by OpenTelemetry's exporter code, with new ids each time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from leadline.sdk import Monitor


class _Collected(SpanProcessor):
    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


def template(traces: int, seed: int = 1, model: str = "fraud") -> ExportTraceServiceRequest:
    """One request of `traces` traces of three spans: a server span, a prediction with 20 features, a lookup."""
    rng = np.random.default_rng(seed)
    collected, provider = _Collected(), TracerProvider()
    provider.add_span_processor(collected)
    tracer = provider.get_tracer("app")
    monitor = Monitor(model=model, version="7", task="classification", features=[f"f{n}" for n in range(20)], tracer_provider=provider)
    for _ in range(traces):
        with tracer.start_as_current_span("POST /score"):
            with tracer.start_as_current_span("lookup"):
                pass
            with monitor.prediction(features=rng.normal(size=20)) as prediction:
                prediction.output(label="fraud" if rng.random() < 0.1 else "ok", score=float(rng.random()))
    return encode_spans(collected.spans)


def requests(count: int, traces: int = 171, seed: int = 1, threshold: str = "") -> Iterator[tuple[bytes, Sequence[bytes]]]:
    """(body, trace ids) of each request. With `threshold` the input is sampled: only traces with R ≥ T are sent, and say `ot=th`."""
    templates = [template(traces, seed * 100 + n) for n in range(4)]
    limit = int(threshold.ljust(14, "0"), 16) if threshold else 0
    for n in range(count):
        request = ExportTraceServiceRequest()
        request.CopyFrom(templates[n % len(templates)])
        ids: dict[bytes, bytes] = {}
        span_ids: dict[bytes, bytes] = {}
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    if span.trace_id not in ids:
                        fresh = os.urandom(16)
                        while int.from_bytes(fresh[9:], "big") < limit:
                            fresh = os.urandom(16)
                        ids[span.trace_id] = fresh
                    span.trace_id = ids[span.trace_id]
                    span.span_id = span_ids.setdefault(span.span_id, os.urandom(8))
                    if span.parent_span_id:
                        span.parent_span_id = span_ids.setdefault(span.parent_span_id, os.urandom(8))
                    if threshold:
                        span.trace_state = f"ot=th:{threshold}"
        yield request.SerializeToString(), list(ids.values())
