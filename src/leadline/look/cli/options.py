"""The options every command takes, and how a long-running one is run."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from leadline.errors import LeadlineError
from leadline.settings import Settings, load

ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="YAML settings; every key has a default", show_default=False)]
DataDir = Annotated[Path | None, typer.Option("--data", "-d", help="where everything is kept; ./data if not said", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY.PATH=VALUE", help="any setting, such as --set sample.decision_wait=2s; may be repeated"),
]


def settings_of(config: Path | None, data: Path | None, overrides: list[str] | None) -> Settings:
    """Settings from the three places, with the collector's name filled in."""
    extra = [*(overrides or [])]
    if data is not None:
        extra.append(f"data={data}")
    settings = load(config, extra)
    if not settings.collector:
        settings = settings.model_copy(update={"collector": socket.gethostname() or "collector"})
    return settings


def run_until_told(main: Callable[[asyncio.Event], Coroutine[Any, Any, None]], *, name: str) -> None:
    """Runs `main(stop)`; SIGTERM and SIGINT set `stop`, a second one ends at once."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format=f"%(asctime)s {name} %(levelname).1s %(message)s", datefmt="%H:%M:%S")
    for chatty in ("httpx", "httpcore", "asyncio", "uvicorn.error", "clickhouse_connect"):
        logging.getLogger(chatty).setLevel(logging.WARNING)

    from leadline.look.up import end_with_parent

    end_with_parent()

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def told() -> None:
            if stop.is_set():
                raise SystemExit(130)
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, told)
        try:
            await main(stop)
        except ExceptionGroup as group:  # of tasks that ran together: what a user can mend is said without the group
            if group.split(LeadlineError)[1] is None:
                raise _first(group) from None
            raise

    try:
        import uvloop
    except ImportError:
        asyncio.run(run())
    else:
        uvloop.run(run())


def _first(group: ExceptionGroup[Exception]) -> Exception:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error
