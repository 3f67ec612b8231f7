"""What a collector must remember besides the journal: a small SQLite file and the outbox.

The outbox holds encoded blocks on their way to ClickHouse, a file each. SQLite holds which of them exist, up to where the journal
has been turned into blocks, and the ledger at that point. Both change in one transaction, so after a crash the journal is replayed from
exactly there: nothing is produced twice, nothing is left out.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leadline.directories import own_directory
from leadline.journal.disk import sync_directory, write_fully
from leadline.model.accounting import Ledger
from leadline.model.blocks import Block

_log = logging.getLogger("leadline.journal")
_RETRY_S = 0.5
_FRESH_BYTES = 16 * 2**20
_SAY_EVERY_S = 30.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS blocks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, token TEXT UNIQUE, tbl TEXT, columns TEXT, format TEXT, rows INTEGER, size INTEGER, counts TEXT);
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value TEXT);
"""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far the journal has been turned into blocks.

    Parameters
    ----------
    produced : (int, int)
        (position it was made at, sequence) of the last DECISIONS or CUT frame whose blocks are in the outbox.
    applied : int
        Sequence of the last frame that the ledger counts.
    ledger : Ledger
        All terms but *kept* and *waiting*, at that point.
    """

    produced: tuple[int, int] = (0, 0)
    applied: int = 0
    ledger: Ledger = field(default_factory=Ledger)


class State:
    """The outbox and the checkpoint. Safe to use from several threads.

    Parameters
    ----------
    directory : Path or None
        None keeps everything in memory (no journal: a crash forgets).
    """

    def __init__(self, directory: Path | None, *, sync: bool = True) -> None:
        self._writing = threading.RLock()  # a transaction is under way; held while the disk syncs
        self._lock = threading.Lock()  # what is kept in memory; never held for long, so that an event loop may ask
        self.giving_up = threading.Event()
        self._sync = sync
        self._memory: dict[str, bytes] | None = {} if directory is None else None
        self._outbox = Path() if directory is None else directory / "outbox"
        if directory is not None:
            own_directory("journal.dir", directory, "state.db", "lock")
            own_directory("journal.dir", self._outbox)
        path = ":memory:" if directory is None else directory / "state.db"
        self._db = sqlite3.connect(
            ":memory:" if directory is None else directory / "state.db", check_same_thread=False, isolation_level=None
        )
        self._db.executescript(
            f"PRAGMA journal_mode=WAL; PRAGMA synchronous={'FULL' if sync else 'OFF'}; PRAGMA journal_size_limit=1048576;{_SCHEMA}"
        )
        self._pending: dict[int, Block] = {}
        self._sizes: dict[int, int] = {}
        self._pending_bytes = 0
        self._fresh: dict[str, bytes] = {}
        """Data of blocks just written, for the first `load` of each."""
        self._fresh_bytes = 0
        self._newest = 0
        for row in self._db.execute("SELECT id, token, tbl, columns, format, rows, size, counts FROM blocks ORDER BY id"):
            self._remember(row[0], _block(row[1:]), row[6])
        known = {self._path(token).name for (token,) in self._db.execute("SELECT token FROM blocks")}
        if directory is not None:
            for path in self._outbox.iterdir():
                if path.name not in known:
                    path.unlink()
        self._kept = Ledger.from_json(self._get("kept", []))
        self._reported = Ledger.from_json(self._get("reported", []))

    def close(self) -> None:
        self.giving_up.set()
        with self._writing:
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All that is written within, or nothing; raises `OSError` where it cannot be."""
        with self._writing:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield
                self._db.execute("COMMIT")
            except BaseException as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    raise OSError(errno.EIO, str(error)) from error
                raise

    # -- producing -------------------------------------------------------------------------------------------------------

    def checkpoint(self) -> Checkpoint:
        value = self._get("checkpoint", None)
        return (
            Checkpoint()
            if value is None
            else Checkpoint((value["produced"][0], value["produced"][1]), value["applied"], Ledger.from_json(value["ledger"]))
        )

    def produce(self, blocks: Iterable[Block], checkpoint: Checkpoint) -> None:
        """Puts blocks into the outbox and moves the checkpoint, together or not at all.

        Where the disk is full it waits for room: nothing that follows from the journal is left out. Setting `giving_up` ends the waiting:
        what was not noted is produced again at the next start.
        """
        blocks = [block for block in blocks if block.rows]
        said = -_SAY_EVERY_S
        while True:
            try:
                return self._produce(blocks, checkpoint)
            except OSError as error:
                if self.giving_up.is_set():
                    raise
                if time.monotonic() - said > _SAY_EVERY_S:
                    said = time.monotonic()
                    _log.error("journal: blocks cannot be written to %s (%s). It is tried again until they can.", self._outbox, error)
                self.giving_up.wait(_RETRY_S)

    def _produce(self, blocks: list[Block], checkpoint: Checkpoint) -> None:
        for block in blocks:
            self._store_file(block)
        if blocks and self._memory is None and self._sync:
            sync_directory(self._outbox)
        value = {"produced": checkpoint.produced, "applied": checkpoint.applied, "ledger": checkpoint.ledger.to_json()}
        with self._writing:
            with self._transaction():
                self._set("checkpoint", value)
                ids = [self._insert(block) for block in blocks]
            with self._lock:
                for number, block in zip(ids, blocks, strict=True):
                    self._remember(number, block, len(block.data))

    def report(self, totals: Ledger, block: Block) -> None:
        """Puts an accounting block into the outbox and notes what has been reported."""
        self._store_file(block)
        with self._writing:
            with self._transaction():
                self._set("reported", totals.to_json())
                number = self._insert(block)
            with self._lock:
                self._reported = totals
                self._remember(number, block, len(block.data))

    def put(self, block: Block) -> None:
        """Puts a block into the outbox that says how things stand, and counts nothing."""
        self._store_file(block)
        with self._writing:
            with self._transaction():
                number = self._insert(block)
            with self._lock:
                self._remember(number, block, len(block.data))

    def _insert(self, block: Block) -> int:
        counts = json.dumps([[signal, model, n] for (signal, model), n in block.counts.items()])
        cursor = self._db.execute(
            "INSERT INTO blocks (token, tbl, columns, format, rows, size, counts) VALUES (?,?,?,?,?,?,?)",
            (block.token, block.table, json.dumps(block.columns), block.format, block.rows, len(block.data), counts),
        )
        return int(cursor.lastrowid or 0)

    def _store_file(self, block: Block) -> None:
        if self._memory is not None:
            self._memory[block.token] = block.data
            return
        with open(self._path(block.token), "wb", buffering=0) as file:
            write_fully(file.fileno(), [block.data])
            if self._sync:
                os.fdatasync(file.fileno())
        with self._lock:
            if self._fresh_bytes + len(block.data) <= _FRESH_BYTES and block.token not in self._fresh:
                self._fresh[block.token] = block.data
                self._fresh_bytes += len(block.data)

    # -- sending ---------------------------------------------------------------------------------------------------------

    def pending(self) -> list[tuple[int, Block]]:
        """Blocks not yet acknowledged, oldest first, without their data."""
        with self._lock:
            return list(self._pending.items())

    @property
    def newest(self) -> int:
        """The number of the newest block that was put into the outbox; 0 before the first."""
        with self._lock:
            return self._newest

    def oldest_pending(self, table: str) -> int | None:
        """The lowest number of the table's blocks that are not yet acknowledged."""
        with self._lock:
            return min((number for number, block in self._pending.items() if block.table == table), default=None)

    def load(self, block: Block) -> Block:
        """The block with its data."""
        with self._lock:
            data = self._fresh.pop(block.token, None)
            self._fresh_bytes -= len(data or b"")
        if data is None:
            data = self._memory[block.token] if self._memory is not None else self._path(block.token).read_bytes()
        return Block(block.table, block.columns, block.format, data, block.token, block.rows, block.counts)

    def acknowledge(self, number: int) -> None:
        """ClickHouse has it: its items are *kept*."""
        self._remove(number, kept=True)

    def abandon(self, number: int) -> None:
        """It cannot be sent, ever: its items are *lost*, for nothing else explains them."""
        self._remove(number, kept=False)

    def _remove(self, number: int, *, kept: bool) -> None:
        with self._writing:
            block = self._pending[number]
            total = self._kept.copy()
            if kept:
                total.add("kept", block.counts)
            with self._transaction():
                self._db.execute("DELETE FROM blocks WHERE id = ?", (number,))
                if block.counts:
                    self._set("kept", total.to_json())
            with self._lock:
                self._kept = total
                del self._pending[number]
                self._fresh_bytes -= len(self._fresh.pop(block.token, b""))
                self._pending_bytes -= self._sizes.pop(number)
                if self._memory is not None:
                    del self._memory[block.token]
        if self._memory is None:
            self._path(block.token).unlink(missing_ok=True)

    # -- counting --------------------------------------------------------------------------------------------------------

    def kept_and_waiting(self) -> Ledger:
        """*kept*, and what waits in the outbox."""
        with self._lock:
            ledger = self._kept.copy()
            for block in self._pending.values():
                ledger.add("waiting", block.counts)
            return ledger

    @property
    def reported(self) -> Ledger:
        """The totals that accounting rows have told ClickHouse."""
        with self._lock:
            return self._reported

    @property
    def pending_bytes(self) -> int:
        return self._pending_bytes

    # -- small values ----------------------------------------------------------------------------------------------------

    def remember(self, name: str, value: Any) -> None:
        with self._transaction():
            self._set(name, value)

    def recall(self, name: str, default: Any = None) -> Any:
        return self._get(name, default)

    def _get(self, name: str, default: Any) -> Any:
        with self._writing:
            row = self._db.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()
        return default if row is None else json.loads(row[0])

    def _set(self, name: str, value: Any) -> None:
        self._db.execute(
            "INSERT INTO state VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, json.dumps(value))
        )

    def _remember(self, number: int, block: Block, size: int) -> None:
        self._newest = max(self._newest, number)
        self._pending[number] = Block(block.table, block.columns, block.format, b"", block.token, block.rows, block.counts)
        self._sizes[number] = size
        self._pending_bytes += size

    def _path(self, token: str) -> Path:
        return self._outbox / token.replace("/", "~")


def _block(row: tuple[Any, ...]) -> Block:
    token, table, columns, form, rows, _, counts = row
    return Block(table, tuple(json.loads(columns)), form, b"", token, rows, {(signal, model): n for signal, model, n in json.loads(counts)})
