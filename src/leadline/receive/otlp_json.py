"""OTLP/JSON to OTLP protobuf, tolerant of what clients really send.

`transcode` gives the bytes of the protobuf request; `steps` does the same a few milliseconds at a time, so that a 20 MiB
document does not stall the event loop. Tables are compiled from the descriptors of opentelemetry-proto, so a field that a
later version adds needs no change here.

What is taken
    keys in camelCase and snake_case; 64-bit integers as strings or numbers; enums as numbers or names; trace and span ids
    as hex of either case; other bytes as base64 of either alphabet, padded or not; "NaN", "Infinity" and "-Infinity".
What is passed over
    unknown fields, at every level; of a key that occurs twice, the earlier one.
What null means
    the field is absent. But a null in the place of a value is kept as one: `{"doubleValue": null}` and `{"asDouble": null}`
    are NaN (JavaScript writes NaN so), and a null in an array of values is an empty value.
What is refused
    everything else, with the path: ``resourceSpans[0].scopeSpans[0].spans[3].traceId: expected 32 hex digits, got "abc"``.

How steps work: Python's JSON scanner holds the GIL from start to end, so it is given a window of the document at a time.
A value that lies whole in the window is scanned and encoded in one go; one that does not is walked by hand, member by
member. A small document is one window.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import functools
import json
import math
import struct
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from leadline.errors import InvalidRequest
from leadline.model.signals import Signal

WINDOW = 32 * 1024
"""Bytes scanned in one go: 1 to 2 ms of scanning and encoding. A document up to this size is one step."""

STEP_WORK = 1_000
"""Values scanned one by one before a step ends: under a millisecond."""

MAX_DEPTH = 64
"""Levels of arrays and maps in an attribute's value; the kernel's bound for protobuf is the same."""

MAX_WALK = 32
"""Levels walked by hand. The deepest list of the schemas lies 9 deep; a value larger than a window below this is hostile."""


class JsonFault(InvalidRequest):
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
    """The protobuf form of an OTLP/JSON request. Raises `JsonFault`. Cost: about 2 µs an attribute, all under the GIL."""
    walk = steps(signal, document)
    while True:
        try:
            next(walk)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]


def steps(signal: Signal, document: bytes, *, window: int = WINDOW) -> Generator[None, None, bytes]:
    """As `transcode`, yielding after about a millisecond's work: `window` bytes (at least 16), or less where values are small."""
    try:
        if not document.strip():
            return b""
        reader = _Reader(document, window)
        found, value = reader.value()
        if found:
            encoded = _request(signal).encode(value, 0)
        elif reader.peek() == "{":
            encoded = yield from _walk_message(reader, _request(signal), 0)
        else:
            raise _Fault("expected an object at the top, got " + _kind([] if reader.peek() == "[" else ""))
        if reader.peek():
            raise reader.syntax_fault("expected the end")
        return encoded
    except _Fault as fault:
        path = "".join(reversed(fault.places)).lstrip(".")
        raise JsonFault(fault.what, path) from None
    except UnicodeDecodeError as error:
        raise JsonFault(f"not JSON: {error.reason} in UTF-8") from None
    except RecursionError:
        raise JsonFault(f"nested too deeply: values may nest {MAX_DEPTH} levels") from None


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


# --- walking: a document larger than a window


class _Reader:
    """A place in a document, and the window of text around it."""

    def __init__(self, data: bytes, window: int) -> None:
        self._data = data.removeprefix(codecs.BOM_UTF8)
        self._base = 0  # byte at which the window begins
        self._size = self._window = window
        self._at = 0  # character in the window
        self._work = 0
        self._scan = json.JSONDecoder().raw_decode
        self._load()

    def _load(self) -> None:
        piece = self._data[self._base : self._base + self._size]
        self._last = self._base + len(piece) == len(self._data)
        self._text, _ = codecs.utf_8_decode(piece, "strict", self._last)
        self._work = STEP_WORK

    def _slide(self) -> None:
        """Lets the window begin at the place."""
        self._base += self._at if self._text.isascii() else len(self._text[: self._at].encode())
        self._at = 0
        self._size = self._window
        self._load()

    def syntax_fault(self, what: str, at: int | None = None) -> _Fault:
        here = self._text[: self._at if at is None else at]
        return _Fault(f"not JSON: {what[:1].lower()}{what[1:]} at byte {self._base + len(here.encode())}")

    def peek(self) -> str:
        """The next character that is not blank; empty at the end."""
        while True:
            text, at, end = self._text, self._at, len(self._text)
            while at < end and text[at] in " \t\n\r":
                at += 1
            self._at = at
            if at < end:
                return text[at]
            if self._last:
                return ""
            self._slide()

    def take(self, expected: str) -> str:
        """Steps over the next character, which is one of `expected`."""
        found = self.peek()
        if not found or found not in expected:
            raise self.syntax_fault("expected " + " or ".join(expected))
        self._at += 1
        return found

    def value(self) -> tuple[bool, Any]:
        """(True, the next value), or (False, None) where it is larger than a window."""
        self.peek()
        self._work += 1
        while True:
            try:
                value, end = self._scan(self._text, self._at)
            except json.JSONDecodeError as error:
                fault = self.syntax_fault(error.msg, error.pos)
            except ValueError as error:  # an integer of thousands of digits
                raise _Fault(f"not JSON: {error}") from None
            else:
                if self._last or end + 2 < len(self._text):  # else a number may go on in the next window: "1" of "1.5", "1e+5"
                    self._at = end
                    return True, value
            if self._last:
                raise fault
            if not self._at:
                return False, None
            self._slide()

    def plain(self) -> Any:
        """The next value, which is a string, a number or a literal, whatever its size."""
        opening = self.peek()
        if not opening or opening not in '"-0123456789tfnNI':
            raise self.syntax_fault("expected a value")
        while True:
            found, value = self.value()
            if found:
                return value
            self._size *= 4
            self._load()

    def steps_over(self, character: str) -> bool:
        """Steps over the next character if it is that one."""
        found = self.peek() == character
        self._at += found
        return found

    def step_is_done(self) -> bool:
        """Whether enough was done since the last step: the window has moved, or many small values were scanned in it."""
        done = self._work >= STEP_WORK
        if done:
            self._work = 0
        return done


_ANYTHING = _Message()
_UNKNOWN = _Field(b"", _ignore, message=_ANYTHING)


def _walk_message(reader: _Reader, message: _Message, depth: int, walked: int = 0) -> Generator[None, None, bytes]:
    """An object that is larger than a window."""
    if walked > MAX_WALK:
        raise _Fault("nested too deeply for a value of this size")
    if reader.step_is_done():
        yield
    depth += message.deepens
    parts: dict[str, list[bytes]] = {}  # of a key that occurs twice the later counts, as where a document is scanned in one go
    reader.take("{")
    closed = reader.steps_over("}")
    while not closed:
        if reader.peek() != '"':
            raise reader.syntax_fault("expected a key in quotes")
        key = str(reader.plain())
        reader.take(":")
        known = message.fields.get(key, _UNKNOWN)
        part: list[bytes] = []
        try:
            found, value = reader.value()
            if not found:
                yield from _walk_field(reader, known, part, depth, walked + 1)
            elif value is not None or known.takes_null:
                known.encode(value, part, depth)
        except _Fault as fault:
            fault.places.append("." + key)
            raise
        if known is not _UNKNOWN:
            parts[key] = part
        if reader.step_is_done():
            yield
        closed = reader.take(",}") == "}"
    return b"".join(chain.from_iterable(parts.values()))


def _walk_field(reader: _Reader, known: _Field, out: list[bytes], depth: int, walked: int) -> Generator[None, None, None]:
    """A member that is larger than a window."""
    opening = reader.peek()
    if opening == "[":
        if known is not _UNKNOWN and not known.repeated:
            raise _Fault("expected one value, got an array")
        yield from _walk_array(reader, known, out, depth, walked)
    elif opening == "{":
        if known.message is None or known.repeated:
            raise _Fault(f"expected {'an array' if known.repeated else 'a plain value'}, got an object")
        data = yield from _walk_message(reader, known.message, depth, walked)
        out += (known.tag, _varint(len(data)), data)
    else:
        value = reader.plain()
        if value is not None or known.takes_null:
            known.encode(value, out, depth)


def _walk_array(reader: _Reader, known: _Field, out: list[bytes], depth: int, walked: int) -> Generator[None, None, None]:
    """An array that is larger than a window."""
    if walked > MAX_WALK:
        raise _Fault("nested too deeply for a value of this size")
    if reader.step_is_done():
        yield
    message = known.message
    plain: list[Any] = []  # numbers and strings are encoded together: some are packed
    index = -1
    reader.take("[")
    closed = reader.steps_over("]")
    try:
        while not closed:
            index += 1
            found, value = reader.value()
            if known is _UNKNOWN:
                if not found:
                    yield from _walk_field(reader, known, out, depth, walked + 1)
            elif message is None:
                plain.append(value if found else reader.plain())
            elif not found or value is not None or message.deepens:
                if not found and reader.peek() == "{":
                    data = yield from _walk_message(reader, message, depth, walked + 1)
                else:
                    value = value if found else reader.plain()
                    data = b"" if value is None else message.encode(value, depth)
                out += (known.tag, _varint(len(data)), data)
            if reader.step_is_done():
                yield
            closed = reader.take(",]") == "]"
    except _Fault as fault:
        fault.places.append(f"[{index}]")
        raise
    if plain:
        known.encode(plain, out, depth)
