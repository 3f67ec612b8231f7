"""The roll-ups by hour and day: sums of the rows, and nothing twice."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from tests.sketch.conftest import START_S, Database, predictions

from leadline._kernel import SKETCH_COLUMNS, Sketches

SUMS = (
    "toUInt32(sum(observed)) AS observed, sum(estimated) AS estimated, toUInt32(sum(weight_unknown)) AS weight_unknown, sum(weight_sq) AS weight_sq, "
    "sum(r.sum) AS total, sum(sum_sq) AS total_sq, min(r.min) AS least, max(r.max) AS most"
)
KEY = "model, version, role, series, bins_id, bins_id_next"


@pytest.fixture(autouse=True)
def _empty(database: Database) -> Iterator[None]:
    yield
    for table in ("sketches", "sketches_1h", "sketches_1d"):
        database.rows(f"TRUNCATE TABLE {table}")


def _blocks() -> list[bytes]:
    """Six blocks over three hours, of two versions; the reference changes on the way."""
    rng = np.random.default_rng(7)
    sketches = Sketches()
    blocks = []
    for block in range(6):
        if block == 2:
            sketches.set_references([("m", "features/amount", "old", [0.0, 1.0, 2.0], [], [])])
        if block == 4:
            sketches.set_references(
                [("m", "features/amount", name, edges, [0.5], []) for name, edges in (("old2", [0.0, 2.0]), ("new", [0.0]))]
            )
        for version in ("1", "2"):
            columns = {"amount": rng.lognormal(size=700), "items": rng.poisson(3, 700).astype(np.float64)}
            for batch in predictions(
                columns, version=version, minute=30 * block, weight=[None, 4.0][block % 2], predicted=["yes", "no", "no", "?"] * 175
            ):
                sketches.add(batch)
        blocks.append(sketches.drain("gw-1", block)[0])
    return blocks


@pytest.mark.parametrize(("table", "rows_a_key"), [("sketches_1h", 3), ("sketches_1d", 1)])
def test_rollups_hold_the_sums_of_the_rows(table: str, rows_a_key: int, database: Database) -> None:
    """Counts, moments, atoms, bins of each id, categories and quantiles are those of the rows themselves."""
    for number, block in enumerate(_blocks()):
        database.insert(block, token=f"gw-1/{number}/sketches/0")
    order = f"GROUP BY {KEY} ORDER BY {KEY}"
    assert database.rows(f"SELECT {KEY}, {SUMS} FROM {table} AS r {order}") == database.rows(
        f"SELECT {KEY}, {SUMS} FROM sketches AS r {order}"
    )
    rolled = f"SELECT {KEY}, sumMap(atoms) AS atoms, sumForEachMerge(bins) AS bins, sumForEachMerge(bins_next) AS bins_next, sumMap(categories) AS categories FROM {table} {order}"
    raw = f"SELECT {KEY}, sumMap(mapKeys(atoms), mapValues(atoms)) AS atoms, sumForEach(bins) AS bins, sumForEach(bins_next) AS bins_next, sumMap(categories) AS categories FROM sketches {order}"
    assert database.rows(rolled) == database.rows(raw)
    [row] = database.rows(f"SELECT sumMap(categories) AS texts FROM {table} WHERE series = 'predicted' AND version = '1'")
    assert row["texts"] == {"?": 3 * 175 * 5, "no": 3 * 350 * 5, "yes": 3 * 175 * 5}
    quantiles = "SELECT version, quantilesTDigestMerge(0.1, 0.5, 0.9)(digest) AS q FROM {} WHERE series = 'features/amount' GROUP BY version ORDER BY version"
    for one, other in zip(database.rows(quantiles.format(table)), database.rows(quantiles.format("sketches")), strict=True):
        assert one["q"] == pytest.approx(other["q"], rel=0.02)
    database.rows(f"OPTIMIZE TABLE {table} FINAL")
    [row] = database.rows(f"SELECT toUInt32(count()) AS n FROM {table} WHERE series = 'features/items' AND version = '1'")
    assert row["n"] == rows_a_key


def test_a_block_that_is_sent_twice_changes_nothing(database: Database) -> None:
    """The same token again: neither the table nor its roll-ups grow. Another token: all three do."""
    first, second, *_ = _blocks()

    def counts() -> list[int]:
        query = "SELECT toUInt32(sum(observed)) AS n FROM {} WHERE series = ''"
        return [database.rows(query.format(table))[0]["n"] for table in ("sketches", "sketches_1h", "sketches_1d")]

    database.insert(first, token="gw-1/1/sketches/0")
    assert counts() == [1400] * 3
    database.insert(second, token="gw-1/2/sketches/0")
    database.insert(first, token="gw-1/1/sketches/0")
    database.insert(second, token="gw-1/2/sketches/0")
    assert counts() == [2800] * 3
    database.insert(first, token="gw-2/1/sketches/0")
    assert counts() == [4200] * 3


def test_columns_are_those_of_the_table(database: Database) -> None:
    """`SKETCH_COLUMNS` is what the migrations make, in the same order."""
    table = database.rows("SELECT name, type FROM system.columns WHERE table = 'sketches' ORDER BY position")
    assert [(row["name"], row["type"]) for row in table] == list(SKETCH_COLUMNS)


def test_the_view_takes_only_windows_asked_for(database: Database) -> None:
    """`since` is part of the time, `until` is not; a series without numbers has no row; over more than two days the roll-up by the hour is read."""
    sketches = Sketches()
    for minute in range(3):
        for batch in predictions({"x": np.array([1.0, np.nan]) + minute}, minute=minute, weight=2.0):
            sketches.add(batch)
    database.insert(sketches.drain("gw-1", 0)[0], token="gw-1/0/sketches/0")
    between = f"since = '{START_S + 60}', until = '{START_S + 120}'"
    columns = "toUInt32(observed) AS observed, estimated, toUInt32(non_finite + nulls) AS odd, n, xs, cdf, cdf_left, p50"
    rows = database.rows(f"SELECT {columns} FROM series_distribution({between}) WHERE series = 'features/x'")
    assert rows == [{"observed": 2, "estimated": 4, "odd": 1, "n": 2, "xs": [2], "cdf": [1], "cdf_left": [0], "p50": 2}]
    assert database.rows(f"SELECT series FROM series_distribution({between}) WHERE series = ''") == []
    days = f"since = '{START_S - 86_400}', until = '{START_S + 2 * 86_400}'"
    rows = database.rows(f"SELECT {columns} FROM series_distribution({days}) WHERE series = 'features/x'")
    thirds = [pytest.approx(share) for share in (0, 1 / 3, 2 / 3, 1)]
    curve = {"xs": [1, 2, 3], "cdf": thirds[1:], "cdf_left": thirds[:3], "p50": 2}
    assert rows == [{"observed": 6, "estimated": 12, "odd": 3, "n": 6, **curve}]
    database.rows("TRUNCATE TABLE sketches")
    assert database.rows(f"SELECT {columns} FROM series_distribution({days}) WHERE series = 'features/x'") == rows
