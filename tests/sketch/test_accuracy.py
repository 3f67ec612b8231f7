"""A million predictions in 60 windows and two versions, through real bytes and real SQL: how far off quantiles and CDF are."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.sketch.conftest import START_S, Database, predictions

from leadline._kernel import Sketches

ROWS, WINDOWS = 1_000_000, 60
BETWEEN = f"since = '{START_S}', until = '{START_S + 60 * WINDOWS}'"


def _series() -> dict[str, NDArray[np.float64]]:
    rng = np.random.default_rng(20_261_123)
    normal, lognormal = rng.standard_normal(ROWS), rng.lognormal(0.0, 1.0, ROWS)
    return {
        "normal": normal,
        "lognormal": lognormal,
        "zero_inflated_normal": np.where(rng.random(ROWS) < 0.6, 0.0, rng.standard_normal(ROWS)),
        "zero_inflated_lognormal": np.where(rng.random(ROWS) < 0.6, 0.0, rng.lognormal(0.0, 1.0, ROWS)),
        "rounded_normal": np.round(rng.standard_normal(ROWS), 2),
        "rounded_wide_normal": np.round(rng.normal(100.0, 15.0, ROWS), 2),
        "rounded_lognormal": np.round(rng.lognormal(0.0, 1.0, ROWS), 2),
        "poisson": rng.poisson(3.0, ROWS).astype(np.float64),
        "constant": np.full(ROWS, 7.25),
    }


@pytest.fixture(scope="module")
def series(database: Database) -> dict[str, NDArray[np.float64]]:
    """The values as they were sent; their sketches are in the database, one block a minute."""
    columns = _series()
    for minute in range(WINDOWS):
        sketches = Sketches()
        for version in (0, 1):
            part = slice(2 * minute + version, None, 2 * WINDOWS)
            for batch in predictions({name: column[part] for name, column in columns.items()}, version=str(version), minute=minute):
                sketches.add(batch)
        rows, _ = sketches.drain("gw-1", minute)
        database.insert(rows, token=f"gw-1/{minute}/sketches/0")
    return columns


def test_every_prediction_is_counted(series: dict[str, NDArray[np.float64]], database: Database) -> None:
    """The rows of series '' count the predictions; each series' own rows count them again."""
    counted = database.rows("SELECT series, toUInt32(sum(observed)) AS n, count() AS rows FROM sketches GROUP BY series")
    assert {row["series"]: (row["n"], int(row["rows"])) for row in counted if row["series"] != "duration_ms"} == dict.fromkeys(
        ["", *(f"features/{name}" for name in series)], (ROWS, 2 * WINDOWS)
    )


@pytest.mark.parametrize("name", ["normal", "lognormal"])
def test_plain_sql_over_digests_gives_quantiles(name: str, series: dict[str, NDArray[np.float64]], database: Database) -> None:
    """Of continuous data, `quantilesTDigestMerge` alone is within 0.3 % of rank, and within 0.05 % at 0.999."""
    levels = {0.01: 0.003, 0.5: 0.003, 0.9: 0.003, 0.99: 0.003, 0.999: 0.0005}
    merged = f"quantilesTDigestMerge({', '.join(map(str, levels))})(digest)"
    [row] = database.rows(f"SELECT {merged} AS q FROM sketches WHERE series = 'features/{name}'")
    ranks = np.searchsorted(np.sort(series[name]), row["q"]) / ROWS
    for (level, bar), rank in zip(levels.items(), ranks, strict=True):
        assert abs(rank - level) <= bar, f"{level}: {rank}"


@pytest.mark.parametrize("name", list(_series()))
@pytest.mark.parametrize("version", [0, 1])
def test_the_view_gives_the_cdf(name: str, version: int, series: dict[str, NDArray[np.float64]], database: Database) -> None:
    """Of any data, the shipped view's CDF is within 0.002 at every value that occurs and just left of it."""
    values = np.sort(series[name][version::2])
    columns = "n, xs, cdf, cdf_left, [p01, p50, p90, p99, p999] AS quantiles"
    where = f"model = 'm' AND version = '{version}' AND series = 'features/{name}'"
    [row] = database.rows(f"SELECT {columns} FROM series_distribution({BETWEEN}) WHERE {where}")
    assert row["n"] == pytest.approx(len(values), rel=1e-6)
    xs, cdf, cdf_left = (np.array(row[key]) for key in ("xs", "cdf", "cdf_left"))
    assert (np.diff(xs) > 0).all()
    assert (np.diff(np.column_stack([cdf_left, cdf]).ravel()) >= -1e-12).all(), "the curve never falls"
    at = np.unique(values)
    assert np.abs(_cdf(xs, cdf, cdf_left, at, left=False) - np.searchsorted(values, at, side="right") / len(values)).max() <= 0.002
    assert np.abs(_cdf(xs, cdf, cdf_left, at, left=True) - np.searchsorted(values, at, side="left") / len(values)).max() <= 0.002
    for level, quantile in zip((0.01, 0.5, 0.9, 0.99, 0.999), row["quantiles"], strict=True):
        below, up_to = (np.searchsorted(values, quantile, side=side) / len(values) for side in ("left", "right"))
        assert below - 0.002 <= level <= up_to + 0.002


@pytest.mark.parametrize("name", ["poisson", "constant", "rounded_normal", "rounded_lognormal"])
def test_what_fits_into_atoms_is_exact(name: str, series: dict[str, NDArray[np.float64]], database: Database) -> None:
    """Discrete data has no sketch error at all."""
    [row] = database.rows(f"SELECT sumMap(mapKeys(atoms), mapValues(atoms)) AS atoms FROM sketches WHERE series = 'features/{name}'")
    values, counts = np.unique(series[name], return_counts=True)
    assert row["atoms"] == [values.tolist(), counts.tolist()]


def test_sql_functions_read_a_distribution(series: dict[str, NDArray[np.float64]], database: Database) -> None:
    """`leadline_cdf`, `leadline_cdf_left` and `leadline_quantile` evaluate it at any place."""
    asked = ", ".join(f"leadline_cdf(xs, cdf, cdf_left, {x}), leadline_cdf_left(xs, cdf, cdf_left, {x})" for x in (-99, 0, 0.25, 99))
    where = "version = '0' AND series = 'features/zero_inflated_normal'"
    levels = "[leadline_quantile(xs, cdf, cdf_left, 0.1), leadline_quantile(xs, cdf, cdf_left, 0.5)]"
    [row] = database.rows(f"SELECT [{asked}] AS shares, {levels} AS quantiles FROM series_distribution({BETWEEN}) WHERE {where}")
    values = series["zero_inflated_normal"][0::2]
    expected = [share for x in (-99, 0, 0.25, 99) for share in ((values <= x).mean(), (values < x).mean())]
    assert row["shares"] == pytest.approx(expected, abs=0.002)
    assert row["quantiles"] == pytest.approx([np.quantile(values, 0.1), 0.0], abs=0.01)
    rows = database.rows(f"SELECT level, value FROM series_quantiles({BETWEEN}) WHERE {where} ORDER BY level")
    assert [row["level"] for row in rows][:2] == [0.001, 0.01]
    assert [row["value"] for row in rows] == sorted(row["value"] for row in rows)


def _cdf(
    xs: NDArray[np.float64], cdf: NDArray[np.float64], cdf_left: NDArray[np.float64], at: NDArray[np.float64], *, left: bool
) -> NDArray[np.float64]:
    """The view's curve at many places, as `leadline_cdf` evaluates it at one."""
    i = np.searchsorted(xs, at, side="right") - 1
    before, last = i < 0, len(xs) - 1
    i = i.clip(0, last)
    j = np.minimum(i + 1, last)
    share = np.divide(at - xs[i], xs[j] - xs[i], out=np.zeros_like(at), where=j > i)
    between = cdf[i] + np.where(j > i, cdf_left[j] - cdf[i], 0.0) * share
    return np.where(before, 0.0, np.where(xs[i] == at, (cdf_left if left else cdf)[i], between))
