"""What one stage needs of its neighbour. Stages import these Protocols, never each other; `flow.py` joins them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from leadline.model.blocks import Block
from leadline.model.findings import Finding
from leadline.model.readings import Fleet, Readings, ReadRequest
from leadline.model.requests import Cut, Decoded, Request
from leadline.model.signals import Receipt, Signal


class Intake(Protocol):
    """Takes requests in. What `receive` hands its bytes to."""

    async def accept(self, signal: Signal, body: bytes) -> Receipt:
        """Returns once the request is durable.

        `body` is protobuf, decompressed. Raises `InvalidRequest` for bytes that do not decode and `Overloaded` under pressure.
        """

    def undecodable(self) -> None:
        """Counts a request that failed before it had a body to accept (corrupt compression, bad JSON)."""


class Decoder(Protocol):
    """Bytes to a decoded request and what it carries, by (signal, model). A pure function."""

    def __call__(self, body: bytes, receive_ns: int) -> tuple[Decoded, dict[tuple[str, str], int]]: ...


class Part(Protocol):
    """A stage that takes every request, in the journal's order, and gives out blocks when a segment is cut.

    Its state is a function of the requests and marks it was given, and of nothing else: a replay gives the same blocks.
    """

    def control(self, rules: Mapping[str, Any]) -> None:
        """Rules in force from here on."""

    def add(self, request: Request) -> None: ...
    def cut(self, cut: Cut) -> list[Block]: ...
    def waiting(self) -> dict[tuple[str, str], int]:
        """Items taken and not yet given out in a block."""

    @property
    def oldest_sequence(self) -> int | None:
        """The lowest position whose request is still needed; None if none is."""


class Bodies(Protocol):
    """Requests that lie on disk anyway, and need not be held in memory too."""

    def size(self, sequence: int) -> int | None:
        """Bytes that would be read of the request at a journal position; None where it cannot be read again."""

    def read(self, sequence: int) -> bytes | None:
        """The request at a journal position; None where it cannot be had, which has been said then."""


class Decisions(Protocol):
    """A batch of decisions, as arrays over traces, and how it is written to the journal."""

    def to_bytes(self) -> bytes: ...
    def __len__(self) -> int: ...


D = TypeVar("D", bound=Decisions)


class Sampling(Part, Protocol[D]):
    """The part that decides."""

    def due(self, now_ns: int, *, everything: bool = False) -> D | None:
        """Decides what is due; None if nothing is. Changes nothing but the plan."""

    def decode(self, payload: bytes) -> D: ...
    def take(self, decisions: D, segment: int) -> tuple[list[Block], dict[tuple[str, str], int]]:
        """Carries decisions out: blocks of what is stored, and what was sampled out."""

    def remember(self, decisions: D) -> None:
        """Decisions of an earlier run, for late spans."""


class Store(Protocol):
    """ClickHouse, as everything of ours reaches it: over HTTP, embedded or not."""

    async def insert(self, block: Block) -> None:
        """Sends a block under its token. Raises `StoreError` (try again) or `PermanentError` (never will)."""

    async def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Rows as dicts; parameters are ClickHouse's `{name:Type}`. Raises `StoreError` or `PermanentError`."""

    async def command(self, sql: str) -> None:
        """A statement without rows, such as DDL."""


class Reader(Protocol):
    """What the evaluator asks of the store. Each raises `StoreError` where nothing answers at all."""

    async def fleet(self, now_ns: int) -> Fleet:
        """What the collectors have said of themselves until now."""

    async def read(self, request: ReadRequest, fleet: Fleet) -> Readings:
        """The readings of one tick; a query that fails alone is `Failed` in them."""

    async def last_findings(self, now_ns: int) -> list[Finding]:
        """The newest row of each alert, from table `evaluations`."""

    async def references(self, model: str, baseline: str, series: Sequence[str]) -> list[dict[str, Any]]:
        """Frozen bins of the series that match any of the shell patterns, as the collectors' rules row has them."""

    async def rules_in_force(self) -> dict[str, str]:
        """Name -> content hash, of the newest active rows of table `rules`."""


class Notifier(Protocol):
    """Tells people. Never blocks the evaluator: what it is given it sends, and re-sends, in its own time."""

    def update(self, findings: Sequence[Finding]) -> None:
        """The newest finding of each alert, after each tick."""

    def unreadable(self, reason: str | None) -> None:
        """Marks everything that is re-sent as last known, because nothing can be evaluated; None ends that."""


class Outbox(Protocol):
    """Blocks on their way to ClickHouse."""

    def pending(self) -> list[tuple[int, Block]]:
        """(number, block without its data), oldest first."""

    def load(self, block: Block) -> Block:
        """The block with its data."""

    def acknowledge(self, number: int) -> None:
        """ClickHouse has it: its items are *kept*."""

    def abandon(self, number: int) -> None:
        """It cannot be sent, ever: its items are *lost*."""
