"""Oracle of `decode_logs` and `decode_metrics`: rows as JSON, a record at a time, over protobuf's own objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Exemplar, Metric, NumberDataPoint

from leadline.decode.attributes import nanoseconds_json, number_json, quoted
from leadline.decode.records import event_name_of
from reference.span_rows import text

MAX_LATE_NS = 7 * 86_400_000_000_000
MAX_EARLY_NS = 5_000_000_000


def clamped(time_ns: int, receive_ns: int) -> int:
    return max(receive_ns - MAX_LATE_NS, min(time_ns, receive_ns + MAX_EARLY_NS)) if time_ns else receive_ns


_LAST_SECOND = 2**32 - 1


def attributes_json(attributes: Iterable[KeyValue]) -> str:
    """A JSON object of texts, for a ``Map(LowCardinality(String), String)``. Of a key that comes twice the last value counts."""
    texts = {item.key: text(item.value) for item in attributes}
    return "{" + ",".join([f"{quoted(key)}:{quoted(value)}" for key, value in texts.items()]) + "}"


def seconds_json(time_ns: int) -> str:
    """Unix seconds for a DateTime, which ends in 2106."""
    return str(min(time_ns // 1_000_000_000, _LAST_SECOND))


def strings_json(texts: Iterable[str]) -> str:
    return "[" + ",".join(map(quoted, texts)) + "]"


def log_lines(body: bytes, collector: str, segment: int, receive_ns: int) -> list[str]:
    """The rows of `otel_logs`, as JSONEachRow."""
    message = ExportLogsServiceRequest.FromString(body)
    lines: list[str] = []
    ours = f',"Collector":{quoted(collector)},"Segment":{segment}}}\n'
    for resource in message.resource_logs:
        service = next((item.value.string_value for item in resource.resource.attributes if item.key == "service.name"), "")
        about = (
            f'"ServiceName":{quoted(service)},"ResourceSchemaUrl":{quoted(resource.schema_url)},'
            f'"ResourceAttributes":{attributes_json(resource.resource.attributes)}'
        )
        for group in resource.scope_logs:
            scope = group.scope
            within = (
                f'{about},"ScopeSchemaUrl":{quoted(group.schema_url)},"ScopeName":{quoted(scope.name)},"ScopeVersion":{quoted(scope.version)},'
                f'"ScopeAttributes":{attributes_json(scope.attributes)}{ours}'
            )
            lines += [_line(record, receive_ns) + within for record in group.log_records]
    return lines


def point_lines(body: bytes, collector: str, segment: int, receive_ns: int) -> dict[str, list[str]]:
    """The rows of `otel_metrics_<kind>`, as JSONEachRow, by kind."""
    message = ExportMetricsServiceRequest.FromString(body)
    lines: dict[str, list[str]] = {}
    ours = f',"Collector":{quoted(collector)},"Segment":{segment}}}\n'
    for kind, opening, metric, points in _metrics(message):
        encode, into = _ENCODERS[kind], lines.setdefault(kind, [])
        for point in points:
            start, time = (
                seconds_json(point.start_time_unix_nano),
                seconds_json(clamped(point.time_unix_nano, receive_ns)),
            )
            shared = f'"Attributes":{attributes_json(point.attributes)},"StartTimeUnix":{start},"TimeUnix":{time},"Flags":{point.flags}'
            into.append(f"{opening}{shared},{encode(point, metric)}{ours}")
    return lines


_EXEMPLARS = ("Exemplars.FilteredAttributes", "Exemplars.TimeUnix", "Exemplars.Value", "Exemplars.SpanId", "Exemplars.TraceId")


def _line(record: LogRecord, receive_ns: int) -> str:
    time_ns = clamped(record.time_unix_nano or record.observed_time_unix_nano, receive_ns)
    severity = record.severity_number if 0 <= record.severity_number <= 24 else 0
    return (
        f'{{"Timestamp":{nanoseconds_json(time_ns)},"TraceId":"{record.trace_id.hex()}","SpanId":"{record.span_id.hex()}",'
        f'"TraceFlags":{record.flags & 0xFF},"SeverityText":{quoted(record.severity_text)},"SeverityNumber":{severity},'
        f'"Body":{quoted(text(record.body))},"LogAttributes":{attributes_json(record.attributes)},"EventName":{quoted(event_name_of(record))},'
    )


def _points(metric: Metric) -> Any:
    kind = metric.WhichOneof("data")
    return () if kind is None else getattr(metric, kind).data_points


def _metrics(message: ExportMetricsServiceRequest) -> Iterator[tuple[str, str, Metric, Iterable[Any]]]:
    """(kind, the beginning of each of its rows, metric, points) of every accepted metric that has points."""
    for resource in message.resource_metrics:
        service = next((item.value.string_value for item in resource.resource.attributes if item.key == "service.name"), "")
        about = (
            f'{{"ResourceAttributes":{attributes_json(resource.resource.attributes)},"ResourceSchemaUrl":{quoted(resource.schema_url)},'
            f'"ServiceName":{quoted(service)}'
        )
        for group in resource.scope_metrics:
            scope = group.scope
            within = (
                f'{about},"ScopeName":{quoted(scope.name)},"ScopeVersion":{quoted(scope.version)},"ScopeAttributes":{attributes_json(scope.attributes)},'
                f'"ScopeDroppedAttrCount":{scope.dropped_attributes_count},"ScopeSchemaUrl":{quoted(group.schema_url)}'
            )
            for metric in group.metrics:
                points = _points(metric)
                if not metric.name or not points:
                    continue
                kind = str(metric.WhichOneof("data"))
                opening = f'{within},"MetricName":{quoted(metric.name)},"MetricDescription":{quoted(metric.description)},"MetricUnit":{quoted(metric.unit)},'
                yield kind, opening, metric, points


def _value(point: NumberDataPoint | Exemplar) -> str:
    kind = point.WhichOneof("value")
    return str(point.as_int) if kind == "as_int" else number_json(point.as_double) if kind == "as_double" else "0"


def _exemplars(exemplars: Any) -> str:
    if not exemplars:
        return ""
    columns = (
        "[" + ",".join(attributes_json(item.filtered_attributes) for item in exemplars) + "]",
        "[" + ",".join(seconds_json(item.time_unix_nano) for item in exemplars) + "]",
        "[" + ",".join(_value(item) for item in exemplars) + "]",
        strings_json(item.span_id.hex() for item in exemplars),
        strings_json(item.trace_id.hex() for item in exemplars),
    )
    return "," + ",".join(f'"{name}":{values}' for name, values in zip(_EXEMPLARS, columns, strict=True))


def _array(numbers: Iterable[int]) -> str:
    return "[" + ",".join(map(str, numbers)) + "]"


def _floats(numbers: Iterable[float]) -> str:
    return "[" + ",".join(map(number_json, numbers)) + "]"


def _gauge(point: Any, _metric: Metric) -> str:
    return f'"Value":{_value(point)}{_exemplars(point.exemplars)}'


def _sum(point: Any, metric: Metric) -> str:
    monotonic = "true" if metric.sum.is_monotonic else "false"
    return f'{_gauge(point, metric)},"AggregationTemporality":{metric.sum.aggregation_temporality},"IsMonotonic":{monotonic}'


def _moments(point: Any) -> str:
    """As the exporter does, a sum, minimum or maximum that was not sent is 0."""
    return f'"Count":{point.count},"Sum":{number_json(point.sum)},"Min":{number_json(point.min)},"Max":{number_json(point.max)}'


def _histogram(point: Any, metric: Metric) -> str:
    return (
        f'{_moments(point)},"BucketCounts":{_array(point.bucket_counts)},"ExplicitBounds":{_floats(point.explicit_bounds)}'
        f'{_exemplars(point.exemplars)},"AggregationTemporality":{metric.histogram.aggregation_temporality}'
    )


def _exponential_histogram(point: Any, metric: Metric) -> str:
    positive, negative = point.positive, point.negative
    return (
        f'{_moments(point)},"Scale":{point.scale},"ZeroCount":{point.zero_count},"ZeroThreshold":{number_json(point.zero_threshold)},'
        f'"PositiveOffset":{positive.offset},"PositiveBucketCounts":{_array(positive.bucket_counts)},'
        f'"NegativeOffset":{negative.offset},"NegativeBucketCounts":{_array(negative.bucket_counts)}'
        f'{_exemplars(point.exemplars)},"AggregationTemporality":{metric.exponential_histogram.aggregation_temporality}'
    )


def _summary(point: Any, _metric: Metric) -> str:
    levels, values = (_floats(getattr(item, name) for item in point.quantile_values) for name in ("quantile", "value"))
    return f'"Count":{point.count},"Sum":{number_json(point.sum)},"ValueAtQuantiles.Quantile":{levels},"ValueAtQuantiles.Value":{values}'


_ENCODERS: dict[str, Callable[[Any, Metric], str]] = {
    "gauge": _gauge,
    "sum": _sum,
    "histogram": _histogram,
    "exponential_histogram": _exponential_histogram,
    "summary": _summary,
}
