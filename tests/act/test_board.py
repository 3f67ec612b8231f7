"""What is told of each alert, and when: no socket, no clock."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from leadline.act.alertmanager import Board, allowed_names
from leadline.model.findings import Finding, Kind, fingerprint_of
from leadline.settings import AlertConfig

SECOND = 1_000_000_000
T0 = 1_800_000_000 * SECOND
LABELS = {"alertname": "LeadlineBurnRate", "severity": "page", "model": "fraud"}


def firing(fired_ns: int = T0, **changes: Any) -> Finding:
    """An alert that fires since `fired_ns`."""
    made = Finding(
        "r", "h", Kind.BURN_RATE, "page", fingerprint_of(LABELS), LABELS, "firing", fired_ns, active_at_ns=fired_ns, fired_at_ns=fired_ns
    )
    return replace(made, **changes)


def resolved(at_ns: int, fired_ns: int = T0) -> Finding:
    """The same, ended."""
    return firing(fired_ns, state="inactive", evaluated_at_ns=at_ns, resolved_at_ns=at_ns)


def test_a_firing_alert_is_sent_when_it_starts_and_every_resend() -> None:
    """At once, then each minute; `endsAt` is always four re-sends ahead of the wall clock, never further."""
    board = Board(AlertConfig(resend=60), every_s=30)
    assert board.update([firing()], T0 + SECOND)
    key = fingerprint_of(LABELS)
    assert board.due({}, T0 + SECOND) == [key]
    body = board.payload(key, T0 + SECOND)
    assert body["startsAt"] == "2027-01-15T08:00:00.000Z"
    assert body["endsAt"] == "2027-01-15T08:04:01.000Z"
    assert body["generatorURL"].startswith("http://127.0.0.1:8080/")
    sent = {key: (board.alerts[key].serial, T0 + SECOND)}
    assert not board.update([firing(evaluated_at_ns=T0 + 30 * SECOND)], T0 + 31 * SECOND)
    assert board.due(sent, T0 + 60 * SECOND) == []
    assert board.due(sent, T0 + 61 * SECOND) == [key]
    assert board.wait_ns(sent, T0 + 21 * SECOND) == 40 * SECOND
    assert Board(AlertConfig(resend=60), every_s=120).horizon_ns == 480 * SECOND


def test_an_end_is_sent_at_once_with_its_own_time_for_fifteen_minutes() -> None:
    """`endsAt` is the tick at which it ended, however late it is sent."""
    board, key = Board(AlertConfig(), 30), fingerprint_of(LABELS)
    board.update([firing()], T0)
    sent = {key: (board.alerts[key].serial, T0)}
    end = T0 + 300 * SECOND
    assert board.update([resolved(end)], end + 14 * SECOND)
    assert board.due(sent, end + 14 * SECOND) == [key]
    assert board.payload(key, end + 14 * SECOND)["endsAt"] == "2027-01-15T08:05:00.000Z"
    board.update([resolved(end)], end + 900 * SECOND)
    assert key in board.alerts
    board.update([resolved(end)], end + 915 * SECOND)
    assert key not in board.alerts


def test_a_new_life_is_a_new_start() -> None:
    """Firing again replaces the end that was still being sent."""
    board, key = Board(AlertConfig(), 30), fingerprint_of(LABELS)
    board.update([firing()], T0)
    board.update([resolved(T0 + 60 * SECOND)], T0 + 60 * SECOND)
    serial = board.alerts[key].serial
    assert board.update([firing(T0 + 90 * SECOND)], T0 + 90 * SECOND)
    assert board.alerts[key].serial > serial
    assert board.alerts[key].ended_ns is None
    assert board.payload(key, T0)["startsAt"] == "2027-01-15T08:01:30.000Z"


def test_after_a_restart_the_old_start_is_told() -> None:
    """A new process is given the same finding, and an end that it never saw begin."""
    board, key = Board(AlertConfig(), 30), fingerprint_of(LABELS)
    assert board.update([firing()], T0 + 3600 * SECOND)
    assert board.payload(key, T0 + 3600 * SECOND)["startsAt"] == "2027-01-15T08:00:00.000Z"
    other = Board(AlertConfig(), 30)
    assert other.update([resolved(T0 + 60 * SECOND)], T0 + 100 * SECOND)
    assert other.payload(key, T0 + 100 * SECOND)["endsAt"] == "2027-01-15T08:01:00.000Z"
    assert not Board(AlertConfig(), 30).update([resolved(T0 + 60 * SECOND)], T0 + 3600 * SECOND)


def test_an_alert_nobody_speaks_of_any_more_ends() -> None:
    """It does not fire for ever because its rule is gone."""
    board, key = Board(AlertConfig(), 30), fingerprint_of(LABELS)
    board.update([firing()], T0)
    assert board.update([], T0 + 60 * SECOND)
    assert board.alerts[key].ended_ns == T0 + 60 * SECOND


def test_what_cannot_be_evaluated_is_marked_while_it_fires() -> None:
    """The reason goes with every re-send, and goes away."""
    board, key = Board(AlertConfig(), 30), fingerprint_of(LABELS)
    board.update([firing()], T0)
    board.doubt = "ClickHouse does not answer"
    assert board.payload(key, T0)["annotations"]["evaluation_error"] == "last known state: ClickHouse does not answer"
    board.doubt = None
    assert "evaluation_error" not in board.payload(key, T0)["annotations"]


def test_the_alerts_held_are_bounded() -> None:
    """Past the limit they are counted and left out."""
    board = Board(AlertConfig(max_alerts=2), 30)
    board.update([firing(labels={**LABELS, "n": str(n)}, fingerprint=str(n)) for n in range(5)], T0)
    assert (len(board.alerts), board.left_out) == (2, 3)


def test_labels_of_the_settings_are_added_where_absent() -> None:
    """As Prometheus does with external labels."""
    board = Board(AlertConfig(labels={"cluster": "eu", "model": "other"}), 30)
    board.update([firing()], T0)
    assert board.payload(fingerprint_of(LABELS), T0)["labels"] == {**LABELS, "cluster": "eu"}


@given(st.dictionaries(st.text(), st.text(), max_size=8))
def test_names_always_fit(pairs: dict[str, str]) -> None:
    """Whatever attributes are called: names fit, none overwrites another, values are text, empty ones are gone."""
    fitted = allowed_names(pairs)
    assert all(re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name) for name in fitted)
    assert len(fitted) == sum(1 for value in pairs.values() if value.strip())
    assert all(name in fitted for name, value in pairs.items() if re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name) and value.strip())


def test_names_are_told_apart() -> None:
    """``model.name`` becomes ``model_name``, but never somebody else's."""
    assert allowed_names({"model.name": "a", "model_name": "b", "1st": "c", "empty": " "}) == {
        "model_name": "b",
        "_1st": "c",
        "model_name_2": "a",
    }
