"""What the index is when nothing has changed, learnt from the reference's own past.

The ladder, best first. A chi-square null knows the luck of sampling and nothing else; real traffic also has days, nights and
weekends, and a test that knows only sampling alarms at every one of them once there are enough predictions.

1. ``hour_of_week``: at least 28 days of history. A window is compared with the same place in the week. Every window of the history is too,
   its own day left out; how far they stray is what the current one must exceed.
2. ``days``: at least 7 days. The same against all days together, the window's own day left out.
3. ``uncalibrated``: the multinomial null and the effect floor alone. Says so, and never pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leadline.evaluate.drift.psi import Null, paired_psi

DAY_NS = 86_400_000_000_000
WEEK_NS = 7 * DAY_NS


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the current window is compared with, and how far windows stray without drift.

    Parameters
    ----------
    rung : str
        ``hour_of_week``, ``days`` or ``uncalibrated``.
    reference : array, shape (n_bins,)
        The counts to compare with.
    history : Null or None
        Gamma distribution of the history's own indices, by their mean and variance; None where uncalibrated.
    highest : float
        The largest of them.
    days, windows : int
        How much history there was.
    why : str
        Why no higher rung was reached; empty on the highest.
    """

    rung: str
    reference: NDArray[np.float64]
    history: Null | None
    highest: float
    days: int
    windows: int
    why: str = ""


def calibrate(
    reference: NDArray[np.float64],
    history: Sequence[tuple[int, Sequence[float]]],
    history_window_ns: int,
    window_start_ns: int,
    window_ns: int,
    *,
    min_count: float = 100.0,
) -> Calibration:
    """Climbs the ladder as far as the history allows.

    Parameters
    ----------
    reference : array, shape (n_bins,)
        Counts of the whole reference.
    history : sequence of (window_start_ns, counts)
        The reference's past over the same bins. Windows narrower than the current one are added up, where they divide it evenly.
    window_start_ns, window_ns : int
        The current window.
    min_count : float
        Windows and places in the week with less in them are not compared.

    Notes
    -----
    O(windows · bins) for either rung. Days and weeks are those of UTC.
    """

    def uncalibrated(why: str, days: int = 0, windows: int = 0) -> Calibration:
        return Calibration("uncalibrated", reference, None, 0.0, days, windows, why)

    if not history or history_window_ns <= 0:
        return uncalibrated("the reference has no history by time")
    if window_ns % history_window_ns or window_ns > DAY_NS or DAY_NS % window_ns:
        return uncalibrated("windows of the rule and of the history do not divide each other and a day evenly")
    starts, counts = _joined(history, window_ns, window_ns // history_window_ns, len(reference))
    enough = counts.sum(1) >= min_count
    starts, counts = starts[enough], counts[enough]
    day = starts // DAY_NS
    days = len(np.unique(day))
    if days < 7:
        return uncalibrated(f"{days} days of history; 7 are needed", days, len(starts))
    why = f"{days} days of history; 28 are needed for the hour of the week"
    if days >= 28:
        cell = starts % WEEK_NS // window_ns
        here = window_start_ns % WEEK_NS // window_ns
        own = counts[cell == here]
        if len(own) >= 3:
            return _rung("hour_of_week", own.sum(0), counts, cell << 32 | day, days=days, why="")
        why = "this hour of the week has fewer than 3 windows of history"
    return _rung("days", counts.sum(0), counts, day, days=days, why=why)


def _rung(
    name: str, reference: NDArray[np.float64], counts: NDArray[np.float64], group: NDArray[np.int64], *, days: int, why: str
) -> Calibration:
    """`group` says what each window is compared with: the other days of its own group."""
    place, own = (np.unique(key, return_inverse=True)[1] for key in (group >> 32, group))
    totals, owns = np.zeros((place.max() + 1, counts.shape[1])), np.zeros((own.max() + 1, counts.shape[1]))
    np.add.at(totals, place, counts)
    np.add.at(owns, own, counts)
    others = np.maximum(totals[place] - owns[own], 0.0)
    values = paired_psi(others, counts)[others.sum(1) > 0]
    mean, variance = float(values.mean()), float(values.var(ddof=1)) if len(values) > 1 else 0.0
    null = Null(mean * mean / variance, variance / mean, name) if variance > 0 and mean > 0 else Null(1.0, 0.0, name)
    return Calibration(name, reference, null, float(values.max()), days, len(values), why)


def _joined(
    history: Sequence[tuple[int, Sequence[float]]], window_ns: int, parts: int, n_bins: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The history in windows as wide as the current one; those that are not whole are left out."""
    starts = np.array([start for start, _ in history], np.int64) // window_ns * window_ns
    rows = np.array([row for _, row in history], np.float64).reshape(len(history), n_bins)
    unique, inverse, seen = np.unique(starts, return_inverse=True, return_counts=True)
    summed = np.zeros((len(unique), n_bins))
    np.add.at(summed, inverse, rows)
    whole = seen >= parts
    return unique[whole], summed[whole]
