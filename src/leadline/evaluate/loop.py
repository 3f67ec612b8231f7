"""The evaluator's shell: ticks by the clock, readings from the store, findings to the store and to people.

A tick is a multiple of `evaluate.every` since 1970, so two evaluators have the same ones. It is evaluated once: when the watermark
has passed it (then its counts are final, and any evaluator finds the same), or else after `evaluate.patience` (then it may fire, but
resolves nothing). While the store does not answer at all, ticks wait: what was firing is sent again, marked as last known, and
the ticks are evaluated afterwards, each at its own time.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Mapping, Sequence

from leadline.clock import Clock
from leadline.errors import ConfigError, LeadlineError, PermanentError, RetryableError
from leadline.evaluate.detector import Detectors
from leadline.evaluate.publishing import publish
from leadline.evaluate.rules import RuleSet, load_rules
from leadline.evaluate.state import State, rebuild
from leadline.evaluate.tick import evaluate, request
from leadline.evaluate.wording import instant
from leadline.model.blocks import Block
from leadline.model.findings import COLUMNS, Finding, Kind, Phase, to_row
from leadline.model.ports import Notifier, Reader, Store
from leadline.model.readings import Fleet
from leadline.settings import Settings

SECOND = 1_000_000_000
POLL_S = 1.0
PUBLISH_EVERY_NS = 60 * SECOND
MAX_UNWRITTEN = 10_000
"""Blocks of findings that wait for a store that reads but does not take; past it the oldest are dropped, and that is logged."""

_log = logging.getLogger(__name__)


def tick_width_ns(every_s: float) -> int:
    """Whole milliseconds."""
    return max(1, round(every_s * 1000)) * 1_000_000


class Evaluator:
    """Ticks, one after another. `run` is the loop around it.

    Parameters
    ----------
    settings : Settings
    rules : RuleSet
    store : Store
        Takes rules and findings.
    reader : Reader
    notifier : Notifier
    clock : Clock
    detectors : mapping, measure -> Detector
    name : str
        Of this evaluator, in its rows.
    """

    def __init__(
        self,
        settings: Settings,
        rules: RuleSet,
        *,
        store: Store,
        reader: Reader,
        notifier: Notifier,
        clock: Clock,
        detectors: Detectors | None = None,
        name: str = "evaluator",
    ) -> None:
        self.config, self.rules, self.name = settings.evaluate, rules, name
        self._store, self._reader, self._notifier, self._clock = store, reader, notifier, clock
        self._detectors = detectors or {}
        self.every_ns = tick_width_ns(settings.evaluate.every)
        self.state = State()
        self.ready = False
        self.left_out = 0
        self._first_ns = clock.now_ns() // self.every_ns * self.every_ns
        self._unwritten: deque[Block] = deque()
        self._published_ns: int | None = None
        self._unreadable = False

    async def start(self) -> None:
        """Publishes the rules and takes up the state that was written; what fires is sent again at once. Raises `StoreError`."""
        now_ns = self._clock.now_ns()
        await self._publish(now_ns)
        findings = await self._reader.last_findings(now_ns)
        self.state = rebuild(findings)
        self._notifier.update(findings)
        self.ready = True
        for finding in findings:
            if finding.phase is Phase.FIRING and finding.kind is not Kind.DEAD_MAN:
                _log.warning("still firing: %s", _said(finding))

    async def _publish(self, now_ns: int) -> None:
        if self._published_ns is None or now_ns - self._published_ns >= PUBLISH_EVERY_NS:
            # Again and again: a baseline that is made later becomes a reference without a restart.
            written = await publish(self._store, self._reader, self.rules, now_ns)
            self._published_ns = now_ns
            if written:
                _log.info("rules published: %s", ", ".join(written))

    def next_tick_ns(self) -> int:
        """The tick to evaluate next; may lie in the future."""
        latest = self._clock.now_ns() // self.every_ns * self.every_ns
        if self.state.tick_ns is None:
            return self._first_ns
        # After a change of `evaluate.every` the grid is another one; the first tick is the next on it.
        after = (self.state.tick_ns // self.every_ns + 1) * self.every_ns
        return max(after, latest - (self.config.max_backlog - 1) * self.every_ns)

    def _due(self, tick_ns: int, now_ns: int, fleet: Fleet) -> bool:
        if self.config.lag is not None or fleet.watermark_ns is None or fleet.watermark_ns >= tick_ns:
            return True
        return now_ns >= tick_ns + round(self.config.patience * SECOND)

    async def step(self) -> bool:
        """Evaluates the next tick if it is due; returns whether it did. Raises `StoreError` where nothing answers."""
        tick_ns, now_ns = self.next_tick_ns(), self._clock.now_ns()
        if now_ns < tick_ns + round((self.config.lag or 0.0) * SECOND):
            return False
        fleet = await self._reader.fleet(now_ns)
        if not self._due(tick_ns, now_ns, fleet):
            return False
        readings = await self._reader.read(request(tick_ns, self.rules, self.state, fleet), fleet)
        if self.state.tick_ns is not None and tick_ns - self.state.tick_ns > 2 * self.every_ns:
            missed = (tick_ns - self.state.tick_ns) // self.every_ns - 1
            self.left_out += missed
            _log.warning("%d ticks were missed and are too old to be evaluated: evaluate.max_backlog", missed)
        before = self.state.alerts
        self.state, findings = evaluate(tick_ns, readings, self.rules, self.state, self._detectors)
        self._tell(before, findings)
        self._unwritten.append(self._block(tick_ns, findings))
        await self._write()
        self._notifier.update(findings)
        try:
            await self._publish(now_ns)
        except LeadlineError as error:
            _log.warning("rules are published later: %s", error)
        return True

    @staticmethod
    def _tell(before: Mapping[str, Finding], findings: Sequence[Finding]) -> None:
        """Logs what has changed."""
        for finding in findings:
            earlier = before.get(finding.fingerprint)
            was = earlier.phase if earlier else Phase.INACTIVE
            if finding.state == "error" and (earlier is None or earlier.state != "error"):
                _log.warning("cannot be evaluated: %s: %s", finding.rule, finding.annotations.get("evaluation_error", ""))
            if finding.phase is was or finding.kind is Kind.DEAD_MAN:
                continue
            if finding.phase is Phase.FIRING:
                _log.warning("firing: %s", _said(finding))
            elif was is Phase.FIRING:
                ended = instant(finding.resolved_at_ns or finding.evaluated_at_ns)
                _log.warning(
                    "resolved: %s (%s), fired %s, ended %s", finding.rule, finding.severity, instant(finding.fired_at_ns or 0), ended
                )
            elif finding.phase is Phase.PENDING:
                _log.info("pending: %s", _said(finding))

    def _block(self, tick_ns: int, findings: Sequence[Finding]) -> Block:
        data = "\n".join(json.dumps(to_row(finding, self.name), ensure_ascii=False) for finding in findings).encode()
        return Block("evaluations", COLUMNS, "JSONEachRow", data, f"{self.name}/{tick_ns // 1_000_000}/evaluations/0", len(findings))

    async def _write(self) -> None:
        """Writes what is waiting, oldest first; what cannot be written now is kept, and people are told all the same."""
        while self._unwritten:
            try:
                await self._store.insert(self._unwritten[0])
            except PermanentError as error:
                _log.error("the findings of a tick cannot be written, and are dropped: %s", error)
            except RetryableError as error:
                _log.warning("findings wait to be written (%d ticks): %s", len(self._unwritten), error)
                while len(self._unwritten) > MAX_UNWRITTEN:
                    self._unwritten.popleft()
                    _log.error("findings of a tick are dropped: more than %d wait", MAX_UNWRITTEN)
                return
            self._unwritten.popleft()

    def unreadable(self, error: Exception | None) -> None:
        """Says once that the store does not answer, and once that it does again."""
        if error is not None and not self._unreadable:
            if self.ready:
                _log.warning("ticks wait for the store, and firing alerts are kept: %s", error)
            else:
                _log.info("the first tick waits for the store: %s", error)
        if error is None and self._unreadable:
            _log.info("the store answers; ticks that waited are evaluated now")
        self._unreadable = error is not None
        self._notifier.unreadable(None if error is None else str(error)[:1000])

    def wait_s(self) -> float:
        """Until it is worth looking again."""
        until_ns = self.next_tick_ns() + round((self.config.lag or 0.0) * SECOND) - self._clock.now_ns()
        poll_s = min(POLL_S, self.every_ns / SECOND / 10)
        return max(until_ns / SECOND, poll_s)


def _said(finding: Finding) -> str:
    since = instant(finding.fired_at_ns or finding.active_at_ns or finding.evaluated_at_ns)
    return f"{finding.rule} ({finding.severity}) since {since}: {finding.annotations.get('summary', '')}"


async def run(
    settings: Settings,
    store: Store,
    clock: Clock,
    stop: asyncio.Event,
    *,
    reader: Reader,
    notifier: Notifier,
    detectors: Detectors | None = None,
    rules: RuleSet | None = None,
    name: str = "evaluator",
) -> None:
    """Evaluates until `stop`.

    Raises
    ------
    ConfigError
        For rules files that do not say what they must.
    """
    if rules is None:
        rules = rules_of(settings, detectors)
    for warning in rules.warnings:
        _log.warning("%s", warning)
    told = ", ".join(settings.alert.alertmanagers) or "nobody (alert.alertmanagers is empty)"
    _log.info(
        "rules in force: %d of SLOs, %d of drift, %d about Leadline itself; a tick every %g s; told: %s",
        len(rules.slos), len(rules.drift), len(rules.own), settings.evaluate.every, told,
    )  # fmt: skip
    evaluator = Evaluator(settings, rules, store=store, reader=reader, notifier=notifier, clock=clock, detectors=detectors, name=name)
    while not stop.is_set():
        try:
            if not evaluator.ready:
                await evaluator.start()
            while await evaluator.step() and not stop.is_set():
                pass
            evaluator.unreadable(None)
        except LeadlineError as error:
            # Also a lasting refusal, such as a table that is not there yet: whoever mends it need not think of the evaluator.
            evaluator.unreadable(error)
        wait_s = evaluator.wait_s() if evaluator.ready else POLL_S
        waiting = asyncio.ensure_future(clock.sleep(wait_s))
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (waiting, stopping):
                task.cancel()
            await asyncio.gather(waiting, stopping, return_exceptions=True)


def rules_of(settings: Settings, detectors: Detectors | None = None) -> RuleSet:
    """The rules that `settings` name, checked against them; raises `ConfigError`."""
    rules = load_rules(
        settings.evaluate.rules,
        settings.evaluate,
        sli_window_s=settings.sketch.sli_window,
        sketch_window_s=settings.sketch.window,
        segments=settings.segments,
        measures=None if detectors is None else tuple(detectors),
    )
    if rules.drift and not detectors:
        raise ConfigError([f"{rule.rule}: there are no drift detectors in this process" for rule in rules.drift])
    return rules
