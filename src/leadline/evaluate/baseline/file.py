"""A baseline from a file of rows: the training set, or an export.

Two passes. The first keeps a random sample of rows, from which kinds and bins are made; the second counts every row over those bins, exactly.
Memory is bounded by the sample, whatever the file's size.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from heapq import heapify, heapreplace
from io import TextIOWrapper
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadline.errors import ConfigError
from leadline.evaluate.baseline.bins import DEFAULT_BINS, Bins, Floats, categorical_bins, numeric_bins
from leadline.evaluate.baseline.reference import Baseline, Reference

CHUNK_ROWS = 20_000
SAMPLE_CELLS = 2_000_000
SAMPLE_ROWS = 100_000
"""The sample: at most this many rows, and cells in all. 100,000 rows place a 5 % quantile within 0.15 %."""
MAX_WINDOWS = 20_000
"""Windows of history: more than two years of hours."""

NAMED_SERIES = ("score", "confidence", "predicted", "duration_ms")
"""Columns that are not features."""
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "<na>"})
_FLAGS = {"true": 1.0, "false": 0.0}

Cells = Sequence[Any]
Chunk = tuple[Mapping[str, Cells], float]
"""Columns of some rows (None or a word of `MISSING` where nothing is), and the share of the file read so far."""


def from_file(
    path: Path,
    *,
    name: str,
    model: str,
    version: str = "",
    bins: int = DEFAULT_BINS,
    categorical: Collection[str] = (),
    exclude: Collection[str] = (),
    time: str | None = None,
    window_s: int = 3600,
    progress: Callable[[float], None] | None = None,
) -> Baseline:
    """Reads a CSV (with a header) or a Parquet file.

    Parameters
    ----------
    path : Path
        ``.parquet`` or ``.pq`` is Parquet, for which pyarrow must be installed; anything else is read as CSV, in UTF-8.
    name, model, version : str
    bins : int
        Quantile bins of each numeric column.
    categorical, exclude : collections of column names
        Numbers to take as categories (codes, zip codes); columns to leave out (ids, the target).
    time : str, optional
        A column of times (ISO 8601, or seconds or milliseconds since 1970), from which the history is made.
    window_s : int
        Width of the history's windows.
    progress : function of the share done, in [0, 1]

    Raises
    ------
    ConfigError
        If the file cannot be read, or a named column is not in it, or nothing usable is; with every fault found.

    Notes
    -----
    ``score``, ``confidence``, ``predicted`` and ``duration_ms`` are series of that name, every other column is ``features/<column>``. Words for
    missing values are those of `MISSING`. A column is numeric where every sampled value is a number (true and false are 1 and 0).
    Cost: about 2 µs a cell.
    """
    tell = progress or (lambda _share: None)
    sample, columns, rows = _sample(_chunks(path), lambda share: tell(share / 2))
    wanted = {"time": (time,) if time else (), "categorical": categorical, "exclude": exclude}
    faults = [f"{path}: there is no column {column!r} (named in {what}); the columns are {', '.join(columns)}"
              for what, names in wanted.items() for column in names if column not in columns]  # fmt: skip
    if not rows:
        faults.append(f"{path}: expected rows after the header, got none")
    if faults:
        raise ConfigError(faults)
    counters: dict[str, _Column] = {}
    notes = []
    for column in columns:
        if column in exclude or column == time:
            continue
        made = _bins(sample[column], force_text=column in categorical or column == "predicted", bins=bins)
        if made is None:
            notes.append(f"{column}: left out, it is empty")
        else:
            counters[column] = _Column(made)
    if not counters:
        raise ConfigError([f"{path}: expected at least one column with values, got {', '.join(columns) or 'none'}"])
    windows: set[int] = set()
    for chunk, share in _chunks(path):
        starts = None if time is None else _window_starts(path, time, chunk[time], window_s)
        if starts is not None:
            windows.update(np.unique(starts).tolist())
            if len(windows) > MAX_WINDOWS:
                raise ConfigError([f"{path}: expected at most {MAX_WINDOWS} windows of {window_s} s in column {time!r}; make them wider"])
        for column, counter in counters.items():
            counter.add(chunk[column], starts)
        tell(0.5 + share / 2)
    references = []
    for column, counter in counters.items():
        if counter.not_numbers:
            notes.append(
                f"{column}: {counter.not_numbers} of {rows} values are not numbers, counted as missing; name it as categorical if it is text"
            )
        references.append(Reference(_series(column), counter.bins, counter.whole, float(counter.whole.sum()), counter.windows))
    tell(1.0)
    return Baseline(name, model, version, tuple(references), window_s, f"{path.name}, {rows} rows", tuple(notes))


def _series(column: str) -> str:
    return column if column in NAMED_SERIES or column.startswith("features/") else f"features/{column}"


class _Column:
    """Counts of one column over its bins, whole and by window."""

    def __init__(self, bins: Bins) -> None:
        self.bins = bins
        self.not_numbers = 0
        self.whole = np.zeros(bins.width)
        self.windows: dict[int, Floats] = {}

    def add(self, cells: Cells, starts: NDArray[np.int64] | None) -> None:
        if starts is None:
            self.whole += self._counted(cells)
            return
        order = np.argsort(starts, kind="stable")
        unique, first = np.unique(starts[order], return_index=True)
        for start, indices in zip(unique.tolist(), np.split(order, first[1:]), strict=True):
            counts = self._counted(cells[indices] if isinstance(cells, np.ndarray) else [cells[index] for index in indices])
            self.whole += counts
            if start >= 0:
                self.windows[start] = self.windows.get(start, 0.0) + counts

    def _counted(self, cells: Cells) -> Floats:
        if self.bins.kind == "categorical":
            texts = Counter(_text(cell) for cell in cells if not _missing(cell))
            return self.bins.count_texts(texts, len(cells) - sum(texts.values()))
        values, missing, not_numbers = _numbers(cells)
        self.not_numbers += not_numbers
        return self.bins.count(values[~missing], int(missing.sum()))


def _missing(cell: object) -> bool:
    return cell is None or (isinstance(cell, str) and cell.strip().lower() in MISSING) or (isinstance(cell, float) and isnan(cell))


def _text(cell: object) -> str:
    """As the SDK writes a category: whole numbers without a point, true and false in small letters."""
    if isinstance(cell, bool):
        return str(cell).lower()
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def _numbers(cells: Cells) -> tuple[Floats, NDArray[np.bool_], int]:
    """(values, missing, how many were not numbers and are called missing)."""
    if isinstance(cells, np.ndarray) and cells.dtype != object:
        values = cells.astype(np.float64)
        return values, np.isnan(values), 0
    try:
        values = np.array(list(map(float, cells)))
    except (ValueError, TypeError):
        values = np.array(list(map(_number, cells)))
        odd = sum(1 for cell, value in zip(cells, values.tolist(), strict=True) if isnan(value) and not _missing(cell))
        return values, np.isnan(values), odd
    return values, np.isnan(values), 0


def _number(cell: Any) -> float:
    try:
        return float(cell)
    except (ValueError, TypeError):
        return _FLAGS.get(str(cell).strip().lower(), float("nan"))


def _bins(cells: list[Any], *, force_text: bool, bins: int) -> Bins | None:
    present = [cell for cell in cells if not _missing(cell)]
    if not present:
        return None
    values, _, not_numbers = _numbers(present)
    if force_text or not_numbers:
        return categorical_bins(Counter(map(_text, present)))
    finite = values[np.isfinite(values)]
    return numeric_bins(finite, bins=bins) if len(finite) else None


def _sample(chunks: Iterator[Chunk], tell: Callable[[float], None]) -> tuple[dict[str, list[Any]], list[str], int]:
    """(column -> sampled cells, columns, rows). Each row draws a number and the rows with the smallest stay: the same file, the same sample."""
    rng = np.random.default_rng(0)
    sample: dict[str, list[Any]] = {}
    largest: list[tuple[float, int]] = []  # a heap of (-number, place in the sample)
    rows = limit = 0
    for chunk, share in chunks:
        if not sample:
            sample = {column: [] for column in chunk}
            limit = max(1_000, min(SAMPLE_ROWS, SAMPLE_CELLS // max(1, len(chunk))))
        n = len(next(iter(chunk.values()), ()))
        drawn = rng.random(n)
        room = min(n, limit - len(largest))
        for column, cells in chunk.items():
            sample[column].extend(cells[:room])
        if room:
            largest += [(-number, len(largest) + place) for place, number in enumerate(drawn[:room].tolist())]
            heapify(largest)
        for index in (room + np.flatnonzero(drawn[room:] < -largest[0][0])).tolist() if n > room else ():
            if drawn[index] < -largest[0][0]:
                place = largest[0][1]
                heapreplace(largest, (-float(drawn[index]), place))
                for column, cells in chunk.items():
                    sample[column][place] = cells[index]
        rows += n
        tell(share)
    return sample, list(sample), rows


def _window_starts(path: Path, column: str, cells: Cells, window_s: int) -> NDArray[np.int64]:
    """Start of each row's window in seconds since 1970; -1 where there is no time."""
    seconds = np.array([_seconds(path, column, cell) for cell in cells], np.float64)
    starts = np.full(len(seconds), -1, np.int64)
    known = np.isfinite(seconds)
    starts[known] = seconds[known] // window_s * window_s
    return starts


def _seconds(path: Path, column: str, cell: object) -> float:
    if _missing(cell):
        return float("nan")
    if isinstance(cell, datetime):
        time = cell
    else:
        try:
            number = float(cell)  # type: ignore[arg-type]
            return number / 1000 if number > 1e11 else number
        except (TypeError, ValueError):
            pass
        try:
            time = datetime.fromisoformat(str(cell))
        except ValueError:
            fault = f"{path}: column {column!r}: expected a time (ISO 8601, or seconds or milliseconds since 1970), got {cell!r}"
            raise ConfigError([fault]) from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _chunks(path: Path) -> Iterator[Chunk]:
    try:
        yield from _parquet(path) if path.suffix.lower() in (".parquet", ".pq") else _csv(path)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read ({error.strerror or error})"]) from error


def _csv(path: Path) -> Iterator[Chunk]:
    size = max(1, path.stat().st_size)
    with path.open("rb") as raw, TextIOWrapper(raw, newline="", encoding="utf-8-sig") as file:
        try:
            reader = csv.reader(file)
            header = next(reader, [])
            if not header or len(set(header)) != len(header):
                what = "got an empty file" if not header else "some names come twice"
                raise ConfigError([f"{path}: expected a header of column names, each once, in the first line; {what}"])
            rows: list[list[str]] = []
            for row in reader:
                if len(row) != len(header):
                    if not row:
                        continue
                    raise ConfigError([f"{path}:{reader.line_num}: expected {len(header)} cells as in the header, got {len(row)}"])
                rows.append(row)
                if len(rows) == CHUNK_ROWS:
                    yield dict(zip(header, zip(*rows, strict=True), strict=True)), min(1.0, raw.tell() / size)
                    rows = []
            columns: list[Cells] = list(zip(*rows, strict=True)) if rows else [() for _ in header]
            yield dict(zip(header, columns, strict=True)), 1.0
        except (UnicodeDecodeError, csv.Error) as error:
            raise ConfigError([f"{path}: expected CSV in UTF-8 ({error})"]) from error


def _parquet(path: Path) -> Iterator[Chunk]:
    try:
        from pyarrow import ArrowException, parquet, types
    except ImportError:
        raise ConfigError([f"{path}: to read Parquet, pyarrow must be installed: pip install pyarrow. Or give a CSV file."]) from None
    try:
        file = parquet.ParquetFile(path)
        total, done = max(1, file.metadata.num_rows), 0
        for batch in file.iter_batches(batch_size=CHUNK_ROWS):
            done += batch.num_rows
            chunk: dict[str, Cells] = {}
            for field, column in zip(batch.schema, batch.columns, strict=True):
                numeric = types.is_floating(field.type) or types.is_integer(field.type) or types.is_boolean(field.type)
                chunk[field.name] = column.cast("float64").to_numpy(zero_copy_only=False) if numeric else column.to_pylist()
            yield chunk, done / total
        if not done:
            yield {field.name: () for field in file.schema_arrow}, 1.0
    except ArrowException as error:
        raise ConfigError([f"{path}: cannot be read as Parquet ({error})"]) from error
