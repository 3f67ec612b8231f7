"""A clock that moves when it is told to."""

from __future__ import annotations

import asyncio


class ManualClock:
    """A `Clock` for tests: time stands still until `advance`.

    Parameters
    ----------
    now_ns : int
        Where it begins.
    """

    def __init__(self, now_ns: int = 1_800_000_000_000_000_000) -> None:
        self._now_ns = now_ns
        self._sleepers: list[tuple[int, asyncio.Future[None]]] = []

    def now_ns(self) -> int:
        return self._now_ns

    def advance(self, seconds: float) -> None:
        """Moves on, and wakes whoever has slept long enough."""
        self._now_ns += round(seconds * 1e9)
        for until_ns, sleeper in self._sleepers:
            if until_ns <= self._now_ns and not sleeper.done():
                sleeper.set_result(None)
        self._sleepers = [(until_ns, sleeper) for until_ns, sleeper in self._sleepers if not sleeper.done()]

    async def sleep(self, seconds: float) -> None:
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._now_ns + round(seconds * 1e9), sleeper))
        if seconds <= 0:
            sleeper.set_result(None)
        await sleeper
