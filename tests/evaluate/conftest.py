"""A store for tests of the evaluator: ClickHouse in this process, behind the same port as the one over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from leadline.errors import PermanentError, StoreError
from leadline.model.blocks import Block

SCHEMA = Path(__file__).parents[2] / "src" / "leadline" / "store" / "schema" / "0001_tables.sql"


class ChdbStore:
    """`Store` over chdb in this process. `down` makes it unreachable."""

    def __init__(self) -> None:
        import chdb

        self.connection = chdb.connect(":memory:")
        self.down = False
        self.run("DROP DATABASE IF EXISTS evaluator SYNC")
        self.run("CREATE DATABASE evaluator")
        self.run("USE evaluator")
        text = "\n".join(line.split("--")[0] for line in SCHEMA.read_text().splitlines())
        for statement in filter(str.strip, text.split(";")):
            self.run(statement)

    def run(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        if parameters:
            given = {name: json.dumps(value).replace('"', "'") if isinstance(value, list) else value for name, value in parameters.items()}
        else:
            given = {}
        try:
            text = str(self.connection.query(sql, "JSONEachRow", params=given) if given else self.connection.query(sql, "JSONEachRow"))
        except RuntimeError as error:
            raise PermanentError(f"{error}\n{sql}") from error
        return [json.loads(line) for line in text.splitlines()]

    async def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        if self.down:
            raise StoreError("ClickHouse does not answer")
        await asyncio.sleep(0)
        return self.run(sql, parameters)

    async def insert(self, block: Block) -> None:
        if self.down:
            raise StoreError("ClickHouse does not answer")
        await asyncio.sleep(0)
        columns = ", ".join(block.columns)
        assert block.format == "JSONEachRow"
        self.run(
            f"INSERT INTO {block.table} ({columns}) SETTINGS insert_deduplication_token = '{block.token}' "
            f"FORMAT JSONEachRow\n{block.data.decode()}"
        )

    def rows(self, table: str, rows: list[dict[str, Any]]) -> None:
        """Puts rows into a table, as a collector would have."""
        self.run(f"INSERT INTO {table} FORMAT JSONEachRow\n" + "\n".join(map(json.dumps, rows)))


@pytest.fixture
def store() -> Iterator[ChdbStore]:
    """ClickHouse with the shipped schema, empty."""
    made = ChdbStore()
    yield made
    made.connection.close()
