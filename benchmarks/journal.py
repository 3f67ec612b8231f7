"""What the journal adds to an acknowledgement: latency of a call with and without it, at the same moderate load, in turns.

python benchmarks/journal.py            4 connections, 513-span requests, 20,000 spans/s, 3 rounds of 10 s each
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from leadline.testing.processes import Processes
from load import send


async def one(enabled: bool, seconds: float, rate: float, seed: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="leadline-bench-") as data:
        overrides = ("store.clickhouse=none", "sample.decision_wait=2s", f"journal.enabled={str(enabled).lower()}")
        with Processes(Path(data), overrides) as machine:
            machine.start("collect")
            await machine.ready()
            endpoint = f"127.0.0.1:{machine.ports['grpc']}"
            await send(endpoint, seconds=2, rate=rate, channels=4, spans=513, in_flight=8, seed=seed)
            return await send(endpoint, seconds=seconds, rate=rate, channels=4, spans=513, in_flight=8, seed=seed + 10)  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rate", type=float, default=20_000)
    arguments = parser.parse_args()
    differences = []
    for number in range(arguments.rounds):
        without, with_journal = (asyncio.run(one(enabled, arguments.seconds, arguments.rate, 100 * number)) for enabled in (False, True))
        differences.append(with_journal["p99_ms"] - without["p99_ms"])
        print(
            f"round {number + 1}: p50 {without['p50_ms']} ms without, {with_journal['p50_ms']} ms with; "
            f"p99 {without['p99_ms']} ms without, {with_journal['p99_ms']} ms with: {differences[-1]:+.2f} ms"
        )
    print(
        f"the journal adds {statistics.median(differences):+.2f} ms to the p99 of an acknowledgement (median of {arguments.rounds}; bar: 5 ms)"
    )


if __name__ == "__main__":
    main()
