"""Oracle of `transcode_json`: OTLP/JSON to protobuf over Python's own JSON parser, a field at a time."""

from __future__ import annotations

import base64
import binascii
import functools
import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from leadline.model.signals import Signal

MAX_DEPTH = 64


class JsonFault(Exception):
    """A JSON request that is not OTLP. `path` is the member at fault, empty where the document is not JSON at all."""

    def __init__(self, what: str, path: str = "") -> None:
        self.path = path
        super().__init__(f"{path}: {what}" if path else what)


class _Fault(Exception):
    """A fault on its way up; each level adds its place."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.places: list[str] = []


def transcode(signal: Signal, document: bytes) -> bytes:
    """The protobuf form of an OTLP/JSON request; raises `JsonFault`."""
    try:
        return _request(signal).encode(json.loads(document.decode()), 0)
    except _Fault as fault:
        raise JsonFault(fault.what, "".join(reversed(fault.places)).lstrip(".")) from None
    except (ValueError, RecursionError) as error:
        raise JsonFault(f"not JSON: {error}") from None


# --- encoding: one entry a field, compiled from the descriptors


@dataclass(slots=True)
class _Field:
    """How one member is encoded. `encode(value, out, depth)` appends to `out`; the value is never None unless `takes_null`."""

    tag: bytes
    encode: Callable[[Any, list[bytes], int], None]
    repeated: bool = False
    message: _Message | None = None
    takes_null: bool = False


@dataclass(slots=True)
class _Message:
    """How an object is encoded: its members under both spellings of their names."""

    fields: dict[str, _Field] = field(default_factory=dict)
    deepens: bool = False

    def encode(self, value: Any, depth: int) -> bytes:
        if type(value) is not dict:
            raise _Fault(f"expected an object, got {_kind(value)}")
        if self.deepens:
            depth += 1
            if depth > MAX_DEPTH + 1:
                raise _Fault(f"nested too deeply: values may nest {MAX_DEPTH} levels")
        out: list[bytes] = []
        fields = self.fields
        key = ""
        try:
            for key, member in value.items():
                known = fields.get(key)
                if known is not None and (member is not None or known.takes_null):
                    known.encode(member, out, depth)
        except _Fault as fault:
            fault.places.append("." + key)
            raise
        return b"".join(out)


@functools.cache
def _request(signal: Signal) -> _Message:
    requests: dict[Signal, Any] = {
        Signal.TRACES: trace_service_pb2.ExportTraceServiceRequest,
        Signal.METRICS: metrics_service_pb2.ExportMetricsServiceRequest,
        Signal.LOGS: logs_service_pb2.ExportLogsServiceRequest,
    }
    return _compiled(requests[signal].DESCRIPTOR)


@functools.cache
def _shell(full_name: str) -> _Message:
    """The message of that name, empty at first: messages contain themselves (AnyValue)."""
    return _Message(deepens=full_name.endswith(".AnyValue"))


def _compiled(descriptor: Descriptor) -> _Message:
    message = _shell(descriptor.full_name)
    if not message.fields:
        for member in descriptor.fields:
            entry = message.fields[member.name] = message.fields[member.camelcase_name] = _Field(b"", _ignore)
            _fill(entry, member)
    return message


def _fill(entry: _Field, member: FieldDescriptor) -> None:
    entry.repeated = member.is_repeated
    packed = member.is_repeated and member.type not in (_F.TYPE_MESSAGE, _F.TYPE_STRING, _F.TYPE_BYTES)
    wire = 2 if packed else _WIRE[member.type]
    tag = entry.tag = _varint(member.number << 3 | wire)
    oneof = member.containing_oneof
    if member.type == _F.TYPE_MESSAGE:
        inner: Any = member.message_type
        shell = entry.message = _shell(inner.full_name)
        entry.encode = _messages(tag, shell) if member.is_repeated else _one_message(tag, shell)
        _compiled(inner)
        return
    payload = _payload(member)
    if packed:
        entry.encode = _packed(tag, payload)
    elif member.is_repeated:
        entry.encode = _repeated(tag, payload)
    else:
        entry.encode = _single(tag, payload)
        entry.takes_null = member.type == _F.TYPE_DOUBLE and oneof is not None and len(oneof.fields) > 1


_F = FieldDescriptor
_WIRE = {
    **dict.fromkeys((_F.TYPE_INT32, _F.TYPE_INT64, _F.TYPE_UINT32, _F.TYPE_UINT64, _F.TYPE_SINT32, _F.TYPE_SINT64), 0),
    **dict.fromkeys((_F.TYPE_BOOL, _F.TYPE_ENUM), 0),
    **dict.fromkeys((_F.TYPE_DOUBLE, _F.TYPE_FIXED64, _F.TYPE_SFIXED64), 1),
    **dict.fromkeys((_F.TYPE_MESSAGE, _F.TYPE_STRING, _F.TYPE_BYTES), 2),
    **dict.fromkeys((_F.TYPE_FLOAT, _F.TYPE_FIXED32, _F.TYPE_SFIXED32), 5),
}
_ONE_BYTE = [bytes([number]) for number in range(128)]


def _varint(number: int) -> bytes:
    """A number from 0 to 2**64 - 1, as protobuf writes it."""
    if number < 128:
        return _ONE_BYTE[number]
    if number < 16384:
        return bytes((number & 127 | 128, number >> 7))
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _ignore(value: Any, out: list[bytes], depth: int) -> None:
    """For unknown members."""


def _one_message(tag: bytes, message: _Message) -> Callable[[Any, list[bytes], int], None]:
    def encode(value: Any, out: list[bytes], depth: int) -> None:
        data = message.encode(value, depth)
        out += (tag, _varint(len(data)), data)

    return encode


def _messages(tag: bytes, message: _Message) -> Callable[[Any, list[bytes], int], None]:
    keeps_null = message.deepens

    def encode(value: Any, out: list[bytes], depth: int) -> None:
        index = -1
        try:
            for member in _array(value):
                index += 1  # the handler below names the element that failed
                if member is None and not keeps_null:
                    continue
                data = b"" if member is None else message.encode(member, depth)
                out += (tag, _varint(len(data)), data)
        except _Fault as fault:
            if index >= 0:
                fault.places.append(f"[{index}]")
            raise

    return encode


def _single(tag: bytes, payload: Callable[[Any], bytes]) -> Callable[[Any, list[bytes], int], None]:
    def encode(value: Any, out: list[bytes], depth: int) -> None:
        out += (tag, payload(value))

    return encode


def _repeated(tag: bytes, payload: Callable[[Any], bytes]) -> Callable[[Any, list[bytes], int], None]:
    def encode(value: Any, out: list[bytes], depth: int) -> None:
        for item in _payloads(value, payload):
            out += (tag, item)

    return encode


def _packed(tag: bytes, payload: Callable[[Any], bytes]) -> Callable[[Any, list[bytes], int], None]:
    def encode(value: Any, out: list[bytes], depth: int) -> None:
        data = b"".join(_payloads(value, payload))
        out += (tag, _varint(len(data)), data)

    return encode


def _array(value: Any) -> list[Any]:
    if type(value) is not list:
        raise _Fault(f"expected an array, got {_kind(value)}") from None
    return value


def _payloads(value: Any, payload: Callable[[Any], bytes]) -> list[bytes]:
    items: list[bytes] = []
    try:
        for item in _array(value):
            items.append(payload(item))
    except _Fault as fault:
        if type(value) is list:
            fault.places.append(f"[{len(items)}]")
        raise
    return items


# --- payloads: a JSON value to the bytes after the tag


def _payload(member: FieldDescriptor) -> Callable[[Any], bytes]:
    kind = member.type
    if kind == _F.TYPE_BYTES and member.name in _ID_BYTES:
        return _hex_id(_ID_BYTES[member.name])
    if member.enum_type is not None:
        return _enum({value.name: value.number for value in member.enum_type.values})
    simple = {_F.TYPE_STRING: _string, _F.TYPE_BYTES: _base64, _F.TYPE_BOOL: _bool, _F.TYPE_DOUBLE: _double}
    return simple.get(kind) or _integer(*_INTEGERS[kind])


_ID_BYTES = {"trace_id": 16, "span_id": 8, "parent_span_id": 8}


def _string(value: Any) -> bytes:
    if type(value) is not str:
        raise _Fault(f"expected a string, got {_kind(value)}")
    try:
        data = value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, written as \ud800
        data = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
    return _varint(len(data)) + data


def _hex_id(size: int) -> Callable[[Any], bytes]:
    lead = _varint(size)

    def encode(value: Any) -> bytes:
        if value == "":
            return b"\0"
        if type(value) is str and len(value) == 2 * size:
            try:
                data = bytes.fromhex(value)
            except ValueError:
                data = b""
            if len(data) == size:  # fromhex passes over blanks
                return lead + data
        raise _Fault(f"expected {2 * size} hex digits, got {_shown(value)}")

    return encode


def _base64(value: Any) -> bytes:
    if type(value) is not str:
        raise _Fault(f"expected base64 in a string, got {_kind(value)}")
    plain = value.rstrip("=")
    try:
        data = base64.b64decode(plain.replace("-", "+").replace("_", "/") + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise _Fault(f"expected base64, got {_shown(value)}") from None
    return _varint(len(data)) + data


def _bool(value: Any) -> bytes:
    if type(value) is not bool:
        raise _Fault(f"expected true or false, got {_shown(value)}")
    return b"\1" if value else b"\0"


_PACK_DOUBLE = struct.Struct("<d").pack
_NAMED_DOUBLES = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _double(value: Any) -> bytes:
    if type(value) is float:
        return _PACK_DOUBLE(value)
    if value is None:
        return _PACK_DOUBLE(math.nan)
    try:
        if type(value) is int:
            return _PACK_DOUBLE(value)
        if type(value) is str:
            return _PACK_DOUBLE(_NAMED_DOUBLES[value] if value in _NAMED_DOUBLES else float(value))
    except (ValueError, OverflowError):
        pass
    raise _Fault(f'expected a number, "NaN", "Infinity" or "-Infinity", got {_shown(value)}')


def _fixed(code: str) -> Callable[[int], bytes]:
    return struct.Struct(code).pack


def _zigzag(number: int) -> bytes:
    return _varint(number * 2 if number >= 0 else -number * 2 - 1)


def _two_complement(number: int) -> bytes:
    return _varint(number if number >= 0 else number + 2**64)


_INTEGERS: dict[int, tuple[int, int, Callable[[int], bytes]]] = {
    _F.TYPE_INT32: (-(2**31), 2**31, _two_complement),
    _F.TYPE_INT64: (-(2**63), 2**63, _two_complement),
    _F.TYPE_UINT32: (0, 2**32, _varint),
    _F.TYPE_UINT64: (0, 2**64, _varint),
    _F.TYPE_SINT32: (-(2**31), 2**31, _zigzag),
    _F.TYPE_SINT64: (-(2**63), 2**63, _zigzag),
    _F.TYPE_FIXED32: (0, 2**32, _fixed("<I")),
    _F.TYPE_FIXED64: (0, 2**64, _fixed("<Q")),
    _F.TYPE_SFIXED32: (-(2**31), 2**31, _fixed("<i")),
    _F.TYPE_SFIXED64: (-(2**63), 2**63, _fixed("<q")),
}


def _integer(low: int, end: int, write: Callable[[int], bytes]) -> Callable[[Any], bytes]:
    def encode(value: Any) -> bytes:
        number = value if type(value) is int else _whole(value)
        if number is None or not low <= number < end:
            raise _Fault(f"expected an integer from {low} to {end - 1}, as a number or a string, got {_shown(value)}")
        return write(number)

    return encode


def _whole(value: Any) -> int | None:
    """The integer that a string or a float stands for (``"12"``, ``1.2e1``); None where it stands for none."""
    try:
        if type(value) is str:
            digits = value[1:] if value[:1] == "-" else value
            if digits.isdigit():
                return int(value)
            value = float(value) if digits else None
        if type(value) is float and value.is_integer():
            return int(value)
    except ValueError:
        pass
    return None


def _enum(numbers: dict[str, int]) -> Callable[[Any], bytes]:
    def encode(value: Any) -> bytes:
        number = numbers.get(value) if type(value) is str else value if type(value) is int else None
        if number is None:
            number = _whole(value)
        if number is None or not -(2**31) <= number < 2**31:
            raise _Fault(f"expected a number or one of {', '.join(numbers)}, got {_shown(value)}")
        return _two_complement(number)

    return encode


_KINDS = {dict: "an object", list: "an array", str: "a string", bool: "true or false", int: "a number", float: "a number"}


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "null")


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return _kind(value)
    text = json.dumps(value if not isinstance(value, str) else value[:80])
    return text if len(text) <= 80 else text[:77] + "…"
