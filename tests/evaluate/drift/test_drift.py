"""The population stability index, its null, what history teaches, and the alarms that come of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.spatial.distance import jensenshannon

from leadline.evaluate.detector import DriftRule
from leadline.evaluate.drift import DETECTORS
from leadline.evaluate.drift.calibration import DAY_NS, calibrate
from leadline.evaluate.drift.psi import ShapeError, effective, paired_psi, population_stability_index, psi_null, psi_terms
from leadline.evaluate.drift.rule import bin_names
from leadline.model.readings import DriftReading

HOUR_NS = DAY_NS // 24
EDGES = tuple(float(edge) for edge in stats.norm.ppf(np.linspace(0.001, 0.999, 21)))
RULE = DriftRule("drift", "h", "fraud", "drift", "baseline/train", ("*",), "psi", HOUR_NS, 1 / (90 * 24))


def _shares(shift: float | NDArray[np.float64], scale: float = 1.0) -> NDArray[np.float64]:
    """Shares of a normal sample over `EDGES`, as the counts are laid out: null, non-finite, under, bins, over."""
    cdf = stats.norm.cdf(np.asarray(EDGES), loc=np.asarray(shift)[..., None], scale=scale)
    inner = np.diff(cdf, axis=-1)
    zero = np.zeros((*cdf.shape[:-1], 2))
    return np.concatenate([zero, cdf[..., :1], inner, 1 - cdf[..., -1:]], axis=-1)


def _reading(reference: Any, current: Any, **changes: Any) -> DriftReading:
    reading = DriftReading(
        "fraud", "features/amount", "numeric", "b1", EDGES, (), (), tuple(reference), float(sum(reference)),
        (), 0, tuple(current), float(sum(current)), 100 * DAY_NS, 100 * DAY_NS + HOUR_NS,
    )  # fmt: skip
    return replace(reading, **changes)


def test_psi_is_the_symmetrised_divergence() -> None:
    reference, current = np.array([120.0, 300, 80]), np.array([10.0, 40, 50])
    p, q = (reference + 0.5) / 501.5, (current + 0.5) / 101.5
    assert population_stability_index(reference, current).statistic == pytest.approx(stats.entropy(p, q) + stats.entropy(q, p))
    assert psi_terms(reference, current).sum() == pytest.approx(population_stability_index(reference, current).statistic)
    assert population_stability_index(reference, reference).statistic == 0.0
    assert population_stability_index([5], [7]).statistic == 0.0
    assert population_stability_index([1, 0], [0, 1], pseudo_count=0).statistic == np.inf
    # a bound that any such divergence keeps to its bounded cousin
    assert population_stability_index(reference, current).statistic >= 4 * jensenshannon(p, q) ** 2


def test_bins_that_are_empty_on_both_sides_say_nothing() -> None:
    few, many = [30, 70], [300_000, 700_000]
    assert population_stability_index([*many, 0, 0, 0], [*few, 0, 0, 0]) == population_stability_index(many, few)
    pairs = paired_psi(np.array([[3.0, 7, 0], [3, 0, 7]]), np.array([[4.0, 6, 0], [0, 1, 9]]))
    assert pairs == pytest.approx(
        [population_stability_index([3, 7], [4, 6]).statistic, population_stability_index([3, 0, 7], [0, 1, 9]).statistic]
    )


@pytest.mark.parametrize(
    ("reference", "current", "says"),
    [
        ([1, 2], [1], "one length"),
        ([0, 0], [1, 2], "reference"),
        ([1, 2], [0, 0], "current"),
        ([1, -1], [1, 1], "at least 0"),
        ([1, np.nan], [1, 1], "at least 0"),
    ],
)
def test_counts_that_cannot_be_compared(reference: list[float], current: list[float], says: str) -> None:
    with pytest.raises(ShapeError, match=says):
        population_stability_index(reference, current)


@pytest.mark.parametrize(
    ("n", "m", "bins", "how"),
    [(100_000, 2_000, 20, "chi2"), (20_000, 900, 12, "chi2"), (5_000, 100, 30, "simulated"), (400, 120, 10, "simulated")],
)
def test_the_null_holds_its_level(n: int, m: int, bins: int, how: str) -> None:
    """20,000 pairs without a change: as many as promised pass the 1 % and the 0.1 % quantile, within four standard errors and 30 %."""
    rng = np.random.default_rng(5)
    shares = rng.dirichlet(np.full(bins, 5.0))
    reference, current = rng.multinomial(n, shares, 20_000), rng.multinomial(m, shares, 20_000)
    values = paired_psi(reference.astype(float), current.astype(float))
    null = psi_null(n * shares, m * shares)
    assert null.how == how
    assert values.mean() == pytest.approx(null.mean, rel=0.06)
    for alpha in (0.01, 0.001):
        passed = float((values >= null.quantile(alpha)).mean())
        assert passed <= 1.6 * alpha + 4 * np.sqrt(alpha / 20_000), (alpha, passed)
        assert passed >= 0.4 * alpha - 4 * np.sqrt(alpha / 20_000), (alpha, passed)


def test_the_null_is_a_pure_function() -> None:
    counts = ([30, 4, 1, 9], [5, 0, 2, 9])
    assert psi_null(*counts) == psi_null(*counts)
    null = psi_null(*counts)
    assert null.p_value(null.quantile(1e-4)) == pytest.approx(1e-4)
    assert 0 < null.p_value(1e9) < 1e-100
    assert psi_null([5], [9]).p_value(0.0) == 1.0


def test_weights_count_as_their_effective_sample_size() -> None:
    assert effective([300.0, 700.0], 100.0).tolist() == [30.0, 70.0]
    assert effective([3.0, 7.0], 100.0).tolist() == [3.0, 7.0], "never more than there is"


def _history(days: int, rng: np.random.Generator, n: int = 2_000) -> tuple[tuple[int, tuple[float, ...]], ...]:
    """Hours of traffic that swings with the hour and strays with the day."""
    hours = np.arange(days * 24)
    shift = 0.3 * np.sin(2 * np.pi * hours / 24) + np.repeat(rng.normal(0, 0.05, days), 24)
    counts = rng.multinomial(n, _shares(shift))
    return tuple((int(hour) * HOUR_NS, tuple(row.astype(float).tolist())) for hour, row in zip(hours, counts, strict=True))


@pytest.mark.parametrize(("days", "rung"), [(0, "uncalibrated"), (6, "uncalibrated"), (7, "days"), (27, "days"), (28, "hour_of_week")])
def test_the_ladder(days: int, rung: str) -> None:
    history = _history(days, np.random.default_rng(1))
    reference = np.array([row for _, row in history]).sum(0) if history else 1000 * _shares(0.0)
    found = calibrate(reference, history, HOUR_NS if days else 0, 100 * DAY_NS, HOUR_NS)
    assert found.rung == rung
    assert (found.history is None) == (rung == "uncalibrated")
    assert bool(found.why) == (rung != "hour_of_week")
    if found.history:
        assert found.windows == days * 24
        assert found.highest >= found.history.mean
    # matched to the hour, the reference strays far less than a day does against itself
    if rung == "hour_of_week":
        assert found.highest < 0.12
    elif rung == "days":
        assert found.highest > 0.12


def test_a_window_is_not_compared_with_its_own_day() -> None:
    """One odd day must look odd: with itself in the reference it would look less so."""
    rng = np.random.default_rng(2)
    history = list(_history(7, rng, 200))
    odd = tuple(rng.multinomial(200, _shares(3.0)).astype(float).tolist())
    history[24:48] = [(start, odd) for start, _ in history[24:48]]
    rest = np.array([row for start, row in history if start // DAY_NS != 1]).sum(0)
    found = calibrate(rest, history, HOUR_NS, 0, HOUR_NS)
    assert found.highest == pytest.approx(population_stability_index(rest, odd).statistic)


def test_narrow_windows_of_history_add_up() -> None:
    history = _history(8, np.random.default_rng(3))
    reference = np.array([row for _, row in history]).sum(0)
    assert calibrate(reference, history, HOUR_NS, 0, 6 * HOUR_NS).windows == 8 * 4
    assert calibrate(reference, history[1:], HOUR_NS, 0, 6 * HOUR_NS).windows == 8 * 4 - 1, "a window that is not whole is left out"
    assert "evenly" in calibrate(reference, history, HOUR_NS, 0, HOUR_NS // 2).why
    assert "evenly" in calibrate(reference, history, HOUR_NS, 0, 7 * HOUR_NS).why


def test_a_shift_makes_a_ticket_that_says_what_moved() -> None:
    rng = np.random.default_rng(4)
    reading = _reading(rng.multinomial(50_000, _shares(0.0)), rng.multinomial(2_000, _shares(1.0)))
    (judgement,) = DETECTORS["psi"](RULE, reading, family=6, memories={})
    assert (judgement.severity, judgement.tripped) == ("ticket", True)
    assert judgement.value is not None
    assert judgement.threshold is not None
    assert judgement.value > judgement.threshold
    assert judgement.summary.startswith(f"PSI {judgement.value:.3g}, limit {judgement.threshold:.3g}; most of it in ")
    assert judgement.summary.endswith(". Not calibrated: the reference has no history by time.")
    assert judgement.evidence["calibration"] == "uncalibrated"
    assert judgement.evidence["alpha"] == pytest.approx(1 / (90 * 24) / 6)
    assert judgement.evidence["moved"][0]["bin"].startswith(("[", ">"))
    assert json.loads(json.dumps(judgement.evidence, allow_nan=False)) == judgement.evidence


def test_significant_is_not_enough_and_large_is_not_enough() -> None:
    """A tiny shift of a million predictions has evidence without effect; a large index of a hundred has effect without evidence."""
    rng = np.random.default_rng(6)
    tiny = _reading(rng.multinomial(1_000_000, _shares(0.0)), rng.multinomial(1_000_000, _shares(0.02)))
    (judgement,) = DETECTORS["psi"](RULE, tiny, family=1, memories={})
    assert judgement.evidence["p_value"] < 1e-6
    assert judgement.tripped is False
    few = _reading(rng.multinomial(1_000_000, _shares(0.0)), rng.multinomial(110, _shares(0.0)))
    (judgement,) = DETECTORS["psi"](RULE, few, family=1, memories={})
    assert judgement.value is not None
    assert judgement.value > 0.1
    assert judgement.tripped is False


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"current_n_eff": 99.0}, "insufficient data: 99 predictions in the window, 100 needed"),
        ({"current_n_eff": float("nan")}, "insufficient data"),
        ({"reference_n_eff": 20.0}, "20 predictions in the reference"),
        ({"current": (1.0, 2.0)}, "other bins"),
        ({"current": (0.0,) * 24, "current_n_eff": 200.0}, "insufficient data"),
        ({"reference": (), "current": ()}, "other bins"),
    ],
)
def test_what_cannot_be_said_is_not_ok(changes: dict[str, Any], says: str) -> None:
    (judgement,) = DETECTORS["psi"](RULE, replace(_reading(1000 * _shares(0.0), 1000 * _shares(0.0)), **changes), family=1, memories={})
    assert judgement.tripped is None
    assert says in judgement.summary


def test_names_of_the_bins() -> None:
    reading = _reading((0,) * 6, (0,) * 6, edges=(0.0, 10.0, 200.0), atoms=(0.5,))
    assert bin_names(reading) == ["(null)", "(not finite)", "< 0", "[0, 10)", "[10, 200]", "> 200", "= 0.5"]
    assert bin_names(replace(reading, kind="categorical", categories=("DE", "FR"))) == ["(null)", "DE", "FR", "(unseen)"]


def test_alarms_of_quiet_months_keep_to_the_budget_and_faults_are_found() -> None:
    """Three months of five series, hourly, with days and nights and days that differ: at most the budget and its luck, where a fixed limit
    of 0.1 alarms hundreds of times. A shift of one standard deviation is found in the hour."""
    rng = np.random.default_rng(2026)
    rule = replace(RULE, false_alarms_per_window=1 / (30 * 24))
    alarms = fixed = found = 0
    for _ in range(5):
        history = _history(28, rng)
        reference = np.array([row for _, row in history]).sum(0)
        past = {"history": history, "history_window_ns": HOUR_NS}
        for start, current in _history(90, rng)[::17]:
            reading = _reading(reference, current, window_start_ns=start, window_end_ns=start + HOUR_NS, **past)
            (judgement,) = DETECTORS["psi"](rule, reading, family=5, memories={})
            alarms += bool(judgement.tripped)
            fixed += population_stability_index(reference, current).statistic > 0.1
        shifted = rng.multinomial(2_000, _shares(1.0))
        found += bool(DETECTORS["psi"](rule, _reading(reference, shifted, **past), family=5, memories={})[0].tripped)
    assert alarms <= 2, "three alarms in three months are allowed, and every seventeenth window is looked at"
    assert fixed > 60
    assert found == 5
