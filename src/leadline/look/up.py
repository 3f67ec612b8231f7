"""Runs the processes of one machine: engine, collect, evaluate. What dies is started again; SIGTERM drains within the budget."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from leadline.errors import LeadlineError
from leadline.settings import Settings

_log = logging.getLogger("leadline.up")
_CONFIG_FAULT = 2
"""Exit status of a command whose settings are at fault: starting it again would not help."""
_FAULT_STOP_S = 5.0
"""What the others get to stop where one cannot start: they have hardly begun, and may wait in vain for it."""
_SUPERVISOR = "LEADLINE_SUPERVISOR"
"""The variable that tells a process the pid of its supervisor."""
_PAUSES_S = (0.5, 1.0, 2.0, 5.0, 10.0)
_STEADY_S = 30.0
"""A process that ran this long starts anew with the shortest pause."""


@dataclass
class Child:
    """One supervised process."""

    name: str
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    task: asyncio.Task[None] | None = None
    arguments: Sequence[str] = field(default_factory=list)


class Supervisor:
    """The processes of `leadline up`, as an async context manager.

    Parameters
    ----------
    settings : Settings
    arguments : sequence of str
        The `--config`, `--data` and `--set` options to start every process with.
    output : Path or None
        A file for what the processes say; the terminal if not given.
    """

    def __init__(self, settings: Settings, arguments: Sequence[str], output: Path | None = None) -> None:
        self._settings, self._output = settings, output
        names = ["collect", "evaluate"]
        if settings.store.clickhouse == "embedded":
            names.insert(0, "engine")
        elif settings.store.clickhouse == "none":
            names = ["collect"]
        self.children = [Child(name, arguments=arguments) for name in names]
        self._stopping = False
        self.failed = asyncio.Event()
        """Set when a process cannot start, whatever is tried."""
        self.fault = ""
        """Which one, in words; "" while all can."""

    async def __aenter__(self) -> Self:
        for child in self.children:
            child.task = asyncio.create_task(self._keep_running(child), name=f"supervise {child.name}")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stops the processes, the engine last: the others need it to drain."""
        self._stopping = True
        budget = min(self._settings.shutdown, _FAULT_STOP_S) if self.failed.is_set() else self._settings.shutdown
        await asyncio.gather(*(self._stop(child, budget) for child in self.children if child.name != "engine"))
        await asyncio.gather(*(self._stop(child, budget / 2) for child in self.children if child.name == "engine"))

    async def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Returns once every process answers; raises `LeadlineError` if one cannot start or the time is up."""
        urls = [f"http://{self._settings.console.http}/readyz"]
        if self._settings.store.clickhouse == "embedded":
            urls.insert(0, f"http://{self._settings.engine.http}/ping")
        until = time.monotonic() + timeout_s
        async with httpx.AsyncClient(timeout=2.0) as client:
            for url in urls:
                while not await _answers(client, url):
                    if self.failed.is_set():
                        raise LeadlineError(self.fault)
                    if time.monotonic() > until:
                        raise LeadlineError(f"{url} did not answer within {timeout_s:.0f} s; see what the processes say")
                    await asyncio.sleep(0.05)

    async def _keep_running(self, child: Child) -> None:
        quick = 0
        while not self._stopping:
            started = time.monotonic()
            try:
                child.process = await self._spawn(child)
            except OSError as error:
                self.fault = f"{child.name} could not start: {sys.executable}: {error.strerror}"
                self.failed.set()
                return
            status = await child.process.wait()
            if self._stopping:
                return
            if status == _CONFIG_FAULT:
                where = "above" if self._output is None else f"in {self._output}"
                self.fault = f"{child.name} could not start; its message is {where}"
                self.failed.set()
                return
            quick = 0 if time.monotonic() - started > _STEADY_S else min(quick + 1, len(_PAUSES_S))
            pause = _PAUSES_S[max(0, quick - 1)]
            child.restarts += 1
            how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
            _log.error("%s ended with %s; started again in %.1f s (restart %d)", child.name, how, pause, child.restarts)
            await asyncio.sleep(pause)

    async def _spawn(self, child: Child) -> asyncio.subprocess.Process:
        with ExitStack() as stack:
            output = stack.enter_context(self._output.open("ab")) if self._output else None
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "leadline.look.cli",
                child.name,
                *child.arguments,
                env=supervised(),
                stdout=output,
                stderr=output,
            )

    async def _stop(self, child: Child, budget_s: float) -> None:
        if child.process is not None and child.process.returncode is None:
            child.process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(child.process.wait(), budget_s)
            except TimeoutError:
                _log.error("%s did not stop within %.0f s and is ended; what it had acknowledged is on disk", child.name, budget_s)
                child.process.kill()
                await child.process.wait()
        if child.task is not None:
            child.task.cancel()
            await asyncio.gather(child.task, return_exceptions=True)


async def _answers(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).status_code == 200
    except httpx.HTTPError:
        return False


def supervised() -> dict[str, str]:
    """The environment for a process that is to call `end_with_parent`."""
    return {**os.environ, _SUPERVISOR: str(os.getpid())}


def end_with_parent() -> None:
    """In a supervised process: SIGTERM when the supervisor is gone, so that nothing is left behind (Linux)."""
    supervisor = os.environ.get(_SUPERVISOR)
    if supervisor and sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != int(supervisor):  # it was gone before the kernel was asked
            os.kill(os.getpid(), signal.SIGTERM)
