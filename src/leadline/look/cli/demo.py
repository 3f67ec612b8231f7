"""`leadline demo`"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import signal
import tempfile
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from time import monotonic, time_ns
from typing import TYPE_CHECKING, Annotated

import typer

from leadline.errors import ConfigError, LeadlineError, RetryableError
from leadline.look.cli.options import Overrides
from leadline.settings import Settings

if TYPE_CHECKING:
    from leadline.look.demo.story import Running

_PARTS = {"sklearn": "scikit-learn", "fastapi": "fastapi", "chdb": "chdb", "opentelemetry.sdk": "opentelemetry-sdk"}

DemoData = Annotated[
    Path | None, typer.Option("--data", "-d", help="where everything is kept; a temporary folder if not said", show_default=False)
]


def command(data: DemoData = None, overrides: Overrides = None) -> None:
    """Play a day of a model's life in about three minutes: traffic, an incident, a drift, recovery, and the answers."""
    play(None, data, overrides, keep_running=False)


def play(config: Path | None, data: Path | None, overrides: list[str] | None, *, keep_running: bool) -> None:
    """Plays the story, once or until Ctrl-C."""
    if config is not None:
        raise ConfigError(["--config: the demo brings settings of its own; lay yours over them with --set key.path=value"])
    if absent := [package for module, package in _PARTS.items() if not _present(module)]:
        raise LeadlineError(f"the demo needs {', '.join(absent)}: pip install 'leadline[demo]'")
    from leadline.look.demo.story import Story

    for chatty in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="leadline-demo-", ignore_cleanup_errors=True) as temporary:
        folder = (data or Path(temporary)).absolute()
        story = Story(start, create_baseline, folder, overrides)

        async def run() -> None:
            playing = asyncio.ensure_future(story.play(keep_running=keep_running))
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, playing.cancel)
            await playing

        try:
            asyncio.run(run())
        except asyncio.CancelledError:
            raise typer.Exit(130) from None


def start(settings: Settings, arguments: list[str], output: Path) -> AbstractAsyncContextManager[Running]:
    """What `leadline up` runs, with what its processes say in a file."""
    from leadline.look.up import Supervisor

    return Supervisor(settings, arguments, output=output)


async def create_baseline(settings: Settings, name: str, model: str, file: Path) -> None:
    """What `leadline baseline create` does, with a CSV file."""
    from leadline.evaluate.baseline import from_file
    from leadline.store.client import open_store

    store = open_store(settings)
    until = monotonic() + 30
    for block in from_file(file, name=name, model=model, categorical=["sex"]).blocks(time_ns()):
        while True:
            try:
                await store.insert(block)
                break
            except RetryableError:  # the collector is still making the tables
                if monotonic() > until:
                    raise
                await asyncio.sleep(0.2)


def _present(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
