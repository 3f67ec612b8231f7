"""The shell around the journal: takes requests in, keeps the clock's appointments, answers what went where."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from leadline.clock import Clock
from leadline.errors import InvalidRequest, Overloaded
from leadline.journal.frames import REQUESTS, Frame, Kind, digest_of
from leadline.journal.log import Log
from leadline.journal.machine import KIND_OF, Machine, Note
from leadline.journal.recent import Recent
from leadline.journal.state import State
from leadline.journal.watermark import Watermark
from leadline.journal.writing import Outcomes, Writing
from leadline.model.accounting import Key, Ledger
from leadline.model.blocks import Block
from leadline.model.ports import Decoder
from leadline.model.signals import Receipt, Signal
from leadline.model.sizes import bound_for
from leadline.model.times import unix_seconds
from leadline.settings import Settings

_log = logging.getLogger("leadline.journal")
_MARKED = ("sli_counts", "sketches")
"""Tables that alerts are made from: for each, the evaluator is told until when it is complete."""
_INLINE = {Signal.TRACES: 256 * 1024, Signal.METRICS: 256 * 1024, Signal.LOGS: 32 * 1024}
"""Bytes up to which a request is decoded on the event loop: a fraction of a millisecond, and less work than handing it to a thread. Labels
among logs are read in Python."""
_RETRY_S = 0.5
_ACCEPTED = Receipt()


class Journal:
    """An `Intake` that acknowledges what is on disk.

    Parameters
    ----------
    settings : Settings
    machine, state : Machine, State
    decoders : mapping Signal -> Decoder
    clock : Clock
    """

    def __init__(self, settings: Settings, machine: Machine, state: State, decoders: Mapping[Signal, Decoder], clock: Clock) -> None:
        self._settings, self._machine, self._state, self._decoders, self._clock = settings, machine, state, decoders, clock
        self._log = Log(settings.journal_dir if settings.journal.enabled else None, self._handle, sync=settings.journal.sync)
        self._recent = Recent(int(settings.journal.retry_horizon * 1e9), settings.journal.retry_entries)
        self._outcomes = Outcomes()
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="decode")
        self._segment_ns = int(settings.journal.segment * 1e9)
        self._sketch_ns = int(settings.sketch.window * 1e9)
        self._backlog = 0
        self._backlog_lock = threading.Lock()
        self._disk_bytes = 0
        self._ticking = False
        self.undecodable_requests = int(state.recall("undecodable", 0))
        self.refused = 0
        self._reported_ns = 0
        self._receiving: dict[object, int] = {}
        """Receive times of requests that are not on disk yet."""
        self._watermarks = {table: Watermark() for table in _MARKED}
        self._marked: list[int] | None = None
        self._marked_ns = 0
        self.lag_p99_ms: Callable[[], float] = lambda: 0.0
        self.gathered_bytes: Callable[[], int] = lambda: 0

    # -- life ------------------------------------------------------------------------------------------------------------

    def open(self) -> int:
        """Takes the directory and replays what it holds; returns the frames read."""
        self._log.open()
        now = self._clock.now_ns()
        self._log.next_sequence = int(self._state.recall("next_sequence", 1))
        n = self._machine.replay(self._log, now - int(self._settings.journal.retry_horizon * 1e9), self._recent.note)
        self._log.next_sequence = max(
            self._log.next_sequence, self._state.checkpoint().produced[1] + 1, self._state.checkpoint().applied + 1
        )
        self._next_cut_ns = (now // self._segment_ns + 1) * self._segment_ns
        self._next_sketch_ns = (now // self._sketch_ns + 1) * self._sketch_ns
        self._log.control = self._machine.control
        # A directory that nothing was ever received into is complete until now; else what the last run knew holds.
        fresh = None if n or self._state.newest else [now] * len(_MARKED)
        known = self._state.recall("watermarks", fresh) or [None] * len(_MARKED)
        self._watermarks = {table: Watermark(known_ns) for table, known_ns in zip(_MARKED, known, strict=True)}
        self._log.start()
        return n

    async def run(self, stop: asyncio.Event) -> None:
        """Ticks until `stop`: decides what is due, cuts segments, reports."""
        while not stop.is_set() and self._log.failure is None:
            self.tick(self._clock.now_ns())
            await self._clock.sleep(min(0.25, self._settings.store.flush / 2))
        if self._log.failure is not None:
            raise RuntimeError("the journal has stopped; see the log above") from self._log.failure

    async def drain(self, within_s: float = 60.0) -> None:
        """At shutdown: decides everything, gives everything out. What cannot be, for want of time or disk, is at the next start."""
        now = self._clock.now_ns()
        try:
            async with asyncio.timeout(within_s):
                await self._in_order(lambda: self._decide(now, everything=True))
                await self._in_order(lambda: self._log.submit(Kind.CUT, b"", now, flag=1, note=now).result())
                await self._in_order(lambda: None)
        except (TimeoutError, OSError, Overloaded) as error:
            self._state.giving_up.set()
            _log.error("journal: not everything could be given out (%s); the next start does it", error or "no time left")

    def close(self) -> None:
        self._log.stop()
        self._pool.shutdown()

    # -- requests --------------------------------------------------------------------------------------------------------

    def undecodable(self) -> None:
        self.undecodable_requests += 1

    async def accept(self, signal: Signal, body: bytes) -> Receipt:
        if not body:
            return Receipt()
        self._refuse_under_pressure(len(body))
        now, request = self._clock.now_ns(), object()
        self._receiving[request] = now
        try:
            return await self._accept(signal, body, now)
        finally:
            del self._receiving[request]

    async def _accept(self, signal: Signal, body: bytes, now: int) -> Receipt:
        try:
            note, digest = await self._read(signal, body, now)
        except InvalidRequest:
            self.undecodable()
            raise
        decoded, items = note
        receipt = _receipt(decoded.rejected)
        if not any(items.values()):
            return receipt
        if (writing := self._recent.under_way(digest)) is not None:
            await writing.wait()
        if writing is not None or self._recent.seen(digest, now):
            self._log.post(Kind.DUPLICATE, _items_json(items), now)
            return receipt
        size = len(body)
        writing = Writing(lambda on_disk: self._is_written(digest, now, size, on_disk=on_disk))
        self._log.post(KIND_OF[signal], body, now, digest=digest, note=note, told=self._outcomes.teller(writing))
        with self._backlog_lock:
            self._backlog += size
        self._recent.begin(digest, writing)
        await writing.wait()
        return receipt

    def _is_written(self, digest: bytes, now: int, size: int, *, on_disk: bool) -> None:
        self._recent.end(digest, now if on_disk else None)
        if not on_disk:
            with self._backlog_lock:
                self._backlog -= size

    async def _read(self, signal: Signal, body: bytes, now: int) -> tuple[Note, bytes]:
        """What the request holds, and its digest."""

        def read() -> tuple[Note, bytes]:
            return self._decoders[signal](body, now), digest_of(body)

        if len(body) <= _INLINE[signal]:
            return read()
        return await asyncio.get_running_loop().run_in_executor(self._pool, read)

    def _refuse_under_pressure(self, size: int) -> None:
        receive, journal, store = self._settings.receive, self._settings.journal, self._settings.store
        in_hand = bound_for(size, receive.max_in_flight)
        if self._backlog + size > in_hand and self._backlog:
            self._refuse("bytes in hand", self._backlog, in_hand, "receive.max_in_flight", 1.0)
        if self._disk_bytes + size > journal.max_bytes and self._disk_bytes:
            self._refuse("bytes in the journal", self._disk_bytes, journal.max_bytes, "journal.max_bytes", 10.0)
        pending = self._state.pending_bytes + self.gathered_bytes()
        if pending + size > store.max_pending and pending:
            self._refuse("bytes waiting for ClickHouse", pending, store.max_pending, "store.max_pending", 10.0)

    def _refuse(self, what: str, used: int, limit: int, setting: str, retry_after_s: float) -> None:
        self.refused += 1
        raise Overloaded(f"{what}: {used} of {limit} used; send again later (raise {setting} if this lasts)", retry_after_s=retry_after_s)

    def _handle(self, frame: Frame, note: Any) -> None:
        """Takes a frame that is on disk. Runs on the journal's thread."""
        if frame.kind is not Kind.DECISIONS:
            self._machine.apply(frame, note)
        if frame.kind in REQUESTS:
            with self._backlog_lock:
                self._backlog -= len(frame.payload)
        elif frame.kind is Kind.CUT and note is not None:
            self._watermarks["sli_counts"].cut(note, self._state.newest)
            if frame.flag or not self._machine.uncut:
                self._watermarks["sketches"].cut(note, self._state.newest)

    def _cut_if_needed(self, now_ns: int, before_ns: int, flag: int) -> None:
        if self._machine.uncut:
            self._log.post(Kind.CUT, b"", now_ns, flag=flag, note=before_ns)
            return
        for mark in self._watermarks.values():
            mark.cut(before_ns, self._state.newest)

    # -- appointments ----------------------------------------------------------------------------------------------------

    def tick(self, now_ns: int) -> None:
        """What is due at `now_ns`. Cheap; called a few times a second."""
        if not self._ticking:
            self._ticking = True
            self._later(lambda: self._decide(now_ns))
        if now_ns >= self._next_cut_ns:
            sketches = now_ns >= self._next_sketch_ns
            self._next_cut_ns = (now_ns // self._segment_ns + 1) * self._segment_ns
            if sketches:
                self._next_sketch_ns = (now_ns // self._sketch_ns + 1) * self._sketch_ns
            # What was received before this is on disk, so it comes before the cut.
            before_ns = min([now_ns, *self._receiving.values()])
            if self._log.frames_in_file:
                self._log.post(Kind.CUT, b"", now_ns, flag=int(sketches), note=before_ns)
            else:
                self._later(lambda: self._cut_if_needed(now_ns, before_ns, flag=int(sketches)))
            self._later(self._after_cut)

    def control(self, rules: Mapping[str, Any]) -> None:
        """Puts rules into force, if they are others than those in force."""
        body = json.dumps(rules, sort_keys=True).encode()
        if body != self._log.control:
            self._log.control = body
            self._log.post(Kind.CONTROL, body, self._clock.now_ns())

    def _decide(self, now_ns: int, *, everything: bool = False) -> None:
        try:
            while self._machine.decide(now_ns, self._write, everything=everything):
                pass
            if now_ns - self._reported_ns >= max(1.0, self._settings.store.flush) * 1e9:
                self._reported_ns = now_ns
                self.report(now_ns)
            self.report_watermark()
        finally:
            self._ticking = False

    def _later(self, call: Callable[[], None]) -> None:
        """Runs `call` on the journal's thread. Where the disk is full it is left for the next time: nothing depends on this one."""

        def run() -> None:
            try:
                call()
            except (OSError, Overloaded) as error:
                _log.error("journal: %s", error)

        self._log.run_in_order(run)

    def _write(self, kind: Kind, payload: bytes, now_ns: int) -> int:
        """Writes a frame, however long that takes: decisions are carried out only when they are on disk."""
        while True:
            try:
                return self._log.submit(kind, payload, now_ns).result()
            except Overloaded:
                if self._state.giving_up.wait(_RETRY_S):
                    raise

    def _after_cut(self) -> None:
        self._tidy()
        self.report_watermark(anyway=True)

    def report_watermark(self, *, anyway: bool = False) -> None:
        """Says until when everything received is in ClickHouse: when that has moved, and each segment, so that alerts can resolve."""
        marks = [mark.reached(self._state.oldest_pending(table)) for table, mark in self._watermarks.items()]
        known = [mark for mark in marks if mark is not None]
        if len(known) < len(marks) or (known == self._marked and not anyway):
            return
        self._marked, self._marked_ns = known, max(self._clock.now_ns(), self._marked_ns + 1)
        name = self._settings.collector
        row = {
            "at": unix_seconds(self._marked_ns),
            "collector": name,
            "watermark": unix_seconds(known[0]),
            "sketch_watermark": unix_seconds(known[1]),
            "lag_p99_ms": self.lag_p99_ms(),
            "segment": 0,
        }
        token = f"{name}/0/watermarks/{self._marked_ns}"
        self._state.put(Block("watermarks", tuple(row), "JSONEachRow", (json.dumps(row) + "\n").encode(), token, 1))

    def _tidy(self) -> None:
        self._log.forget_before(self._machine.needed_from)
        self._log.expire(self._clock.now_ns() - int(self._settings.journal.retry_horizon * 1e9))
        self._disk_bytes = self._log.size()
        self._state.remember("undecodable", self.undecodable_requests)
        self._state.remember("next_sequence", self._log.next_sequence)
        if self._marked is not None:
            self._state.remember("watermarks", self._marked)
        if self._disk_bytes > self._settings.journal.max_bytes // 2 and not self._log.frames_in_file:
            # The newest segment is never forgotten. If nothing comes in because it is large, nothing would ever follow it.
            self._log.post(Kind.CONTROL, self._log.control or b"{}", self._clock.now_ns())

    async def _in_order(self, call: Any) -> None:
        done: Future[None] = Future()

        def run() -> None:
            done.set_running_or_notify_cancel()  # from here on the result is set, whether or not somebody still waits for it
            try:
                call()
                done.set_result(None)
            except BaseException as error:
                done.set_exception(error)

        self._log.run_in_order(run)
        await asyncio.wrap_future(done)

    # -- requests that need not be held ----------------------------------------------------------------------------------

    def size(self, sequence: int) -> int | None:
        """Bytes that would be read of the request at a position: all of it, but of one that lies in parts; None where it is not on disk."""
        return self._log.size_of(sequence)

    def read(self, sequence: int) -> bytes | None:
        """The request at a position that is still needed; None where the disk does not give it back, and that is logged."""
        try:
            return self._log.body(sequence)
        except (OSError, LookupError) as error:
            _log.error(
                "journal: the request at position %d cannot be read back (%s); its spans that were to be kept are lost", sequence, error
            )
            return None

    # -- counting --------------------------------------------------------------------------------------------------------

    async def totals(self) -> Ledger:
        """Where every item went, as of now: what was acknowledged before the call is in it."""
        await self._in_order(lambda: None)
        return await asyncio.to_thread(self._machine.totals)

    def report(self, now_ns: int) -> None:
        """Puts an accounting block into the outbox, if anything changed since the last one."""
        totals = self._machine.totals()
        changed = totals.minus(self._state.reported).rows()
        if changed:
            name = self._settings.collector
            at = unix_seconds(now_ns)
            number = int(self._state.recall("reports", 0)) + 1
            self._state.remember("reports", number)
            stamp = {"at": at, "collector": name, "segment": number}
            rows = [{**stamp, "signal": signal, "model": model, **terms} for signal, model, terms in changed]
            data = "".join(json.dumps(row) + "\n" for row in rows).encode()
            token = f"{name}/{number}/accounting/{now_ns}"
            self._state.report(totals, Block("accounting", tuple(rows[0]), "JSONEachRow", data, token, len(rows)))

    def status(self) -> dict[str, float]:
        """Numbers for /metrics."""
        return {
            "journal_bytes": self._disk_bytes,
            "journal_syncs": self._log.syncs,
            "journal_backlog_bytes": self._backlog,
            "requests_refused": self.refused,
            "requests_remembered": len(self._recent),
            "requests_forgotten_early": self._recent.forgotten_early,
            "outbox_bytes": self._state.pending_bytes,
        }


def _receipt(rejected: Mapping[str, int]) -> Receipt:
    if not rejected:
        return _ACCEPTED
    reasons = ", ".join(f"{n} × {reason}" for reason, n in sorted(rejected.items()))
    return Receipt(sum(rejected.values()), f"rejected {reasons}; the others were accepted")


def _items_json(items: Mapping[Key, int]) -> bytes:
    return json.dumps([[signal, model, n] for (signal, model), n in items.items()]).encode()
