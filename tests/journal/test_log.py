"""The write-ahead log: what was acknowledged is read back, in order; what was torn is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from leadline.errors import ConfigError
from leadline.journal.frames import HEAD, Frame, Kind, digest_of
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


def test_a_second_collector_is_refused(tmp_path: Path) -> None:
    """Two writers on one journal would mix their sequences."""
    log = Log(tmp_path, lambda frame, note: None)
    log.open()
    with pytest.raises(ConfigError, match=r"in use by another collector.*--data"):
        Log(tmp_path, lambda frame, note: None).open()
    log.start()
    log.stop()
