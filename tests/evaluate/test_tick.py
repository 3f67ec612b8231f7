"""One tick after another: identities, versions, drift windows, rules that go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from leadline.evaluate.detector import Detectors, DriftRule, Judgement
from leadline.evaluate.drift import DETECTORS
from leadline.evaluate.rules import RuleSet, load_rules
from leadline.evaluate.state import State, rebuild
from leadline.evaluate.tick import evaluate, request
from leadline.model.findings import Finding, Phase
from leadline.model.readings import DriftReading, Fleet, Readings, Sample
from leadline.settings import BurnRow, EvaluateConfig
from leadline.testing.timeline import Timeline

MINUTE = 60_000_000_000
ZERO = 20_000 * 24 * 60
TABLE = [
    BurnRow(severity="page", long=600, short=60, factor=10),
    BurnRow(severity="page", long=1800, short=300, factor=5),
    BurnRow(severity="ticket", long=3600, short=600, factor=1),
]


def rules_from(tmp_path: Path, text: str) -> RuleSet:
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    return load_rules([path], EvaluateConfig(burn_table=TABLE))


def play(
    rules: RuleSet, timeline: Timeline, minutes: Sequence[int], state: State | None = None, detectors: Detectors | None = None
) -> list[State]:
    states = [state or State()]
    for minute in minutes:
        now = (ZERO + minute) * MINUTE
        fleet = Fleet(now, 1, sketch_watermark_ns=now - MINUTE)
        after, _ = evaluate(now, timeline.readings(request(now, rules, states[-1], fleet), fleet), rules, states[-1], detectors)
        states.append(after)
    return states[1:]


def of(state: State, rule: str, **labels: str) -> list[Finding]:
    """Alerts of a rule with these labels."""
    return [f for f in state.alerts.values() if f.rule == rule and labels.items() <= f.labels.items()]


SLO = "model: m\nslos: [{name: ok, objective: 99%, good: \"error_type = ''\"}]\n"


def test_the_next_pair_of_windows_is_the_same_alert(tmp_path: Path) -> None:
    """One alert for each SLO and severity: a burn that goes on in the longer windows is not a new page; the annotation says which windows."""
    rules, timeline = rules_from(tmp_path, SLO), Timeline()
    for minute in range(-60, 60):
        timeline.add(rules.slos[0].sli, (ZERO + minute) * MINUTE, 80 if 0 <= minute < 12 else 100, 20 if 0 <= minute < 12 else 0)
    states = play(rules, timeline, range(40))
    pages = [of(state, "m/ok", severity="page")[0] for state in states]
    firing = [minute for minute, page in enumerate(pages) if page.phase is Phase.FIRING]
    assert firing == list(range(firing[0], firing[-1] + 1))
    assert len({page.fired_at_ns for page in pages if page.phase is Phase.FIRING}) == 1
    assert {page.annotations["windows"] for page in pages if page.phase is Phase.FIRING} == {"10m/1m at 10", "30m/5m at 5"}
    assert len({page.fingerprint for page in pages}) == 1


def test_alerts_by_version_are_told_apart(tmp_path: Path) -> None:
    """Only the bad version pages, and says which; when its traffic stops, the page stays until it may wait no longer."""
    rules, timeline = rules_from(tmp_path, SLO.replace("ok,", "ok, by: [version],")), Timeline()
    for minute in range(-60, 200):
        timeline.add(rules.slos[0].sli, (ZERO + minute) * MINUTE, 1000, version="v1")
        if minute < 20:
            timeline.add(rules.slos[0].sli, (ZERO + minute) * MINUTE, 50, 50 if minute > 0 else 0, version="v2")
    states = play(rules, timeline, range(120))
    assert {f.labels["version"] for f in of(states[15], "m/ok", severity="page") if f.phase is Phase.FIRING} == {"v2"}
    assert "m v2" in of(states[15], "m/ok", severity="page", version="v2")[0].annotations["summary"]
    assert of(states[50], "m/ok", severity="page", version="v2")[0].phase is Phase.FIRING
    assert of(states[119], "m/ok", severity="page", version="v2")[0].phase is Phase.INACTIVE


def test_a_removed_rule_resolves_what_fires(tmp_path: Path) -> None:
    """Explicitly, at the next tick; later it is forgotten."""
    rules, timeline = rules_from(tmp_path, SLO), Timeline()
    for minute in range(-60, 10):
        timeline.add(rules.slos[0].sli, (ZERO + minute) * MINUTE, 0, 100)
    state = play(rules, timeline, range(5))[-1]
    assert of(state, "m/ok", severity="page")[0].phase is Phase.FIRING
    states = play(load_rules([]), timeline, range(5, 30), rebuild(list(state.alerts.values())))
    gone = of(states[0], "m/ok", severity="page")[0]
    assert gone.resolved_at_ns == (ZERO + 5) * MINUTE
    assert "rule_removed" in gone.annotations
    assert not of(states[-1], "m/ok")


DRIFT = "model: m\ndrift: [{reference: baseline/b, series: ['features/*'], window: 10m}]\n"


def reading(end: int, series: str, current: Sequence[float]) -> tuple[str, DriftReading]:
    """A window of 10 minutes that ends at minute `end`."""
    reference = (0.0, 0.0, 0.0, 2500.0, 2500.0, 2500.0, 2500.0, 0.0)
    return "m", DriftReading(
        "m", series, "numeric", "x", (0, 1, 2, 3, 4), (), (), reference, 10_000.0, (), 0, tuple(map(float, current)), sum(current),
        (ZERO + end - 10) * MINUTE, (ZERO + end) * MINUTE,
    )  # fmt: skip


def test_a_drift_ticket_names_the_series_and_ends(tmp_path: Path) -> None:
    """With the shipped detector: one feature changes unit for two windows; its ticket, and no other, fires and ends at window ends."""
    rules, timeline = rules_from(tmp_path, DRIFT), Timeline()
    for end in range(10, 100, 10):
        timeline.drift.append(reading(end, "features/age", (0, 0, 0, 251, 249, 250, 250, 0)))
        moved = (0, 0, 0, 0, 0, 0, 0, 1000) if end in (40, 50) else (0, 0, 0, 249, 250, 251, 250, 0)
        timeline.drift.append(reading(end, "features/amount", moved))
    minutes = range(21, 80)
    states = play(rules, timeline, minutes, detectors=DETECTORS)
    fired = {
        series: [
            minute
            for minute, state in zip(minutes, states, strict=True)
            for f in of(state, "m/drift", series=series)
            if f.phase is Phase.FIRING
        ]
        for series in ("features/age", "features/amount")
    }
    # A window is judged once its sketches are in: a sketch's width, one minute, after its end.
    assert fired == {"features/age": [], "features/amount": list(range(41, 61))}
    ticket = of(states[41 - 21], "m/drift", series="features/amount")[0]
    assert ticket.labels["alertname"] == "LeadlineDrift"
    assert ticket.severity == "ticket"
    assert "features/amount" in ticket.annotations["summary"]
    assert "series = 'features/amount'" in ticket.annotations["query"]


def test_each_window_is_judged_once_in_order_whatever_happens(tmp_path: Path) -> None:
    """Also after a stop of the evaluator; a sequential detector is handed what it remembered."""
    rules, timeline = rules_from(tmp_path, DRIFT), Timeline()
    timeline.drift = [reading(end, "features/a", (0, 0, 0, 1, 1, 1, 1, 0)) for end in range(10, 200, 10)]
    judged: list[tuple[int, int, int]] = []

    def count(rule: DriftRule, read: DriftReading, *, family: int, memories: Mapping[str, Mapping[str, Any]]) -> tuple[Judgement, ...]:
        seen = int(memories.get("ticket", {}).get("seen", 0)) + 1
        judged.append((read.window_end_ns // MINUTE - ZERO, family, seen))
        return (Judgement("ticket", False, 0.0, 1.0, "fine", memory={"seen": seen}),)

    state = play(rules, timeline, range(21, 35), detectors={"psi": count})[-1]
    play(rules, timeline, range(75, 100), rebuild(list(state.alerts.values())), {"psi": count})
    assert judged == [(end, 1, number) for number, end in enumerate(range(20, 100, 10), start=1)]


def test_a_measure_without_detector_is_an_error_of_its_rule(tmp_path: Path) -> None:
    """It is not passed over in silence."""
    rules, timeline = rules_from(tmp_path, DRIFT), Timeline()
    timeline.drift = [reading(20, "features/a", (0,) * 8)]
    state = play(rules, timeline, [21], detectors={"other": DETECTORS["psi"]})[-1]
    assert [f.state for f in of(state, "m/drift")] == ["error"]
    assert "there is other" in of(state, "m/drift")[0].annotations["evaluation_error"]
    assert of(state, "leadline/evaluation-errors", subject="m/drift")


def test_leadline_watches_itself() -> None:
    """A reading above its limit for as long as the rule says raises the shipped alert, in words; a subject that goes away ends it."""
    rules, state = load_rules([]), State()
    for minute in range(4):
        now = (ZERO + minute) * MINUTE
        samples = (Sample({"collector": "a", "signal": "traces"}, 7.0), Sample({"collector": "b", "signal": "traces"}, 0.0))
        state, _ = evaluate(now, Readings(Fleet(now, 1), own={"lost": samples if minute < 3 else ()}), rules, state)
        firing = {f.labels.get("collector"): f for f in of(state, "leadline/lost") if f.phase is Phase.FIRING}
        assert firing.keys() == ({"a"} if minute in (1, 2) else set())
        if firing:
            assert firing["a"].annotations["summary"] == "7 traces are unaccounted for on a in the last hour"
            assert firing["a"].severity == "page"
        assert [f.phase for f in of(state, "leadline/dead-man")] == [Phase.FIRING]
        assert of(state, "leadline/lag")[0].state == "error", "a reading that is missing is not an all-clear"


def test_coverage_drops_with_silent_collectors(tmp_path: Path) -> None:
    """Half of the fleet silent for half of a window: three quarters were observed."""
    rules, timeline = rules_from(tmp_path, SLO), Timeline()
    for minute in range(-60, 5):
        timeline.add(rules.slos[0].sli, (ZERO + minute) * MINUTE, 100)
    now = ZERO * MINUTE
    fleet = Fleet(now, 1, (5 * MINUTE,))
    state, _ = evaluate(now, timeline.readings(request(now, rules, State(), fleet), fleet), rules, State())
    evidence = of(state, "m/ok", severity="page")[0].evidence
    assert evidence["pairs"][0]["coverage"] == pytest.approx(0.75)
