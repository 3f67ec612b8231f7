"""Counts are exact whatever the sampling: what was sent is what `sketches` and `predictions` hold, while 5 % of traces are kept.

`make check` sends 60,000 spans each way. The full run:

    LEADLINE_SPANS=2000000 python -m pytest tests/simulate/test_exact_counts.py -s
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import grpc
import pytest

from leadline.testing.processes import Processes, until

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from sdk_payloads import requests

SPANS = int(os.environ.get("LEADLINE_SPANS", "60000"))
CONNECTIONS = 4
TRACES = 171
REPEAT = 50 if SPANS >= 1_000_000 else 10
METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
OVERRIDES = (
    "journal.segment=2s",
    "sketch.window=4s",
    "sample.decision_wait=2s",
    "collector=c1",
    "sample.budget.traces_per_second=null",
    "sample.keep=[{probabilistic: 5%}]",
)


@pytest.mark.parametrize("mode", ["plain", "every nth twice", "sampled before us"])
async def test_counts_are_exact_while_5_percent_is_kept(tmp_path: Path, mode: str) -> None:
    """Over 4 connections, with the SDK's own payloads."""
    each = max(1, SPANS // CONNECTIONS // (TRACES * 3))
    threshold = "c" if mode == "sampled before us" else ""  # 1 in 4
    repeated = 0
    with Processes(tmp_path, OVERRIDES) as machine:
        machine.start("engine")
        machine.start("collect")
        await machine.ready()

        async def connection(number: int) -> None:
            nonlocal repeated
            async with grpc.aio.insecure_channel(
                f"127.0.0.1:{machine.ports['grpc']}", options=[("grpc.use_local_subchannel_pool", 1)]
            ) as channel:
                call = channel.unary_unary(METHOD)
                for n, (body, _) in enumerate(requests(each, TRACES, seed=number + 1, threshold=threshold), 1):
                    await call(body, timeout=60)
                    if mode == "every nth twice" and n % REPEAT == 0:
                        await call(body, timeout=60)
                        repeated += 1

        await asyncio.gather(*(connection(number) for number in range(CONNECTIONS)))
        traces = each * CONNECTIONS * TRACES
        counts = await machine.settled(600)
        print(mode, counts["traces"], counts["predictions"])
        assert counts["traces"]["received"] == (traces + repeated * TRACES) * 3
        assert counts["traces"]["duplicate"] == repeated * TRACES * 3
        assert counts["predictions"]["received"] - counts["predictions"]["duplicate"] == counts["predictions"]["kept"] == traces
        assert [terms["lost"] for terms in counts.values()] == [0, 0, 0, 0]
        await until(lambda: machine.query("SELECT sum(observed) AS n FROM sketches WHERE series = ''")[0]["n"] >= traces, "sketches out")
        sketched = machine.query("SELECT sum(observed) AS n, sum(estimated) AS e FROM sketches WHERE series = ''")[0]
        features = machine.query(
            "SELECT DISTINCT n FROM (SELECT series, sum(observed) AS n FROM sketches WHERE series LIKE 'features/%' GROUP BY series)"
        )
        stored = machine.query("SELECT count() AS n, uniqExact(prediction_id) AS ids FROM predictions")[0]
        kept = machine.query("SELECT uniqExact(TraceId) AS n, count() AS spans, sum(Weight) / 3 AS estimate FROM otel_traces")[0]
        assert sketched["n"] == stored["n"] == stored["ids"] == traces
        assert [row["n"] for row in features] == [traces]
        assert kept["spans"] == counts["traces"]["kept"]
        if threshold:
            # 1 in 4 reached us; of those R is uniform above 3/4, so keeping R ≥ 0.95 keeps a fifth of them, weight 20.
            assert sketched["e"] == pytest.approx(4 * traces)
            share, weight = 0.05 / 0.25, 20.0
        else:
            assert sketched["e"] == pytest.approx(traces)
            share, weight = 0.05, 20.0
        sd = (traces * share * (1 - share)) ** 0.5
        assert abs(kept["n"] - traces * share) < 4 * sd
        assert kept["estimate"] == pytest.approx(kept["n"] * weight)
