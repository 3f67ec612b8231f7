"""The watermark never says more than what ClickHouse has, and gets there as soon as it has it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from leadline.flow import Collector
from leadline.journal.frames import Kind
from leadline.journal.intake import Journal
from leadline.journal.watermark import MAX_STEPS, Watermark
from leadline.model.accounting import Key
from leadline.model.ports import Decoder
from leadline.model.requests import Decoded
from leadline.model.signals import Signal
from leadline.settings import Settings
from leadline.testing.clock import ManualClock

START_S = 1_800_000_003
RULES = {"slis": [{"id": "s", "model": "m", "among": "", "good": "error_type = ''"}]}


def test_a_cut_is_reached_when_its_blocks_are() -> None:
    """Blocks of the table with lower numbers hold it back, later ones do not, and it never falls."""
    mark = Watermark()
    assert mark.reached(None) is None
    mark.cut(100, 7)
    mark.cut(200, 9)
    assert mark.reached(3) is None
    assert mark.reached(7) is None
    assert mark.reached(8) == 100
    assert mark.reached(10) == 200
    mark.cut(150, 11)
    assert mark.reached(None) == 200


def test_cuts_without_blocks_take_no_room() -> None:
    """An idle collector cut off from ClickHouse remembers one cut; a busy one a bounded number, and still ends at the newest."""
    mark = Watermark(5)
    for second in range(3 * MAX_STEPS):
        mark.cut(second, 1)
    assert mark.reached(1) == 5
    assert mark.reached(2) == 3 * MAX_STEPS - 1
    for second in range(3 * MAX_STEPS):
        mark.cut(10**9 + second, 10 + second)
    assert mark.reached(None) == 10**9 + 3 * MAX_STEPS - 1


class Bench:
    """A journal with its machine, a clock that is told the time, and an outbox that a test acknowledges by hand."""

    def __init__(self, directory: Path, clock: ManualClock) -> None:
        settings = Settings.model_validate(
            {
                "data": directory,
                "collector": "c",
                "journal": {"segment": 1, "sync": False},
                "sketch": {"window": 5},
                "store": {"clickhouse": "none"},
            }
        )
        self.clock, self.collector = clock, Collector(settings, clock)
        self.hold = threading.Event()
        self.hold.set()
        decode = self.collector.journal._decoders

        def slowly(body: bytes, receive_ns: int) -> tuple[Decoded, dict[Key, int]]:
            self.hold.wait(30)
            return decode[Signal.TRACES](body, receive_ns)

        decoders: Mapping[Signal, Decoder] = {**decode, Signal.TRACES: slowly}
        self.journal = Journal(settings, self.collector.machine, self.collector.state, decoders, clock)
        self.state = self.collector.state

    async def send(self, models: int = 1) -> None:
        """A request; of 1,500 predictions and more it is too large to be decoded on the event loop."""
        request = ExportTraceServiceRequest()
        scope = request.resource_spans.add().scope_spans.add()
        for number in range(models):
            now_ns = self.clock.now_ns()
            span = scope.spans.add(
                trace_id=number.to_bytes(8, "big") + now_ns.to_bytes(8, "big"),
                span_id=b"s" * 8,
                start_time_unix_nano=now_ns,
                end_time_unix_nano=now_ns,
            )
            for key, value in (("ml.model.name", "m"), ("ml.prediction.label", "x" * 200)):
                span.attributes.add(key=key).value.string_value = value
        await self.journal.accept(Signal.TRACES, request.SerializeToString())

    async def tick(self, seconds: float = 0.0) -> None:
        """Moves on and ticks, until everything that was asked of the journal's threads is done."""
        self.clock.advance(seconds)
        for _ in range(2):  # the second tick sees what the first one's cut gave out
            self.journal.tick(self.clock.now_ns())
            # A frame that is on disk has everything before it on disk; then everything before the call has been handed on.
            written = self.journal._log.submit(Kind.DUPLICATE, b"[]", self.clock.now_ns())
            await asyncio.wrap_future(written)
            await self.journal.totals()

    def said(self) -> list[tuple[float, float]]:
        """(watermark, sketch watermark) of each row in the outbox so far, in seconds after START_S; acknowledged once read."""
        found = []
        for number, block in self.state.pending():
            if block.table == "watermarks":
                row: dict[str, Any] = json.loads(self.state.load(block).data)
                found.append((float(row["watermark"]) - START_S, float(row["sketch_watermark"]) - START_S))
                self.state.acknowledge(number)
        return found

    def acknowledge(self, table: str) -> None:
        """ClickHouse takes what there is of a table."""
        for number, block in self.state.pending():
            if block.table == table:
                self.state.acknowledge(number)


@asynccontextmanager
async def bench(directory: Path, clock: ManualClock | None = None) -> AsyncIterator[Bench]:
    made = Bench(directory, clock or ManualClock(START_S * 10**9))
    made.journal.open()
    try:
        yield made
    finally:
        made.journal.close()
        made.state.close()


async def test_the_first_row_says_when_the_collector_began(tmp_path: Path) -> None:
    """Nothing was received before it, so everything before it is there; never 1970."""
    async with bench(tmp_path) as on:
        await on.tick()
        assert on.said() == [(0, 0)]
        await on.tick(1)
        assert on.said()[-1] == (1, 1)


async def test_counts_are_complete_when_clickhouse_has_them_and_not_before(tmp_path: Path) -> None:
    """Each second's cut is reached when its own block is acknowledged, also under traffic that never pauses."""
    async with bench(tmp_path) as on:
        on.journal.control(RULES)
        await on.tick()
        on.said()
        for second in range(1, 5):
            await on.send()
            await on.tick(1)
            assert on.state.oldest_pending("sli_counts") is not None
            assert max(mark for mark, _ in on.said()) == second - 1
            on.acknowledge("sli_counts")
            await on.send()
            await on.tick(0.0)
            assert on.said() == [(second, 0)], "a row as soon as it has moved"


async def test_sketches_have_their_own_watermark(tmp_path: Path) -> None:
    """They go out each `sketch.window`, here after 2 s and 7 s; counters go out each second."""
    async with bench(tmp_path) as on:
        on.journal.control(RULES)
        for _ in range(3):
            await on.send()
            await on.tick(1)
            on.acknowledge("sli_counts")
        await on.tick()
        assert on.said()[-1] == (3, 0)
        on.acknowledge("sketches")
        await on.tick()
        assert on.said() == [(3, 2)]


async def test_a_request_in_hand_holds_the_watermark(tmp_path: Path) -> None:
    """It has its receive time already when the cut comes, and is written after it."""
    async with bench(tmp_path) as on:
        on.journal.control(RULES)
        await on.tick(1)
        on.said()
        on.hold.clear()
        on.clock.advance(0.25)
        sending = asyncio.create_task(on.send(1500))
        await asyncio.sleep(0)
        await on.tick(1)
        await on.tick(1)
        assert max(mark for mark, _ in on.said()) == 1.25
        on.hold.set()
        await sending
        await on.tick(1)
        assert {mark for mark, _ in on.said()} == {1.25}
        on.acknowledge("sli_counts")
        await on.tick()
        assert on.said() == [(4.25, 1.25)]


async def test_a_restart_says_what_was_known(tmp_path: Path) -> None:
    """What waits in the outbox is not in ClickHouse, however often the collector starts."""
    clock = ManualClock(START_S * 10**9)
    async with bench(tmp_path, clock) as on:
        on.journal.control(RULES)
        await on.tick(1)
        await on.send()
        await on.tick(1)
        assert on.said()[-1][0] == 1
    clock.advance(100)
    async with bench(tmp_path, clock) as on:
        await on.tick()
        assert on.said() == [(1, 1)]
        await on.tick(1)
        assert on.said()[-1][0] == 1
        on.acknowledge("sli_counts")
        await on.tick(1)
        on.acknowledge("sli_counts")
        await on.tick()
        assert on.said()[-1][0] == 104
