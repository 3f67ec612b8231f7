"""`leadline engine`: chdb behind ClickHouse's HTTP interface. The shell: socket, signals, start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn

from leadline.errors import ConfigError
from leadline.settings import Settings
from leadline.store.engine.database import Database, writer_token
from leadline.store.engine.front import BrokenOff, Front

log = logging.getLogger("leadline.engine")

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


def _listener(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        info = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(*info[:3])  # with its protocol number, or asyncio leaves Nagle on: 40 ms an answer
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(info[4])
        listener.listen(_MAX_CONNECTIONS)
    except OSError as error:
        raise ConfigError([f"engine.http: cannot listen on {address} ({error.strerror}). Stop what listens there, or set engine.http"]) from error
    listener.setblocking(False)
    return listener


async def serve(settings: Settings, ready: Callable[[], None] | None = None) -> None:
    """Runs the engine until SIGTERM, SIGINT or cancellation; then ends what is in flight within `settings.shutdown` and closes the database.

    Parameters
    ----------
    ready : callable
        Called once requests are answered.

    Raises
    ------
    ConfigError
        If the directory is in use, the address is taken, or chdb is missing.
    """
    token = writer_token(settings.token_file)
    listener = _listener(settings.engine.http)
    database = Database(
        settings.engine_dir.absolute(),
        readers=settings.engine.readers,
        max_memory=settings.engine.max_memory,
        max_query_memory=settings.engine.max_query_memory,
        max_execution_s=settings.engine.max_execution,
    )
    try:
        await asyncio.to_thread(database.open)
        front = Front(
            database, token, listen=settings.engine.http.rpartition(":")[0].strip("[]"), allowed_hosts=settings.engine.allowed_hosts
        )
        budget = max(1.0, settings.shutdown - _CLOSING_S)
        config = uvicorn.Config(
            front,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=int(budget),
        )
        logging.getLogger("uvicorn.error").addFilter(_Quiet())
        server = _Server(config, ready)
        with _signals(server):
            serving = asyncio.ensure_future(server.serve(sockets=[listener]))
            try:
                await asyncio.shield(serving)
            except asyncio.CancelledError:
                server.should_exit = True
                await serving
                raise
        for task in tuple(front.running):
            task.cancel()
        if front.running:
            await asyncio.wait(tuple(front.running), timeout=_CLOSING_S)
    finally:
        listener.close()
        await asyncio.to_thread(database.close)
        log.info("engine stopped")


@contextlib.contextmanager
def _signals(server: _Server) -> Iterator[None]:
    """SIGTERM and SIGINT ask the server to stop; a second one does not wait for requests in flight."""

    def stop(_signal: int, _frame: FrameType | None = None) -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    loop, taken = asyncio.get_running_loop(), []
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(ValueError, NotImplementedError, RuntimeError):  # not the main thread: whoever is there stops us
            loop.add_signal_handler(number, stop, number)
            taken.append(number)
    try:
        yield
    finally:
        for number in taken:
            loop.remove_signal_handler(number)


def run(settings: Settings, ready: Callable[[], None] | None = None) -> None:
    """`serve` in an event loop of its own."""
    with asyncio.Runner() as runner:
        runner.run(_main(settings, ready))


async def _main(settings: Settings, ready: Callable[[], None] | None) -> Any:
    await serve(settings, ready)
