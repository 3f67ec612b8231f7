"""Metrics: every kind of point becomes the row that the exporter's tables expect, and numbers survive."""

from __future__ import annotations

import math
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.metrics.v1 import metrics_pb2 as otlp

from leadline.decode import records
from leadline.decode.attributes import any_text, number_text
from leadline.decode.records import COLUMNS, decode_metrics
from leadline.errors import InvalidRequest

NOW = 4_000_000_000_123_456_789  # 2096: no TTL of the tables is over
SECOND = 1_000_000_000
TRACE, SPAN = bytes(range(16)), bytes(range(8))


def _text(key: str, value: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value))


def _request(*metrics: otlp.Metric) -> ExportMetricsServiceRequest:
    request = ExportMetricsServiceRequest()
    resource = request.resource_metrics.add(schema_url="https://r/1")
    resource.resource.attributes.extend([_text("service.name", 'fraud "api"'), _text("host.name", "h\n1")])
    group = resource.scope_metrics.add(schema_url="https://s/1")
    group.scope.name, group.scope.version, group.scope.dropped_attributes_count = "meter", "2", 3
    group.scope.attributes.append(_text("a", "b"))
    group.metrics.extend(metrics)
    return request


def _exemplar() -> otlp.Exemplar:
    return otlp.Exemplar(filtered_attributes=[_text("k", "v")], time_unix_nano=NOW, as_double=math.nan, span_id=SPAN, trace_id=TRACE)


def _every_kind() -> ExportMetricsServiceRequest:
    number = otlp.NumberDataPoint
    delta, cumulative = otlp.AGGREGATION_TEMPORALITY_DELTA, otlp.AGGREGATION_TEMPORALITY_CUMULATIVE
    gauge = [
        number(attributes=[_text("gpu", "0")], time_unix_nano=NOW, as_double=0.1, exemplars=[_exemplar(), otlp.Exemplar(as_int=-3)]),
        number(time_unix_nano=NOW, as_int=2**53 - 1),
        number(time_unix_nano=NOW, as_double=-math.inf),
        number(time_unix_nano=NOW, as_double=5e-324),
        number(time_unix_nano=NOW, flags=otlp.DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK),
    ]
    return _request(
        otlp.Metric(name="util", unit="1", description="GPU é", gauge=otlp.Gauge(data_points=gauge)),
        otlp.Metric(name="done", sum=otlp.Sum(data_points=[number(start_time_unix_nano=NOW - SECOND, time_unix_nano=NOW, as_int=7)], aggregation_temporality=delta, is_monotonic=True)),
        otlp.Metric(name="queue", sum=otlp.Sum(data_points=[number(time_unix_nano=NOW, as_double=math.nan)], aggregation_temporality=cumulative)),
        otlp.Metric(
            name="latency",
            histogram=otlp.Histogram(
                aggregation_temporality=cumulative,
                data_points=[
                    otlp.HistogramDataPoint(time_unix_nano=NOW, count=2**64 - 1, sum=1.5, bucket_counts=[1, 2**63, 3], explicit_bounds=[0.5, 1.0], exemplars=[_exemplar()], min=-1.0, max=9.5),
                    otlp.HistogramDataPoint(time_unix_nano=NOW),
                ],
            ),
        ),
        otlp.Metric(
            name="score",
            exponential_histogram=otlp.ExponentialHistogram(
                aggregation_temporality=delta,
                data_points=[
                    otlp.ExponentialHistogramDataPoint(
                        time_unix_nano=NOW, count=9, sum=-4.25, scale=-3, zero_count=2, zero_threshold=1e-12, min=-2.0, max=2.0,
                        positive=otlp.ExponentialHistogramDataPoint.Buckets(offset=-7, bucket_counts=[1, 0, 2]),
                        negative=otlp.ExponentialHistogramDataPoint.Buckets(offset=4, bucket_counts=[4]),
                    )
                ],
            ),
        ),
        otlp.Metric(
            name="gc",
            summary=otlp.Summary(data_points=[otlp.SummaryDataPoint(time_unix_nano=NOW, count=3, sum=6.0, quantile_values=[otlp.SummaryDataPoint.ValueAtQuantile(quantile=0.99, value=math.inf)])]),
        ),
    )  # fmt: skip


def test_every_kind_of_point_arrives_in_its_table(clickhouse: Any) -> None:
    batch = decode_metrics(_every_kind().SerializeToString(), NOW)
    assert (batch.items, batch.rejected) == (11, {})
    rows = batch.rows("c1", 7)
    assert {table: columns for table, columns, *_ in rows} == {table: columns for table, columns in COLUMNS.items() if table != "otel_logs"}
    assert sum(n for *_, n in rows) == batch.items
    clickhouse.insert(rows)
    gauges = clickhouse.ask("SELECT * FROM otel_metrics_gauge ORDER BY Flags, Value")
    assert [row["Value"] for row in gauges] == ["-inf", 5e-324, 0.1, 2**53 - 1, 0]
    assert [row["Flags"] for row in gauges] == [0, 0, 0, 0, 1]
    first = gauges[2]
    assert first == {
        "ResourceAttributes": {"service.name": 'fraud "api"', "host.name": "h\n1"}, "ResourceSchemaUrl": "https://r/1",
        "ScopeName": "meter", "ScopeVersion": "2", "ScopeAttributes": {"a": "b"}, "ScopeDroppedAttrCount": 3, "ScopeSchemaUrl": "https://s/1",
        "ServiceName": 'fraud "api"', "MetricName": "util", "MetricDescription": "GPU é", "MetricUnit": "1", "Attributes": {"gpu": "0"},
        "StartTimeUnix": "1970-01-01 00:00:00", "TimeUnix": "2096-10-02 07:06:40", "Flags": 0, "Value": 0.1,
        "Exemplars.FilteredAttributes": [{"k": "v"}, {}], "Exemplars.TimeUnix": ["2096-10-02 07:06:40", "1970-01-01 00:00:00"],
        "Exemplars.Value": ["nan", -3], "Exemplars.SpanId": [SPAN.hex(), ""], "Exemplars.TraceId": [TRACE.hex(), ""],
        "Collector": "c1", "Segment": 7,
    }  # fmt: skip
    sums = clickhouse.ask(
        "SELECT MetricName, Value, AggregationTemporality AS t, IsMonotonic, toUnixTimestamp(StartTimeUnix) AS s FROM otel_metrics_sum ORDER BY MetricName"
    )
    assert sums == [
        {"MetricName": "done", "Value": 7, "t": 1, "IsMonotonic": True, "s": NOW // SECOND - 1},
        {"MetricName": "queue", "Value": "nan", "t": 2, "IsMonotonic": False, "s": 0},
    ]
    (full, empty) = clickhouse.ask(
        "SELECT Count, Sum, Min, Max, BucketCounts, ExplicitBounds, AggregationTemporality AS t, Exemplars.Value AS e FROM otel_metrics_histogram ORDER BY Count DESC"
    )
    assert full == {
        "Count": 2**64 - 1,
        "Sum": 1.5,
        "Min": -1,
        "Max": 9.5,
        "BucketCounts": [1, 2**63, 3],
        "ExplicitBounds": [0.5, 1],
        "t": 2,
        "e": ["nan"],
    }
    assert empty == {"Count": 0, "Sum": 0, "Min": 0, "Max": 0, "BucketCounts": [], "ExplicitBounds": [], "t": 2, "e": []}
    (score,) = clickhouse.ask(
        "SELECT Count, Sum, Scale, ZeroCount, ZeroThreshold, PositiveOffset, PositiveBucketCounts, NegativeOffset, NegativeBucketCounts, Min, Max,"
        " AggregationTemporality AS t FROM otel_metrics_exponential_histogram"
    )
    assert score == {
        "Count": 9, "Sum": -4.25, "Scale": -3, "ZeroCount": 2, "ZeroThreshold": 1e-12, "PositiveOffset": -7, "PositiveBucketCounts": [1, 0, 2],
        "NegativeOffset": 4, "NegativeBucketCounts": [4], "Min": -2, "Max": 2, "t": 1,
    }  # fmt: skip
    (gc,) = clickhouse.ask('SELECT Count, Sum, "ValueAtQuantiles.Quantile" AS q, "ValueAtQuantiles.Value" AS v FROM otel_metrics_summary')
    assert gc == {"Count": 3, "Sum": 6, "q": [0.99], "v": ["inf"]}


def test_what_is_refused_point_by_point_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [otlp.NumberDataPoint(time_unix_nano=NOW, as_int=n) for n in range(5)]
    request = _request(
        otlp.Metric(gauge=otlp.Gauge(data_points=points[:2])),
        otlp.Metric(name="no data"),
        otlp.Metric(name="g", gauge=otlp.Gauge(data_points=points)),
    )
    batch = decode_metrics(request.SerializeToString(), NOW)
    assert (batch.items, batch.rejected) == (5, {"no_name": 2})
    assert [n for *_, n in batch.rows("c", 1)] == [5]
    monkeypatch.setattr("leadline.decode.records.MAX_ITEMS", 3)
    batch = decode_metrics(request.SerializeToString(), NOW)
    assert (batch.items, batch.rejected) == (3, {"no_name": 2, "too_many": 2})
    assert [n for *_, n in batch.rows("c", 1)] == [3]


def test_an_empty_request_is_fine() -> None:
    batch = decode_metrics(b"", NOW)
    assert (batch.items, batch.rejected, batch.rows("c", 1)) == (0, {}, [])


@pytest.mark.parametrize("body", [b"\xff", b"not protobuf at all", b"\x0a\x05\x0a", b"\x0a\xff\xff\xff\xff\x7f"])
def test_what_is_not_a_request_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="expected a protobuf ExportMetricsServiceRequest"):
        decode_metrics(body, NOW)


def test_a_large_resource_above_many_tiny_points_is_refused() -> None:
    request = _request(otlp.Metric(name="g", gauge=otlp.Gauge(data_points=[otlp.NumberDataPoint() for _ in range(1_000)])))
    request.resource_metrics[0].resource.attributes.append(_text("big", "x" * (records.MAX_REPEATED // 1_000)))
    with pytest.raises(InvalidRequest, match="would take more than 128 MiB"):
        decode_metrics(request.SerializeToString(), NOW)


def test_times_stay_near_the_receipt(clickhouse: Any) -> None:
    """A block over a hundred days is refused by ClickHouse for good; so the days are few, whatever the points claim."""
    times = [0, 1, NOW - 8 * 86_400 * SECOND, NOW + 60 * SECOND, 2**64 - 1, *(NOW - day * 86_400 * SECOND for day in range(300))]
    points = [otlp.NumberDataPoint(time_unix_nano=time, start_time_unix_nano=time) for time in times]
    clickhouse.insert(
        decode_metrics(_request(otlp.Metric(name="g", gauge=otlp.Gauge(data_points=points))).SerializeToString(), NOW).rows("c", 1)
    )
    (found,) = clickhouse.ask(
        "SELECT count() AS n, uniqExact(toDate(TimeUnix)) AS days, toUnixTimestamp(max(TimeUnix)) AS latest, toUnixTimestamp(min(TimeUnix)) AS first FROM otel_metrics_gauge"
    )
    assert found == {"n": 305, "days": 8, "latest": NOW // SECOND + 5, "first": NOW // SECOND - 7 * 86_400}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (AnyValue(), ""),
        (AnyValue(string_value=""), ""),
        (AnyValue(bool_value=False), "false"),
        (AnyValue(int_value=-(2**63)), "-9223372036854775808"),
        (AnyValue(double_value=5.0), "5"),
        (AnyValue(bytes_value=b"\xff\x00"), "/wA="),
        (AnyValue(array_value=ArrayValue(values=[AnyValue(int_value=1), AnyValue(string_value="é"), AnyValue()])), '[1,"é",null]'),
        (AnyValue(kvlist_value=KeyValueList(values=[KeyValue(key="k", value=AnyValue(double_value=math.inf))])), '{"k":"inf"}'),
    ],
)
def test_texts_of_values(value: AnyValue, text: str) -> None:
    assert any_text(value) == text


def test_texts_of_numbers_are_clickhouses() -> None:
    import chdb

    numbers: list[Any] = [
        0.0,
        -0.0,
        1.0,
        -2.5,
        0.1,
        1e-5,
        1e-6,
        9.9e-7,
        1.5e-7,
        123456.75,
        1e15,
        1e16,
        123456789012345680.0,
        1e20,
        1e21,
        1.5e22,
        5e-324,
        1.7976931348623157e308,
    ]
    connection = chdb.connect(":memory:")
    theirs = str(connection.query(f"SELECT toString(arrayJoin([{', '.join(map(repr, numbers))}]::Array(Float64)))", "TSV")).split()
    connection.close()
    assert [number_text(number) for number in numbers] == theirs
    assert [number_text(number) for number in (math.nan, math.inf, -math.inf)] == ["nan", "inf", "-inf"]
