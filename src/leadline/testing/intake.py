"""An intake that keeps what it is given, for tests of receivers and of whatever sends OTLP."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from leadline.model.signals import Receipt, Signal


@dataclass(slots=True)
class RecordingIntake:
    """Keeps every accepted request, in order.

    Parameters
    ----------
    receipt : Receipt
        What each request is answered with.
    error : Exception or None
        Raised instead of accepting, as long as it is set.
    gate : asyncio.Event or None
        Each request waits for it, as long as one is set: requests are then in flight for as long as a test wants.

    Examples
    --------
    >>> import asyncio
    >>> intake = RecordingIntake()
    >>> asyncio.run(intake.accept(Signal.TRACES, b""))
    Receipt(rejected=0, message='')
    >>> intake.requests
    [(<Signal.TRACES: 'traces'>, b'')]
    """

    receipt: Receipt = field(default_factory=Receipt)
    error: Exception | None = None
    gate: asyncio.Event | None = None
    requests: list[tuple[Signal, bytes]] = field(default_factory=list)
    waiting: int = 0
    undecoded: int = 0

    async def accept(self, signal: Signal, body: bytes) -> Receipt:
        """Keeps the request and answers, or raises `error`."""
        if self.gate is not None:
            self.waiting += 1
            try:
                await self.gate.wait()
            finally:
                self.waiting -= 1
        if self.error is not None:
            raise self.error
        self.requests.append((signal, body))
        return self.receipt

    def undecodable(self) -> None:
        """Counts a request that had no body to accept."""
        self.undecoded += 1

    def bodies(self, signal: Signal) -> list[bytes]:
        """The bodies of one signal, in order."""
        return [body for kind, body in self.requests if kind is signal]
