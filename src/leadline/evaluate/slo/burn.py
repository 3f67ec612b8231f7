"""Burn rates of an SLO from exact counts: which windows trip, and how much error budget is left.

A burn rate is (Σ bad / Σ total) / (1 - objective), compared in exact arithmetic: 144 bad of 10,000 at 99.9 % is 14.4, not
a little less. Ratios are never averaged, and a window without events has no burn at all: it is *no data*. A pair trips when its long and
its short window both burn at the factor or faster, in three-valued logic; a severity trips when any of its pairs does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from leadline.evaluate.slo.windows import Pair
from leadline.evaluate.wording import spoken
from leadline.model.readings import Counts


@dataclass(frozen=True, slots=True)
class PairReading:
    """One pair of windows at one tick.

    Parameters
    ----------
    long, short : Counts
    burn_long, burn_short : Fraction or None
        None where the window holds no events.
    coverage : float
        Share of the long window that was observed.
    needed : Fraction
        The burn that trips: the pair's factor, or more where too little history is there.
    tripped : bool or None
        None where there are no events to judge by.
    held_by : str
        Why a burn above the factor does not count: ``min_events``, ``min_bad``, ``insufficient_history``, or empty.
    """

    pair: Pair
    long: Counts
    short: Counts
    burn_long: Fraction | None
    burn_short: Fraction | None
    coverage: float
    needed: Fraction
    tripped: bool | None
    held_by: str = ""

    @property
    def nearness(self) -> Fraction:
        """How near the pair is to tripping: at least 1 where it has."""
        if self.burn_long is None or self.burn_short is None:
            return Fraction(0)
        return min(self.burn_long / self.needed, self.burn_short / self.pair.factor)

    @property
    def windows(self) -> str:
        return f"{spoken(self.pair.long_ns)}/{spoken(self.pair.short_ns)}"

    def evidence(self) -> dict[str, Any]:
        """As it is written to `evaluations`."""
        return {
            "windows": self.windows,
            "factor": float(self.pair.factor),
            "long": {"good": self.long.good, "bad": self.long.bad, "unknown": self.long.unknown, "burn": _float(self.burn_long)},
            "short": {"good": self.short.good, "bad": self.short.bad, "unknown": self.short.unknown, "burn": _float(self.burn_short)},
            "coverage": round(self.coverage, 6),
            "tripped": self.tripped,
            **({"held_by": self.held_by} if self.held_by else {}),
        }


def _float(value: Fraction | None) -> float | None:
    return None if value is None else float(value)


def burn_rate(counts: Counts, objective: Fraction) -> Fraction | None:
    """How many times too fast the error budget is used; in [0, 1 / (1 - objective)], larger is worse; None without events."""
    return Fraction(counts.bad, counts.total) / (1 - objective) if counts.total else None


def read_pair(
    pair: Pair, long: Counts, short: Counts, objective: Fraction, *, coverage: float, min_coverage: float, min_bad: int, min_events: int
) -> PairReading:
    """Judges one pair.

    Below `min_coverage` the long window is not what it is called: 7 hours of history in a window of 3 days alert like a window
    of 7 hours. Then the burn must have used up the share of the whole budget that the pair stands for: burn × coverage ≥ factor.
    """
    burn_long, burn_short = burn_rate(long, objective), burn_rate(short, objective)
    short_of_history = coverage < min_coverage
    needed = pair.factor / Fraction(coverage) if short_of_history and coverage > 0 else pair.factor
    held_by = ""
    above: bool | None = None
    if burn_long is not None:
        above = burn_long >= pair.factor
        if above and short_of_history and burn_long < needed:
            held_by = "insufficient_history"
        elif above and long.total < min_events:
            held_by = "min_events"
        elif above and long.bad < min_bad:
            held_by = "min_bad"
        above = above and not held_by
    still = None if burn_short is None else burn_short >= pair.factor
    tripped = False if above is False or still is False else None if above is None or still is None else True
    return PairReading(pair, long, short, burn_long, burn_short, coverage, needed, tripped, held_by)


def any_tripped(readings: Sequence[PairReading]) -> bool | None:
    """Whether a severity trips: three-valued OR."""
    verdicts = [reading.tripped for reading in readings]
    return True if True in verdicts else None if None in verdicts else False


@dataclass(frozen=True, slots=True)
class Budget:
    """The error budget over the SLO's period, from exact counts.

    Parameters
    ----------
    counts : Counts
    left : Fraction or None
        Of what the objective allows among these counts: 1 is untouched, 0 is used up, below 0 is overdrawn; None without events.
    """

    counts: Counts
    left: Fraction | None

    def left_of_period(self, recorded: float) -> Fraction | None:
        """What is left of the whole period's budget when only a share of the period is on record, and the rest had traffic and no errors."""
        return None if self.left is None else 1 - (1 - self.left) * Fraction(recorded)

    def exhausted_in_ns(self, period_ns: int, burn: Fraction | None, recorded: float = 1.0) -> int | None:
        """Time until nothing is left at this burn; 0 if nothing is; None if it never happens."""
        left = self.left_of_period(recorded)
        if left is not None and left <= 0:
            return 0
        if left is None or not burn:
            return None
        return int(period_ns * left / burn)


def error_budget(counts: Counts, objective: Fraction) -> Budget:
    """What is left of the bad events that the objective allows among those that there were."""
    burn = burn_rate(counts, objective)
    return Budget(counts, None if burn is None else 1 - burn)
