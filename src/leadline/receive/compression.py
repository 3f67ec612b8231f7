"""Decompression of request bodies: bounded in size, and never on the event loop for long.

A small body can hold a large one (1,000 to 1 for gzip), so its size says nothing: a first try on the loop stops at
1 MiB, which takes about a millisecond; whatever is larger is done in one of two threads, with the GIL released.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from leadline._kernel import DecodeError, decompress
from leadline.errors import InvalidRequest, TooLarge
from leadline.receive.limits import Lease

ENCODINGS = ("gzip", "deflate", "zstd")
ON_LOOP_IN = 64 * 1024
ON_LOOP_OUT = 2**20
THREADS = 2


class Decompressor:
    """Two threads for large bodies; `close` ends them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="leadline-decompress")

    async def decompressed(self, encoding: str, data: bytes, lease: Lease) -> bytes:
        """`data` decompressed, and the lease grown to hold the result.

        Raises
        ------
        InvalidRequest
            If the data is corrupt or cut short.
        TooLarge
            If it would exceed the limit.
        Overloaded
            If the result does not fit the budget.
        """
        limit = self._limit
        try:
            if len(data) <= ON_LOOP_IN:
                try:
                    body = decompress(encoding, data, min(limit, ON_LOOP_OUT))
                except OverflowError:
                    if limit <= ON_LOOP_OUT:
                        raise
                else:
                    lease.hold(len(body))
                    return body
            body = await asyncio.get_running_loop().run_in_executor(self._threads, decompress, encoding, data, limit)
        except DecodeError as error:
            raise InvalidRequest(f"{encoding} body of {len(data)} bytes: {error}. Send the body whole, or without compression.") from error
        except OverflowError:
            raise TooLarge(
                f"the {encoding} body of {len(data)} bytes holds more than {limit} bytes (receive.max_bytes). Send smaller batches."
            ) from None
        lease.hold(len(body))
        return body

    def close(self) -> None:
        """Ends the threads; what is under way is finished first."""
        self._threads.shutdown(wait=False)


def content_encoding(header: bytes) -> str:
    """One of `ENCODINGS`; "" for none; what is unknown as it was sent, in small letters.

    `x-gzip` is gzip (RFC 9110), and `zlib` is what the OpenTelemetry Collector's exporter calls HTTP's deflate.
    """
    sent = header.strip().lower().decode("latin-1")
    name = "deflate" if sent == "zlib" else sent.removeprefix("x-")
    return name if name in ENCODINGS else "" if sent == "identity" else sent


def sniffed_encoding(body: bytes) -> str | None:
    """How a gRPC message is compressed, read from its first two bytes; None where it is not.

    grpcio hands on compressed messages as they are when told not to decompress them, but not the name of the encoding. An
    OTLP request begins with the tag of its field 1, byte 0x0a. gzip's 0x1f would be a tag with wire type 7, which does
    not exist; zlib's 0x78 would be field 15, which no OTLP request has, and its second byte makes a multiple of 31.
    """
    if len(body) < 2 or body[0] == 0x0A:
        return None
    if body[0] == 0x1F and body[1] == 0x8B:
        return "gzip"
    if body[0] == 0x78 and (body[0] << 8 | body[1]) % 31 == 0:
        return "deflate"
    return None
