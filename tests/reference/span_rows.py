"""Oracle of `otel_traces` rows: a span as protobuf's objects, its row as plain Python. Slow and short."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

KINDS = ("Unspecified", "Internal", "Server", "Client", "Producer", "Consumer")
CODES = ("Unset", "Ok", "Error")
LAST_NS = 2**63 - 1
"""The last time that DateTime64(9) holds."""


def spans_of(request: ExportTraceServiceRequest) -> Iterable[tuple[Span, Resource, InstrumentationScope]]:
    for resource_spans in request.resource_spans:
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield span, resource_spans.resource, scope_spans.scope


def span_row(span: Span, resource: Resource, scope: InstrumentationScope, threshold: int | None) -> dict[str, Any]:
    """The columns that contrib's exporter has; maps as lists of pairs, times as nanoseconds."""
    services = [text(attribute.value) for attribute in resource.attributes if attribute.key == "service.name"]
    return {
        "Timestamp": min(span.start_time_unix_nano, LAST_NS),
        "TraceId": span.trace_id.hex(),
        "SpanId": span.span_id.hex(),
        "ParentSpanId": span.parent_span_id.hex(),
        "TraceState": trace_state(span, threshold),
        "SpanName": span.name,
        "SpanKind": KINDS[span.kind],
        "ServiceName": services[-1] if services else "",
        "ResourceAttributes": pairs(resource.attributes),
        "ScopeName": scope.name,
        "ScopeVersion": scope.version,
        "SpanAttributes": pairs(span.attributes),
        "Duration": max(0, span.end_time_unix_nano - span.start_time_unix_nano),
        "StatusCode": CODES[span.status.code],
        "StatusMessage": span.status.message,
        "Events.Timestamp": [min(event.time_unix_nano, LAST_NS) for event in span.events],
        "Events.Name": [event.name for event in span.events],
        "Events.Attributes": [pairs(event.attributes) for event in span.events],
        "Links.TraceId": [link.trace_id.hex() for link in span.links],
        "Links.SpanId": [link.span_id.hex() for link in span.links],
        "Links.TraceState": [link.trace_state for link in span.links],
        "Links.Attributes": [pairs(link.attributes) for link in span.links],
    }


def pairs(attributes: Iterable[KeyValue]) -> list[list[str]]:
    return [[attribute.key, text(attribute.value)] for attribute in attributes]


def text(value: AnyValue) -> str:
    match value.WhichOneof("value"):
        case None:
            return ""
        case "string_value":
            return value.string_value
        case "bytes_value":
            return base64.b64encode(value.bytes_value).decode()
        case _:
            return json_text(value)


def json_text(value: AnyValue) -> str:
    match value.WhichOneof("value"):
        case "string_value":
            return json.dumps(value.string_value, ensure_ascii=False)
        case "bool_value":
            return "true" if value.bool_value else "false"
        case "int_value":
            return str(value.int_value)
        case "double_value":
            return double_text(value.double_value)
        case "bytes_value":
            return f'"{base64.b64encode(value.bytes_value).decode()}"'
        case "array_value":
            return "[" + ",".join(_item(item) for item in value.array_value.values) + "]"
        case "kvlist_value":
            entries = (f"{json.dumps(entry.key, ensure_ascii=False)}:{_item(entry.value)}" for entry in value.kvlist_value.values)
            return "{" + ",".join(entries) + "}"
        case _:
            return "null"


def _item(value: AnyValue) -> str:
    written = json_text(value)
    return f'"{written}"' if written in ("nan", "inf", "-inf") else written


def double_text(number: float) -> str:
    """The shortest digits that read back; with an exponent below 1e-6 and from 1e21 on."""
    if not math.isfinite(number):
        return str(number)
    if number == 0 or 1e-6 <= abs(number) < 1e21:
        written = format(Decimal(repr(number)), "f")
        return written.rstrip("0").rstrip(".") if "." in written else written
    sign, digits, exponent = Decimal(repr(number)).normalize().as_tuple()
    mantissa = "".join(map(str, digits))
    exponent = int(exponent) + len(mantissa) - 1
    return "-" * sign + mantissa[0] + ("." + mantissa[1:] if mantissa[1:] else "") + f"e{exponent}"


def trace_state(span: Span, threshold: int | None) -> str:
    """The state with the `th` that is emitted: only where the span's own randomness is not below it."""
    members = [member.strip() for member in span.trace_state.split(",") if member.strip()]
    items = _ot(members)
    own = {item[:2]: item[3:] for item in items if item[:3] in ("rv:", "th:")}
    randomness = int(own["rv"], 16) if "rv" in own else int.from_bytes(span.trace_id[-7:], "big")
    emitted = None
    if threshold is not None and threshold < 2**56 and randomness >= threshold:
        emitted = f"{threshold:014x}".rstrip("0") or "0"
    well_formed = bool(items) or not any(member.startswith("ot=") for member in members)
    said = own.get("th")
    if well_formed and (None if said is None else int(said.ljust(14, "0"), 16)) == (None if emitted is None else threshold):
        return span.trace_state
    rest = sorted((item for item in items if not item.startswith("th:")), key=lambda item: not item.startswith("rv:"))
    ours = ([] if emitted is None else [f"th:{emitted}"]) + rest
    while len(";".join(ours)) > 256:
        ours.pop()
    others = [member for member in members if not member.startswith("ot=")]
    return ",".join(([f"ot={';'.join(ours)}"] if ours else []) + others[: 31 if ours else 32])


def _ot(members: list[str]) -> list[str]:
    """The sub-keys of the `ot` entry; none where it is malformed."""
    entries = [member[3:] for member in members if member.startswith("ot=")]
    if len(entries) != 1 or len(entries[0]) > 256:
        return []
    items = entries[0].split(";")
    for key, lengths in (("th", range(1, 15)), ("rv", (14,))):
        values = [item[3:] for item in items if item.startswith(key + ":")]
        if len(values) > 1 or any(len(value) not in lengths or set(value) - set("0123456789abcdef") for value in values):
            return []
    return items if all(item.find(":") > 0 for item in items) else []
