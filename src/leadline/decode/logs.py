"""OTLP logs: request bytes → rows of `otel_logs`, and of `labels` for the events that carry ground truth."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from leadline.decode import labels
from leadline.decode.attributes import any_text, attributes_json, nanoseconds_json, quoted
from leadline.decode.limits import MAX_ITEMS, MAX_LATE_NS, check_expansion, clamped
from leadline.decode.metrics import Rows
from leadline.errors import InvalidRequest

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
        ``too_many``: past `MAX_ITEMS` in one request.
    labels : tuple of Label
        Ground truth among the records. A label is a record too, and stored as both.
    notes : dict, name -> records
        Feedback that cannot be used (see `leadline.decode.labels.label_of`); the record is stored all the same.
    """

    items: int
    rejected: dict[str, int]
    labels: tuple[labels.Label, ...]
    notes: dict[str, int]
    message: ExportLogsServiceRequest
    max_late_ns: int = MAX_LATE_NS

    def rows(self, collector: str, segment: int, receive_ns: int) -> Rows:
        """The accepted records as rows, and the labels. About 10 µs a record.

        A record's time (else the time it was observed) is kept within `max_late_ns` of `receive_ns`, which also stands in where there is none.
        """
        lines: list[str] = []
        ours = f',"Collector":{quoted(collector)},"Segment":{segment}}}\n'
        for resource in self.message.resource_logs:
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
                lines += [_line(record, receive_ns, self.max_late_ns) + within for record in group.log_records[: self.items - len(lines)]]
        rows: Rows = [("otel_logs", COLUMNS, "".join(lines).encode(), len(lines))] if lines else []
        if self.labels:
            truths = "".join(label.row(collector, segment, receive_ns) for label in self.labels)
            rows.append(("labels", labels.COLUMNS, truths.encode(), len(self.labels)))
        return rows


def decode_logs(body: bytes, *, max_late_ns: int = MAX_LATE_NS) -> LogsBatch:
    """Reads an ExportLogsServiceRequest (protobuf).

    Raises
    ------
    InvalidRequest
        If the bytes are not one, or would grow out of all proportion as rows.
    """
    message = ExportLogsServiceRequest()
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise InvalidRequest(
            f"logs: expected a protobuf ExportLogsServiceRequest, got {len(body)} bytes that are not one ({error})"
        ) from error
    items = expansion = 0
    notes = Counter[str]()
    found: list[labels.Label] = []

    def note(name: str) -> None:
        notes[name] += 1

    for resource in message.resource_logs:
        for group in resource.scope_logs:
            n = len(group.log_records)
            expansion += n * (resource.resource.ByteSize() + group.scope.ByteSize()) if n else 0
            for record in group.log_records[: max(0, MAX_ITEMS - items)]:
                if (name := event_name_of(record)) and (label := labels.label_of(record, name, note)):
                    found.append(label)
            items += n
    check_expansion("logs", expansion)
    rejected = {"too_many": items - MAX_ITEMS} if items > MAX_ITEMS else {}
    return LogsBatch(min(items, MAX_ITEMS), rejected, tuple(found), dict(notes), message, max_late_ns)


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
