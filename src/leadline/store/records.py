"""The part that stores metrics and logs: rows gather until the segment is cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Protocol, cast

from leadline.model.blocks import Block
from leadline.model.requests import Cut, Request
from leadline.model.signals import Signal

MAX_ROWS = 500_000
"""Rows of a block, about: ClickHouse writes a million as one part, and one part is there whole or not at all."""


class Tabular(Protocol):
    """A decoded request that knows its rows."""

    items: int

    @property
    def size(self) -> int:
        """Bytes of the rows."""

    def rows(self, collector: str, segment: int) -> list[tuple[str, tuple[str, ...], str, bytes, int]]:
        """(table, columns, format, data, rows)."""


class Records:
    """Metrics and logs on their way to their tables. A `Part`."""

    def __init__(self, collector: str) -> None:
        self._collector = collector
        self._gathered: list[tuple[str, Tabular]] = []
        self._since: int | None = None
        self._items = Counter[str]()
        self.bytes = 0

    def control(self, rules: Mapping[str, object]) -> None:
        """Records are stored whatever the rules."""

    def add(self, request: Request) -> None:
        if request.signal is Signal.TRACES:
            return
        decoded = cast(Tabular, request.decoded)
        self._gathered.append((request.signal.value, decoded))
        self._since = request.sequence if self._since is None else self._since
        self._items[request.signal.value] += decoded.items
        self.bytes += decoded.size

    def cut(self, cut: Cut) -> list[Block]:
        blocks: list[Block] = []
        open_blocks: dict[str, _Gathering] = {}
        made = Counter[str]()

        def end(table: str) -> None:
            blocks.append(open_blocks.pop(table).block(table, f"{self._collector}/{cut.sequence}/{table}/{made[table]}"))
            made[table] += 1

        for signal, decoded in self._gathered:
            for table, columns, form, data, n in decoded.rows(self._collector, cut.sequence):
                if table in open_blocks and open_blocks[table].rows + n > MAX_ROWS:
                    end(table)
                open_blocks.setdefault(table, _Gathering(signal, columns, form)).add(data, n)
        for table in list(open_blocks):
            end(table)
        self._gathered, self._since, self.bytes = [], None, 0
        self._items.clear()
        return blocks

    def waiting(self) -> dict[tuple[str, str], int]:
        return {(signal, ""): n for signal, n in self._items.items()}

    @property
    def oldest_sequence(self) -> int | None:
        return self._since


class _Gathering:
    """A block in the making."""

    def __init__(self, signal: str, columns: tuple[str, ...], form: str) -> None:
        self._signal, self._columns, self._form = signal, columns, form
        self._pieces: list[bytes] = []
        self.rows = 0

    def add(self, data: bytes, n: int) -> None:
        self._pieces.append(data)
        self.rows += n

    def block(self, table: str, token: str) -> Block:
        counts = {} if table == "labels" else {(self._signal, ""): self.rows}  # a label is a log record too, and counted there
        return Block(table, self._columns, self._form, b"".join(self._pieces), token, self.rows, counts)
