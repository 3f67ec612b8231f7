"""What the evaluator asks of ClickHouse. Implements `Reader`.

Every window is a set of whole counter buckets: those that end in (tick - width, tick]. So a bucket belongs to a window or does not, two
evaluators that ask after the watermark has passed the tick read the same numbers, and counts add up over adjacent windows.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from leadline.errors import LeadlineError, StoreError
from leadline.model.findings import MS, Finding, from_row
from leadline.model.ports import Store
from leadline.model.readings import Counts, DriftQuery, DriftReading, Failed, Fleet, Readings, ReadRequest, Sample, SliCounts

SECOND = 1_000_000_000
HOUR_MS = 3_600_000
MEMORY_DAYS = 40
"""How far back the newest row of an alert is looked for."""
MAX_CACHED_HISTORIES = 256

_T = TypeVar("_T")

_WATERMARKS = """
SELECT collector, toUnixTimestamp64Milli(max(at)) AS at_ms, toUnixTimestamp64Milli(max(watermark)) AS watermark_ms,
       toUnixTimestamp64Milli(max(sketch_watermark)) AS sketch_watermark_ms, argMax(lag_p99_ms, at) AS lag_ms
FROM watermarks WHERE at > fromUnixTimestamp64Milli({since:Int64}) AND at <= fromUnixTimestamp64Milli({now:Int64})
GROUP BY collector
"""

_GAPS = """
SELECT previous * 60 AS from_s, minute * 60 AS until_s FROM
(
    SELECT minute, lagInFrame(minute, 1, minute) OVER (ORDER BY minute ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS previous FROM
    (
        SELECT DISTINCT toUInt32(intDiv(toUnixTimestamp64Milli(at), 60000)) AS minute FROM watermarks
        WHERE at > fromUnixTimestamp64Milli({since:Int64}) AND at <= fromUnixTimestamp64Milli({now:Int64})
    )
)
WHERE minute - previous > {silent_minutes:UInt32}
ORDER BY from_s
"""

_LAST_FINDINGS = """
SELECT toUnixTimestamp64Milli(evaluated_at) AS evaluated_at_ms, toUnixTimestamp64Milli(watermark) AS watermark_ms, rule, rule_hash,
       fingerprint, kind, severity, state, value, threshold, coverage, toUnixTimestamp64Milli(active_at) AS active_at_ms,
       toUnixTimestamp64Milli(fired_at) AS fired_at_ms, toUnixTimestamp64Milli(resolved_at) AS resolved_at_ms,
       labels, annotations, evidence, revision
FROM evaluations
WHERE evaluations.evaluated_at > fromUnixTimestamp64Milli({since:Int64})
  AND (rule, fingerprint, severity, evaluations.evaluated_at) IN
(
    SELECT rule, fingerprint, severity, max(evaluated_at) FROM evaluations
    WHERE evaluated_at > fromUnixTimestamp64Milli({since:Int64}) GROUP BY rule, fingerprint, severity
)
ORDER BY fingerprint, revision
"""

_BASELINE = """
SELECT series, argMax(kind, created_at) AS kind, argMax(bins_id, created_at) AS bins_id, argMax(edges, created_at) AS edges,
       argMax(atoms, created_at) AS atoms, argMax(categories, created_at) AS categories, argMax(counts, created_at) AS counts,
       argMax(n_eff, created_at) AS n_eff
FROM baselines WHERE baseline = {baseline:String} AND model = {model:String} GROUP BY series ORDER BY series
"""

_HISTORY = """
SELECT toUnixTimestamp(window_start) AS window_start_s, any(window_s) AS window_s, sumForEach(counts) AS counts
FROM baseline_windows WHERE baseline = {baseline:String} AND bins_id = {bins_id:String} GROUP BY window_start ORDER BY window_start
"""

_CURRENT_BINS = """
SELECT series, sumForEach(if(bins_id = wanted, bins, bins_next)) AS counts, sum(estimated) AS estimated, sum(weight_sq) AS weight_sq FROM
(
    SELECT series, bins_id, bins, bins_id_next, bins_next, estimated, weight_sq,
           transform(toString(series), {series:Array(String)}, {bins:Array(String)}, '') AS wanted
    FROM sketches
    WHERE model = {model:String} AND series IN {series:Array(String)} AND role != 'shadow'
      AND window_start >= fromUnixTimestamp({from_s:Int64}) AND toUnixTimestamp(window_start) + window_s <= {until_s:Int64}
      AND (bins_id = wanted OR bins_id_next = wanted)
)
GROUP BY series
"""

_RULES_IN_FORCE = "SELECT name, argMax(hash, created_at) AS hash, argMax(active, created_at) AS active FROM rules GROUP BY name"

_LAST_HOUR = "at > fromUnixTimestamp64Milli({tick:Int64} - 3600000) AND at <= fromUnixTimestamp64Milli({tick:Int64})"
_LAST_10_MINUTES = "at > fromUnixTimestamp64Milli({tick:Int64} - 600000) AND at <= fromUnixTimestamp64Milli({tick:Int64})"
_KEPT = (
    "SELECT uniqExact(TraceId) / 600 / {budget:Float64} FROM otel_traces "
    "WHERE Timestamp > fromUnixTimestamp64Milli({tick:Int64} - 600000) AND Timestamp <= fromUnixTimestamp64Milli({tick:Int64})"
)

_OWN = {
    "lost": "SELECT signal, collector, sum(received) - sum(kept + sampled_out + rejected + duplicate + forwarded + waiting) AS value "
    f"FROM accounting WHERE {_LAST_HOUR} GROUP BY signal, collector",
    "lag_s": "SELECT collector, ({tick:Int64} - toUnixTimestamp64Milli(max(watermark))) / 1000 AS value FROM watermarks "
    f"WHERE {_LAST_HOUR} GROUP BY collector HAVING max(at) > fromUnixTimestamp64Milli({{tick:Int64}} - {{silent_ms:Int64}})",
    "silent_s": "SELECT collector, ({tick:Int64} - toUnixTimestamp64Milli(max(at))) / 1000 AS value FROM watermarks "
    f"WHERE {_LAST_HOUR} GROUP BY collector",
    "overflow": "SELECT model AS subject, toFloat64(sum(observed)) AS value FROM sketches "
    "WHERE (model = '(other)' OR series = '(other)' OR mapContains(categories, '(other)')) "
    "AND window_start > fromUnixTimestamp(intDiv({tick:Int64}, 1000) - 600) GROUP BY model",
    "budget_used": f"SELECT ({_KEPT}) AS value",
    "starved": f"SELECT if(sum(sampled_out) > 20 * sum(kept), greatest(0., 1 - ({_KEPT})), 0.) AS value FROM accounting "
    f"WHERE signal = 'traces' AND {_LAST_10_MINUTES}",
}
"""Readings about Leadline itself: each row is a sample, `value` and what tells it from its siblings.

``lost``: items received and not accounted for in the last hour, by signal and collector. ``lag_s``, ``silent_s``: seconds
since a collector's watermark, and since it last spoke. ``overflow``: values that went to ``(other)`` in 10 minutes.
``budget_used``: kept traces against the budget, over 10 minutes. ``starved``: share of the budget that is unused while
almost everything is sampled out.
"""


class StoreReader:
    """Reads for the evaluator.

    Parameters
    ----------
    store : Store
    silent_s : float
        A collector that has said nothing for this long no longer holds the watermark back.
    budget : float or None
        Kept traces a second that are meant; None: the readings about it have no samples.
    """

    def __init__(self, store: Store, *, silent_s: float = 120.0, budget: float | None = None) -> None:
        self._store, self._silent_s, self._budget = store, silent_s, budget
        self._histories: OrderedDict[tuple[str, str], tuple[int, tuple[tuple[int, tuple[float, ...]], ...]]] = OrderedDict()
        self._gaps: tuple[int, tuple[tuple[int, int], ...]] = (0, ())

    async def fleet(self, now_ns: int) -> Fleet:
        """What the collectors have said of themselves: the least watermarks of those that speak, less their measured lag."""
        now_ms = now_ns // MS
        rows = await self._store.query(_WATERMARKS, {"since": now_ms - HOUR_MS, "now": now_ms})
        ages = {row["collector"]: now_ms - int(row["at_ms"]) for row in rows}
        live = [row for row in rows if ages[row["collector"]] < self._silent_s * 1000]

        def least(name: str) -> int | None:
            # Events come later than they happen: what is in the store by receive time is complete by event time a little further back.
            marks = [int(row[name]) - round(min(max(float(row["lag_ms"]), 0.0), self._silent_s * 1000)) for row in live]
            return min(marks) * MS if marks else None

        silent = tuple(sorted(ages[row["collector"]] * MS for row in rows if ages[row["collector"]] >= self._silent_s * 1000))
        gaps = await self._times_without_collectors(now_ms)
        return Fleet(least("watermark_ms"), len(live), silent, gaps, least("sketch_watermark_ms"))

    async def _times_without_collectors(self, now_ms: int) -> tuple[tuple[int, int], ...]:
        """Looked up once a minute: a gap is only known when it is over."""
        if now_ms // 60_000 != self._gaps[0]:
            week = {"since": now_ms - 7 * 24 * HOUR_MS, "now": now_ms, "silent_minutes": max(1, round(self._silent_s / 60))}
            rows = await self._store.query(_GAPS, week)
            self._gaps = (now_ms // 60_000, tuple((int(row["from_s"]) * SECOND, int(row["until_s"]) * SECOND) for row in rows))
        return self._gaps[1]

    async def read(self, request: ReadRequest, fleet: Fleet) -> Readings:
        """The readings of one tick; raises `StoreError` where every query failed for a passing reason."""
        jobs: dict[tuple[str, str], Awaitable[Any]] = {}
        if request.slis:
            jobs["slis", ""] = self._slis(request)
        for rule in dict.fromkeys(query.rule for query in request.drift):
            jobs["drift", rule] = self._drift([query for query in request.drift if query.rule == rule], fleet)
        for name in request.own:
            jobs["own", name] = self._own(name, request.tick_ns)
        outcomes = dict(zip(jobs, await asyncio.gather(*jobs.values(), return_exceptions=True), strict=True))
        for outcome in outcomes.values():
            if isinstance(outcome, BaseException) and not isinstance(outcome, LeadlineError):
                raise outcome
        if outcomes and all(isinstance(outcome, StoreError) for outcome in outcomes.values()):
            raise next(outcome for outcome in outcomes.values() if isinstance(outcome, StoreError))

        def given(kind: str) -> dict[str, Any]:
            found = {name: value for (of, name), value in outcomes.items() if of == kind}
            return {name: Failed(str(value)[:1000]) if isinstance(value, LeadlineError) else value for name, value in found.items()}

        slis = given("slis").get("", {})
        return Readings(fleet, dict.fromkeys(request.slis, slis) if isinstance(slis, Failed) else slis, given("drift"), given("own"))

    async def _slis(self, request: ReadRequest) -> dict[str, tuple[SliCounts, ...]]:
        tick_ms = request.tick_ns // MS
        widths_ms = [width // MS for width in request.windows_ns]
        sums = ", ".join(
            f"[{', '.join(f'sumIf({name}, end_ms > {tick_ms - width})' for width in widths_ms)}] AS {name}_counts"
            for name in ("good", "bad", "unknown")
        )
        rows = await self._store.query(
            f"""
            SELECT sli, version, role = 'shadow' AS shadow, min(toUnixTimestamp(window_start)) AS first_s, {sums}
            FROM (SELECT *, (toUnixTimestamp(window_start) + window_s) * 1000 AS end_ms FROM sli_counts)
            WHERE sli IN {{slis:Array(String)}} AND window_start >= fromUnixTimestamp({{from_s:Int64}})
              AND end_ms > {{after:Int64}} AND end_ms <= {{until:Int64}}
            GROUP BY sli, version, shadow
            ORDER BY sli, version, shadow
            """,
            {
                "slis": list(request.slis),
                # A bucket that ends in the window may begin before it; none is longer than a day.
                "from_s": max(0, (tick_ms - max(widths_ms)) // 1000 - 86_400),
                "after": tick_ms - max(widths_ms),
                "until": tick_ms,
            },
        )
        found: dict[str, list[SliCounts]] = {sli: [] for sli in request.slis}
        for row in rows:
            columns = zip(row["good_counts"], row["bad_counts"], row["unknown_counts"], strict=True)
            windows = {width: Counts(*map(int, counts)) for width, counts in zip(request.windows_ns, columns, strict=True)}
            found[row["sli"]].append(SliCounts(row["version"], bool(row["shadow"]), int(row["first_s"]) * SECOND, windows))
        return {sli: tuple(counts) for sli, counts in found.items()}

    async def _baseline(self, model: str, baseline: str, series: Sequence[str]) -> list[dict[str, Any]]:
        rows = await self._store.query(_BASELINE, {"baseline": baseline, "model": model})
        return [row for row in rows if any(fnmatchcase(row["series"], pattern) for pattern in series)]

    async def references(self, model: str, baseline: str, series: Sequence[str]) -> list[dict[str, Any]]:
        """Frozen bins, as the collectors' rules row has them."""
        return [
            {
                "model": model,
                "series": row["series"],
                "baseline": baseline,
                "bins_id": row["bins_id"],
                "edges": [float(edge) for edge in row["edges"]],
                "atoms": [float(atom) for atom in row["atoms"]],
                "categories": list(row["categories"]),
            }
            for row in await self._baseline(model, baseline, series)
        ]

    async def _history(self, baseline: str, bins_id: str) -> tuple[int, tuple[tuple[int, tuple[float, ...]], ...]]:
        """A reference's own past never changes: `bins_id` is a content hash."""
        key = (baseline, bins_id)
        if key not in self._histories:
            rows = await self._store.query(_HISTORY, {"baseline": baseline, "bins_id": bins_id})
            windows = tuple((int(row["window_start_s"]) * SECOND, tuple(map(float, row["counts"]))) for row in rows)
            self._histories[key] = (int(rows[0]["window_s"]) * SECOND if rows else 0, windows)
            while len(self._histories) > MAX_CACHED_HISTORIES:
                self._histories.popitem(last=False)
        self._histories.move_to_end(key)
        return self._histories[key]

    async def _drift(self, queries: Sequence[DriftQuery], fleet: Fleet) -> tuple[DriftReading, ...]:
        first = queries[0]
        baseline = await self._baseline(first.model, first.baseline, first.series)
        found: list[DriftReading] = []
        for query in queries:
            rows = await self._store.query(
                _CURRENT_BINS,
                {
                    "model": query.model,
                    "series": [row["series"] for row in baseline],
                    "bins": [row["bins_id"] for row in baseline],
                    "from_s": query.start_ns // SECOND,
                    "until_s": query.end_ns // SECOND,
                },
            )
            current = {row["series"]: row for row in rows}
            for row in baseline:
                width_ns, history = await self._history(query.baseline, row["bins_id"])
                now = current.get(row["series"])
                estimated, squared = (float(now["estimated"]), float(now["weight_sq"])) if now else (0.0, 0.0)
                reference = tuple(map(float, row["counts"]))
                found.append(
                    DriftReading(
                        model=query.model,
                        series=row["series"],
                        kind=row["kind"],
                        bins_id=row["bins_id"],
                        edges=tuple(map(float, row["edges"])),
                        atoms=tuple(map(float, row["atoms"])),
                        categories=tuple(row["categories"]),
                        reference=reference,
                        reference_n_eff=float(row["n_eff"]),
                        history=history,
                        history_window_ns=width_ns,
                        current=tuple(map(float, now["counts"])) if now else (0.0,) * len(reference),
                        current_n_eff=estimated**2 / squared if squared > 0 else 0.0,
                        window_start_ns=query.start_ns,
                        window_end_ns=query.end_ns,
                        coverage=fleet.coverage(query.start_ns, query.end_ns),
                    )
                )
        return tuple(found)

    async def _own(self, name: str, tick_ns: int) -> tuple[Sample, ...] | Failed:
        if name not in _OWN:
            return Failed(f"no reading is called {name!r}; there are {', '.join(_OWN)}")
        known = {"tick": tick_ns // MS, "silent_ms": round(self._silent_s * 1000), "budget": self._budget}
        parameters = {key: value for key, value in known.items() if f"{{{key}:" in _OWN[name]}
        if None in parameters.values():
            return ()
        rows = await self._store.query(_OWN[name], parameters)
        samples = []
        for row in rows:
            value = row.pop("value")
            if value is not None:
                samples.append(Sample({key: str(text) for key, text in row.items()}, float(value)))
        return tuple(samples)

    async def last_findings(self, now_ns: int) -> list[Finding]:
        """The newest row of each alert; of several revisions of it, the last."""
        rows = await self._store.query(_LAST_FINDINGS, {"since": now_ns // MS - MEMORY_DAYS * 24 * HOUR_MS})
        newest = {row["fingerprint"]: row for row in rows}
        return [from_row(row) for row in newest.values()]

    async def rules_in_force(self) -> dict[str, str]:
        """Name -> content hash of what table `rules` says is in force."""
        rows = await self._store.query(_RULES_IN_FORCE)
        return {row["name"]: row["hash"] for row in rows if row["active"]}
