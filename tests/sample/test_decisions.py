"""Decisions: consistent with their randomness, unbiased, the same whatever the order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from leadline.sample.decisions import NO_THRESHOLD, R_SPACE, DecisionBatch, decide
from leadline.sample.plan import P_MIN, Plan, Planner
from leadline.sample.policies import policies_of
from leadline.settings import load


def table(n: int, seed: int = 1, **columns: Any) -> dict[str, Any]:
    """The columns of `TraceBuffer.due` for n traces without predictions."""
    rng = np.random.default_rng(seed)
    start = rng.integers(0, 10**9, n)
    made: dict[str, Any] = {
        "trace_id": rng.integers(0, 256, (n, 16), dtype=np.uint8),
        "randomness": rng.integers(0, R_SPACE, n, dtype=np.uint64),
        "threshold": np.zeros(n, dtype=np.uint64),
        "sampled": np.zeros(n, dtype=bool),
        "spans": np.full(n, 3, dtype=np.uint32),
        "bytes": np.full(n, 900, dtype=np.uint64),
        "start_ns": start,
        "end_ns": start + rng.integers(10**6, 10**8, n),
        "error": rng.random(n) < 0.02,
        "predictions": np.zeros(n, dtype=np.uint32),
        "service": (rng.integers(0, 2, n).astype(np.uint32), ["a", "b"]),
        "p_trace": np.empty(0, dtype=np.uint32),
        "p_group": np.empty(0, dtype=np.uint32),
        "groups": [],
        "p_duration_ns": np.empty(0, dtype=np.uint64),
        "rows": {},
    }
    return {**made, **columns}


def _unbudgeted(*keep: str) -> Any:
    return load(overrides=[f"sample.keep=[{', '.join(keep)}]", "sample.budget.traces_per_second=null"], environ={}).sample


def _decide(config: Any, rows: dict[str, Any], plan: Plan | None = None) -> DecisionBatch:
    planner = Planner(config)
    planner.plan = plan or planner.plan
    return decide(rows, policies_of(config), planner.plan, planner.fit, budgeted=config.budget.traces_per_second is not None)


def test_kept_iff_randomness_reaches_the_threshold() -> None:
    """R ≥ T for every kept trace and for no dropped one; a smaller share is a subset of a larger."""
    rows = table(20_000)
    tenth, half = (_decide(_unbudgeted(f"{{probabilistic: {p}}}"), rows) for p in (0.1, 0.5))
    assert np.array_equal(half.keep, rows["randomness"] >= R_SPACE // 2)
    assert abs(tenth.keep.mean() - 0.1) < 0.01
    assert not (tenth.keep & ~half.keep).any()
    assert (rows["randomness"][tenth.keep] >= tenth.threshold[tenth.keep]).all()
    assert np.allclose(tenth.weight[tenth.keep], 10, rtol=1e-12)


@pytest.mark.parametrize("share", [1.0, 0.5, 1 / 3, 0.1, 0.01, 0.001])
def test_a_threshold_is_the_specification_s(share: float) -> None:
    """T = (1 − p)·2⁵⁶, and the adjusted count is 1 / p."""
    decided = _decide(_unbudgeted(f"{{probabilistic: {share}}}"), table(50_000))
    (threshold,) = set(decided.threshold[decided.keep].tolist())
    assert abs(threshold - (1 - share) * R_SPACE) <= 8
    assert decided.weight[decided.keep][0] == pytest.approx(1 / share, rel=1e-9)


def test_the_sum_of_weights_is_unbiased_for_every_mix() -> None:
    """Σ weight is within four standard errors of the number of traces, in each stratum."""
    config = _unbudgeted("error", "{slow: {threshold: 90ms, probability: 50%}}", "{probabilistic: 3%}")
    rows = table(400_000, seed=5)
    decided = _decide(config, rows)
    weight = np.where(decided.keep, decided.weight, 0.0)
    slow = (rows["end_ns"] - rows["start_ns"] > 90e6) & ~rows["error"]
    for stratum in (rows["error"], slow, ~rows["error"] & ~slow):
        kept = decided.weight[stratum & decided.keep]
        error = np.sqrt((kept * (kept - 1)).sum())
        assert abs(weight[stratum].sum() - stratum.sum()) <= 4 * error + 1e-6
    assert decided.keep[rows["error"]].all()


def test_decisions_do_not_depend_on_the_order() -> None:
    """The same traces in another order: the same decision for each."""
    config = load(overrides=["sample.keep=[error, {slow: {threshold: 50ms}}]", "sample.budget.traces_per_second=2"], environ={}).sample
    rows = table(5_000, seed=3)
    order = np.random.default_rng(9).permutation(5_000)
    shuffled = {
        name: (value[0][order], value[1]) if name == "service" else value[order] if len(value) == 5_000 else value
        for name, value in rows.items()
    }
    first, second = _decide(config, rows), _decide(config, shuffled)
    assert np.array_equal(first.keep[order], second.keep)
    assert np.array_equal(first.threshold[order], second.threshold)


def test_a_budget_scales_before_any_randomness_is_seen() -> None:
    """Far too many errors: probabilities shrink to half of the tokens, weights say so, and Σ weight still estimates the whole."""
    config = load(overrides=["sample.keep=[error]", "sample.budget={traces_per_second: 50, burst: 10s}"], environ={}).sample
    rows = table(100_000, error=np.ones(100_000, dtype=bool))
    decided = _decide(config, rows)
    assert abs(decided.keep.sum() - 250) < 5 * np.sqrt(250)
    assert decided.plan
    kept = decided.weight[decided.keep]
    assert abs(kept.sum() - 100_000) < 4 * np.sqrt((kept * (kept - 1)).sum())


@pytest.mark.parametrize("batches", [2, 4, 8])
def test_a_burst_that_comes_in_batches_is_estimated_well(batches: int) -> None:
    """2,000 traces at once on a budget of 20: the first batch leaves tokens for the others, so no part of the burst goes without a sample."""
    config = load(overrides=["sample.keep=[error]", "sample.budget={traces_per_second: 20, burst: 10s}"], environ={}).sample
    planner = Planner(config)
    planner.refill(0)
    weights = []
    for number in range(batches):
        rows = table(2_000 // batches, seed=number, error=np.zeros(2_000 // batches, dtype=bool))
        decided = decide(rows, policies_of(config), planner.plan, planner.fit, budgeted=True)
        assert decided.keep.any() or number > 4
        weights.append(decided.weight[decided.keep])
    kept = np.concatenate(weights)
    assert len(kept) < 250
    assert kept.sum() == pytest.approx(2_000, rel=0.5)


def test_a_budget_never_leaves_a_weight_undefined() -> None:
    """Without tokens every trace still has probability 2⁻¹⁴."""
    config = load(overrides=["sample.keep=[error]", "sample.budget={traces_per_second: 0.001, burst: 1s}"], environ={}).sample
    decided = _decide(config, table(200_000))
    assert np.allclose(decided.weight[decided.keep], 1 / P_MIN)
    assert 0 < decided.keep.sum() < 60


def test_an_inbound_threshold_stands() -> None:
    """What was sampled before us keeps its larger threshold; an impossible claim is dropped with its weight."""
    n = 10_000
    rows = table(n)
    inbound = np.full(n, R_SPACE // 4 * 3, dtype=np.uint64)
    rows.update(sampled=np.ones(n, dtype=bool), threshold=inbound)
    decided = _decide(_unbudgeted("always"), rows)
    consistent = rows["randomness"] >= inbound
    assert decided.keep.all()
    assert (decided.weight[consistent] == 4).all()
    assert np.isnan(decided.weight[~consistent]).all()
    assert (decided.threshold[~consistent] == NO_THRESHOLD).all()


def test_no_policy_and_no_budget_keeps_nothing() -> None:
    """`keep: [error]` without a budget keeps errors, and nothing else."""
    rows = table(50_000)
    assert np.array_equal(_decide(_unbudgeted("error"), rows).keep, rows["error"])


def test_decisions_survive_their_bytes() -> None:
    """What the journal holds is what was decided."""
    decided = _decide(_unbudgeted("error", "{probabilistic: 20%}"), table(1_000))
    again = DecisionBatch.from_bytes(decided.to_bytes())
    for name in ("trace_ids", "keep", "threshold", "policy"):
        assert np.array_equal(getattr(again, name), getattr(decided, name)), name
    assert np.array_equal(again.weight, decided.weight, equal_nan=True)
    assert (again.policies, again.plan_revision, again.plan) == (decided.policies, decided.plan_revision, decided.plan)


def test_the_base_fills_what_policies_leave_of_the_budget() -> None:
    """100 traces a second, budget 20, 2 of them errors: the others share 18."""
    config = load(overrides=["sample.keep=[error]", "sample.budget.traces_per_second=20"], environ={}).sample
    planner = Planner(config)
    kept = 0.0
    for second in range(120):
        now = second * 10**9
        planner.refill(now)
        planner.solve(now, dict)
        rows = table(100, seed=second, error=np.arange(100) < 2)
        decided = decide(rows, policies_of(config), planner.plan, planner.fit, budgeted=True)
        kept += decided.keep.sum() if second >= 40 else 0
        assert decided.keep[rows["error"]].mean() > 0.5 or second < 40
    assert abs(kept / 80 - 20) < 2
    assert planner.plan.base == pytest.approx(18 / 98, rel=0.2)


def test_an_expression_sees_the_trace_itself_where_there_is_no_prediction() -> None:
    """`service` and `duration_ms` are the trace's; a prediction's columns are missing, so they are not true."""
    rows = table(2_000)
    decided = _decide(_unbudgeted("""{expression: "service = 'a' AND duration_ms > 40", name: mine}"""), rows)
    of_a = np.array(rows["service"][1])[rows["service"][0]] == "a"
    assert np.array_equal(decided.keep, of_a & (rows["end_ns"] - rows["start_ns"] > 40e6))
    assert decided.policies[decided.policy[decided.keep][0]] == "mine"
    assert not _decide(_unbudgeted("""{expression: "model = 'fraud' OR score > 0"}"""), rows).keep.any()
