"""Feature values as the attributes that carry them: one packed vector, a null mask, and the categorical texts.

Missing is None, NaN, or a key that is not there. Packed values are float32; a row goes out as float64 where the schema declares
float64, or where a value would not survive as float32 (an integer above 2^24, a number beyond float32's range). Values of the
wrong kind are missing and counted: monitoring never fails a prediction.
"""

from __future__ import annotations

import base64
import itertools
import math
import operator
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from leadline import names
from leadline.sdk.schema import Schema

Attributes = dict[str, Any]

EXACT_F32: Final = 1 << 24
"""Integers up to here are exact in float32."""
MAX_ROWS: Final = 10_000
MAX_SPAN_BYTES: Final = 4_000_000
"""Rows and bytes of one span: receivers commonly refuse requests above 4 MiB."""
MAX_TEXT: Final = 256
"""Characters of a categorical value or label."""


def text_of(value: object) -> str:
    """A label or categorical value as text. ``True`` is ``true``; 1, 1.0 and numpy's 1 are all ``1``: both sides of a join agree."""
    if type(value) is str:
        return value[:MAX_TEXT]
    value = scalar(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)[:MAX_TEXT]


def scalar(value: Any) -> Any:
    """Python's own number for numpy's or torch's."""
    return value.item() if hasattr(value, "item") else value


def is_missing(value: object) -> bool:
    """None, NaN, and pandas' NA and NaT."""
    value = scalar(value)
    return value is None or (isinstance(value, float) and math.isnan(value)) or type(value).__name__ in {"NAType", "NaTType"}


def pack_row(schema: Schema, values: Sequence[Any], *, as_bytes: bool, faults: Counter[str]) -> Attributes:
    """The attributes of one row, `values` in the schema's order. Costs about 3 µs for 30 floats."""
    every = len(schema.numeric) == len(values)
    numeric = values if every else [values[i] for i in schema.numeric]
    mask = 0
    try:
        total = sum(numeric)  # text and None raise, NaN stays: one pass finds what needs care
        easy = not math.isnan(total) and (not numeric or (min(numeric) >= -EXACT_F32 and max(numeric) <= EXACT_F32))
    except TypeError:
        easy = False
    wide = schema.wide
    if not easy:
        numeric, mask, wide = _careful(schema, numeric, faults)
    try:
        data = (schema.double if wide else schema.single).pack(*numeric)
    except OverflowError:  # a number beyond float32
        wide, data = True, schema.double.pack(*numeric)
    texts = []
    for i in schema.categorical:
        if is_missing(values[i]):
            mask |= 1 << i
            texts.append("")
        else:
            texts.append(text_of(values[i]))
    nulls = mask.to_bytes((len(values) + 7) // 8, "little") if mask else b""
    return _attributes(schema, data, nulls, texts, wide=wide, as_bytes=as_bytes)


def _careful(
    schema: Schema, numeric: Sequence[Any], faults: Counter[str], positions: Sequence[int] | None = None
) -> tuple[list[float], int, bool]:
    """(values with NaN for missing, null mask over `positions`, whether float32 would lose an integer)."""
    clean: list[float] = []
    mask, wide = 0, schema.wide
    for i, given in zip(schema.numeric if positions is None else positions, numeric, strict=True):
        value = scalar(given)
        if type(value) is int:
            wide = wide or not -EXACT_F32 <= value <= EXACT_F32
        elif type(value) is not float:
            if is_missing(value):
                value = float("nan")
            else:
                try:
                    value = float(value)
                except (TypeError, ValueError):
                    faults["feature_not_a_number"] += 1
                    value = float("nan")
        if math.isnan(value):
            mask |= 1 << i
        clean.append(value)
    return clean, mask, wide


def _attributes(schema: Schema, data: bytes, mask: bytes, texts: list[str], *, wide: bool, as_bytes: bool) -> Attributes:
    found: Attributes = {
        names.FEATURES_SCHEMA_ID: schema.id,
        names.FEATURES_ENCODING: "f64le" if wide else "f32le",
        names.FEATURES_LEN: len(data) // (8 if wide else 4),
        names.FEATURES_PACKED if as_bytes else names.FEATURES_PACKED_B64: data if as_bytes else base64.b64encode(data).decode(),
    }
    if mask:
        found[names.FEATURES_NULL_MASK] = mask if as_bytes else base64.b64encode(mask).decode()
    if texts:
        found[names.FEATURES_CATEGORICAL] = texts
    return found


def row_values(schema: Schema, row: Any) -> Sequence[Any]:
    """One row in the schema's order, from a mapping, a sequence, an array, a pandas Series or a one-row table.

    Raises
    ------
    ValueError
        If a row without names does not have one value a feature.
    """
    if isinstance(row, Mapping) or (hasattr(row, "index") and hasattr(row, "to_dict")):
        mapping: Mapping[str, Any] = row if isinstance(row, Mapping) else row.to_dict()
        try:
            return operator.itemgetter(*schema.names)(mapping) if len(schema.names) > 1 else [mapping[schema.names[0]]]
        except KeyError:
            return [mapping.get(name) for name in schema.names]
    values: Any = row
    if hasattr(row, "tolist"):
        values = row.reshape(-1).tolist() if hasattr(row, "reshape") else row.tolist()
    if len(values) != len(schema.names):
        raise ValueError(f"features: expected {len(schema.names)} values ({', '.join(schema.names[:3])}, …), got {len(values)}")
    return values  # type: ignore[no-any-return]


def row_count(features: Any) -> int | None:
    """Rows of a table or matrix; None for a single row given as a vector or a mapping of scalars."""
    shape = getattr(features, "shape", None)
    if shape is not None:
        return int(shape[0]) if len(shape) == 2 else None
    if hasattr(features, "num_rows"):
        return int(features.num_rows)
    if isinstance(features, Mapping):
        first: Any = next(iter(features.values()), None)
        return len(first) if hasattr(first, "__len__") and not isinstance(first, str) else None
    if isinstance(features, Sequence) and features and not isinstance(features, str):
        first = features[0]
        return len(features) if hasattr(first, "__len__") and not isinstance(first, str) else None
    return None


def width(features: Any) -> int:
    """Values in a row that carries no names; 0 where it cannot be said."""
    if (shape := getattr(features, "shape", None)) is not None:
        return int(shape[-1]) if shape else 0
    if not isinstance(features, Sequence) or isinstance(features, str) or not features:
        return 0
    return len(features[0]) if row_count(features) is not None else len(features)


def first_row(features: Any) -> Mapping[str, Any] | None:
    """The first row with its names, to infer a schema from; None where the features carry no names."""
    if isinstance(features, Mapping):
        return features if row_count(features) is None else {str(name): _first(column) for name, column in features.items()}
    if hasattr(features, "columns") and hasattr(features, "iloc"):
        return {str(name): _first(features[name]) for name in features.columns}
    if hasattr(features, "column_names"):
        return {name: features.column(name)[0].as_py() if features.num_rows else None for name in features.column_names}
    if hasattr(features, "index") and hasattr(features, "to_dict"):
        return {str(name): value for name, value in features.to_dict().items()}
    if isinstance(features, Sequence) and features and isinstance(features[0], Mapping):
        return features[0]
    return None


def _first(column: Any) -> Any:
    values = column.iloc if hasattr(column, "iloc") else column
    return values[0] if len(values) else None


def rows_per_span(schema: Schema | None) -> int:
    """How many rows go into one span: packed values as float64 at worst, 32 bytes a text, 96 for id, label and score."""
    row_bytes = 96 if schema is None else 96 + 8 * len(schema.numeric) + 32 * len(schema.categorical)
    return max(1, min(MAX_ROWS, MAX_SPAN_BYTES // row_bytes))


class Table:
    """N rows of features, packed part by part. Columns are read as they are; nothing of the whole is copied.

    Raises
    ------
    ValueError
        If a matrix does not have one column a feature.
    """

    def __init__(self, schema: Schema, features: Any) -> None:
        self.schema = schema
        self._rows = features
        self._columns = _columns(schema, features)

    def part(self, first: int, count: int, *, as_bytes: bool, faults: Counter[str]) -> Attributes:
        """The attributes of `count` rows from row `first` on."""
        if self._columns is None:
            return _pack_list(self.schema, self._rows[first : first + count], as_bytes=as_bytes, faults=faults)
        columns = [None if column is None else column[first : first + count] for column in self._columns]
        return _pack_columns(self.schema, columns, count, as_bytes=as_bytes, faults=faults)


def _columns(schema: Schema, features: Any) -> list[Any] | None:
    """One array-like a feature, or None for a plain list of rows."""
    if isinstance(features, Mapping):
        return [features.get(name) for name in schema.names]
    if hasattr(features, "columns") and hasattr(features, "iloc"):
        known = set(features.columns)
        return [features[name].to_numpy() if name in known else None for name in schema.names]
    if hasattr(features, "column_names"):
        known = set(features.column_names)
        return [features.column(name).to_numpy(zero_copy_only=False) if name in known else None for name in schema.names]
    if hasattr(features, "detach"):
        features = features.detach().cpu().numpy()
    if hasattr(features, "shape"):
        if features.shape[1] != len(schema.names):
            raise ValueError(f"features: expected {len(schema.names)} columns ({', '.join(schema.names[:3])}, …), got {features.shape[1]}")
        return [features[:, i] for i in range(len(schema.names))]
    return None


def _pack_list(schema: Schema, rows: Sequence[Any], *, as_bytes: bool, faults: Counter[str]) -> Attributes:
    """A list of rows without numpy; a row that float32 cannot hold makes the whole span float64."""
    ordered = [row_values(schema, row) for row in rows]
    numeric: list[float] = []
    texts: list[str] = []
    mask, wide = 0, schema.wide
    for at, row in enumerate(ordered):
        clean, missing, row_wide = _careful(schema, [row[i] for i in schema.numeric], faults)
        numeric += clean
        wide = wide or row_wide
        for i in schema.categorical:
            if is_missing(row[i]):
                missing |= 1 << i
                texts.append("")
            else:
                texts.append(text_of(row[i]))
        mask |= missing << (at * len(schema.names))
    try:
        data = struct.pack(f"<{len(numeric)}{'d' if wide else 'f'}", *numeric)
    except OverflowError:
        wide, data = True, struct.pack(f"<{len(numeric)}d", *numeric)
    size = (len(schema.names) * len(ordered) + 7) // 8
    return _attributes(schema, data, mask.to_bytes(size, "little") if mask else b"", texts, wide=wide, as_bytes=as_bytes)


def _pack_columns(schema: Schema, columns: list[Any], rows: int, *, as_bytes: bool, faults: Counter[str]) -> Attributes:
    import numpy as np

    missing = np.zeros((rows, len(columns)), bool)
    values = np.full((rows, len(schema.numeric)), np.nan)
    wide = schema.wide
    for at, i in enumerate(schema.numeric):
        if columns[i] is None:
            missing[:, i] = True
            continue
        column = np.asarray(columns[i])
        if column.dtype.kind not in "fiub":
            clean, _, row_wide = _careful(schema, column.tolist(), faults, positions=range(rows))
            column, wide = np.array(clean), wide or row_wide
        elif column.dtype.kind in "iu" and column.size:
            wide = wide or bool(column.max() > EXACT_F32 or column.min() < -EXACT_F32)
        values[:, at] = column
        missing[:, i] = np.isnan(values[:, at])
    if not wide:
        with np.errstate(over="ignore"):
            single = values.astype("<f4")
        wide = bool((np.isinf(single) & ~np.isinf(values)).any())
    data = values.astype("<f8").tobytes() if wide else single.tobytes()
    texts: list[list[str]] = []
    for i in schema.categorical:
        given = [None] * rows if columns[i] is None else list(columns[i])
        gone = [is_missing(value) for value in given]
        missing[:, i] = gone
        texts.append(["" if absent else text_of(value) for value, absent in zip(given, gone, strict=True)])
    bits = np.packbits(missing.ravel(), bitorder="little").tobytes() if missing.any() else b""
    row_by_row = list(itertools.chain.from_iterable(zip(*texts, strict=True)))
    return _attributes(schema, data, bits, row_by_row, wide=wide, as_bytes=as_bytes)
