"""Joins the pieces of a streamed result.

chdb's `send_query` writes each block of rows as a whole document of its format: JSON with its own braces, CSVWithNames with
its own header. Which way a format is joined:

- *plain* (Native, RowBinary, CSV, TSV, JSONEachRow, …): the pieces follow each other;
- *headed* (…WithNames, …WithNamesAndTypes): the header of all pieces but the first is taken off;
- *document* (JSON, JSONCompact, …): the rows between the brackets are put into one document;
- anything else (Pretty, Parquet, XML, …) is not streamed: `joiner` gives None, and the result is made whole, within a bound.
"""

from __future__ import annotations

import re
from typing import Protocol

_PLAIN = re.compile(
    "csv|(tabseparated|tsv)(raw)?|raw|tskv|rowbinary|native|ndjson|jsonlines|json(compact)?(strings)?eachrow|lineasstring|rawblob|msgpack|null"
)
_HEADED = re.compile("(csv|(tabseparated|tsv)(raw)?|rowbinary|jsoncompact(strings)?eachrow)withnames(andtypes)?")
_DOCUMENTS = frozenset(("json", "jsoncompact", "jsonstrings", "jsoncompactstrings"))

_CONTENT_TYPES = (
    ("jsoneachrow", "application/x-ndjson; charset=UTF-8"),
    ("json", "application/json; charset=UTF-8"),
    ("csv", "text/csv; charset=UTF-8"),
    ("tabseparated", "text/tab-separated-values; charset=UTF-8"),
    ("tsv", "text/tab-separated-values; charset=UTF-8"),
    ("xml", "application/xml; charset=UTF-8"),
    ("markdown", "text/markdown; charset=UTF-8"),
    ("native", "application/octet-stream"),
    ("rowbinary", "application/octet-stream"),
    ("parquet", "application/octet-stream"),
    ("arrow", "application/octet-stream"),
    ("orc", "application/octet-stream"),
    ("npy", "application/octet-stream"),
)


class Joiner(Protocol):
    """Given the pieces in order, gives out the bytes of one document."""

    def add(self, piece: bytes) -> bytes: ...
    def end(self, *, elapsed_s: float, rows_read: int, bytes_read: int) -> bytes: ...


def joiner(name: str) -> Joiner | None:
    """The joiner of a format; None where it has none."""
    lower = name.lower()
    if _PLAIN.fullmatch(lower):
        return Plain()
    if _HEADED.fullmatch(lower):
        return Headed(lower)
    if lower in _DOCUMENTS:
        return Document()
    return None


def has_header(name: str) -> bool:
    """Whether even an empty result has bytes in this format."""
    return _PLAIN.fullmatch(name.lower()) is None


def content_type(name: str) -> str:
    """The Content-Type of a format, as ClickHouse has it."""
    lower = name.lower()
    known = next((kind for prefix, kind in _CONTENT_TYPES if lower.startswith(prefix)), "text/plain; charset=UTF-8")
    if lower.startswith("csv"):
        known += f"; header={'present' if 'withnames' in lower else 'absent'}"
    return known


class Plain:
    """Pieces follow each other."""

    def add(self, piece: bytes) -> bytes:
        return piece

    def end(self, *, elapsed_s: float, rows_read: int, bytes_read: int) -> bytes:
        return b""


class Headed:
    """The header of the first piece stays; it is the same in each."""

    def __init__(self, lower: str) -> None:
        self._binary = lower.startswith("rowbinary")
        self._quotes = lower.startswith("csv")
        self._lines = 2 if lower.endswith("andtypes") else 1
        self._header: bytes | None = None

    def add(self, piece: bytes) -> bytes:
        if self._header is None:
            self._header = piece[: self._names_and_types(piece) if self._binary else self._lines_end(piece)]
            return piece
        return piece.removeprefix(self._header)

    def end(self, *, elapsed_s: float, rows_read: int, bytes_read: int) -> bytes:
        return b""

    def _lines_end(self, piece: bytes) -> int:
        at, left, quoted = 0, self._lines, False
        while left and at < len(piece):
            byte = piece[at]
            if self._quotes and byte == 0x22:
                quoted = not quoted
            elif byte == 0x0A and not quoted:
                left -= 1
            at += 1
        return at

    def _names_and_types(self, piece: bytes) -> int:
        def varint(at: int) -> tuple[int, int]:
            value = shift = 0
            while True:
                byte = piece[at]
                value |= (byte & 0x7F) << shift
                at, shift = at + 1, shift + 7
                if byte < 0x80:
                    return value, at

        columns, at = varint(0)
        for _ in range(columns * self._lines):
            length, at = varint(at)
            at += length
        return at


class Document:
    """One JSON document out of many. No line break occurs inside a JSON string, so the marks are found wherever they are."""

    _OPEN, _CLOSE = b'\n\n\t"data":\n\t[\n', b'\n\t],\n\n\t"rows": '

    def __init__(self) -> None:
        self._rows, self._begun, self._tail = 0, False, b""

    def add(self, piece: bytes) -> bytes:
        start = piece.index(self._OPEN) + len(self._OPEN)
        stop = piece.rindex(self._CLOSE)
        self._tail = piece[stop + len(self._CLOSE) :]
        digits = re.match(rb"\d+", self._tail)
        self._rows += int(digits[0]) if digits else 0
        rows = piece[start:stop]
        if not self._begun:
            self._begun = True
            return piece[:start] + rows
        return b",\n" + rows

    def end(self, *, elapsed_s: float, rows_read: int, bytes_read: int) -> bytes:
        statistics = ""
        if b'"statistics":' in self._tail:
            numbers = f'\n\t\t"elapsed": {elapsed_s:.9f},\n\t\t"rows_read": {rows_read},\n\t\t"bytes_read": {bytes_read}\n\t'
            statistics = f',\n\n\t"statistics":\n\t{{{numbers}}}'
        return self._CLOSE + f"{self._rows}{statistics}\n}}\n".encode()
