"""`leadline engine`: chdb behind ClickHouse's HTTP interface. The shell: socket, signals, start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn

from leadline.addresses import listening_socket, split
from leadline.settings import Settings
from leadline.store.engine.database import Database, writer_token
from leadline.store.engine.front import BrokenOff, Front

_log = logging.getLogger("leadline.engine")

_MAX_CONNECTIONS = 512
# Of the shutdown budget, what is kept for closing ClickHouse after the last request.
_CLOSING_S = 3.0


class _Server(uvicorn.Server):
    """uvicorn's server, with our signals and a word when it is ready."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None] | None) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._ready is not None:
            self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # uvicorn would raise the signal again, before the database is closed


class _Quiet(logging.Filter):
    """An answer that is broken off on purpose is no fault of the application."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], BrokenOff))


async def serve(settings: Settings, stop: asyncio.Event | None = None, ready: Callable[[], None] | None = None) -> None:
    """Runs the engine; then ends what is in flight within `settings.shutdown`, and closes the database.

    Parameters
    ----------
    stop : asyncio.Event
        Ends it when set. Without one, SIGTERM and SIGINT do.
    ready : callable
        Called once requests are answered.

    Raises
    ------
    ConfigError
        If the directory is in use, the address is taken, or chdb is missing.
    """
    token = writer_token(settings.token_file)
    listener = listening_socket("engine.http", settings.engine.http, backlog=_MAX_CONNECTIONS)
    database = Database(
        settings.engine_dir.absolute(),
        readers=settings.engine.readers,
        max_memory=settings.engine.max_memory,
        max_query_memory=settings.engine.max_query_memory,
        max_execution_s=settings.engine.max_execution,
    )
    try:
        await asyncio.to_thread(database.open)
        host = split(settings.engine.http)[0]
        front = Front(database, token, listen=host, allowed_hosts=settings.engine.allowed_hosts)
        config = uvicorn.Config(
            front,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=int(max(1.0, settings.shutdown - _CLOSING_S)),
        )
        logging.getLogger("uvicorn.error").addFilter(_Quiet())
        server = _Server(config, ready)
        with _told(stop) as told:
            serving = asyncio.ensure_future(server.serve(sockets=[listener]))
            stopping = asyncio.ensure_future(told.wait())
            try:
                await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                server.should_exit = True
                stopping.cancel()
                await asyncio.shield(serving)
        for task in tuple(front.running):
            task.cancel()
        if front.running:
            await asyncio.wait(tuple(front.running), timeout=_CLOSING_S)
    finally:
        listener.close()
        await asyncio.to_thread(database.close)
    _log.info("stopped")


@contextlib.contextmanager
def _told(stop: asyncio.Event | None) -> Iterator[asyncio.Event]:
    """The event that ends the engine: the caller's, or one that SIGTERM and SIGINT set."""
    if stop is not None:
        yield stop
        return
    told, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    try:
        yield told
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
