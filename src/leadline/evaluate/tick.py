"""One tick of the evaluator: the pure core.

`request` says what a tick needs to know; `evaluate` is told, and gives the next state and a finding for each alert. Neither has a clock or
a database, so the production path, a late tick, a restart and a backtest over the past are one and the same call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from leadline.evaluate.detector import Detectors, DriftRule, Judgement
from leadline.evaluate.rules import RuleSet, SelfRule, Words
from leadline.evaluate.slo.verdicts import ALL, judge_slo
from leadline.evaluate.state import RESOLVED_FOR_NS, Condition, State, Verdict, advance, without_rule
from leadline.evaluate.wording import instant, quoted, spoken
from leadline.model.findings import Finding, Kind, Phase, fingerprint_of
from leadline.model.readings import DriftQuery, DriftReading, Failed, Fleet, Readings, ReadRequest, Sample

MAX_WINDOWS = 48
"""Windows of one drift rule judged in one tick; when more have passed, the oldest are left out."""

IN_ERROR = "rules_in_error"
"""The one reading that the evaluator makes itself: rules whose query failed at this tick."""

RUNBOOKS = "docs/operate/runbooks.md#"


def request(now_ns: int, rules: RuleSet, state: State, fleet: Fleet) -> ReadRequest:
    """What the tick at `now_ns` asks of the store."""
    queries: list[DriftQuery] = []
    sealed_ns = min(now_ns, fleet.sketch_watermark_ns or 0)
    for rule in rules.drift:
        latest = sealed_ns // rule.window_ns * rule.window_ns
        judged = max((_judged_until(finding) for finding in state.alerts.values() if finding.rule == rule.rule), default=0)
        first = max(latest - (MAX_WINDOWS - 1) * rule.window_ns, (judged // rule.window_ns + 1) * rule.window_ns) if judged else latest
        for end in range(first, latest + 1, rule.window_ns):
            if end > 0:
                queries.append(DriftQuery(rule.rule, rule.model, rule.baseline, rule.series, end - rule.window_ns, end))
    return ReadRequest(
        tick_ns=now_ns,
        slis=tuple(sorted({rule.sli for rule in rules.slos})),
        windows_ns=tuple(sorted(set().union(*(rule.windows_ns for rule in rules.slos)))),
        drift=tuple(queries),
        own=tuple(sorted({rule.reading for rule in rules.own if rule.kind is Kind.SELF} - {IN_ERROR})),
    )


def evaluate(
    now_ns: int, readings: Readings, rules: RuleSet, state: State, detectors: Detectors | None = None
) -> tuple[State, tuple[Finding, ...]]:
    """Judges every rule at one tick.

    Parameters
    ----------
    now_ns : int
        The tick's own time, however late it is evaluated.
    readings : Readings
        What was read for `request` of the same tick.
    rules : RuleSet
    state : State
        After the tick before.
    detectors : mapping, measure -> Detector

    Returns
    -------
    state, findings
        One finding for each alert that exists or could, sorted by rule, severity and fingerprint.
    """
    findings: dict[str, Finding] = {}

    def take(verdicts: Iterable[Verdict]) -> None:
        for verdict in verdicts:
            fingerprint = fingerprint_of(verdict.labels)
            before = findings.get(fingerprint) or state.alerts.get(fingerprint)
            findings[fingerprint] = advance(before, verdict, now_ns, readings.fleet.watermark_ns, rules.resolve_latest_after_ns)

    of_rule: dict[str, list[Finding]] = {}
    for finding in state.alerts.values():
        of_rule.setdefault(finding.rule, []).append(finding)
    for slo in rules.slos:
        known = sorted({_version(finding) for finding in of_rule.get(slo.rule, ()) if not _ended(finding, now_ns)})
        take(judge_slo(slo, readings, rules, now_ns, [version for version in known if bool(version) == slo.by_version]))
    for drift in rules.drift:
        if drift.rule not in readings.drift:
            for finding in of_rule.get(drift.rule, ()):
                findings[finding.fingerprint] = _carried(finding, now_ns, readings.fleet.watermark_ns)
            continue
        found = readings.drift[drift.rule]
        if isinstance(found, Failed):
            take(_drift_failed(drift, of_rule.get(drift.rule, ()), found.reason))
            continue
        for end in sorted({reading.window_end_ns for reading in found}):
            window = [reading for reading in found if reading.window_end_ns == end]
            earlier = {**{finding.fingerprint: finding for finding in of_rule.get(drift.rule, ())}, **findings}
            take(_judge_drift(drift, window, earlier, detectors or {}))
    in_error = tuple(Sample({"subject": rule}, 1.0) for rule in sorted({f.rule for f in findings.values() if f.state == "error"}))
    for own in rules.own:
        take(_judge_own(own, {**readings.own, IN_ERROR: in_error}, of_rule.get(own.rule, ())))
    in_force = {rule.rule for rule in rules.slos} | {rule.rule for rule in rules.drift} | {rule.rule for rule in rules.own}
    for fingerprint, finding in state.alerts.items():
        if fingerprint not in findings:
            # A rule that is gone, a severity it no longer has, or a series that its reference no longer has.
            after = without_rule(finding, now_ns) if finding.rule not in in_force or finding.phase is not Phase.INACTIVE else None
            if after is None and not _ended(finding, now_ns):
                after = _carried(finding, now_ns, readings.fleet.watermark_ns)
            if after is not None:
                findings[fingerprint] = after
    ordered = tuple(sorted(findings.values(), key=lambda finding: (finding.rule, finding.severity, finding.fingerprint)))
    return State(now_ns, {finding.fingerprint: finding for finding in ordered}), ordered


def _version(finding: Finding) -> str:
    version = finding.labels.get("version", ALL)
    return "" if version == ALL else version


def _ended(finding: Finding, now_ns: int) -> bool:
    """Inactive, and no longer to be spoken of."""
    return finding.phase is Phase.INACTIVE and (finding.resolved_at_ns is None or now_ns - finding.resolved_at_ns >= RESOLVED_FOR_NS)


def _carried(finding: Finding, now_ns: int, watermark_ns: int | None) -> Finding:
    """The same as before, where nothing new is to be judged."""
    if finding.resolved_at_ns is not None and _ended(finding, now_ns):
        finding = replace(finding, active_at_ns=None, fired_at_ns=None, resolved_at_ns=None)
    return replace(finding, evaluated_at_ns=now_ns, watermark_ns=watermark_ns)


def _judged_until(finding: Finding) -> int:
    return int(finding.evidence.get("window_end_ns", 0))


def drift_labels(rule: DriftRule, series: str, severity: str) -> dict[str, str]:
    """Identity of a drift alert: one for each series and severity."""
    return {
        **rule.labels,
        "alertname": "LeadlineDrift",
        "severity": severity,
        "rule": rule.rule,
        "slo": "none",
        "model": rule.model,
        "version": ALL,
        "series": series,
    }


def _drift_verdict(rule: DriftRule, labels: Mapping[str, str], condition: Condition, **parts: object) -> Verdict:
    return Verdict(rule.rule, rule.hash, Kind.DRIFT, labels["severity"], labels, condition, **parts)  # type: ignore[arg-type]


def _drift_failed(rule: DriftRule, before: Iterable[Finding], reason: str) -> Iterator[Verdict]:
    known: list[tuple[Mapping[str, str], Finding | None]] = [(finding.labels, finding) for finding in before]
    for labels, finding in known or [(drift_labels(rule, "all", "ticket"), None)]:
        yield _drift_verdict(
            rule,
            labels,
            Condition.UNKNOWN,
            doubt="error",
            coverage=0.0,
            annotations={"evaluation_error": reason},
            evidence=finding.evidence if finding else {},
            memory=finding.memory if finding else {},
        )


def _judge_drift(rule: DriftRule, window: list[DriftReading], earlier: Mapping[str, Finding], detectors: Detectors) -> Iterator[Verdict]:
    detector = detectors.get(rule.measure)
    for reading in sorted(window, key=lambda reading: reading.series):
        if detector is None:
            known = [finding for finding in earlier.values() if finding.rule == rule.rule and finding.labels["series"] == reading.series]
            there_is = ", ".join(sorted(detectors)) or "none"
            yield from _drift_failed(rule, known, f"no detector for measure {rule.measure!r}; there is {there_is}")
            continue
        memories = {
            finding.severity: finding.memory
            for finding in earlier.values()
            if finding.rule == rule.rule and finding.rule_hash == rule.hash and finding.labels["series"] == reading.series
        }
        for judgement in detector(rule, reading, family=len(window), memories=memories):
            yield _drift_verdict(
                rule,
                drift_labels(rule, reading.series, judgement.severity),
                Condition.UNKNOWN if judgement.tripped is None else Condition.TRIPPED if judgement.tripped else Condition.CLEAR,
                doubt="no_data" if judgement.tripped is None else "",
                value=judgement.value,
                threshold=judgement.threshold,
                coverage=reading.coverage,
                annotations=_drift_words(rule, reading, judgement),
                evidence={**judgement.evidence, "bins_id": reading.bins_id, "window_end_ns": reading.window_end_ns},
                memory=judgement.memory,
            )


def _drift_words(rule: DriftRule, reading: DriftReading, judgement: Judgement) -> dict[str, str]:
    start, end = reading.window_start_ns // 1_000_000_000, reading.window_end_ns // 1_000_000_000
    return {
        "summary": f"{rule.model}: {reading.series} differs from {rule.baseline}: {judgement.summary}",
        "description": f"{judgement.summary}\nCompared: the {spoken(rule.window_ns)} from {instant(reading.window_start_ns)} to "
        f"{instant(reading.window_end_ns)}, about {reading.current_n_eff:,.0f} predictions, with reference {rule.baseline} "
        f"({reading.reference_n_eff:,.0f}).\nLook first for a change upstream: a unit, a default, a new source of this input.",
        "runbook": rule.runbook or f"{RUNBOOKS}leadlinedrift",
        "query": "SELECT version, sum(observed) AS predictions, sum(nulls) AS missing, "
        "round(sum(sum) / (sum(estimated) - sum(nulls)), 4) AS mean, min(min) AS lowest, max(max) AS highest "
        f"FROM sketches WHERE model = {quoted(rule.model)} AND series = {quoted(reading.series)} "
        f"AND window_start >= fromUnixTimestamp({start}) AND window_start < fromUnixTimestamp({end}) GROUP BY version",
    }


def own_labels(rule: SelfRule, sample: Mapping[str, str]) -> dict[str, str]:
    """Identity of an alert about Leadline itself."""
    fixed = {"alertname": rule.alert, "severity": rule.severity, "rule": rule.rule, "slo": "none", "version": ALL, "series": "none"}
    return {"model": "none", **rule.labels, **sample, **fixed}


def _judge_own(rule: SelfRule, own: Mapping[str, tuple[Sample, ...] | Failed], before: Iterable[Finding]) -> Iterator[Verdict]:
    def verdict(labels: Mapping[str, str], condition: Condition, value: float | None, doubt: str = "", reason: str = "") -> Verdict:
        words = Words({**labels, "value": value if value is not None else float("nan")})
        annotations = {"evaluation_error": reason}
        if not reason:
            annotations = {
                "summary": rule.summary.format_map(words),
                "description": rule.description.format_map(words),
                "query": rule.query,
                "runbook": f"{RUNBOOKS}{rule.alert.lower()}",
            }
        return Verdict(
            rule=rule.rule,
            rule_hash=rule.hash,
            kind=rule.kind,
            severity=rule.severity,
            labels=labels,
            condition=condition,
            doubt=doubt,
            value=value,
            threshold=rule.above if rule.above is not None else rule.below,
            for_ns=rule.for_ns,
            keep_firing_for_ns=rule.keep_firing_for_ns,
            annotations={name: text for name, text in annotations.items() if text},
        )

    if rule.kind is Kind.DEAD_MAN:
        yield verdict(own_labels(rule, {}), Condition.TRIPPED, 1.0)
        return
    found = own.get(rule.reading, Failed(f"no reading is called {rule.reading!r}"))
    if isinstance(found, Failed):
        for labels in [finding.labels for finding in before] or [own_labels(rule, {})]:
            yield verdict(labels, Condition.UNKNOWN, None, "error", found.reason)
        return
    seen = set()
    for sample in found:
        labels = own_labels(rule, sample.labels)
        seen.add(fingerprint_of(labels))
        tripped = sample.value > rule.above if rule.above is not None else sample.value < (rule.below or 0.0)
        yield verdict(labels, Condition.TRIPPED if tripped else Condition.CLEAR, sample.value)
    for finding in before:
        if finding.fingerprint not in seen and finding.phase is not Phase.INACTIVE:
            # What the alert was about is no longer there to be measured: a collector that was taken away.
            yield verdict(finding.labels, Condition.CLEAR, None)
