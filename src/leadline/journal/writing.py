"""Requests on their way to disk: the journal's thread says what became of each, whoever waits for it on the event loop is told."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from leadline.errors import Overloaded


class Writing:
    """A request that is being written, and the clients that wait for it: the one that sent it, and those that sent it again meanwhile.

    One that goes away changes nothing, neither for the others nor for what is written.
    """

    __slots__ = ("_ended", "_waiting")

    def __init__(self, ended: Callable[[bool], None]) -> None:
        self._ended = ended
        self._waiting: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        """Returns once it is on disk. Raises `Overloaded` if it could not be written."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        await waiting

    def end(self, outcome: int | Overloaded) -> None:
        """It is on disk, at a sequence; or it is not, and why."""
        failed = isinstance(outcome, Overloaded)
        self._ended(not failed)
        for waiting in self._waiting:
            if waiting.cancelled():
                continue
            if isinstance(outcome, Overloaded):
                waiting.set_exception(outcome)
            else:
                waiting.set_result(None)


class Outcomes:
    """Takes outcomes on the journal's thread, and ends the writings on the event loop. Frames written together cost one wake-up."""

    def __init__(self) -> None:
        self._told: deque[tuple[Writing, int | Overloaded]] = deque()
        self._woken = False

    def teller(self, writing: Writing) -> Callable[[int | Overloaded], None]:
        """To be called once, from any thread. Made on the event loop."""
        loop = asyncio.get_running_loop()

        def tell(outcome: int | Overloaded) -> None:
            self._told.append((writing, outcome))
            if not self._woken and not loop.is_closed():
                self._woken = True
                loop.call_soon_threadsafe(self._hand_out)

        return tell

    def _hand_out(self) -> None:
        self._woken = False  # before the deque is emptied: what is told from here on wakes the loop again
        while self._told:
            writing, outcome = self._told.popleft()
            writing.end(outcome)
