"""Prometheus itself as the oracle: the same counts, the same rule in PromQL, the same minutes."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import pytest

from leadline.evaluate.rules import load_rules
from leadline.evaluate.state import State
from leadline.evaluate.tick import evaluate, request
from leadline.model.findings import Phase
from leadline.model.readings import Fleet
from leadline.testing.timeline import Timeline

MINUTE = 60_000_000_000
WARM = 6 * 60
"""Minutes of history: the longest window of the page pairs, so that nothing is extrapolated on either side."""

BURN = "(sum(increase(bad[{window}])) / sum(increase(total[{window}])) / 0.001) >= {factor}"
PAGE = " or ".join(
    f"(({BURN.format(window=long, factor=factor)}) and ({BURN.format(window=short, factor=factor)}))"
    for long, short, factor in (("1h", "5m", 14.4), ("6h", "30m", 6))
)


def story(seed: int) -> list[tuple[int, int]]:
    """(total, bad) of each minute after the warm-up: bursts, slow burns and quiet, away from exact equality with a factor."""
    rng = random.Random(seed)
    minutes: list[tuple[int, int]] = []
    while len(minutes) < 180:
        share, length = rng.choice([(0.0, 30), (0.151, 10), (1.0, 3), (0.0203, 40), (0.0131, 30), (0.007, 60)]), 0
        total, length = rng.choice([601, 6007]), share[1]
        minutes += [(total, round(total * share[0]))] * length
    return minutes[:180]


@pytest.mark.needs("promtool")
@pytest.mark.parametrize("seed", range(4))
def test_pages_fire_in_the_minutes_in_which_prometheus_fires(tmp_path: Path, seed: int) -> None:
    """The state machine and the burn arithmetic, minute by minute, over counters that start at the same time."""
    (tmp_path / "leadline.yaml").write_text(
        "model: m\nslos:\n  - {name: ok, objective: 99.9%, window: 30d, good: \"error_type = ''\", severities: [page], min_bad: 1}\n"
    )
    rules = load_rules([tmp_path / "leadline.yaml"])
    minutes = [(1000, 0)] * WARM + story(seed)
    timeline, state, firing = Timeline(), State(), []
    zero = 20_000 * 24 * 60
    total, bad = [1_000_000], [1_000_000]
    for minute, (events, errors) in enumerate(minutes, start=1):
        now = (zero + minute) * MINUTE
        timeline.add(rules.slos[0].sli, now, events - errors, errors)
        total.append(total[-1] + events)
        bad.append(bad[-1] + errors)
        if minute > WARM:
            fleet = Fleet(now, 1)
            state, findings = evaluate(now, timeline.readings(request(now, rules, state, fleet), fleet), rules, state)
            firing.append(next(finding for finding in findings if finding.rule == "m/ok").phase is Phase.FIRING)
    assert any(firing)
    assert not all(firing)
    (tmp_path / "rules.json").write_text(json.dumps({"groups": [{"name": "g", "rules": [{"alert": "Page", "expr": PAGE}]}]}))
    expected = [
        {
            "eval_time": f"{WARM + minute}m",
            "alertname": "Page",
            "exp_alerts": [{"exp_labels": {}}] if fires else [],
        }
        for minute, fires in enumerate(firing, start=1)
    ]
    series = [{"series": name, "values": " ".join(map(str, values))} for name, values in (("total", total), ("bad", bad))]
    test = {
        "rule_files": ["rules.json"],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "alert_rule_test": expected}],
    }
    (tmp_path / "test.json").write_text(json.dumps(test))
    done = subprocess.run(
        ["promtool", "test", "rules", "test.json"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
