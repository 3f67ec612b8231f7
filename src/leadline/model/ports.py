"""What one stage needs of its neighbour. Stages import these Protocols, never each other; `flow.py` joins them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from leadline.model.blocks import Block
from leadline.model.signals import Receipt, Signal


class Intake(Protocol):
    """Takes requests in. What `receive` hands its bytes to."""

    async def accept(self, signal: Signal, body: bytes) -> Receipt:
        """Returns once the request is durable.

        `body` is protobuf, decompressed. Raises `InvalidRequest` for bytes that do not decode and `Overloaded` under pressure.
        """

    def undecodable(self) -> None:
        """Counts a request that failed before it had a body to accept (corrupt compression, bad JSON)."""


class Store(Protocol):
    """ClickHouse, as everything of ours reaches it: over HTTP, embedded or not."""

    async def insert(self, block: Block) -> None:
        """Sends a block under its token. Raises `StoreError` (try again) or `PermanentError` (never will)."""

    async def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Rows as dicts; parameters are ClickHouse's `{name:Type}`. Raises `StoreError` or `PermanentError`."""


class Readings(Protocol):
    """What the evaluator asks of the store."""

    async def sli_counts(self, slis: Sequence[str], since_ns: int, until_ns: int) -> Any: ...
