"""The schema in numbered migrations: `schema/NNNN_name.sql`, applied once each, in order.

Table `leadline_migrations` remembers what was applied, with a digest of its text. Every statement is written to be repeated
(IF NOT EXISTS, OR REPLACE), so two collectors that start at once, or one that died half-way, do no harm: the migration is recorded after
its last statement.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from dataclasses import dataclass
from importlib import resources

from leadline.clock import Clock
from leadline.errors import PermanentError, StoreError
from leadline.model.blocks import Block
from leadline.model.ports import Store
from leadline.store import sql

_log = logging.getLogger("leadline.store")

_TABLE = """CREATE TABLE IF NOT EXISTS leadline_migrations
(
    number      UInt32,
    name        String,
    sha256      String,
    applied_at  DateTime64(3)
)
ENGINE = MergeTree
ORDER BY number
SETTINGS non_replicated_deduplication_window = 1000"""
_APPLIED = """SELECT number, argMin(m.name, m.applied_at) AS name, argMin(m.sha256, m.applied_at) AS sha256
FROM leadline_migrations AS m GROUP BY number"""
_COLUMNS = ("number", "name", "sha256", "applied_at")


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of the schema."""

    number: int
    name: str
    text: str

    @property
    def sha256(self) -> str:
        """Of its statements, so that a comment may be mended."""
        bare = "\n;\n".join(" ".join(token.text for token in sql.tokens(statement)) for statement in self.statements)
        return hashlib.sha256(bare.encode()).hexdigest()

    @property
    def statements(self) -> list[str]:
        return sql.statements(self.text)


def migrations() -> list[Migration]:
    """All of them, in order."""
    files = resources.files("leadline.store").joinpath("schema").iterdir()
    texts = {file.name.removesuffix(".sql"): file.read_text() for file in files if file.name.endswith(".sql")}
    return [Migration(int(name[:4]), name, texts[name]) for name in sorted(texts)]


def statements() -> list[str]:
    """Every statement of every migration, in order."""
    return [statement for migration in migrations() for statement in migration.statements]


def show() -> str:
    """The migrations as text, as they would be applied."""
    return "\n\n".join(f"-- {migration.name}.sql\n{migration.text.strip()}" for migration in migrations()) + "\n"


async def apply(store: Store) -> list[str]:
    """Brings ClickHouse to this version's schema; returns the names of what was applied now.

    Raises
    ------
    PermanentError
        If a migration that is applied there has another text here, or a statement is refused.
    StoreError
        If ClickHouse does not answer.
    """
    await store.command(_TABLE)
    rows = await store.query(_APPLIED)
    applied = {int(row["number"]): (str(row["name"]), str(row["sha256"])) for row in rows}
    ours = migrations()
    if newer := sorted(applied.keys() - {migration.number for migration in ours}):
        name = applied[newer[-1]][0]
        _log.warning("store: ClickHouse has migration %s, which this version does not know; a newer Leadline has been here", name)
    done = []
    for migration in ours:
        if migration.number in applied:
            name, digest = applied[migration.number]
            if digest != migration.sha256:
                raise PermanentError(
                    f"schema: migration {migration.name} was applied to ClickHouse with another text "
                    f"(there {name} {digest[:12]}, here {migration.sha256[:12]}). "
                    "An applied migration never changes: put the change into a new one, or use the Leadline that applied it"
                )
            continue
        for place, statement in enumerate(migration.statements, 1):
            try:
                await store.command(statement)
            except PermanentError as error:
                raise PermanentError(f"schema: {migration.name}, statement {place}: {error}") from error
        await store.insert(_record(migration))
        done.append(migration.name)
    return done


def _record(migration: Migration) -> Block:
    row = {"number": migration.number, "name": migration.name, "sha256": migration.sha256, "applied_at": round(time.time(), 3)}
    token = f"leadline/{migration.number}/leadline_migrations/{migration.sha256[:16]}"
    return Block("leadline_migrations", _COLUMNS, "JSONEachRow", json.dumps(row).encode() + b"\n", token, 1)


async def apply_when_up(store: Store, clock: Clock, stop: asyncio.Event, *, until_ns: int | None = None) -> None:
    """Applies the schema as soon as ClickHouse answers; ends then, at `stop`, or at `until_ns`.

    A refusal is said loudly and tried again: what was received waits on disk meanwhile.
    """
    pause = 0.25
    while not stop.is_set():
        try:
            for name in await apply(store):
                _log.info("store: applied migration %s", name)
            return
        except StoreError:
            pause = min(5.0, pause * 1.5)
        except PermanentError as error:
            pause = 60.0
            _log.error("store: %s", error)
        left = pause if until_ns is None else (until_ns - clock.now_ns()) / 1e9
        if left <= 0:
            return
        await _sleep(clock, min(pause, left), stop)


async def _sleep(clock: Clock, seconds: float, stop: asyncio.Event) -> None:
    """Waits, but not longer than until `stop`."""
    sleeping, stopping = asyncio.ensure_future(clock.sleep(seconds)), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({sleeping, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        sleeping.cancel()
        stopping.cancel()
