"""An OTLP server of a test's own: gRPC and HTTP on free ports, keeping what it is sent."""

from __future__ import annotations

import gzip
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse


class Received:
    """Requests by signal, from a gRPC and an HTTP server on free ports."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, bytes, dict[str, str]]] = []
        pool = ThreadPoolExecutor(2)
        self.server = grpc.server(pool, options=[("grpc.max_receive_message_length", 64 << 20)])
        self.server.add_generic_rpc_handlers((_Handler(self.requests),))
        self.grpc_port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        requests = self.requests

        class Web(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                requests.append((self.path.rsplit("/", 1)[1], body, {key.lower(): value for key, value in self.headers.items()}))
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.web = ThreadingHTTPServer(("127.0.0.1", 0), Web)
        self.thread = threading.Thread(target=self.web.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.server.stop(None).wait()
        self.web.shutdown()
        self.web.server_close()
        self.thread.join()


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, requests: list[tuple[str, bytes, dict[str, str]]]) -> None:
        self._requests = requests

    def service(self, details: Any) -> Any:
        signal = "traces" if "Trace" in details.method else "logs"
        metadata = {key: value for key, value in details.invocation_metadata if isinstance(value, str)}
        reply = (ExportTraceServiceResponse if signal == "traces" else ExportLogsServiceResponse)().SerializeToString()

        def answer(body: bytes, _: Any) -> bytes:
            self._requests.append((signal, body, metadata))
            return reply

        return grpc.unary_unary_rpc_method_handler(answer)
