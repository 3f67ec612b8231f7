"""Numbered migrations."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from leadline.clock import SystemClock
from leadline.errors import PermanentError
from leadline.store import migrate
from leadline.store.migrate import Migration
from leadline.testing.engine import EngineProcess
from leadline.testing.processes import until


def test_numbers_and_statements() -> None:
    """Numbered from 1 without gaps; each statement can be repeated."""
    found = migrate.migrations()
    assert [migration.number for migration in found] == list(range(1, len(found) + 1))
    for migration in found:
        for statement in migration.statements:
            bare = " ".join(line for line in statement.splitlines() if not line.lstrip().startswith("--"))
            assert "IF NOT EXISTS" in bare or "OR REPLACE" in bare or "IF EXISTS" in bare or "MODIFY" in bare, statement[:200]
    assert sum(len(migration.statements) for migration in found) == len(migrate.statements())
    assert all(f"-- {migration.name}.sql" in migrate.show() for migration in found)


def test_a_comment_is_not_a_change() -> None:
    """The digest is of what is executed."""
    first = Migration(1, "0001_x", "-- a\nCREATE TABLE t (a Int8); -- b")
    assert first.sha256 == Migration(1, "0001_x", "CREATE  TABLE t\n(a Int8)").sha256
    assert first.sha256 != Migration(1, "0001_x", "CREATE TABLE t (a Int16)").sha256


def test_every_table_knows_repeated_blocks() -> None:
    """A deduplication window on each table that rows go into, targets of views included."""
    for statement in migrate.statements():
        bare = "\n".join(line for line in statement.splitlines() if not line.lstrip().startswith("--")).strip()
        if bare.startswith("CREATE TABLE"):
            assert "non_replicated_deduplication_window" in bare, bare[:100]


async def test_apply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at once, twice over, half-way, and with another text."""
    with EngineProcess(tmp_path) as engine:
        first, second = engine.store(), engine.store()
        names = [migration.name for migration in migrate.migrations()]
        done = await asyncio.gather(migrate.apply(first), migrate.apply(second))
        assert sorted({name for names_done in done for name in names_done}) == names
        rows = await first.query("SELECT number, count() AS n FROM leadline_migrations GROUP BY number ORDER BY number")
        assert [(row["number"], row["n"]) for row in rows] == [(number, 1) for number in range(1, len(names) + 1)]
        assert await migrate.apply(first) == []

        shipped = migrate.migrations()
        changed = [Migration(1, shipped[0].name, "CREATE TABLE IF NOT EXISTS other (a Int8) ENGINE = Memory"), *shipped[1:]]
        monkeypatch.setattr(migrate, "migrations", lambda: changed)
        with pytest.raises(PermanentError, match="0001_tables was applied to ClickHouse with another text"):
            await migrate.apply(first)

        broken = [*shipped, Migration(900, "0900_broken", "CREATE TABLE IF NOT EXISTS fine (a Int8) ENGINE = Memory; CREATE TABLE wrong;")]
        monkeypatch.setattr(migrate, "migrations", lambda: broken)
        with pytest.raises(PermanentError, match="0900_broken, statement 2: "):
            await migrate.apply(first)
        assert await first.query("SELECT count() AS n FROM leadline_migrations WHERE number = 900") == [{"n": 0}]
        mended = [*shipped, Migration(900, "0900_broken", "CREATE TABLE IF NOT EXISTS fine (a Int8) ENGINE = Memory")]
        monkeypatch.setattr(migrate, "migrations", lambda: mended)
        assert await migrate.apply(first) == ["0900_broken"]
        first.close()
        second.close()


async def test_apply_when_up(tmp_path: Path) -> None:
    """A collector that starts first brings the schema when the engine comes, and stops waiting when it is told to."""
    engine, stop = EngineProcess(tmp_path), asyncio.Event()
    store = engine.store()
    waiting = asyncio.create_task(migrate.apply_when_up(store, SystemClock(), stop))
    given_up = asyncio.create_task(migrate.apply_when_up(store, SystemClock(), stop))
    given_up_stop = asyncio.Event()
    other = asyncio.create_task(migrate.apply_when_up(store, SystemClock(), given_up_stop))
    given_up_stop.set()
    await other
    await migrate.apply_when_up(store, SystemClock(), asyncio.Event(), until_ns=time.time_ns() + 300_000_000)
    with engine:
        await asyncio.wait_for(asyncio.gather(waiting, given_up), 60)
        await until(engine.answers, "it answers")
        assert await store.query("SELECT count() AS n FROM predictions") == [{"n": 0}]
    store.close()
