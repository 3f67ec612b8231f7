"""From counts in ClickHouse to the real Alertmanager: the page comes at the tick the arithmetic says, and a restart changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from leadline.act.alertmanager import Alertmanagers
from leadline.clock import SystemClock
from leadline.evaluate.loop import run
from leadline.settings import AlertConfig, BurnRow, EvaluateConfig, Settings, SketchConfig
from leadline.store.readings import StoreReader
from leadline.testing.alertmanager import AlertmanagerProcess, configuration
from leadline.testing.webhook import Webhook

RATE = 100
"""Predictions in each bucket of a second."""


def instant(second: int) -> str:
    """As Alertmanager writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


class Traffic:
    """A collector's counters: a bucket of a second at a time, with half of the predictions bad in [bad_from, bad_until)."""

    def __init__(self, store: Any, sli: str) -> None:
        self.store, self.sli = store, sli
        self.written = int(time.time()) - 90
        self.bad_from = self.bad_until = 2**40

    def write(self) -> None:
        """All buckets that are over, and how far that goes."""
        now = int(time.time())
        rows = [
            {
                "window_start": second,
                "window_s": 1,
                "sli": self.sli,
                "model": "fraud",
                "version": "v1",
                "good": RATE // 2 if self.bad_from <= second < self.bad_until else RATE,
                "bad": RATE // 2 if self.bad_from <= second < self.bad_until else 0,
                "collector": "a",
                "segment": second,
            }
            for second in range(self.written, now)
        ]
        if rows:
            self.store.rows("sli_counts", rows)
            self.store.rows("watermarks", [{"at": time.time(), "collector": "a", "watermark": now, "lag_p99_ms": 0, "segment": now}])
            self.written = now

    async def flow(self) -> None:
        while True:
            self.write()
            await asyncio.sleep(0.05)


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text("model: fraud\nslos:\n  - {name: ok, objective: 99%, window: 30d, good: \"error_type = ''\"}\n")
    return path


def settings_for(rules: Path, alertmanager: str) -> Settings:
    """Windows of seconds: public settings, the same code."""
    table = [BurnRow(severity="page", long=10, short=3, factor=10), BurnRow(severity="ticket", long=30, short=6, factor=3)]
    return Settings(
        evaluate=EvaluateConfig(rules=[rules], every=1.0, burn_table=table),
        alert=AlertConfig(alertmanagers=[alertmanager], resend=1.0),
        sketch=SketchConfig(sli_window=1.0, window=1.0),
    )


async def evaluator(settings: Settings, store: Any, stop: asyncio.Event) -> None:
    """What `leadline evaluate` runs, over this store."""
    clock = SystemClock()
    notifier = Alertmanagers(settings.alert, settings.evaluate.every, clock)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(notifier.run(stop))
        tasks.create_task(run(settings, store, clock, stop, reader=StoreReader(store), notifier=notifier))


@contextlib.asynccontextmanager
async def killed_in_the_end(settings: Settings, store: Any) -> AsyncIterator[asyncio.Task[None]]:
    """An evaluator that is not asked to stop, but stops."""
    task = asyncio.create_task(evaluator(settings, store, asyncio.Event()))
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(happened: Callable[[], Any], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.02)


def pages(hook: Webhook) -> list[tuple[str, str, str]]:
    """(status, startsAt, endsAt where it has ended) of each notification of the page."""
    return [
        (alert["status"], alert["startsAt"][:19], alert["endsAt"][:19] if alert["status"] == "resolved" else "")
        for body in hook.received
        for alert in body["alerts"]
        if alert["labels"]["alertname"] == "LeadlineBurnRate" and alert["labels"]["severity"] == "page"
    ]


@pytest.mark.needs("alertmanager")
@pytest.mark.slow
@pytest.mark.parametrize("restarts", [False, True], ids=["undisturbed", "killed and restarted"])
async def test_a_burst_pages_at_its_tick_and_recovery_resolves_it(store: Any, rules: Path, tmp_path: Path, restarts: bool) -> None:
    """Must show 8. Half of all predictions fail for 6 seconds, against 99 %: 2 x 50 of 1,000 is a burn of 10.

    The page's pair is 10 s / 3 s at 10: it trips with the second bad bucket, and is over when the last one leaves the short window.
    """
    from leadline.evaluate.loop import rules_of

    with Webhook() as hook, AlertmanagerProcess(configuration(hook.url), tmp_path / "am") as alertmanager:
        settings = settings_for(rules, alertmanager.url)
        traffic = Traffic(store, rules_of(settings).slos[0].sli)
        flow = asyncio.create_task(traffic.flow())
        started = int(time.time()) + 3
        traffic.bad_from, traffic.bad_until = started, started + 6
        moments = [started + 1, started + 4, started + 8, started + 10] if restarts else []
        for moment in [*moments, 2**40]:
            async with killed_in_the_end(settings, store):
                await until(lambda moment=moment: time.time() > moment or any(status == "resolved" for status, *_ in pages(hook)))
                if any(status == "resolved" for status, *_ in pages(hook)):
                    break
        flow.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await flow
        assert pages(hook) == [
            ("firing", instant(started + 2), ""),
            ("resolved", instant(started + 2), instant(started + 9)),
        ]
    history = store.run(
        "SELECT toUnixTimestamp(evaluated_at) AS at, state FROM evaluations FINAL WHERE rule = 'fraud/ok' AND severity = 'page' "
        f"AND at >= {started} AND at <= {started + 9} ORDER BY at"
    )
    assert [(row["at"] - started, row["state"]) for row in history] == [
        (second, "firing" if 2 <= second < 9 else "inactive") for second in range(10)
    ]
    published = store.run("SELECT name, body FROM rules WHERE name = 'slis'")
    assert len(published) == 1, "rules are published once, however many evaluators start"
