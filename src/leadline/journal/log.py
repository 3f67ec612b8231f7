"""The shell of the journal: one thread that writes frames, syncs them in groups, and hands them on in order.

A segment is a file, named after the first sequence in it. A CUT frame ends it. Frames are handed on in the order in which they
lie on disk, so what the stages see live is what they see in a replay.

A large request is written in parts, with the frames of others between them, so that nobody waits for more than a part of it to be
written. It takes its place in the order where it ends. Its parts and its end lie in one segment: a CUT waits for them.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import queue
import threading
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from leadline.errors import ConfigError, Overloaded
from leadline.journal.disk import reserve, sync_directory, write_fully
from leadline.journal.frames import HEAD, REQUESTS, Frame, Kind, digest_of, head_of, is_payload_of, read_frames

_log = logging.getLogger("leadline.journal")
_MAX_IOVECS = 512
_PART_BYTES = 2**20
"""A request above this is written in parts of it: a few milliseconds each, where 64 MiB at once took 200 (benchmarks/hostile.py)."""
_LEAST_AHEAD, _MOST_AHEAD = 2**20, 64 * 2**20
"""Bytes of room reserved beyond what is in the file: about as much again, within these."""
_GROUP_BYTES = 4 * 2**20
"""Frames are written and synced together up to about this."""


Told = Callable[[int | Overloaded], None]
"""Is given the sequence of a frame once it is on disk, or why it is not, on the log's thread."""


@dataclass(slots=True)
class _Pending:
    frame: Frame
    note: Any = None
    told: Told | None = None


class Log:
    """The write-ahead log.

    Parameters
    ----------
    directory : Path or None
        Where segments lie; None keeps nothing (acknowledged then means: in memory).
    handle : callable (Frame, note) -> None
        Told of each frame, in order, on the log's second thread; a frame is on disk when it is told.
    sync : bool
        Whether a frame counts as written only when it is on the disk (O_DSYNC), not in the page cache.
    part_bytes : int
        A request above this is written in parts of it.
    """

    def __init__(
        self, directory: Path | None, handle: Callable[[Frame, Any], None], *, sync: bool = True, part_bytes: int = _PART_BYTES
    ) -> None:
        self._directory, self._handle, self._sync, self._part_bytes = directory, handle, sync, part_bytes
        self._pending: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()
        """What is to be written; None: nothing after it is."""
        self._in_turn: deque[_Pending] = deque()
        """Large requests, the first of them being written, and cuts that wait for them."""
        self._parts_written = 0
        self._ended = self._closed = False
        self._written: queue.SimpleQueue[_Pending | Callable[[], None] | None] = queue.SimpleQueue()
        self._fd: int | None = None
        self._offset = 0
        self._room = 0
        """Up to where room is reserved in the file that is written."""
        self._brief: dict[int, list[Frame]] = {}
        """By the first sequence in a segment: what is remembered once it is gone."""
        self._places: dict[int, array[int]] = {}
        """By the first sequence in a segment: where each of its frames begins, and where the last ends."""
        self._open: dict[int, int] = {}
        """Segments that are read from, and their file descriptors."""
        self._first = 0
        self._lock_fd: int | None = None
        self.control: bytes | None = None  # begins every segment, so that a replay can start at any of them
        self.next_sequence = 1
        self.syncs = 0
        self.frames_in_file = 0
        self.failure: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._guard, args=(self._write_all,), name="journal-write", daemon=True),
            threading.Thread(target=self._guard, args=(self._hand_on,), name="journal-apply", daemon=True),
        ]

    # -- life ------------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Takes the directory; a second collector on it is refused."""
        if self._directory is None:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        self._lock_fd = os.open(self._directory / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                [f"journal.dir: {self._directory} is in use by another collector. Stop it, or give this one its own --data or journal.dir."]
            ) from None

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Writes what is pending, hands it on, and ends both threads."""
        self._pending.put(None)
        for thread in self._threads:
            thread.join()
        for fd in (self._fd, self._lock_fd, *self._open.values()):
            if fd is not None:
                os.close(fd)
        self._fd = self._lock_fd = None
        self._open.clear()

    # -- writing ---------------------------------------------------------------------------------------------------------

    def post(
        self,
        kind: Kind,
        payload: bytes,
        time_ns: int,
        *,
        flag: int = 0,
        digest: bytes | None = None,
        note: Any = None,
        told: Told | None = None,
    ) -> None:
        """Queues a frame; `note` goes to `handle` with it. Raises `Overloaded` if the log is closed."""
        if self._closed:
            raise self._is_closed()
        frame = Frame(kind, flag, 0, time_ns, digest_of(payload) if digest is None else digest, payload)
        self._pending.put(_Pending(frame, note, told))
        if self._closed:  # since the look above: whoever wrote the queue down may have gone without this
            self._refuse_pending()

    def submit(self, kind: Kind, payload: bytes, time_ns: int, *, flag: int = 0, note: Any = None) -> Future[int]:
        """Queues a frame; the future gives its sequence once it is on disk."""
        written: Future[int] = Future()

        def told(outcome: int | Overloaded) -> None:
            if isinstance(outcome, int):
                written.set_result(outcome)
            else:
                written.set_exception(outcome)

        self.post(kind, payload, time_ns, flag=flag, note=note, told=told)
        return written

    def run_in_order(self, call: Callable[[], None]) -> None:
        """Runs `call` on the thread that hands frames on, after all frames written so far."""
        self._written.put(call)

    def _write_all(self) -> None:
        while not self._ended or self._in_turn:
            group: list[_Pending] = []
            size = 0
            for item in self._arrived():
                if self._is_large(item.frame) or (item.frame.kind is Kind.CUT and self._in_turn):
                    self._in_turn.append(item)
                    continue
                group.append(item)
                size += len(item.frame.payload)
                if item.frame.kind is Kind.CUT or size >= _GROUP_BYTES:  # a CUT ends the file, so a group is written up to and with it
                    self._write(group)
                    group, size = [], 0
            self._write(group + self._next_in_turn())
        self._close()
        self._written.put(None)

    def _arrived(self) -> list[_Pending]:
        """What has come since the last time. Waits for it where there is nothing else to write."""
        arrived: list[_Pending] = []
        with contextlib.suppress(queue.Empty):
            item = self._pending.get(block=not self._in_turn)
            while item is not None:
                arrived.append(item)
                item = self._pending.get_nowait()
            self._ended = True
        return arrived

    def _close(self) -> None:
        self._closed = True
        self._refuse_pending()

    def _refuse_pending(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                if (item := self._pending.get_nowait()) is not None:
                    _fail([item], self._is_closed())

    def _is_closed(self) -> Overloaded:
        why = f" ({self.failure})" if self.failure else ""
        return Overloaded(f"the journal is closed{why}; try another collector", retry_after_s=5)

    def _is_large(self, frame: Frame) -> bool:
        return len(frame.payload) > self._part_bytes and self._directory is not None and frame.kind in REQUESTS

    def _next_in_turn(self) -> list[_Pending]:
        """The next part of the large request whose turn it is, and its end; or the cut that has waited for it."""
        if not self._in_turn:
            return []
        frame = self._in_turn[0].frame
        if frame.kind is Kind.CUT:
            return [self._in_turn.popleft()]
        start = self._parts_written * self._part_bytes
        part = frame.payload[start : start + self._part_bytes]
        parts = [_Pending(Frame(Kind.PART, int(start == 0), 0, frame.time_ns, digest_of(part), part))]
        self._parts_written += 1
        if start + len(part) == len(frame.payload):
            parts.append(self._in_turn.popleft())
            self._parts_written = 0
        return parts

    def _write(self, group: list[_Pending]) -> None:
        if not group:
            return
        if self._fd is None and self.control is not None:
            control = Frame(Kind.CONTROL, 0, 0, group[0].frame.time_ns, digest_of(self.control), self.control)
            group.insert(0, _Pending(control))
        for item in group:
            item.frame.sequence = self.next_sequence
            self.next_sequence += 1
        try:
            if self._directory is not None:
                self._append([item.frame for item in group])
        except OSError as error:
            _log.error("journal: cannot write to %s: %s. Requests are refused until it can.", self._directory, error)
            self._undo()
            if self._parts_written:  # without this part the parts before it are worth nothing
                group.append(self._in_turn.popleft())
                self._parts_written = 0
            _fail(group, Overloaded(f"the journal cannot be written ({error.strerror})", retry_after_s=5))
            return
        for item in group:
            if item.frame.kind is not Kind.PART:
                self._written.put(item)
            if item.told is not None:
                item.told(item.frame.sequence)
        if group[-1].frame.kind is Kind.CUT and self._fd is not None:
            os.ftruncate(self._fd, self._offset)  # gives back the room that was reserved
            os.close(self._fd)
            self._fd = None
            self.frames_in_file = 0

    def _append(self, frames: list[Frame]) -> None:
        assert self._directory is not None
        if self._fd is None:
            self._first = frames[0].sequence
            path = self._directory / f"{self._first:016x}.log"
            self._fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | (os.O_DSYNC if self._sync else 0), 0o600)
            self._offset = self._room = self.frames_in_file = 0
            sync_directory(self._directory)
        parts: list[bytes] = []
        ends: list[int] = []
        end = self._offset
        for frame in frames:
            laid = _end_of_parts(frame, self._part_bytes) if self._is_large(frame) else frame
            parts.append(head_of(laid))
            if laid.payload:
                parts.append(laid.payload)
            end += HEAD.size + len(laid.payload)
            ends.append(end)
        if end > self._room:
            ahead = min(max(end, _LEAST_AHEAD), _MOST_AHEAD)
            reserve(self._fd, self._offset, end + ahead - self._offset)
            self._room = end + ahead
        for start in range(0, len(parts), _MAX_IOVECS):
            write_fully(self._fd, parts[start : start + _MAX_IOVECS])
        self.syncs += self._sync
        for frame, end in zip(frames, ends, strict=True):
            self._note(self._first, frame, self._offset, end)
            self._offset = end
        self.frames_in_file += len(frames)

    def _undo(self) -> None:
        """After a failed write: cuts off what did not go through, so that what follows can be read."""
        if self._fd is not None:
            try:
                os.ftruncate(self._fd, self._offset)
                self._room = 0
                os.lseek(self._fd, self._offset, os.SEEK_SET)
            except OSError:
                os.close(self._fd)
                self._fd = None

    # -- handing on ------------------------------------------------------------------------------------------------------

    def _hand_on(self) -> None:
        while (item := self._written.get()) is not None:
            if isinstance(item, _Pending):
                self._handle(item.frame, item.note)
            else:
                item()

    def _guard(self, run: Callable[[], None]) -> None:
        try:
            run()
        except BaseException as error:
            self.failure = error
            _log.critical("journal: stopped on an error; the collector takes no more requests", exc_info=error)
            _fail(list(self._in_turn), self._is_closed())
            self._close()

    # -- reading ---------------------------------------------------------------------------------------------------------

    def segments(self) -> list[tuple[int, Path]]:
        """(first sequence, path), oldest first."""
        if self._directory is None:
            return []
        return sorted((int(path.stem, 16), path) for path in self._directory.glob("*.log"))

    def briefs(self) -> list[Path]:
        return [] if self._directory is None else sorted(self._directory.glob("*.brief"))

    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for _, path in self.segments())

    def replay(self) -> Iterator[Frame]:
        """Every whole frame, in order; the torn end that a crash leaves is cut off. Call before `start`."""
        files = self.segments()
        for position, (first, path) in enumerate(files):
            end = 0
            self.next_sequence = max(self.next_sequence, first)
            self._brief.pop(first, None)
            self._places.pop(first, None)
            parts: list[bytes] = []
            with path.open("rb") as file:
                for frame, past in read_frames(file):
                    at, end = end, past
                    self.next_sequence = frame.sequence + 1
                    whole = frame
                    if frame.kind is Kind.PART:
                        parts = [] if frame.flag else parts
                        parts.append(frame.payload)
                    elif frame.kind is Kind.WHOLE:
                        whole, parts = _joined(frame, parts), []
                    self._note(first, whole, at, past)
                    if frame.kind is not Kind.PART:
                        yield whole
            if (rest := path.stat().st_size - end) > 0:
                if position < len(files) - 1:
                    _log.error("journal: %s is damaged at byte %d; %d bytes of it cannot be read", path, end, rest)
                else:
                    _log.info("journal: cut %d torn bytes off the end of %s (never acknowledged)", rest, path.name)
                os.truncate(path, end)
            if end == 0:
                path.unlink()

    def forget_before(self, sequence: int) -> int:
        """Reduces segments that lie wholly before `sequence` to their digests and decisions; returns how many."""
        files = self.segments()
        done = 0
        for (first, path), (following, _) in pairwise(files):
            if following > sequence:
                break
            if brief := b"".join(head_of(frame) + frame.payload for frame in self._brief.pop(first, [])):
                part = path.with_suffix(".part")
                part.write_bytes(brief)
                part.rename(path.with_suffix(".brief"))
            path.unlink()
            self._places.pop(first, None)
            if (fd := self._open.pop(first, None)) is not None:
                os.close(fd)
            done += 1
        return done

    def _note(self, first: int, frame: Frame, start: int, end: int) -> None:
        """Where a frame lies in its segment, and what is to be remembered of it once the segment is gone: a digest, decisions."""
        places = self._places.get(first)
        if places is None:
            places = self._places[first] = array("Q", (0,))
        while len(places) <= frame.sequence - first:  # sequences of frames that could not be written
            places.append(start)
        places.append(end)
        if frame.kind in REQUESTS:
            self._brief.setdefault(first, []).append(Frame(Kind.SEEN, 0, frame.sequence, frame.time_ns, frame.digest, b""))
        elif frame.kind is Kind.DECISIONS:
            self._brief.setdefault(first, []).append(frame)

    def _place_of(self, sequence: int) -> tuple[int, int, int]:
        """(first sequence of its segment, where it begins, where it ends) of a frame; raises `LookupError`."""
        first = self._first
        if not 0 < first <= sequence:
            first = max((first for first in list(self._places) if first <= sequence), default=-1)
        places, index = self._places.get(first, ()), sequence - first
        if index + 1 >= len(places):
            raise LookupError(f"no frame {sequence}")
        return first, places[index], places[index + 1]

    def size_of(self, sequence: int) -> int | None:
        """Bytes of a frame's payload as it lies on disk: of a request in parts, of its end. None where it does not."""
        try:
            _, start, end = self._place_of(sequence)
        except LookupError:
            return None
        return end - start - HEAD.size

    def body(self, sequence: int) -> bytes:
        """The payload of a frame, read back. Raises `OSError`, or `LookupError` where it is not there or not what was written."""
        first, start, end = self._place_of(sequence)
        if first not in self._open:
            assert self._directory is not None
            self._open[first] = os.open(self._directory / f"{first:016x}.log", os.O_RDONLY)
        head, payload = (os.pread(self._open[first], n, at) for n, at in ((HEAD.size, start), (end - start - HEAD.size, start + HEAD.size)))
        if not is_payload_of(head, payload):
            raise LookupError(f"{first:016x}.log is damaged between bytes {start} and {end}")
        return payload

    def remembered(self, since_ns: int) -> Iterator[Frame]:
        """Digests and decisions of segments that are gone; files older than `since_ns` are removed."""
        for path in self.briefs():
            with path.open("rb") as file:
                frames = [frame for frame, _ in read_frames(file)]
            if not frames or frames[-1].time_ns < since_ns:
                path.unlink()
                continue
            yield from frames

    def expire(self, since_ns: int) -> None:
        """Removes what is remembered from before `since_ns`."""
        for path in self.briefs():
            if path.stat().st_mtime_ns < since_ns:
                path.unlink()


def _end_of_parts(frame: Frame, part_bytes: int) -> Frame:
    """What is laid down at the end of a large request, whose parts lie before it."""
    payload = frame.digest + (-(-len(frame.payload) // part_bytes)).to_bytes(4, "little")
    return Frame(Kind.WHOLE, frame.kind, frame.sequence, frame.time_ns, digest_of(payload), payload)


def _joined(end: Frame, parts: list[bytes]) -> Frame:
    """The request of which `parts` were written before its end."""
    body = b"".join(parts)
    digest, n = end.payload[:16], int.from_bytes(end.payload[16:], "little")
    if len(parts) != n or digest_of(body) != digest:
        raise RuntimeError(f"journal: frame {end.sequence} ends a request of {n} parts, of which {len(parts)} are there")
    return Frame(Kind(end.flag), 0, end.sequence, end.time_ns, digest, body)


def _fail(items: list[_Pending], error: Overloaded) -> None:
    for item in items:
        if item.told is not None:
            item.told(error)
