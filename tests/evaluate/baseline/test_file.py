"""Baselines from files: what is read, how it is counted, what is refused."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leadline.errors import ConfigError
from leadline.evaluate.baseline import Baseline, Reference, from_file
from leadline.evaluate.baseline import file as module


def _write(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def _by_series(baseline: Baseline) -> dict[str, Reference]:
    return {reference.series: reference for reference in baseline.references}


ROWS: list[list[Any]] = [
    ["1", 0.5, "DE", "true", "fraud", 0.9, 7],
    ["2", 1.5, "FR", "false", "ok", 0.1, 3],
    ["1", "", "DE", "true", "ok", 0.2, ""],
    ["2", 2.5, "NA", "false", "ok", 0.3, "inf"],
]
HEADER = ["sex", "amount", "country", "vip", "predicted", "score", "features/raw"]


def test_columns_become_series(tmp_path: Path) -> None:
    shares: list[float] = []
    path = _write(tmp_path / "train.csv", HEADER, ROWS)
    baseline = from_file(path, name="b", model="m", categorical=["sex"], exclude=["vip"], progress=shares.append)
    found = _by_series(baseline)
    assert list(found) == ["features/sex", "features/amount", "features/country", "predicted", "score", "features/raw"]
    assert [reference.bins.kind for reference in found.values()] == [
        "categorical",
        "numeric",
        "categorical",
        "categorical",
        "numeric",
        "numeric",
    ]
    assert found["features/sex"].bins.categories == ("1", "2")
    assert found["features/amount"].counts[0] == 1, "an empty cell is missing"
    assert found["features/country"].counts.tolist() == [1, 2, 1, 0], "and so is NA"
    assert found["features/raw"].counts[:2].tolist() == [1, 1], "one missing, one not finite"
    assert all(reference.counts.sum() == reference.n_eff == 4 for reference in found.values())
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert (baseline.source, baseline.notes) == ("train.csv, 4 rows", ())


def test_flags_are_numbers(tmp_path: Path) -> None:
    baseline = from_file(_write(tmp_path / "a.csv", ["vip"], [["True"], ["false"], ["TRUE"]]), name="b", model="m")
    (reference,) = baseline.references
    assert reference.bins.kind == "numeric"
    assert reference.counts.sum() == 3


def test_every_row_is_counted_though_bins_come_from_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE_ROWS", 5_000)
    monkeypatch.setattr(module, "CHUNK_ROWS", 1_000)
    rng = np.random.default_rng(1)
    values, texts = rng.lognormal(0, 1, 30_000), rng.choice(["a", "b", "c"], 30_000, p=[0.7, 0.2, 0.1])
    path = _write(tmp_path / "big.csv", ["x", "t"], list(zip(values, texts, strict=True)))
    found = _by_series(from_file(path, name="b", model="m"))
    numeric = found["features/x"]
    assert numeric.counts.tolist() == numeric.bins.count(values).tolist()
    assert numeric.counts.sum() == 30_000
    assert np.abs(numeric.counts[3:23] / 30_000 - 0.05).max() < 0.01, "a sample of 5,000 places the edges that well"
    assert dict(zip(found["features/t"].bins.categories, found["features/t"].counts[1:], strict=False)) == Counter(texts.tolist())
    again = from_file(path, name="b", model="m")
    assert [reference.bins for reference in again.references] == [numeric.bins, found["features/t"].bins]


def test_late_text_in_a_numeric_column_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE_ROWS", 1_000)
    rows = [[str(n)] for n in range(40_000)]
    rows[-1] = ["oops"]
    baseline = from_file(_write(tmp_path / "a.csv", ["x"], rows), name="b", model="m")
    assert baseline.references[0].counts[0] == 1
    assert baseline.notes == ("x: 1 of 40000 values are not numbers, counted as missing; name it as categorical if it is text",)


def test_times_make_the_history(tmp_path: Path) -> None:
    rows = [["2026-01-01T00:10:00Z", 1], ["2026-01-01T01:59:59+01:00", 2], ["1767229200", 3], ["1767229200000", 4], ["", 5]]
    baseline = from_file(_write(tmp_path / "a.csv", ["at", "x"], rows), name="b", model="m", time="at")
    (reference,) = baseline.references
    hour = 1_767_225_600
    assert {start: counts.sum() for start, counts in reference.windows.items()} == {hour: 2, hour + 3600: 2}
    assert reference.counts.sum() == 5, "a row without a time is in the whole"


def test_parquet_gives_what_csv_gives(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table(
        {
            "sex": pyarrow.array([1, 2, 1, 2]), "amount": [0.5, 1.5, None, 2.5], "country": ["DE", "FR", "DE", None], "vip": [True, False, True, False],
            "predicted": ["fraud", "ok", "ok", "ok"], "score": [0.9, 0.1, 0.2, 0.3], "features/raw": [7.0, 3.0, None, float("inf")],
        }
    )  # fmt: skip
    parquet.write_table(table, tmp_path / "train.parquet")
    ours = from_file(tmp_path / "train.parquet", name="b", model="m", categorical=["sex"])
    theirs = from_file(_write(tmp_path / "train.csv", HEADER, ROWS), name="b", model="m", categorical=["sex"])
    for mine, other in zip(ours.references, theirs.references, strict=True):
        assert (mine.series, mine.bins, mine.counts.tolist()) == (other.series, other.bins, other.counts.tolist())
    parquet.write_table(table.slice(0, 0), tmp_path / "empty.parquet")
    with pytest.raises(ConfigError, match="expected rows after the header, got none"):
        from_file(tmp_path / "empty.parquet", name="b", model="m")


@pytest.mark.parametrize(
    ("text", "arguments", "says"),
    [
        ("", {}, "expected a header of column names, each once, in the first line; got an empty file"),
        ("a,a\n1,2\n", {}, "some names come twice"),
        ("a,b\n", {}, "expected rows after the header, got none"),
        ("a,b\n1,2\n3\n", {}, "a.csv:3: expected 2 cells as in the header, got 1"),
        ("a\n1\n", {"time": "at"}, "there is no column 'at' (named in time); the columns are a"),
        ("a\n1\n", {"categorical": ["c"], "exclude": ["d"]}, "no column 'd' (named in exclude)"),
        ("a\n1\n", {"exclude": ["a"]}, "expected at least one column with values"),
        ("a,b\nNA,\n", {}, "expected at least one column with values, got a, b"),
        ("a,at\n1,yesterday\n", {"time": "at"}, "column 'at': expected a time"),
        ("a\n\xff\n", {}, "expected CSV in UTF-8"),
    ],
)
def test_faults_say_what_to_do(tmp_path: Path, text: str, arguments: dict[str, Any], says: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError) as refused:
        from_file(path, name="b", model="m", **arguments)
    assert says in str(refused.value)


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        from_file(tmp_path / "none.csv", name="b", model="m")
    (tmp_path / "a.parquet").write_bytes(b"not parquet")
    with pytest.raises(ConfigError, match="cannot be read as Parquet"):
        from_file(tmp_path / "a.parquet", name="b", model="m")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match="pip install pyarrow"):
        from_file(tmp_path / "a.parquet", name="b", model="m")


def test_too_many_windows_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WINDOWS", 3)
    path = _write(tmp_path / "a.csv", ["at", "x"], [[hour * 3600, hour] for hour in range(5)])
    with pytest.raises(ConfigError, match="at most 3 windows of 3600 s"):
        from_file(path, name="b", model="m", time="at")


async def test_rows_arrive_and_the_same_baseline_twice_changes_nothing(tmp_path: Path, store: Any) -> None:
    rows = [[hour * 3600 + 1_767_225_600, hour % 5, "DE"] for hour in range(48)]
    path = _write(tmp_path / "a.csv", ["at", "x", "country"], rows)
    for created in (10**18, 2 * 10**18):
        for block in from_file(path, name="train", model="m", version="3", time="at").blocks(created):
            await store.insert(block)
    found = await store.query("SELECT * FROM baselines ORDER BY series")
    baseline = from_file(path, name="train", model="m", version="3", time="at")
    assert [(row["series"], row["kind"], row["n_eff"], row["version"]) for row in found] == [
        ("features/country", "categorical", 48, "3"),
        ("features/x", "numeric", 48, "3"),
    ]
    by_series = _by_series(baseline)
    for row in found:
        reference = by_series[row["series"]]
        assert row["bins_id"] == reference.bins.id("m", row["series"])
        assert (tuple(row["edges"]), tuple(row["atoms"]), tuple(row["categories"])) == (
            reference.bins.edges,
            reference.bins.atoms,
            reference.bins.categories,
        )
        assert row["counts"] == reference.counts.tolist()
    windows = await store.query(
        "SELECT bins_id, count() AS n, sumForEach(counts) AS counts, any(window_s) AS window_s FROM baseline_windows GROUP BY bins_id ORDER BY n"
    )
    assert [(row["n"], row["window_s"]) for row in windows] == [(48, 3600)] * 2
    assert {row["bins_id"]: row["counts"] for row in windows} == {row["bins_id"]: row["counts"] for row in found}
    assert json.loads(baseline.blocks(10**18)[0].data.splitlines()[0])["created_at"] == "1000000000.000"
