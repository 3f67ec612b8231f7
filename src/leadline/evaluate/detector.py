"""What a drift detector is: the joint between a rule and the statistics in `evaluate/drift/`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from leadline.model.readings import DriftReading


@dataclass(frozen=True, slots=True)
class DriftRule:
    """A drift rule in force. All durations are already divided by `evaluate.time_scale`.

    Parameters
    ----------
    rule, hash : str
        Its name in `evaluations`, and the hash of its content.
    model, name : str
    baseline : str
        The frozen reference.
    series : tuple of shell patterns
    measure : str
        A name of the detectors' registry.
    window_ns : int
        Width of the windows that are judged, one after another.
    false_alarms_per_window : float
        The alarm budget of the whole rule, over all its series, in alarms a window.
    effect : float or None
        The practical effect below which nothing alarms, in the measure's unit; None: the measure's own default.
    min_predictions : float
        Effective sample size below which a window is not judged.
    """

    rule: str
    hash: str
    model: str
    name: str
    baseline: str
    series: tuple[str, ...]
    measure: str
    window_ns: int
    false_alarms_per_window: float
    effect: float | None = None
    min_predictions: float = 100.0
    labels: Mapping[str, str] = field(default_factory=dict)
    runbook: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a detector says of one window of one series, at one severity.

    Parameters
    ----------
    severity : str
        ``page`` or ``ticket``.
    tripped : bool or None
        None where it cannot be said (too few predictions, no reference): the alert keeps its state.
    value, threshold : float or None
        What was compared, larger is worse.
    summary : str
        One sentence for the person who is told, with the numbers.
    evidence : mapping
        JSON: the terms of the measure, how it was calibrated.
    memory : mapping
        JSON: what a sequential detector needs at the next window of this series.
    """

    severity: Literal["page", "ticket"]
    tripped: bool | None
    value: float | None
    threshold: float | None
    summary: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    memory: Mapping[str, Any] = field(default_factory=dict)


class Detector(Protocol):
    """A pure function, called once for each window of each series of a rule, in the order of time.

    It returns one judgement for each severity it may ever raise, always the same ones, so that an alert can end.
    `family` is the number of series that share the rule's alarm budget in this window; `memories` is what its own
    judgements of the window before carried, by severity.
    """

    def __call__(
        self, rule: DriftRule, reading: DriftReading, *, family: int, memories: Mapping[str, Mapping[str, Any]]
    ) -> tuple[Judgement, ...]: ...


Detectors = Mapping[str, Detector]
"""Measure -> detector: the registry of `evaluate/drift/__init__.py`."""
