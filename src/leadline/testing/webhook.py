"""A receiver of webhooks that keeps what it is sent: notifications of Alertmanager, or anything that posts JSON."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


class Webhook:
    """Listens on a free port of this machine and records the JSON of every POST, with its path. A context manager.

    Parameters
    ----------
    status : function of (path, body) -> int
        What to answer; 200 without it.
    limit : int
        Requests kept; the oldest go.
    """

    def __init__(self, status: Callable[[str, Any], int] | None = None, *, limit: int = 100_000) -> None:
        self._received: list[tuple[str, Any]] = []
        self._changed = threading.Condition()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"null")
                answer = status(self.path, body) if status else 200
                with outer._changed:
                    outer._received.append((self.path, body))
                    del outer._received[:-limit]
                    outer._changed.notify_all()
                self.send_response(answer)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Recording is enough."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        """Where to post."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def received(self) -> list[Any]:
        """The bodies so far, in order."""
        with self._changed:
            return [body for _, body in self._received]

    @property
    def requests(self) -> list[tuple[str, Any]]:
        """(path, body) so far, in order."""
        with self._changed:
            return list(self._received)

    def wait_until(self, happened: Callable[[list[Any]], bool], timeout_s: float = 30.0) -> list[Any]:
        """The bodies, once `happened` of them is true; raises TimeoutError with what there is."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not happened(bodies := [body for _, body in self._received]):
                if not self._changed.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"not within {timeout_s:g} s; received so far: {bodies}")
            return bodies

    def __enter__(self) -> Webhook:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=10)
