"""What an SLO says at a tick, and the words in which it says so at 3 a.m."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

from leadline.evaluate.rules import RuleSet, SloRule
from leadline.evaluate.slo.burn import Budget, PairReading, any_tripped, error_budget, read_pair
from leadline.evaluate.slo.windows import Severity
from leadline.evaluate.state import Condition, Verdict
from leadline.evaluate.wording import quoted, spoken
from leadline.model.findings import Kind
from leadline.model.readings import Counts, Failed, Readings, SliCounts

RUNBOOK = "docs/operate/runbooks.md#leadlineburnrate"
ALL = "all"
"""The `version` of an alert that is not about one."""
WHOLE = 0.99
"""Share of the SLO's period on record from which it is spoken of as the whole."""
HELD = {
    "min_events": "there are fewer predictions than min_events in the long window",
    "min_bad": "there are fewer bad predictions than min_bad in the long window",
    "insufficient_history": "too little of the long window is on record, and too little of the budget is used up",
}


def burn_labels(rule: SloRule, severity: Severity, version: str) -> dict[str, str]:
    """Identity of a burn alert: one for each SLO, severity and (where split) version, whichever pair of windows trips."""
    return {
        **rule.labels,
        "alertname": "LeadlineBurnRate",
        "severity": severity,
        "rule": rule.rule,
        "slo": rule.name,
        "model": rule.model,
        "version": version or ALL,
        "series": "none",
    }


def judge_slo(rule: SloRule, readings: Readings, rules: RuleSet, now_ns: int, known_versions: Sequence[str]) -> Iterator[Verdict]:
    """One verdict for each severity of each group.

    `known_versions` are versions with an alert that has not ended: a version without traffic is *no data*, not gone.
    """
    found = readings.slis.get(rule.sli, ())
    if isinstance(found, Failed):
        for version in known_versions if rule.by_version else ("",):
            for severity in rule.severities:
                yield Verdict(
                    **_identity(rule, severity, version),
                    condition=Condition.UNKNOWN,
                    doubt="error",
                    coverage=0.0,
                    annotations={"evaluation_error": found.reason},
                )
        return
    rows = [row for row in found if rule.with_shadow or not row.shadow]
    versions = {row.version for row in rows}.union(known_versions) if rule.by_version else {""}
    groups = {version: [row for row in rows if not rule.by_version or row.version == version] for version in versions}
    for version in sorted(groups):
        yield from _judge_group(rule, version, groups[version], readings=readings, rules=rules, now_ns=now_ns)


def _judge_group(
    rule: SloRule, version: str, rows: Sequence[SliCounts], *, readings: Readings, rules: RuleSet, now_ns: int
) -> Iterator[Verdict]:
    sealed = readings.fleet.watermark_ns is not None and readings.fleet.watermark_ns >= now_ns

    def counts(width_ns: int) -> Counts:
        windows = [row.windows.get(width_ns, Counts()) for row in rows]
        return Counts(sum(c.good for c in windows), sum(c.bad for c in windows), sum(c.unknown for c in windows))

    first_ns = min((row.first_ns for row in rows), default=now_ns)

    def coverage(width_ns: int) -> float:
        start = now_ns - width_ns
        return max(0, now_ns - max(start, first_ns)) / width_ns * readings.fleet.coverage(start, now_ns)

    budget = error_budget(counts(rule.period_ns), rule.objective)
    for severity in rule.severities:
        pairs = [
            read_pair(
                pair,
                counts(pair.long_ns),
                counts(pair.short_ns),
                rule.objective,
                coverage=coverage(pair.long_ns),
                min_coverage=rules.min_coverage,
                min_bad=rule.min_bad,
                min_events=rule.min_events,
            )
            for pair in rule.pairs
            if pair.severity == severity
        ]
        tripped = any_tripped(pairs)
        nearest = max(pairs, key=lambda pair: pair.nearness)
        doubt = ""
        if tripped is None:
            condition, doubt = Condition.UNKNOWN, "no_data"
        elif tripped:
            condition = Condition.TRIPPED
        elif not sealed:
            condition, doubt = Condition.UNKNOWN, "unsealed"
        else:
            condition = Condition.CLEAR
        if not doubt and not tripped and (rows and all(pair.coverage < rules.min_coverage for pair in pairs)):
            doubt = "insufficient_history"
        bad, total = budget.counts.bad, budget.counts.total
        yield Verdict(
            **_identity(rule, severity, version),
            condition=condition,
            doubt=doubt,
            value=None if nearest.burn_long is None else float(nearest.burn_long),
            threshold=float(nearest.needed),
            coverage=nearest.coverage,
            annotations=_words(
                rule, severity, version, rows, nearest=nearest, budget=budget, history=coverage(rule.period_ns), now_ns=now_ns
            )
            | _scaled(rules.time_scale),
            evidence={
                "pairs": [pair.evidence() for pair in pairs],
                "budget": {"bad": bad, "total": total, "left": None if budget.left is None else float(budget.left)},
            },
        )


def _identity(rule: SloRule, severity: Severity, version: str) -> dict[str, Any]:
    return {
        "rule": rule.rule,
        "rule_hash": rule.hash,
        "kind": Kind.BURN_RATE,
        "severity": severity,
        "labels": burn_labels(rule, severity, version),
        "for_ns": rule.for_ns,
        "keep_firing_for_ns": rule.keep_firing_for_ns,
    }


def _scaled(time_scale: Fraction) -> dict[str, str]:
    if time_scale == 1:
        return {}
    return {"time_scale": f"every window of this alert is {float(time_scale):g} times shorter than its rule says"}


def _words(
    rule: SloRule,
    severity: Severity,
    version: str,
    rows: Sequence[SliCounts],
    *,
    nearest: PairReading,
    budget: Budget,
    history: float,
    now_ns: int,
) -> dict[str, str]:
    pair = nearest.pair
    what = f"{rule.model} {version}".strip() if version else rule.model
    long, short = spoken(pair.long_ns), spoken(pair.short_ns)
    burn, burn_short = ("no" if value is None else f"{float(value):.3g}" for value in (nearest.burn_long, nearest.burn_short))
    limit = f"{severity} at {float(nearest.needed):.4g}"
    if nearest.tripped:
        summary = f"{what}: {rule.name} burns its error budget {burn} times too fast over {long} ({limit})"
    else:
        summary = (
            f"{what}: {rule.name} burns its error budget {burn_short} times as fast as it may over {short}, {burn} over {long} ({limit})"
        )
    period = spoken(rule.period_ns)
    lines = [
        f"{_share(nearest.long)} over {long}, {_share(nearest.short)} over {short}; "
        f"the objective {_percent(rule.objective)} allows {_percent(1 - rule.objective)}.",
    ]
    if len(versions := _by_version(rows, pair.long_ns)) > 1:
        lines.append(f"By version: {'; '.join(versions)}.")
    left = budget.left_of_period(history)
    gone = budget.exhausted_in_ns(rule.period_ns, nearest.burn_long, history)
    if budget.left is not None and left is not None:
        of = f"{budget.counts.bad:,} bad of {budget.counts.total:,}"
        if history >= WHOLE:
            lines.append(f"Error budget left: {_percent(left)} of {period} ({of}).")
        else:
            spent = f"{float(1 - budget.left):.3g} times what the objective allows for them"
            lines.append(f"Only {spoken(rule.period_ns * history)} of the {period} are on record: {of}, {spent}.")
        if gone == 0:
            lines.append(f"The error budget of {period} is used up.")
        elif gone is not None:
            lines.append(f"At this rate the error budget of {period} is used up in {spoken(gone)}.")
    if nearest.held_by:
        lines.append(f"Not counted as a burn: {HELD[nearest.held_by]}.")
    if pair.factor != pair.wanted:
        lines.append(f"The factor {float(pair.wanted):.4g} cannot be reached with this objective; {float(pair.factor):.4g} is used.")
    if nearest.long.unknown:
        lines.append(f"{nearest.long.unknown:,} predictions could not be judged (the condition was NULL) and are not counted.")
    bad = f"NOT ({rule.good.sql()})" + (f" AND ({rule.among.sql()})" if rule.among else "")
    of_version = f" AND version = {quoted(version)}" if version else ""
    since = datetime.fromtimestamp((now_ns - pair.long_ns) // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    annotations = {
        "summary": summary,
        "description": "\n".join(lines),
        "windows": f"{nearest.windows} at {float(pair.factor):.4g}",
        "budget_left": "no data" if left is None else f"{_percent(left)} of {period}",
        "good": rule.good.text,
        "runbook": rule.runbook or RUNBOOK,
        "query": "SELECT version, error_type, count() AS bad, round(avg(duration_ns) / 1e6, 1) AS ms FROM predictions "
        f"WHERE model = {quoted(rule.model)}{of_version} AND event_time > toDateTime('{since}', 'UTC') AND {bad} "
        "GROUP BY ALL ORDER BY bad DESC LIMIT 20",
    }
    if gone is not None:
        annotations["budget_exhausted_in"] = spoken(gone) if gone else "now"
    return annotations


def _by_version(rows: Sequence[SliCounts], width_ns: int) -> list[str]:
    """The versions with the most bad predictions first, five at most."""
    found: dict[str, Counter[str]] = {}
    for row in rows:
        counts = row.windows.get(width_ns, Counts())
        found.setdefault(row.version, Counter()).update(bad=counts.bad, total=counts.total)
    ordered = sorted(((name, c) for name, c in found.items() if c["total"]), key=lambda item: -item[1]["bad"])
    return [f"{name or '(none)'} {c['bad']:,} bad of {c['total']:,}" for name, c in ordered[:5]]


def _share(counts: Counts) -> str:
    if not counts.total:
        return "no predictions"
    return f"{counts.bad:,} of {counts.total:,} predictions bad ({_percent(Fraction(counts.bad, counts.total))})"


def _percent(value: Fraction) -> str:
    return f"{float(value * 100):.4g} %"
