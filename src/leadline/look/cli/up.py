"""`leadline up`"""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated

import typer

from leadline.errors import LeadlineError
from leadline.look.cli.options import ConfigFile, DataDir, Overrides, run_until_told, settings_of
from leadline.settings import Settings

_log = logging.getLogger("leadline")


def command(
    config: ConfigFile = None,
    data: DataDir = None,
    overrides: Overrides = None,
    demo: Annotated[bool, typer.Option("--demo", help="with a model that is served, driven and goes wrong; keeps running")] = False,
) -> None:
    """Run everything on this machine: engine, collect, evaluate. Ctrl-C drains and stops."""
    if demo:
        from leadline.look.cli.demo import play

        play(config, data, overrides, keep_running=True)
        return
    settings = settings_of(config, data, overrides)
    arguments = ["--config", str(config)] if config else []
    arguments += ["--data", str(data)] if data else []
    arguments += [part for item in overrides or [] for part in ("--set", item)]
    run_until_told(lambda stop: up(settings, arguments, stop), name="up")


async def up(settings: Settings, arguments: list[str], stop: asyncio.Event) -> None:
    """Supervises until `stop`, or until a process cannot start."""
    from leadline.look.up import Supervisor

    async with Supervisor(settings, arguments) as supervisor:
        stopped, failed = asyncio.create_task(stop.wait()), asyncio.create_task(supervisor.failed.wait())
        ready = asyncio.create_task(supervisor.wait_ready())
        await asyncio.wait({ready, stopped, failed}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done() and not ready.exception():
            _log.info("up: send OTLP to %s (gRPC) or %s (HTTP)", settings.receive.grpc, settings.receive.http)
            if settings.store.clickhouse == "embedded":
                _log.info(
                    "up: ask with SQL: curl 'http://%s/' -d 'SELECT * FROM accounting_now FORMAT PrettyCompact'", settings.engine.http
                )
            _log.info("up: look with `leadline status`; Ctrl-C drains and stops")
            await asyncio.wait({stopped, failed}, return_when=asyncio.FIRST_COMPLETED)
        for task in (stopped, failed, ready):
            task.cancel()
        if supervisor.failed.is_set():
            raise LeadlineError(supervisor.fault)
