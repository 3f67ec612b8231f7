"""Whoever is woken finds a section about the alert."""

from __future__ import annotations

import re
from pathlib import Path

from leadline.evaluate.rules import load_rules
from leadline.evaluate.slo import verdicts
from leadline.evaluate.tick import RUNBOOKS
from leadline.store.readings import _OWN

RUNBOOK_FILE = Path(__file__).parents[2] / "docs" / "operate" / "runbooks.md"


def test_every_alert_has_a_runbook() -> None:
    """The link in an alert leads to a heading of the file that it names."""
    headings = {heading.lower() for heading in re.findall(r"^## (\w+)$", RUNBOOK_FILE.read_text(), re.MULTILINE)}
    alerts = {rule.alert.lower() for rule in load_rules([]).own} | {"leadlineburnrate", "leadlinedrift"}
    assert alerts == headings
    assert f"{RUNBOOKS}leadlineburnrate" == verdicts.RUNBOOK
    assert (RUNBOOK_FILE.parents[2] / RUNBOOKS.removesuffix("#")).is_file()


def test_every_shipped_rule_reads_what_there_is() -> None:
    """A shipped rule whose reading does not exist would be in error for ever."""
    made = {*_OWN, "rules_in_error", "none"}
    assert {rule.reading for rule in load_rules([]).own} == made
