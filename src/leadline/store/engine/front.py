"""ClickHouse's HTTP interface in front of the database: an ASGI application.

One request takes a place in a lane, opens a session, and works in steps on a thread of the lane; between and during the steps
the client is watched, and when it goes away its query is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import string
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import IO, Any, NoReturn, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope, Send

from leadline.store import sql
from leadline.store.engine import access, asking, codings, stitching
from leadline.store.engine.database import WHOLE_RESULT_BYTES, Database, Lane, Progress, Session
from leadline.store.engine.exceptions import (
    ACCESS_DENIED,
    NOT_IMPLEMENTED,
    QUERY_IS_TOO_LARGE,
    SOCKET_TIMEOUT,
    SYNTAX_ERROR,
    TOO_MANY_ROWS_OR_BYTES,
    EngineError,
    in_stream,
    refusal,
)

T = TypeVar("T")

_TAG = string.ascii_lowercase
# ClickHouse's own max_query_size: the text of a statement, or the head of an INSERT.
_MAX_QUERY = 256 * 1024
_MAX_WAITED = 2**30
_INSERT_STEP = 2**20
# A request that stops coming gives its place to the next.
_IDLE_S = 30.0
# A result that ends this soon after its first piece is sent with its length and summary, as one body.
_WHOLE_AT_ONCE_S = 0.02
# How long a client that may have stopped reading is given to take the reason why its answer ends.
_LAST_WORDS_S = 5.0


class Gone(Exception):
    """The client went away."""


class Front:
    """The ASGI application.

    Parameters
    ----------
    database : Database
        Open.
    token : str
        The writer's password.
    listen : str
        The host name listened on.
    allowed_hosts : iterable of str
        Further names that Host and Origin may have.
    max_insert_bytes : int
        The largest body, decompressed.
    """

    def __init__(
        self, database: Database, token: str, *, listen: str, allowed_hosts: Iterable[str] = (), max_insert_bytes: int = 4 * 2**30
    ) -> None:
        self._database, self._token = database, token
        self._listen, self._allowed, self._max_insert = listen, tuple(allowed_hosts), max_insert_bytes
        self._host = socket.gethostname()
        self.running: set[asyncio.Task[Any]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        task = asyncio.current_task()
        assert task is not None
        self.running.add(task)
        try:
            await self._http(Request(scope, receive), Reply(send, self._common_headers()))
        except (Gone, ClientDisconnect):
            return
        finally:
            self.running.discard(task)

    def _common_headers(self) -> dict[str, str]:
        return {
            "X-ClickHouse-Server-Display-Name": self._host,
            "X-ClickHouse-Timezone": self._database.timezone,
            "X-ClickHouse-Exception-Tag": "".join(secrets.choice(_TAG) for _ in range(16)),
        }

    async def _http(self, request: Request, reply: Reply) -> None:
        headers = {name.lower(): value for name, value in request.headers.items()}
        path, method = request.url.path, request.method
        if not asking.may_ask(headers, listen=self._listen, allowed=self._allowed):
            host = headers.get("host", "")[:100]
            message = f"Host or Origin is not this engine's (Host: {host}). Add the name to engine.allowed_hosts if it should be"
            await reply.error(refusal(ACCESS_DENIED, "ACCESS_DENIED", message))
        elif path == "/ping" or (path == "/" and method in ("GET", "HEAD") and not request.url.query):
            await reply.text(200, "Ok.\n")
        elif method == "OPTIONS":
            await reply.text(204, "")
        elif path != "/":
            await reply.text(404, f"There is no handle {path}\n\nUse / or /ping for health checks, / with query=… or a body for queries.\n")
        elif method not in ("GET", "HEAD", "POST"):
            await reply.text(405, f"{method} is not for queries. Use GET or POST.\n")
        else:
            try:
                ask = asking.read(request.query_params.multi_items(), headers, token=self._token, ceilings=self._database.ceilings)
                reply.headers["X-ClickHouse-Query-Id"] = ask.query_id[:100].encode("ascii", "replace").decode() or str(uuid.uuid4())
                if ask.compress and (coding := codings.encoder(headers.get("accept-encoding", ""))):
                    reply.coding, reply.encoder = coding
                await self._answer(request, headers, ask, reply)
            except EngineError as error:
                await reply.error(error)

    async def _answer(self, request: Request, headers: Mapping[str, str], ask: asking.Ask, reply: Reply) -> None:
        if headers.get("content-type", "").startswith("multipart/"):
            message = "multipart bodies (external tables, parameters in a form) are not taken here; use the URL"
            raise refusal(NOT_IMPLEMENTED, "NOT_IMPLEMENTED", message)
        body = self._body(request, codings.Decoder(headers.get("content-encoding", ""), self._max_insert))
        text = bytearray(ask.query.encode() + b"\n" if ask.query else b"")
        insert: sql.Insert | None = None
        ended = False
        while not ended:
            # latin-1 keeps byte positions; the rows of a binary format may follow at once.
            insert = sql.insert(text.decode("latin-1")) if ask.writer else None
            if insert is not None and insert.data_at < len(text):
                break
            if len(text) > _MAX_QUERY:
                raise refusal(QUERY_IS_TOO_LARGE, "QUERY_IS_TOO_LARGE", f"the statement is above {_MAX_QUERY} bytes")
            piece = await anext(body, None)
            ended = piece is None
            text += piece or b""
        if insert is not None:
            head = sql.Insert(insert.text.encode("latin-1").decode(errors="replace"), insert.format, insert.data_at)
            await self._insert(head, bytes(text[insert.data_at :]), body, ask, reply)
            return
        try:
            statement = text.decode().strip()
        except UnicodeDecodeError as error:
            raise refusal(SYNTAX_ERROR, "SYNTAX_ERROR", f"the statement is not UTF-8 at byte {error.start}") from None
        if not statement:
            raise refusal(SYNTAX_ERROR, "SYNTAX_ERROR", "Empty query")
        await self._read(request, statement, ask, reply)

    @staticmethod
    async def _body(request: Request, decoder: codings.Decoder) -> AsyncIterator[bytes]:
        chunks = request.stream()
        while True:
            try:
                async with asyncio.timeout(_IDLE_S):
                    chunk = await anext(chunks, None)
            except TimeoutError:
                raise refusal(SOCKET_TIMEOUT, "SOCKET_TIMEOUT", f"no more of the request came for {_IDLE_S:.0f} s") from None
            if chunk is None:
                break
            for piece in decoder.add(chunk):
                yield piece
        decoder.end()

    async def _insert(self, head: sql.Insert, first: bytes, body: AsyncIterator[bytes], ask: asking.Ask, reply: Reply) -> None:
        lane = self._database.inserts
        settings = {**ask.settings, "max_execution_time": ask.settings.get("max_execution_time", "0")}
        async with lane.place():
            session = await lane.start(lambda: self._database.writer(settings, read_only=False, use=ask.database))
            try:
                started = time.monotonic()
                await lane.start(lambda: session.begin_insert(head))
                waiting = bytearray(first)
                async for piece in body:
                    waiting += piece
                    if len(waiting) >= _INSERT_STEP:
                        data, waiting = bytes(waiting), bytearray()
                        await lane.start(lambda data=data: session.append(data))  # type: ignore[misc]
                if waiting:
                    await lane.start(lambda: session.append(bytes(waiting)))
                await lane.start(session.commit)
            finally:
                await asyncio.shield(lane.start(session.close))
        reply.summary(session.progress, time.monotonic() - started)
        await reply.text(200, "")

    async def _read(self, request: Request, statement: str, ask: asking.Ask, reply: Reply) -> None:
        query = sql.query(statement)
        read_only = not ask.writer or request.method != "POST"
        form = query.format or ask.default_format or "TabSeparated"
        joiner = stitching.joiner(form)
        streams = query.verb in access.SELECT_VERBS and not query.totals and ask.settings.get("extremes", "0") == "0"
        if ask.settings.get("output_format_json_array_of_rows", "0") != "0":
            streams = False
        settings = dict(ask.settings)
        if ask.writer:
            access.check_writer(query)
        settings.setdefault("max_execution_time", f"{self._database.ceilings['max_execution_time']:.15g}")
        if joiner is None or not streams:
            asked = settings.get("max_result_bytes", "")
            settings["max_result_bytes"] = str(
                min(WHOLE_RESULT_BYTES, int(asked) if asked.isdigit() and int(asked) else WHOLE_RESULT_BYTES)
            )
            settings.setdefault("result_overflow_mode", "throw")
        lane = self._database.statements if ask.writer else self._database.readers

        def opened() -> Session:
            if not ask.writer:
                return self._database.reader(settings, use=ask.database)
            return self._database.writer(settings, read_only=read_only, use=ask.database)

        def pieces(session: Session) -> Iterator[bytes]:
            if not ask.writer:
                access.check_reader(session.canonical(statement))
            if joiner is None or not streams:
                yield session.whole(query.text, form, ask.parameters)
            else:
                yield from session.joined(query, form, joiner, ask.parameters)

        reply.headers["X-ClickHouse-Format"] = form
        reply.content_type = stitching.content_type(form)
        async with lane.place():
            session = await lane.start(opened)
            steps = Steps(self._database, lane, session, request.receive)
            try:
                await self._send(steps, pieces(session), ask.wait, float(settings["max_execution_time"]), reply)
            finally:
                await asyncio.shield(steps.close())

    async def _send(self, steps: Steps, pieces: Iterator[bytes], wait: bool, execution_s: float, reply: Reply) -> None:
        started = time.monotonic()
        progress = steps.session.progress
        coded = reply.coded(pieces)

        def following() -> bytes | None:
            return next(coded, None)

        if wait:
            with await steps.run(lambda: _kept(coded)) as kept:
                reply.summary(progress, time.monotonic() - started)
                await reply.begin()
                while block := kept.read(2**20):
                    await reply.more(block)
                await reply.end()
            return
        body = await steps.run(following) or b""
        rest = steps.begin(following)
        while (await asyncio.wait({rest}, timeout=_WHOLE_AT_ONCE_S))[0] and len(body) < 2**20:
            piece = await steps.wait(rest)
            if piece is None:
                reply.summary(progress, time.monotonic() - started)
                await reply.whole(body)
                return
            body += piece
            rest = steps.begin(following)
        reply.summary(progress, time.monotonic() - started)
        await reply.begin()
        try:
            async with asyncio.timeout(execution_s * 2 + 5 if execution_s else None):
                await reply.more(body)
                while (piece := await steps.wait(rest)) is not None:
                    rest = steps.begin(following)
                    await reply.more(piece)
        except EngineError as error:
            await reply.broken(error)
        except TimeoutError:
            raise BrokenOff("the client takes the answer too slowly") from None
        await reply.end()


def _kept(pieces: Iterator[bytes]) -> IO[bytes]:
    """The whole result in a file, at its beginning."""
    kept = tempfile.SpooledTemporaryFile(max_size=8 * 2**20)  # noqa: SIM115  # whoever asked closes it
    for piece in pieces:
        if kept.tell() + len(piece) > _MAX_WAITED:
            message = f"wait_end_of_query holds at most {_MAX_WAITED} bytes. Leave it out"
            raise refusal(TOO_MANY_ROWS_OR_BYTES, "TOO_MANY_ROWS_OR_BYTES", message)
        kept.write(piece)
    kept.seek(0)
    return kept


class Steps:
    """Runs a session's blocking steps while watching the client; kills the query when the client or the request is gone."""

    def __init__(self, database: Database, lane: Lane, session: Session, receive: Receive) -> None:
        self.session = session
        self._database, self._lane = database, lane
        self._gone = asyncio.ensure_future(self._watch(receive))
        self._running: asyncio.Future[Any] | None = None

    @staticmethod
    async def _watch(receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    def begin(self, step: Callable[[], T]) -> asyncio.Future[T]:
        self._running = future = self._lane.start(step)
        # Its outcome may never be asked for, when the request ends first.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return future

    async def wait(self, step: asyncio.Future[T]) -> T:
        watched: set[asyncio.Future[Any]] = {step, self._gone}
        await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        if self._gone.done():  # whether or not the step is done: to a client that is gone a fast query would go on for ever
            raise Gone
        return step.result()

    async def run(self, step: Callable[[], T]) -> T:
        return await self.wait(self.begin(step))

    async def close(self) -> None:
        """Ends what runs, gives up the connection."""
        self._gone.cancel()
        while self._running is not None and not self._running.done():
            # A query that is still being read into existence is not there to be killed yet.
            await self._database.kill(self.session)
            await asyncio.wait({self._running}, timeout=0.2)
        await self._lane.start(self.session.close)


class Reply:
    """One HTTP answer."""

    def __init__(self, send: Send, headers: MutableMapping[str, str]) -> None:
        self._send, self.headers = send, headers
        self.content_type = "text/plain; charset=UTF-8"
        self.coding, self.encoder = "", None  # type: tuple[str, codings.Encoder | None]

    def summary(self, progress: Progress, elapsed_s: float) -> None:
        """What was read and written, as strings of numbers."""
        self.headers["X-ClickHouse-Summary"] = json.dumps(
            {
                "read_rows": str(progress.rows_read),
                "read_bytes": str(progress.bytes_read),
                "written_rows": str(progress.rows_written),
                "written_bytes": str(progress.bytes_written),
                "result_rows": str(progress.result_rows or progress.rows_written),
                "elapsed_ns": str(int(elapsed_s * 1e9)),
            }
        )

    async def text(self, status: int, text: str) -> None:
        self.encoder = None
        await self._start(status, len(text.encode()))
        await self._send({"type": "http.response.body", "body": text.encode()})

    async def error(self, error: EngineError) -> None:
        self.content_type = "text/plain; charset=UTF-8"
        self.headers["X-ClickHouse-Exception-Code"] = str(error.code)
        await self.text(error.status, error.text + "\n")

    def coded(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The pieces in the coding that the client takes, to their end. Compressing takes longer than the query: not for the event loop."""
        if self.encoder is None:
            yield from pieces
            return
        for piece in pieces:
            yield self.encoder.compress(piece)
        yield self.encoder.flush()

    async def whole(self, body: bytes) -> None:
        """The answer at once; `body` is coded, as is what `more` is given."""
        await self._start(200, len(body))
        await self._send({"type": "http.response.body", "body": body})

    async def begin(self) -> None:
        await self._start(200, None)

    async def more(self, piece: bytes) -> None:
        if piece:
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})

    async def broken(self, error: EngineError) -> NoReturn:
        """Tells an error in mid-stream: its text goes into the body, and the connection closes without the last chunk."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                for piece in self.coded(iter((in_stream(error, self.headers["X-ClickHouse-Exception-Tag"]),))):
                    await self.more(piece)
        raise BrokenOff(error.text)

    async def _start(self, status: int, length: int | None) -> None:
        pairs = {"Content-Type": self.content_type, **self.headers}
        if self.encoder is not None:
            pairs["Content-Encoding"] = self.coding
        if length is not None and status != 204:
            pairs["Content-Length"] = str(length)
        message: Message = {
            "type": "http.response.start",
            "status": status,
            "headers": [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in pairs.items()],
        }
        await self._send(message)


class BrokenOff(Exception):
    """Leaves the application so that the HTTP server drops the connection without ending the body."""
