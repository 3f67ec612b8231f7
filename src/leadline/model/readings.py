"""What the evaluator is told about the world at one tick. Frozen; made by `store/readings.py`, by tests, or by a backtest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Counts(NamedTuple):
    """Exact events of an SLI in one window; `unknown` are those whose condition was NULL: neither good nor bad."""

    good: int = 0
    bad: int = 0
    unknown: int = 0

    @property
    def total(self) -> int:
        """What the objective is about: good and bad."""
        return self.good + self.bad


@dataclass(frozen=True, slots=True)
class Failed:
    """A query that did not answer. What depends on it keeps its state; nothing is resolved on it."""

    reason: str


@dataclass(frozen=True, slots=True)
class SliCounts:
    """One SLI of one version over windows that end at the tick.

    Parameters
    ----------
    version : str
    shadow : bool
        Whether these are predictions that no user saw.
    first_ns : int
        Start of the earliest bucket that was counted within the longest window asked for.
    windows : mapping, window_ns -> Counts
    """

    version: str
    shadow: bool
    first_ns: int
    windows: Mapping[int, Counts]


@dataclass(frozen=True, slots=True)
class DriftReading:
    """The frozen reference and the current window of one series, over the same bins.

    Parameters
    ----------
    model, series : str
    kind : str
        ``numeric`` or ``categorical``. Layout of all counts. Numeric: ``[null, non_finite, under, bin…, over, atom…]``;
        categorical: ``[null, category…, unseen]``.
    bins_id : str
        Content hash of edges, atoms and categories.
    reference, reference_n_eff : counts, and the effective sample size behind them
    history : (window_start_ns, counts) of each window of the reference's own past, oldest first
    history_window_ns : int
        Width of those windows; 0 without history.
    current, current_n_eff : the same of the current window
    window_start_ns, window_end_ns : int
        The current window, aligned to its own width.
    coverage : float
        Share of the current window that was observed, in [0, 1].
    """

    model: str
    series: str
    kind: str
    bins_id: str
    edges: tuple[float, ...]
    atoms: tuple[float, ...]
    categories: tuple[str, ...]
    reference: tuple[float, ...]
    reference_n_eff: float
    history: tuple[tuple[int, tuple[float, ...]], ...]
    history_window_ns: int
    current: tuple[float, ...]
    current_n_eff: float
    window_start_ns: int
    window_end_ns: int
    coverage: float = 1.0


class Sample(NamedTuple):
    """One value of a reading about Leadline itself, with what tells it from its siblings."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class DriftQuery:
    """Which windows a drift rule asks for: [start_ns, end_ns) of the series that match any of `series` (shell patterns)."""

    rule: str
    model: str
    baseline: str
    series: tuple[str, ...]
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """What one tick asks of the store.

    Parameters
    ----------
    tick_ns : int
        Windows of SLIs end here.
    slis : tuple of SLI ids
    windows_ns : tuple of int
        Widths of the windows, of every SLI.
    drift : tuple of DriftQuery
    own : tuple of str
        Readings about Leadline itself.
    """

    tick_ns: int
    slis: tuple[str, ...] = ()
    windows_ns: tuple[int, ...] = ()
    drift: tuple[DriftQuery, ...] = ()
    own: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fleet:
    """What the collectors have said of themselves.

    Parameters
    ----------
    watermark_ns : int or None
        Everything that happened before it is in the exact counts; None where no collector has said so yet.
    live : int
        Collectors that have spoken lately.
    silent_ns : tuple of int
        For each collector that has stopped speaking within the last hour: for how long.
    gaps : tuple of (from_ns, until_ns)
        Times at which no collector spoke at all.
    sketch_watermark_ns : int or None
        As `watermark_ns`, of sketches, which go out less often.
    """

    watermark_ns: int | None = None
    live: int = 0
    silent_ns: tuple[int, ...] = ()
    gaps: tuple[tuple[int, int], ...] = ()
    sketch_watermark_ns: int | None = None

    def coverage(self, start_ns: int, end_ns: int) -> float:
        """Share of [start, end) that the collectors could have seen, in [0, 1]; 1 where there is nothing to say."""
        width = end_ns - start_ns
        if width <= 0:
            return 1.0
        lost = sum(max(0, min(until, end_ns) - max(since, start_ns)) for since, until in self.gaps) / width
        members = self.live + len(self.silent_ns)
        if members:
            lost += sum(min(width, silent) for silent in self.silent_ns) / width / members
        return max(0.0, 1.0 - lost)


@dataclass(frozen=True, slots=True)
class Readings:
    """Everything that one tick is decided from.

    Parameters
    ----------
    fleet : Fleet
    slis : mapping, SLI id -> counts by version, or why they could not be read
    drift : mapping, rule -> series, or why they could not be read
        A rule that is absent has no new window to judge.
    own : mapping, reading -> samples, or why they could not be read
    """

    fleet: Fleet = field(default_factory=Fleet)
    slis: Mapping[str, tuple[SliCounts, ...] | Failed] = field(default_factory=dict)
    drift: Mapping[str, tuple[DriftReading, ...] | Failed] = field(default_factory=dict)
    own: Mapping[str, tuple[Sample, ...] | Failed] = field(default_factory=dict)
