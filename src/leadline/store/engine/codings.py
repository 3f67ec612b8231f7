"""Content-Encoding both ways, piece by piece, and bounded: gzip, deflate, zstd, and lz4 where its library is."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, Protocol

from leadline.store.engine.exceptions import CANNOT_DECOMPRESS, NOT_IMPLEMENTED, QUERY_IS_TOO_LARGE, refusal

# What is decompressed at once; the rest waits inside the decompressor.
_STEP = 1 << 20


class Encoder(Protocol):
    def compress(self, data: bytes) -> bytes: ...
    def flush(self) -> bytes: ...


def _zstd() -> Any:
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]  # Python 3.14
    except ImportError:
        try:
            from backports import zstd  # type: ignore[no-redef,unused-ignore]
        except ImportError:
            return None
    return zstd


def _lz4() -> Any:
    try:
        import lz4.frame
    except ImportError:
        return None
    return lz4.frame


class _Lz4Encoder:
    def __init__(self, frame: Any) -> None:
        self._compressor = frame.LZ4FrameCompressor()
        self._begun = False

    def compress(self, data: bytes) -> bytes:
        head = b"" if self._begun else self._compressor.begin()
        self._begun = True
        return bytes(head + self._compressor.compress(data))

    def flush(self) -> bytes:
        head = b"" if self._begun else self._compressor.begin()
        return bytes(head + self._compressor.flush())


def _accepted(header: str) -> list[str]:
    """Names in an Accept-Encoding header whose weight is not 0."""
    names = []
    for part in header.split(","):
        name, _, weight = part.partition(";")
        if weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            names.append(name.strip().lower())
    return names


def encoder(accept_encoding: str) -> tuple[str, Encoder] | None:
    """The fastest coding that the client accepts, with an encoder; None for plain bytes."""
    names = _accepted(accept_encoding)
    if "lz4" in names and (frame := _lz4()):
        return "lz4", _Lz4Encoder(frame)
    if "zstd" in names and (zstd := _zstd()):
        return "zstd", zstd.ZstdCompressor(level=1)
    if "gzip" in names or "*" in names:
        return "gzip", zlib.compressobj(3, zlib.DEFLATED, 31)
    if "deflate" in names:
        return "deflate", zlib.compressobj(3)
    return None


class Decoder:
    """Decompresses a request body as it comes.

    Parameters
    ----------
    coding : str
        The Content-Encoding header; empty or ``identity`` passes bytes through.
    limit : int
        Bytes that may come out in all.
    """

    def __init__(self, coding: str, limit: int) -> None:
        self._coding, self._left, self._limit = coding.strip().lower() or "identity", limit, limit
        self._make: Any = None
        match self._coding:
            case "identity":
                pass
            case "gzip" | "x-gzip" | "deflate":
                self._make = lambda: zlib.decompressobj(47)
            case "zstd" if zstd := _zstd():
                self._make = zstd.ZstdDecompressor
            case "lz4" if frame := _lz4():
                self._make = frame.LZ4FrameDecompressor
            case _:
                message = f"Content-Encoding {coding!r} is not known here. Send gzip, deflate, zstd or plain bytes"
                raise refusal(NOT_IMPLEMENTED, "NOT_IMPLEMENTED", message)
        self._inner = self._make() if self._make else None
        self._fed = False

    def add(self, data: bytes) -> Iterator[bytes]:
        """What comes out for `data`, in pieces of about 1 MiB, each made when it is asked for."""
        if self._inner is None:
            self._left -= len(data)
            self._check()
            if data:
                yield data
            return
        more = bool(data)
        while more:
            if self._inner.eof:  # several gzip or zstd members may follow each other
                self._inner = self._make()
            try:
                piece = self._inner.decompress(data, _STEP)
            except Exception as error:
                raise self._corrupt(str(error)) from error
            self._fed, ended = True, self._inner.eof
            data = (self._inner.unused_data or b"") if ended else getattr(self._inner, "unconsumed_tail", b"")
            self._left -= len(piece)
            self._check()
            more = bool(data) or (not ended and (len(piece) == _STEP or not getattr(self._inner, "needs_input", True)))
            if piece:
                yield piece

    def end(self) -> None:
        """Raises if the data was cut short."""
        if self._inner is not None and self._fed and not self._inner.eof:
            raise self._corrupt("it ends too early")

    def _check(self) -> None:
        if self._left < 0:
            message = f"the request is above {self._limit} bytes once decompressed. Send it in smaller parts"
            raise refusal(QUERY_IS_TOO_LARGE, "QUERY_IS_TOO_LARGE", message)

    def _corrupt(self, why: str) -> Exception:
        return refusal(CANNOT_DECOMPRESS, "CANNOT_DECOMPRESS", f"the body is not the {self._coding} it claims to be: {why}")
