"""Sends requests over a number of gRPC channels at a rate, or as fast as they are answered, and counts.

python benchmarks/load.py --endpoint 127.0.0.1:4317 --seconds 10 --rate 118000
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path

import grpc

sys.path.insert(0, str(Path(__file__).parent))
from payloads import Requests

METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


async def send(
    endpoint: str,
    *,
    seconds: float,
    rate: float,
    channels: int,
    spans: int,
    in_flight: int,
    seed: int,
    total: int | None = None,
    repeat_every: int = 0,
) -> dict[str, object]:
    """Sends for `seconds` or `total` spans; `rate` is spans a second, 0 as fast as answered. Latencies are of one call, ms.

    With `repeat_every` n, each n-th request is sent twice, as a client's retry would be.
    """
    requests = [Requests(spans, seed=seed + n) for n in range(channels)]
    started = time.monotonic()
    counts = {"sent": 0, "acknowledged": 0, "failed": 0, "repeated": 0, "requests": 0}
    latencies: list[float] = []
    errors: dict[str, int] = {}

    async def channel(number: int) -> None:
        options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(endpoint, options=options) as connection:
            call = connection.unary_unary(METHOD)
            slots = asyncio.Semaphore(in_flight)

            async def one(body: bytes) -> None:
                begun = time.monotonic()
                try:
                    await call(body, timeout=60)
                    counts["acknowledged"] += spans
                except grpc.aio.AioRpcError as error:
                    counts["failed"] += spans
                    errors[error.code().name] = errors.get(error.code().name, 0) + 1
                finally:
                    latencies.append((time.monotonic() - begun) * 1e3)
                    slots.release()

            tasks: set[asyncio.Task[None]] = set()
            n = 0
            while time.monotonic() - started < seconds and (total is None or counts["sent"] < total):
                if rate:
                    due = started + (n * channels + number) * spans / rate
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                await slots.acquire()
                if total is not None and counts["sent"] >= total:
                    slots.release()
                    break
                n += 1
                body = requests[number].next()
                counts["sent"] += spans
                counts["requests"] += 1
                tasks.add(task := asyncio.create_task(one(body)))
                task.add_done_callback(tasks.discard)
                if repeat_every and n % repeat_every == 0:
                    await slots.acquire()
                    counts["repeated"] += spans
                    tasks.add(task := asyncio.create_task(one(body)))
                    task.add_done_callback(tasks.discard)
            await asyncio.gather(*tasks)

    await asyncio.gather(*(channel(number) for number in range(channels)))
    elapsed = time.monotonic() - started
    latencies.sort()
    at = (
        {f"p{level}_ms": round(latencies[min(len(latencies) - 1, int(len(latencies) * level / 100))], 2) for level in (50, 99)}
        if latencies
        else {}
    )
    return {**counts, "errors": errors, "seconds": round(elapsed, 3), "spans_per_second": round(counts["acknowledged"] / elapsed), **at}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", default="127.0.0.1:4317")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=0.0, help="spans a second; 0: as fast as answered")
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--spans", type=int, default=513, help="spans a request, a multiple of 3")
    parser.add_argument("--in-flight", type=int, default=4, help="calls at once on a channel")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--total", type=int, help="stop after so many spans")
    parser.add_argument("--repeat-every", type=int, default=0, help="send each n-th request twice")
    arguments = parser.parse_args()
    print(
        json.dumps(
            asyncio.run(
                send(
                    arguments.endpoint, seconds=arguments.seconds, rate=arguments.rate, channels=arguments.channels, spans=arguments.spans,
                    in_flight=arguments.in_flight, seed=arguments.seed, total=arguments.total, repeat_every=arguments.repeat_every,
                )
            )
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
