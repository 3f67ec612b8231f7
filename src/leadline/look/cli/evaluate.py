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
    """Runs the evaluator, and what tells people, until `stop`."""
    from leadline.act.alertmanager import Alertmanagers
    from leadline.clock import SystemClock
    from leadline.evaluate.drift import DETECTORS
    from leadline.evaluate.loop import run
    from leadline.store.client import open_store
    from leadline.store.migrate import apply_when_up
    from leadline.store.readings import StoreReader

    clock, store = SystemClock(), open_store(settings)
    await apply_when_up(store, clock, stop)
    reader = StoreReader(store, silent_s=settings.evaluate.collector_silent, budget=settings.sample.budget.traces_per_second)
    notifier = Alertmanagers(settings.alert, settings.evaluate.every, clock)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(notifier.run(stop))
        tasks.create_task(run(settings, store, clock, stop, reader=reader, notifier=notifier, detectors=DETECTORS))
