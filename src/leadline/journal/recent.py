"""Requests of the last minutes, by digest: a client's retry is known and counted, not stored twice."""

from __future__ import annotations

from collections import OrderedDict

from leadline.journal.writing import Writing


class Recent:
    """Digests of accepted requests, the oldest out first.

    Parameters
    ----------
    horizon_ns : int
        How long a request is remembered.
    entries : int
        How many at most; past it the oldest is forgotten, and `forgotten_early` grows.
    """

    def __init__(self, horizon_ns: int, entries: int) -> None:
        self._horizon_ns, self._entries = horizon_ns, entries
        self._seen: OrderedDict[bytes, int] = OrderedDict()
        self._under_way: dict[bytes, Writing] = {}
        self.forgotten_early = 0

    def __len__(self) -> int:
        return len(self._seen)

    def seen(self, digest: bytes, now_ns: int) -> bool:
        at = self._seen.get(digest)
        return at is not None and now_ns - at <= self._horizon_ns

    def under_way(self, digest: bytes) -> Writing | None:
        """The same bytes, being written just now on another connection."""
        return self._under_way.get(digest)

    def begin(self, digest: bytes, writing: Writing) -> None:
        self._under_way[digest] = writing

    def end(self, digest: bytes, now_ns: int | None) -> None:
        """Written at `now_ns`; None if writing failed and a retry is a first try."""
        self._under_way.pop(digest, None)
        if now_ns is not None:
            self.note(digest, now_ns)

    def note(self, digest: bytes, now_ns: int) -> None:
        self._seen[digest] = now_ns
        self._seen.move_to_end(digest)
        while self._seen:
            oldest, at = next(iter(self._seen.items()))
            if now_ns - at > self._horizon_ns:
                del self._seen[oldest]
            elif len(self._seen) > self._entries:
                del self._seen[oldest]
                self.forgotten_early += 1
            else:
                return
