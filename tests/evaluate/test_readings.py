"""What the evaluator reads, in real SQL on real ClickHouse."""

from __future__ import annotations

import json
from typing import Any

import pytest

from leadline.errors import PermanentError, StoreError
from leadline.model.blocks import Block
from leadline.model.findings import COLUMNS, Finding, Kind, from_row, to_row
from leadline.model.readings import Counts, DriftQuery, Failed, Fleet, ReadRequest
from leadline.store.readings import _OWN, StoreReader

SECOND = 1_000_000_000
NOW_S = 1_800_000_000
NOW = NOW_S * SECOND


def counts(window_start: int, good: int, bad: int, **others: Any) -> dict[str, Any]:
    return {
        "window_start": window_start,
        "window_s": 10,
        "sli": "abc",
        "model": "fraud",
        "version": "v1",
        "role": "",
        "good": good,
        "bad": bad,
        "unknown": 0,
        "good_estimated": good,
        "bad_estimated": bad,
        "collector": "a",
        "segment": 1,
        **others,
    }


async def test_a_bucket_is_in_a_window_if_it_ends_in_it(store: Any) -> None:
    """Windows are (tick - width, tick] by the end of a bucket: adjacent windows share nothing and leave nothing out."""
    store.rows(
        "sli_counts",
        [
            counts(NOW_S - 10, 1, 0),  # ends at the tick: in
            counts(NOW_S, 2, 0),  # ends after it: out
            counts(NOW_S - 60, 4, 0),  # ends 50 s before: in 60 s and 50.001 s, not in 50 s
            counts(NOW_S - 70, 8, 0),  # ends 60 s before: out of 60 s
            counts(NOW_S - 20, 0, 16, version="v2", unknown=3),
            counts(NOW_S - 20, 0, 32, role="shadow"),
            counts(NOW_S - 20, 64, 0, sli="other"),
        ],
    )
    windows = (50 * SECOND, 60 * SECOND, 70 * SECOND)
    read = await StoreReader(store).read(ReadRequest(NOW, ("abc", "unseen"), windows), Fleet(NOW, 1))
    found = {(row.version, row.shadow): row for row in read.slis["abc"]}  # type: ignore[union-attr]
    assert found["v1", False].windows == {windows[0]: Counts(1), windows[1]: Counts(5), windows[2]: Counts(13)}
    assert found["v1", False].first_ns == (NOW_S - 70) * SECOND
    assert found["v2", False].windows[windows[0]] == Counts(0, 16, 3)
    assert found["v1", True].windows[windows[0]] == Counts(0, 32)
    assert read.slis["unseen"] == ()


async def test_the_watermark_is_the_least_of_those_who_speak(store: Any) -> None:
    """A silent collector no longer holds it back; one silent for more than an hour is forgotten."""
    said = [("a", at, at - 4, 500) for at in range(NOW_S - 7200, NOW_S, 10)] + [
        ("b", at, at - 30, 0) for at in range(NOW_S - 600, NOW_S, 10)
    ]
    said += [("c", NOW_S - 300, NOW_S - 310, 0), ("d", NOW_S - 4000, NOW_S - 4000, 0)]
    store.rows(
        "watermarks",
        [
            {"at": at, "collector": name, "watermark": mark, "sketch_watermark": mark - 60, "lag_p99_ms": lag, "segment": 1}
            for name, at, mark, lag in said
        ],
    )
    fleet = await StoreReader(store).fleet(NOW)
    assert fleet.watermark_ns == (NOW_S - 40) * SECOND
    assert fleet.sketch_watermark_ns == (NOW_S - 100) * SECOND
    assert (fleet.live, fleet.silent_ns, fleet.gaps) == (2, (300 * SECOND,), ())
    # One of three has been silent for 300 s of these 600 s.
    assert fleet.coverage(NOW - 600 * SECOND, NOW) == pytest.approx(1 - 300 / 600 / 3)
    assert await StoreReader(store).fleet(NOW - 10_000 * SECOND) == Fleet()


async def test_times_without_any_collector_are_not_covered(store: Any) -> None:
    """A gap in everybody's watermarks is time that nobody observed."""
    said = [*range(NOW_S - 3600, NOW_S - 1800, 10), *range(NOW_S - 900, NOW_S, 10)]
    store.rows("watermarks", [{"at": at, "collector": "a", "watermark": at, "lag_p99_ms": 0, "segment": 1} for at in said])
    fleet = await StoreReader(store).fleet(NOW)
    assert len(fleet.gaps) == 1
    assert fleet.coverage(NOW - 3600 * SECOND, NOW) == pytest.approx(0.75, abs=0.04)


async def test_a_finding_is_what_its_row_says(store: Any) -> None:
    """Written and read again, it is the same; of several rows of an alert the newest counts, of its revisions the last."""
    finding = Finding(
        rule="fraud/ok",
        rule_hash="h",
        kind=Kind.BURN_RATE,
        severity="page",
        fingerprint="f1",
        labels={"model": "fraud", "odd": 'quote \' and \\ and "é"'},
        state="firing",
        evaluated_at_ns=NOW + 250_000_000,
        watermark_ns=NOW,
        value=15.25,
        threshold=14.4,
        coverage=0.5,
        active_at_ns=NOW - 60 * SECOND,
        fired_at_ns=NOW,
        clear_since_ns=NOW + SECOND,
        annotations={"summary": "line\nbreak"},
        evidence={"pairs": [{"burn": 1.5}]},
        memory={"sum": 3},
    )
    old = Finding(**{name: getattr(finding, name) for name in Finding.__slots__} | {"evaluated_at_ns": NOW - SECOND, "state": "pending"})
    corrected = Finding(**{name: getattr(finding, name) for name in Finding.__slots__} | {"revision": 1, "value": 16.0})
    for number, row in enumerate((finding, old, corrected)):
        data = json.dumps(to_row(row, "e")).encode()
        await store.insert(Block("evaluations", COLUMNS, "JSONEachRow", data, f"t/{number}", 1))
    assert await StoreReader(store).last_findings(NOW) == [corrected]


def test_a_row_holds_no_number_that_json_has_not() -> None:
    """Infinite and undefined values are NULL in the row."""
    row = to_row(Finding("r", "h", Kind.SELF, "page", "f", {}, "firing", NOW, value=float("inf"), threshold=float("nan")), "e")
    assert row["value"] is None
    assert row["threshold"] is None
    assert (
        from_row({**row, **{f"{name}_ms": None for name in ("evaluated_at", "watermark", "active_at", "fired_at", "resolved_at")}}).value
        is None
    )


async def test_every_reading_about_leadline_itself_runs(store: Any) -> None:
    """The shipped SQL is valid on the shipped schema, and finds what is wrong."""
    terms = {"kept": 0, "sampled_out": 0, "rejected": 0, "duplicate": 0, "forwarded": 0, "waiting": 0}
    store.rows(
        "accounting",
        [
            {
                "at": NOW_S - 10,
                "collector": "a",
                "signal": "traces",
                "model": "",
                "received": 100,
                **terms,
                "kept": 1,
                "sampled_out": 92,
                "segment": 1,
            },
            {"at": NOW_S - 10, "collector": "a", "signal": "logs", "model": "", "received": 5, **terms, "kept": 5, "segment": 1},
        ],
    )
    store.rows("watermarks", [{"at": NOW_S - 3, "collector": "a", "watermark": NOW_S - 30, "lag_p99_ms": 0, "segment": 1}])
    read = await StoreReader(store, budget=20.0).read(ReadRequest(NOW, own=tuple(_OWN)), Fleet(NOW, 1))
    own = {
        name: sorted((tuple(sorted(s.labels.items())), s.value) for s in samples)
        for name, samples in read.own.items()
        if not isinstance(samples, Failed)
    }
    assert own.keys() == _OWN.keys(), read.own
    assert own["lost"] == [((("collector", "a"), ("signal", "logs")), 0.0), ((("collector", "a"), ("signal", "traces")), 7.0)]
    assert own["lag_s"] == [((("collector", "a"),), 30.0)]
    assert own["silent_s"] == [((("collector", "a"),), 3.0)]
    assert own["budget_used"] == [((), 0.0)]
    assert own["starved"] == [((), 1.0)]
    assert own["overflow"] == []


async def test_a_query_that_fails_alone_is_marked(store: Any) -> None:
    """One bad query does not blind the others; when nothing answers, the tick can wait."""
    reader = StoreReader(store)
    store.run("DROP TABLE accounting SYNC")
    read = await reader.read(ReadRequest(NOW, ("abc",), (SECOND,), own=("lost", "silent_s", "what")), Fleet(NOW, 1))
    assert isinstance(read.own["lost"], Failed)
    assert isinstance(read.own["what"], Failed)
    assert "lost, lag_s" in read.own["what"].reason
    assert read.own["silent_s"] == ()
    assert read.slis["abc"] == ()
    store.down = True
    with pytest.raises(StoreError):
        await reader.read(ReadRequest(NOW, ("abc",), (SECOND,), own=("silent_s",)), Fleet(NOW, 1))
    with pytest.raises(StoreError):
        await reader.fleet(NOW)


async def test_drift_windows_come_with_their_reference(store: Any) -> None:
    """Bins of the window are summed over rows and collectors, whichever of two references they were counted for first."""
    store.rows(
        "baselines",
        [
            {
                "baseline": "b",
                "created_at": NOW_S - 9,
                "model": "fraud",
                "version": "",
                "series": series,
                "kind": "numeric",
                "bins_id": bins_id,
                "edges": [0, 1],
                "atoms": [],
                "categories": [],
                "counts": [0, 0, 1, 8, 1],
                "n_eff": 10,
                "source": "",
            }
            for series, bins_id in (("features/amount", "x1"), ("features/age", "x2"), ("score", "x3"))
        ],
    )
    store.rows(
        "baseline_windows",
        [
            {"baseline": "b", "bins_id": "x1", "window_start": NOW_S - 99_960 + 60 * n, "window_s": 60, "counts": [0, 0, 1, 4, n]}
            for n in (0, 1)
        ],
    )
    for start, role, bins_id, bins, next_id, next_bins in (
        (NOW_S - 120, "", "x1", [0, 0, 0, 3, 0], "", []),
        (NOW_S - 60, "", "old", [9], "x1", [0, 0, 0, 2, 5]),
        (NOW_S - 60, "shadow", "x1", [0, 0, 0, 100, 0], "", []),
        (NOW_S, "", "x1", [0, 0, 0, 1000, 0], "", []),
    ):
        store.run(
            f"""INSERT INTO sketches
            (window_start, window_s, model, version, role, series, observed, estimated, weight_sq, bins_id, bins, bins_id_next, bins_next)
            VALUES ({start}, 60, 'fraud', 'v1', '{role}', 'features/amount', 5, 5, 5, '{bins_id}', {bins}, '{next_id}', {next_bins})"""
        )
    query = DriftQuery("fraud/drift", "fraud", "b", ("features/*",), NOW - 120 * SECOND, NOW)
    read = await StoreReader(store).read(ReadRequest(NOW, drift=(query,)), Fleet(NOW, 1))
    found = {reading.series: reading for reading in read.drift["fraud/drift"]}  # type: ignore[union-attr]
    assert found.keys() == {"features/amount", "features/age"}
    amount = found["features/amount"]
    assert amount.current == (0, 0, 0, 5, 5)
    assert amount.current_n_eff == 10
    assert amount.reference == (0, 0, 1, 8, 1)
    assert [window for _, window in amount.history] == [(0, 0, 1, 4, 0), (0, 0, 1, 4, 1)]
    assert amount.history_window_ns == 60 * SECOND
    assert found["features/age"].current == (0, 0, 0, 0, 0)
    assert found["features/age"].current_n_eff == 0
    references = await StoreReader(store).references("fraud", "b", ["score"])
    assert references == [
        {"model": "fraud", "series": "score", "baseline": "b", "bins_id": "x3", "edges": [0.0, 1.0], "atoms": [], "categories": []}
    ]


async def test_bad_sql_is_permanent(store: Any) -> None:
    """The test's own store tells passing faults from lasting ones."""
    with pytest.raises(PermanentError):
        await store.query("SELECT nonsense")
