"""The life of an alert, as a table."""

from __future__ import annotations

from itertools import product

import pytest

from leadline.evaluate.state import TRANSITIONS, Condition, Event, Verdict, advance, without_rule
from leadline.model.findings import Finding, Kind, Phase

MINUTE = 60_000_000_000
LABELS = {"alertname": "A", "severity": "page"}
WORDS = {"t": Condition.TRIPPED, "c": Condition.CLEAR, "?": Condition.UNKNOWN, "e": Condition.UNKNOWN}
PHASES = {"-": Phase.INACTIVE, "p": Phase.PENDING, "f": Phase.FIRING}


def live(conditions: str, for_minutes: int = 0, keep_minutes: int = 0, wait_minutes: int = 60) -> list[Finding]:
    """One condition a minute: t tripped, c clear, ? unknown, e query error."""
    found: list[Finding] = []
    for minute, letter in enumerate(conditions):
        verdict = Verdict(
            rule="r",
            rule_hash="h",
            kind=Kind.SELF,
            severity="page",
            labels=LABELS,
            condition=WORDS[letter],
            doubt={"?": "no_data", "e": "error"}.get(letter, ""),
            for_ns=for_minutes * MINUTE,
            keep_firing_for_ns=keep_minutes * MINUTE,
        )
        found.append(advance(found[-1] if found else None, verdict, minute * MINUTE, None, wait_minutes * MINUTE))
    return found


def test_the_table_is_total() -> None:
    """Each phase knows what to do with each event."""
    assert TRANSITIONS.keys() == set(product(Phase, Event))


@pytest.mark.parametrize(
    ("conditions", "for_minutes", "keep_minutes", "phases"),
    [
        ("cttcc", 0, 0, "-ff--"),
        ("ctttc", 2, 0, "-ppf-"),
        ("ctctttt", 2, 0, "-p-ppff"),  # a gap starts `for` afresh
        ("tcccc", 0, 2, "fff--"),  # clear at 1, 2, 3: two minutes are over at 3
        ("tctcccc", 0, 2, "fffff--"),  # tripping again starts keep_firing_for afresh
        ("t??c", 0, 0, "fff-"),  # nothing known: nothing changes
        ("tt??tt", 3, 0, "ppppff"),
        ("teeec", 0, 0, "ffff-"),
        ("tcec", 0, 2, "fff-"),  # an error neither stops the clock nor ends it
    ],
)
def test_phases(conditions: str, for_minutes: int, keep_minutes: int, phases: str) -> None:
    """A condition a minute, a phase a minute."""
    assert [finding.phase for finding in live(conditions, for_minutes, keep_minutes)] == [PHASES[letter] for letter in phases]


def test_times_are_those_of_the_ticks() -> None:
    """Since when it holds, since when it fires, when it ended; a new life has new ones."""
    found = live("cttctt", for_minutes=1)
    assert [(f.active_at_ns, f.fired_at_ns, f.resolved_at_ns) for f in found] == [
        (None, None, None),
        (MINUTE, None, None),
        (MINUTE, 2 * MINUTE, None),
        (MINUTE, 2 * MINUTE, 3 * MINUTE),
        (4 * MINUTE, None, None),
        (4 * MINUTE, 5 * MINUTE, None),
    ]


def test_an_end_is_remembered_for_fifteen_minutes() -> None:
    """So that it can be sent again."""
    found = live("t" + "c" * 20)
    assert [minute for minute, finding in enumerate(found) if finding.resolved_at_ns is not None] == list(range(1, 16))
    assert found[16].active_at_ns is None


def test_waiting_for_data_ends() -> None:
    """A resolve that waits too long is carried out, and marked; a query error alone never resolves anything."""
    found = live("t" + "?" * 10, wait_minutes=5)
    assert "".join("f" if f.phase is Phase.FIRING else "-" for f in found) == "ffffff-----"
    assert "incomplete" in found[6].annotations
    assert all(finding.phase is Phase.FIRING for finding in live("t" + "e" * 200, wait_minutes=5))
    assert live("te")[1].state == "error"


def test_a_removed_rule_resolves_its_alert() -> None:
    """It does not just stop being spoken of."""
    firing = live("t")[0]
    ended = without_rule(firing, MINUTE)
    assert ended is not None
    assert ended.resolved_at_ns == MINUTE
    assert "no longer in force" in ended.annotations["rule_removed"]
    assert without_rule(ended, 20 * MINUTE) is None
    assert without_rule(live("c")[0], MINUTE) is None
