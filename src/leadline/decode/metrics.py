"""OTLP metrics: request bytes → rows of the five `otel_metrics_*` tables.

Metrics go through protobuf's own objects: they are aggregates already, tens of thousands a second where spans are hundreds of thousands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Exemplar, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics

from leadline.decode.attributes import attributes_json, number_json, quoted, seconds_json, strings_json
from leadline.decode.limits import MAX_ITEMS, MAX_LATE_NS, check_expansion, clamped
from leadline.decode.parts import COLLECTOR, SEGMENT, Rows, parsed, placed

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
        ``no_name``: of metrics without a name. ``too_many``: past `MAX_ITEMS` in one request. ``too_complex``: of more than `MAX_VALUES` values.
    unplaced : Rows
        The accepted points as rows, with marks for collector and segment.
    """

    items: int
    rejected: dict[str, int]
    unplaced: Rows

    @property
    def size(self) -> int:
        """Bytes of the rows."""
        return sum(len(piece) for _, _, pieces, _ in self.unplaced for piece in pieces)

    def rows(self, collector: str, segment: int) -> Rows:
        """The rows, a table after the other."""
        return placed(self.unplaced, collector, segment)


def decode_metrics(body: bytes, receive_ns: int, *, max_late_ns: int = MAX_LATE_NS) -> MetricsBatch:
    """Reads an ExportMetricsServiceRequest (protobuf) and makes its rows. About 20 µs a point.

    A point's time is kept within `max_late_ns` of `receive_ns`, which also stands in where there is none.

    Raises
    ------
    InvalidRequest
        If the bytes are not one, or would grow out of all proportion as rows.
    """
    items = expansion = 0
    rejected, points_of = Counter[str](), Counter[str]()
    pieces: dict[str, list[bytes]] = {}
    for message, too_complex in parsed(ExportMetricsServiceRequest, "metrics", body):
        rejected["too_complex"] += too_complex
        for repeated, about, metric, points in _metrics(message):
            if not metric.name:
                rejected["no_name"] += len(points)
                continue
            taken = points[: MAX_ITEMS - items]
            rejected["too_many"] += len(points) - len(taken)
            items += len(taken)
            expansion += len(points) * (repeated + len(metric.description) + len(metric.unit) + len(metric.name))
            check_expansion("metrics", expansion)
            kind = str(metric.WhichOneof("data"))
            opening = f'{about}"MetricName":{quoted(metric.name)},"MetricDescription":{quoted(metric.description)},"MetricUnit":{quoted(metric.unit)},'
            lines = [_line(opening, point, metric, _ENCODERS[kind], receive_ns, max_late_ns) for point in taken]
            pieces.setdefault(kind, []).append("".join(lines).encode())
            points_of[kind] += len(taken)
    rows = [(f"otel_metrics_{kind}", COLUMNS[kind], pieces[kind], points_of[kind]) for kind in COLUMNS if points_of[kind]]
    return MetricsBatch(items, dict(+rejected), rows)


def _metrics(message: ExportMetricsServiceRequest) -> Iterator[tuple[int, str, Metric, Sequence[Any]]]:
    """Each metric that has points, and the points; before them the size and the text of what each row repeats of resource and scope."""
    for resource in message.resource_metrics:
        for group in resource.scope_metrics:
            repeated, about = resource.resource.ByteSize() + group.scope.ByteSize(), _about(resource, group)
            for metric in group.metrics:
                kind = metric.WhichOneof("data")
                if kind is not None and (points := getattr(metric, kind).data_points):
                    yield repeated, about, metric, points


def _about(resource: ResourceMetrics, group: ScopeMetrics) -> str:
    """The beginning of each row of a group: what it says of its resource and scope."""
    service = next((item.value.string_value for item in resource.resource.attributes if item.key == "service.name"), "")
    scope = group.scope
    return (
        f'{{"ResourceAttributes":{attributes_json(resource.resource.attributes)},"ResourceSchemaUrl":{quoted(resource.schema_url)},'
        f'"ServiceName":{quoted(service)},"ScopeName":{quoted(scope.name)},"ScopeVersion":{quoted(scope.version)},'
        f'"ScopeAttributes":{attributes_json(scope.attributes)},"ScopeDroppedAttrCount":{scope.dropped_attributes_count},'
        f'"ScopeSchemaUrl":{quoted(group.schema_url)},'
    )


def _line(opening: str, point: Any, metric: Metric, encode: Callable[[Any, Metric], str], receive_ns: int, max_late_ns: int) -> str:
    start, time = seconds_json(point.start_time_unix_nano), seconds_json(clamped(point.time_unix_nano, receive_ns, max_late_ns))
    shared = f'"Attributes":{attributes_json(point.attributes)},"StartTimeUnix":{start},"TimeUnix":{time},"Flags":{point.flags}'
    return f'{opening}{shared},{encode(point, metric)},"Collector":{COLLECTOR},"Segment":{SEGMENT}}}\n'


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
