"""What the journal asks of the file system."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_KEEP_SIZE = 1
_fallocate = getattr(ctypes.CDLL(None), "fallocate64", None) if sys.platform == "linux" else None
if _fallocate is not None:
    _fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def reserve(fd: int, start: int, size: int) -> None:
    """Asks for room in a file beyond its end, which does not move: appending and syncing then costs a fifth less (ADR 0008).

    Only a help: where the file system cannot, or is full, nothing is reserved, and what is written next says what there is to say.
    """
    if _fallocate is not None:
        _fallocate(fd, _KEEP_SIZE, start, size)


def write_fully(fd: int, parts: list[bytes]) -> None:
    written = os.writev(fd, parts)
    total = sum(len(part) for part in parts)
    while written < total:  # a short write: a full disk raises on the next try, a signal goes on
        skip = written
        rest = []
        for part in parts:
            rest.append(part[skip:] if skip < len(part) else b"")
            skip = max(0, skip - len(part))
        written += os.writev(fd, [part for part in rest if part])


def sync_directory(directory: Path) -> None:
    """Makes the names in a directory as durable as the files they name."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
