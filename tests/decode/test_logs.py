"""Logs: records arrive whole in `otel_logs`."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue, KeyValueList
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from leadline.decode import records as limits
from leadline.decode.records import COLUMNS, decode_logs
from leadline.errors import InvalidRequest

NOW = 4_000_000_000_123_456_789  # 2096: no TTL of the tables is over
TRACE, SPAN = bytes(range(16)), bytes(range(8))


def _text(key: str, value: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value))


def _request(*records: LogRecord) -> bytes:
    request = ExportLogsServiceRequest()
    resource = request.resource_logs.add(schema_url="https://r/1")
    resource.resource.attributes.extend([_text("service.name", "fraud-api"), _text("k8s.pod.name", "p1")])
    group = resource.scope_logs.add(schema_url="https://s/1")
    group.scope.name, group.scope.version = "logger", "3"
    group.scope.attributes.append(_text("a", "b"))
    group.log_records.extend(records)
    return request.SerializeToString()


def test_a_record_arrives_whole(clickhouse: Any) -> None:
    record = LogRecord(
        time_unix_nano=NOW, observed_time_unix_nano=NOW + 5, severity_number=17, severity_text="ERROR", flags=0x1FF, trace_id=TRACE, span_id=SPAN,  # type: ignore[arg-type]
        body=AnyValue(string_value='said "no"\t\\ é 😀\x00'), attributes=[_text("code", "7")], event_name="payment.refused",
    )  # fmt: skip
    batch = decode_logs(_request(record), NOW)
    assert (batch.items, batch.rejected, batch.labels, batch.notes) == (1, {}, (), {})
    rows = batch.rows("c1", 9)
    assert [(table, columns, n) for table, columns, _, _, n in rows] == [("otel_logs", COLUMNS["otel_logs"], 1)]
    clickhouse.insert(rows)
    assert clickhouse.ask("SELECT * FROM otel_logs") == [
        {
            "Timestamp": "2096-10-02 07:06:40.123456789", "TraceId": TRACE.hex(), "SpanId": SPAN.hex(), "TraceFlags": 255,
            "SeverityText": "ERROR", "SeverityNumber": 17, "ServiceName": "fraud-api", "Body": 'said "no"\t\\ é 😀\x00',
            "ResourceSchemaUrl": "https://r/1", "ResourceAttributes": {"service.name": "fraud-api", "k8s.pod.name": "p1"},
            "ScopeSchemaUrl": "https://s/1", "ScopeName": "logger", "ScopeVersion": "3", "ScopeAttributes": {"a": "b"},
            "LogAttributes": {"code": "7"}, "EventName": "payment.refused", "Collector": "c1", "Segment": 9,
        }
    ]  # fmt: skip


def test_times_bodies_and_names_that_are_not_there(clickhouse: Any) -> None:
    """The observed time, then the time of receipt; a map as body is JSON; the older attribute names the event."""
    body = AnyValue(kvlist_value=KeyValueList(values=[KeyValue(key="n", value=AnyValue(int_value=1))]))
    records = [
        LogRecord(observed_time_unix_nano=NOW - 1, body=body),
        LogRecord(attributes=[_text("event.name", "old.way")]),
        LogRecord(time_unix_nano=1),
    ]
    clickhouse.insert(decode_logs(_request(*records), NOW).rows("c", 1))
    found = clickhouse.ask("SELECT toUnixTimestamp64Nano(Timestamp) AS t, Body, EventName, TraceId FROM otel_logs ORDER BY t")
    assert found == [
        {"t": NOW - limits.MAX_LATE_NS, "Body": "", "EventName": "", "TraceId": ""},
        {"t": NOW - 1, "Body": '{"n":1}', "EventName": "", "TraceId": ""},
        {"t": NOW, "Body": "", "EventName": "old.way", "TraceId": ""},
    ]


def test_more_records_than_one_request_may_hold_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leadline.decode.records.MAX_ITEMS", 2)
    batch = decode_logs(_request(*[LogRecord() for _ in range(5)]), NOW)
    assert (batch.items, batch.rejected) == (2, {"too_many": 3})
    assert [n for *_, n in batch.rows("c", 1)] == [2]


def test_what_is_not_a_request_is_refused() -> None:
    assert decode_logs(b"", NOW).items == 0
    with pytest.raises(InvalidRequest, match="expected a protobuf ExportLogsServiceRequest, got 3 bytes"):
        decode_logs(b"\xff\xff\xff", NOW)
    request = ExportLogsServiceRequest.FromString(_request(*[LogRecord() for _ in range(1_000)]))
    request.resource_logs[0].resource.attributes.append(_text("big", "x" * (limits.MAX_REPEATED // 1_000)))
    with pytest.raises(InvalidRequest, match="Send smaller resources"):
        decode_logs(request.SerializeToString(), NOW)
