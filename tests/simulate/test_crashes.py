"""Acknowledged = stored, once: after `kill -9` of the collector, of the engine, and with ClickHouse away.

`make check` kills the collector 4 times and the engine once. The full run of the promise:

    LEADLINE_CRASHES=30 LEADLINE_ENGINE_CRASHES=10 LEADLINE_OUTAGE_S=120 python -m pytest tests/simulate/test_crashes.py -s
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from pathlib import Path

import grpc
import pytest

from leadline.testing.processes import Processes, until

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from payloads import SPANS_PER_TRACE, Requests

SEED = int(os.environ.get("SIM_SEED", "1"))
CRASHES = int(os.environ.get("LEADLINE_CRASHES", "4"))
ENGINE_CRASHES = int(os.environ.get("LEADLINE_ENGINE_CRASHES", "1"))
OUTAGE_S = float(os.environ.get("LEADLINE_OUTAGE_S", "3"))
SPANS = 99
METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


OVERRIDES = (
    "journal.segment=1s",
    "sketch.window=3s",
    "sample.decision_wait=2s",
    "collector=c1",
    "sample.budget.traces_per_second=null",
    "sample.keep=[error, {probabilistic: 5%}]",
)


async def _send(machine: Processes, stop: asyncio.Event, tally: dict[str, int], seed: int) -> None:
    """Sends requests one after the other, each again and again until it is acknowledged, as an exporter does."""
    requests = Requests(SPANS, seed=seed)
    while not stop.is_set():
        body = requests.next()
        while True:
            async with grpc.aio.insecure_channel(
                f"127.0.0.1:{machine.ports['grpc']}", options=[("grpc.use_local_subchannel_pool", 1)]
            ) as channel:
                call = channel.unary_unary(METHOD)
                try:
                    while True:
                        await call(body, timeout=5)
                        tally["requests"] += 1
                        if stop.is_set():
                            return
                        body = requests.next()
                except grpc.aio.AioRpcError:
                    tally["retries"] += 1
                    await asyncio.sleep(0.05)


async def test_every_acknowledged_span_is_counted_once(tmp_path: Path) -> None:
    """Whatever moment a process dies at, afterwards every span and prediction is there exactly once."""
    machine, rng = Processes(tmp_path, OVERRIDES), random.Random(SEED)
    tally = {"requests": 0, "retries": 0}
    stop = asyncio.Event()
    try:
        machine.start("engine")
        machine.start("collect")
        await machine.ready()
        senders = [asyncio.create_task(_send(machine, stop, tally, SEED * 100 + n)) for n in range(3)]
        kills = ["collect"] * CRASHES + ["engine"] * ENGINE_CRASHES
        rng.shuffle(kills)
        kills.insert(len(kills) // 2, "outage")
        for victim in kills:
            await asyncio.sleep(rng.uniform(0.3, 2.5))  # the random moment; nothing is waited for
            if victim == "outage":
                machine.kill("engine")
                await asyncio.sleep(OUTAGE_S)
                machine.start("engine")
            else:
                machine.kill(victim)
                machine.start(victim)
            acknowledged = tally["requests"]
            await until(lambda n=acknowledged: tally["requests"] > n, f"requests acknowledged after {victim} died", 60)
        stop.set()
        await asyncio.gather(*senders)
        spans = tally["requests"] * SPANS
        predictions = spans // SPANS_PER_TRACE
        counts = await machine.settled(180)
        stored = machine.query("SELECT count() AS n, uniqExact(prediction_id) AS ids FROM predictions")[0]
        await until(
            lambda: machine.query("SELECT sum(observed) AS n FROM sketches WHERE series = ''")[0]["n"] >= predictions,
            "sketches out",
            60,
        )
        sketched = machine.query("SELECT sum(observed) AS n FROM sketches WHERE series = ''")[0]
        kept = machine.query("SELECT count() AS n, uniqExact(TraceId, SpanId) AS ids FROM otel_traces")[0]
        summary = {"crashes": CRASHES, "engine": ENGINE_CRASHES, **tally, "spans": spans, "counts": counts, "kept": kept}
        print(json.dumps(summary))
        assert counts["traces"]["received"] - counts["traces"]["duplicate"] == spans, summary
        assert counts["predictions"]["received"] - counts["predictions"]["duplicate"] == predictions
        assert [counts[name]["lost"] for name in counts] == [0, 0, 0, 0]
        assert (stored["n"], stored["ids"]) == (predictions, predictions)
        assert sketched["n"] == predictions
        assert kept["n"] == kept["ids"] == counts["traces"]["kept"]
        await until(lambda: machine.query("SELECT sum(waiting) AS n FROM accounting")[0]["n"] == 0, "accounting in SQL settled", 60)
        sql = machine.query("SELECT sum(received) AS received, sum(kept) AS kept FROM accounting WHERE signal = 'traces'")[0]
        assert (sql["received"], sql["kept"]) == (counts["traces"]["received"], counts["traces"]["kept"])
    finally:
        stop.set()
        machine.__exit__(None, None, None)


@pytest.mark.parametrize("number", [signal.SIGTERM])
async def test_a_stop_drains(tmp_path: Path, number: int) -> None:
    """SIGTERM: undecided traces are decided, everything is stored, the exit status is 0."""
    with Processes(tmp_path, OVERRIDES) as machine:
        machine.start("engine")
        machine.start("collect")
        await machine.ready()
        await until(lambda: bool(machine.query("SELECT count() AS n FROM accounting")), "the tables are there")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{machine.ports['grpc']}") as channel:
            await channel.unary_unary(METHOD)(Requests(SPANS, seed=SEED).next(), timeout=10)
        assert machine.kill("collect", number) == 0
        rows = machine.query(
            "SELECT signal, sum(received) AS received, sum(kept) + sum(sampled_out) AS done FROM accounting GROUP BY signal ORDER BY signal"
        )
        assert [(row["signal"], row["received"], row["done"]) for row in rows] == [("predictions", 33, 33), ("traces", 99, 99)]
