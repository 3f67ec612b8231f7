"""The stages joined: what was acknowledged is accounted for, and what a fault loses is seen."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from leadline.flow import Collector
from leadline.model.signals import Signal
from leadline.sample import sampler
from leadline.settings import load
from leadline.testing.processes import free_port, until

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from payloads import Requests

SPANS = 99


@asynccontextmanager
async def running(data: Path, *overrides: str) -> AsyncIterator[Collector]:
    """A collector in this process, on free ports, that throws its blocks away."""
    addresses = (f"{key}=127.0.0.1:{free_port()}" for key in ("receive.grpc", "receive.http"))
    common = (f"data={data}", "collector=c1", "store.clickhouse=none", "sample.decision_wait=100ms", "journal.segment=500ms")
    collector = Collector(load(overrides=[*common, *addresses, *overrides], environ={}))
    stop = asyncio.Event()
    task = asyncio.create_task(collector.run(stop))
    try:
        await until(lambda: collector.ready or task.done(), "the collector is ready")
        yield collector
    finally:
        stop.set()
        await task


async def _settled(collector: Collector) -> dict[str, dict[str, int]]:
    async def nothing_waits() -> bool:
        return all(terms["waiting"] == 0 for terms in (await collector.journal.totals()).by_signal().values())

    await until(nothing_waits, "nothing waits")
    return (await collector.journal.totals()).by_signal()


@pytest.mark.parametrize("read_back_at_once", [None, 1])
async def test_every_span_is_accounted_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_back_at_once: int | None) -> None:
    """received = kept + sampled out, for spans; kept, for predictions; a retry is a duplicate. However much is read back at once."""
    if read_back_at_once is not None:
        monkeypatch.setattr(sampler, "_BODIES_BYTES", read_back_at_once)
    async with running(tmp_path, "sample.keep=[{probabilistic: 20%}]", "sample.budget.traces_per_second=null") as collector:
        requests = Requests(SPANS, seed=3)
        bodies = [requests.next() for _ in range(20)]
        for body in [*bodies, bodies[7]]:
            await collector.journal.accept(Signal.TRACES, body)
        counts = await _settled(collector)
    spans, predictions = counts["traces"], counts["predictions"]
    assert (spans["received"], spans["duplicate"], spans["lost"]) == (21 * SPANS, SPANS, 0)
    assert spans["kept"] + spans["sampled_out"] == 20 * SPANS
    assert 0 < spans["kept"] < 20 * SPANS
    assert (predictions["received"], predictions["kept"], predictions["duplicate"]) == (21 * 33, 20 * 33, 33)
    assert predictions["lost"] == 0


async def test_a_fault_that_drops_a_batch_is_seen_as_lost(tmp_path: Path) -> None:
    """Each term is counted at its own place, so a batch that a stage forgets is missing from the sum, not hidden by it."""
    async with running(tmp_path) as collector:
        requests = Requests(SPANS, seed=4)
        add, calls = collector.sampler.add, 0

        def forgetful(request: Any) -> None:
            nonlocal calls
            calls += 1
            if calls != 3:
                add(request)

        collector.sampler.add = forgetful  # type: ignore[method-assign]
        for _ in range(5):
            await collector.journal.accept(Signal.TRACES, requests.next())
        counts = await _settled(collector)
    assert (counts["traces"]["lost"], counts["predictions"]["lost"]) == (SPANS, 33)


async def test_a_block_that_the_writer_drops_is_seen_as_lost(tmp_path: Path) -> None:
    """A block gone from the outbox before ClickHouse said yes is not kept."""
    async with running(tmp_path, "sample.keep=[always]", "sample.budget.traces_per_second=null") as collector:
        acknowledge, dropped = collector.state.acknowledge, 0

        def faulty(number: int) -> None:
            nonlocal dropped
            block = dict(collector.state.pending())[number]
            if block.table == "predictions" and not dropped:
                dropped = block.rows
                collector.state.abandon(number)
            else:
                acknowledge(number)

        collector.state.acknowledge = faulty  # type: ignore[method-assign]
        requests = Requests(SPANS, seed=5)
        for _ in range(5):
            await collector.journal.accept(Signal.TRACES, requests.next())
        counts = await _settled(collector)
    assert dropped
    assert counts["predictions"]["lost"] == dropped
    assert counts["traces"]["lost"] == 0


async def test_spans_that_the_disk_does_not_give_back_are_seen_as_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Undecided spans lie in the journal's files. One that is cut short costs the spans in it that were to be kept, said and counted."""
    overrides = ("sample.keep=[always]", "sample.budget.traces_per_second=null", "sample.decision_wait=1h", "journal.segment=1h")
    async with running(tmp_path, *overrides) as collector:
        requests = Requests(SPANS, seed=6)
        for _ in range(5):
            await collector.journal.accept(Signal.TRACES, requests.next())
        (path,) = load(overrides=[f"data={tmp_path}"], environ={}).journal_dir.glob("*.log")
        os.truncate(path, path.stat().st_size - 10)
        await collector.journal.drain()
        counts = await _settled(collector)
    assert (counts["traces"]["kept"], counts["traces"]["lost"]) == (4 * SPANS, SPANS)
    assert (counts["predictions"]["received"], counts["predictions"]["lost"]) == (5 * 33, 0)
    assert "the request at position 5 cannot be read back" in caplog.text
