"""Rules files: every fault at once with its place, and what is said of rules that can be used only in another way."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from leadline.errors import ConfigError
from leadline.evaluate.rules import check, load_rules, low_traffic, sli_id
from leadline.evaluate.slo.windows import pairs_for
from leadline.settings import BurnRow, EvaluateConfig

GOOD = """
model: fraud
slos:
  - {name: served-well, objective: 99.9%, window: 30d, good: "error_type = '' AND duration_ms < 250"}
  - name: confident
    objective: 95%
    window: 7d
    among: "predicted = 'fraud'"
    good: "confidence > 0.8"
    by: [version]
    severities: [ticket]
drift:
  - {reference: baseline/2026-10-train, series: ["features/*", score, predicted], false_alarms: 1 per 90d}
"""


def write(tmp_path: Path, text: str, name: str = "rules.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_the_files_of_the_documents_load(tmp_path: Path) -> None:
    """Names, SLIs and the shipped rules are there."""
    rules = load_rules([write(tmp_path, GOOD)])
    assert [rule.rule for rule in rules.slos] == ["fraud/served-well", "fraud/confident"]
    assert rules.slis() == sorted(
        [
            (sli_id("fraud", "", "error_type = '' AND duration_ms < 250"), "fraud", "", "error_type = '' AND duration_ms < 250"),
            (sli_id("fraud", "predicted = 'fraud'", "confidence > 0.8"), "fraud", "predicted = 'fraud'", "confidence > 0.8"),
        ]
    )
    assert rules.drift[0].baseline == "2026-10-train"
    assert rules.drift[0].false_alarms_per_window == pytest.approx(3600 / (90 * 86400))
    assert {rule.alert for rule in rules.own} >= {"LeadlineDeadMan", "LeadlineLost", "LeadlineLag", "LeadlineCollectorSilent"}
    assert {pair.severity for pair in rules.slos[1].pairs} == {"ticket"}


def test_every_fault_is_reported_at_once_with_its_place(tmp_path: Path) -> None:
    """One run says all there is to mend."""
    path = write(
        tmp_path,
        """model: fraud
slos:
  - name: one
    objective: 100%
    good: "error_type = ''"
  - name: two
    objective: 99%
    good: "duration_ms <"
  - name: two
    objective: 99%
    good: "nonsense = 1"
    labels: {model: other}
""",
    )
    other = write(tmp_path, "slos:\n  - {name: x, objective: 99%, good: 'score > 0'}\n", "other.yaml")
    broken = write(tmp_path, "slos: [", "broken.yaml")
    typo = write(tmp_path, "model: m\nslo: []\n", "typo.yaml")
    with pytest.raises(ConfigError) as caught:
        load_rules([path, other, broken, typo, tmp_path / "absent.yaml"])
    text = "\n".join(caught.value.faults)
    assert "slos[0].objective: an objective of 100 % leaves no error budget" in text
    assert f"({path}:4)" in text
    assert "slos[0].model: expected a model" in text
    assert f"{broken}: not YAML" in text
    assert f"slo: no such key; did you mean slos? ({typo}:2)" in text
    assert "absent.yaml: cannot be read" in text
    path.write_text(path.read_text().replace("100%", "99%"))
    with pytest.raises(ConfigError) as caught:
        load_rules([path])
    text = "\n".join(caught.value.faults)
    assert "slos[1].good:" in text
    assert f"({path}:8)" in text
    assert f"slos[2].name: expected a name used once, got 'two', which is also at {path}:6 ({path}:9)" in text
    assert "nonsense" in text
    assert f"slos[2].labels: model: set by Leadline; expected other names ({path}:12)" in text


@pytest.mark.parametrize(
    ("objective", "why"),
    [
        ("99.9", "write 99.9% for"),
        ("100%", "leaves no error budget"),
        ("1", "leaves no error budget"),
        ("40%", "at least 50 %"),
        ("often", "such as 99.9%"),
    ],
)
def test_objectives_that_cannot_be(tmp_path: Path, objective: str, why: str) -> None:
    """What is refused says what to write instead."""
    with pytest.raises(ConfigError, match=why):
        load_rules([write(tmp_path, f"model: m\nslos: [{{name: a, objective: {objective}, good: 'score > 0'}}]\n")])


@pytest.mark.parametrize(
    ("objective", "days", "factors"),
    [
        ("0.999", 30, [14.4, 6, 3, 1]),  # The Site Reliability Workbook, chapter 5
        ("0.999", 28, [13.44, 5.6, 2.8, 0.933333]),  # the same shares of a 28-day budget
        ("0.95", 30, [14.4, 6, 3, 1]),  # a total outage burns 20 times
        ("0.93", 30, [7.142857, 6, 3, 1]),  # at most 14.29: the first pair is lowered to half of it
        ("0.92", 30, [6.25, 6, 3, 1]),
        ("0.8", 30, [2.5, 2.5, 3, 1]),
        ("0.6", 30, [1.25, 1.25, 1.25, 1]),
        ("0.999", 7, [14.4, 6, 3, 1]),  # shorter: the windows shrink, not the factors
    ],
)
def test_factors_follow_from_budget_shares_and_can_be_reached(objective: str, days: int, factors: list[float]) -> None:
    """factor = budget share x period / long window; what no outage reaches is lowered."""
    pairs = pairs_for(Fraction(objective), Fraction(days * 86400))
    assert [float(pair.factor) for pair in pairs] == pytest.approx(factors)
    assert all(pair.factor <= 1 / (1 - Fraction(objective)) for pair in pairs)


def test_a_lowered_factor_is_said(tmp_path: Path) -> None:
    """An unreachable factor is not silently another one."""
    path = write(tmp_path, "model: m\nslos:\n  - name: precision\n    objective: 92%\n    good: \"predicted = 'x'\"\n")
    report = check([path])
    assert len(report.warnings) == 1
    assert "total outage burns 12.5 times" in report.warnings[0]
    assert f"({path}:4)" in report.warnings[0]


def test_low_traffic_is_said_before_anybody_is_paged(tmp_path: Path) -> None:
    """With ten events an hour, three errors are a page: 3 / (14.4 x 0.001) = 208 are needed before it takes more."""
    rules = load_rules([write(tmp_path, GOOD)])
    warnings = low_traffic(rules, {rules.slos[0].sli: 10 / 3600})
    assert len(warnings) == 4
    assert "about 10 events in 1h" in warnings[0]
    assert "From 208 events" in warnings[0]
    assert not low_traffic(rules, {rules.slos[0].sli: 1000.0})


def test_windows_shorter_than_the_counters_are_refused(tmp_path: Path) -> None:
    """A time scale that leaves nothing to count in is a fault, not a silent alert."""
    path = write(tmp_path, GOOD)
    with pytest.raises(ConfigError, match=r"sketch\.sli_window is 10 s"):
        load_rules([path], EvaluateConfig(time_scale=60))
    rules = load_rules([path], EvaluateConfig(time_scale=60), sli_window_s=1, sketch_window_s=1)
    assert rules.slos[0].pairs[0].long_ns == 60 * 10**9
    assert rules.slos[0].pairs[0].short_ns == 5 * 10**9
    assert rules.slos[0].period_ns == 12 * 3600 * 10**9


def test_a_burn_table_of_the_settings_is_used_as_it_stands(tmp_path: Path) -> None:
    """Windows and factors are public settings."""
    table = [BurnRow(severity="page", long=60, short=10, factor=10)]
    rules = load_rules([write(tmp_path, GOOD.replace("severities: [ticket]", "severities: [page]"))], EvaluateConfig(burn_table=table))
    assert [(pair.severity, pair.long_ns, pair.factor) for pair in rules.slos[0].pairs] == [("page", 60 * 10**9, 10)]
    assert rules.slos[0].severities == ("page",)


def test_sli_ids_are_of_what_is_counted() -> None:
    """Spacing outside quotes is not content; spacing inside them is. So is the model."""
    assert sli_id("m", "", "a  =\n'x  y'") == sli_id("m", "", " a = 'x  y' ")
    assert sli_id("m", "", "a = 'x  y'") != sli_id("m", "", "a = 'x y'")
    assert sli_id("m", "", "a = 1") != sli_id("n", "", "a = 1")
    assert sli_id("m", "a = 1", "b") != sli_id("m", "", "a = 1 b")
    assert len(sli_id("m", "", "x")) == 16


def test_a_rules_hash_changes_with_its_content(tmp_path: Path) -> None:
    """And with the time scale, for it changes what was evaluated."""
    path = write(tmp_path, GOOD)
    first = load_rules([path]).slos[0].hash
    assert load_rules([path]).slos[0].hash == first
    path.write_text(GOOD.replace("99.9%", "99.8%"))
    assert load_rules([path]).slos[0].hash != first


def test_directories_are_read_by_name(tmp_path: Path) -> None:
    """Every YAML file of a directory; an empty directory is a fault, for somebody meant something."""
    write(tmp_path, GOOD)
    assert len(load_rules([tmp_path]).slos) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="found none"):
        load_rules([tmp_path / "empty"])
