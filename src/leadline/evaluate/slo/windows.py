"""Which pairs of windows an SLO is alerted on, and at which burn rate.

Without `evaluate.burn_table` the shipped table is used (`burn_table.yaml`, the SRE workbook's). For a period of 28 days or more its
windows stay as they are and the factor follows from the budget share, budget × period / long: 14.4, 6, 3 and 1 for
30 days, 13.44, 5.6, 2.8 and 0.93 for 28. For shorter periods the windows shrink with the period, which keeps the
factors of 30 days: fixed windows would give factors below 1, which fire while the objective is met. A table from the
settings is used as it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Literal

import yaml

from leadline.settings import BurnRow, seconds, share

Severity = Literal["page", "ticket"]
SEVERITIES: tuple[Severity, ...] = ("page", "ticket")
SECOND = 1_000_000_000
FIXED_FROM_S = 28 * 86400
TABLE_PERIOD_S = 30 * 86400


def exact(value: object) -> Fraction:
    """A number as it is written in decimal: 99.9 % is 999/1000, not the nearest double."""
    return Fraction(str(value))


@dataclass(frozen=True, slots=True)
class Pair:
    """A long and a short window that must both burn at `factor` or faster.

    Parameters
    ----------
    long_ns, short_ns : int
        Widths, already divided by the time scale.
    factor : Fraction
        Burn rate: 1 uses up the error budget in exactly the period.
    wanted : Fraction
        The factor before it was lowered to what the objective can reach at all.
    """

    severity: Severity
    long_ns: int
    short_ns: int
    factor: Fraction
    wanted: Fraction


@cache
def _shipped() -> tuple[tuple[Severity, Fraction, Fraction, Fraction], ...]:
    rows = yaml.safe_load((Path(__file__).parent / "burn_table.yaml").read_text())
    return tuple((row["severity"], exact(seconds(row["long"])), exact(seconds(row["short"])), exact(share(row["budget"]))) for row in rows)


def pairs_for(
    objective: Fraction,
    period_s: Fraction,
    table: Sequence[BurnRow] | None = None,
    time_scale: Fraction = Fraction(1),
) -> tuple[Pair, ...]:
    """The pairs in force for an objective over a period.

    A factor that a total outage would not reach (above 1 / (1 - objective)) is lowered to half of that, but never below 1.
    """
    rows: list[tuple[Severity, Fraction, Fraction, Fraction]] = []
    if table is not None:
        rows = [(row.severity, exact(row.long), exact(row.short), exact(row.factor)) for row in table]
    else:
        stretch = Fraction(1) if period_s >= FIXED_FROM_S else period_s / TABLE_PERIOD_S
        for severity, long, short, budget in _shipped():
            rows.append((severity, long * stretch, short * stretch, budget * period_s / (long * stretch)))
    fastest = 1 / (1 - objective)
    pairs = []
    for severity, long, short, wanted in rows:
        factor = max(Fraction(1), fastest / 2) if wanted > fastest else wanted
        pairs.append(Pair(severity, _ns(long / time_scale), _ns(short / time_scale), factor, wanted))
    return tuple(pairs)


def _ns(value_s: Fraction) -> int:
    """Whole milliseconds, as every time of an evaluation."""
    return max(1, round(value_s * 1000)) * 1_000_000
