"""The part that stores metrics and logs: rows gather until the segment is cut, or there are many."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from leadline.model.blocks import Block
from leadline.model.requests import Cut, Request


@runtime_checkable
class Tabular(Protocol):
    """A decoded request that knows its rows."""

    items: int

    def rows(self, collector: str, segment: int, receive_ns: int) -> list[tuple[str, tuple[str, ...], bytes, int]]:
        """(table, columns, JSONEachRow lines, rows)."""


class Records:
    """Metrics and logs on their way to their tables. A `Part`."""

    def __init__(self, collector: str) -> None:
        self._collector = collector
        self._requests: list[Request] = []

    def control(self, rules: Mapping[str, Any]) -> None:
        """Records are stored whatever the rules."""

    def add(self, request: Request) -> None:
        if isinstance(request.decoded, Tabular):
            self._requests.append(request)

    def cut(self, cut: Cut) -> list[Block]:
        data: defaultdict[tuple[str, tuple[str, ...], str], list[bytes]] = defaultdict(list)
        rows: defaultdict[tuple[str, tuple[str, ...], str], int] = defaultdict(int)
        for request in self._requests:
            for table, columns, lines, n in request.decoded.rows(self._collector, cut.sequence, request.receive_ns):  # type: ignore[attr-defined]
                key = (table, columns, request.signal.value)
                data[key].append(lines)
                rows[key] += n
        self._requests = []
        return [
            Block(
                table,
                columns,
                "JSONEachRow",
                b"".join(data[(table, columns, signal)]),
                f"{self._collector}/{cut.sequence}/{table}/0",
                n,
                {} if table == "labels" else {(signal, ""): n},  # a label is a log record too, and counted there
            )
            for (table, columns, signal), n in rows.items()
        ]

    def waiting(self) -> dict[tuple[str, str], int]:
        total: defaultdict[tuple[str, str], int] = defaultdict(int)
        for request in self._requests:
            total[(request.signal.value, "")] += request.decoded.items  # type: ignore[attr-defined]
        return dict(total)

    @property
    def oldest_sequence(self) -> int | None:
        return self._requests[0].sequence if self._requests else None
