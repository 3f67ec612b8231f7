"""Both OTLP receivers on ports of their own, over an intake that keeps what it is given, with a client for each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from grpc import aio

from leadline.receive.grpc import METHODS, GrpcReceiver
from leadline.receive.http import HttpReceiver
from leadline.receive.limits import Budget
from leadline.receive.outcomes import Outcomes
from leadline.settings import ReceiveConfig
from leadline.testing.intake import RecordingIntake

METHOD_OF = {signal: method for method, signal in METHODS.items()}


async def until(condition: Callable[[], Any], *, what: str, seconds: float = 20.0) -> None:
    """Polls until `condition()` is true; past the deadline raises `TimeoutError`, naming what was waited for."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} s: {what}")
        await asyncio.sleep(0.005)


@dataclass(frozen=True, slots=True)
class Receivers:
    """Running receivers and what they share."""

    intake: RecordingIntake
    budget: Budget
    outcomes: Outcomes
    grpc: GrpcReceiver
    http: HttpReceiver
    channel: aio.Channel
    client: httpx.AsyncClient

    async def export(self, body: bytes, signal: str = "traces", **options: Any) -> bytes:
        """One gRPC call with a raw body; returns the raw reply."""
        call = self.channel.unary_unary(METHOD_OF[signal])  # type: ignore[index]  # a Signal is its name
        return await call(body, timeout=30, **options)  # type: ignore[no-any-return]

    async def post(self, body: bytes, kind: str = "application/x-protobuf", path: str = "/v1/traces", **headers: str) -> httpx.Response:
        """One HTTP request; header names with ``_`` for ``-``."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(path, content=body, headers={"content-type": kind, **named})


@asynccontextmanager
async def receiving(**settings: Any) -> AsyncIterator[Receivers]:
    """Starts both receivers with `receive` settings as given, and stops them in the end."""
    config = ReceiveConfig(**{"grpc": "127.0.0.1:0", "http": "127.0.0.1:0", **settings})
    intake, budget, outcomes = RecordingIntake(), Budget(config.max_in_flight), Outcomes()
    grpc = GrpcReceiver(config, intake, budget=budget, outcomes=outcomes)
    http = HttpReceiver(config, intake, budget=budget, outcomes=outcomes)
    await grpc.start()
    await http.start()
    try:
        async with (
            aio.insecure_channel(f"127.0.0.1:{grpc.port}", options=[("grpc.max_send_message_length", -1)]) as channel,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{http.port}", timeout=30) as client,
        ):
            yield Receivers(intake, budget, outcomes, grpc, http, channel, client)
    finally:
        await grpc.stop(0)
        await http.stop(0)
