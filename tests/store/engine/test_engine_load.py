"""Heavy queries: they end at their limits, and nobody else waits for them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

import httpx
import pytest

from leadline.model.blocks import Block
from leadline.store.client import Clickhouse
from leadline.testing.engine import EngineProcess
from leadline.testing.processes import until

Ask = Callable[..., httpx.Response]

ENDLESS = "SELECT sum(sipHash64(number)) FROM numbers(1000000000000)"
RUNNING = "SELECT count() FROM system.processes WHERE query LIKE '%sipHash64%' AND query NOT LIKE '%processes%'"


def test_memory_limit(engine: EngineProcess, ask: Ask) -> None:
    """A query above its memory is ended; the engine lives, and so does the next query."""
    reply = ask("SELECT uniqExact(number, number + 1) FROM numbers(300000000)")
    assert reply.headers["x-clickhouse-exception-code"] == "241", reply.text
    assert ask("SELECT 1").text == "1\n"
    assert engine.process is not None
    assert engine.process.poll() is None


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("SELECT " + "(" * 50_000 + "1" + ")" * 50_000, "306"),
        ("SELECT " + "(" * 100_000, "306"),
        ("SELECT " + "NOT " * 40_000 + "1", "167"),
        ("SELECT * FROM " + "(SELECT * FROM " * 3000 + "numbers(1)" + ")" * 3000, "306"),
        ("SELECT CAST(1, '" + "Array(" * 20_000 + "Int8" + ")" * 20_000 + "')", "306"),
        ("SELECT '" + "x" * 300_000 + "'", "229"),
        ("SELECT length(range(1000000000))", "69"),
        ("SELECT groupArray(number) FROM numbers(10000000000)", "241"),
        ("SELECT * FROM generateRandom('a Array(Array(Array(String)))', 1, 100000, 100000) LIMIT 1", "241"),
        ("WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t) SELECT count() FROM t", "306"),
        ("SELECT finalizeAggregation(CAST(unhex('ffffffffffffffffff01') AS AggregateFunction(groupArray, UInt64)))", "128"),
        ("SELECT 1 FORMAT \0", "62"),
    ],
)
def test_monstrous_statements(engine: EngineProcess, ask: Ask, sql: str, code: str) -> None:
    """Deep, long, endless or broken: an error of readable length, and the engine lives."""
    reply = ask(sql)
    assert reply.headers["x-clickhouse-exception-code"] == code
    assert len(reply.text) < 9000
    assert "formatQuery" not in reply.text
    assert engine.answers()


def test_a_result_that_cannot_be_streamed_is_bounded(ask: Ask) -> None:
    """Pretty is made whole, so it has a limit; the same rows in a format that streams have none."""
    sql = "SELECT number, toString(number) AS s FROM numbers(5000000)"
    assert ask(f"{sql} FORMAT Pretty").headers["x-clickhouse-exception-code"] == "396"
    assert len(ask(f"{sql} FORMAT CSV").text.splitlines()) == 5_000_000


async def test_a_heavy_query_blocks_nobody(engine: EngineProcess, store: Clickhouse) -> None:
    """While every reader's place is taken by a query without end, blocks go in, the writer asks, and health is told."""
    async with httpx.AsyncClient(timeout=60) as client:
        heavy = [asyncio.create_task(client.post(engine.url, content=ENDLESS)) for _ in range(2)]
        await until(lambda: _count(store, 2), "both run", 30)
        for number in range(5):
            data = b"".join(b'{"prediction_id":"%d","event_time":%.3f,"model":"load"}\n' % (n, time.time()) for n in range(20_000))
            columns = ("prediction_id", "event_time", "model")
            await store.insert(Block("predictions", columns, "JSONEachRow", data, f"load/{number}", 20_000))
        assert (await store.query("SELECT count() AS n FROM predictions WHERE model = 'load'"))[0]["n"] == 100_000
        assert (await client.get(f"{engine.url}/ping")).text == "Ok.\n"
        assert not any(task.done() for task in heavy)
        for task in heavy:
            task.cancel()
        await asyncio.gather(*heavy, return_exceptions=True)
    await until(lambda: _count(store, 0), "they are gone", 30)


def test_time_limit(ask: Ask) -> None:
    """A reader may say less time than there is, and the query ends there."""
    assert ask(ENDLESS, max_execution_time=1).headers["x-clickhouse-exception-code"] == "159"


async def _count(store: Clickhouse, running: int) -> bool:
    return bool((await store.query(RUNNING))[0]["count()"] == running)


async def test_too_many_wait(engine: EngineProcess, store: Clickhouse) -> None:
    """Past a bound of waiting requests the next is told to come back, at once; those that wait are answered in the end."""
    async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=100)) as client:
        heavy = [asyncio.create_task(client.post(engine.url, content=ENDLESS)) for _ in range(2)]
        await until(lambda: _count(store, 2), "both run", 30)
        waiting = [asyncio.create_task(client.post(engine.url, content="SELECT 1")) for _ in range(40)]
        refused: list[httpx.Response] = []
        for done in asyncio.as_completed(waiting):
            refused.append(await done)
            if len(refused) == 8:  # two places, sixteen may wait for each
                break
        assert {(reply.status_code, reply.headers["x-clickhouse-exception-code"]) for reply in refused} == {(503, "202")}
        for task in heavy:
            task.cancel()
        replies = await asyncio.gather(*waiting)
        assert sorted(reply.status_code for reply in replies) == [200] * 32 + [503] * 8
    await until(lambda: _count(store, 0), "they are gone", 30)


async def test_the_query_of_a_client_that_goes_away_is_killed(engine: EngineProcess, store: Clickhouse) -> None:
    """Before its first row, and in the middle of its rows."""
    timeout = httpx.Timeout(10, read=0.7)
    async with httpx.AsyncClient(timeout=timeout) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post(engine.url, content=ENDLESS)
        await until(lambda: _count(store, 0), "it is gone", 30)
        async with client.stream("POST", engine.url, content="SELECT sipHash64(number) FROM numbers(1000000000000)") as reply:
            pieces = reply.aiter_raw()  # held: a generator that nobody holds closes the connection
            await anext(pieces)
            await until(lambda: _count(store, 1), "it runs", 30)
        await until(lambda: _count(store, 0), "it is gone", 30)


async def test_a_slow_reader_holds_a_place_only_so_long(engine: EngineProcess, store: Clickhouse) -> None:
    """A client that stops reading is cut off at the time limit of its query, with the reason in the body."""
    host, _, port = engine.address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=2**16)
    sql = b"SELECT sipHash64(number) FROM numbers(1000000000000)"
    writer.write(b"POST /?max_execution_time=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(sql), sql))
    await writer.drain()
    await reader.readuntil(b"\r\n\r\n")
    await until(lambda: _count(store, 1), "it runs", 30)
    await until(lambda: _count(store, 0), "it is gone", 60)
    writer.close()


def test_a_large_json_result_streams(engine: EngineProcess) -> None:
    """The engine's own memory stays far below the size of what it sends."""
    size = 0
    with httpx.stream(
        "POST", engine.url, content="SELECT number AS a, number * 2 AS b FROM numbers(6000000) FORMAT JSON", timeout=60
    ) as reply:
        for piece in reply.iter_bytes():
            size += len(piece)
            tail = piece
    assert size > 200 * 2**20
    assert json.loads(b"{" + tail[tail.rindex(b'"rows":') :])["rows"] == 6_000_000
    assert engine.process is not None
    with open(f"/proc/{engine.process.pid}/status") as status:
        peak = next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmRSS"))
    assert peak < 1000
