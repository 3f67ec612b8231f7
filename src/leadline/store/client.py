"""ClickHouse as everything of ours reaches it: over HTTP, embedded or not. Implements `Store`.

`open_store(settings)` gives the client for `store.clickhouse`. Nothing is connected until it is used, so a collector starts while
ClickHouse is down; clickhouse-connect (about 25 MB, 0.1 s) is imported at the first use.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from leadline.errors import ConfigError, PermanentError, RetryableError, StoreError
from leadline.model.blocks import Block
from leadline.settings import Settings

T = TypeVar("T")

WRITER = "leadline_writer"
_CALLS_AT_ONCE = 8
_LONGEST_TEXT = 1000
"""ClickHouse's syntax errors list everything it would have liked, in 3,000 characters."""

# ClickHouse's codes that are about the statement or the data, so that the same again fails again. All others (busy, full, too many parts,
# memory, timeouts, and codes not known here) are tried again: better late than lost.
_PERMANENT = frozenset(
    (
        *(6, 25, 26, 27, 33, 38, 41, 72, 117, 130, 131, 376, 407, 441, 467, 563, 632, 675, 676),  # data that does not parse
        *(7, 8, 9, 10, 12, 13, 15, 16, 19, 20, 44, 47, 51, 52, 122, 190, 352, 366),  # columns
        *(34, 35, 36, 42, 43, 46, 50, 53, 63, 69, 70, 128, 153, 170, 321, 349, 377, 378, 386, 691),  # functions, types, values
        *(1, 2, 37, 48, 62, 80, 121, 123, 124, 125, 133, 134, 135, 162, 167, 168, 174, 179, 181, 182, 183, 184, 206, 207, 211, 215, 223),  # SQL
        *(55, 56, 57, 58, 60, 73, 78, 81, 82, 119, 152, 219, 229, 258, 336, 403, 420, 427, 431, 432, 433, 440, 450, 455, 524, 549, 609, 630),
        *(115, 164, 192, 193, 195, 291, 344, 395, 396, 446, 452, 456, 457, 469, 471, 472, 477, 491, 497, 565, 620, 636, 645, 701),  # refused
    )
)  # fmt: skip
_NOT_THERE_YET = (60, 81)  # UNKNOWN_TABLE, UNKNOWN_DATABASE
_AUTHENTICATION_FAILED = 516
_INSERT = {
    "async_insert": "0",
    "insert_deduplicate": "1",
    "deduplicate_blocks_in_dependent_materialized_views": "1",
    # One block, one part: what is inserted is there whole or not at all.
    "max_insert_block_size": "1048576",
    "min_insert_block_size_rows": "1048576",
    "min_insert_block_size_bytes": str(2**31),
    # Spans may say any time; a block over many days is stored, not refused for good.
    "max_partitions_per_insert_block": "0",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where ClickHouse is. `token_file` is read at each connect, since the engine makes it at its first start."""

    host: str
    port: int
    secure: bool = False
    user: str = ""
    password: str = ""
    database: str = ""
    token_file: Path | None = None

    @property
    def shown(self) -> str:
        """For messages: without the password."""
        return f"{'https' if self.secure else 'http'}://{self.host}:{self.port}/{self.database}"


class Clickhouse:
    """The client.

    Parameters
    ----------
    place : Place
    timeout_s : float
        For one call; connecting has at most 5 s of it.
    """

    def __init__(self, place: Place, *, timeout_s: float = 60.0) -> None:
        self.place = place
        self._timeout_s = timeout_s
        self._client: Any = None
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(_CALLS_AT_ONCE, thread_name_prefix="clickhouse")

    @classmethod
    def of(cls, settings: Settings) -> Clickhouse:
        """The client for `store.clickhouse`: ``embedded``, or ``http(s)://user:password@host:port/database``."""
        said = settings.store.clickhouse
        if said == "embedded":
            host, _, port = settings.engine.http.rpartition(":")
            host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
            return cls(Place(host.strip("[]"), int(port), user=WRITER, token_file=settings.token_file))
        return cls(place_of(said))

    async def insert(self, block: Block) -> None:
        """Sends a block under its token; sent again, it changes nothing."""
        settings = {**_INSERT, "insert_deduplication_token": block.token}
        await self._call(
            lambda client: client.raw_insert(
                block.table, column_names=list(block.columns), insert_block=block.data, settings=settings, fmt=block.format
            ),
            f"insert {block.token}",
            passing=_NOT_THERE_YET,  # a migration is on its way
        )

    async def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Rows as dicts of Python values: times as naive datetimes in UTC (ask for `toUnixTimestamp64Nano(…)` to have nanoseconds)."""
        given = dict(parameters) if parameters else None
        return await self._call(lambda client: list(client.query(sql, parameters=given).named_results()), "query")

    async def command(self, sql: str) -> None:
        """Runs a statement that gives no rows."""
        await self._call(lambda client: client.command(sql), "command")

    async def ping(self) -> bool:
        """Whether ClickHouse answers."""
        try:
            await self.query("SELECT 1")
        except RetryableError:
            return False
        return True

    def close(self) -> None:
        """Closes connections; calls that have begun end first."""
        self._threads.shutdown(wait=True)
        self._drop()

    async def _call(self, work: Callable[[Any], T], what: str, *, passing: tuple[int, ...] = ()) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._guarded, work, what, passing)

    def _guarded(self, work: Callable[[Any], T], what: str, passing: tuple[int, ...]) -> T:
        from clickhouse_connect.driver.exceptions import ClickHouseError, ProgrammingError

        try:
            return work(self._connected())
        except ClickHouseError as error:
            code = getattr(error, "code", None)
            text = f"clickhouse {self.place.shown}: {what}: {_said(error)}"
            if code in _NOT_THERE_YET:
                text += ". A collector makes the tables when it starts, and so does `leadline schema apply`"
            if code is None:
                if isinstance(error, ProgrammingError):
                    raise PermanentError(text) from error
                self._drop()  # it may have been replaced, with another token, under the same address
                raise StoreError(text) from error
            if code == _AUTHENTICATION_FAILED:
                self._drop()
                raise StoreError(f"{text}. {self._about_password()}", retry_after_s=5.0) from error
            if code in _PERMANENT and code not in passing:
                raise PermanentError(text) from error
            raise StoreError(text) from error
        except OSError as error:
            self._drop()
            raise StoreError(f"clickhouse {self.place.shown}: {what}: {error}") from error

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                import clickhouse_connect
                from clickhouse_connect.driver.httputil import get_pool_manager

                # What it would warn of is raised here as well, and told once by who decides what to do.
                for chatty in ("clickhouse_connect", "urllib3"):
                    logging.getLogger(chatty).setLevel(logging.ERROR)
                self._client = clickhouse_connect.get_client(
                    host=self.place.host,
                    port=self.place.port,
                    secure=self.place.secure,
                    username=self.place.user or None,
                    password=self._password(),
                    database=self.place.database or "__default__",
                    connect_timeout=min(5, int(self._timeout_s) or 1),
                    send_receive_timeout=int(self._timeout_s) or 1,
                    autogenerate_session_id=False,
                    compress=False if self.place.host in ("127.0.0.1", "::1", "localhost") else "zstd",
                    query_retries=0,
                    client_name="leadline",
                    pool_mgr=get_pool_manager(maxsize=_CALLS_AT_ONCE, num_pools=1),
                )
            return self._client

    def _drop(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close_connections()

    def _password(self) -> str:
        if self.place.token_file is None:
            return self.place.password
        try:
            return self.place.token_file.read_text().strip()
        except OSError as error:
            raise StoreError(
                f"{self.place.token_file}: the engine's token cannot be read ({error.strerror}). `leadline engine` makes it at its first start"
            ) from error

    def _about_password(self) -> str:
        if self.place.token_file is not None:
            return f"The engine there does not know the token in {self.place.token_file}; is it another --data directory's engine?"
        return "Look at the user and password in store.clickhouse"


class Discard:
    """`store.clickhouse: none`: counts rows and bytes of each table, and throws the blocks away (benchmarks, dry runs)."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    async def insert(self, block: Block) -> None:
        self.rows[block.table] += block.rows
        self.bytes[block.table] += len(block.data)

    async def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        raise PermanentError("store.clickhouse is none: nothing is stored, so nothing can be asked")

    async def command(self, sql: str) -> None:
        """Nothing to do."""

    async def ping(self) -> bool:
        return True

    def close(self) -> None:
        """Nothing to do."""


def open_store(settings: Settings) -> Clickhouse | Discard:
    """The store that `store.clickhouse` names."""
    return Discard() if settings.store.clickhouse == "none" else Clickhouse.of(settings)


def place_of(url: str) -> Place:
    """Reads ``http(s)://user:password@host:port/database``; raises `ConfigError`."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError([f"store.clickhouse: {error}. {_EXPECTED}"]) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.path.count("/") > 1:
        shown = url if parts.password is None else url.replace(f":{parts.password}@", ":…@")
        raise ConfigError([f"store.clickhouse: {_EXPECTED}, got {shown!r}"])
    secure = parts.scheme == "https"
    return Place(
        parts.hostname,
        port or (8443 if secure else 8123),
        secure,
        unquote(parts.username or ""),
        unquote(parts.password or ""),
        unquote(parts.path.strip("/")),
    )


def _said(error: Exception) -> str:
    """ClickHouse's own words, without the client's frame around them."""
    text = str(error)
    text = text[at:] if (at := text.find("Code: ")) >= 0 else text
    if refused := re.search(r"Failed to (?:establish a new connection: [^\"')]*|resolve '[^']*' \([^)]*\))", text):
        return refused[0]  # without the URL of the query and its parameters
    text = text.rpartition(" (for url ")[0] or text
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 100]} … {text[-100:]}"


_EXPECTED = "expected embedded, none, or http(s)://user:password@host:port/database"
