"""The whole story on real parts, its answers held against what was sent."""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from leadline.look.cli.demo import create_baseline, start
from leadline.look.demo.patients import FEATURES
from leadline.look.demo.settings import GOOD_BELOW_MS, OBJECTIVE
from leadline.look.demo.story import LENGTH_S, Outcome, Story
from leadline.look.demo.traffic import tally


@pytest.mark.slow
async def test_the_story_ends_well_and_its_answers_are_right(tmp_path: Path) -> None:
    """A page fires and resolves, the ticket names the feature that moved, the books balance, five answers are right."""
    told = Console(file=io.StringIO(), width=160)
    outcome = await Story(start, create_baseline, tmp_path, console=told).play()
    assert outcome.took_s <= LENGTH_S
    _books(outcome)
    _alerts(outcome)
    _latency(outcome)
    _budget(outcome)
    _drift(outcome)
    _slowest(outcome)
    _saved(outcome)
    text = told.file.getvalue()  # type: ignore[attr-defined]
    _one_clock(text)
    assert "PAGE" in text
    assert "RESOLVED" in text
    assert "What to try next" in text


def _books(outcome: Outcome) -> None:
    """Every prediction and outcome that was sent is there; nothing is lost anywhere."""
    signals = outcome.accounting["signals"]
    assert outcome.traffic.lost == 0
    assert signals["predictions"]["received"] == signals["predictions"]["kept"] == len(outcome.traffic.sent)
    assert signals["logs"]["received"] == outcome.traffic.outcomes
    for terms in signals.values():
        assert terms["lost"] == terms["rejected"] == terms["duplicate"] == terms["waiting"] == 0
        assert terms["received"] == terms["kept"] + terms["sampled_out"]


def _alerts(outcome: Outcome) -> None:
    """v2 pages once and resolves once, in this order, within the incident; the only drift is glucose; v1 stays silent."""
    marks = outcome.marks
    pages = [notice for notice in outcome.notices if notice.labels["severity"] == "page"]
    assert [notice.status for notice in pages] == ["firing", "resolved"]
    assert {notice.labels["version"] for notice in outcome.notices if not notice.labels["series"].startswith("features/")} == {"v2"}
    fired, resolved = (notice.at.timestamp() for notice in pages)
    assert marks["incident"] < fired < marks["repaired"] < resolved < marks["drift"] + 1
    drifted = {notice.labels["series"] for notice in outcome.notices if notice.labels["series"].startswith("features/")}
    assert drifted == {"features/glucose"}


def _one_clock(text: str) -> None:
    """The table of the alerts counts its seconds from the same zero as the narration."""
    incident = re.search(r"([\d.]+) s {2}v2's feature store", text)
    after = re.search(r"PAGE after (\d+) s", text)
    fired = re.search(r"(\d+) s +│ firing +│ page", text)
    assert incident
    assert after
    assert fired
    assert float(fired[1]) == pytest.approx(float(incident[1]) + float(after[1]), abs=1.5)


def _latency(outcome: Outcome) -> None:
    """p99 by version: between the exact quantiles a little below and above it."""
    for row in outcome.answers["latency"].records():
        sent = np.array([one.duration_ns / 1e6 for one in outcome.traffic.sent if one.version == row["version"]])
        assert row["predictions"] == len(sent)
        for level, value in ((0.5, row["p50_ms"]), (0.99, row["p99_ms"])):
            low, high = np.quantile(sent, [level - 0.01, min(1.0, level + 0.005)])
            assert low - 0.1 <= value <= high + 0.1


def _budget(outcome: Outcome) -> None:
    """Good, bad and what is left, exactly."""
    counts = tally(outcome.traffic.sent, GOOD_BELOW_MS)
    for row in outcome.answers["budget"].records():
        of = counts[row["version"]]
        assert (row["good"], row["bad"]) == (of["answered"] - of["bad"], of["bad"])
        assert row["budget_left"] == pytest.approx(1 - of["bad"] / of["answered"] / (1 - OBJECTIVE), abs=1e-4)


def _drift(outcome: Outcome) -> None:
    """Glucose leads, far above anything else; every feature was counted for every prediction of the drift."""
    rows = outcome.answers["drift"].records()
    assert {row["feature"] for row in rows} == set(FEATURES)
    assert rows[0]["feature"] == "glucose"
    assert rows[0]["psi"] > 1 > 5 * rows[1]["psi"]
    assert len({row["predictions"] for row in rows}) == 1
    assert rows[0]["predictions"] > 100


def _slowest(outcome: Outcome) -> None:
    """Each is a request that was sent, in order of slowness, with a weight of at least one."""
    rows = outcome.answers["slowest"].records()
    durations = Counter((one.version, round(one.duration_ns / 1e6, 1), one.failed) for one in outcome.traffic.sent)
    assert len(rows) == 5
    for row in rows:
        assert durations[row["version"], row["ms"], row["error"] == "FeatureStoreTimeout"]
        assert row["weight"] >= 1
    assert [row["ms"] for row in rows] == sorted((row["ms"] for row in rows), reverse=True)


def _saved(outcome: Outcome) -> None:
    """What was saved follows from the books; the estimate is within five of its own errors."""
    (row,) = outcome.answers["saved"].records()
    spans = outcome.accounting["signals"]["traces"]
    assert (row["spans"], row["stored"]) == (spans["received"], spans["kept"])
    assert row["saved"] == pytest.approx(1 - spans["kept"] / spans["received"], abs=1e-3)
    assert row["counted"] == len(outcome.traffic.sent)
    assert math.isclose(row["estimated"], row["counted"], abs_tol=5 * row["standard_error"] + 1)
