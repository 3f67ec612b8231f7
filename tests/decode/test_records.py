"""Metrics and logs held to their oracle: the rows of the kernel and those made over protobuf's objects are one and the same to ClickHouse."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.metrics.v1 import metrics_pb2 as otlp
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from leadline.decode.records import COLUMNS, decode_logs, decode_metrics
from leadline.errors import InvalidRequest
from reference import records as oracle

NOW = 4_000_000_000_123_456_789  # 2096: no TTL of the tables is over

texts = st.text(max_size=8)
doubles = st.floats()
counts = st.integers(0, 2**64 - 1)
times = st.one_of(st.just(0), st.integers(NOW - 10 * 86_400 * 10**9, NOW + 10**10), counts)
values: Any = st.recursive(
    st.one_of(
        st.builds(AnyValue),
        st.builds(AnyValue, string_value=texts),
        st.builds(AnyValue, int_value=st.integers(-(2**63), 2**63 - 1)),
        st.builds(AnyValue, double_value=doubles),
        st.builds(AnyValue, bool_value=st.booleans()),
        st.builds(AnyValue, bytes_value=st.binary(max_size=5)),
    ),
    lambda inner: st.one_of(
        st.builds(lambda v: AnyValue(array_value=ArrayValue(values=v)), st.lists(inner, max_size=3)),
        st.builds(
            lambda v: AnyValue(kvlist_value=KeyValueList(values=[KeyValue(key=k, value=w) for k, w in v.items()])),
            st.dictionaries(texts, inner, max_size=3),
        ),
    ),
    max_leaves=6,
)
# the oracle keeps one of a key that comes twice
attributes = st.builds(lambda found: [KeyValue(key=k, value=v) for k, v in found.items()], st.dictionaries(texts, values, max_size=3))
ids = st.sampled_from([b"", bytes(range(16)), b"\xff" * 8])
resources = st.builds(
    lambda found, service: Resource(attributes=[*found, *service]),
    attributes, st.sampled_from([[], [KeyValue(key="service.name", value=AnyValue(string_value="api"))]]),
)  # fmt: skip
scopes = st.builds(
    InstrumentationScope, name=texts, version=texts, attributes=attributes, dropped_attributes_count=st.integers(0, 2**32 - 1)
)
records = st.builds(
    LogRecord, time_unix_nano=times, observed_time_unix_nano=times, severity_number=st.integers(0, 40), severity_text=texts, body=values,
    attributes=attributes, flags=st.integers(0, 2**32 - 1), trace_id=ids, span_id=ids, event_name=st.sampled_from(["", "x"]),
)  # fmt: skip
exemplars = st.lists(
    st.one_of(
        st.builds(otlp.Exemplar, filtered_attributes=attributes, time_unix_nano=counts, as_double=doubles, span_id=ids, trace_id=ids),
        st.builds(otlp.Exemplar, as_int=st.integers(-(2**53), 2**53)),
    ),
    max_size=2,
)
point = {"attributes": attributes, "start_time_unix_nano": times, "time_unix_nano": times, "flags": st.integers(0, 2**32 - 1)}
numbers = st.one_of(
    st.builds(otlp.NumberDataPoint, as_double=doubles, exemplars=exemplars, **point),
    st.builds(otlp.NumberDataPoint, as_int=st.integers(-(2**53), 2**53), **point),
)
moments = {"count": counts, "sum": doubles, "min": doubles, "max": doubles, "exemplars": exemplars}
buckets = st.builds(
    otlp.ExponentialHistogramDataPoint.Buckets, offset=st.integers(-(2**31), 2**31 - 1), bucket_counts=st.lists(counts, max_size=4)
)
temporality = st.integers(0, 2)
metrics = st.one_of(
    st.builds(otlp.Metric),
    st.builds(lambda **of: {"gauge": otlp.Gauge(**of)}, data_points=st.lists(numbers, max_size=3)),
    st.builds(
        lambda **of: {"sum": otlp.Sum(**of)},
        data_points=st.lists(numbers, max_size=3), aggregation_temporality=temporality, is_monotonic=st.booleans(),
    ),
    st.builds(
        lambda **of: {"histogram": otlp.Histogram(**of)}, aggregation_temporality=temporality,
        data_points=st.lists(st.builds(
            otlp.HistogramDataPoint, bucket_counts=st.lists(counts, max_size=4), explicit_bounds=st.lists(doubles, max_size=4), **moments, **point
        ), max_size=2),
    ),
    st.builds(
        lambda **of: {"exponential_histogram": otlp.ExponentialHistogram(**of)}, aggregation_temporality=temporality,
        data_points=st.lists(st.builds(
            otlp.ExponentialHistogramDataPoint, scale=st.integers(-10, 20), zero_count=counts, zero_threshold=doubles,
            positive=buckets, negative=buckets, **moments, **point,
        ), max_size=2),
    ),
    st.builds(
        lambda **of: {"summary": otlp.Summary(**of)},
        data_points=st.lists(st.builds(
            otlp.SummaryDataPoint, count=counts, sum=doubles, **point,
            quantile_values=st.lists(st.builds(otlp.SummaryDataPoint.ValueAtQuantile, quantile=doubles, value=doubles), max_size=3),
        ), max_size=2),
    ),
)  # fmt: skip
named = st.builds(
    lambda name, unit, of: otlp.Metric(name=name, unit=unit, description=unit, **(of if isinstance(of, dict) else {})),
    st.sampled_from(["", "m", "é"]), texts, metrics,
)  # fmt: skip
log_requests = st.builds(
    ExportLogsServiceRequest,
    resource_logs=st.lists(st.builds(
        ResourceLogs, resource=resources, schema_url=texts,
        scope_logs=st.lists(st.builds(ScopeLogs, scope=scopes, schema_url=texts, log_records=st.lists(records, max_size=3)), max_size=2),
    ), max_size=2),
)  # fmt: skip
metric_requests = st.builds(
    ExportMetricsServiceRequest,
    resource_metrics=st.lists(st.builds(
        otlp.ResourceMetrics, resource=resources, schema_url=texts,
        scope_metrics=st.lists(st.builds(otlp.ScopeMetrics, scope=scopes, schema_url=texts, metrics=st.lists(named, max_size=3)), max_size=2),
    ), max_size=2),
)  # fmt: skip
many = settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def held(clickhouse: Any, rows: Any, lines: dict[str, list[str]]) -> None:
    """Inserts both and compares every column of every row, in order."""
    assert {table: n for table, _, _, _, n in rows if table in COLUMNS} == {table: len(found) for table, found in lines.items() if found}
    for table, found in lines.items():
        clickhouse.ask(f"TRUNCATE TABLE {table}")
        clickhouse.insert([row for row in rows if row[0] == table])
        ours = clickhouse.ask(f"SELECT * FROM {table} ORDER BY ALL")
        clickhouse.ask(f"TRUNCATE TABLE {table}")
        if found:
            clickhouse.insert([(table, COLUMNS[table], "JSONEachRow", "".join(found).encode(), len(found))])
        theirs = clickhouse.ask(f"SELECT * FROM {table} ORDER BY ALL")
        for mine, other in zip(ours, theirs, strict=True):
            assert [(name, mine[name], other[name]) for name in mine if mine[name] != other[name]] == []


@given(log_requests)
@many
def test_logs(clickhouse: Any, request_: ExportLogsServiceRequest) -> None:
    body = request_.SerializeToString()
    held(clickhouse, decode_logs(body, NOW).rows("c1", 9), {"otel_logs": oracle.log_lines(body, "c1", 9, NOW)})


@given(metric_requests)
@many
def test_metrics(clickhouse: Any, request_: ExportMetricsServiceRequest) -> None:
    body = request_.SerializeToString()
    lines = oracle.point_lines(body, "c1", 9, NOW)
    held(
        clickhouse,
        decode_metrics(body, NOW).rows("c1", 9),
        {table: lines.get(table.removeprefix("otel_metrics_"), []) for table in COLUMNS if table != "otel_logs"},
    )


@pytest.mark.parametrize("decode", [decode_logs, decode_metrics])
def test_what_is_cut_short_is_refused(decode: Any) -> None:
    """Wherever it is cut, unless it is between two whole resources."""
    request = ExportLogsServiceRequest(resource_logs=[ResourceLogs(scope_logs=[ScopeLogs(log_records=[LogRecord(severity_text="x")])])])
    if decode is decode_metrics:
        gauge = otlp.Gauge(data_points=[otlp.NumberDataPoint(as_int=1, exemplars=[otlp.Exemplar(as_int=2)])])
        request = ExportMetricsServiceRequest(  # type: ignore[assignment]
            resource_metrics=[otlp.ResourceMetrics(scope_metrics=[otlp.ScopeMetrics(metrics=[otlp.Metric(name="m", gauge=gauge)])])]
        )
    body = request.SerializeToString()
    assert decode(body, NOW).items == 1
    for end in range(1, len(body)):
        with pytest.raises(InvalidRequest, match=r"bytes that are not one: at byte \d+: expected "):
            decode(body[:end], NOW)


@pytest.mark.parametrize(
    ("decode", "messages"),
    [
        (decode_logs, b"\x0a\x12\x12"),
        (decode_logs, b"\x0a\x12\x12\x2a"),
        (decode_metrics, b"\x0a\x12\x12\x2a"),
        (decode_logs, b"\x0a\x0a"),
    ],
)
def test_a_fault_is_said_with_its_place_in_the_request(decode: Any, messages: bytes) -> None:
    """However deep it lies."""
    body = b"\x08\xff"  # a number that does not end, where a record, a body, a gauge or a resource has none
    for tag in reversed(messages):
        body = bytes([tag, len(body)]) + body
    with pytest.raises(InvalidRequest, match=f"at byte {len(body) - 1}: expected a whole varint"):
        decode(body, NOW)


def test_values_nest_to_a_bound() -> None:
    def field(tag: int, content: bytes) -> bytes:
        return bytes([tag, 0x80 | len(content) & 0x7F, len(content) >> 7]) + content

    def request(levels: int) -> bytes:
        value = b"\x18\x01"
        for _ in range(levels):
            value = field(0x2A, field(0x0A, value))  # an array of one value
        return field(0x0A, field(0x12, field(0x12, field(0x2A, value))))

    assert decode_logs(request(64), NOW).items == 1
    with pytest.raises(InvalidRequest, match="nested no deeper than the limit"):
        decode_logs(request(65), NOW)
