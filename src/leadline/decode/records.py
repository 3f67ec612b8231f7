"""Requests of metrics and logs: the kernel makes their rows; labels are found among the log events here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError as ProtobufError
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from leadline import _kernel as kernel
from leadline.decode import labels
from leadline.errors import InvalidRequest

MAX_ITEMS = 500_000
"""Data points or records taken from one request; more are rejected. ClickHouse writes one part for rows well below a million."""

MAX_REPEATED = 128 * 2**20
"""Bytes that resources and scopes may take, repeated in each row: a large resource above many tiny points is an attack, not telemetry."""

MAX_LATE_NS = 7 * 86_400_000_000_000
"""How far a time may lie before its receipt. Tables are partitioned by day, and ClickHouse refuses a block of over 100 partitions for good:
without this a few records with invented times would stop all that follow."""

Rows = list[tuple[str, tuple[str, ...], str, bytes, int]]
"""(table, columns, format, data, rows)."""

COLUMNS = {table: tuple(name for name, _ in columns) for table, columns in kernel.RECORD_COLUMNS.items()}


@dataclass(frozen=True, slots=True)
class Records:
    """A decoded request.

    Parameters
    ----------
    batch : RecordBatch
    receive_ns : int
    labels : tuple of Label
        Ground truth among log records. A label is a record too, and stored as both.
    notes : dict, name -> records
        Feedback that cannot be used: ``feedback_malformed``, or what `leadline.decode.labels.label_of` notes; the record is stored all the same.
    """

    batch: kernel.RecordBatch
    receive_ns: int
    labels: tuple[labels.Label, ...] = ()
    notes: dict[str, int] = field(default_factory=dict)

    @property
    def items(self) -> int:
        """Data points or records accepted."""
        return self.batch.items

    @property
    def rejected(self) -> dict[str, int]:
        """Items refused one by one: reason -> count."""
        return self.batch.rejected

    @property
    def size(self) -> int:
        """Bytes held, about."""
        return self.batch.size

    def rows(self, collector: str, segment: int) -> Rows:
        """The rows, a table after the other."""
        rows: Rows = [(table, COLUMNS[table], "RowBinary", data, n) for table, data, n in self.batch.rows(collector, segment)]
        if self.labels:
            lines = "".join(label.row(collector, segment, self.receive_ns) for label in self.labels)
            rows.append(("labels", labels.COLUMNS, "JSONEachRow", lines.encode(), len(self.labels)))
        return rows


def decode_metrics(body: bytes, receive_ns: int, *, max_late_ns: int = MAX_LATE_NS) -> Records:
    """Reads an ExportMetricsServiceRequest (protobuf). Raises `InvalidRequest`."""

    def decode() -> kernel.RecordBatch:
        return kernel.decode_metrics(body, receive_ns, max_late_ns=max_late_ns, max_items=MAX_ITEMS, max_repeated=MAX_REPEATED)

    return Records(_checked("metrics", "ExportMetricsServiceRequest", body, decode), receive_ns)


def decode_logs(body: bytes, receive_ns: int, *, max_late_ns: int = MAX_LATE_NS) -> Records:
    """Reads an ExportLogsServiceRequest (protobuf). Raises `InvalidRequest`."""

    def decode() -> kernel.RecordBatch:
        return kernel.decode_logs(
            body, receive_ns, events=list(labels.CONVENTIONS), max_late_ns=max_late_ns, max_items=MAX_ITEMS, max_repeated=MAX_REPEATED
        )

    batch = _checked("logs", "ExportLogsServiceRequest", body, decode)
    notes = Counter[str]()
    found: list[labels.Label] = []
    for event in batch.events:
        try:
            record = LogRecord.FromString(event)
        except ProtobufError:  # a text of it is not UTF-8
            notes["feedback_malformed"] += 1
            continue
        if label := labels.label_of(record, event_name_of(record), lambda name: notes.update((name,))):
            found.append(label)
    return Records(batch, receive_ns, tuple(found), dict(notes))


def event_name_of(record: LogRecord) -> str:
    """The record's event name; SDKs before the field existed wrote the attribute ``event.name``."""
    return record.event_name or next((item.value.string_value for item in record.attributes if item.key == "event.name"), "")


def _checked(signal: str, kind: str, body: bytes, decode: Callable[[], kernel.RecordBatch]) -> kernel.RecordBatch:
    try:
        return decode()
    except kernel.DecodeError as error:
        raise InvalidRequest(f"{signal}: expected a protobuf {kind}, got {len(body)} bytes that are not one: {error}") from error
    except OverflowError:
        raise InvalidRequest(
            f"{signal}: resource and scope attributes, repeated in each row, would take more than {MAX_REPEATED >> 20} MiB."
            " Send smaller resources, or fewer items in one request."
        ) from None
