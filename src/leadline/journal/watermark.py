"""Until when everything that was received is in ClickHouse, for one table. Pure."""

from __future__ import annotations

from collections import deque

MAX_STEPS = 10_000
"""Cuts that wait for ClickHouse; past it the oldest are forgotten, which costs steps on the way and never truth."""


class Watermark:
    """Follows blocks of one table from the cut that made them to ClickHouse's yes.

    Parameters
    ----------
    known_ns : int or None
        The receive time before which everything is in ClickHouse already; None: not known yet.
    """

    def __init__(self, known_ns: int | None = None) -> None:
        self._known_ns = known_ns
        self._steps: deque[tuple[int, int]] = deque(maxlen=MAX_STEPS)

    def cut(self, before_ns: int, newest: int) -> None:
        """Everything received before `before_ns` is in blocks whose numbers are at most `newest`."""
        if self._steps and self._steps[-1][1] == newest:
            self._steps.pop()
        self._steps.append((before_ns, newest))

    def reached(self, oldest_pending: int | None) -> int | None:
        """The watermark in ns; never falls. `oldest_pending` is the lowest number of the table's blocks that ClickHouse does not have."""
        while self._steps and (oldest_pending is None or oldest_pending > self._steps[0][1]):
            before_ns, _ = self._steps.popleft()
            self._known_ns = before_ns if self._known_ns is None else max(before_ns, self._known_ns)
        return self._known_ns
