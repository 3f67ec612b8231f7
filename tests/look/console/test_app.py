"""What a collector answers on `console.http`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from leadline.flow import Collector
from leadline.look.cli.status import _labelled
from leadline.look.console.app import PAGES, console
from leadline.look.console.metrics import METRICS, _number
from leadline.model.signals import Signal
from leadline.settings import Settings


@pytest.fixture
async def collector(tmp_path: Path) -> AsyncIterator[Collector]:
    """One whose journal is open, without receivers."""
    collector = Collector(Settings.model_validate({"data": tmp_path, "collector": "c1", "engine": {"http": "127.0.0.1:8999"}}))
    collector.journal.open()
    yield collector
    collector.journal.close()
    collector.state.close()


@pytest.fixture
async def client(collector: Collector) -> AsyncIterator[httpx.AsyncClient]:
    """The application, without a socket."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(console(collector)), base_url="http://leadline") as made:
        yield made


async def test_the_first_page_leads_on(client: httpx.AsyncClient) -> None:
    """Every page is named, and answers."""
    shown = (await client.get("/")).text
    assert "collector c1" in shown
    for path in PAGES:
        assert path in shown
        assert (await client.get(path)).status_code in (200, 503)


async def test_the_link_of_an_alert_leads_to_its_evaluation(client: httpx.AsyncClient) -> None:
    """`generatorURL` of each alert points here. What is not a fingerprint is not repeated."""
    shown = (await client.get("/?alert=0123456789abcdef")).text
    assert "curl http://127.0.0.1:8999/ -d \"SELECT * FROM evaluations WHERE fingerprint = '0123456789abcdef'" in shown
    assert "docs/operate/runbooks.md" in shown
    assert "evaluations" not in (await client.get("/?alert='; DROP TABLE evaluations")).text


async def test_not_ready_is_503_with_a_reason(client: httpx.AsyncClient) -> None:
    """A collector that does not take requests says so to a load balancer."""
    reply = await client.get("/readyz")
    assert reply.status_code == 503
    assert "replayed" in reply.text


def test_counters_keep_every_digit() -> None:
    """What Prometheus adds up must be what was counted."""
    assert [_number(value) for value in (0, 123_456_789_012, 2.0**53, 0.1, 1e-7, 3.25e9)] == [
        "0", "123456789012", "9007199254740992", "0.1", "1e-07", "3250000000",
    ]  # fmt: skip


async def test_every_metric_is_declared_and_said(client: httpx.AsyncClient) -> None:
    """Prometheus text: HELP and TYPE of each, and no sample that is not declared."""
    lines = (await client.get("/metrics")).text.splitlines()
    for name, (kind, text) in METRICS.items():
        assert f"# HELP {name} {text}" in lines
        assert f"# TYPE {name} {kind}" in lines
    assert {line.partition("{")[0].partition(" ")[0] for line in lines if not line.startswith("#")} <= METRICS.keys()


async def test_what_was_refused_or_is_doubtful_is_said_by_reason(collector: Collector, client: httpx.AsyncClient) -> None:
    """On /metrics and, where there is any, in `leadline status`: a feature that does not arrive has its reason somewhere."""
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    spans.add(trace_id=b"short", span_id=b"12345678")
    span = spans.add(trace_id=b"0123456789abcdef", span_id=b"12345678", start_time_unix_nano=time.time_ns())
    span.attributes.add(key="ml.model.name").value.string_value = "fraud"
    span.attributes.add(key="ml.features.json").value.string_value = "{"
    await collector.journal.accept(Signal.TRACES, request.SerializeToString())
    await collector.journal.accept(Signal.LOGS, feedback_without_prediction())
    await collector.journal.totals()  # after what was accepted is applied
    shown = (await client.get("/metrics")).text
    assert _labelled(shown, "leadline_rejected_total") == {("traces", "trace_id_invalid"): 1}
    assert _labelled(shown, "leadline_doubtful_total") == {
        ("logs", "feedback_without_prediction"): 1, ("traces", "end_missing"): 1, ("traces", "features_json_malformed"): 1,
    }  # fmt: skip


def feedback_without_prediction() -> bytes:
    """A label that belongs to nothing."""
    request = ExportLogsServiceRequest()
    record = request.resource_logs.add().scope_logs.add().log_records.add(event_name="ml.feedback")
    record.attributes.add(key="ml.actual.label").value.string_value = "no"
    return request.SerializeToString()


async def test_the_accounting_names_every_signal(client: httpx.AsyncClient) -> None:
    """Also those of which nothing came."""
    body = (await client.get("/api/v1/accounting")).json()
    assert list(body["signals"]) == ["traces", "metrics", "logs", "predictions"]
    assert {terms["lost"] for terms in body["signals"].values()} == {0}
    assert body["requests_undecodable"] == 0
