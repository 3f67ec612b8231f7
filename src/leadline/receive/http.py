"""OTLP over HTTP: /v1/traces, /v1/metrics and /v1/logs, protobuf and JSON on one port. The shell around `Intake`.

Refusals, all with a google.rpc.Status in the request's encoding (JSON where the content type tells none):
400 does not decode · 404 another path · 405 another method · 413 above the size limit · 415 another content type or
encoding · 429 too much in hand, with Retry-After · 503 a passing or unforeseen failure, with Retry-After. Never 500.

Against slow and hostile clients: a connection that has not sent a whole request within `receive.read_timeout` is closed,
headers are bounded, connections opened past `receive.max_connections` are answered 503, and bodies count against the budget
chunk by chunk, as they come.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvicorn
from google.rpc import code_pb2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from leadline.addresses import listening_socket
from leadline.errors import LeadlineError, Overloaded, TooLarge
from leadline.model.ports import Intake
from leadline.model.signals import Receipt, Signal
from leadline.receive import otlp_json, replies
from leadline.receive.compression import ENCODINGS, Decompressor, content_encoding
from leadline.receive.limits import RETRY_AFTER_S, Budget, Lease
from leadline.receive.outcomes import Outcome, Outcomes, Transport
from leadline.receive.replies import Refusal
from leadline.settings import ReceiveConfig

log = logging.getLogger(__name__)

PATHS = {"/v1/traces": Signal.TRACES, "/v1/metrics": Signal.METRICS, "/v1/logs": Signal.LOGS}
MAX_HEADER_BYTES = 64 * 1024
ON_LOOP_BYTES = 128 * 1024  # a JSON document that is transcoded on the event loop: about a millisecond
THREADS = 2  # for larger ones, and to put large bodies together
KEEP_ALIVE_S = 75  # exporters send each 5 to 60 s: a connection outlives the pause
SPARE_CONNECTIONS = 64  # past the maximum, these many still get an answer (503); the rest are closed at once
PROTOBUF, JSON = b"application/x-protobuf", b"application/json"


class HttpReceiver:
    """Serves OTLP/HTTP on `receive.http`.

    Parameters
    ----------
    config : ReceiveConfig
    intake : Intake
        Told of each request; its receipt or error becomes the reply.
    budget, outcomes : optional
        Shared with the other receiver; of its own if not given.
    """

    def __init__(self, config: ReceiveConfig, intake: Intake, *, budget: Budget | None = None, outcomes: Outcomes | None = None) -> None:
        self.budget = budget or Budget(config.max_in_flight)
        self.outcomes = outcomes or Outcomes()
        self._config, self._intake = config, intake
        self._decompressor = Decompressor(config.max_bytes)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="leadline-http")
        self._state = ServerState()
        self._server: asyncio.Server | None = None
        self._watch: asyncio.Task[None] | None = None
        self.connection_closed = asyncio.Event()
        self.port = 0

    async def start(self) -> None:
        """Listens. Raises `ConfigError` where the address cannot be had."""
        app = Starlette(
            routes=[Route(path, endpoint=_Endpoint(self, signal)) for path, signal in PATHS.items()],
            exception_handlers={HTTPException: self._unknown_path},
        )
        app.router.redirect_slashes = False
        # uvicorn's protocol, without its Server: that one takes over signals, and stops by polling.
        config = uvicorn.Config(
            app, ws="none", lifespan="off", log_config=None, access_log=False, proxy_headers=False, timeout_keep_alive=KEEP_ALIVE_S
        )
        config.load()

        def connection() -> _Connection:
            too_many = len(self._state.connections) >= self._config.max_connections
            return _Connection(self, config=config, server_state=self._state, app_state={"too_many": too_many})

        listening = listening_socket("receive.http", self._config.http, backlog=2048)
        self.port = listening.getsockname()[1]
        self._server = await asyncio.get_running_loop().create_server(connection, sock=listening, backlog=2048)
        self._watch = asyncio.create_task(self._close_slow())

    async def stop(self, grace_s: float) -> None:
        """Accepts nothing more, answers what is under way, and after `grace_s` closes what is left."""
        if self._server is None or self._watch is None:
            return
        self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()  # at once where idle, else after its reply
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._all_closed(), grace_s)
        for connection in list(self._state.connections):
            connection.transport.abort()
        for task in self._state.tasks:
            task.cancel()
        self._watch.cancel()
        self._decompressor.close()
        self._threads.shutdown(wait=False)
        self._server = self._watch = None

    async def _all_closed(self) -> None:
        while self._state.connections:
            self.connection_closed.clear()
            await self.connection_closed.wait()

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._state.connections)

    async def _close_slow(self) -> None:
        """Closes connections on which a request has been coming for too long."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(1.0, self._config.read_timeout / 4))
            oldest = loop.time() - self._config.read_timeout
            for connection in list(self._state.connections):
                if isinstance(connection, _Connection) and connection.reading_since < oldest:
                    self.outcomes.count(Transport.HTTP, "", Outcome.UNREAD)
                    connection.transport.abort()

    async def _unknown_path(self, request: Request, error: Exception) -> Response:
        media = _media_type(dict(request.scope["headers"]).get(b"content-type", b""))
        refused = Refusal(
            Outcome.UNSUPPORTED, 404, code_pb2.UNIMPLEMENTED, f"{request.url.path[:100]}: expected one of {', '.join(PATHS)}."
        )
        self.outcomes.count(Transport.HTTP, "", refused.outcome)
        as_json = media != PROTOBUF
        return Response(replies.refusal_body(refused, as_json=as_json), 404, media_type=(JSON if as_json else PROTOBUF).decode())


class _Endpoint:
    """One path: reads the body, hands it on, replies."""

    def __init__(self, receiver: HttpReceiver, signal: Signal) -> None:
        self._receiver, self._signal = receiver, signal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        media = _media_type(headers.get(b"content-type", b""))
        as_json = media != PROTOBUF
        transport = Transport.HTTP_PROTOBUF if media == PROTOBUF else Transport.HTTP_JSON if media == JSON else Transport.HTTP
        status = 200
        more_headers: list[tuple[bytes, bytes]] = []
        try:
            receipt = await self._take(scope, headers, media, receive)
            if receipt is None:
                self._receiver.outcomes.count(transport, self._signal, Outcome.UNREAD)
                return  # the client has gone; there is nobody to reply to
            body = replies.success_body(self._signal, receipt, as_json=as_json)
            outcome = Outcome.PARTIAL if receipt.rejected or receipt.message else Outcome.ACCEPTED
        except _Refused as refused:
            outcome, status, body, more_headers = _rendered(refused.refusal, as_json)
        except Exception as error:
            if replies.is_unforeseen(error):
                log.exception("%s: unforeseen error; the client is told to try again", self._signal)
            outcome, status, body, more_headers = _rendered(replies.refusal(error), as_json)
        self._receiver.outcomes.count(transport, self._signal, outcome)
        length = str(len(body)).encode()
        reply_headers = [(b"content-type", JSON if as_json else PROTOBUF), (b"content-length", length), *more_headers]
        await send({"type": "http.response.start", "status": status, "headers": reply_headers})
        await send({"type": "http.response.body", "body": body})

    async def _take(self, scope: Scope, headers: dict[bytes, bytes], media: bytes, receive: Receive) -> Receipt | None:
        receiver = self._receiver
        encoding = content_encoding(headers.get(b"content-encoding", b""))
        self._check(scope["method"], headers, media, encoding, too_many=scope["state"]["too_many"])
        with receiver.budget.lease() as lease:
            body = await self._read(headers, receive, lease)
            if body is None:
                return None
            try:
                if encoding:
                    body = await receiver._decompressor.decompressed(encoding, body, lease)
                if media == JSON:
                    body = await self._off_loop(otlp_json.transcode, self._signal, body, receiver._config.max_bytes, size=len(body))
                    lease.hold(len(body))
            except LeadlineError as error:
                if not isinstance(error, Overloaded):
                    receiver._intake.undecodable()
                raise
            return await receiver._intake.accept(self._signal, body)

    def _check(self, method: str, headers: dict[bytes, bytes], media: bytes, encoding: str, *, too_many: bool) -> None:
        """Refuses what need not be read."""
        if method != "POST":
            text = f"expected POST, got {method[:20]}. Send OTLP requests as POST."
            raise _Refused(Refusal(Outcome.UNSUPPORTED, 405, code_pb2.UNIMPLEMENTED, text, headers=((b"allow", b"POST"),)))
        receiver = self._receiver
        if too_many:
            text = f"{receiver.connections} connections are open, more than receive.max_connections. Connect again after the delay."
            headers_ = ((b"connection", b"close"),)
            raise _Refused(Refusal(Outcome.OVERLOADED, 503, code_pb2.UNAVAILABLE, text, RETRY_AFTER_S, headers=headers_))
        if media not in (PROTOBUF, JSON):
            got = headers.get(b"content-type", b"none")[:80].decode("latin-1")
            text = f"content-type: expected application/x-protobuf or application/json, got {got}."
            raise _Refused(Refusal(Outcome.UNSUPPORTED, 415, code_pb2.INVALID_ARGUMENT, text))
        if encoding not in (*ENCODINGS, ""):
            text = f"content-encoding: expected one of {', '.join(ENCODINGS)}, got {encoding[:40]}."
            accepted = ((b"accept-encoding", ", ".join(ENCODINGS).encode()),)
            raise _Refused(Refusal(Outcome.UNSUPPORTED, 415, code_pb2.INVALID_ARGUMENT, text, headers=accepted))

    async def _read(self, headers: dict[bytes, bytes], receive: Receive, lease: Lease) -> bytes | None:
        """The whole body, at most `receive.max_bytes` of it; None if the client went away before its end."""
        limit = self._receiver._config.max_bytes
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > limit:
            raise _too_large(limit)
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk = message.get("body", b"")
            if chunk:
                size += len(chunk)
                if size > limit:
                    raise _too_large(limit)
                lease.hold(size)
                chunks.append(chunk)
            if not message.get("more_body", False):
                return await self._off_loop(b"".join, chunks, size=size)

    async def _off_loop(self, work: Callable[..., bytes], *arguments: Any, size: int) -> bytes:
        """Does `work` on `size` bytes, which releases the GIL where they are many: then not on the event loop."""
        if size <= ON_LOOP_BYTES:
            return work(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self._receiver._threads, work, *arguments)


class _Refused(Exception):
    """A refusal on its way to the reply."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal


def _rendered(refused: Refusal, as_json: bool) -> tuple[Outcome, int, bytes, list[tuple[bytes, bytes]]]:
    return refused.outcome, refused.http, replies.refusal_body(refused, as_json=as_json), replies.refusal_headers(refused)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is larger than {limit} bytes (receive.max_bytes). Send smaller batches.")


def _media_type(content_type: bytes) -> bytes:
    """``b"Application/JSON; charset=utf-8"`` -> ``b"application/json"``."""
    return content_type.partition(b";")[0].strip().lower()


class _Connection(HttpToolsProtocol):
    """One connection, with bounds that uvicorn leaves out: on the time a request takes to come, and on its headers."""

    def __init__(self, receiver: HttpReceiver, **parts: Any) -> None:
        super().__init__(**parts)
        self.logger = _SILENT  # uvicorn would log a line for each malformed request
        self._receiver = receiver
        self.reading_since = math.inf
        self._head_bytes = 0
        self._in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.reading_since = self.loop.time()
        if len(self.connections) > self._receiver._config.max_connections + SPARE_CONNECTIONS:
            self._receiver.outcomes.count(Transport.HTTP, "", Outcome.OVERLOADED)
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._receiver.connection_closed.set()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
                self.send_400_response("headers too large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.reading_since = self.loop.time()
        self._head_bytes, self._in_head = 0, True

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > 2 * MAX_HEADER_BYTES:  # trailers too; the parser turns this into a malformed request
            raise ValueError("headers too large")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.reading_since = math.inf

    def send_400_response(self, msg: str) -> None:
        """As uvicorn's, with a Status for a body."""
        self._receiver.outcomes.count(Transport.HTTP, "", Outcome.INVALID)
        refused = Refusal(Outcome.INVALID, 400, code_pb2.INVALID_ARGUMENT, f"not an HTTP request that can be taken: {msg}")
        body = replies.refusal_body(refused, as_json=True)
        head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % (JSON, len(body))
        self.transport.write(head + body)
        self.transport.close()


_SILENT = logging.getLogger(f"{__name__}.uvicorn")
_SILENT.setLevel(logging.CRITICAL)
