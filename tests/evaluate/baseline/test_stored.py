"""Baselines from what was measured: atoms and digests give the shares that the values themselves would."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from leadline.errors import ConfigError
from leadline.evaluate.baseline import from_store

HOURS = 24
START = 1_767_225_600


async def _fill(store: Any, values: np.ndarray[Any, Any], hours: np.ndarray[Any, Any]) -> None:
    """Sketches of a zero-inflated feature by the minute, made by ClickHouse itself from the raw values; nulls, infinities and a category beside it."""
    store.run("CREATE TABLE raw (hour UInt32, x Float64) ENGINE = Memory")
    store.run(
        "INSERT INTO raw VALUES " + ",".join(f"({hour},{value!r})" for hour, value in zip(hours.tolist(), values.tolist(), strict=True))
    )
    store.run(
        f"""
        INSERT INTO sketches (window_start, window_s, model, version, role, series, observed, estimated, weight_sq, nulls, non_finite, atoms, digest)
        SELECT {START} + hour * 3600 + 60 * (cityHash64(x) % 60) AS at, 60, 'm', '1', '', 'features/x', count() + 2, count() + 2, count() + 2, 1, 1,
               map(0., toFloat64(countIf(x = 0))), quantileTDigestStateIf(toFloat32(x), x != 0)
        FROM raw GROUP BY at, hour"""
    )
    store.run(
        f"""
        INSERT INTO sketches (window_start, window_s, model, version, role, series, observed, estimated, weight_sq, nulls, categories)
        SELECT {START} + number * 3600, 60, 'm', '1', role, 'predicted', 10, 20, 40, 1, map('ok', 12., 'fraud', 4., '(other)', 2.)
        FROM numbers({HOURS}) ARRAY JOIN ['', 'shadow'] AS role"""
    )


async def test_counts_from_atoms_and_digests_are_those_of_the_values(store: Any) -> None:
    rng = np.random.default_rng(1)
    hours = rng.integers(0, HOURS, 60_000)
    values = np.where(rng.random(60_000) < 0.3, 0.0, rng.lognormal(3, 1, 60_000).astype(np.float32))
    await _fill(store, values, hours)
    shares: list[float] = []
    baseline = await from_store(
        store, name="b", model="m", since_ns=START * 10**9, until_ns=(START + HOURS * 3600) * 10**9, progress=shares.append
    )
    numeric, predicted = baseline.references
    assert (numeric.series, numeric.bins.kind, numeric.bins.atoms) == ("features/x", "numeric", (0.0,))
    exact = numeric.bins.count(values)
    n = len(values)
    assert numeric.counts[-1] == exact[-1], "atoms are exact"
    assert numeric.counts[0] == numeric.counts[1] > 0
    assert np.abs(numeric.counts[2:] - exact[2:]).max() / n < 0.002
    assert numeric.counts[2:].sum() == pytest.approx(n)
    assert exact[3:-2].max() / n < 0.07, "quantile bins of the seven tenths that are not zero"
    assert len(numeric.windows) == HOURS
    for hour in (0, 23):
        own = numeric.bins.count(values[hours == hour])
        assert np.abs(numeric.windows[START + hour * 3600][2:] - own[2:]).max() / own.sum() < 0.01
    assert (predicted.series, predicted.bins.categories) == ("predicted", ("ok", "fraud"))
    assert predicted.counts.tolist() == [2 * HOURS, 12 * HOURS, 4 * HOURS, 2 * HOURS], "nulls weigh as the others; shadow is left out"
    assert predicted.n_eff == (20 * HOURS) ** 2 / (40 * HOURS)
    assert shares == [0.5, 1.0]
    for block in baseline.blocks(10**18):
        await store.insert(block)
    assert (await store.query("SELECT count() AS n FROM baseline_windows"))[0]["n"] == 2 * HOURS


async def test_an_empty_range_and_a_long_one_are_refused(store: Any) -> None:
    with pytest.raises(ConfigError, match="nothing was measured of model 'm', version '9' in the range; SELECT model"):
        await from_store(store, name="b", model="m", version="9", since_ns=0, until_ns=10**12)
    with pytest.raises(ConfigError, match="at most 20000 windows of 60 s"):
        await from_store(store, name="b", model="m", since_ns=0, until_ns=10**18, window_s=60)
