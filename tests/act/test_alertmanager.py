"""The client against receivers that answer, refuse, fail and come back; and against the real Alertmanager."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from leadline.act.alertmanager import BATCH, Alertmanagers
from leadline.clock import SystemClock
from leadline.model.findings import Finding, Kind, fingerprint_of
from leadline.settings import AlertConfig
from leadline.testing.alertmanager import AlertmanagerProcess, configuration
from leadline.testing.webhook import Webhook


def firing(number: int = 0, age_s: float = 60.0, **labels: str) -> Finding:
    """An alert that has fired for a while."""
    identity = {"alertname": "LeadlineBurnRate", "severity": "page", "model": f"m{number}", **labels}
    now = time.time_ns()
    since = now - round(age_s * 1e9)
    return Finding(
        "r",
        "h",
        Kind.BURN_RATE,
        "page",
        fingerprint_of(identity),
        identity,
        "firing",
        now,
        active_at_ns=since,
        fired_at_ns=since,
        annotations={"summary": "s"},
    )


def ended(finding: Finding) -> Finding:
    """The same, ended a second ago."""
    return replace(finding, state="inactive", resolved_at_ns=time.time_ns() - 10**9)


@asynccontextmanager
async def client(*urls: str, **config: Any) -> AsyncIterator[Alertmanagers]:
    """A running client, stopped in the end."""
    made = Alertmanagers(AlertConfig(alertmanagers=list(urls), **{"resend": 60.0, **config}), 30.0, SystemClock(), seed=1)
    stop = asyncio.Event()
    task = asyncio.create_task(made.run(stop))
    try:
        yield made
    finally:
        stop.set()
        await asyncio.wait_for(task, 30)


async def until(happened: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Waits until it is so, without a guess at how long that takes."""
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.01)


def names(hook: Webhook) -> list[str]:
    """Models in the order they arrived."""
    return [alert["labels"]["model"] for body in hook.received for alert in body]


async def test_every_peer_gets_every_alert_under_its_path() -> None:
    """Also one behind a prefix, and whatever the other does."""
    with Webhook() as one, Webhook() as two:
        async with client(one.url, f"{two.url}/am/", "http://127.0.0.1:9") as told:
            told.update([firing()])
            await until(lambda: bool(one.received and two.received))
    assert one.requests[0][0] == "/api/v2/alerts"
    assert two.requests[0][0] == "/am/api/v2/alerts"
    assert one.received[0][0]["annotations"] == {"summary": "s"}


async def test_batches_are_of_256_at_most() -> None:
    """Many alerts at once are several requests."""
    with Webhook() as hook:
        async with client(hook.url) as told:
            told.update([firing(number) for number in range(600)])
            await until(lambda: len(names(hook)) == 600)
    assert [len(body) for body in hook.received] == [BATCH, BATCH, 600 - 2 * BATCH]


async def test_one_bad_alert_blocks_nothing() -> None:
    """A batch that is refused is halved until the bad alert is alone; it is not tried again before its next turn."""

    def refuse(path: str, body: Any) -> int:
        return 422 if any(alert["labels"]["model"] == "m37" for alert in body) else 200

    findings = [firing(number) for number in range(100)]
    with Webhook(refuse) as hook:
        async with client(hook.url) as told:
            told.update(findings)
            await until(lambda: told.counts[hook.url].get("sent") == 99)
            assert told.counts[hook.url] == {"sent": 99, "refused": 1}
            requests = len(hook.received)
            told.update(findings)
    assert len(hook.received) == requests <= 16


async def test_a_peer_that_fails_gets_the_newest_state_when_it_is_back() -> None:
    """What it missed is not replayed: it hears how things are, with the old start."""
    healthy: list[bool] = []
    finding = firing()
    with Webhook(lambda path, body: 200 if healthy else 503) as hook:
        async with client(hook.url) as told:
            told.update([finding])
            await until(lambda: told.counts[hook.url].get("failed", 0) >= 2)
            told.update([ended(finding)])
            seen = len(hook.received)
            healthy.append(True)
            await until(lambda: told.counts[hook.url].get("sent", 0) >= 1)
    assert len(hook.received) > seen
    last = hook.received[-1][0]
    assert last["endsAt"] < time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    assert last["startsAt"] == hook.received[0][0]["startsAt"]


async def test_alerts_are_sent_again_and_again() -> None:
    """Every `resend`, with an `endsAt` that moves on."""
    with Webhook() as hook:
        async with client(hook.url, resend=0.1) as told:
            told.update([firing()])
            await until(lambda: len(hook.received) >= 4)
    ends = [body[0]["endsAt"] for body in hook.received]
    assert ends == sorted(set(ends))
    assert len({body[0]["startsAt"] for body in hook.received}) == 1


@pytest.mark.needs("alertmanager")
async def test_the_real_alertmanager_folds_resends_and_hears_the_end() -> None:
    """One alert, one fingerprint, one start, one notification of its start and one of its end, however often it is sent, by two senders."""
    finding = firing()
    with Webhook() as hook, AlertmanagerProcess(configuration(hook.url), prefix="/am") as alertmanager:
        async with client(alertmanager.url, resend=0.2) as one, client(alertmanager.url, resend=0.3) as two:
            one.update([finding])
            two.update([finding])
            await until(lambda: one.counts[alertmanager.url].get("sent", 0) >= 10 and bool(hook.received))
            alerts = alertmanager.alerts()
            assert len(alerts) == 1
            assert alerts[0]["labels"] == finding.labels
            one.update([ended(finding)])
            two.update([ended(finding)])
            await until(lambda: any(body["status"] == "resolved" for body in hook.received))
            await until(lambda: not alertmanager.alerts())
    assert [body["status"] for body in hook.received] == ["firing", "resolved"]
    starts = {alert["startsAt"] for body in hook.received for alert in body["alerts"]}
    assert len(starts) == 1


@pytest.mark.needs("alertmanager")
async def test_the_real_alertmanager_takes_what_attributes_are_called() -> None:
    """Names with dots, digits and other scripts are made to fit, so that 0.25 takes them."""
    odd = firing(**{"model.name": "x", "größe": "1", "9": "y", "quote": 'a "b" \\ \n c', "void": ""})
    with Webhook() as hook, AlertmanagerProcess(configuration(hook.url)) as alertmanager:
        async with client(alertmanager.url) as told:
            told.update([odd, firing(7)])
            await until(lambda: told.counts[alertmanager.url].get("sent") == 2)
        found = {alert["labels"]["model"]: alert["labels"] for alert in alertmanager.alerts()}
    assert found.keys() == {"m0", "m7"}
    assert found["m0"]["model_name"] == "x"
    assert found["m0"]["quote"] == 'a "b" \\ \n c'


@pytest.mark.needs("alertmanager")
async def test_a_page_inhibits_its_own_ticket_only() -> None:
    """The labels that inhibition compares are on every alert."""
    common = {"rule": "m/a", "slo": "a", "version": "all", "series": "none"}
    page, ticket = firing(**common), firing(**{**common, "severity": "ticket"})
    other = firing(**{**common, "severity": "ticket", "rule": "m/b", "slo": "b"})
    with Webhook() as hook, AlertmanagerProcess(configuration(hook.url)) as alertmanager:
        async with client(alertmanager.url) as told:
            told.update([page, ticket, other])
            await until(lambda: len(hook.received) >= 2)
            states = {(a["labels"]["slo"], a["labels"]["severity"]): a["status"]["state"] for a in alertmanager.alerts()}
    assert states == {("a", "page"): "active", ("a", "ticket"): "suppressed", ("b", "ticket"): "active"}
