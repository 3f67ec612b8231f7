"""Leadline beside the OpenTelemetry Collector: CPU a span and peak memory, alternating runs, the same requests.

Four servers take turns: the Collector v0.161 (tail_sampling, nop exporter), Leadline without a journal, Leadline whole (journal
with fdatasync; blocks encoded and thrown away), and an empty grpcio handler (the floor). 513-span requests of three-span traces with
random ids, 20 features as attributes of each prediction, 4 channels, decision wait 5 s, policies error, slower than 50 ms, 10 %.

    make bench-peers                      5 runs of 30 s each, about 25 minutes
    make bench-peers ARGS="--runs 1 --seconds 10"
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "leadline-bench"
POLICIES = "sample.keep=[error, {slow: {threshold: 50ms}}, {probabilistic: 10%}]"


def build_collector() -> Path:
    """Builds the Collector from Go modules, once."""
    program = CACHE / "otelcol-v0.161.0" / "build" / "otelcol-peer"
    if not program.exists():
        if shutil.which("go") is None:
            sys.exit("missing: go, to build the Collector (https://go.dev/dl, or Debian: apt-get install golang)")
        print("building the OpenTelemetry Collector v0.161.0 with tail_sampling (a few minutes, once)", flush=True)
        program.parent.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / "otelcol" / "builder.yaml", program.parent.parent)
        environment = {**os.environ, "GOFLAGS": "-mod=mod"}
        subprocess.run(
            ["go", "run", "go.opentelemetry.io/collector/cmd/builder@v0.161.0", "--config=builder.yaml"],
            cwd=program.parent.parent,
            check=True,
            env=environment,
        )
    return program


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command_of(name: str, port: int, data: Path, collector: Path) -> tuple[list[str], dict[str, str]]:
    if name == "otelcol":
        return [str(collector), f"--config={HERE / 'otelcol' / 'config.yaml'}"], {"PORT": str(port)}
    if name == "floor":
        return [sys.executable, str(HERE / "floor.py"), str(port)], {}
    sets = [
        f"receive.grpc=127.0.0.1:{port}", f"receive.http=127.0.0.1:{free_port()}", f"console.http=127.0.0.1:{free_port()}",
        "store.clickhouse=none", "sample.decision_wait=5s", "sample.budget.traces_per_second=null", POLICIES, "sample.max_bytes=8GiB", "sample.max_traces=5000000",
    ]  # fmt: skip
    if name == "leadline-bare":
        sets.append("journal.enabled=false")
    return [
        sys.executable,
        "-m",
        "leadline.look.cli",
        "collect",
        "--data",
        str(data),
        *(part for item in sets for part in ("--set", item)),
    ], {}


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_bytes(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def wait_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if process.poll() is not None:
            sys.exit(f"the server ended with status {process.returncode} before it listened")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    sys.exit("the server did not listen within 30 s")


def one_run(name: str, rate: float, seconds: float, warm_s: float, collector: Path, seed: int) -> dict[str, float]:
    """Starts the server, warms it past its decision wait, loads it, and reads what the kernel counted for it."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="leadline-bench-") as data:
        command, extra = command_of(name, port, Path(data), collector)
        process = subprocess.Popen(command, env={**os.environ, **extra}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_listening(port, process)
            _load(port, rate, warm_s, seed)
            before = cpu_seconds(process.pid)
            result = _load(port, rate, seconds, seed + 100)
            used = cpu_seconds(process.pid) - before
            return {
                "cpu_us": used / max(1, result["acknowledged"]) * 1e6,
                "mb": peak_bytes(process.pid) / 1e6,
                "rate": result["acknowledged"] / result["seconds"],
                "failed": result["failed"],
            }
        finally:
            process.kill()
            process.wait()


def _load(port: int, rate: float, seconds: float, seed: int) -> dict[str, float]:
    command = [
        sys.executable,
        str(HERE.parent / "load.py"),
        "--endpoint",
        f"127.0.0.1:{port}",
        "--seconds",
        str(seconds),
        "--rate",
        str(rate),
        "--seed",
        str(seed),
    ]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--warm", type=float, default=8.0, help="seconds of load before measuring; past the decision wait of 5 s")
    parser.add_argument("--rate", type=float, default=118_000, help="spans a second offered at equal load")
    parser.add_argument("--only", default="otelcol,leadline-bare,leadline,floor")
    parser.add_argument("--loads", default="equal,saturation")
    arguments = parser.parse_args()
    collector = build_collector() if "otelcol" in arguments.only else Path()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, commit {commit or 'unknown'}"
    )
    for load in arguments.loads.split(","):
        rate = arguments.rate if load == "equal" else 0.0
        results: dict[str, list[dict[str, float]]] = {name: [] for name in arguments.only.split(",")}
        for run in range(arguments.runs):
            for name, runs in results.items():
                runs.append(one_run(name, rate, arguments.seconds, arguments.warm, collector, seed=1000 * run))
                print(
                    f"  run {run + 1}/{arguments.runs} {load} {name}: {runs[-1]['cpu_us']:.2f} µs a span, {runs[-1]['mb']:.0f} MB",
                    flush=True,
                )
        _report(load, rate, results)


def _report(load: str, rate: float, results: dict[str, list[dict[str, float]]]) -> None:
    print(f"\n{'each offered ' + format(rate, ',.0f') + ' spans/s' if rate else 'each at its own saturation'}: min / median / max")
    print(
        f"{'server':<14} {'CPU µs a span':>22} {'peak memory MB':>22} {'spans/s':>30} {'CPU of otelcol':>16} {'memory of otelcol':>18} {'failed':>8}"
    )
    base = results.get("otelcol")
    for name, runs in results.items():
        cells = [_spread([run[key] for run in runs], form) for key, form in (("cpu_us", ".2f"), ("mb", ".0f"), ("rate", ",.0f"))]
        ratios = ["", ""]
        if base:
            ratios = [
                f"1/{statistics.median(theirs[key] / mine[key] for theirs, mine in zip(base, runs, strict=True)):.2f}"
                for key in ("cpu_us", "mb")
            ]
        print(
            f"{name:<14} {cells[0]:>22} {cells[1]:>22} {cells[2]:>30} {ratios[0]:>16} {ratios[1]:>18} {sum(run['failed'] for run in runs):>8.0f}"
        )


def _spread(values: list[float], form: str) -> str:
    return " / ".join(format(value, form) for value in (min(values), statistics.median(values), max(values)))


if __name__ == "__main__":
    main()
