"""Insert tokens of parts that were never born: forgotten before ClickHouse starts.

ClickHouse writes the token of a block to the table's deduplication log, then renames the part into the table. A process that is killed
between the two leaves a token without a part: the client's retry would be taken for a repetition, acknowledged, and lost. See ADR 0009.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

_log = logging.getLogger(__name__)

_ADDED, _DROPPED = "1", "2"
_PART = re.compile(r"([^_]+)_(\d+)_(\d+)_\d+(?:_\d+)?")
_LATEST = 64
"""Records looked at, from the end: more than can have been in flight. What an older one names was born."""


def forget_unborn(directory: Path) -> int:
    """Takes back the tokens whose part is not there; returns how many. Call while no ClickHouse has the directory.

    A part that was merged into another is there. One that has expired (TTL) is not; its rows would expire again, so forgetting its token
    costs nothing. Cost: a directory listing and the end of a file for each table.

    Parameters
    ----------
    directory : Path
        ClickHouse's own; tables are in ``store/<3 digits>/<uuid>``.
    """
    forgotten = 0
    for logs in sorted(directory.glob("store/*/*/deduplication_logs")):
        unborn = list(_unborn(logs))
        if unborn:
            newest = max(logs.glob("deduplication_log_*.txt"), key=_number)
            with newest.open("a") as file:
                file.writelines(f"{_DROPPED}\t{part}\t{token}\n" for part, token in unborn)
            parts = ", ".join(part for part, _ in unborn)
            _log.warning(
                "%s: no part %s (killed while taking it, or expired): its token is forgotten, its block goes in if it is sent again",
                logs.parent,
                parts,
            )
        forgotten += len(unborn)
    return forgotten


def _unborn(logs: Path) -> Iterator[tuple[str, str]]:
    """(part, token) of the latest records that are in force and whose part is not there."""
    records: list[list[str]] = []
    for file in sorted(logs.glob("deduplication_log_*.txt"), key=_number, reverse=True):
        lines = (line.split("\t") for line in file.read_text().splitlines()[-_LATEST:])
        records = [record for record in lines if len(record) == 3] + records
        if len(records) >= _LATEST:
            break
    in_force: dict[str, str] = {}
    for operation, part, token in records:
        if operation == _ADDED:
            in_force[token] = part
        else:
            in_force.pop(token, None)
    there = [found for path in logs.parent.iterdir() if (found := _PART.fullmatch(path.name))]
    for token, part in in_force.items():
        named = _PART.fullmatch(part)
        if named and not any(_covers(found, named) for found in there):
            yield part, token


def _covers(part: re.Match[str], other: re.Match[str]) -> bool:
    """Whether the one is the other, or what it was merged into."""
    return part[1] == other[1] and int(part[2]) <= int(other[2]) and int(other[3]) <= int(part[3])


def _number(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])
