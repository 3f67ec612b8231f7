"""OTLP logs: request bytes → rows of `otel_logs`, and of `labels` for the events that carry ground truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs

from leadline.decode import labels
from leadline.decode.attributes import any_text, attributes_json, nanoseconds_json, quoted
from leadline.decode.limits import MAX_ITEMS, MAX_LATE_NS, check_expansion, clamped
from leadline.decode.parts import COLLECTOR, SEGMENT, Rows, parsed, placed

COLUMNS = (
    "Timestamp", "TraceId", "SpanId", "TraceFlags", "SeverityText", "SeverityNumber", "ServiceName", "Body", "ResourceSchemaUrl",
    "ResourceAttributes", "ScopeSchemaUrl", "ScopeName", "ScopeVersion", "ScopeAttributes", "LogAttributes", "EventName", "Collector", "Segment",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LogsBatch:
    """A decoded logs request.

    Parameters
    ----------
    items : int
        Records accepted.
    rejected : dict, reason -> records
        ``too_many``: past `MAX_ITEMS` in one request. ``too_complex``: of more than `MAX_VALUES` values.
    labels : tuple of Label
        Ground truth among the records. A label is a record too, and stored as both.
    notes : dict, name -> records
        Feedback that cannot be used (see `leadline.decode.labels.label_of`); the record is stored all the same.
    unplaced : Rows
        The accepted records as rows, and the labels, with marks for collector and segment.
    """

    items: int
    rejected: dict[str, int]
    labels: tuple[labels.Label, ...]
    notes: dict[str, int]
    unplaced: Rows

    @property
    def size(self) -> int:
        """Bytes of the rows."""
        return sum(len(piece) for _, _, pieces, _ in self.unplaced for piece in pieces)

    def rows(self, collector: str, segment: int) -> Rows:
        """The rows, a table after the other."""
        return placed(self.unplaced, collector, segment)


def decode_logs(body: bytes, receive_ns: int, *, max_late_ns: int = MAX_LATE_NS) -> LogsBatch:
    """Reads an ExportLogsServiceRequest (protobuf) and makes its rows. About 15 µs a record.

    A record's time (else the time it was observed) is kept within `max_late_ns` of `receive_ns`, which also stands in where there is none.

    Raises
    ------
    InvalidRequest
        If the bytes are not one, or would grow out of all proportion as rows.
    """
    items = expansion = 0
    rejected, notes = Counter[str](), Counter[str]()
    found: list[labels.Label] = []
    pieces: list[bytes] = []

    def note(name: str) -> None:
        notes[name] += 1

    for message, too_complex in parsed(ExportLogsServiceRequest, "logs", body):
        rejected["too_complex"] += too_complex
        for resource, group, records in _groups(message):
            taken = records[: MAX_ITEMS - items]
            rejected["too_many"] += len(records) - len(taken)
            items += len(taken)
            expansion += len(records) * (resource.resource.ByteSize() + group.scope.ByteSize())
            check_expansion("logs", expansion)
            about = _about(resource, group)
            pieces.append("".join([_line(record, receive_ns, max_late_ns) + about for record in taken]).encode())
            for record in taken:
                if (name := event_name_of(record)) and (label := labels.label_of(record, name, note)):
                    found.append(label)
    rows: Rows = [("otel_logs", COLUMNS, pieces, items)] if items else []
    if found:
        rows.append(("labels", labels.COLUMNS, ["".join(label.row(receive_ns) for label in found).encode()], len(found)))
    return LogsBatch(items, dict(+rejected), tuple(found), dict(notes), rows)


def _groups(message: ExportLogsServiceRequest) -> Iterator[tuple[ResourceLogs, ScopeLogs, Sequence[LogRecord]]]:
    for resource in message.resource_logs:
        for group in resource.scope_logs:
            if group.log_records:
                yield resource, group, group.log_records


def _about(resource: ResourceLogs, group: ScopeLogs) -> str:
    """The end of each row of a group: what it says of its resource and scope."""
    service = next((item.value.string_value for item in resource.resource.attributes if item.key == "service.name"), "")
    scope = group.scope
    return (
        f'"ServiceName":{quoted(service)},"ResourceSchemaUrl":{quoted(resource.schema_url)},'
        f'"ResourceAttributes":{attributes_json(resource.resource.attributes)},'
        f'"ScopeSchemaUrl":{quoted(group.schema_url)},"ScopeName":{quoted(scope.name)},"ScopeVersion":{quoted(scope.version)},'
        f'"ScopeAttributes":{attributes_json(scope.attributes)},"Collector":{COLLECTOR},"Segment":{SEGMENT}}}\n'
    )


def event_name_of(record: LogRecord) -> str:
    """The record's event name; SDKs before the field existed wrote the attribute ``event.name``."""
    return record.event_name or next((item.value.string_value for item in record.attributes if item.key == "event.name"), "")


def _line(record: LogRecord, receive_ns: int, max_late_ns: int) -> str:
    time_ns = clamped(record.time_unix_nano or record.observed_time_unix_nano, receive_ns, max_late_ns)
    severity = record.severity_number if 0 <= record.severity_number <= 24 else 0
    return (
        f'{{"Timestamp":{nanoseconds_json(time_ns)},"TraceId":"{record.trace_id.hex()}","SpanId":"{record.span_id.hex()}",'
        f'"TraceFlags":{record.flags & 0xFF},"SeverityText":{quoted(record.severity_text)},"SeverityNumber":{severity},'
        f'"Body":{quoted(any_text(record.body))},"LogAttributes":{attributes_json(record.attributes)},"EventName":{quoted(event_name_of(record))},'
    )
