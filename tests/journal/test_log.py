"""The write-ahead log: what was acknowledged is read back, in order; what was torn is not."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from leadline.errors import ConfigError, Overloaded
from leadline.journal.frames import HEAD, Frame, Kind, digest_of, read_frames
from leadline.journal.log import Log


def _write(directory: Path, payloads: list[bytes], *, cuts: tuple[int, ...] = ()) -> list[Frame]:
    told: list[Frame] = []
    log = Log(directory, lambda frame, note: told.append(frame))
    log.open()
    for _ in log.replay():
        pass
    log.start()
    futures = []
    for index, payload in enumerate(payloads):
        futures.append(log.submit(Kind.TRACES, payload, index))
        if index in cuts:
            futures.append(log.submit(Kind.CUT, b"", index))
    sequences = [future.result(timeout=10) for future in futures if future is not None]
    log.stop()
    assert sequences == sorted(set(sequences))
    return told


def _read(directory: Path) -> list[Frame]:
    log = Log(directory, lambda frame, note: None)
    log.open()
    frames = list(log.replay())
    log.start()
    log.stop()
    return frames


def test_what_is_written_is_told_in_order_and_read_back(tmp_path: Path) -> None:
    """Frames reach the handler in the order in which they lie on disk, and a replay gives the same."""
    told = _write(tmp_path, [b"one", b"", b"three" * 1000], cuts=(1,))
    assert [frame.sequence for frame in told] == [1, 2, 3, 4]
    assert _read(tmp_path) == told
    assert len(list(tmp_path.glob("*.log"))) == 2


def test_sequences_go_on_after_a_restart(tmp_path: Path) -> None:
    """A second run counts on; nothing is used twice."""
    _write(tmp_path, [b"one"])
    assert [frame.sequence for frame in _write(tmp_path, [b"two"])] == [2]
    assert [frame.payload for frame in _read(tmp_path)] == [b"one", b"two"]


def test_a_torn_end_is_cut_off_at_every_byte(tmp_path: Path) -> None:
    """Whatever byte a crash stops at, whole frames are read and what follows them can be written and read again."""
    whole = tmp_path / "whole"
    _write(whole, [b"first", b"second"])
    (path,) = whole.glob("*.log")
    data = path.read_bytes()
    first = HEAD.size + len(b"first")
    for length in range(len(data)):
        directory = tmp_path / f"torn-{length}"
        directory.mkdir()
        (directory / path.name).write_bytes(data[:length])
        assert [frame.payload for frame in _read(directory)] == ([b"first"] if length >= first else [])
        _write(directory, [b"after"])
        assert _read(directory)[-1].payload == b"after"


def test_a_damaged_byte_stops_the_reading_there(tmp_path: Path) -> None:
    """A payload that is not what was written is never given out."""
    _write(tmp_path, [b"first", b"second"])
    (path,) = tmp_path.glob("*.log")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert [frame.payload for frame in _read(tmp_path)] == [b"first"]


def test_what_is_forgotten_leaves_its_digests_and_decisions(tmp_path: Path) -> None:
    """A segment that is no longer needed shrinks to what a retry or a late span still asks for."""
    log = Log(tmp_path, lambda frame, note: None)
    log.open()
    log.start()
    for kind, payload in ((Kind.TRACES, b"spans" * 100), (Kind.DECISIONS, b"kept"), (Kind.CUT, b""), (Kind.TRACES, b"more")):
        future = log.submit(kind, payload, 5)
        assert future is not None
        future.result(timeout=10)
    assert log.forget_before(3) == 0
    assert log.forget_before(4) == 1
    assert [frame.payload for frame in log.replay()] == [b"more"]
    seen, decisions = log.remembered(since_ns=0)
    assert (seen.kind, seen.digest) == (Kind.SEEN, digest_of(b"spans" * 100))
    assert (decisions.kind, decisions.payload) == (Kind.DECISIONS, b"kept")
    assert list(log.remembered(since_ns=6)) == []
    log.stop()


def test_a_payload_is_read_back_by_its_sequence(tmp_path: Path) -> None:
    """Of any segment that is not forgotten, written now or by an earlier run; nothing else has a place."""
    _write(tmp_path, [b"one", b"", b"three" * 1000], cuts=(1,))
    log = Log(tmp_path, lambda frame, note: None)
    log.open()
    written = {frame.sequence: frame.payload for frame in log.replay()}
    log.start()
    for kind in (Kind.CUT, Kind.LOGS):
        future = log.submit(kind, b"five" if kind is Kind.LOGS else b"", 0)
        assert future is not None
        written[future.result(timeout=10)] = b"five" if kind is Kind.LOGS else b""
    assert [written[sequence] for sequence in range(1, 7)] == [b"one", b"", b"", b"three" * 1000, b"", b"five"]
    for sequence, payload in written.items():
        assert log.size_of(sequence) == len(payload)
        assert log.body(sequence) == payload
    for sequence in (0, 7, 2**63):
        assert log.size_of(sequence) is None
        with pytest.raises(LookupError):
            log.body(sequence)
    assert log.forget_before(4) == 1
    assert [log.size_of(sequence) for sequence in (1, 3, 4)] == [None, None, 5000]
    log.stop()


def test_a_payload_that_the_disk_does_not_give_back_is_an_error(tmp_path: Path) -> None:
    """Never half of it, and never something else."""
    log = Log(tmp_path, lambda frame, note: None)
    log.open()
    log.start()
    future = log.submit(Kind.TRACES, b"spans", 0)
    assert future is not None
    sequence = future.result(timeout=10)
    (path,) = tmp_path.glob("*.log")
    whole = path.read_bytes()
    for damaged in (whole[:-2], whole[:-2] + b"..", whole[: -len(b"spans") - 1], b""):
        path.write_bytes(damaged)
        with pytest.raises(LookupError, match=f"{path.name} is damaged between bytes 0 and {len(whole)}"):
            log.body(sequence)
    path.write_bytes(whole)
    assert log.body(sequence) == b"spans"
    log.stop()


def test_a_second_collector_is_refused(tmp_path: Path) -> None:
    """Two writers on one journal would mix their sequences."""
    log = Log(tmp_path, lambda frame, note: None)
    log.open()
    with pytest.raises(ConfigError, match=r"in use by another collector.*--data"):
        Log(tmp_path, lambda frame, note: None).open()
    log.start()
    log.stop()


def _write_large(directory: Path, *, part_bytes: int = 10) -> list[Frame]:
    """Two large requests among small ones, with a cut asked for between them; what the handler was told."""
    told: list[Frame] = []
    log = Log(directory, lambda frame, note: told.append(frame), part_bytes=part_bytes)
    log.open()
    for _ in log.replay():
        pass
    futures = [
        log.submit(Kind.TRACES, b"small one", 1),
        log.submit(Kind.TRACES, b"first large request, in four parts", 2),
        log.submit(Kind.CUT, b"", 3),
        log.submit(Kind.LOGS, b"second large request", 4),
        log.submit(Kind.METRICS, b"small two", 5),
    ]
    log.start()
    assert len({future.result(timeout=10) for future in futures if future is not None}) == len(futures)
    log.stop()
    return told


def test_a_large_request_is_written_in_parts_and_read_whole(tmp_path: Path) -> None:
    """Others do not wait for it, a cut does: its parts lie in one segment. What is told is whole, live and in a replay."""
    told = _write_large(tmp_path)
    payloads = [frame.payload for frame in told]
    first, cut, second = b"first large request, in four parts", b"", b"second large request"
    assert payloads == [b"small one", b"small two", first, cut, second]
    assert [frame.digest for frame in told] == [digest_of(payload) for payload in payloads]
    assert _read(tmp_path) == told
    segments = []
    for path in sorted(tmp_path.glob("*.log")):
        with path.open("rb") as file:
            segments.append([frame.kind for frame, _ in read_frames(file)])
    assert [kinds.count(Kind.PART) for kinds in segments] == [4, 2]
    assert [kinds[-1] for kinds in segments] == [Kind.CUT, Kind.WHOLE]
    assert max(path.stat().st_size for path in tmp_path.glob("*.log")) < 1_000


def test_a_large_request_torn_at_any_byte_was_never_there(tmp_path: Path) -> None:
    """Its parts alone are worth nothing; what comes after the restart is read."""
    whole = tmp_path / "whole"
    _write_large(whole)
    last = sorted(whole.glob("*.log"))[-1]
    data = last.read_bytes()
    for length in range(len(data)):
        directory = tmp_path / f"torn-{length}"
        directory.mkdir()
        (directory / last.name).write_bytes(data[:length])
        assert _read(directory) == []
        _write(directory, [b"after"])
        assert [frame.payload for frame in _read(directory)] == [b"after"]


def test_a_full_disk_fails_what_is_being_written_and_nothing_else(tmp_path: Path) -> None:
    """A large request whose parts do not fit is refused whole; what fits is written, before and after."""
    told: list[Frame] = []
    log = Log(tmp_path, lambda frame, note: told.append(frame), part_bytes=4096)
    log.open()
    log.start()
    before = log.submit(Kind.TRACES, b"before", 1)
    assert before is not None
    before.result(timeout=10)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        large = log.submit(Kind.TRACES, b"large" * 20_000, 2)
        assert large is not None
        with pytest.raises(Overloaded, match=r"cannot be written \(File too large\)"):
            large.result(timeout=10)
        small = log.submit(Kind.TRACES, b"small", 3)
        assert small is not None
        small.result(timeout=10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    again = log.submit(Kind.TRACES, b"large" * 20_000, 4)
    assert again is not None
    again.result(timeout=10)
    log.stop()
    assert [frame.payload for frame in told] == [b"before", b"small", b"large" * 20_000]
    assert _read(tmp_path) == told
