"""Metrics and logs gather until the segment is cut, and go out in blocks that are one part to ClickHouse."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from leadline.model.requests import Cut, Request
from leadline.model.signals import Signal
from leadline.store.records import Records


@dataclass
class Decoded:
    """A request of `items` records, and as many labels as are said."""

    items: int
    labels: int = 0
    size: int = 100
    rejected: dict[str, int] = field(default_factory=dict)

    def rows(self, collector: str, segment: int) -> list[tuple[str, tuple[str, ...], str, bytes, int]]:
        rows = [("otel_logs", ("a",), "RowBinary", f"{collector}{segment}:{self.items};".encode(), self.items)]
        return [*rows, ("labels", ("b",), "JSONEachRow", b"l", self.labels)] if self.labels else rows


def test_what_was_taken_goes_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks below the bound, each counted; labels are records too, and counted there."""
    monkeypatch.setattr("leadline.store.records.MAX_ROWS", 10)
    records = Records("c")
    for sequence, decoded in enumerate((Decoded(6), Decoded(4, labels=2), Decoded(3), Decoded(20)), start=7):
        records.add(Request(Signal.LOGS, sequence, 1, decoded, {}))
    assert (records.waiting(), records.oldest_sequence, records.bytes) == ({("logs", ""): 33}, 7, 400)
    blocks = records.cut(Cut(11, 1, sketches=False))
    assert [(block.token, block.data, block.format, block.counts) for block in sorted(blocks, key=lambda block: block.token)] == [
        ("c/11/labels/0", b"l", "JSONEachRow", {}),
        ("c/11/otel_logs/0", b"c11:6;c11:4;", "RowBinary", {("logs", ""): 10}),
        ("c/11/otel_logs/1", b"c11:3;", "RowBinary", {("logs", ""): 3}),
        ("c/11/otel_logs/2", b"c11:20;", "RowBinary", {("logs", ""): 20}),
    ]
    assert (records.waiting(), records.oldest_sequence, records.bytes) == ({}, None, 0)
    assert records.cut(Cut(12, 1, sketches=False)) == []
