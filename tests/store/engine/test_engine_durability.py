"""What was acknowledged is there, once, after a stop and after `kill -9`."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from leadline.errors import StoreError
from leadline.model.blocks import Block
from leadline.store import migrate
from leadline.store.client import Clickhouse
from leadline.testing.engine import EngineProcess
from leadline.testing.processes import until

ROWS = 500
NOW = time.time()  # older rows than the table keeps would be gone at the first merge


def block(number: int) -> Block:
    line = b'{"prediction_id":"%d-%d","event_time":%.3f,"model":"m","collector":"c","segment":%d}\n'
    data = b"".join(line % (number, n, NOW, number) for n in range(ROWS))
    columns = ("prediction_id", "event_time", "model", "collector", "segment")
    return Block("predictions", columns, "JSONEachRow", data, f"c/{number}/predictions/0", ROWS)


async def counts(store: Clickhouse) -> tuple[int, int]:
    row = (await store.query("SELECT count() AS n, uniqExact(prediction_id) AS ids FROM predictions"))[0]
    return row["n"], row["ids"]


async def insert_until_it_goes_in(store: Clickhouse, number: int) -> None:
    while True:
        try:
            return await store.insert(block(number))
        except StoreError:
            await asyncio.sleep(0.05)


async def test_kill_9_loses_no_acknowledged_block_and_doubles_none(tmp_path: Path) -> None:
    """Blocks go in while the engine is killed again and again; each is sent until it is acknowledged, and once more afterwards."""
    engine = EngineProcess(tmp_path)
    engine.start()
    store = engine.store()
    try:
        await migrate.apply(store)
        acknowledged: list[int] = []

        async def send(first: int) -> None:
            for number in range(first, 60, 2):
                await insert_until_it_goes_in(store, number)
                acknowledged.append(number)

        def sent(mark: int) -> Callable[[], bool]:
            return lambda: len(acknowledged) >= mark

        senders = [asyncio.create_task(send(first)) for first in (0, 1)]
        for mark in (10, 25, 40):
            await until(sent(mark), f"{mark} blocks")
            engine.kill()
            await asyncio.to_thread(engine.start)
        await asyncio.gather(*senders)
        assert await counts(store) == (60 * ROWS, 60 * ROWS)
        engine.kill()
        engine.start()
        assert await counts(store) == (60 * ROWS, 60 * ROWS)
        for number in range(60):
            await insert_until_it_goes_in(store, number)
        assert await counts(store) == (60 * ROWS, 60 * ROWS)
        tables = await store.query("SELECT engine FROM system.databases WHERE name = 'leadline'")
        assert tables == [{"engine": "Atomic"}]
        # What is not in tables is kept too: the functions that migrations make.
        functions = await store.query("SELECT count() AS n FROM system.functions WHERE startsWith(name, 'leadline_')")
        assert functions[0]["n"] > 0
    finally:
        store.close()
        engine.kill()


async def test_a_token_without_its_part_is_forgotten(tmp_path: Path) -> None:
    """Killed after a block's token was written and before its part was there, as ClickHouse orders the two: the retry goes in."""
    with EngineProcess(tmp_path) as engine:
        store = engine.store()
        await migrate.apply(store)
        for number in range(3):
            await store.insert(block(number))
        (row,) = await store.query(
            "SELECT path FROM system.parts WHERE table = 'predictions' AND active ORDER BY max_block_number DESC LIMIT 1"
        )
        engine.kill()
        shutil.rmtree(row["path"])
        engine.start()
        for _ in range(2):
            for number in range(3):
                await insert_until_it_goes_in(store, number)
        assert await counts(store) == (3 * ROWS, 3 * ROWS)
        await store.command("OPTIMIZE TABLE predictions FINAL")
        engine.kill()
        engine.start()
        for number in range(3):  # parts that were merged are there
            await insert_until_it_goes_in(store, number)
        assert await counts(store) == (3 * ROWS, 3 * ROWS)
        store.close()


async def test_a_repeated_block_does_not_reach_the_roll_ups_twice(tmp_path: Path) -> None:
    """The targets of materialized views know the token too."""
    with EngineProcess(tmp_path) as engine:
        store = engine.store()
        await migrate.apply(store)
        columns = ("window_start", "window_s", "model", "series", "observed", "collector", "segment")
        data = b'{"window_start":1800000000,"window_s":60,"model":"m","series":"","observed":5,"collector":"c","segment":1}\n'
        for _ in range(3):
            await store.insert(Block("sketches", columns, "JSONEachRow", data, "c/1/sketches/0", 1))
        engine.stop()
        engine.start()
        await insert_again(store, Block("sketches", columns, "JSONEachRow", data, "c/1/sketches/0", 1))
        for table in ("sketches", "sketches_1h", "sketches_1d"):
            assert (await store.query(f"SELECT sum(observed) AS n FROM {table}"))[0]["n"] == 5, table
        store.close()


async def insert_again(store: Clickhouse, repeated: Block) -> None:
    """The first call after a restart may meet the old connection."""
    try:
        await store.insert(repeated)
    except StoreError:
        await store.insert(repeated)


async def test_a_large_block_is_one_part(tmp_path: Path) -> None:
    """200,000 rows in one body, in many chunks of the wire: whole or not at all."""
    with EngineProcess(tmp_path) as engine:
        store = engine.store()
        await store.command(
            "CREATE TABLE t (a UInt64, b String) ENGINE = MergeTree ORDER BY a SETTINGS non_replicated_deduplication_window = 10"
        )
        data = b"".join(n.to_bytes(8, "little") + b"\x28" + b"x" * 40 for n in range(200_000))
        for _ in range(2):
            await store.insert(Block("t", ("a", "b"), "RowBinary", data, "t/1", 200_000))
        assert await store.query("SELECT count() AS n, uniqExact(_part) AS parts FROM t") == [{"n": 200_000, "parts": 1}]
        store.close()


async def test_sigterm_ends_what_is_in_flight_first(tmp_path: Path) -> None:
    """A query that runs is answered, a new connection is not taken, and the exit status is 0."""
    engine = EngineProcess(tmp_path, ("shutdown=20s",))
    engine.start()
    async with httpx.AsyncClient(timeout=60) as client:
        running = asyncio.create_task(client.post(engine.url, content="SELECT sleep(2), 'whole'"))
        watch = "SELECT count() FROM system.processes WHERE query LIKE '%whole%' AND query NOT LIKE '%processes%'"
        await until(lambda: httpx.post(engine.url, content=watch).text == "1\n", "it runs")
        stopped = asyncio.create_task(asyncio.to_thread(engine.stop, signal.SIGTERM))
        assert (await running).text == "0\twhole\n"
        assert await stopped == 0
    assert not engine.answers()


async def test_sigterm_does_not_wait_past_the_budget(tmp_path: Path) -> None:
    """A query without end is killed when the time is up."""
    engine = EngineProcess(tmp_path, ("shutdown=4s",))
    engine.start()
    async with httpx.AsyncClient(timeout=60) as client:
        running = asyncio.create_task(client.post(engine.url, content="SELECT sum(sipHash64(number)) FROM numbers(1000000000000)"))
        watch = "SELECT count() FROM system.processes WHERE query LIKE '%sipHash64%' AND query NOT LIKE '%processes%'"
        await until(lambda: httpx.post(engine.url, content=watch).text == "1\n", "it runs")
        assert await asyncio.to_thread(engine.stop, signal.SIGTERM, 30) == 0
        outcome = (await asyncio.gather(running, return_exceptions=True))[0]
        assert isinstance(outcome, httpx.HTTPError) or (isinstance(outcome, httpx.Response) and outcome.status_code == 500)


def test_one_engine_a_directory(tmp_path: Path) -> None:
    """A second one says who has it, and leaves it alone; so does one whose address is taken."""
    with EngineProcess(tmp_path) as engine:
        assert engine.process is not None
        command = [sys.executable, "-m", "leadline.store.engine", "--data", str(tmp_path)]
        second = subprocess.run([*command, "--http", "127.0.0.1:1"], check=False, capture_output=True, text=True, timeout=60)
        assert second.returncode == 2
        other = tmp_path / "other"
        taken = subprocess.run(
            [*command[:-1], str(other), "--http", engine.address], check=False, capture_output=True, text=True, timeout=60
        )
        assert (taken.returncode, "cannot listen on" in taken.stderr) == (2, True)
        free = EngineProcess(tmp_path)
        same = subprocess.run([*command, "--http", free.address], check=False, capture_output=True, text=True, timeout=60)
        assert same.returncode == 2
        assert f"in use by process {engine.process.pid}" in same.stderr
        assert engine.answers()


def test_times_are_utc_wherever_the_machine_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a row says does not depend on where the engine runs."""
    monkeypatch.setenv("TZ", "America/New_York")
    with EngineProcess(tmp_path) as engine:
        reply = httpx.post(engine.url, content="SELECT timezone(), toDateTime(0), toUnixTimestamp('2026-07-01 00:00:00')")
        assert reply.text == "UTC\t1970-01-01 00:00:00\t1782864000\n"
        assert reply.headers["x-clickhouse-timezone"] == "UTC"
