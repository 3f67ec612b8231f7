"""What came out at the other end: alerts as a person on call would get them, from Alertmanager or straight from Leadline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Notice:
    """An alert that fired, or resolved, as it was delivered."""

    status: str
    """firing, resolved"""
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    starts_at: datetime
    ends_at: datetime | None

    @property
    def key(self) -> tuple[str, str, datetime]:
        """Tells deliveries of the same news apart from news."""
        return ",".join(f"{name}={value}" for name, value in sorted(self.labels.items())), self.status, self.starts_at

    @property
    def at(self) -> datetime:
        """When it became what it says."""
        return self.ends_at if self.status == "resolved" and self.ends_at is not None else self.starts_at


class Inbox:
    """Distinct notices in the order in which they came.

    A body is either a notification of Alertmanager (version 4), or the array that Leadline posts to `/api/v2/alerts` where
    no Alertmanager is in between. There, a resolved alert is one that has ended by the time it is read, so `take` is called often.

    Parameters
    ----------
    received : function
        All bodies so far, oldest first.
    """

    def __init__(self, received: Callable[[], list[Any]]) -> None:
        self._received, self._taken = received, 0
        self._found: dict[tuple[str, str, datetime], Notice] = {}

    @property
    def notices(self) -> list[Notice]:
        return list(self._found.values())

    def take(self, now: datetime | None = None) -> list[Notice]:
        """What is news since the last time."""
        now = now or datetime.now(UTC)
        bodies = self._received()
        news = []
        for body in bodies[self._taken :]:
            for alert in body if isinstance(body, list) else body.get("alerts", []):
                notice = _notice(alert, now)
                if notice.key not in self._found:
                    self._found[notice.key] = notice
                    news.append(notice)
        self._taken = len(bodies)
        return news


def _notice(alert: Mapping[str, Any], now: datetime) -> Notice:
    ends_at = _time(alert.get("endsAt", ""))
    resolved = alert["status"] == "resolved" if "status" in alert else ends_at is not None and ends_at <= now
    status = "resolved" if resolved else "firing"
    return Notice(
        status, alert["labels"], alert.get("annotations", {}), _time(alert.get("startsAt", "")) or now, ends_at if resolved else None
    )


def _time(text: str) -> datetime | None:
    """RFC 3339, or None for Alertmanager's zero time."""
    if not text or text.startswith("0001-"):
        return None
    whole, point, rest = text.replace("Z", "+00:00").partition(".")
    if point:  # Python reads six digits of a second, Go writes up to nine
        digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        text = f"{whole}.{digits[:6]:0<6}{rest[len(digits) :]}"
    else:
        text = whole
    return datetime.fromisoformat(text).astimezone(UTC)
