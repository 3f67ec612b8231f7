"""Times as ClickHouse reads them in JSONEachRow, whatever the server's time zone."""

from __future__ import annotations


def unix_seconds(time_ns: int) -> str:
    """Unix seconds with milliseconds, ten digits before the point: fewer are read as a date."""
    return f"{time_ns // 10**9:010d}.{time_ns // 10**6 % 1000:03d}"
