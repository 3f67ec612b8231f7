"""The journal's format: frames, one after the other.

A frame is a 48-byte head and a payload. The head holds the payload's 128-bit digest, which tells both a torn write from a whole one
and a client's retry from a new request, and a checksum of itself.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import BinaryIO

import xxhash

HEAD = struct.Struct("<4sIBB2xQq16sI")
_UNSUMMED = struct.Struct("<4sIBB2xQq16s")
MAGIC = b"LL1\n"


class Kind(IntEnum):
    """What a frame holds."""

    TRACES = 1
    METRICS = 2
    LOGS = 3
    DUPLICATE = 4  # JSON [[signal, model, items], …] of a request that was here before
    DECISIONS = 5  # applied position, then the decisions
    CUT = 6  # the end of a segment; flag 1: sketches go out too
    CONTROL = 7  # JSON: rules in force from here on
    SEEN = 8  # the digest of a request whose segment is gone
    PART = 9  # a slice of a large request; flag 1: its first
    WHOLE = 10  # the end of a large request: its kind (the flag) and digest; its bytes are the parts before


REQUESTS = (Kind.TRACES, Kind.METRICS, Kind.LOGS)


@dataclass(slots=True)
class Frame:
    """One entry of the journal. Its sequence is given when it is written; nothing of it changes after that."""

    kind: Kind
    flag: int
    sequence: int
    time_ns: int
    digest: bytes
    payload: bytes


def digest_of(payload: bytes) -> bytes:
    """128 bits of XXH3: an accidental collision among 10^9 requests has probability below 10^-20."""
    return xxhash.xxh3_128_digest(payload)


def head_of(frame: Frame) -> bytes:
    head = _UNSUMMED.pack(MAGIC, len(frame.payload), frame.kind, frame.flag, frame.sequence, frame.time_ns, frame.digest)
    return head + zlib.crc32(head).to_bytes(4, "little")


def is_payload_of(head: bytes, payload: bytes) -> bool:
    """Whether a payload is the one that its head was written for."""
    return len(head) == HEAD.size and HEAD.unpack(head)[6] == digest_of(payload)


def read_frames(file: BinaryIO) -> Iterator[tuple[Frame, int]]:
    """(frame, offset just past it) up to the first that is torn or damaged. One frame is in memory at a time."""
    offset = 0
    while len(head := file.read(HEAD.size)) == HEAD.size:
        magic, length, kind, flag, sequence, time_ns, digest, checksum = HEAD.unpack(head)
        if magic != MAGIC or checksum != zlib.crc32(head[:-4]):
            return
        payload = file.read(length)
        if len(payload) < length or (kind != Kind.SEEN and digest_of(payload) != digest):
            return
        offset += HEAD.size + length
        yield Frame(Kind(kind), flag, sequence, time_ns, digest, payload), offset
