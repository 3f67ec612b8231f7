"""How much of a bound on bytes a request may fill."""

from __future__ import annotations

_SMALL_BYTES = 2**20
_LARGE_SHARE = 0.75


def bound_for(size: int, limit: int) -> int:
    """Of `limit`, what is open to a request of `size` bytes: all of it up to 1 MiB, three quarters above.

    However many large requests there are, ordinary ones find room.
    """
    return limit if size <= _SMALL_BYTES else int(limit * _LARGE_SHARE)
