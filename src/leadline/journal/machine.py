"""The state machine that the journal drives: the same frames in the same order give the same blocks.

Live and in a replay, each frame passes through `apply`. A DECISIONS frame says after which request it was made, because
requests may have been written while it was being made; a replay puts it back there.
"""

from __future__ import annotations

import json
import struct
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from leadline.errors import InvalidRequest
from leadline.journal.frames import REQUESTS, Frame, Kind
from leadline.journal.log import Log
from leadline.journal.state import Checkpoint, State
from leadline.model.accounting import Key, Ledger
from leadline.model.blocks import Block
from leadline.model.ports import Decoder, Part, Sampling
from leadline.model.requests import Cut, Decoded, Request
from leadline.model.signals import Signal

SIGNAL_OF = {Kind.TRACES: Signal.TRACES, Kind.METRICS: Signal.METRICS, Kind.LOGS: Signal.LOGS}
KIND_OF = {signal: kind for kind, signal in SIGNAL_OF.items()}
_APPLIED = struct.Struct("<Q")
_TOTALS_WAIT_S = 10.0

Note = tuple[Decoded, Mapping[Key, int]]


class Machine:
    """Takes frames in order; counts, measures, decides, and puts blocks into the outbox.

    Parameters
    ----------
    state : State
    decoders : mapping Signal -> Decoder
    parts : sequence of Part
        In the order in which they take each request.
    sampling : Sampling
        The one of `parts` that decides.
    """

    def __init__(self, state: State, decoders: Mapping[Signal, Decoder], parts: Sequence[Part], sampling: Sampling[Any]) -> None:
        self._state, self._decoders, self._parts, self._sampling = state, decoders, parts, sampling
        self._lock = threading.Lock()
        checkpoint = state.checkpoint()
        self._ledger = checkpoint.ledger.copy()
        self._produced, self._applied, self._counted = checkpoint.produced, 0, checkpoint.applied
        self._control: bytes | None = None
        self._totals = self._ledger.merged(state.kept_and_waiting())
        self.failed_to_decode = 0
        self.rejected: Counter[tuple[str, str]] = Counter()
        """(signal, reason) -> items refused one by one; like `doubtful`, since this process began."""
        self.doubtful: Counter[tuple[str, str]] = Counter()
        """(signal, note) -> times, values and events that were taken and are doubtful, or were left out."""

    # -- frames ----------------------------------------------------------------------------------------------------------

    def apply(self, frame: Frame, note: Note | None = None) -> None:
        """Takes one frame. `note` is what was decoded of a request when it came in; a replay decodes again."""
        with self._lock:
            if frame.kind in REQUESTS:
                self._apply_request(frame, note)
            elif frame.kind is Kind.DUPLICATE:
                if frame.sequence > self._counted:
                    items = {(signal, model): n for signal, model, n in json.loads(frame.payload)}
                    self._ledger.add("received", items)
                    self._ledger.add("duplicate", items)
            elif frame.kind is Kind.CONTROL and frame.payload != self._control:
                self._control = frame.payload
                rules = json.loads(frame.payload)
                for part in self._parts:
                    part.control(rules)
            self._applied = frame.sequence
            if frame.kind is Kind.CUT:
                cut = Cut(frame.sequence, frame.time_ns, sketches=bool(frame.flag))
                self._produce((frame.sequence, frame.sequence), [block for part in self._parts for block in part.cut(cut)])

    def _apply_request(self, frame: Frame, note: Note | None) -> None:
        signal = SIGNAL_OF[frame.kind]
        try:
            decoded, items = note or self._decoders[signal](frame.payload, frame.time_ns)
        except InvalidRequest:
            self.failed_to_decode += 1  # accepted by an earlier version that read it differently; stays in *lost*, visibly
            return
        request = Request(signal, frame.sequence, frame.time_ns, decoded, items)
        if frame.sequence > self._counted:
            self._ledger.add("received", request.items)
            if rejected := decoded.rejected:
                self._ledger.add("rejected", {(signal.value, ""): sum(rejected.values())})
                self.rejected.update({(signal.value, reason): n for reason, n in rejected.items()})
            if notes := decoded.notes:
                self.doubtful.update({(signal.value, note): n for note, n in notes.items()})
        for part in self._parts:
            part.add(request)

    def _carry_out(self, sequence: int, payload: bytes) -> None:
        at = _APPLIED.unpack_from(payload)[0]
        blocks, sampled_out = self._sampling.take(self._sampling.decode(payload[_APPLIED.size :]), sequence)
        if (at, sequence) > self._produced:
            self._ledger.add("sampled_out", sampled_out)
        self._produce((at, sequence), blocks)

    def _produce(self, position: tuple[int, int], blocks: list[Block]) -> None:
        if position > self._produced:
            self._state.produce(blocks, Checkpoint(position, max(self._applied, self._counted), self._ledger))
            self._produced = position

    # -- decisions -------------------------------------------------------------------------------------------------------

    def decide(self, now_ns: int, write: Callable[[Kind, bytes, int], int], *, everything: bool = False) -> int:
        """Decides what is due, has it written, and carries it out; returns the number of traces.

        Runs on the thread that applies frames, so nothing is applied in between.
        """
        with self._lock:
            decisions = self._sampling.due(now_ns, everything=everything)
            if decisions is None:
                return 0
            payload = _APPLIED.pack(self._applied) + decisions.to_bytes()
        sequence = write(Kind.DECISIONS, payload, now_ns)
        with self._lock:
            self._carry_out(sequence, payload)
        return len(decisions)

    # -- replay ----------------------------------------------------------------------------------------------------------

    def replay(self, log: Log, since_ns: int, seen: Callable[[bytes, int], None]) -> int:
        """Brings the state back from the journal; returns the number of frames read. Call before the log starts."""
        for frame in log.remembered(since_ns):
            if frame.kind is Kind.SEEN:
                seen(frame.digest, frame.time_ns)
            elif frame.kind is Kind.DECISIONS:
                self._sampling.remember(self._sampling.decode(frame.payload[_APPLIED.size :]))
        made_after: defaultdict[int, list[Frame]] = defaultdict(list)
        first: int | None = None
        for frame in log.replay():
            first = frame.sequence if first is None else first
            if frame.kind is Kind.DECISIONS:
                made_after[_APPLIED.unpack_from(frame.payload)[0]].append(frame)
        for at in sorted(at for at in made_after if first is not None and at < first):
            self._decided(made_after.pop(at))
        n = 0
        for frame in log.replay():
            n += 1
            if frame.kind is not Kind.DECISIONS:
                self.apply(frame)
            if frame.kind in REQUESTS:
                seen(frame.digest, frame.time_ns)
            self._decided(made_after.pop(frame.sequence, []))
        return n

    def _decided(self, frames: list[Frame]) -> None:
        """Carries decisions of an earlier run out; those whose spans are gone are remembered all the same."""
        with self._lock:
            for frame in frames:
                self._sampling.remember(self._sampling.decode(frame.payload[_APPLIED.size :]))
                self._carry_out(frame.sequence, frame.payload)

    # -- counting --------------------------------------------------------------------------------------------------------

    def totals(self) -> Ledger:
        """Every term, at one instant: now, or, while a block waits for room on the disk, when this was asked last."""
        if self._lock.acquire(timeout=_TOTALS_WAIT_S):
            try:
                ledger = self._ledger.merged(self._state.kept_and_waiting())
                for part in self._parts:
                    ledger.add("waiting", part.waiting())
                self._totals = ledger
            finally:
                self._lock.release()
        return self._totals.copy()

    @property
    def control(self) -> bytes | None:
        """Rules in force, as their frame has them."""
        return self._control

    @property
    def uncut(self) -> bool:
        """Whether a cut would give anything out."""
        with self._lock:
            return any(part.oldest_sequence is not None for part in self._parts if part is not self._sampling)

    @property
    def needed_from(self) -> int:
        """The lowest journal position that a replay would still need."""
        with self._lock:
            oldest = [part.oldest_sequence for part in self._parts]
            return min([self._produced[0] + 1, *(sequence for sequence in oldest if sequence is not None)])
