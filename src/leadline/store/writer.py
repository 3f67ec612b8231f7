"""The shell that empties the outbox: blocks go to ClickHouse (and kept spans to an OTLP endpoint) until each is acknowledged.

A block that cannot be sent now is tried again with a growing pause; one that ClickHouse refuses for good is kept, tried once a minute,
and said loudly: somebody may mend the table, and nothing is thrown away meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import random

from leadline.clock import Clock
from leadline.errors import PermanentError, RetryableError
from leadline.model.blocks import Block
from leadline.model.ports import Outbox, Store

_log = logging.getLogger("leadline.store")
_PAUSE_MAX_S = 15.0
_REFUSED_PAUSE_S = 60.0


class Writer:
    """Sends blocks, a lane per table, each lane in order.

    Parameters
    ----------
    outbox : Outbox
    store : Store
    otlp : Store or None
        Takes the blocks of kept spans in OTLP.
    clock : Clock
    interval_s : float
        How often the outbox is looked at.
    """

    def __init__(self, outbox: Outbox, store: Store, otlp: Store | None, clock: Clock, *, interval_s: float = 0.2) -> None:
        self._outbox, self._store, self._otlp, self._clock, self._interval_s = outbox, store, otlp, clock, interval_s
        self._lanes: dict[str, asyncio.Task[None]] = {}
        self._pauses: dict[str, float] = {}
        self._not_before: dict[int, float] = {}
        self.rows: dict[str, int] = {}
        self.bytes: dict[str, int] = {}
        self.failures = 0
        self.refused: dict[str, str] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Sends until `stop`."""
        while not stop.is_set():
            self._start_lanes()
            await self._clock.sleep(self._interval_s)
        await self._settle()

    async def drain(self, until_ns: int) -> int:
        """Sends what is there until it is gone or the time is up; returns the blocks left (they stay on disk)."""
        while (left := len(self._outbox.pending())) and self._clock.now_ns() < until_ns:
            self._start_lanes()
            await self._clock.sleep(0.02)
        await self._settle()
        return left

    async def _settle(self) -> None:
        for task in self._lanes.values():
            task.cancel()
        await asyncio.gather(*self._lanes.values(), return_exceptions=True)
        self._lanes.clear()

    def _start_lanes(self) -> None:
        by_table: dict[str, list[tuple[int, Block]]] = {}
        now_s = self._clock.now_ns() / 1e9
        for number, block in self._outbox.pending():
            if self._not_before.get(number, 0.0) <= now_s:
                by_table.setdefault(block.table, []).append((number, block))
        for table, blocks in by_table.items():
            if table not in self._lanes or self._lanes[table].done():
                self._lanes[table] = asyncio.create_task(self._send_lane(table, blocks), name=f"send {table}")

    async def _send_lane(self, table: str, blocks: list[tuple[int, Block]]) -> None:
        for number, block in blocks:
            if not await self._send(number, block):
                return

    async def _send(self, number: int, block: Block) -> bool:
        target = self._otlp if block.format == "otlp" else self._store
        try:
            if target is not None:
                loaded = await asyncio.to_thread(self._outbox.load, block)
        except FileNotFoundError as error:
            _log.error("store: %s is gone from the outbox (%s); its %d rows are lost, and counted so", block.token, error, block.rows)
            await asyncio.to_thread(self._outbox.abandon, number)
            return True
        try:
            if target is not None:
                await target.insert(loaded)
                self.bytes[block.table] = self.bytes.get(block.table, 0) + len(loaded.data)
        except RetryableError as error:
            self.failures += 1
            pause = self._pauses[block.table] = min(_PAUSE_MAX_S, max(0.25, 2 * self._pauses.get(block.table, 0.125)))
            if pause >= 1.0:
                _log.warning("store: %s waits %.1f s before it is sent again: %s", block.token, pause, error)
            await self._clock.sleep(pause * random.uniform(0.7, 1.3))
            return False
        except PermanentError as error:
            self.failures += 1
            self.refused[block.token] = str(error)
            self._not_before[number] = self._clock.now_ns() / 1e9 + _REFUSED_PAUSE_S
            _log.error("store: %s was refused and is kept on disk; it is tried again in %.0f s: %s", block.token, _REFUSED_PAUSE_S, error)
            return True
        try:
            await asyncio.to_thread(self._outbox.acknowledge, number)
        except OSError as error:  # it is sent again, which its token makes harmless
            _log.warning("store: %s was stored, but that cannot be noted (%s)", block.token, error)
            await self._clock.sleep(_PAUSE_MAX_S)
            return False
        self._pauses.pop(block.table, None)
        self._not_before.pop(number, None)
        self.refused.pop(block.token, None)
        self.rows[block.table] = self.rows.get(block.table, 0) + block.rows
        return True
