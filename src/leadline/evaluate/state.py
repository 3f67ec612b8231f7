"""The life of an alert: inactive → pending → firing → resolved (inactive again, and remembered for a while).

`TRANSITIONS` is the whole machine: a phase and what happened give the next phase. Times decide what happened (`_event`), so
`for`, `keep_firing_for` and the end of waiting for data are guards, not states. It follows Prometheus but for three
things, each on purpose. What cannot be judged (no data, an unsealed window, a failed query) changes nothing. A rule whose `for` is
raised while it fires goes on firing. The memory of an alert is its newest row in `evaluations`, not a process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from leadline.model.findings import Finding, Kind, Phase, fingerprint_of

RESOLVED_FOR_NS = 15 * 60 * 1_000_000_000
"""How long a resolved alert is remembered, so that its end can be sent again: 15 minutes, as Prometheus does."""


class Condition(StrEnum):
    """What a rule says at a tick."""

    TRIPPED = "tripped"
    CLEAR = "clear"
    UNKNOWN = "unknown"


class Event(StrEnum):
    """What happened to an alert at a tick."""

    TRIPPED = "tripped"
    HELD = "held for as long as `for` asks"
    CLEAR = "clear"
    CLEAR_LONG_ENOUGH = "clear for as long as `keep_firing_for` asks"
    UNKNOWN = "cannot be judged"
    UNKNOWN_TOO_LONG = "could not be judged for as long as a resolve may wait"


TRANSITIONS: Mapping[tuple[Phase, Event], Phase] = {
    (Phase.INACTIVE, Event.TRIPPED): Phase.PENDING,
    (Phase.INACTIVE, Event.HELD): Phase.FIRING,
    (Phase.INACTIVE, Event.CLEAR): Phase.INACTIVE,
    (Phase.INACTIVE, Event.CLEAR_LONG_ENOUGH): Phase.INACTIVE,
    (Phase.INACTIVE, Event.UNKNOWN): Phase.INACTIVE,
    (Phase.INACTIVE, Event.UNKNOWN_TOO_LONG): Phase.INACTIVE,
    (Phase.PENDING, Event.TRIPPED): Phase.PENDING,
    (Phase.PENDING, Event.HELD): Phase.FIRING,
    (Phase.PENDING, Event.CLEAR): Phase.INACTIVE,
    (Phase.PENDING, Event.CLEAR_LONG_ENOUGH): Phase.INACTIVE,
    (Phase.PENDING, Event.UNKNOWN): Phase.PENDING,
    (Phase.PENDING, Event.UNKNOWN_TOO_LONG): Phase.INACTIVE,
    (Phase.FIRING, Event.TRIPPED): Phase.FIRING,
    (Phase.FIRING, Event.HELD): Phase.FIRING,
    (Phase.FIRING, Event.CLEAR): Phase.FIRING,
    (Phase.FIRING, Event.CLEAR_LONG_ENOUGH): Phase.INACTIVE,
    (Phase.FIRING, Event.UNKNOWN): Phase.FIRING,
    (Phase.FIRING, Event.UNKNOWN_TOO_LONG): Phase.INACTIVE,
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one rule says of one alert at one tick, before its history is looked at.

    Parameters
    ----------
    labels : mapping
        The alert's identity.
    condition : Condition
    doubt : str
        Why the condition is unknown, or why a burn does not count: ``no_data``, ``insufficient_history``, ``unsealed``,
        ``error``; else empty.
    annotations, evidence, memory
        As in `Finding`.
    """

    rule: str
    rule_hash: str
    kind: Kind
    severity: str
    labels: Mapping[str, str]
    condition: Condition
    doubt: str = ""
    value: float | None = None
    threshold: float | None = None
    coverage: float = 1.0
    for_ns: int = 0
    keep_firing_for_ns: int = 0
    annotations: Mapping[str, str] = field(default_factory=dict)
    evidence: Mapping[str, Any] = field(default_factory=dict)
    memory: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class State:
    """All that an evaluator remembers: the newest finding of each alert, by fingerprint.

    `tick_ns` is the last tick that was evaluated, None before the first.
    """

    tick_ns: int | None = None
    alerts: Mapping[str, Finding] = field(default_factory=dict)


def rebuild(findings: list[Finding]) -> State:
    """The state of an evaluator that has written these rows, the newest of each alert, and then stopped."""
    newest = max((finding.evaluated_at_ns for finding in findings), default=None)
    return State(newest, {finding.fingerprint: finding for finding in findings})


def advance(before: Finding | None, verdict: Verdict, now_ns: int, watermark_ns: int | None, resolve_latest_after_ns: int) -> Finding:
    """The alert after a tick."""
    phase = before.phase if before else Phase.INACTIVE
    active = before.active_at_ns if before and phase is not Phase.INACTIVE else None
    clear_since = unknown_since = None
    if verdict.condition is Condition.TRIPPED:
        active = now_ns if active is None else active
        event = Event.HELD if now_ns - active >= verdict.for_ns else Event.TRIPPED
    elif verdict.condition is Condition.CLEAR:
        clear_since = before.clear_since_ns if before and before.clear_since_ns is not None else now_ns
        event = Event.CLEAR_LONG_ENOUGH if now_ns - clear_since >= verdict.keep_firing_for_ns else Event.CLEAR
    else:
        # A failed query says nothing about the world: it starts no clock and stops none.
        event = Event.UNKNOWN
        clear_since = before.clear_since_ns if before else None
        unknown_since = before.unknown_since_ns if before else None
        if verdict.doubt != "error":
            unknown_since = now_ns if unknown_since is None else unknown_since
            if now_ns - unknown_since >= resolve_latest_after_ns:
                event = Event.UNKNOWN_TOO_LONG
    after = TRANSITIONS[phase, event]
    fired = before.fired_at_ns if before and phase is Phase.FIRING else None
    resolved = None
    if after is Phase.FIRING:
        fired = now_ns if fired is None else fired
    elif phase is Phase.FIRING:
        resolved = now_ns
    elif after is Phase.INACTIVE and before and before.resolved_at_ns is not None and now_ns - before.resolved_at_ns < RESOLVED_FOR_NS:
        active, fired, resolved = before.active_at_ns, before.fired_at_ns, before.resolved_at_ns
    if after is Phase.INACTIVE:
        clear_since = unknown_since = None
        if resolved is None:
            active = fired = None
    annotations = dict(verdict.annotations)
    if verdict.condition is Condition.UNKNOWN and before:
        # What was last known is more use than a page without numbers.
        annotations = {**before.annotations, **annotations}
        if verdict.doubt != "error":
            annotations.pop("evaluation_error", None)
    if event is Event.UNKNOWN_TOO_LONG and resolved == now_ns:
        annotations["incomplete"] = "resolved because nothing could be judged any more, not because it was seen to end"
    elif resolved is None:
        annotations.pop("incomplete", None)
    doubtful = verdict.doubt in {"error", "no_data"} or (verdict.doubt == "insufficient_history" and after is Phase.INACTIVE)
    return Finding(
        rule=verdict.rule,
        rule_hash=verdict.rule_hash,
        kind=verdict.kind,
        severity=verdict.severity,
        fingerprint=fingerprint_of(verdict.labels),
        labels=verdict.labels,
        state=verdict.doubt if doubtful else str(after),
        evaluated_at_ns=now_ns,
        watermark_ns=watermark_ns,
        value=verdict.value,
        threshold=verdict.threshold,
        coverage=verdict.coverage,
        active_at_ns=active,
        fired_at_ns=fired,
        resolved_at_ns=resolved,
        clear_since_ns=clear_since,
        unknown_since_ns=unknown_since,
        annotations=annotations,
        evidence=verdict.evidence,
        memory=verdict.memory,
    )


def without_rule(before: Finding, now_ns: int) -> Finding | None:
    """The alert of a rule that is no longer in force: resolved, said so, remembered for a while, then forgotten."""
    annotations = {**before.annotations, "rule_removed": f"the rule {before.rule} is no longer in force"}
    if before.phase is Phase.FIRING:
        return replace(before, state="inactive", evaluated_at_ns=now_ns, resolved_at_ns=now_ns, annotations=annotations)
    if before.resolved_at_ns is not None and now_ns - before.resolved_at_ns < RESOLVED_FOR_NS:
        return replace(before, state="inactive", evaluated_at_ns=now_ns)
    return None
