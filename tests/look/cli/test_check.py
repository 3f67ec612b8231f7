"""`leadline check`: everything that is wrong at once, and the rules as they will run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RULES = """
model: fraud
slos:
  - {name: served-well, objective: 99.9%, window: 30d, good: "error_type = '' AND duration_ms < 250"}
  - {name: precision, objective: 92%, window: 28d, good: "segments['country'] = 'DE'", severities: [ticket, page]}
drift:
  - {reference: baseline/train, series: ["features/*", score], false_alarms: 1 per 90d}
"""


def check(tmp_path: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit status, output, and faults and warnings, of the command as a user runs it."""
    done = subprocess.run(
        [sys.executable, "-m", "leadline.look.cli", "check", *arguments],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def test_rules_are_shown_as_they_will_run(tmp_path: Path) -> None:
    """Windows are scaled, factors reachable, and what was changed is said."""
    (tmp_path / "rules.yaml").write_text(RULES)
    status, shown, told = check(
        tmp_path, "rules.yaml", "--offline", "--set", "evaluate.time_scale=60", "--set", "sketch.sli_window=1s", "--set", "sketch.window=5s"
    )
    assert status == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if line.startswith("│")]
    assert ["fraud/served-well", "99.9 % of 12h", "page", "1m", "5s", "14.4", "1.44 %", "3 bad"] in [row[:8] for row in rows]
    assert ["", "", "page", "6m", "30s", "5.6", "44.8 %", "3 bad"] in [row[:8] for row in rows]
    assert ["fraud/drift", "train", "features/*, score", "psi", "1m", "1 per 1d 12h"] in rows
    assert ["LeadlineLost", "page", "lost > 0", "1s"] in rows
    assert "total outage burns 12.5 times" in told
    assert "shorter than a tick (evaluate.every is 30 s)" in told
    assert "settings and 3 rules can be used" in shown


def test_every_fault_of_settings_and_rules_is_told_at_once(tmp_path: Path) -> None:
    """Sampling expressions, dialects, the store's address and every rules file, each with its place."""
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "one.yaml").write_text('model: m\nslos:\n  - {name: a, objective: 100%, good: "score > 0"}\n')
    (tmp_path / "rules" / "two.yaml").write_text(
        'model: m\nslos:\n  - {name: b, objective: often, good: "score > 0"}\n  - {name: c, objective: 99%, good: "foo(1)"}\n'
    )
    (tmp_path / "leadline.yaml").write_text(
        "sample:\n  keep:\n    - error\n    - {expression: 'nonsense = 1'}\n    - {expression: 'score >'}\n"
        "dialects: [ml, klingon]\nstore: {clickhouse: 'ftp://x'}\nevaluate: {rules: [rules]}\n"
    )
    status, shown, told = check(tmp_path, "--config", "leadline.yaml", "--offline")
    assert status == 1
    assert not shown
    faults = [line for line in told.splitlines() if line.startswith("fault: ")]
    for begins, ends in (
        ("sample.keep[1].expression: there is no column nonsense", "(column 1) (leadline.yaml:4)"),
        ("sample.keep[2].expression: ", "(leadline.yaml:5)"),
        ("dialects: expected one of", "got 'klingon' (leadline.yaml:6)"),
        ("store.clickhouse: expected embedded", "got 'ftp://x' (leadline.yaml:7)"),
        ("slos[0].objective: an objective of 100 %", "(rules/one.yaml:3)"),
        ("slos[0].objective: expected a share", "(rules/two.yaml:3)"),
        ("slos[1].good: there is no function foo", "(column 1) (rules/two.yaml:4)"),
    ):
        assert any(fault.startswith(f"fault: {begins}") and fault.endswith(ends) for fault in faults), (begins, faults)
    assert len(faults) == 7


def test_settings_that_cannot_be_read_are_told_with_their_places(tmp_path: Path) -> None:
    """A file that is not settings says which keys, where; an override is named as it was given."""
    (tmp_path / "leadline.yaml").write_text("journal: {segment: 0}\nalert: {alertmanagers: ['localhost:9093']}\n")
    status, _, told = check(tmp_path, "--config", "leadline.yaml", "--set", "sampel.keep=[]")
    assert status == 1
    assert "journal.segment: input should be greater than 0, got 0 (leadline.yaml:1)" in told
    assert "alert.alertmanagers[0]: expected a URL such as http://127.0.0.1:9093, got 'localhost:9093' (leadline.yaml:2)" in told
    assert "sampel: no such key; did you mean sample? (--set sampel.keep=[])" in told


def test_without_a_store_only_the_traffic_is_left_out(tmp_path: Path) -> None:
    """ClickHouse that does not answer is no fault of the rules."""
    (tmp_path / "rules.yaml").write_text(RULES)
    status, shown, told = check(tmp_path, "rules.yaml", "--set", "store.clickhouse=http://127.0.0.1:9")
    assert status == 0
    assert "traffic and references are not checked: clickhouse http://127.0.0.1:9/" in told
    assert "3 rules can be used" in shown


def test_the_help_shows_a_rules_file_that_passes(tmp_path: Path) -> None:
    """The example of `--help` is one that can be copied."""
    status, shown, _ = check(tmp_path, "--help")
    assert status == 0
    lines = shown.splitlines()
    start = next(n for n, line in enumerate(lines) if line.strip() == "model: fraud")
    end = next(n for n in range(start, len(lines)) if not lines[n].strip())
    (tmp_path / "example.yaml").write_text("\n".join(line[3:] for line in lines[start:end]))
    status, shown, told = check(tmp_path, "example.yaml", "--offline")
    assert (status, told) == (0, "")
    assert "fraud/sure" in shown
