"""`setup()`: what it configures, and that bytes arrive at a real OTLP server in bounded requests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.sdk.otlp_server import Received

from leadline import names
from leadline.sdk import Monitor, providers, setup


@pytest.fixture
def received() -> Iterator[Received]:
    server = Received()
    yield server
    server.close()


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_spans_and_events_arrive(received: Received, protocol: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call, then predictions and feedback are at the collector; the service has its name."""
    port = received.grpc_port if protocol == "grpc" else received.web.server_port
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    ready = setup(f"http://127.0.0.1:{port}", protocol=protocol, service="checkout", set_global=False)
    monitor = Monitor("fraud", "1", tracer_provider=ready.tracer_provider, logger_provider=ready.logger_provider)
    with monitor.prediction(features={"a": 1.0}) as prediction:
        prediction.output("yes")
    monitor.feedback(prediction.id, "no")
    assert monitor.flush()
    ready.shutdown()
    bodies = {signal: body for signal, body, _ in received.requests}
    resource_spans = ExportTraceServiceRequest.FromString(bodies["traces"]).resource_spans[0]
    resource = {one.key: one.value.string_value for one in resource_spans.resource.attributes}
    assert (resource["service.name"], resource["deployment.environment.name"]) == ("checkout", "test")
    (scope,) = resource_spans.scope_spans
    assert names.FEATURES_NAMES in {one.key for one in scope.scope.attributes}
    (record,) = ExportLogsServiceRequest.FromString(bodies["logs"]).resource_logs[0].scope_logs[0].log_records
    assert record.event_name == "ml.feedback"
    if protocol == "http":
        assert all(headers["content-encoding"] == "gzip" for _, _, headers in received.requests)


def test_large_batches_are_divided_by_bytes(received: Received) -> None:
    """Spans of megabytes do not add up to a request that the receiver refuses."""
    ready = setup(f"http://127.0.0.1:{received.grpc_port}", set_global=False)
    monitor = Monitor("wide", "1", tracer_provider=ready.tracer_provider, features=[f"f{i}" for i in range(100)])
    rows = 100_000
    monitor.record_batch(np.random.default_rng(7).normal(size=(rows, 100)).astype("f4"))
    assert ready.flush()
    ready.shutdown()
    sizes = [len(body) for _, body, _ in received.requests]
    assert max(sizes) < 2 * providers.MAX_EXPORT_BYTES
    spans = [
        span
        for _, body, _ in received.requests
        for span in ExportTraceServiceRequest.FromString(body).resource_spans[0].scope_spans[0].spans
    ]
    assert sum(one.value.int_value for span in spans for one in span.attributes if one.key == names.BATCH_SIZE) == rows


def test_variables_hold_where_no_argument_says_otherwise(received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_EXPORTER_OTLP_ENDPOINT, _PROTOCOL, _COMPRESSION and OTEL_SERVICE_NAME are respected."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{received.web.server_port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "from-the-environment")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    ready = setup(set_global=False)
    with Monitor("m", "1", tracer_provider=ready.tracer_provider).prediction():
        pass
    assert ready.flush()
    ready.shutdown()
    ((signal, body, headers),) = received.requests
    assert signal == "traces"
    assert "content-encoding" not in headers
    assert b"from-the-environment" in body
    with pytest.raises(ValueError, match="protocol: expected 'grpc' or 'http', got 'tcp'"):
        setup(protocol="tcp")  # type: ignore[arg-type]


def test_sigterm_sends_what_is_queued(received: Received) -> None:
    """A server that is told to end loses nothing, and still ends by the signal."""
    code = f"""
import leadline.sdk, signal
leadline.sdk.setup("http://127.0.0.1:{received.grpc_port}", service="ends")
with leadline.sdk.Monitor("m", "1").prediction():
    pass
print("ready", flush=True)
signal.pause()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "OTEL_BSP_SCHEDULE_DELAY": "60000"}
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.terminate()
        assert process.wait(30) == -signal.SIGTERM
    assert [kind for kind, _, _ in received.requests] == ["traces"]
