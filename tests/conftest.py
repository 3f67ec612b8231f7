"""Real parts: what pip and cargo do not bring is named by a marker, and nothing is skipped silently.

`@pytest.mark.needs("alertmanager")` runs where the part is installed. Where it is not, `make test` leaves the test out and
closes with a line that says which command installs it; `make check` (LEADLINE_REQUIRE_PARTS=1) fails instead.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter

import pytest

PARTS = {
    "alertmanager": ("prometheus-alertmanager", "apt-get install prometheus-alertmanager"),
    "promtool": ("promtool", "apt-get install prometheus"),
    "curl": ("curl", "apt-get install curl"),
    "chromium": ("chromium", "apt-get install chromium"),
    "telemetrygen": (
        "telemetrygen",
        "go install github.com/open-telemetry/opentelemetry-collector-contrib/cmd/telemetrygen@v0.161.0",
    ),
}

_left_out: Counter[str] = Counter()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    missing = {part for part, (program, _) in PARTS.items() if shutil.which(program) is None}
    kept, left_out = [], []
    for item in items:
        parts = {str(mark.args[0]) for mark in item.iter_markers("needs")}
        if unknown := parts - PARTS.keys():
            raise pytest.UsageError(f"{item.nodeid}: unknown part {sorted(unknown)}; expected one of {sorted(PARTS)}")
        absent = parts & missing
        _left_out.update(absent)
        (left_out if absent else kept).append(item)
    if left_out and os.environ.get("LEADLINE_REQUIRE_PARTS"):
        raise pytest.UsageError("missing parts: " + "; ".join(f"{name} ({PARTS[name][1]})" for name in sorted(_left_out)))
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for part, count in sorted(_left_out.items()):
        terminalreporter.write_line(f"not run: {count} test(s) that need {part}; to run them: {PARTS[part][1]}")
