"""Published burn-rate arithmetic, minute by minute: The Site Reliability Workbook, chapter 5, over exact counts."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from leadline.evaluate.rules import RuleSet, load_rules
from leadline.evaluate.state import State
from leadline.evaluate.tick import evaluate, request
from leadline.model.findings import Finding, Phase
from leadline.model.readings import Fleet
from leadline.testing.timeline import Timeline

MINUTE = 60_000_000_000
DAY = 24 * 60


@pytest.fixture
def rules(tmp_path: Path) -> RuleSet:
    path = tmp_path / "fraud.yaml"
    path.write_text("model: fraud\nslos:\n  - {name: ok, objective: 99.9%, window: 30d, good: \"error_type = ''\"}\n")
    return load_rules([path])


def play(rules: RuleSet, warm: int, minutes: int, bad_of: Callable[[int], tuple[int, int]]) -> list[dict[str, Finding]]:
    """Ticks every minute; minute m of the story ends at warm + m. Warm minutes hold 6,000 good events."""
    timeline, sli = Timeline(), rules.slos[0].sli
    zero = 20_000 * DAY  # any midnight
    for minute in range(1, warm + 1):
        timeline.add(sli, (zero + minute) * MINUTE, 6000)
    state, story = State(), []
    for minute in range(minutes):
        now = (zero + warm + minute + 1) * MINUTE
        total, bad = bad_of(minute)
        if total:
            timeline.add(sli, now, total - bad, bad)
        fleet = Fleet(now, 1)
        state, findings = evaluate(now, timeline.readings(request(now, rules, state, fleet), fleet), rules, state)
        story.append({finding.severity: finding for finding in findings if finding.rule == "fraud/ok"})
    return story


def firing(story: list[dict[str, Finding]], severity: str) -> list[int]:
    return [minute for minute, found in enumerate(story) if found[severity].phase is Phase.FIRING]


def burst(share: Fraction, length: int, rate: int = 6000) -> Callable[[int], tuple[int, int]]:
    return lambda minute: (rate, int(rate * share) if minute < length else 0)


@pytest.mark.parametrize(
    ("share", "length", "page", "why"),
    [
        # In the 1h window: 15 % x 6 min / 60 = 1.5 % >= 1.44 %, with the sixth minute; in the 5m window until 3 x 15 / 5 >= 1.44 %.
        (Fraction(15, 100), 10, (5, 13), "0.15 n / 60 >= 14.4 x 0.1 % first at n = 6; the short window keeps one bad minute until 13"),
        (Fraction(1), 2, (0, 5), "one minute of outage in 60 is 1.67 %; over 5 minutes the last bad minute leaves after 5"),
        (Fraction(1), 5, (0, 33), "the 6h/30m pair trips too: 5 / 360 = 1.39 % >= 0.6 %, and its short window holds on for 30 minutes"),
        (Fraction(1, 1000), 120, None, "exactly the objective burns at 1"),
        (Fraction(143, 10000), 50, None, "not yet 14.4 over the hour, and 14.3 x 50 / 360 is below 6"),
    ],
)
def test_page_fires_and_ends_at_the_minute_the_arithmetic_says(
    rules: RuleSet, share: Fraction, length: int, page: tuple[int, int] | None, why: str
) -> None:
    """First and last minute of a page, of a service that has a day of history."""
    found = firing(play(rules, DAY, length + 60, burst(share, length)), "page")
    assert (found[0], found[-1]) == page if page else not found, why
    assert not found or found == list(range(found[0], found[-1] + 1)), "one page, without a gap"


def test_exactly_the_factor_fires(rules: RuleSet) -> None:
    """144 bad of 10,000 at 99.9 % is a burn of 14.4, not a little less, as doubles would have it."""
    story = play(rules, DAY, 61, lambda minute: (10_000, 144))
    first = firing(story, "page")
    # Over 60 minutes of nothing but this ratio, both windows are at 14.4 exactly.
    assert story[60]["page"].value == pytest.approx(14.4)
    assert first[-1] == 60


def test_a_young_service_does_not_page_on_what_a_grown_one_would_not(rules: RuleSet) -> None:
    """Two hours of history in the 6h window: 15 % x 5 min is 1.7 % of the month's budget, and the pair stands for 5 %."""
    story = play(rules, 120, 60, burst(Fraction(15, 100), 5))
    assert not firing(story, "page")
    assert not firing(story, "ticket")
    assert story[10]["ticket"].state == "insufficient_history"


def test_a_young_service_pages_on_an_outage_all_the_same(rules: RuleSet) -> None:
    """Ten minutes old and everything fails: that is more than a pair stands for, whatever the history."""
    assert firing(play(rules, 10, 30, lambda minute: (6000, 6000)), "page")


def test_one_error_at_low_traffic_does_not_page(rules: RuleSet) -> None:
    """10 requests an hour, one error: 1,000 times the budget over an hour, and no reason to wake anybody."""
    story = play(rules, DAY, 120, lambda minute: (1, int(minute == 6)) if minute % 6 == 0 else (0, 0))
    assert not firing(story, "page")
    assert not firing(story, "ticket")


def test_three_errors_at_low_traffic_page(tmp_path: Path, rules: RuleSet) -> None:
    """The gate holds back single errors only: when everything fails, the third error fires."""
    quiet = Timeline()
    zero, sli, state = 20_000 * DAY, rules.slos[0].sli, State()
    for hour in range(48):
        quiet.add(sli, (zero + hour * 60) * MINUTE, 1)
    fired = []
    for minute in range(60):
        now = (zero + 2880 + minute) * MINUTE
        if minute % 6 == 0:
            quiet.add(sli, now, 0, 1)
        fleet = Fleet(now, 1)
        state, findings = evaluate(now, quiet.readings(request(now, rules, state, fleet), fleet), rules, state)
        if any(f.phase is Phase.FIRING and f.severity == "page" for f in findings):
            fired.append(minute)
    assert fired[0] == 12


def test_no_traffic_is_no_data(rules: RuleSet) -> None:
    """Traffic stops: no NaN, no alert, no all-clear; the budget carries on from exact counts."""
    story = play(rules, DAY, 8 * 60, lambda minute: (0, 0))
    assert not firing(story, "page")
    assert story[-1]["page"].state == "no_data"
    assert story[-1]["page"].evidence["budget"]["left"] == 1.0


def test_a_page_outlives_the_end_of_all_traffic(rules: RuleSet) -> None:
    """Everything fails, then nothing comes at all: the page stays until a resolve may wait no longer, and says so."""
    story = play(rules, DAY, 140, lambda minute: (6000, 6000) if minute < 5 else (0, 0))
    found = firing(story, "page")
    # The 5m window is empty from minute 9 on, the 30m window from minute 34 on: nothing can be judged from then.
    assert found == list(range(34 + 60))
    assert "incomplete" in story[34 + 60]["page"].annotations


def test_ratios_are_of_counts_not_means_of_ratios(rules: RuleSet) -> None:
    """300 minutes of 1 % errors at 6,000 a minute, then 300 at 6 a minute without: the budget knows how many were bad."""
    story = play(rules, 0, 600, lambda minute: (6000, 60) if minute < 300 else (6, 0))
    assert story[-1]["page"].evidence["budget"] == {"bad": 18000, "total": 1801800, "left": pytest.approx(1 - 9.990009990)}


def test_a_page_says_what_a_person_needs(rules: RuleSet) -> None:
    """Numbers of both windows, the pair, the budget, how long it lasts, where to look: all there."""
    page = play(rules, DAY, 12, burst(Fraction(15, 100), 10))[6]["page"]
    assert page.labels == {
        "alertname": "LeadlineBurnRate",
        "severity": "page",
        "rule": "fraud/ok",
        "slo": "ok",
        "model": "fraud",
        "version": "all",
        "series": "none",
    }
    notes = page.annotations
    assert "6,300 of 360,000 predictions bad (1.75 %) over 1h" in notes["description"]
    assert "4,500 of 30,000 predictions bad (15 %) over 5m" in notes["description"]
    assert "allows 0.1 %" in notes["description"]
    assert notes["windows"] == "1h/5m at 14.4"
    # 6,300 bad of 1,440 + 7 minutes at 6,000 a minute; a day of thirty is on record, and the budget is of all thirty.
    assert notes["budget_left"] == "97.57 % of 30d"
    assert "Only 1d of the 30d are on record: 6,300 bad of" in notes["description"]
    assert notes["budget_exhausted_in"] in notes["description"]
    assert "runbooks.md#leadlineburnrate" in notes["runbook"]
    assert "model = 'fraud'" in notes["query"]
