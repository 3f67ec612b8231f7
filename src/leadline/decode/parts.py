"""Requests of metrics and logs, read a part at a time, and the rows made of them.

protobuf's parser keeps the GIL from the first byte of a message to its last, a second for 60 MiB of small ones; so a large request is
divided first, in the kernel, and nothing waits for more than a part.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from google.protobuf.message import DecodeError as ProtobufError
from google.protobuf.message import Message

from leadline._kernel import DecodeError, split_request
from leadline.decode.attributes import quoted
from leadline.errors import InvalidRequest

PART_BYTES = 256 * 1024
"""Parsed in one go: 1 to 10 ms."""

MAX_VALUES = 100_000
"""Values that one record or data point may hold, looked at in requests above `PART_BYTES`; one that holds more is rejected as ``too_complex``."""

COLLECTOR, SEGMENT = "\x01", "\x02"
"""Stand in each row for its collector and segment, which are known only when the segment is cut: no JSON has these bytes."""

Rows = list[tuple[str, tuple[str, ...], list[bytes], int]]
"""(table, columns, JSONEachRow lines in pieces of a part at most, rows)."""

M = TypeVar("M", bound=Message)


def parsed(kind: type[M], signal: str, body: bytes) -> Iterator[tuple[M, int]]:
    """(request, items left out since they are too complex) of each part of a request.

    Raises
    ------
    InvalidRequest
        If the bytes are not a request of `kind`.
    """
    try:
        if len(body) <= PART_BYTES:
            yield kind.FromString(body), 0
            return
        parts = split_request(signal, body, size=PART_BYTES, max_values=MAX_VALUES)
        left_out = parts.too_complex
        for part in parts:
            yield kind.FromString(part), left_out
            left_out = 0
    except (ProtobufError, DecodeError) as error:
        raise InvalidRequest(f"{signal}: expected a protobuf {kind.__name__}, got {len(body)} bytes that are not one ({error})") from error


def placed(rows: Rows, collector: str, segment: int) -> Rows:
    """The rows with their collector and segment."""
    name, number = quoted(collector).encode(), str(segment).encode()

    def place(piece: bytes) -> bytes:
        return piece.replace(COLLECTOR.encode(), name).replace(SEGMENT.encode(), number)

    return [(table, columns, [place(piece) for piece in pieces], n) for table, columns, pieces, n in rows]
