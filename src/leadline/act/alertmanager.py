"""Alerts to Alertmanager's v2 API, as the contract has it.

* Every peer gets every alert, by its own task; Alertmanager itself sees to duplicates.
* A firing alert is sent when it starts and again every `alert.resend`; `startsAt` is the tick at which it fired, `endsAt` the wall clock at
  sending plus four times the longer of tick and re-send. So a lost evaluator ends its alerts by itself, and one lost
  request does not. A later `endsAt` wins in Alertmanager, therefore it is never far in the future.
* A resolved alert is sent with the tick at which it ended, again and again for 15 minutes.
* One bad alert blocks nothing: names are made to fit before sending, and where a batch is refused all the same (400, 422), it is
  halved until the bad alert is alone. Whatever passes (no answer, 5xx, 429) is tried again with growing, jittered waits; what
  is sent then is the newest state, with new times. So what waits for a peer is bounded by the alerts there are, at most
  `alert.max_alerts`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import ssl
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from leadline.clock import Clock
from leadline.errors import PermanentError, RetryableError
from leadline.model.findings import Finding, Phase
from leadline.settings import AlertConfig

BATCH = 256
RESOLVED_FOR_NS = 15 * 60 * 1_000_000_000
SECOND = 1_000_000_000
MAX_TEXT = 4096
MAX_WAIT_S = 30.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Alert:
    """What is to be told of one alert.

    Parameters
    ----------
    serial : int
        Grows with every change that is worth sending at once.
    starts_ns : int
    ended_ns : int or None
        None while it fires.
    forget_ns : int or None
        Until when, by the wall clock, the end is sent.
    """

    serial: int
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    url: str
    starts_ns: int
    ended_ns: int | None = None
    forget_ns: int | None = None


def allowed_names(pairs: Mapping[str, str]) -> dict[str, str]:
    """Names as Prometheus allows them, ``[a-zA-Z_][a-zA-Z0-9_]*``.

    Empty values are left out, as Alertmanager would; two names that become one are told apart by a number.
    """
    result: dict[str, str] = {}
    fits = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
    # Names that fit keep their names, whatever stands beside them.
    for name in sorted(pairs, key=lambda name: (fits.fullmatch(name) is None, name)):
        value = pairs[name].encode(errors="replace").decode()
        if not value.strip():
            continue
        if len(value) > MAX_TEXT:
            value = value[: MAX_TEXT - 1] + "…"
        fitted = re.sub(r"[^a-zA-Z0-9_]", "_", name)
        if not fits.fullmatch(fitted):
            fitted = f"_{fitted}"
        unique, number = fitted, 2
        while unique in result:
            unique, number = f"{fitted}_{number}", number + 1
        result[unique] = value
    return result


def _instant(time_ns: int) -> str:
    """RFC 3339, in milliseconds."""
    return datetime.fromtimestamp(time_ns // SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{time_ns % SECOND // 1_000_000:03d}Z"


class Board:
    """The alerts there are, firing or lately resolved, and how they look on the wire. No clock, no socket.

    Parameters
    ----------
    config : AlertConfig
    every_s : float
        Seconds between ticks.
    """

    def __init__(self, config: AlertConfig, every_s: float) -> None:
        self.config = config
        self.resend_ns = round(config.resend * SECOND)
        self.horizon_ns = 4 * round(max(every_s, config.resend) * SECOND)
        self.alerts: dict[str, Alert] = {}
        self.left_out = 0
        self.doubt: str | None = None

    def update(self, findings: Iterable[Finding], now_ns: int) -> bool:
        """Takes the findings of a tick, all there are; whether anything is to be sent at once."""
        changed = False
        seen = set()
        for finding in findings:
            seen.add(finding.fingerprint)
            held = self.alerts.get(finding.fingerprint)
            if finding.phase is Phase.FIRING and finding.fired_at_ns is not None:
                fresh = held is None or held.ended_ns is not None or held.starts_ns != finding.fired_at_ns
                if held is None and len(self.alerts) >= self.config.max_alerts:
                    self.left_out += 1
                    continue
                self.alerts[finding.fingerprint] = self._alert(finding, (held.serial if held else 0) + fresh, finding.fired_at_ns)
                changed |= fresh
            elif held is not None and held.ended_ns is None:
                ended = finding.resolved_at_ns if finding.resolved_at_ns is not None else finding.evaluated_at_ns
                self._end(finding.fingerprint, finding, held, max(ended, held.starts_ns), now_ns)
                changed = True
            elif (
                # Resolved before this process knew of it: an evaluator that took over, or a tick evaluated late.
                held is None
                and finding.resolved_at_ns is not None
                and finding.fired_at_ns is not None
                and now_ns - finding.resolved_at_ns < RESOLVED_FOR_NS
                and len(self.alerts) < self.config.max_alerts
            ):
                held = self._alert(finding, 0, finding.fired_at_ns)
                self._end(finding.fingerprint, finding, held, finding.resolved_at_ns, now_ns)
                changed = True
        for fingerprint in self.alerts.keys() - seen:
            held = self.alerts[fingerprint]
            if held.ended_ns is None:
                self._end(fingerprint, None, held, max(now_ns, held.starts_ns), now_ns)
                changed = True
        for fingerprint in [key for key, held in self.alerts.items() if held.forget_ns is not None and held.forget_ns <= now_ns]:
            del self.alerts[fingerprint]
        return changed

    def _alert(self, finding: Finding, serial: int, starts_ns: int) -> Alert:
        labels = dict(finding.labels)
        for name, value in self.config.labels.items():
            labels.setdefault(name, value)
        url = f"{self.config.external_url.rstrip('/')}/?alert={finding.fingerprint}"
        return Alert(
            serial=serial,
            labels=allowed_names(labels),
            annotations=allowed_names(finding.annotations),
            url=url if urlsplit(url).scheme in {"http", "https"} and re.fullmatch(r"[!-~]+", url) else "",
            starts_ns=starts_ns,
        )

    def _end(self, fingerprint: str, finding: Finding | None, held: Alert, ended_ns: int, now_ns: int) -> None:
        annotations = allowed_names(finding.annotations) if finding else held.annotations
        self.alerts[fingerprint] = Alert(
            held.serial + 1, held.labels, annotations, held.url, held.starts_ns, ended_ns, now_ns + RESOLVED_FOR_NS
        )

    def due(self, sent: Mapping[str, tuple[int, int]], now_ns: int) -> list[str]:
        """Fingerprints to send to a peer that was `sent` (serial, when): what changed, then what is to be said again."""
        changed, again = [], []
        for fingerprint, alert in self.alerts.items():
            serial, at_ns = sent.get(fingerprint, (-1, 0))
            if serial != alert.serial:
                changed.append(fingerprint)
            elif now_ns - at_ns >= self.resend_ns:
                again.append(fingerprint)
        return changed + again

    def wait_ns(self, sent: Mapping[str, tuple[int, int]], now_ns: int) -> int:
        """Until something is due, if nothing changes before."""
        return min(
            (max(0, at_ns + self.resend_ns - now_ns) for key, (_, at_ns) in sent.items() if key in self.alerts), default=self.resend_ns
        )

    def payload(self, fingerprint: str, now_ns: int) -> dict[str, Any]:
        """One alert of the request's array, as of `now_ns` on the wall clock."""
        alert = self.alerts[fingerprint]
        annotations = dict(alert.annotations)
        if self.doubt and alert.ended_ns is None:
            annotations["evaluation_error"] = f"last known state: {self.doubt}"[:MAX_TEXT]
        body: dict[str, Any] = {
            "labels": dict(alert.labels),
            "annotations": annotations,
            "startsAt": _instant(alert.starts_ns),
            "endsAt": _instant(now_ns + self.horizon_ns if alert.ended_ns is None else alert.ended_ns),
        }
        return {**body, "generatorURL": alert.url} if alert.url else body


class _Refused(PermanentError):
    """Alertmanager does not take this content."""


class _Peer:
    """One Alertmanager: where it is, and what it was sent."""

    def __init__(self, base: str) -> None:
        self.url = f"{base.rstrip('/')}/api/v2/alerts"
        parts = urlsplit(base)
        self.name = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path.rstrip('/')}"
        self.sent: dict[str, tuple[int, int]] = {}
        self.refused: dict[str, int] = {}
        self.counts: Counter[str] = Counter()
        self.failures = 0
        self.wake = asyncio.Event()


class Alertmanagers:
    """Keeps every Alertmanager told; a `Notifier`.

    Parameters
    ----------
    config : AlertConfig
    every_s : float
        Seconds between ticks.
    clock : Clock
    seed : int or None
        Of the jitter between attempts.
    """

    def __init__(self, config: AlertConfig, every_s: float, clock: Clock, *, seed: int | None = None) -> None:
        self.board = Board(config, every_s)
        self._config, self._clock, self._random = config, clock, random.Random(seed)
        self._peers = [_Peer(base) for base in config.alertmanagers]

    def update(self, findings: Sequence[Finding]) -> None:
        """The findings of a tick, all there are."""
        if self.board.update(findings, self._clock.now_ns()):
            for peer in self._peers:
                peer.wake.set()

    def unreadable(self, reason: str | None) -> None:
        """Marks what is re-sent as last known."""
        self.board.doubt = reason

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Peer -> alerts ``sent``, ``refused``, and requests ``failed``."""
        return {peer.name: dict(peer.counts) for peer in self._peers}

    async def run(self, stop: asyncio.Event) -> None:
        """Sends until `stop`; then tries once more what is due, and returns."""
        context: ssl.SSLContext | bool = True
        if self._config.ca_file or self._config.cert_file:
            context = ssl.create_default_context(cafile=self._config.ca_file)
            if self._config.cert_file:
                context.load_cert_chain(self._config.cert_file)
        # A proxy from the environment would stand between an evaluator and the Alertmanager on its own machine.
        async with (
            httpx.AsyncClient(timeout=self._config.timeout, headers=self._config.headers, verify=context, trust_env=False) as client,
            asyncio.TaskGroup() as tasks,
        ):
            for peer in self._peers:
                tasks.create_task(self._serve(peer, client, stop))

    async def _serve(self, peer: _Peer, client: httpx.AsyncClient, stop: asyncio.Event) -> None:
        while not stop.is_set():
            peer.wake.clear()
            await self._send_due(peer, client)
            if peer.failures:
                wait_s = min(MAX_WAIT_S, self._config.resend, 0.5 * 2 ** min(peer.failures, 10)) * self._random.uniform(0.5, 1.0)
            else:
                wait_s = max(0.01, self.board.wait_ns(peer.sent, self._clock.now_ns()) / SECOND)
            await self._first_of(stop.wait(), peer.wake.wait(), self._clock.sleep(wait_s))
        await self._send_due(peer, client)

    @staticmethod
    async def _first_of(*waits: Any) -> None:
        tasks = [asyncio.ensure_future(wait) for wait in waits]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send_due(self, peer: _Peer, client: httpx.AsyncClient) -> None:
        now_ns = self._clock.now_ns()
        peer.sent = {key: value for key, value in peer.sent.items() if key in self.board.alerts}
        peer.refused = {key: value for key, value in peer.refused.items() if key in self.board.alerts}
        due = self.board.due(peer.sent, now_ns)
        try:
            for start in range(0, len(due), BATCH):
                await self._post(peer, client, due[start : start + BATCH])
        except RetryableError as error:
            peer.counts["failed"] += 1
            peer.failures += 1
            if peer.failures == 1:
                _log.warning("Alertmanager %s: %s; it is tried again until it answers", peer.name, error)
        else:
            if peer.failures:
                _log.warning("Alertmanager %s answers again after %d failed attempts", peer.name, peer.failures)
            peer.failures = 0

    async def _post(self, peer: _Peer, client: httpx.AsyncClient, fingerprints: Sequence[str]) -> None:
        now_ns = self._clock.now_ns()
        present = [(key, self.board.alerts[key].serial) for key in fingerprints if key in self.board.alerts]
        if not present:
            return
        body = json.dumps([self.board.payload(key, now_ns) for key, _ in present], ensure_ascii=False).encode()
        try:
            await self._request(client, peer.url, body)
        except _Refused as error:
            if len(present) > 1:
                middle = len(present) // 2
                await self._post(peer, client, [key for key, _ in present[:middle]])
                await self._post(peer, client, [key for key, _ in present[middle:]])
                return
            key, serial = present[0]
            peer.counts["refused"] += 1
            peer.sent[key] = (serial, now_ns)
            if peer.refused.get(key) != serial:
                peer.refused[key] = serial
                _log.error("Alertmanager %s refuses %s: %s", peer.name, dict(self.board.alerts[key].labels), error)
        else:
            for key, serial in present:
                peer.sent[key] = (serial, now_ns)
            peer.counts["sent"] += len(present)

    @staticmethod
    async def _request(client: httpx.AsyncClient, url: str, body: bytes) -> None:
        try:
            response = await client.post(url, content=body, headers={"Content-Type": "application/json"})
        except (httpx.HTTPError, OSError) as error:
            raise RetryableError(f"no answer ({type(error).__name__}: {error})") from error
        if response.status_code in {400, 422}:
            raise _Refused(f"{response.status_code} {response.text[:500]}")
        if not response.is_success:
            raise RetryableError(f"expected 200, got {response.status_code} {response.text[:200]}")
