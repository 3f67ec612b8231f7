"""Durations and times as people read them, and text as SQL does."""

from __future__ import annotations

from datetime import UTC, datetime

_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))


def spoken(duration_ns: float, parts: int = 2) -> str:
    """``5400e9`` -> ``1h 30m``: at most `parts` units, the rest is cut off."""
    left = round(duration_ns / 1_000_000)
    words: list[str] = []
    for name, size in _UNITS:
        if left >= size and len(words) < parts:
            words.append(f"{left // size}{name}")
            left %= size
        elif words:
            break
    return " ".join(words) or "0s"


def instant(time_ns: int) -> str:
    """``2026-10-01 12:00:30 UTC``."""
    return datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def quoted(text: str) -> str:
    """A ClickHouse string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
