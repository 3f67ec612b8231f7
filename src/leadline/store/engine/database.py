"""chdb in this process: the directory and its lock, sessions, and lanes that keep kinds of work apart.

A session is one chdb connection for one request. It is opened afresh (0.3 ms) because chdb keeps a connection's settings, and
because after a failed query a connection may give out rows of the one before.
"""

from __future__ import annotations

import asyncio
import fcntl
import importlib
import os
import re
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from xml.sax.saxutils import escape

from leadline.directories import cannot_keep, own_directory
from leadline.errors import ConfigError
from leadline.store import sql
from leadline.store.engine import access, stitching, tokens
from leadline.store.engine.exceptions import (
    TOO_MANY_SIMULTANEOUS_QUERIES,
    EngineError,
    from_chdb,
    refusal,
)

T = TypeVar("T")

# A format that cannot be streamed is made whole in memory, of at most this many bytes of columns.
WHOLE_RESULT_BYTES = 64 * 2**20
# Requests that wait for a place in a lane, for each place there is.
_WAITING_PER_PLACE = 16
# Sorting and grouping that does not fit in memory goes to disk, up to this many times the memory of a query.
_SPILL = 8

# Where tables live. Not chdb's own `default`: that one lies over the file system, and answers for a table that is not there with a
# refusal to read files. A request for the database `default` gets this one.
DATABASE = "leadline"

_ASKED_THROUGH = re.compile(r":? In scope SELECT formatQuerySingleLine\(.*\. \((\w+)\)", re.DOTALL)

_CONFIG = """<clickhouse>
  <users_config>{users}</users_config>
  <tmp_path>{tmp}/</tmp_path>
  <max_server_memory_usage>{memory}</max_server_memory_usage>
  <max_temporary_data_on_disk_size>{spill}</max_temporary_data_on_disk_size>
  <mark_cache_size>{cache}</mark_cache_size>
  <background_pool_size>2</background_pool_size>
  <background_schedule_pool_size>4</background_schedule_pool_size>
  <merge_tree>
    <number_of_free_entries_in_pool_to_execute_mutation>1</number_of_free_entries_in_pool_to_execute_mutation>
    <number_of_free_entries_in_pool_to_lower_max_size_of_merge>1</number_of_free_entries_in_pool_to_lower_max_size_of_merge>
    <number_of_free_entries_in_pool_to_execute_optimize_entire_partition>1</number_of_free_entries_in_pool_to_execute_optimize_entire_partition>
    <fsync_after_insert>1</fsync_after_insert>
    <fsync_part_directory>1</fsync_part_directory>
  </merge_tree>
</clickhouse>
"""


def writer_token(path: Path) -> str:
    """The writer's token; made at the first start, readable by its owner alone."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            message = f"{path}: the writer's token must be readable by its owner alone, got mode {mode:o}. chmod 600 {path}"
            raise ConfigError([message]) from None
        token = path.read_text().strip()
        if len(token) < 16:
            message = f"{path}: expected a token of at least 16 characters, got {len(token)}. Remove the file; the next start makes one"
            raise ConfigError([message]) from None
        return token
    except OSError as error:
        raise cannot_keep("store.token_file", path, error) from error
    with os.fdopen(descriptor, "w") as file:
        token = secrets.token_urlsafe(32)
        file.write(token + "\n")
        file.flush()
        os.fsync(file.fileno())
    return token


class Lane:
    """Places for one kind of work: each has a thread, and a bounded number of requests waits for one."""

    def __init__(self, name: str, places: int) -> None:
        self.name, self.places = name, places
        self._free = asyncio.Semaphore(places)
        self._waiting = 0
        self._threads = ThreadPoolExecutor(places, thread_name_prefix=f"engine-{name}")

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Waits for a place; raises TOO_MANY_SIMULTANEOUS_QUERIES where too many wait already."""
        if self._waiting >= self.places * _WAITING_PER_PLACE:
            message = f"{self._waiting} requests wait for {self.places} {self.name}. Try again later"
            raise refusal(TOO_MANY_SIMULTANEOUS_QUERIES, "TOO_MANY_SIMULTANEOUS_QUERIES", message)
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._free.release()

    def start(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Begins blocking work on a thread of the lane."""
        return asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)


@dataclass(slots=True)
class Progress:
    """What a query has read and written so far.

    Of a stream, chdb 4.4 now and then leaves a block out of what it says was read: `rows_read` and `bytes_read` are at most what was.
    """

    rows_read: int = 0
    bytes_read: int = 0
    result_rows: int = 0
    rows_written: int = 0
    bytes_written: int = 0


class Session:
    """One chdb connection for one request. Blocking; used by one thread at a time.

    Parameters
    ----------
    role : str
    settings : mapping
        Set before anything runs.
    read_only : bool
        Whether `readonly = 1` is set, last.
    """

    def __init__(self, database: Database, role: str, settings: Mapping[str, str], *, read_only: bool, use: str = "") -> None:
        self.id = str(uuid.uuid4())
        self.progress = Progress()
        self._version = database.version
        self._connection = database.connect()
        self._stream: Any = None
        self._inserter: Any = None
        try:
            self._run(f"SET ROLE {role}")
            self._run(f"USE {sql.quoted_name(DATABASE if use in ('', 'default') else use)}")
            pairs = {**settings, "log_comment": self.id, "implicit_select": "0", "allow_introspection_functions": "0"}
            self._run("SET " + ", ".join(f"{name} = {sql.quoted(value)}" for name, value in pairs.items()))
            if read_only:
                self._run("SET readonly = 1")
        except BaseException:
            self._connection.close()
            raise

    def canonical(self, text: str) -> str:
        """The statement as ClickHouse's own parser writes it; raises for a syntax error or more than one statement."""
        escaped = text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")
        try:
            asked = "SELECT formatQuerySingleLine({q:String})"
            return str(self._call(lambda: self._connection.query(asked, "TSVRaw", {"q": escaped}).data()))
        except EngineError as error:
            # Where the parser says that it was asked through a function is of no use to who wrote the statement.
            raise EngineError(error.code, _ASKED_THROUGH.sub(r". (\1)", error.text)) from None

    def whole(self, text: str, form: str, parameters: Mapping[str, str]) -> bytes:
        """The result in one piece."""
        result = self._call(lambda: self._connection.query(text, form, dict(parameters)))
        self._note(result)
        return bytes(result.bytes())

    def pieces(self, text: str, form: str, parameters: Mapping[str, str]) -> Iterator[bytes]:
        """The result block by block, each a document of its format."""
        self._stream = self._call(lambda: self._connection.send_query(text, form, dict(parameters)))
        while (chunk := self._call(self._stream.fetch)) is not None:
            self._note(chunk)
            yield bytes(chunk.bytes())
        self._stream = None

    def joined(self, query: sql.Query, form: str, joiner: stitching.Joiner, parameters: Mapping[str, str]) -> Iterator[bytes]:
        """The result as one document, in pieces."""
        begun, started = False, time.monotonic()
        for piece in self.pieces(query.text, form, parameters):
            begun = True
            yield joiner.add(piece)
        if begun:
            yield joiner.end(elapsed_s=time.monotonic() - started, rows_read=self.progress.rows_read, bytes_read=self.progress.bytes_read)
        elif stitching.has_header(form):
            # An empty result streams nothing, not even its header; LIMIT 0 makes one without reading any rows.
            yield self.whole(f"SELECT * FROM (\n{query.text}\n) LIMIT 0", form, parameters)

    def begin_insert(self, head: sql.Insert) -> None:
        self._inserter = self._call(lambda: self._connection.send_insert(head.text, head.format))

    def append(self, data: bytes) -> None:
        self._call(lambda: self._inserter.append(data))

    def commit(self) -> None:
        """Returns once the rows are in the table."""
        inserter, self._inserter = self._inserter, None
        result = self._call(inserter.finish)
        self.progress.rows_written, self.progress.bytes_written = result.rows_written, result.bytes_written

    def close(self) -> None:
        """Ends what still runs, and the connection. An insert that was not committed is dropped."""
        for unfinished in (self._stream, self._inserter):
            if unfinished is not None:
                try:
                    unfinished.cancel()
                except Exception as error:
                    # The query has ended by itself, or was killed: the connection is given up either way.
                    del error
        self._stream = self._inserter = None
        self._connection.close()

    def _note(self, result: Any) -> None:
        self.progress.rows_read += result.storage_rows_read()
        self.progress.bytes_read += result.storage_bytes_read()
        self.progress.result_rows += result.rows_read()

    def _run(self, text: str) -> None:
        self._call(lambda: self._connection.query(text))

    def _call(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except EngineError:
            raise
        except Exception as error:
            raise from_chdb(error, self._version) from None


class Database:
    """ClickHouse in this process, on one directory.

    Parameters
    ----------
    directory : Path
        Held by one process at a time.
    readers : int
        Readers' queries at once.
    max_memory, max_query_memory : int, bytes
        Of the whole engine, and of one query.
    max_execution_s : float
        After this a query is ended.
    """

    # Work of the writer's kind: blocks going in, and its own queries; apart, so that neither waits for the other.
    INSERTS, STATEMENTS = 2, 2

    def __init__(self, directory: Path, *, readers: int, max_memory: int, max_query_memory: int, max_execution_s: float) -> None:
        self.directory = directory
        self.version = self.timezone = ""
        self._own = directory / "leadline"
        self._memory, self._lock = max_memory, -1
        cores = os.cpu_count() or 1
        self.ceilings = {
            "max_execution_time": max_execution_s,
            "max_memory_usage": float(max_query_memory),
            # Half of the machine is left to inserts, merges and whoever else is on it.
            "max_threads": float(max(1, cores // 2)),
        }
        self._limits = {
            "max_memory_usage": str(max_query_memory),
            "max_temporary_data_on_disk_size_for_query": str(max_query_memory * _SPILL),
        }
        self._keeper: Any = None
        self._url = f"{directory}?config-file={self._own / 'config.xml'}"
        self.readers = Lane("readers", readers)
        self.inserts = Lane("inserts", self.INSERTS)
        self.statements = Lane("statements", self.STATEMENTS)
        self._kills = ThreadPoolExecutor(1, thread_name_prefix="engine-kill")

    def open(self) -> None:
        """Takes the directory and starts ClickHouse.

        Raises
        ------
        ConfigError
            If another engine has the directory, or chdb is not installed.
        """
        own_directory("engine.dir", self._own, "lock", "users.xml", "config.xml")
        self._take()
        (self._own / "users.xml").write_text(access.USERS)
        (self._own / "tmp").mkdir(exist_ok=True)
        (self._own / "config.xml").write_text(
            _CONFIG.format(
                users=escape(str(self._own / "users.xml")),
                tmp=escape(str(self._own / "tmp")),
                memory=self._memory,
                spill=self._memory * _SPILL,
                cache=min(self._memory // 16, 512 * 2**20),
            )
        )
        # Time without a zone means UTC, in what is inserted and in what is shown. chdb takes the zone from here alone, when it is loaded.
        os.environ["TZ"] = "UTC"
        time.tzset()
        try:
            chdb: Any = importlib.import_module("chdb")
            library: Any = importlib.import_module("chdb._chdb")
        except ImportError as error:
            raise ConfigError([f"leadline engine needs chdb ({error}). pip install 'leadline[embedded]'"]) from error
        library.set_signal_handlers_enabled(0)
        self._chdb = chdb
        tokens.forget_unborn(self.directory)
        self._keeper = self.connect()
        self._keeper.query(f"CREATE DATABASE IF NOT EXISTS {DATABASE} ENGINE = Atomic")
        self.version, self.timezone = str(self._keeper.query("SELECT version(), timezone()", "TSV").data()).strip().split("\t")

    def connect(self) -> Any:
        return self._chdb.connect(self._url)

    def reader(self, settings: Mapping[str, str], *, use: str = "") -> Session:
        """A session that can only read."""
        defaults = {**self._limits, **{name: f"{value:.15g}" for name, value in self.ceilings.items()}}
        return Session(self, access.READER_ROLE, {**defaults, **settings}, read_only=True, use=use)

    def writer(self, settings: Mapping[str, str], *, read_only: bool, use: str = "") -> Session:
        """A session that can write, or one that has the writer's rights to read."""
        return Session(self, access.WRITER_ROLE, {**self._limits, **settings}, read_only=read_only, use=use)

    async def kill(self, session: Session) -> None:
        """Asks ClickHouse to end what the session runs."""
        await asyncio.get_running_loop().run_in_executor(self._kills, self._kill, session.id)

    def _kill(self, session_id: str) -> None:
        connection = self.connect()
        try:
            connection.query(f"KILL QUERY WHERE Settings['log_comment'] = {sql.quoted(session_id)} ASYNC")
        finally:
            connection.close()

    def close(self) -> None:
        """Waits for work that has begun, and stops ClickHouse."""
        for lane in (self.inserts, self.statements, self.readers):
            lane.close()
        self._kills.shutdown(wait=True)
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _take(self) -> None:
        path = self._own / "lock"
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._lock, 32).decode().strip() or "unknown"
            os.close(self._lock)
            self._lock = -1
            message = f"engine.dir: {self.directory} is in use by process {holder}. "
            raise ConfigError([message + "Stop that engine, or give this one another directory (engine.dir, --data)"]) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
