"""The journal as the receivers see it: acknowledged is on disk, once; under pressure clients keep their data and come again.

The real kernel, disk and threads; the clock stands still.
"""

from __future__ import annotations

import asyncio
import resource
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from leadline.errors import InvalidRequest, Overloaded
from leadline.flow import Collector
from leadline.model.signals import Receipt, Signal
from leadline.settings import load
from leadline.testing.clock import ManualClock
from leadline.testing.processes import until

Start = Callable[..., Collector]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts collectors over one directory: stages and journal, no sockets. Settings as `--set` has them."""
    started: list[Collector] = []

    def start(*overrides: str) -> Collector:
        sets = [f"data={tmp_path}", "collector=c1", "store.clickhouse=none", "sample.decision_wait=1s", "journal.sync=false", *overrides]
        collector = Collector(load(overrides=sets, environ={}), ManualClock())
        collector.journal.open()
        started.append(collector)
        return collector

    yield start
    for collector in started:
        collector.state.giving_up.set()
        collector.journal.close()
        collector.state.close()


def body(first: int, spans: int = 3) -> bytes:
    """A request of predictions, a trace each, with ids from `first` on."""
    request = ExportTraceServiceRequest()
    made = request.resource_spans.add().scope_spans.add().spans
    for number in range(first, first + spans):
        span = made.add(trace_id=number.to_bytes(16, "big"), span_id=number.to_bytes(8, "big"), name="predict", end_time_unix_nano=1)
        span.attributes.add(key="ml.model.name").value.string_value = "fraud"
    return request.SerializeToString()


async def terms(collector: Collector) -> dict[str, int]:
    """The accounting of traces, without what is zero."""
    return {term: n for term, n in (await collector.journal.totals()).by_signal()["traces"].items() if n}


async def taken(collector: Collector, request: bytes) -> bool:
    """Whether the request is accepted now."""
    try:
        await collector.journal.accept(Signal.TRACES, request)
    except Overloaded:
        return False
    return True


class Held:
    """Holds the journal's thread up, as a large request would, until it is let go."""

    def __init__(self, collector: Collector) -> None:
        self._go = threading.Event()
        collector.journal._log.run_in_order(lambda: self._go.wait(60) and None)  # type: ignore[func-returns-value]

    def let_go(self) -> None:
        self._go.set()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """While it lasts no file of this process grows past `size`: a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# -- retries -------------------------------------------------------------------------------------------------------------


async def test_the_same_request_on_two_connections_at_once_counts_once(start: Start) -> None:
    """Both are acknowledged; one is a duplicate."""
    collector = start()
    assert await asyncio.gather(*(collector.journal.accept(Signal.TRACES, body(1)) for _ in range(3))) == [Receipt()] * 3
    await until(lambda: _duplicates(collector, 6), "duplicates written")
    assert await terms(collector) == {"received": 9, "duplicate": 6, "waiting": 3}


async def _duplicates(collector: Collector, n: int) -> bool:
    return (await terms(collector)).get("duplicate") == n


async def test_a_retry_is_known_within_the_horizon_and_after_a_restart(start: Start) -> None:
    collector = start("journal.retry_horizon=60s")
    await collector.journal.accept(Signal.TRACES, body(1))
    collector.clock.advance(59)  # type: ignore[attr-defined]
    await collector.journal.accept(Signal.TRACES, body(1))
    await until(lambda: _duplicates(collector, 3), "the duplicate written")
    collector.journal.close()
    collector.state.close()
    again = start("journal.retry_horizon=60s")
    await again.journal.accept(Signal.TRACES, body(1))
    await until(lambda: _duplicates(again, 6), "another duplicate written")
    again.clock.advance(61)  # type: ignore[attr-defined]
    await again.journal.accept(Signal.TRACES, body(1))
    assert (await terms(again))["received"] == 12
    assert (await terms(again))["duplicate"] == 6


async def test_a_retry_of_what_could_not_be_written_is_a_first_try(start: Start) -> None:
    """It is refused with a delay while the disk is full, and taken when there is room."""
    collector = start()
    await collector.journal.accept(Signal.TRACES, body(1))
    with largest_file(200):
        for _ in range(2):
            with pytest.raises(Overloaded, match=r"cannot be written \(File too large\)"):
                await collector.journal.accept(Signal.TRACES, body(10))
    assert await collector.journal.accept(Signal.TRACES, body(10)) == Receipt()
    assert await terms(collector) == {"received": 6, "waiting": 6}
    assert collector.journal.status()["journal_backlog_bytes"] == 0


async def test_a_client_that_goes_away_does_not_make_its_retry_a_loss(start: Start) -> None:
    """Written before it went: the retry is a duplicate. Not written: a first try."""
    collector = start()
    gone = asyncio.create_task(collector.journal.accept(Signal.TRACES, body(1)))
    await asyncio.sleep(0)  # it has begun
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    await collector.journal.accept(Signal.TRACES, body(1))
    await until(lambda: _duplicates(collector, 3), "the retry known")
    assert await terms(collector) == {"received": 6, "duplicate": 3, "waiting": 3}
    with largest_file(200):
        gone = asyncio.create_task(collector.journal.accept(Signal.TRACES, body(10)))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        with pytest.raises(Overloaded):
            await collector.journal.accept(Signal.TRACES, body(10))
    await until(lambda: taken(collector, body(10)), "the retry taken")
    assert await terms(collector) == {"received": 9, "duplicate": 3, "waiting": 6}
    assert collector.journal.status()["journal_backlog_bytes"] == 0


# -- pressure ------------------------------------------------------------------------------------------------------------


async def test_bytes_in_hand_are_bounded(start: Start) -> None:
    """`receive.max_in_flight`: what is written and not yet measured; refused until the stages have caught up."""
    request = body(1, spans=200)
    collector = start(f"receive.max_in_flight={3 * len(request)}")
    held = Held(collector)
    for first in (1000, 2000, 3000):
        await collector.journal.accept(Signal.TRACES, body(first, spans=190))
    with pytest.raises(Overloaded, match=r"bytes in hand: \d+ of \d+ used; .*\(raise receive.max_in_flight") as refused:
        await collector.journal.accept(Signal.TRACES, request)
    assert refused.value.retry_after_s == 1
    held.let_go()
    await collector.journal.totals()
    await collector.journal.accept(Signal.TRACES, request)
    assert await terms(collector) == {"received": 770, "waiting": 770}
    assert collector.journal.refused == 1


async def test_bytes_in_the_journal_are_bounded(start: Start) -> None:
    """`journal.max_bytes`: what undecided traces need; refused until they are decided and their segments are gone."""
    collector = start("journal.max_bytes=100KiB", "journal.segment=1s", "sketch.window=1s", "sample.decision_wait=5s")
    clock: Any = collector.clock
    accepted = 0
    with pytest.raises(Overloaded, match=r"bytes in the journal: \d+ of 102400 used; .*\(raise journal.max_bytes"):  # noqa: PT012
        for _ in range(20):
            await collector.journal.accept(Signal.TRACES, body(1 + accepted, spans=300))
            accepted += 300
            clock.advance(0.1)
            collector.journal._tidy()

    async def next_second() -> bool:
        clock.advance(1)
        collector.journal.tick(clock.now_ns())  # decides, cuts, forgets
        return await taken(collector, body(200_000, spans=300))

    await until(next_second, "there is room in the journal again", 20)
    counted = await terms(collector)
    assert counted["received"] == accepted + 300
    assert "lost" not in counted


async def test_blocks_waiting_for_clickhouse_are_bounded(start: Start) -> None:
    """`store.max_pending`: refused while ClickHouse is away, taken when it has had its blocks."""
    collector = start("store.max_pending=10KiB", "sample.decision_wait=0s")
    clock: Any = collector.clock
    await collector.journal.accept(Signal.TRACES, body(1, spans=300))
    clock.advance(1)
    collector.journal.tick(clock.now_ns())
    await collector.journal.totals()
    with pytest.raises(Overloaded, match=r"bytes waiting for ClickHouse: \d+ of 10240 used; .*\(raise store.max_pending") as refused:
        await collector.journal.accept(Signal.TRACES, body(1000))
    assert refused.value.retry_after_s == 10
    for number, _ in collector.state.pending():
        collector.state.acknowledge(number)
    await collector.journal.accept(Signal.TRACES, body(1000))
    counted = await terms(collector)
    assert (counted["received"], counted["waiting"]) == (303, 3)
    assert "lost" not in counted


async def test_gathered_records_count_as_waiting(start: Start) -> None:
    """`store.max_pending` bounds what logs and metrics hold in memory until their segment is cut."""
    collector = start("store.max_pending=10KiB")
    request = ExportLogsServiceRequest()
    request.resource_logs.add().scope_logs.add().log_records.add().body.string_value = "x" * 9_000
    await collector.journal.accept(Signal.LOGS, request.SerializeToString())
    await collector.journal.totals()
    request.resource_logs[0].scope_logs[0].log_records[0].body.string_value = "y" * 9_000
    with pytest.raises(Overloaded, match=r"bytes waiting for ClickHouse: \d+ of 10240 used"):
        await collector.journal.accept(Signal.LOGS, request.SerializeToString())
    await collector.journal.drain()
    assert collector.records.bytes == 0


async def test_a_disk_that_is_full_is_waited_out(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """Decisions and blocks are written when there is room again; none is left out, none is made twice."""
    collector = start("sample.budget.traces_per_second=null", "sample.keep=[always]", "sample.decision_wait=0s")
    clock: Any = collector.clock
    await collector.journal.accept(Signal.TRACES, body(1, spans=300))
    clock.advance(1)
    with largest_file(200):
        collector.journal.tick(clock.now_ns())
        await until(lambda: "cannot write to" in caplog.text, "a decision that cannot be written")
        with pytest.raises(Overloaded):
            await collector.journal.accept(Signal.TRACES, body(1000))
    await collector.journal.accept(Signal.TRACES, body(1000))
    counted = await terms(collector)
    assert (counted["received"], counted["waiting"]) == (303, 303)
    tables = [block.table for _, block in collector.state.pending()]
    assert tables.count("otel_traces") == tables.count("predictions") == 1
    assert collector.journal._log.failure is None


async def test_blocks_that_find_no_room_are_noted_when_there_is(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """The log has room for a decision, the outbox none for its blocks: they wait, and so does whoever asks for the counts."""
    collector = start("sample.budget.traces_per_second=null", "sample.keep=[always]", "sample.decision_wait=0s", "journal.segment=1h")
    clock: Any = collector.clock
    await collector.journal.accept(Signal.TRACES, body(1, spans=100))
    (log,) = (collector.settings.journal_dir).glob("*.log")
    clock.advance(1)
    with largest_file(log.stat().st_size + 4500):
        collector.journal.tick(clock.now_ns())
        await until(lambda: "blocks cannot be written" in caplog.text, "blocks that cannot be written")
        assert collector.state.pending() == []
    counted = await terms(collector)
    assert (counted["received"], counted["waiting"]) == (100, 100)
    assert [block.rows for _, block in collector.state.pending() if block.table == "otel_traces"] == [100]


# -- what is nothing, and what is no request -------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", [b"", b"\x0a\x00", b"\x0a\x02\x12\x00"])
async def test_an_empty_request_is_accepted_and_leaves_no_trace(start: Start, empty: bytes) -> None:
    collector = start()
    for signal in Signal:
        assert await collector.journal.accept(signal, empty) == Receipt()
    assert await terms(collector) == {}
    assert list(collector.settings.journal_dir.glob("*.log")) == []


@pytest.mark.parametrize("size", [10, 200_000])
async def test_what_does_not_decode_is_refused_and_counted_once(start: Start, size: int) -> None:
    """Small ones are decoded on the event loop, large ones in a thread; neither reaches the disk."""
    collector = start()
    for signal in Signal:
        with pytest.raises(InvalidRequest):
            await collector.journal.accept(signal, b"\xff" * size)
    assert collector.journal.undecodable_requests == 3
    assert await terms(collector) == {}
    assert list(collector.settings.journal_dir.glob("*.log")) == []


async def test_a_count_of_what_does_not_decode_outlives_a_restart(start: Start) -> None:
    collector = start("journal.segment=1s")
    clock: Any = collector.clock
    with pytest.raises(InvalidRequest):
        await collector.journal.accept(Signal.TRACES, b"\xff")
    clock.advance(2)
    collector.journal.tick(clock.now_ns())
    await collector.journal.totals()
    collector.journal.close()
    collector.state.close()
    assert start().journal.undecodable_requests == 1


async def test_rejected_spans_are_said_and_counted(start: Start) -> None:
    """Partial success: the others are accepted."""
    collector = start()
    receipt = await collector.journal.accept(Signal.TRACES, body(0))
    assert (receipt.rejected, receipt.message.startswith("rejected 1 × ")) == (1, True)
    assert await terms(collector) == {"received": 3, "rejected": 1, "waiting": 2}


# -- restarts ------------------------------------------------------------------------------------------------------------


async def test_dropped_without_a_close_and_replayed(start: Start, tmp_path: Path) -> None:
    """What was acknowledged is there, undecided traces wait again, and the counts are the same; see also test_replay.py."""
    collector = start("journal.segment=1s")
    clock: Any = collector.clock
    for first in range(1, 500, 100):
        await collector.journal.accept(Signal.TRACES, body(first, spans=100))
        clock.advance(0.7)
        collector.journal.tick(clock.now_ns())
    before = await terms(collector)
    collector.journal._log.stop()  # its files are closed, so that its lock is free; nothing is given out
    again = start("journal.segment=1s")
    assert await terms(again) == before
    assert again.journal._log.next_sequence >= collector.journal._log.next_sequence


async def test_a_directory_has_one_collector(start: Start) -> None:
    start()
    with pytest.raises(Exception, match=r"journal\.dir: .* is in use by another collector"):
        start()
