"""What an evaluation found about one alert: the carrier from `evaluate` to `act`, and a row of table `evaluations`."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from leadline.model.times import unix_seconds

MS = 1_000_000
"""Nanoseconds in a millisecond: every time of an evaluation is a whole number of milliseconds, as ClickHouse keeps them."""

NOTHING: Mapping[str, Any] = {}


class Phase(StrEnum):
    """Where an alert is. A resolved alert is inactive and remembers when it was resolved."""

    INACTIVE = "inactive"
    PENDING = "pending"
    FIRING = "firing"


class Kind(StrEnum):
    """Which sort of rule found it."""

    BURN_RATE = "burn_rate"
    DRIFT = "drift"
    SELF = "self"
    DEAD_MAN = "dead_man"


@dataclass(frozen=True, slots=True)
class Finding:
    """One alert at one tick.

    Parameters
    ----------
    rule, rule_hash : str
        The rule's name and the hash of its content at this evaluation.
    kind, severity : str
        Severity is page, ticket, or none (the dead man).
    fingerprint : str
        Of `labels`, by `fingerprint_of`.
    labels : mapping
        The alert's identity, the same at every tick.
    state : str
        As a person reads it: a phase, or why the phase could not be judged anew (``no_data``, ``insufficient_history``, ``error``).
    evaluated_at_ns : int
        The tick's own time.
    watermark_ns : int or None
    value, threshold : float or None
        What was compared.
    coverage : float
        Share of the deciding window that was observed, in [0, 1].
    active_at_ns, fired_at_ns, resolved_at_ns : int or None
        Since when the condition holds; since when the alert fires; when it stopped.
    clear_since_ns, unknown_since_ns : int or None
        Since when a firing alert's condition is false; since when it cannot be judged.
    annotations : mapping
        For people.
    evidence, memory : mapping
        What the verdict was made from; what a sequential detector carries to its next window. JSON.
    """

    rule: str
    rule_hash: str
    kind: Kind
    severity: str
    fingerprint: str
    labels: Mapping[str, str]
    state: str
    evaluated_at_ns: int
    watermark_ns: int | None = None
    value: float | None = None
    threshold: float | None = None
    coverage: float = 1.0
    active_at_ns: int | None = None
    fired_at_ns: int | None = None
    resolved_at_ns: int | None = None
    clear_since_ns: int | None = None
    unknown_since_ns: int | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    evidence: Mapping[str, Any] = field(default_factory=dict)
    memory: Mapping[str, Any] = field(default_factory=dict)
    revision: int = 0

    @property
    def phase(self) -> Phase:
        """Read from the times alone, so that a row holds it whatever `state` says."""
        if self.resolved_at_ns is not None or self.active_at_ns is None:
            return Phase.INACTIVE
        return Phase.PENDING if self.fired_at_ns is None else Phase.FIRING


def fingerprint_of(labels: Mapping[str, str]) -> str:
    """16 hex digits of an alert's identity."""
    return hashlib.sha256(json.dumps(sorted(labels.items()), ensure_ascii=False).encode()).hexdigest()[:16]


def _seconds(time_ns: int | None) -> str | None:
    return None if time_ns is None else unix_seconds(time_ns)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def to_row(finding: Finding, evaluator: str) -> dict[str, Any]:
    """The finding as a JSONEachRow of table `evaluations`."""
    phase = {"clear_since_ns": finding.clear_since_ns, "unknown_since_ns": finding.unknown_since_ns}
    evidence = {**finding.evidence, "phase": {name: time for name, time in phase.items() if time is not None}}
    if finding.memory:
        evidence["memory"] = finding.memory
    return {
        "evaluated_at": _seconds(finding.evaluated_at_ns),
        "watermark": _seconds(finding.watermark_ns or 0),
        "rule": finding.rule,
        "rule_hash": finding.rule_hash,
        "fingerprint": finding.fingerprint,
        "kind": str(finding.kind),
        "severity": finding.severity,
        "state": finding.state,
        "value": _finite(finding.value),
        "threshold": _finite(finding.threshold),
        "coverage": finding.coverage,
        "active_at": _seconds(finding.active_at_ns),
        "fired_at": _seconds(finding.fired_at_ns),
        "resolved_at": _seconds(finding.resolved_at_ns),
        "labels": dict(finding.labels),
        "annotations": dict(finding.annotations),
        "evidence": json.dumps(evidence, ensure_ascii=False, allow_nan=False),
        "revision": finding.revision,
        "evaluator": evaluator,
    }


COLUMNS = tuple(to_row(Finding("", "", Kind.SELF, "", "", {}, "", 0), ""))
"""The columns of table `evaluations`, in order."""


def from_row(row: Mapping[str, Any]) -> Finding:
    """A row of `evaluations`, with its times as `<column>_ms` integers, as the finding it was written from."""

    def time_ns(name: str) -> int | None:
        value = row[f"{name}_ms"]
        return None if value is None else int(value) * MS

    evidence = json.loads(row["evidence"]) if row["evidence"] else {}
    phase = evidence.pop("phase", NOTHING)
    memory = evidence.pop("memory", NOTHING)
    return Finding(
        rule=row["rule"],
        rule_hash=row["rule_hash"],
        kind=Kind(row["kind"]),
        severity=row["severity"],
        fingerprint=row["fingerprint"],
        labels=dict(row["labels"]),
        state=row["state"],
        evaluated_at_ns=time_ns("evaluated_at") or 0,
        watermark_ns=time_ns("watermark") or None,
        value=row["value"],
        threshold=row["threshold"],
        coverage=float(row["coverage"]),
        active_at_ns=time_ns("active_at"),
        fired_at_ns=time_ns("fired_at"),
        resolved_at_ns=time_ns("resolved_at"),
        clear_since_ns=phase.get("clear_since_ns"),
        unknown_since_ns=phase.get("unknown_since_ns"),
        annotations=dict(row["annotations"]),
        evidence=evidence,
        memory=memory,
        revision=int(row["revision"]),
    )
