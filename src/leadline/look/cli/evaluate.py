"""`leadline evaluate`"""

from __future__ import annotations

import asyncio

from leadline.look.cli.options import ConfigFile, DataDir, Overrides, run_until_told, settings_of
from leadline.settings import Settings


def command(config: ConfigFile = None, data: DataDir = None, overrides: Overrides = None) -> None:
    """Evaluate rules against ClickHouse and tell Alertmanager."""
    settings = settings_of(config, data, overrides)
    run_until_told(lambda stop: evaluate(settings, stop), name="evaluate")


async def evaluate(settings: Settings, stop: asyncio.Event) -> None:
    """Runs the evaluator until `stop`."""
    from leadline.clock import SystemClock
    from leadline.evaluate.loop import run
    from leadline.store.client import open_store

    await run(settings, open_store(settings), SystemClock(), stop)
