"""READ FIRST. Builds the stages from Settings and joins them; the only file that knows all of them.

OTLP ──► receive ──► journal ──► decode ──► sketch ──► sample ──► outbox ──► store ══► ClickHouse ══► evaluate ──► act
                     (ack = on disk)        (every     (whole                (until it     (rules)        (Alertmanager)
                                             prediction) traces)              says yes)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

from leadline.clock import Clock, SystemClock
from leadline.decode import decoders
from leadline.journal.intake import Journal
from leadline.journal.machine import Machine
from leadline.journal.state import State
from leadline.model.ports import Store
from leadline.receive.grpc import GrpcReceiver
from leadline.receive.http import HttpReceiver
from leadline.receive.limits import Budget
from leadline.receive.outcomes import Outcomes
from leadline.sample.sampler import Sampler
from leadline.settings import Settings
from leadline.sketch.measure import Measure
from leadline.store.client import open_store
from leadline.store.migrate import apply_when_up
from leadline.store.otlp_out import OtlpOut
from leadline.store.records import Records
from leadline.store.rules_poll import poll_rules
from leadline.store.writer import Writer


class Collector:
    """One collector: everything between a client's request and ClickHouse's yes."""

    def __init__(self, settings: Settings, clock: Clock | None = None, store: Store | None = None) -> None:
        self.settings, self.clock = settings, clock or SystemClock()
        self.store = store or open_store(settings)
        directory = settings.journal_dir if settings.journal.enabled else None
        decode = decoders(settings.dialects, settings.segments, max_late_ns=int(settings.receive.max_late * 1e9))
        self.state = State(directory, sync=settings.journal.sync)
        self.measure = Measure(settings.sketch, settings.collector, settings.segments)
        self.sampler = Sampler(
            settings.sample,
            settings.collector,
            lambda levels: self.measure.sketches.quantiles("duration_ms", levels),
            segments=settings.segments,
            export=settings.export.otlp is not None,
        )
        self.records = Records(settings.collector)
        self.machine = Machine(self.state, decode, (self.measure, self.sampler, self.records), self.sampler)
        self.journal = Journal(settings, self.machine, self.state, decode, self.clock)
        self.journal.lag_p99_ms = lambda: self.measure.lag_p99_ms
        self.journal.gathered_bytes = lambda: self.records.bytes
        self.sampler.bodies = self.journal
        self.otlp = OtlpOut(settings.export) if settings.export.otlp else None
        self.writer = Writer(self.state, self.store, self.otlp, self.clock, interval_s=min(0.2, settings.store.flush))
        self.outcomes, budget = Outcomes(), Budget(settings.receive.max_in_flight)
        self.grpc = GrpcReceiver(settings.receive, self.journal, budget=budget, outcomes=self.outcomes)
        self.http = HttpReceiver(settings.receive, self.journal, budget=budget, outcomes=self.outcomes)
        self.replayed = self.state_left = 0
        self.ready = False

    async def run(self, stop: asyncio.Event, ready: Callable[[], None] = lambda: None) -> None:
        """Serves until `stop`, then drains within `settings.shutdown`."""
        self.replayed = await asyncio.to_thread(self.journal.open)
        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as tasks, AsyncExitStack() as exits:
            exits.callback(stopping.set)
            tasks.create_task(self.journal.run(stopping))
            tasks.create_task(self.writer.run(stopping))
            if self.settings.store.clickhouse != "none":
                tasks.create_task(self._follow_rules(stopping))
            await self.grpc.start()
            await self.http.start()
            self.ready = True
            ready()
            await stop.wait()
            self.ready = False
            until_ns = self.clock.now_ns() + int(self.settings.shutdown * 0.8 * 1e9)
            await asyncio.gather(self.grpc.stop(self.settings.shutdown * 0.2), self.http.stop(self.settings.shutdown * 0.2))
        await self.journal.drain(self.settings.shutdown * 0.4)
        if self.settings.store.clickhouse != "none":  # ClickHouse may have come up only now
            await apply_when_up(self.store, self.clock, asyncio.Event(), until_ns=until_ns)
        await self.writer.drain(until_ns)
        with suppress(OSError):  # a full disk
            self.journal.report(self.clock.now_ns())  # what has become kept meanwhile
            self.journal.report_watermark()
        self.state_left = await self.writer.drain(until_ns)
        if self.otlp is not None:
            await self.otlp.close()
        self.journal.close()
        self.state.close()

    async def _follow_rules(self, stopping: asyncio.Event) -> None:
        """Tables first, then the rules in them."""
        await apply_when_up(self.store, self.clock, stopping)
        await poll_rules(self.store, self.journal.control, self.settings.sketch.rules_poll, stopping)
