"""The views that a person on call asks."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import pytest

from leadline.model.blocks import Block
from leadline.store import migrate
from leadline.store.client import Clickhouse
from leadline.testing.engine import EngineProcess


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An engine that only this module writes to."""
    with EngineProcess(tmp_path_factory.mktemp("views")) as engine:
        yield engine


async def rows(store: Clickhouse, table: str, given: Sequence[Mapping[str, Any]]) -> None:
    data = b"".join(json.dumps(row).encode() + b"\n" for row in given)
    await store.insert(Block(table, tuple(given[0]), "JSONEachRow", data, f"{table}/{hash(data)}", len(given)))


async def test_views(own: EngineProcess) -> None:
    """Each says what the rows say."""
    store = own.store()
    await migrate.apply(store)
    zero = {"received": 0, "kept": 0, "sampled_out": 0, "rejected": 0, "duplicate": 0, "forwarded": 0, "waiting": 0}
    head = {"at": time.time(), "collector": "a", "model": ""}
    await rows(
        store,
        "accounting",
        [
            {**head, "signal": "traces", **zero, "received": 100, "waiting": 100},
            {**head, "signal": "traces", **zero, "kept": 10, "sampled_out": 80, "waiting": -100, "duplicate": 5, "rejected": 2},
            {**head, "collector": "b", "signal": "logs", **zero, "received": 7, "kept": 7},
        ],
    )
    assert await store.query("SELECT * FROM accounting_now") == [
        {"signal": "logs", **zero, "received": 7, "kept": 7, "lost": 0},
        {"signal": "traces", **zero, "received": 100, "kept": 10, "sampled_out": 80, "rejected": 2, "duplicate": 5, "lost": 3},
    ]
    by = await store.query("SELECT collector, signal, lost FROM accounting_by_collector")
    assert [tuple(row.values()) for row in by] == [("a", "traces", 3), ("b", "logs", 0)]

    sketch = {"window_start": int(time.time()) // 60 * 60, "window_s": 60, "model": "m", "version": "1", "estimated": 50}
    await rows(store, "sketches", [{**sketch, "series": "", "observed": 5}, {**sketch, "series": "score", "observed": 5}])
    minutes = await store.query("SELECT model, version, observed, estimated FROM predictions_per_minute")
    assert minutes == [{"model": "m", "version": "1", "observed": 5, "estimated": 50.0}]
    prediction = {"event_time": time.time(), "model": "m", "version": "1", "error_type": "", "weight": None}
    await rows(
        store, "predictions", [{**prediction, "weight": 10.0}, {**prediction, "error_type": "timeout"}, prediction, prediction, prediction]
    )
    assert await store.query("SELECT * FROM prediction_counts") == [
        {"model": "m", "version": "1", "role": "", "measured": 5, "stored": 5, "errors": 1, "of_kept_traces": 1}
    ]

    day, after = (datetime.date.today() - datetime.timedelta(days=n) for n in (2, 1))
    span = {
        "TraceId": "t1",
        "ServiceName": "api",
        "SpanName": "root",
        "StatusCode": "Ok",
        "Weight": 4.0,
        "Sampling": "slow",
        "Policy": "slow",
    }
    await rows(
        store,
        "otel_traces",
        [
            {**span, "Timestamp": f"{day} 00:00:00.000", "Duration": 50_000_000},
            {**span, "Timestamp": f"{day} 00:00:00.030", "SpanName": "child", "Duration": 60_000_000, "StatusCode": "Error"},
            {**span, "Timestamp": f"{day} 00:00:01.000", "TraceId": "t2", "Duration": 10_000_000, "Weight": None},
            {**span, "Timestamp": f"{after} 00:00:00.000", "TraceId": "t3", "Duration": 10**9},
        ],
    )
    slowest = await store.query(f"SELECT * FROM slowest_kept_traces(since = '{day} 00:00:00', until = '{after} 00:00:00')")
    assert [(r["trace_id"], r["duration_ms"], r["name"], r["spans"], r["errors"], r["weight"]) for r in slowest] == [
        ("t1", 90.0, "root", 2, 1, 4.0),
        ("t2", 10.0, "root", 1, 0, None),
    ]
    saved = (await store.query("SELECT * FROM cost_saved"))[0]
    assert (saved["spans_received"], saved["spans_kept"], saved["spans_not_kept"], saved["spans_on_disk"]) == (93, 10, 83, 4)
    assert saved["bytes_not_stored"] == pytest.approx(saved["span_bytes_on_disk"] / 4 * 83)
    assert saved["bytes_saved"] == pytest.approx(saved["bytes_not_stored"] - saved["bytes_of_measuring"])

    finding = {"rule": "r", "fingerprint": "f", "severity": "page", "labels": {"a": "b"}, "annotations": {"summary": "s"}, "revision": 0}
    now = round(time.time(), 3)
    await rows(
        store,
        "evaluations",
        [
            {**finding, "evaluated_at": now - 2, "state": "inactive", "value": 1.0},
            {**finding, "evaluated_at": now - 1, "state": "firing", "value": 2.0, "fired_at": now - 1},
            {**finding, "evaluated_at": now - 1, "fingerprint": "g", "state": "inactive", "value": None},
        ],
    )
    alerts = await store.query("SELECT rule, state, value, summary, labels FROM alerts_now")
    assert [(alert["state"], alert["value"], alert["summary"], alert["labels"]) for alert in alerts] == [
        ("firing", 2.0, "s", {"a": "b"}),
        ("inactive", None, "s", {"a": "b"}),
    ]
    store.close()


def test_readers_may_ask_them(own: EngineProcess) -> None:
    """Views run with the rights of who asks; a reader's are enough."""
    for view in ("accounting_now", "accounting_by_collector", "predictions_per_minute", "prediction_counts", "cost_saved", "alerts_now"):
        reply = httpx.post(own.url, content=f"SELECT * FROM {view}")
        assert reply.status_code == 200, reply.text
