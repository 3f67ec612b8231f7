"""`leadline status`: what fires is told in words, what is quiet in a line, and an evaluator that has stopped is said."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from leadline.look.cli.status import _alerts
from leadline.settings import Settings

TICK_MS = 1_800_000_000_000


def alert(rule: str, severity: str, state: str, **other: Any) -> dict[str, Any]:
    """A row of what `status` asks view `alerts_now`."""
    return {
        "rule": rule, "severity": severity, "state": state, "value": 1.0, "threshold": 2.0, "series": "none", "alert": "LeadlineDrift",
        "summary": f"{rule} says so", "fired_ms": None, "resolved_ms": None, "tick_ms": TICK_MS, "now_ms": TICK_MS + 4000, **other,
    }  # fmt: skip


def told(*alerts: dict[str, Any]) -> tuple[str, list[str]]:
    """What is printed in 80 columns, and what is said to be wrong."""
    text = io.StringIO()
    problems = _alerts(Settings(), Console(file=text, width=80), list(alerts))
    return text.getvalue(), problems


def test_what_fires_is_told_first_and_whole() -> None:
    """Pages before tickets, each with its summary unbroken; the dead man last; what cannot be judged too."""
    long = "a summary that is a good deal longer than the eighty columns of a terminal, and is not broken by them"
    shown, problems = told(
        alert("m/drift", "ticket", "firing", fired_ms=TICK_MS - 60_000, series="features/amount"),
        alert("leadline/dead-man", "none", "firing", fired_ms=TICK_MS - 90_000),
        alert("m/ok", "page", "firing", fired_ms=TICK_MS - 30_000, summary=long),
        alert("m/late", "page", "no_data"),
        alert("m/ok", "ticket", "inactive"),
    )
    lines = [line.strip() for line in shown.splitlines()]
    assert lines[0] == "alerts at the tick of 2027-01-15 08:00:00 UTC, 4 s ago"
    assert lines[1:9] == [
        "firing: m/ok (page) since 2027-01-15 07:59:30 UTC",
        long,
        "firing: m/drift (ticket, features/amount) since 2027-01-15 07:59:00 UTC",
        "m/drift says so",
        "firing: leadline/dead-man (none) since 2027-01-15 07:58:30 UTC",
        "leadline/dead-man says so",
        "no_data: m/late (page)",
        "m/late says so",
    ]
    assert any("m/ok" in line and "inactive" in line for line in lines[9:])
    assert not problems


def test_what_is_quiet_takes_a_line_a_rule() -> None:
    """The nearest of many series; when the last one ended; why a burn above its threshold is none."""
    shown, _ = told(
        *(alert("m/drift", "ticket", "inactive", series=f"features/{n}", value=n / 10) for n in range(12)),
        alert("m/ok", "page", "inactive", value=9.0, alert="LeadlineBurnRate", resolved_ms=TICK_MS - 1000),
    )
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if line.startswith("│")]
    assert ["m/drift", "ticket", "inactive", "1.1", "2", "12 alerts"] in rows
    (burn,) = (row for row in rows if row[0] == "m/ok")
    assert burn[:5] == ["m/ok", "page", "inactive", "9", "2"]
    assert "firing:" not in shown
    assert "ended 2027-01-15" in shown


def test_an_evaluator_that_has_stopped_is_a_problem() -> None:
    """Old alerts look like new ones; the age is what tells."""
    _, problems = told(alert("m/ok", "page", "firing", now_ms=TICK_MS + 600_000))
    assert problems == [
        "the evaluator is 600 s behind: nothing fires or resolves meanwhile. Is `leadline evaluate` running? Its log says why"
    ]
    shown, problems = told()
    assert "no rule was ever evaluated" in shown
    assert not problems
