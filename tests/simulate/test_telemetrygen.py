"""OpenTelemetry's own load generator against `leadline up`: the accounting adds up, term by term, wherever it is asked.

`make check` sends 500 traces of 4 spans each way. The full run: LEADLINE_TRACES=10000
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import clickhouse_connect
import httpx
import pytest

from leadline.model.accounting import TERMS
from leadline.testing.processes import Processes, until

TRACES = int(os.environ.get("LEADLINE_TRACES", "500"))
WORKERS = 4
TABLE = "SELECT signal, " + ", ".join(f"sum({term}) AS {term}" for term in TERMS) + " FROM accounting GROUP BY signal ORDER BY signal"


def _generate(endpoint: str, *options: str) -> None:
    """Sends TRACES × 4 spans; batches go out as they are made, so that the generator itself drops none."""
    command = ["telemetrygen", "traces", "--otlp-endpoint", endpoint, "--otlp-insecure", *options]
    command += ["--traces", str(TRACES // WORKERS), "--child-spans", "3", "--workers", str(WORKERS), "--rate", "0", "--batch=false"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.needs("telemetrygen")
async def test_the_accounting_adds_up_everywhere(tmp_path: Path) -> None:
    """Over gRPC and again over HTTP; in the API, in `status`, and in SQL through curl and clickhouse-connect."""
    overrides = ("collector=c1", "sample.decision_wait=1s", "journal.segment=1s")
    with Processes(tmp_path, overrides) as machine:
        machine.start("up")
        await machine.ready()
        _generate(f"127.0.0.1:{machine.ports['grpc']}")
        _generate(f"127.0.0.1:{machine.ports['http']}", "--otlp-http")
        spans = 2 * (TRACES // WORKERS) * WORKERS * 4
        await until(lambda: machine.accounting()["traces"]["received"] >= spans, "all spans received")
        counts = await machine.settled()
        assert counts["traces"]["received"] == spans
        assert [terms["lost"] for terms in counts.values()] == [0, 0, 0, 0]
        expected = {"traces": {term: counts["traces"][term] for term in TERMS}}

        curl = f"curl -sS http://127.0.0.1:{machine.ports['engine']}/ --data-binary @-"

        def by_curl() -> dict[str, dict[str, int]]:
            done = subprocess.run(curl.split(), input=f"{TABLE} FORMAT TSV", capture_output=True, text=True, check=True, timeout=60)
            rows = [line.split("\t") for line in done.stdout.splitlines()]
            return {row[0]: dict(zip(TERMS, map(int, row[1:]), strict=True)) for row in rows}

        await until(lambda: by_curl() == expected, f"SQL through curl says {expected}")

        def by_client() -> dict[str, dict[str, int]]:
            with clickhouse_connect.get_client(host="127.0.0.1", port=machine.ports["engine"]) as client:
                return {row[0]: dict(zip(TERMS, row[1:], strict=True)) for row in client.query(TABLE).result_rows}

        assert await asyncio.to_thread(by_client) == expected
        status = [sys.executable, "-m", "leadline.look.cli", "status", *machine.options]
        done = subprocess.run(status, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        rows = [[cell.strip() for cell in line.split("│")[1:3]] for line in done.stdout.splitlines() if line.startswith("│")]
        assert rows[: len(TERMS) + 1] == [[term.replace("_", " "), f"{counts['traces'][term]:,}"] for term in (*TERMS, "lost")]
        metrics = httpx.get(f"http://127.0.0.1:{machine.ports['console']}/metrics", timeout=30).text
        assert f'leadline_items_total{{signal="traces",model="",term="received"}} {spans}' in metrics
        assert machine.kill("up", 15) == 0
