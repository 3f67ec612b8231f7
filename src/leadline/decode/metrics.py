"""OTLP metrics: request bytes → rows of the five `otel_metrics_*` tables.

Metrics go through protobuf's own objects: they are aggregates already, tens of thousands a second where spans are hundreds of thousands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Exemplar, Metric, NumberDataPoint

from leadline.decode.attributes import attributes_json, number_json, quoted, seconds_json, strings_json
from leadline.decode.limits import MAX_ITEMS, MAX_LATE_NS, check_expansion, clamped
from leadline.errors import InvalidRequest

Rows = list[tuple[str, tuple[str, ...], bytes, int]]
"""(table, columns, JSONEachRow lines, rows)."""

_SHARED = (
    "ResourceAttributes", "ResourceSchemaUrl", "ScopeName", "ScopeVersion", "ScopeAttributes", "ScopeDroppedAttrCount", "ScopeSchemaUrl",
    "ServiceName", "MetricName", "MetricDescription", "MetricUnit", "Attributes", "StartTimeUnix", "TimeUnix", "Flags",
)  # fmt: skip
_EXEMPLARS = ("Exemplars.FilteredAttributes", "Exemplars.TimeUnix", "Exemplars.Value", "Exemplars.SpanId", "Exemplars.TraceId")
_OURS = ("Collector", "Segment")
COLUMNS: dict[str, tuple[str, ...]] = {
    "gauge": (*_SHARED, "Value", *_EXEMPLARS, *_OURS),
    "sum": (*_SHARED, "Value", *_EXEMPLARS, "AggregationTemporality", "IsMonotonic", *_OURS),
    "histogram": (*_SHARED, "Count", "Sum", "Min", "Max", "BucketCounts", "ExplicitBounds", *_EXEMPLARS, "AggregationTemporality", *_OURS),
    "exponential_histogram": (
        *_SHARED, "Count", "Sum", "Min", "Max", "Scale", "ZeroCount", "ZeroThreshold", "PositiveOffset", "PositiveBucketCounts",
        "NegativeOffset", "NegativeBucketCounts", *_EXEMPLARS, "AggregationTemporality", *_OURS,
    ),
    "summary": (*_SHARED, "Count", "Sum", "ValueAtQuantiles.Quantile", "ValueAtQuantiles.Value", *_OURS),
}  # fmt: skip
"""Kind of metric -> the columns of table `otel_metrics_<kind>`."""


@dataclass(frozen=True, slots=True)
class MetricsBatch:
    """A decoded metrics request.

    Parameters
    ----------
    items : int
        Data points accepted.
    rejected : dict, reason -> data points
        ``no_name``: of metrics without a name. ``too_many``: past `MAX_ITEMS` in one request.
    """

    items: int
    rejected: dict[str, int]
    message: ExportMetricsServiceRequest
    max_late_ns: int = MAX_LATE_NS

    def rows(self, collector: str, segment: int, receive_ns: int) -> Rows:
        """The accepted points as rows, a table after the other. About 15 µs a point.

        A point's time is kept within `max_late_ns` of `receive_ns`, which also stands in where there is none.
        """
        lines: dict[str, list[str]] = {}
        ours = f',"Collector":{quoted(collector)},"Segment":{segment}}}\n'
        for kind, opening, metric, points in _metrics(self.message, self.items):
            encode, into = _ENCODERS[kind], lines.setdefault(kind, [])
            for point in points:
                start, time = (
                    seconds_json(point.start_time_unix_nano),
                    seconds_json(clamped(point.time_unix_nano, receive_ns, self.max_late_ns)),
                )
                shared = f'"Attributes":{attributes_json(point.attributes)},"StartTimeUnix":{start},"TimeUnix":{time},"Flags":{point.flags}'
                into.append(f"{opening}{shared},{encode(point, metric)}{ours}")
        return [
            (f"otel_metrics_{kind}", COLUMNS[kind], "".join(lines[kind]).encode(), len(lines[kind])) for kind in COLUMNS if lines.get(kind)
        ]


def decode_metrics(body: bytes, *, max_late_ns: int = MAX_LATE_NS) -> MetricsBatch:
    """Reads an ExportMetricsServiceRequest (protobuf).

    Raises
    ------
    InvalidRequest
        If the bytes are not one, or would grow out of all proportion as rows.
    """
    message = ExportMetricsServiceRequest()
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise InvalidRequest(
            f"metrics: expected a protobuf ExportMetricsServiceRequest, got {len(body)} bytes that are not one ({error})"
        ) from error
    items, rejected, expansion = 0, Counter[str](), 0
    for resource in message.resource_metrics:
        for scope in resource.scope_metrics:
            points = 0
            for metric in scope.metrics:
                n = len(_points(metric))
                if metric.name:
                    points += n
                    expansion += n * (len(metric.description) + len(metric.unit) + len(metric.name))
                elif n:
                    rejected["no_name"] += n
            expansion += points * (resource.resource.ByteSize() + scope.scope.ByteSize()) if points else 0
            items += points
    if items > MAX_ITEMS:
        rejected["too_many"] = items - MAX_ITEMS
        items = MAX_ITEMS
    check_expansion("metrics", expansion)
    return MetricsBatch(items, dict(rejected), message, max_late_ns)


def _points(metric: Metric) -> Any:
    kind = metric.WhichOneof("data")
    return () if kind is None else getattr(metric, kind).data_points


def _metrics(message: ExportMetricsServiceRequest, limit: int) -> Iterator[tuple[str, str, Metric, Iterable[Any]]]:
    """(kind, the beginning of each of its rows, metric, points) of every accepted metric that has points, `limit` points in all."""
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
                if not metric.name or not points or limit <= 0:
                    continue
                kind = str(metric.WhichOneof("data"))
                opening = f'{within},"MetricName":{quoted(metric.name)},"MetricDescription":{quoted(metric.description)},"MetricUnit":{quoted(metric.unit)},'
                yield kind, opening, metric, points[:limit]
                limit -= len(points)


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
