"""The one client of ClickHouse."""

from __future__ import annotations

import datetime
import subprocess
import sys
from pathlib import Path

import clickhouse_connect
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, ProgrammingError

from leadline.errors import ConfigError, PermanentError, StoreError
from leadline.model.blocks import Block
from leadline.settings import load
from leadline.store.client import Clickhouse, Discard, Place, open_store, place_of
from leadline.testing.engine import EngineProcess
from leadline.testing.processes import free_port


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://localhost", Place("localhost", 8123)),
        ("https://u:p%40ss@ch.example/leadline", Place("ch.example", 8443, True, "u", "p@ss", "leadline")),
        ("http://[::1]:9000/db", Place("::1", 9000, database="db")),
    ],
)
def test_places(url: str, place: Place) -> None:
    """`store.clickhouse` as users write it."""
    assert place_of(url) == place
    assert "p@ss" not in place.shown


@pytest.mark.parametrize(
    "url", ["localhost:8123", "tcp://x", "http://", "http://x/a/b", "http://x?y=1", "http://x:nine", "http://u:secret@x?y"]
)
def test_places_that_are_none(url: str) -> None:
    """The fault says what was expected, and keeps the password to itself."""
    with pytest.raises(ConfigError, match="expected embedded, none, or http") as caught:
        place_of(url)
    assert "secret" not in str(caught.value)


async def test_values_come_back_as_they_are(store: Clickhouse) -> None:
    """Parameters go in typed; infinities, NULL, maps, times come back typed."""
    sql = """SELECT {a:Array(String)} AS a, {b:Int64} AS b, {c:Nullable(Float64)} AS c, inf AS i, map('k', 1.5) AS m,
             toDateTime64('2026-11-01 00:00:00.25', 3) AS t, toUInt64(-1) AS u, true AS yes"""
    rows = await store.query(sql, {"a": ["it's\t\\", "ü"], "b": -(2**62), "c": None})
    assert rows == [
        {
            "a": ["it's\t\\", "ü"],
            "b": -(2**62),
            "c": None,
            "i": float("inf"),
            "m": {"k": 1.5},
            "t": datetime.datetime(2026, 11, 1, 0, 0, 0, 250_000),
            "u": 2**64 - 1,
            "yes": True,
        }
    ]
    assert await store.query("SELECT 1 AS a WHERE 0") == []


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("SELEC 1", PermanentError),
        ("SELECT nope FROM predictions", PermanentError),
        ("SELECT * FROM nope", PermanentError),
        ("SELECT toDate('x')", PermanentError),
        ("SELECT uniqExact(number, number + 1) FROM numbers(300000000)", StoreError),
        ("SELECT sum(sipHash64(number)) FROM numbers(1000000000000) SETTINGS max_execution_time = 1", StoreError),
    ],
)
async def test_errors_are_split_by_what_to_do(store: Clickhouse, sql: str, kind: type[Exception]) -> None:
    """The statement's fault: never again. The moment's fault (memory, time): again later."""
    with pytest.raises(kind, match=r"clickhouse http://127\.0\.0\.1:\d+/: query: Code: \d+\. DB::Exception"):
        await store.query(sql)


def block(table: str, column: str, data: bytes, token: str) -> Block:
    return Block(table, (column,), "JSONEachRow", data, token, 1)


async def test_a_token_makes_a_repeat_harmless(store: Clickhouse) -> None:
    """The same token: nothing; another token with the same rows: rows."""
    for token in ("repeat/1", "repeat/1", "repeat/2"):
        await store.insert(block("labels", "prediction_id", b'{"prediction_id":"repeat"}\n', token))
    assert await store.query("SELECT count() AS n FROM labels WHERE prediction_id = 'repeat'") == [{"n": 2}]


async def test_errors_of_inserts(store: Clickhouse) -> None:
    """Rows that do not fit are permanent; a table that is not there yet is not: its migration is on its way."""
    with pytest.raises(PermanentError, match="Code: 16"):
        await store.insert(block("labels", "nope", b'{"nope":1}\n', "errors/1"))
    with pytest.raises(PermanentError, match="Code: "):
        await store.insert(block("labels", "prediction_id", b"{nonsense", "errors/2"))
    with pytest.raises(StoreError, match="Code: 60"):
        await store.insert(block("nope", "a", b'{"a":1}\n', "errors/3"))


async def test_nothing_is_connected_until_it_is_used(tmp_path: Path) -> None:
    """A collector starts while ClickHouse is away, is told so at each try, and goes on when it comes."""
    engine = EngineProcess(tmp_path)
    store = engine.store()
    with pytest.raises(StoreError, match="token cannot be read"):
        await store.query("SELECT 1")
    assert not await store.ping()
    with engine:
        assert await store.query("SELECT 1 AS a") == [{"a": 1}]
        engine.kill()
        with pytest.raises(StoreError):
            await store.query("SELECT 1")
        engine.start()
        assert await store.ping() or await store.ping()
        assert await store.query("SELECT 1 AS a") == [{"a": 1}]
    store.close()


async def test_another_engines_token_is_said(engine: EngineProcess, tmp_path: Path) -> None:
    """The usual mistake: two data directories, one port."""
    token = tmp_path / "token"
    token.write_text("not-this-engines-token")
    host, _, port = engine.address.partition(":")
    store = Clickhouse(Place(host, int(port), user="leadline_writer", token_file=token))
    with pytest.raises(StoreError, match="another --data directory's engine"):
        await store.query("SELECT 1")
    store.close()


async def test_nobody_there() -> None:
    """A refused connection is for later, whatever the call."""
    store = Clickhouse(Place("127.0.0.1", free_port()), timeout_s=5)
    for call in (store.query("SELECT 1"), store.command("DROP TABLE t"), store.insert(block("t", "a", b"{}", "x"))):
        with pytest.raises(StoreError, match=r"clickhouse http://127\.0\.0\.1"):
            await call
    store.close()


async def test_none_counts_and_throws_away() -> None:
    """`store.clickhouse: none`."""
    store = open_store(load(overrides=["store.clickhouse=none"], environ={}))
    assert isinstance(store, Discard)
    for _ in range(2):
        await store.insert(Block("t", ("a",), "JSONEachRow", b"{}", "x", 3))
    assert (store.rows["t"], store.bytes["t"]) == (6, 4)
    with pytest.raises(PermanentError, match=r"store\.clickhouse is none"):
        await store.query("SELECT 1")


def test_the_client_is_light() -> None:
    """Importing it loads neither clickhouse-connect nor chdb, pandas or pyarrow; using it does not load the last three."""
    code = """
import sys, asyncio
from leadline.store.client import Clickhouse, Place
heavy = {'clickhouse_connect', 'chdb', 'pandas', 'pyarrow'}
print(sorted(heavy & sys.modules.keys()))
store = Clickhouse(Place('127.0.0.1', 1))
print(asyncio.run(store.ping()), sorted(heavy & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["[]", "False ['clickhouse_connect']"]


def test_clickhouse_connect_by_itself(engine: EngineProcess) -> None:
    """The usual Python client, as its users use it: with sessions, compression, streams and parameters."""
    host, _, port = engine.address.partition(":")
    with clickhouse_connect.get_client(host=host, port=int(port)) as reader:
        assert str(reader.server_version).startswith("26.")
        assert reader.query("SELECT {x:UInt8} + 1 AS y", parameters={"x": 41}).result_rows == [(42,)]
        with pytest.raises(ProgrammingError, match="readonly"):  # it looks into system.settings first
            reader.query("SELECT 1", settings={"max_execution_time": 2})
        before = clickhouse_connect.common.get_setting("invalid_setting_action")
        clickhouse_connect.common.set_setting("invalid_setting_action", "send")
        try:
            asked = "SELECT getSetting('max_execution_time')"
            assert reader.query(asked, settings={"max_execution_time": 2, "max_block_size": 10}).result_rows == [(2,)]
        finally:
            clickhouse_connect.common.set_setting("invalid_setting_action", before)
        assert reader.command("SELECT 5") == 5
        assert reader.command("SELECT currentDatabase()") == "leadline"
        with reader.query_row_block_stream("SELECT number FROM numbers(1000000)") as stream:
            assert sum(len(rows) for rows in stream) == 1_000_000
        with pytest.raises(DatabaseError, match="READONLY"):
            reader.insert("predictions", [["x"]], column_names=["model"])
        with pytest.raises(DatabaseError, match="READONLY"):
            reader.command("CREATE TABLE z (a Int8) ENGINE = Memory")
        with (
            pytest.raises(DatabaseError, match="FUNCTION_THROW_IF"),
            reader.query_row_block_stream("SELECT throwIf(number = 3000000) FROM numbers(5000000)") as stream,
        ):
            for _ in stream:
                pass
    with clickhouse_connect.get_client(host=host, port=int(port), username="leadline_writer", password=engine.token) as writer:
        writer.command("CREATE OR REPLACE TABLE by_client (a UInt64, b Nullable(String), c DateTime64(9)) ENGINE = MergeTree ORDER BY a")
        moment = datetime.datetime(2026, 11, 1, 12, 0, 0, 123456)
        writer.insert("by_client", [[1, "é", moment], [2, None, moment]], column_names=["a", "b", "c"])
        assert writer.query("SELECT * FROM by_client ORDER BY a").result_rows == [(1, "é", moment), (2, None, moment)]
