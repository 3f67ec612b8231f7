"""Alerts as they are delivered, by Alertmanager and without it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from leadline.look.demo import notices

LABELS = {"alertname": "LeadlineBurnRate", "model": "m", "version": "v2"}


def taken(*bodies: Any) -> list[notices.Notice]:
    """As an inbox that is read at 10:06 sees them."""
    inbox = notices.Inbox(lambda: list(bodies))
    news = inbox.take(datetime(2026, 11, 1, 10, 6, tzinfo=UTC))
    assert inbox.take() == []
    assert inbox.notices == news
    return news


def test_notifications_of_alertmanager_and_plain_posts_read_alike() -> None:
    """The same news once, however often it is repeated; nine digits of a second are read."""
    firing = {
        "labels": LABELS,
        "annotations": {"summary": "s"},
        "startsAt": "2026-11-01T10:00:00.123456789Z",
        "endsAt": "0001-01-01T00:00:00Z",
    }
    resolved = {**firing, "endsAt": "2026-11-01T10:05:00Z"}
    from_alertmanager = taken(
        {"version": "4", "alerts": [{**firing, "status": "firing"}]},
        {"version": "4", "alerts": [{**firing, "status": "firing"}]},
        {"version": "4", "alerts": [{**resolved, "status": "resolved"}]},
    )
    assert from_alertmanager == taken([firing], [{**firing, "endsAt": "2026-11-01T10:08:00Z"}], [resolved])
    first, second = from_alertmanager
    assert (first.status, first.at) == ("firing", datetime(2026, 11, 1, 10, 0, 0, 123456, UTC))
    assert (second.status, second.at) == ("resolved", datetime(2026, 11, 1, 10, 5, tzinfo=UTC))
