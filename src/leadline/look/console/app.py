"""What a collector says of itself over HTTP: health, readiness, metrics, accounting."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from leadline import __version__
from leadline.addresses import listening_socket, split
from leadline.flow import Collector
from leadline.look.console.metrics import exposition

PAGES = {
    "/healthz": "200 while the process answers",
    "/readyz": "200 while it takes requests",
    "/metrics": "its own metrics, as Prometheus text",
    "/api/v1/accounting": "where every item went, as JSON",
}


def console(collector: Collector) -> Starlette:
    """The application on `console.http`."""

    async def index(request: Request) -> Response:
        settings = collector.settings
        lines = [f"Leadline {__version__}, collector {settings.collector}", "", *(f"{path:<20} {what}" for path, what in PAGES.items())]
        alert = request.query_params.get("alert", "")
        if re.fullmatch(r"[0-9a-f]{16}", alert):
            sql = f"SELECT * FROM evaluations WHERE fingerprint = '{alert}' ORDER BY evaluated_at DESC LIMIT 1 FORMAT Vertical"
            where = settings.engine.http if settings.store.clickhouse == "embedded" else "CLICKHOUSE:8123"
            lines += ["", "The newest evaluation of the alert that led you here, with its text, counts and query:", ""]
            lines += [f'  curl http://{where}/ -d "{sql}"', "", "Every alert: leadline status. What to do: docs/operate/runbooks.md"]
        return PlainTextResponse("\n".join(lines) + "\n")

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        if collector.ready:
            return PlainTextResponse("ready\n")
        return PlainTextResponse("not ready: the journal is being replayed, or the collector is stopping\n", status_code=503)

    async def metrics(_: Request) -> Response:
        return Response(await exposition(collector), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def accounting(_: Request) -> Response:
        totals = await collector.journal.totals()
        return JSONResponse(
            {
                "collector": collector.settings.collector,
                "version": __version__,
                "signals": totals.by_signal(),
                "models": totals.by_model(),
                "requests_undecodable": collector.journal.undecodable_requests,
                "requests_refused": collector.journal.refused,
            }
        )

    routes: list[tuple[str, Callable[[Request], Awaitable[Response]]]] = [
        ("/", index),
        ("/healthz", healthz),
        ("/readyz", readyz),
        ("/metrics", metrics),
        ("/api/v1/accounting", accounting),
    ]
    return Starlette(routes=[Route(path, endpoint) for path, endpoint in routes])


class HttpServer:
    """Uvicorn without its own signal handling, for an application that shares the loop with others."""

    def __init__(self, app: Starlette, address: str, setting: str) -> None:
        host, port = split(address)
        self._address, self._setting = address, setting
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                log_level="warning",
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=2,
            )
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        listener = listening_socket(self._setting, self._address, backlog=128)
        self._task = asyncio.create_task(self._server._serve([listener]), name=f"serve {self._setting}")

    async def stop(self) -> None:
        self._server.should_exit = True
        if self._task is not None:
            await self._task
