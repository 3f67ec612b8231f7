"""Hostile and enormous requests against the whole collector: each is answered as it should be, and nothing else is lost.

How long others wait meanwhile is what benchmarks/hostile.py measures.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from hostile import ATTACKS, sender
from leadline.testing.processes import Processes
from load import METHOD
from payloads import Requests

ANSWERS = {
    "random-grpc": "INVALID_ARGUMENT: not an ExportTraceServiceRequest",
    "random-http": "400: not an ExportTraceServiceRequest",
    "random-json": "400: not JSON",
    "truncated": "INVALID_ARGUMENT: not an ExportTraceServiceRequest",
    "inner-1GiB": "INVALID_ARGUMENT: not an ExportTraceServiceRequest: at byte 1: expected a length that ends within its message",
    "claim-1GiB-grpc": "refused",
    "claim-1GiB-http": "HTTP/1.1 413",
    "bomb-gzip": "413: the gzip body of",
    "bomb-zstd": "413: the zstd body of",
    "bomb-gzip-grpc": "RESOURCE_EXHAUSTED: the gzip body of",
    "bomb-json": "200",
    "traces-56MiB-grpc": "OK",
    "traces-56MiB-json": "200",
    "logs-56MiB": "200",
    "metrics-56MiB": "200, in part",  # of more points than one request may hold
}
"""What the first request of an attack is told, or how that begins."""


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Processes]:
    with Processes(tmp_path, ("store.clickhouse=none", "sample.decision_wait=1s", "journal.segment=1s")) as processes:
        processes.start("collect")
        await processes.ready()
        yield processes


async def test_each_is_answered_and_nothing_is_lost(machine: Processes) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{machine.ports['grpc']}") as channel:
        call, ordinary = channel.unary_unary(METHOD), Requests(spans=9)
        for name, answer in ANSWERS.items():
            transport, path, _, bodies, headers = ATTACKS[name]
            async with sender(transport, path, headers, machine.ports) as send:
                told = await asyncio.wait_for(send(next(bodies())), 60)
            assert told.startswith(answer[:70]), (name, told)
            await call(ordinary.next(), timeout=60)
        signals = await machine.settled()
        assert {signal: terms["lost"] for signal, terms in signals.items()} == dict.fromkeys(signals, 0)
        assert all(signals[signal]["kept"] > 0 for signal in ("metrics", "logs", "predictions"))
        assert "Traceback" not in machine.log("collect")
