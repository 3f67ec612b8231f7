"""Bounds on what clients can make us hold: bytes in hand, and how long a request may take to come.

One `Budget` is shared by both transports. A request holds a `Lease` on it from its first byte to its reply; what does
not fit is refused with a delay, so that a client keeps its data and tries again.
"""

from __future__ import annotations

from types import TracebackType

from leadline.errors import Overloaded
from leadline.model.sizes import bound_for

RETRY_AFTER_S = 1.0
"""What a client is told to wait when the bytes in hand are at their bound: most requests are through in well under it."""


class Budget:
    """Bytes of requests in hand, of all clients together.

    Parameters
    ----------
    limit : int, bytes
        `receive.max_in_flight`.
    """

    __slots__ = ("held", "limit", "peak")

    def __init__(self, limit: int) -> None:
        self.limit, self.held, self.peak = limit, 0, 0

    def lease(self) -> Lease:
        """An empty lease, to be used as a context manager."""
        return Lease(self)


class Lease:
    """The share of the budget that one request holds."""

    __slots__ = ("_budget", "held")

    def __init__(self, budget: Budget) -> None:
        self._budget, self.held = budget, 0

    def hold(self, size: int) -> None:
        """Holds `size` bytes, instead of what was held before.

        Raises
        ------
        Overloaded
            If that does not fit; what was held before stays held. A request fits an empty budget whatever its size, so
            that a `max_in_flight` below `max_bytes` slows large requests down but never shuts them out.
        """
        budget = self._budget
        held = budget.held - self.held + size
        limit = bound_for(size, budget.limit)
        if held > limit and size > self.held and held > size:
            raise Overloaded(
                f"{budget.held} bytes of requests are in hand and {size - self.held} more would pass "
                f"{'receive.max_in_flight' if limit == budget.limit else 'the share of receive.max_in_flight for large requests'} "
                f"({limit}). Send this request again after the delay.",
                retry_after_s=RETRY_AFTER_S,
            )
        budget.held, self.held = held, size
        budget.peak = max(budget.peak, held)

    def release(self) -> None:
        """Gives everything back. Doing it twice does nothing."""
        self._budget.held -= self.held
        self.held = 0

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()
