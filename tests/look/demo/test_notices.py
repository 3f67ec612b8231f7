"""Alerts as they are delivered, by Alertmanager and without it."""

from __future__ import annotations

from datetime import UTC, datetime

from leadline.look.demo import notices

LABELS = {"alertname": "LeadlineBurnRate", "model": "m", "version": "v2"}


def test_notifications_of_alertmanager_and_plain_posts_read_alike() -> None:
    """The same news once, however often it is repeated; nine digits of a second are read."""
    firing = {
        "labels": LABELS,
        "annotations": {"summary": "s"},
        "startsAt": "2026-11-01T10:00:00.123456789Z",
        "endsAt": "0001-01-01T00:00:00Z",
    }
    resolved = {**firing, "endsAt": "2026-11-01T10:05:00Z"}
    from_alertmanager = notices.read(
        [
            {"version": "4", "alerts": [{**firing, "status": "firing"}]},
            {"version": "4", "alerts": [{**firing, "status": "firing"}]},
            {"version": "4", "alerts": [{**resolved, "status": "resolved"}]},
        ]
    )
    assert from_alertmanager == notices.read([[firing], [{**firing, "endsAt": "2999-01-01T00:00:00Z"}], [resolved]])
    first, second = from_alertmanager
    assert (first.status, first.at) == ("firing", datetime(2026, 11, 1, 10, 0, 0, 123456, UTC))
    assert (second.status, second.at) == ("resolved", datetime(2026, 11, 1, 10, 5, tzinfo=UTC))
