"""Predictions in over OTLP, a page out at the real Alertmanager: once, at the tick that the arithmetic says, whatever dies on the way."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

import leadline.sdk as leadline
from leadline.testing.alertmanager import AlertmanagerProcess, configuration
from leadline.testing.processes import Processes, until
from leadline.testing.webhook import Webhook

RULES = """
model: fraud
slos:
  - {name: served-well, objective: 99%, window: 30d, good: "error_type = ''"}
"""
PLANNED = """
model: fraud
slos:
  - {name: strict, objective: 99.99%, good: "score < 0.9"}
  - {name: typo, model: frauds, objective: 99%, good: "score < 0.9"}
drift:
  - {reference: baseline/train, series: [score]}
"""
OVERRIDES = (
    "collector=c1",
    "journal.segment=1s",
    "sketch.sli_window=1s",
    "sketch.rules_poll=200ms",
    "store.flush=200ms",
    "evaluate.every=1s",
    "evaluate.burn_table=[{severity: page, long: 8s, short: 3s, factor: 10}]",
    "alert.resend=5s",  # Alertmanager ends by itself what is not sent again for 20 s: longer than any restart here
)
LONG_S = 8
RULE = "rule = 'fraud/served-well' AND severity = 'page'"


@contextlib.contextmanager
def traffic(port: int) -> Iterator[threading.Event]:
    """Predictions of our own SDK, about 40 a second, sent as they are made; half of them fail while the event is set."""
    providers = leadline.setup(f"http://127.0.0.1:{port}", service="checkout", set_global=False, flush_on_sigterm=False)
    monitor = leadline.Monitor("fraud", "7", tracer_provider=providers.tracer_provider)
    failing, stop = threading.Event(), threading.Event()

    def send() -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            with contextlib.suppress(TimeoutError), monitor.prediction(features={"amount": float(number % 97)}) as prediction:
                if failing.is_set() and number % 2:
                    raise TimeoutError("the feature store did not answer")
                prediction.output("no", score=0.1)
            if number % 4 == 0:
                providers.flush()
                stop.wait(0.1)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield failing
    finally:
        stop.set()
        thread.join()
        providers.shutdown()


class History:
    """What Alertmanager knew of the page at any time: (fingerprint, startsAt), and each time that it was told again."""

    def __init__(self, alertmanager: AlertmanagerProcess) -> None:
        self.alertmanager, self.identities, self.told = alertmanager, set[tuple[str, str]](), set[str]()

    def look(self) -> None:
        for alert in self.alertmanager.alerts():
            if alert["labels"]["alertname"] == "LeadlineBurnRate":
                self.identities.add((alert["fingerprint"], alert["startsAt"]))
                self.told.add(alert["updatedAt"])

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[History]:
        async def keep() -> None:
            while True:
                await asyncio.to_thread(self.look)
                await asyncio.sleep(0.1)

        task = asyncio.create_task(keep())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def notifications(hook: Webhook) -> list[tuple[str, str, int, int | None]]:
    """(status, fingerprint, startsAt, endsAt where it has ended) of each notification of a burn rate, in order."""
    return [
        (alert["status"], alert["fingerprint"], unix(alert["startsAt"]), unix(alert["endsAt"]) if alert["status"] == "resolved" else None)
        for body in hook.received
        for alert in body["alerts"]
        if alert["labels"]["alertname"] == "LeadlineBurnRate"
    ]


def unix(instant: str) -> int:
    """Seconds; the ticks of this test are whole ones."""
    found = datetime.fromisoformat(instant)
    assert found.microsecond == 0
    return int(found.timestamp())


class Arithmetic:
    """The rule as it was published, over the counts as they are stored, in exact numbers: what a person would work out on paper."""

    def __init__(self, machine: Processes) -> None:
        body = json.loads(
            machine.query("SELECT body FROM rules WHERE name = 'rule/fraud/served-well' ORDER BY created_at DESC LIMIT 1")[0]["body"]
        )
        (self.pair,) = body["pairs"]
        self.allowed = 1 - Fraction(body["objective"])
        rows = machine.query(
            "SELECT toUnixTimestamp(window_start) + window_s AS ends, sum(good) AS good, sum(bad) AS bad "
            f"FROM sli_counts WHERE sli = '{body['sli']}' GROUP BY ends"
        )
        self.counts = {row["ends"]: (row["good"], row["bad"]) for row in rows}

    def window(self, tick: int, width_s: float) -> tuple[int, int]:
        """(good, bad) of the buckets that end in (tick - width, tick]."""
        inside = [counts for ends, counts in self.counts.items() if tick - width_s < ends <= tick]
        return sum(good for good, _ in inside), sum(bad for _, bad in inside)

    def burns(self, tick: int) -> bool:
        """Whether both windows burn at the factor."""
        windows = [self.window(tick, self.pair[name]) for name in ("long_s", "short_s")]
        return windows[0][1] >= 3 and all(
            good + bad > 0 and Fraction(bad, good + bad) / self.allowed >= Fraction(str(self.pair["factor"])) for good, bad in windows
        )

    def first(self, wanted: bool, since: int) -> int:
        """The first tick from `since` on at which it burns, or does not."""
        return next(tick for tick in range(since, max(self.counts) + 1) if self.burns(tick) is wanted)


def newest_tick(machine: Processes) -> int:
    return int(machine.query("SELECT toUnixTimestamp(max(evaluated_at)) AS tick FROM evaluations")[0]["tick"])


async def ticks_beyond(machine: Processes, tick: float, what: str) -> None:
    await until(lambda: newest_tick(machine) > tick, what, 30)


@pytest.mark.needs("alertmanager")
@pytest.mark.slow
async def test_a_burst_of_errors_pages_once_and_resolves_once_whatever_dies(tmp_path: Path) -> None:
    """Must show 8. The evaluator is killed while the page fires, while it recovers (so that the end is evaluated late), and after it.

    Alertmanager's history is what the arithmetic says of an evaluator that nothing happened to: one alert, one notification
    that it fires, one that it is over, with the times of the ticks.
    """
    (tmp_path / "rules.yaml").write_text(RULES)
    with (
        Webhook() as hook,
        AlertmanagerProcess(configuration(hook.url), tmp_path / "alertmanager") as alertmanager,
        Processes(
            tmp_path, (*OVERRIDES, f"evaluate.rules=['{tmp_path / 'rules.yaml'}']", f"alert.alertmanagers=['{alertmanager.url}']")
        ) as machine,
    ):
        for name in ("engine", "collect", "evaluate"):
            machine.start(name)
        await machine.ready()
        async with History(alertmanager).kept() as history:
            with traffic(machine.ports["grpc"]) as failing:
                covered = f"SELECT count() AS n FROM evaluations WHERE {RULE} AND state = 'inactive' AND coverage = 1"
                await until(lambda: machine.query(covered)[0]["n"] > 0, "the long window is on record", 60)

                failing.set()
                began = int(time.time())
                await until(lambda: len(notifications(hook)) == 1, "a notification that it fires", 30)
                said = machine.run("status").stdout
                assert "firing: fraud/served-well (page) since 20" in said
                assert "fraud: served-well burns its error budget" in said
                machine.kill("evaluate")
                killed = [time.time()]
                history.look()  # what was told before it died
                told = len(history.told)
                machine.start("evaluate")
                await until(lambda: len(history.told) >= told + 2, "it is sent again by the first restart, and again in its time", 30)
                assert newest_tick(machine) > killed[0]

                failing.clear()
                machine.kill("evaluate")
                killed.append(time.time())
                await until(lambda: not Arithmetic(machine).burns(int(time.time()) - 3), "it is over, and nobody has evaluated it", 30)
                assert newest_tick(machine) <= killed[1]
                machine.start("evaluate")
                await until(lambda: len(notifications(hook)) == 2, "a notification that it is over", 30)

                machine.kill("evaluate")
                killed.append(time.time())
                machine.start("evaluate")
                await ticks_beyond(machine, killed[2] + 4, "ticks after the last restart, which sends everything again")

        worked_out = Arithmetic(machine)
        fires = worked_out.first(True, began)
        ends = worked_out.first(False, fires)
        assert fires <= killed[0]
        assert ends > killed[1] - 1, "the end was not evaluated before the second kill"
        ((fingerprint, starts_at),) = history.identities
        assert unix(starts_at) == fires
        assert notifications(hook) == [("firing", fingerprint, fires, None), ("resolved", fingerprint, fires, ends)]

        late = machine.query("SELECT max(toUnixTimestamp64Milli(receive_time) - toUnixTimestamp64Milli(event_time)) AS ms FROM predictions")
        evaluations = machine.query(
            f"SELECT toUnixTimestamp(evaluated_at) AS tick, state, evidence FROM evaluations FINAL WHERE {RULE} "
            f"AND tick BETWEEN {began - 3} AND {ends + 3} ORDER BY tick"
        )
        assert [row["tick"] for row in evaluations] == list(range(began - 3, ends + 4)), "every tick, also those that were missed"
        for row in evaluations:
            tick, evidence = row["tick"], json.loads(row["evidence"])["pairs"][0]
            read = [(evidence[name]["good"], evidence[name]["bad"]) for name in ("long", "short")]
            assert read == [worked_out.window(tick, LONG_S), worked_out.window(tick, 3)], f"tick {tick} - {began}: late by {late}"
            assert row["state"] == ("firing" if fires <= tick < ends else "inactive")

        log = machine.log("evaluate")
        assert log.count(" W firing: fraud/served-well (page) since") == 1
        assert log.count(" W still firing: fraud/served-well (page) since") == 2, "taken up by the first restart and by the second"
        assert "resolved: fraud/served-well (page)" in log
        others = {alert["labels"]["alertname"] for body in hook.received for alert in body["alerts"]} - {"LeadlineBurnRate"}
        assert others == {"LeadlineDeadMan"}
        checked = machine.run("check")
        assert (checked.returncode, checked.stderr) == (0, "")
        (tmp_path / "planned.yaml").write_text(PLANNED)
        checked = machine.run("check", str(tmp_path / "planned.yaml"))
        assert checked.returncode == 0, "warnings are no faults"
        told = checked.stderr.splitlines()
        assert any(line.startswith("warning: fraud/strict: about") and "3 bad ones are enough for a page" in line for line in told)
        assert "warning: frauds/typo: no prediction of model 'frauds' was measured in the last day; seen were fraud" in told
        assert any(line.startswith("warning: fraud/drift: baseline 'train' of fraud has no series that match score") for line in told)
        assert len(told) == 3


def test_the_arithmetic_of_this_test_is_that_of_the_workbook() -> None:
    """10 % bad against 99 % is a burn of 10; a window without events burns not at all."""
    paper = object.__new__(Arithmetic)
    paper.pair, paper.allowed = {"long_s": 8.0, "short_s": 3.0, "factor": 10.0}, Fraction(1, 100)
    counts: dict[int, tuple[Any, Any]] = dict.fromkeys(range(1, 9), (90, 10))
    paper.counts = counts
    assert paper.burns(8)
    assert not paper.burns(12)
    paper.counts = {**counts, 8: (91, 9)}
    assert not paper.burns(8)
