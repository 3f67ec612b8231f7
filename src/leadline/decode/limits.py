"""Bounds on what one request of metrics or logs may become."""

from __future__ import annotations

from leadline.errors import InvalidRequest

MAX_ITEMS = 500_000
"""Data points or records taken from one request; more are rejected. ClickHouse writes one part for rows well below a million."""

MAX_EXPANSION = 128 * 2**20
"""Bytes that resources and scopes may take, repeated in each row: a large resource above many tiny points is an attack, not telemetry."""


MAX_LATE_NS = 7 * 86_400_000_000_000
MAX_EARLY_NS = 5_000_000_000
"""How far a time may lie before and after its receipt. Tables are partitioned by day, and ClickHouse refuses a block of over 100 partitions
for good: without this a few records with invented times would stop all that follow."""


def clamped(time_ns: int, receive_ns: int, max_late_ns: int = MAX_LATE_NS) -> int:
    """The time, or the nearest one allowed; the time of receipt where there is none (0)."""
    return max(receive_ns - max_late_ns, min(time_ns, receive_ns + MAX_EARLY_NS)) if time_ns else receive_ns


def check_expansion(signal: str, size: int) -> None:
    """Raises `InvalidRequest` where the shared parts of the rows come to more than `MAX_EXPANSION`."""
    if size > MAX_EXPANSION:
        raise InvalidRequest(
            f"{signal}: resource and scope attributes, repeated in each row, would take {size >> 20} MiB; at most {MAX_EXPANSION >> 20} are taken."
            " Send smaller resources, or fewer items in one request."
        )
