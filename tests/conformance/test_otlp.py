"""OTLP as real clients speak it: the Python SDK's exporters over both transports, compressed and not, and what they make of our replies.

The tables of single behaviours are in tests/receive/; here whole clients run against whole receivers.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import shutil
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import requests
from opentelemetry._logs import SeverityNumber
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogs
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetrics
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogs
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetrics
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from leadline.errors import Overloaded
from leadline.model.signals import Receipt, Signal
from leadline.receive.outcomes import Outcome
from leadline.testing.receivers import Receivers, receiving, until

RESOURCE = Resource({"service.name": "scoring", "service.version": "7"})
CLIENTS = ["grpc", "grpc gzip", "http", "http gzip", "http deflate"]


@pytest.fixture
async def served() -> AsyncIterator[Receivers]:
    async with receiving() as receivers:
        yield receivers


def exporter(served: Receivers, client: str, signal: Signal, **options: Any) -> Any:
    """The SDK's exporter of that signal, over that transport and compression."""
    transport, _, compression = client.partition(" ")
    if transport == "grpc":
        kind = {Signal.TRACES: GrpcSpans, Signal.METRICS: GrpcMetrics, Signal.LOGS: GrpcLogs}[signal]
        chosen = grpc.Compression.Gzip if compression else grpc.Compression.NoCompression
        return kind(endpoint=f"127.0.0.1:{served.grpc.port}", insecure=True, compression=chosen, **options)
    kind = {Signal.TRACES: HttpSpans, Signal.METRICS: HttpMetrics, Signal.LOGS: HttpLogs}[signal]
    url = f"http://127.0.0.1:{served.http.port}/v1/{signal}"
    # A session of our own, closed in the end, because the exporter leaves its last connection to the garbage collector.
    return kind(endpoint=url, compression=Compression(compression or "none"), session=requests.Session(), **options)


async def sent(each: Any, batch: Any) -> Any:
    """Exports on a thread, as SDKs do, and shuts the exporter down."""
    try:
        return await asyncio.to_thread(each.export, batch)
    finally:
        await asyncio.to_thread(each.shutdown)
        if hasattr(each, "_session"):
            each._session.close()


def finished_spans(count: int = 3, padding: int = 0) -> tuple[ReadableSpan, ...]:
    """Spans with every kind of attribute an SDK lets through, an event, a link and an error."""
    memory = InMemorySpanExporter()
    provider = TracerProvider(resource=RESOURCE)
    provider.add_span_processor(SimpleSpanProcessor(memory))
    tracer = provider.get_tracer("conformance", "1")
    for number in range(count):
        with tracer.start_as_current_span(f"predict {number}") as span:
            span.set_attributes({"text": "ü€😀" + "x" * padding, "flag": True, "count": -5, "share": 0.25, "list": [1.5, 2.5]})
            span.add_event("loaded", {"rows": 3})
    provider.shutdown()
    return memory.get_finished_spans()


@pytest.mark.parametrize("client", CLIENTS)
async def test_sdk_spans_arrive(served: Receivers, client: str) -> None:
    """Items 1 and 2: what the SDK exported is what the intake was handed, over every transport and compression."""
    spans = finished_spans()
    assert await sent(exporter(served, client, Signal.TRACES), spans) is SpanExportResult.SUCCESS
    (body,) = served.intake.bodies(Signal.TRACES)
    resource = ExportTraceServiceRequest.FromString(body).resource_spans[0]
    assert {item.key: item.value.string_value for item in resource.resource.attributes}["service.name"] == "scoring"
    arrived = resource.scope_spans[0].spans
    assert [span.trace_id for span in arrived] == [span.context.trace_id.to_bytes(16, "big") for span in spans if span.context]
    assert [item.key for item in arrived[0].attributes] == ["text", "flag", "count", "share", "list"]
    assert arrived[0].attributes[0].value.string_value == "ü€😀"


@pytest.mark.parametrize("client", CLIENTS)
async def test_sdk_metrics_arrive(served: Receivers, client: str) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], resource=RESOURCE)
    meter = provider.get_meter("conformance")
    meter.create_counter("predictions").add(3, {"model": "fraud"})
    meter.create_histogram("latency").record(0.25)
    data = reader.get_metrics_data()
    provider.shutdown()
    await sent(exporter(served, client, Signal.METRICS), data)
    (body,) = served.intake.bodies(Signal.METRICS)
    metrics = ExportMetricsServiceRequest.FromString(body).resource_metrics[0].scope_metrics[0].metrics
    assert [(metric.name, metric.WhichOneof("data")) for metric in metrics] == [("predictions", "sum"), ("latency", "histogram")]


@pytest.mark.parametrize("client", CLIENTS)
async def test_sdk_logs_arrive(served: Receivers, client: str) -> None:
    memory = InMemoryLogRecordExporter()
    provider = LoggerProvider(resource=RESOURCE)
    provider.add_log_record_processor(SimpleLogRecordProcessor(memory))
    body = {"amount": 12.5, "request_id": "42", "prediction": "fraud"}
    provider.get_logger("conformance").emit(severity_number=SeverityNumber.INFO, body=body, event_name="prediction")
    provider.shutdown()
    await sent(exporter(served, client, Signal.LOGS), memory.get_finished_logs())
    (request,) = served.intake.bodies(Signal.LOGS)
    record = ExportLogsServiceRequest.FromString(request).resource_logs[0].scope_logs[0].log_records[0]
    assert {item.key for item in record.body.kvlist_value.values} == set(body)


@pytest.mark.parametrize("client", ["grpc", "http"])
async def test_the_sdk_comes_back_after_overload(served: Receivers, client: str, caplog: pytest.LogCaptureFixture) -> None:
    """Item 14: told to come back, the exporter waits as long as it was told and sends the same batch again; nothing is lost."""
    caplog.set_level(logging.CRITICAL)
    served.intake.error = Overloaded("later", retry_after_s=0.05)
    sending = asyncio.create_task(sent(exporter(served, client, Signal.TRACES), finished_spans()))
    await until(lambda: served.outcomes.of(Outcome.OVERLOADED) == 1, what="the first try refused")
    served.intake.error = None
    assert await sending is SpanExportResult.SUCCESS
    assert len(served.intake.bodies(Signal.TRACES)) == 1


@pytest.mark.parametrize("client", ["grpc", "http", "http gzip"])
async def test_the_sdk_gives_up_on_what_is_too_large(client: str, caplog: pytest.LogCaptureFixture) -> None:
    """Item 3: over HTTP the exporter drops the batch at once. Over gRPC Python's retries RESOURCE_EXHAUSTED, RetryInfo or
    not, until its timeout (10 s by default), and drops it then; the specification says to drop it at once."""
    caplog.set_level(logging.CRITICAL)
    async with receiving(max_bytes="64KiB") as served:
        each = exporter(served, client, Signal.TRACES, timeout=2)
        assert await sent(each, finished_spans(padding=100_000)) is SpanExportResult.FAILURE
        tries = served.outcomes.of(Outcome.TOO_LARGE) + served.outcomes.of(Outcome.UNREAD)
        assert tries == 1 if client != "grpc" else tries >= 1
        assert await sent(exporter(served, client, Signal.TRACES), finished_spans()) is SpanExportResult.SUCCESS


@pytest.mark.parametrize("client", ["grpc", "http"])
async def test_the_sdk_takes_partial_success_for_success(served: Receivers, client: str) -> None:
    """Items 8 and 10: a partial success is not sent again. The SDK does not tell its user, so our own counters must."""
    served.intake.receipt = Receipt(rejected=1, message="1 span without a trace id")
    assert await sent(exporter(served, client, Signal.TRACES), finished_spans()) is SpanExportResult.SUCCESS
    assert served.outcomes.of(Outcome.PARTIAL) == 1


async def test_both_transports_hand_on_the_same_bytes(served: Receivers) -> None:
    """The intake cannot tell gRPC from HTTP, nor JSON from protobuf once ids and numbers are in it."""
    document = {
        "resourceSpans": [
            {
                "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "scoring"}}]},
                "scopeSpans": [{"spans": [{"traceId": "AB" * 16, "spanId": "cd" * 8, "name": "predict", "startTimeUnixNano": "17"}]}],
            }
        ]
    }
    as_json = json.dumps(document).encode()
    assert (await served.post(as_json, "application/json")).status_code == 200
    (first,) = served.intake.bodies(Signal.TRACES)
    assert (await served.post(first)).status_code == 200
    assert (await served.post(gzip.compress(as_json), "application/json", content_encoding="gzip")).status_code == 200
    assert await served.export(first) == b""
    assert await served.export(first, compression=grpc.Compression.Gzip) == b""
    assert served.intake.bodies(Signal.TRACES) == [first] * 5


async def test_many_clients_at_once(served: Receivers) -> None:
    """Item 4: calls on one connection are served side by side, and each is handed on exactly once."""
    bodies = [b"\n\x04\x1a\x02" + number.to_bytes(2, "big") for number in range(400)]
    calls = [served.export(body) if number % 2 else served.post(body) for number, body in enumerate(bodies)]
    await asyncio.gather(*calls)
    assert sorted(served.intake.bodies(Signal.TRACES)) == bodies
    assert served.budget.held == 0
    assert served.outcomes.of(Outcome.ACCEPTED) == 400


@pytest.mark.needs("telemetrygen")
@pytest.mark.parametrize("transport", ["grpc", "http"])
@pytest.mark.parametrize("signal", list(Signal))
async def test_telemetrygen_is_received(served: Receivers, transport: str, signal: Signal) -> None:
    """The Collector project's own load generator, in Go."""
    port = served.grpc.port if transport == "grpc" else served.http.port
    arguments = [str(signal), "--otlp-insecure", "--otlp-endpoint", f"127.0.0.1:{port}", f"--{signal}", "20", "--rate", "0"]
    generator = await asyncio.create_subprocess_exec(
        shutil.which("telemetrygen") or "telemetrygen",
        *arguments,
        *(["--otlp-http"] if transport == "http" else []),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, text = await asyncio.wait_for(generator.communicate(), 60)
    assert generator.returncode == 0, text.decode()
    kinds: dict[Signal, Any] = {
        Signal.TRACES: ExportTraceServiceRequest,
        Signal.METRICS: ExportMetricsServiceRequest,
        Signal.LOGS: ExportLogsServiceRequest,
    }
    requests_ = [kinds[signal].FromString(body) for body in served.intake.bodies(signal)]
    assert sum(_items(request) for request in requests_) == {Signal.TRACES: 40}.get(signal, 20)


def _items(request: Any) -> int:
    """Spans, data points or records of a request."""
    if hasattr(request, "resource_spans"):
        return sum(len(scope.spans) for resource in request.resource_spans for scope in resource.scope_spans)
    if hasattr(request, "resource_logs"):
        return sum(len(scope.log_records) for resource in request.resource_logs for scope in resource.scope_logs)
    metrics = [metric for resource in request.resource_metrics for scope in resource.scope_metrics for metric in scope.metrics]
    return sum(len(metric.gauge.data_points) + len(metric.sum.data_points) for metric in metrics)
