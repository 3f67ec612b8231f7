"""The sampling plan: everything a decision depends on but the trace itself. Pure.

A plan revision holds what moves: the base probability that fills the budget, the slow limits of each model, and the scale that
makes one batch fit the tokens that are left. A decision is a function of (trace, revision), so a log of revisions replays it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from leadline.settings import SampleConfig

P_MIN = 2.0**-14
"""The smallest probability a budgeted plan gives: below it one kept trace would stand for more than 16,384."""

ORDINARY_SHARE = 0.2
"""Of the budget, for traces that no policy raises, when policies alone would use it up: an incident must not leave the rest of the
traffic without a sample to estimate it from."""

BATCH_SHARE = 0.5
"""Of the tokens, the most that one batch spends. A burst comes in several batches: if the first took all, the others would be
kept with `P_MIN`, so nearly always not at all, and the sum of weights would miss them."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One revision.

    Parameters
    ----------
    revision : int
        Counts up; 0 is the plan before the first.
    base : float
        Probability of a trace that no policy raises.
    scale : float
        What every probability of the batch is multiplied with so that their sum fits the tokens; 1 without pressure.
    slow_ns : mapping (model, version, role) or ("", service, "") -> float
        Duration above which a trace is slow, where the limit is a quantile.
    """

    revision: int = 0
    base: float = 1.0
    scale: float = 1.0
    slow_ns: Mapping[tuple[str, str, str], float] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(
            {
                "revision": self.revision,
                "base": self.base,
                "scale": self.scale,
                "slow_ns": [[*key, limit] for key, limit in sorted(self.slow_ns.items())],
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Plan:
        value: dict[str, Any] = json.loads(text)
        slow = {(model, version, role): float(limit) for model, version, role, limit in value["slow_ns"]}
        return cls(value["revision"], value["base"], value["scale"], slow)


class Planner:
    """Solves the plan from the budget, and keeps the tokens.

    Tokens are kept traces: they grow with time at the budget's rate up to `burst` seconds of it, and a batch spends the sum
    of its probabilities, up to `BATCH_SHARE` of the tokens, before any randomness is looked at. So the long-run mean keeps to
    the budget, and the scale depends on probabilities alone.
    """

    def __init__(self, config: SampleConfig, revision: int = 0) -> None:
        self._config = config
        budget = config.budget.traces_per_second
        self._rate = budget
        self._tokens = 0.0 if budget is None else budget * config.budget.burst
        self._refilled_ns: int | None = None
        self._solved_ns: int | None = None
        self._arrived = 0
        self._raised = 0.0
        self.plan = Plan(revision, base=self._fixed_base())

    def _fixed_base(self) -> float:
        """The base before anything is known: nothing to fill, or everything until the first solution."""
        shares = [policy.probabilistic for policy in self._config.keep if not isinstance(policy, str) and hasattr(policy, "probabilistic")]
        if shares or self._rate is None:
            return 0.0
        return 1.0

    @property
    def fills_the_budget(self) -> bool:
        """Whether traces that no policy raises share what the budget has left."""
        return self._rate is not None and self._fixed_base() > 0.0

    def resume(self, revision: int) -> None:
        """Counts on from a revision of an earlier run, so that no number is used twice."""
        if revision > self.plan.revision:
            self.plan = replace(self.plan, revision=revision)

    def refill(self, now_ns: int) -> None:
        if self._rate is None:
            return
        if self._refilled_ns is not None:
            elapsed_s = max(0, now_ns - self._refilled_ns) / 1e9
            self._tokens = min(self._rate * self._config.budget.burst, self._tokens + self._rate * elapsed_s)
        self._refilled_ns = now_ns

    def solve(self, now_ns: int, slow_limits: Callable[[], Mapping[tuple[str, str, str], float]]) -> None:
        """A new base and new limits, each `plan_every`: the base is what the budget has left over, a trace (at least `ORDINARY_SHARE` of it)."""
        if self._solved_ns is not None and now_ns - self._solved_ns < self._config.plan_every * 1e9:
            return
        base, slow_ns = self.plan.base, slow_limits()
        if self._solved_ns is not None and self.fills_the_budget and self._rate is not None:
            elapsed_s = (now_ns - self._solved_ns) / 1e9
            raised = self._raised / elapsed_s
            # the second term is what leaves them their share after a batch is scaled to its tokens
            left = max(self._rate - raised, raised * ORDINARY_SHARE / (1 - ORDINARY_SHARE))
            rate = self._arrived / elapsed_s
            base = 1.0 if rate <= left or not rate else max(P_MIN, left / rate)
        self._solved_ns, self._arrived, self._raised = now_ns, 0, 0.0
        if base != self.plan.base or dict(slow_ns) != dict(self.plan.slow_ns):
            self.plan = Plan(self.plan.revision + 1, base, 1.0, dict(slow_ns))

    def fit(self, wanted: float, raised: float, traces: int) -> Plan:
        """The plan for a batch whose probabilities sum to `wanted`, of which policies raised `raised`; spends its tokens."""
        self._arrived += traces
        self._raised += raised
        scale = 1.0
        if self._rate is not None and wanted > 0:
            scale = min(1.0, self._tokens * BATCH_SHARE / wanted)
            self._tokens -= wanted * scale
        if scale != self.plan.scale:
            self.plan = replace(self.plan, revision=self.plan.revision + 1, scale=scale)
        return self.plan
