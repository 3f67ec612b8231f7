"""One engine for the tests that only ask; those that stop or kill one start their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from leadline.store import migrate
from leadline.store.client import Clickhouse
from leadline.testing.engine import EngineProcess

Ask = Callable[..., httpx.Response]


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """An engine with the shipped schema, small limits, and two readers."""
    overrides = ("engine.readers=2", "engine.max_query_memory=200MiB", "engine.max_memory=1GiB")
    with EngineProcess(tmp_path_factory.mktemp("engine"), overrides) as process:
        store = process.store()
        asyncio.run(migrate.apply(store))
        store.close()
        yield process
    assert "Traceback" not in process.log.read_text()


@pytest.fixture
def store(engine: EngineProcess) -> Iterator[Clickhouse]:
    """The client, with the writer's rights."""
    made = engine.store()
    yield made
    made.close()


@pytest.fixture
def ask(engine: EngineProcess) -> Iterator[Ask]:
    """POSTs a statement as a reader: `ask(sql, writer=False, headers={…}, **url_parameters)`."""
    with httpx.Client(timeout=60) as client:

        def post(sql: str | bytes, *, writer: bool = False, headers: dict[str, str] | None = None, **parameters: Any) -> httpx.Response:
            who = {"X-ClickHouse-User": "leadline_writer", "X-ClickHouse-Key": engine.token} if writer else {}
            return client.post(engine.url, content=sql, params=parameters, headers={**who, **(headers or {})})

        yield post
