"""`leadline collect`"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import sys

from leadline.look.cli.options import ConfigFile, DataDir, Overrides, run_until_told, settings_of
from leadline.settings import Settings

_log = logging.getLogger("leadline")

_SWITCH_S = 0.0005
"""How long a thread that is at work keeps the event loop waiting. Python's own 5 ms come once for each time the loop has let go of the
interpreter, ten and more a request: beside a thread that decodes logs, clients waited for seconds (benchmarks/hostile.py)."""


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of malloc.h


def command(config: ConfigFile = None, data: DataDir = None, overrides: Overrides = None) -> None:
    """Receive OTLP, measure every prediction, sample whole traces, store to ClickHouse."""
    settings = settings_of(config, data, overrides)
    run_until_told(lambda stop: collect(settings, stop), name="collect")


async def collect(settings: Settings, stop: asyncio.Event) -> None:
    """Runs a collector and its console until `stop`."""
    from leadline.flow import Collector
    from leadline.look.console.app import HttpServer, console

    sys.setswitchinterval(_SWITCH_S)
    _keep_freed_memory()
    collector = Collector(settings)
    server = HttpServer(console(collector), settings.console.http, "console.http")
    await server.start()

    def ready() -> None:
        if collector.replayed:
            _log.info("journal: replayed %d frames", collector.replayed)
        where = settings.store.clickhouse.rpartition("@")[2]  # without a password
        _log.info(
            "ready: OTLP/gRPC on %s, OTLP/HTTP on %s, health and accounting on http://%s, store %s",
            settings.receive.grpc, settings.receive.http, settings.console.http, where,
        )  # fmt: skip

    try:
        await collector.run(stop, ready)
    finally:
        await server.stop()
    left = collector.state_left
    _log.info("stopped; %s", "everything is stored" if not left else f"{left} blocks are kept on disk for the next start")


def _keep_freed_memory() -> None:
    """Lets the allocator (glibc's) keep what is freed, up to 64 MiB, for the next request, whichever thread that is on: giving pages back and
    getting them again was a quarter of the time in the system (ADR 0008). Call before there are threads."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, 4 * 2**20)
        mallopt(_M_TRIM_THRESHOLD, 64 * 2**20)
