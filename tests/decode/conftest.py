"""A ClickHouse with the shipped schema, for tests that look at what rows become."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chdb
import pytest

import leadline

SCHEMA = Path(leadline.__file__).parent / "store" / "schema"


class Tables:
    """Takes what `rows()` gives and answers questions."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def insert(self, rows: list[tuple[str, tuple[str, ...], str, bytes, int]]) -> None:
        for table, columns, form, data, n in rows:
            inserter = self._connection.send_insert(f"INSERT INTO {table} ({', '.join(columns)}) SETTINGS insert_deduplicate = 0", form)
            inserter.append(data)
            assert inserter.finish().rows_written == n

    def ask(self, sql: str) -> list[dict[str, Any]]:
        settings = "output_format_json_quote_64bit_integers = 0, output_format_json_quote_denormals = 1"
        return [json.loads(line) for line in str(self._connection.query(f"{sql} SETTINGS {settings}", "JSONEachRow")).split("\n") if line]


@pytest.fixture
def clickhouse() -> Iterator[Tables]:
    connection = chdb.connect(":memory:")
    try:
        for name in ("0001_tables.sql", "0004_logs_metrics.sql"):
            text = "\n".join(line for line in (SCHEMA / name).read_text().splitlines() if not line.lstrip().startswith("--"))
            for statement in text.split(";\n"):
                if statement.strip():
                    connection.query(statement)
        yield Tables(connection)
    finally:
        connection.close()
