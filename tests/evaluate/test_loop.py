"""The evaluator as a process: it may stop, or its store may, at any time, and nothing changes for anybody."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from leadline.act.alertmanager import Board
from leadline.errors import StoreError
from leadline.evaluate.loop import Evaluator, rules_of
from leadline.model.blocks import Block
from leadline.model.findings import Finding, Phase, to_row
from leadline.settings import AlertConfig, BurnRow, EvaluateConfig, Settings, SketchConfig
from leadline.testing.clock import ManualClock
from leadline.testing.timeline import Timeline

SECOND = 1_000_000_000
EVERY = 30 * SECOND
START = 1_800_000_000 * SECOND
RULES = """
model: fraud
slos:
  - {name: ok, objective: 99%, window: 30d, good: "error_type = ''", for: 30s, keep_firing_for: 1m}
  - {name: by-version, objective: 95%, window: 30d, good: "score > 0.5", by: [version]}
self:
  - {name: noise, alert: Noise, reading: silent_s, above: 60, summary: "{collector}: {value}"}
"""


class Told:
    """A `Notifier` that keeps what Alertmanager would be told, and what it was told on top of that because of a restart."""

    def __init__(self, clock: ManualClock, posts: dict[tuple[str, str, str], None]) -> None:
        self.board, self.clock, self.posts = Board(AlertConfig(), 30.0), clock, posts
        self.doubts: list[str | None] = []

    def update(self, findings: Sequence[Finding]) -> None:
        self.board.update(findings, self.clock.now_ns())
        for fingerprint in self.board.due({}, self.clock.now_ns()):
            body = self.board.payload(fingerprint, self.clock.now_ns())
            alert = self.board.alerts[fingerprint]
            self.posts[fingerprint, body["startsAt"], body["endsAt"] if alert.ended_ns is not None else "firing"] = None

    def unreadable(self, reason: str | None) -> None:
        self.doubts.append(reason)


class Findings:
    """Table `evaluations`, in memory: rows by token, and the newest of each alert for the timeline."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline, self.blocks, self.down = timeline, {}, False
        self.pending: dict[str, tuple[Finding, ...]] = {}

    async def insert(self, block: Block) -> None:
        if self.down:
            raise StoreError("no")
        self.blocks.setdefault(block.token, block)

    async def query(self, sql: str, parameters: Any = None) -> list[dict[str, Any]]:
        return []


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "rules.yaml").write_text(RULES)
    table = [
        BurnRow(severity="page", long=600, short=60, factor=10),
        BurnRow(severity="ticket", long=1800, short=300, factor=3),
    ]
    evaluate = EvaluateConfig(rules=[tmp_path / "rules.yaml"], burn_table=table)
    return Settings(evaluate=evaluate, sketch=SketchConfig())


def world(rng: random.Random, slis: list[str], ticks: int) -> Timeline:
    """Buckets of 10 s with bursts of errors, pauses and two versions, on random days."""
    timeline = Timeline(bucket_ns=10 * SECOND)
    share = 0.0
    for bucket in range(-180, 3 * ticks):
        if rng.random() < 0.03:
            share = rng.choice([0.0, 0.0, 0.02, 0.2, 1.0])
        for sli in slis:
            for version in ("v1", "v2"):
                if rng.random() < 0.8:
                    total = rng.randint(1, 200)
                    bad = sum(rng.random() < share for _ in range(total))
                    timeline.add(sli, START + bucket * 10 * SECOND, total - bad, bad, version=version)
    return timeline


async def live(settings: Settings, seed: int, ticks: int, *, restarts: bool, outages: bool) -> tuple[dict[Any, Any], list[Any]]:
    """Plays `ticks` ticks; returns the findings by (tick, alert) and what Alertmanager was told."""
    rules = rules_of(settings)
    timeline = world(random.Random(seed), [sli for sli, *_ in rules.slis()], ticks)
    chaos = random.Random(seed + 1)
    clock = ManualClock(START)
    rows: dict[tuple[int, str], Any] = {}
    posts: dict[tuple[str, str, str], None] = {}
    store = Findings(timeline)

    def process() -> Evaluator:
        told = Told(clock, posts)
        made = Evaluator(settings, rules, store=store, reader=timeline, notifier=told, clock=clock)  # type: ignore[arg-type]
        written = made._block

        def block(tick_ns: int, findings: tuple[Finding, ...]) -> Block:
            for finding in findings:
                key = (tick_ns, finding.fingerprint)
                # Only the watermark says when the tick was looked at; everything else is of the tick.
                row = json.dumps({**to_row(finding, "e"), "watermark": None}, sort_keys=True)
                assert rows.setdefault(key, row) == row, "a tick is evaluated once, or finds the same"
            timeline.write(findings)
            return written(tick_ns, findings)

        made._block = block  # type: ignore[method-assign,assignment]
        return made

    evaluator = process()
    while len({tick for tick, _ in rows}) < ticks:
        if restarts and rows and chaos.random() < 0.2:
            evaluator = process()
        timeline.down = outages and bool(rows) and chaos.random() < 0.3
        clock.advance(10)
        try:
            if not evaluator.ready:
                await evaluator.start()
            while len({tick for tick, _ in rows}) < ticks and await evaluator.step():
                pass
        except StoreError:
            pass
    return rows, sorted(posts)


@pytest.mark.parametrize("seed", range(6))
async def test_restarts_and_outages_change_nothing(settings: Settings, seed: int) -> None:
    """Promise 7: the same rows, the same starts and the same ends, whenever the evaluator or its store stops."""
    rows, posts = await live(settings, seed, 120, restarts=False, outages=False)
    assert any(kind == "firing" for *_, kind in posts)
    assert any(kind != "firing" for *_, kind in posts)
    for restarts, outages in ((True, False), (False, True), (True, True)):
        again, posts_again = await live(settings, seed, 120, restarts=restarts, outages=outages)
        assert again == rows
        assert posts_again == posts


class Process:
    """One evaluator over a timeline, by hand."""

    def __init__(self, settings: Settings, timeline: Timeline) -> None:
        self.rules = rules_of(settings)
        self.clock = ManualClock(START)
        self.timeline = timeline
        self.told = Told(self.clock, {})
        self.store = Findings(timeline)
        self.evaluator = Evaluator(
            settings,
            self.rules,
            store=self.store,  # type: ignore[arg-type]
            reader=timeline,
            notifier=self.told,
            clock=self.clock,
        )

    def found(self, rule: str, severity: str = "page") -> Finding:
        return next(f for f in self.evaluator.state.alerts.values() if (f.rule, f.severity) == (rule, severity))


async def test_a_tick_waits_for_the_watermark_and_then_has_its_own_time(settings: Settings) -> None:
    """It is evaluated when its counts are final, however late that is by the clock."""
    process = Process(settings, Timeline(lag_ns=14 * SECOND))
    await process.evaluator.start()
    assert not await process.evaluator.step()
    process.clock.advance(13)
    assert not await process.evaluator.step()
    process.clock.advance(1)
    assert await process.evaluator.step()
    assert process.evaluator.state.tick_ns == START
    assert not await process.evaluator.step()
    process.clock.advance(100)
    ticks = []
    while await process.evaluator.step():
        ticks.append(process.evaluator.state.tick_ns)
    assert ticks == [START + EVERY, START + 2 * EVERY, START + 3 * EVERY]


async def test_without_a_watermark_alerts_fire_but_do_not_resolve(settings: Settings) -> None:
    """A collector that lags holds resolves back, not pages; the wait has an end, and says so."""
    timeline = Timeline(bucket_ns=10 * SECOND)
    process = Process(settings, timeline)
    sli = process.rules.slos[0].sli
    for bucket in range(-400, 2000):
        timeline.add(sli, START + bucket * 10 * SECOND, 0 if 0 < bucket <= 12 else 100, 100 if 0 < bucket <= 12 else 0)
    await process.evaluator.start()
    timeline.lag_ns = 10**15
    phases = []
    for _ in range(200):
        process.clock.advance(30)
        while await process.evaluator.step():
            phases.append(process.found("fraud/ok").phase)
    assert phases[:4] == [Phase.INACTIVE, Phase.INACTIVE, Phase.PENDING, Phase.FIRING]
    # The burn is over after 4 minutes; the resolve waits an hour for a watermark that never comes.
    assert phases.count(Phase.FIRING) == pytest.approx(120, abs=12)
    ended = process.found("fraud/ok")
    assert ended.phase is Phase.INACTIVE
    timeline.lag_ns = 0


async def test_a_failing_query_keeps_the_alert_and_says_so(settings: Settings) -> None:
    """One rule's query fails: its alert stays and is marked, the others go on, and Leadline raises an alert of its own."""
    timeline = Timeline(bucket_ns=10 * SECOND)
    process = Process(settings, timeline)
    sli, other = (rule.sli for rule in process.rules.slos)
    for bucket in range(-400, 400):
        timeline.add(sli, START + bucket * 10 * SECOND, 0, 100)
        timeline.add(other, START + bucket * 10 * SECOND, 100)
    await process.evaluator.start()
    process.clock.advance(60)
    while await process.evaluator.step():
        pass
    assert process.found("fraud/ok").phase is Phase.FIRING
    before = process.found("fraud/ok")
    timeline.failing[sli] = "memory limit exceeded"
    for _ in range(30):
        process.clock.advance(30)
        assert await process.evaluator.step()
    kept = process.found("fraud/ok")
    assert (kept.phase, kept.state, kept.fired_at_ns) == (Phase.FIRING, "error", before.fired_at_ns)
    assert kept.annotations["evaluation_error"] == "memory limit exceeded"
    assert kept.annotations["summary"] == before.annotations["summary"]
    assert process.found("fraud/by-version").state != "error"
    watch = [f for f in process.evaluator.state.alerts.values() if f.rule == "leadline/evaluation-errors"]
    assert [(f.labels["subject"], f.phase) for f in watch] == [("fraud/ok", Phase.FIRING)]
    del timeline.failing[sli]
    process.clock.advance(30)
    assert await process.evaluator.step()
    assert "evaluation_error" not in process.found("fraud/ok").annotations
    watch = [f for f in process.evaluator.state.alerts.values() if f.rule == "leadline/evaluation-errors"]
    assert [f.phase for f in watch] == [Phase.INACTIVE]


async def test_findings_wait_for_a_store_that_does_not_take(settings: Settings) -> None:
    """People are told although nothing can be written; what was found is written later, in order."""
    timeline = Timeline(bucket_ns=10 * SECOND)
    process = Process(settings, timeline)
    await process.evaluator.start()
    process.store.down = True
    process.clock.advance(90)
    while await process.evaluator.step():
        pass
    assert any(kind == "firing" for *_, kind in process.told.posts), "the dead man at least"
    published = len(process.store.blocks)
    process.store.down = False
    process.clock.advance(30)
    assert await process.evaluator.step()
    ticks = [int(token.split("/")[1]) for token in list(process.store.blocks)[published:] if "/evaluations/" in token]
    assert ticks == [(START + n * EVERY) // 1_000_000 for n in range(5)]


async def test_after_a_long_stop_the_oldest_ticks_are_left_out_and_counted(settings: Settings) -> None:
    """The backlog is bounded."""
    short = settings.model_copy(update={"evaluate": settings.evaluate.model_copy(update={"max_backlog": 10})})
    process = Process(short, Timeline())
    await process.evaluator.start()
    assert await process.evaluator.step()
    process.clock.advance(100 * 30)
    ticks = 0
    while await process.evaluator.step():
        ticks += 1
    assert (ticks, process.evaluator.left_out) == (10, 90)


async def test_two_evaluators_find_the_same(settings: Settings) -> None:
    """Same fingerprints, same times: two may run, and Alertmanager folds what they say."""
    rows, posts = await live(settings, 11, 60, restarts=False, outages=False)
    again, posts_again = await live(settings, 11, 60, restarts=False, outages=True)
    assert rows.keys() == again.keys()
    assert posts == posts_again
