"""Bounded decompression, and telling compressed gRPC messages from plain ones."""

from __future__ import annotations

import gzip
import resource
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from leadline.errors import InvalidRequest, Overloaded, TooLarge
from leadline.receive.compression import ON_LOOP_OUT, Decompressor, sniffed_encoding
from leadline.receive.limits import Budget

MIB = 2**20


@pytest.fixture
def decompressor() -> Iterator[Decompressor]:
    each = Decompressor(4 * MIB)
    yield each
    each.close()


@pytest.mark.parametrize("size", [0, 100, ON_LOOP_OUT, ON_LOOP_OUT + 1, 4 * MIB])
async def test_the_lease_holds_the_result(decompressor: Decompressor, size: int) -> None:
    with Budget(100 * MIB).lease() as lease:
        assert await decompressor.decompressed("gzip", gzip.compress(b"x" * size), lease) == b"x" * size
        assert lease.held == size


async def test_a_result_beyond_the_budget_is_refused_for_now(decompressor: Decompressor) -> None:
    budget = Budget(2 * MIB)
    with budget.lease() as other, budget.lease() as lease:
        other.hold(1)
        with pytest.raises(Overloaded):
            await decompressor.decompressed("gzip", gzip.compress(b"x" * 3 * MIB), lease)


async def test_a_bomb_stays_small(decompressor: Decompressor) -> None:
    """256 MiB in 250 KB, against a limit of 4 MiB: memory grows by less than a quarter of what the bomb holds."""
    bomb = gzip.compress(bytes(256 * MIB), 9)
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Budget(100 * MIB).lease() as lease, pytest.raises(TooLarge, match=r"holds more than 4194304 bytes \(receive\.max_bytes\)"):
        await decompressor.decompressed("gzip", bomb, lease)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_kib < 64 * 1024


@pytest.mark.parametrize("size", [100, 3 * MIB])
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_data_cut_short_is_invalid_at_any_size(decompressor: Decompressor, encoding: str, size: int) -> None:
    data = (gzip.compress if encoding == "gzip" else zlib.compress)(bytes(size))[:-3]
    with Budget(100 * MIB).lease() as lease, pytest.raises(InvalidRequest, match=f"{encoding} body of {len(data)} bytes: "):
        await decompressor.decompressed(encoding, data, lease)


@given(st.binary(max_size=50), st.integers(0, 9))
def test_compressed_messages_are_told_apart(data: bytes, level: int) -> None:
    assert sniffed_encoding(gzip.compress(data, level)) == "gzip"
    assert sniffed_encoding(zlib.compress(data, level)) == "deflate"


@given(st.lists(st.binary(max_size=8), max_size=3))
def test_requests_are_never_taken_for_compressed(urls: list[bytes]) -> None:
    request = ExportTraceServiceRequest()
    for url in urls:
        request.resource_spans.add().schema_url = url.hex()
    assert sniffed_encoding(request.SerializeToString()) is None
