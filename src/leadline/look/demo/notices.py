"""What came out at the other end: alerts as a person on call would get them, from Alertmanager or straight from Leadline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


def read(bodies: Iterable[Any]) -> list[Notice]:
    """Distinct notices in the order in which they came.

    A body is either a notification of Alertmanager (version 4), or the array that Leadline posts to `/api/v2/alerts` where
    no Alertmanager is in between.
    """
    found: dict[tuple[str, str, datetime], Notice] = {}
    for body in bodies:
        alerts = body if isinstance(body, list) else body.get("alerts", [])
        for alert in alerts:
            ends_at = _time(alert.get("endsAt", ""))
            resolved = alert["status"] == "resolved" if "status" in alert else ends_at is not None and ends_at <= datetime.now(UTC)
            starts_at = _time(alert.get("startsAt", "")) or datetime.now(UTC)
            notice = Notice(
                "resolved" if resolved else "firing",
                alert["labels"],
                alert.get("annotations", {}),
                starts_at,
                ends_at if resolved else None,
            )
            found.setdefault(notice.key, notice)
    return list(found.values())


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
