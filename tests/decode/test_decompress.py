"""Bounded decompression."""

from __future__ import annotations

import gzip
import random
import zlib

import pytest

from leadline._kernel import DecodeError, decompress

TEXT = random.Random(0).randbytes(1000) * 50
# 64 MiB of zeros as a zstd frame, by hand: magic, no content size, a window of 1 MiB, then RLE blocks of 128 KiB.
ZSTD_BOMB = (
    bytes.fromhex("28b52ffd") + bytes([0, (20 - 10) << 3])
    + b"".join(((1 << 17 << 3) | 2 | (block == 511)).to_bytes(3, "little") + b"\0" for block in range(512))
)  # fmt: skip


def test_gzip_and_deflate_round_trip() -> None:
    """Up to the limit exactly; concatenated gzip members are one body."""
    assert decompress("gzip", gzip.compress(TEXT), len(TEXT)) == TEXT
    assert decompress("deflate", zlib.compress(TEXT), len(TEXT)) == TEXT
    assert decompress("gzip", gzip.compress(TEXT) + gzip.compress(b"more"), 1 << 20) == TEXT + b"more"
    assert decompress("gzip", gzip.compress(b""), 0) == b""


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_cut_or_corrupt_data_is_refused(encoding: str, compress: object) -> None:
    """Every cut, and changed checksums, raise DecodeError with an offset."""
    assert callable(compress)
    packed = compress(b"leadline" * 20)
    for end in range(len(packed)):
        with pytest.raises(DecodeError) as caught:
            decompress(encoding, packed[:end], 1 << 20)
        assert 0 <= caught.value.offset <= end
    with pytest.raises(DecodeError):
        decompress(encoding, packed[:-1] + bytes([packed[-1] ^ 1]), 1 << 20)
    with pytest.raises(DecodeError):
        decompress(encoding, packed + b"rest", 1 << 20)


@pytest.mark.parametrize(
    ("encoding", "bomb"), [("gzip", gzip.compress(bytes(64 << 20))), ("deflate", zlib.compress(bytes(64 << 20))), ("zstd", ZSTD_BOMB)]
)
def test_bombs_stop_at_the_limit(encoding: str, bomb: bytes) -> None:
    """64 MiB of zeros from some kilobytes: an OverflowError that says the limit."""
    assert len(bomb) < 100_000
    with pytest.raises(OverflowError, match="limit of 1048576 bytes"):
        decompress(encoding, bomb, 1 << 20)


def test_zstd_windows_are_bounded() -> None:
    """A frame that asks for a window of 2 GiB is refused before anything is allocated for it."""
    frame = bytes.fromhex("28b52ffd") + bytes([0, (31 - 10) << 3]) + bytes.fromhex("010000")
    with pytest.raises(DecodeError):
        decompress("zstd", frame, 1 << 30)


def test_other_encodings_are_named() -> None:
    """The error lists what is known and says what was got."""
    with pytest.raises(ValueError, match=r"gzip, deflate or zstd, got \"br\""):
        decompress("br", b"", 1)
