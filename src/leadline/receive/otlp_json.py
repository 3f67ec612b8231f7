"""OTLP/JSON to OTLP protobuf, tolerant of what clients really send.

The kernel does the work (`transcode_json`); the schema it goes by is made here from the descriptors of opentelemetry-proto, so a field
that a later version adds needs no change.

What is taken
    keys in camelCase and snake_case; 64-bit integers as strings or numbers; enums as numbers or names; trace and span ids
    as hex of either case; other bytes as base64 of either alphabet, padded or not; "NaN", "Infinity" and "-Infinity", and the same
    three without quotes.
What is passed over
    unknown fields, at every level; of a key that occurs twice, the earlier one.
What null means
    the field is absent. But a null in the place of a value is kept as one: `{"doubleValue": null}` and `{"asDouble": null}`
    are NaN (JavaScript writes NaN so), and a null in an array of values is an empty value.
What is refused
    everything else, with the path: ``resourceSpans[0].scopeSpans[0].spans[3].traceId: expected 32 hex digits, got "abc"``.
"""

from __future__ import annotations

import functools
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from leadline._kernel import DecodeError, JsonSchema, transcode_json
from leadline.errors import InvalidRequest, TooLarge
from leadline.model.signals import Signal

_REQUESTS: dict[Signal, Any] = {
    Signal.TRACES: trace_service_pb2.ExportTraceServiceRequest,
    Signal.METRICS: metrics_service_pb2.ExportMetricsServiceRequest,
    Signal.LOGS: logs_service_pb2.ExportLogsServiceRequest,
}
_ID_BYTES = {"trace_id": 16, "span_id": 8, "parent_span_id": 8}
_KINDS = {value: name.removeprefix("TYPE_").lower() for name, value in vars(FieldDescriptor).items() if name.startswith("TYPE_")}


class JsonFault(InvalidRequest):
    """A JSON request that is not OTLP. `path` is the member at fault, empty where the document is not JSON at all."""

    def __init__(self, text: str, path: str) -> None:
        super().__init__(text)
        self.path = path


def transcode(signal: Signal, document: bytes, limit: int) -> bytes:
    """The protobuf form of an OTLP/JSON request, of at most `limit` bytes.

    Raises
    ------
    JsonFault
        If the document is not one.
    TooLarge
        If it becomes larger than the limit.
    """
    try:
        return transcode_json(_schema(signal), document, limit)
    except DecodeError as error:
        raise JsonFault(str(error), str(error).removesuffix(error.what).removesuffix(": ")) from None
    except OverflowError:
        raise TooLarge(f"the JSON body becomes more than {limit} bytes (receive.max_bytes). Send smaller batches.") from None


@functools.cache
def _schema(signal: Signal) -> JsonSchema:
    """The messages of a request, each once, in the order in which they are met."""
    found: list[Any] = [_REQUESTS[signal].DESCRIPTOR]
    messages = []
    for descriptor in found:  # grows while it is gone through
        fields = [_field(member, found) for member in descriptor.fields]
        messages.append((descriptor.full_name.endswith(".AnyValue"), fields))
    return JsonSchema(messages)


def _field(member: FieldDescriptor, found: list[Any]) -> Any:
    kind = _KINDS[member.type]
    detail: Any = None
    if member.message_type is not None:
        if member.message_type not in found:
            found.append(member.message_type)
        detail = found.index(member.message_type)
    elif member.enum_type is not None:
        detail = [(value.name, value.number) for value in member.enum_type.values]
    elif member.name in _ID_BYTES:
        kind, detail = "id", _ID_BYTES[member.name]
    oneof = member.containing_oneof
    takes_null = kind == "double" and oneof is not None and len(oneof.fields) > 1
    return ([member.name, member.camelcase_name], member.number, kind, member.is_repeated, takes_null, detail)
