"""What the packed attributes hold, read back with numpy from the description in `leadline.names`."""

from __future__ import annotations

import base64
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leadline import names
from leadline.sdk import pack
from leadline.sdk.schema import Schema, declared

SCHEMA = declared({"amount": "float", "count": "int64", "country": "category", "night": bool, "channel": "str"}, {})
ROWS = [
    {"amount": 12.5, "count": 3, "country": "DE", "night": True, "channel": "web"},
    {"amount": None, "count": 0, "country": None, "night": False, "channel": "app"},
    {"amount": float("nan"), "count": 7, "country": "FR", "channel": "web"},
]


def read(schema: Schema, attributes: dict[str, Any], rows: int = 1) -> list[dict[str, Any]]:
    """The rows that the attributes carry; the reader's side of the convention."""
    data, mask = attributes.get(names.FEATURES_PACKED), attributes.get(names.FEATURES_NULL_MASK, b"")
    if data is None:
        data, mask = base64.b64decode(attributes[names.FEATURES_PACKED_B64]), base64.b64decode(mask)
    values = np.frombuffer(data, {"f32le": "<f4", "f64le": "<f8"}[attributes[names.FEATURES_ENCODING]])
    assert len(values) == attributes[names.FEATURES_LEN]
    bits = (
        np.unpackbits(np.frombuffer(mask, "u1"), bitorder="little", count=rows * len(schema.names))
        if mask
        else np.zeros(rows * len(schema.names))
    )
    matrix, texts, found = values.reshape(rows, len(schema.numeric)), iter(attributes.get(names.FEATURES_CATEGORICAL, ())), []
    for at in range(rows):
        numbers, row = iter(matrix[at].tolist()), {}
        for i, (name, dtype) in enumerate(zip(schema.names, schema.dtypes, strict=True)):
            value = next(texts) if dtype == "categorical" else next(numbers)
            row[name] = None if bits[at * len(schema.names) + i] else value
        found.append(row)
    return found


def expected(row: dict[str, Any]) -> dict[str, Any]:
    return {name: None if pack.is_missing(row.get(name)) else row[name] for name in SCHEMA.names}


@pytest.mark.parametrize("as_bytes", [True, False], ids=["bytes", "base64"])
@pytest.mark.parametrize("row", ROWS, ids=["full", "none", "nan"])
def test_a_row_comes_back(row: dict[str, Any], as_bytes: bool) -> None:
    """Numbers, texts and what is missing come back; None, NaN and an absent key are all missing."""
    attributes = pack.pack_row(SCHEMA, pack.row_values(SCHEMA, row), as_bytes=as_bytes, faults=Counter())
    assert read(SCHEMA, attributes) == [expected(row)]


FRAME = pd.DataFrame(ROWS)
FORMS: dict[str, Any] = {
    "list of mappings": ROWS,
    "list of sequences": [[row.get(name) for name in SCHEMA.names] for row in ROWS],
    "columns": {name: [row.get(name) for row in ROWS] for name in SCHEMA.names},
    "pandas": FRAME,
    "pandas, other order": FRAME[sorted(FRAME.columns)],
    "arrow": pa.Table.from_pylist(ROWS),
    "arrow batch": pa.RecordBatch.from_pylist(ROWS),
}


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_table_comes_back_from_every_form(form: str) -> None:
    """Lists, columns, pandas and Arrow carry the same rows."""
    assert pack.row_count(FORMS[form]) == 3
    attributes = pack.Table(SCHEMA, FORMS[form]).part(0, 3, as_bytes=True, faults=Counter())
    assert read(SCHEMA, attributes, 3) == [expected(row) for row in ROWS]


@given(st.lists(st.lists(st.floats(width=32) | st.none(), min_size=3, max_size=3), min_size=1, max_size=20))
def test_lists_columns_and_single_rows_agree(rows: list[list[float | None]]) -> None:
    """Three ways of packing, the same values; infinities are values, NaN is missing."""
    schema = declared(["a", "b", "c"], {})
    listed = read(schema, pack.Table(schema, rows).part(0, len(rows), as_bytes=True, faults=Counter()), len(rows))
    columns = {name: [row[i] for row in rows] for i, name in enumerate(schema.names)}
    assert read(schema, pack.Table(schema, columns).part(0, len(rows), as_bytes=True, faults=Counter()), len(rows)) == listed
    assert [read(schema, pack.pack_row(schema, row, as_bytes=True, faults=Counter()))[0] for row in rows] == listed
    assert listed == [{name: None if pack.is_missing(v) else v for name, v in zip("abc", row, strict=True)} for row in rows]


@pytest.mark.parametrize(
    ("dtype", "value", "encoding"),
    [
        ("float32", 0.5, "f32le"),
        ("float32", 1e300, "f64le"),
        ("float64", 0.1, "f64le"),
        ("int64", 2**24, "f32le"),
        ("int64", 2**24 + 1, "f64le"),
        ("int64", np.int64(-(2**24) - 1), "f64le"),
        ("float32", float("inf"), "f32le"),
    ],
    ids=str,
)
def test_what_float32_would_lose_goes_out_as_float64(dtype: str, value: Any, encoding: str) -> None:
    """Integers above 2^24 and numbers beyond float32's range widen the row; a table does the same."""
    schema = declared({"x": dtype}, {})
    table = pack.Table(schema, {"x": np.array([value])})
    for attributes in (
        pack.pack_row(schema, [value], as_bytes=True, faults=Counter()),
        pack.Table(schema, [[value]]).part(0, 1, as_bytes=True, faults=Counter()),
        table.part(0, 1, as_bytes=True, faults=Counter()),
    ):
        assert attributes[names.FEATURES_ENCODING] == encoding
        assert read(schema, attributes) == [{"x": value}]


@pytest.mark.parametrize(
    "row",
    [np.array([1.0, 2.0]), np.array([[1, 2]]), pd.Series({"b": 2, "a": 1}), {"b": 2, "a": 1, "more": 3}, (1, 2), [np.float32(1), True + 1]],
)
def test_single_rows_in_every_form(row: Any) -> None:
    """Arrays and sequences go by order, mappings and Series by name."""
    assert list(pack.row_values(declared(["a", "b"], {}), row)) == [1, 2]


def test_a_value_of_the_wrong_kind_is_missing_and_counted() -> None:
    """Text where a number is declared does not fail the prediction."""
    faults: Counter[str] = Counter()
    schema = declared(["a", "b"], {})
    for attributes in (
        pack.pack_row(schema, ["n/a", "2.5"], as_bytes=True, faults=faults),
        pack.Table(schema, {"a": ["n/a"], "b": ["2.5"]}).part(0, 1, as_bytes=True, faults=faults),
    ):
        assert read(schema, attributes) == [{"a": None, "b": 2.5}]
    assert faults == {"feature_not_a_number": 2}


@pytest.mark.parametrize(
    ("value", "text"),
    [("x", "x"), (True, "true"), (np.bool_(False), "false"), (1, "1"), (1.0, "1"), (np.float64(2.0), "2"), (np.int8(3), "3"), (1.5, "1.5")],
    ids=str,
)
def test_labels_agree_on_both_sides_of_a_join(value: Any, text: str) -> None:
    """A model's numpy float and a label file's integer are the same class."""
    assert pack.text_of(value) == text


def test_spans_are_cut_by_rows_and_by_bytes() -> None:
    """Narrow tables are cut at 10,000 rows, wide ones at about 4 MB."""
    assert pack.rows_per_span(declared(["a"], {})) == pack.MAX_ROWS
    wide = declared([f"f{i}" for i in range(500)], {})
    assert pack.rows_per_span(wide) * 500 * 8 < pack.MAX_SPAN_BYTES < (pack.rows_per_span(wide) + 1) * (500 * 8 + 96)


def test_the_schema_id_is_a_hash_of_ordered_names_and_dtypes() -> None:
    """16 hex digits that change with order, name and dtype, and with nothing else."""
    base = declared({"a": "float32", "b": "int64"}, {})
    assert len(base.id) == 16
    assert int(base.id, 16) >= 0
    assert declared({"a": np.dtype("float32"), "b": "integer"}, {"a": "personal"}).id == base.id
    assert len({base.id, declared({"b": "int64", "a": "float32"}, {}).id, declared(["a", "b"], {}).id}) == 3


def test_faulty_schemas_are_refused_with_their_place() -> None:
    """A dtype outside the list and a name given twice are programming errors."""
    with pytest.raises(ValueError, match=r"features\['a'\]: expected a dtype of float32, .*, got 'complex128'"):
        declared({"a": "complex128"}, {})
    with pytest.raises(ValueError, match=r"expected distinct names, got \['a'\] more than once"):
        declared(["a", "b", "a"], {})
