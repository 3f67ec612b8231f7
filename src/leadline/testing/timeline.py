"""A store in memory for rules: counts by bucket go in, the readings of any tick come out. To unit-test rules without a database."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from leadline.errors import StoreError
from leadline.model.findings import Finding
from leadline.model.readings import Counts, DriftReading, Failed, Fleet, Readings, ReadRequest, Sample, SliCounts


class Timeline:
    """What was counted, and what is known of it when.

    Parameters
    ----------
    bucket_ns : int
        Width of the counters' windows.
    lag_ns : int
        The watermark is this far behind the time asked about.
    """

    def __init__(self, bucket_ns: int = 60_000_000_000, lag_ns: int = 0) -> None:
        self.bucket_ns, self.lag_ns = bucket_ns, lag_ns
        self.counts: dict[str, dict[tuple[int, str], Counts]] = defaultdict(dict)
        self.drift: list[tuple[str, DriftReading]] = []
        self.own: dict[str, tuple[Sample, ...] | Failed] = {}
        self.failing: dict[str, str] = {}
        self.down = False
        self.live = 1
        self.silent_ns: tuple[int, ...] = ()
        self.findings: dict[str, Finding] = {}

    def add(self, sli: str, end_ns: int, good: int, bad: int = 0, *, unknown: int = 0, version: str = "v1") -> None:
        """Counts of the bucket that ends at `end_ns`."""
        before = self.counts[sli].get((end_ns, version), Counts())
        self.counts[sli][end_ns, version] = Counts(before.good + good, before.bad + bad, before.unknown + unknown)

    def write(self, findings: Sequence[Finding]) -> None:
        """Keeps findings as table `evaluations` does: the newest row of each alert can be read again."""
        for finding in findings:
            self.findings[finding.fingerprint] = finding

    async def fleet(self, now_ns: int) -> Fleet:
        if self.down:
            raise StoreError("the timeline is down")
        return Fleet(now_ns - self.lag_ns, self.live, self.silent_ns, sketch_watermark_ns=now_ns - self.lag_ns)

    async def read(self, request: ReadRequest, fleet: Fleet) -> Readings:
        return self.readings(request, fleet)

    def readings(self, request: ReadRequest, fleet: Fleet) -> Readings:
        """What `read` returns, without waiting."""
        if self.down:
            raise StoreError("the timeline is down")
        drift: dict[str, tuple[DriftReading, ...]] = {}
        for query in request.drift:
            found = tuple(
                reading
                for model, reading in self.drift
                if model == query.model
                and reading.window_end_ns == query.end_ns
                and any(fnmatchcase(reading.series, pattern) for pattern in query.series)
            )
            drift[query.rule] = drift.get(query.rule, ()) + found
        slis = {sli: Failed(self.failing[sli]) if sli in self.failing else self._sli(sli, request) for sli in request.slis}
        return Readings(fleet, slis, drift, {name: self.own.get(name, ()) for name in request.own})

    def _sli(self, sli: str, request: ReadRequest) -> tuple[SliCounts, ...]:
        tick = request.tick_ns
        versions: dict[str, list[tuple[int, Counts]]] = defaultdict(list)
        for (end, version), counts in self.counts[sli].items():
            if tick - max(request.windows_ns) < end <= tick:
                versions[version].append((end, counts))

        def within(rows: list[tuple[int, Counts]], width: int) -> Counts:
            inside = [counts for end, counts in rows if end > tick - width]
            return Counts(sum(c.good for c in inside), sum(c.bad for c in inside), sum(c.unknown for c in inside))

        return tuple(
            SliCounts(
                version,
                shadow=False,
                first_ns=min(end for end, _ in rows) - self.bucket_ns,
                windows={width: within(rows, width) for width in request.windows_ns},
            )
            for version, rows in sorted(versions.items())
        )

    async def last_findings(self, now_ns: int) -> list[Finding]:
        if self.down:
            raise StoreError("the timeline is down")
        return list(self.findings.values())

    async def references(self, model: str, baseline: str, series: Sequence[str]) -> list[dict[str, Any]]:
        return []

    async def rules_in_force(self) -> dict[str, str]:
        return {}
