"""The carrier towards ClickHouse: rows already encoded, with the token that makes a repeat harmless."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of one table that go in together or not at all.

    Parameters
    ----------
    table, columns : str, tuple of str
        Where the rows go.
    format : str
        ``RowBinary`` or ``JSONEachRow``.
    data : bytes
        The encoded rows; fewer than a million of them, so that ClickHouse writes one part.
    token : str
        ``<collector>/<segment>/<table>/<n>``: the insert_deduplication_token.
    rows : int
    counts : mapping (signal, model) -> items
        What acknowledging this block adds to *kept*.
    """

    table: str
    columns: tuple[str, ...]
    format: str
    data: bytes
    token: str
    rows: int
    counts: Mapping[tuple[str, str], int] = field(default_factory=dict)
