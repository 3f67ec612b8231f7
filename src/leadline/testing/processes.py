"""Leadline's processes under a test's hand: start, kill, ask. For tests that need the real thing, yours too."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx


def free_port() -> int:
    """A port of the loopback interface that nothing listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Processes:
    """`leadline engine`, `collect` and `evaluate` as their own processes, on free ports, with their logs beside the data.

    Parameters
    ----------
    data : Path
    overrides : sequence of str
        `key.path=value`, as for `--set`.
    """

    data: Path
    overrides: Sequence[str] = ()
    ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in ("grpc", "http", "console", "engine")})
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for name in list(self.processes):
            self.kill(name)

    @property
    def options(self) -> list[str]:
        """The command line options that every process is started with."""
        names = {"receive.grpc": "grpc", "receive.http": "http", "console.http": "console", "engine.http": "engine"}
        sets = [f"{key}=127.0.0.1:{self.ports[name]}" for key, name in names.items()]
        return ["--data", str(self.data), *(part for item in (*sets, *self.overrides) for part in ("--set", item))]

    def start(self, name: str) -> None:
        with (self.data / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "leadline.look.cli", name, *self.options], stdout=log, stderr=log
            )

    def kill(self, name: str, number: int = signal.SIGKILL, timeout_s: float = 60) -> int:
        """Sends the signal, waits, and returns the exit status."""
        process = self.processes.pop(name)
        process.send_signal(number)
        return process.wait(timeout=timeout_s)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs another command, such as `status`, with the same options; returns its status and what it printed."""
        command = [sys.executable, "-m", "leadline.look.cli", *arguments, *self.options]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def log(self, name: str) -> str:
        return (self.data / f"{name}.log").read_text(errors="replace")

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Rows of a read-only query; 64-bit integers as int."""
        url = f"http://127.0.0.1:{self.ports['engine']}/?output_format_json_quote_64bit_integers=0"
        reply = httpx.post(url, content=f"{sql} FORMAT JSON", timeout=60)
        if reply.status_code != 200:
            raise RuntimeError(f"HTTP {reply.status_code}: {reply.text[:500]}")
        return reply.json()["data"]  # type: ignore[no-any-return]

    def accounting(self) -> dict[str, dict[str, int]]:
        """signal -> terms, as `/api/v1/accounting` has them."""
        reply = httpx.get(f"http://127.0.0.1:{self.ports['console']}/api/v1/accounting", timeout=60)
        reply.raise_for_status()
        return reply.json()["signals"]  # type: ignore[no-any-return]

    async def ready(self) -> None:
        """Returns once the collector takes requests."""

        def answers() -> bool:
            return httpx.get(f"http://127.0.0.1:{self.ports['console']}/readyz", timeout=5).status_code == 200

        await until(answers, "the collector is ready")

    async def settled(self, timeout_s: float = 120) -> dict[str, dict[str, int]]:
        """Returns the accounting once nothing waits."""
        await until(lambda: all(terms["waiting"] == 0 for terms in self.accounting().values()), "everything is stored", timeout_s)
        return self.accounting()


async def until(condition: Callable[[], Awaitable[bool] | bool], what: str, timeout_s: float = 120) -> None:
    """Polls a condition; raises `AssertionError` with `what` when the time is up. No answer counts as not yet."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            met = condition()
            if met if isinstance(met, bool) else await met:
                return
        except (httpx.HTTPError, RuntimeError):
            pass
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout_s:.0f} s still not: {what}")
        await asyncio.sleep(0.05)
