"""OTLP over gRPC: the Export methods of the three services, on raw bytes. The shell around `Intake`.

Why the method is served as a stream of requests, though OTLP calls it with one: grpcio reads a unary request whole before
our code runs, however large and however slowly it comes. Served as a stream, the call is ours from its headers on: it is
counted against the budget before it is read, and is ended if its message does not come, at no CPU that could be measured
(docs/adr/0004-grpc-server.md). For the same reason grpcio is told not to decompress: we do, bounded by the budget.

Refusals: INVALID_ARGUMENT does not decode · RESOURCE_EXHAUSTED without RetryInfo above the size limit, compressed (grpcio's
own reply) or decompressed (ours) · UNAVAILABLE with RetryInfo too much in hand, or a passing or unforeseen failure ·
UNIMPLEMENTED another method. Each carries a google.rpc.Status in grpc-status-details-bin.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc import code_pb2
from grpc import aio

from leadline.addresses import cannot_listen, listening_socket, split
from leadline.errors import InvalidRequest, LeadlineError, Overloaded
from leadline.model.ports import Intake
from leadline.model.signals import Signal
from leadline.receive import replies
from leadline.receive.compression import Decompressor, sniffed_encoding
from leadline.receive.limits import RETRY_AFTER_S, Budget, Lease
from leadline.receive.outcomes import Outcome, Outcomes, Transport
from leadline.receive.replies import Refusal
from leadline.settings import ReceiveConfig

log = logging.getLogger(__name__)

METHODS = {
    "/opentelemetry.proto.collector.trace.v1.TraceService/Export": Signal.TRACES,
    "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export": Signal.METRICS,
    "/opentelemetry.proto.collector.logs.v1.LogsService/Export": Signal.LOGS,
}
UNREAD_BYTES = 64 * 1024
"""What a call holds of the budget before its message has come: gRPC's initial window."""

SLOW_S = 1.0
"""A message that takes longer to come makes its call a slow one."""

SLOW_SHARE_BYTES = 8 * 2**20
"""There may be one slow call for each of these bytes of the budget; past that the oldest is told to come back."""

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class GrpcReceiver:
    """Serves OTLP/gRPC on `receive.grpc`.

    Parameters
    ----------
    config : ReceiveConfig
    intake : Intake
        Told of each request; its receipt or error becomes the reply.
    budget, outcomes : optional
        Shared with the other receiver; of its own if not given.
    credentials : grpc.ServerCredentials, optional
        Plain text if not given.
    """

    def __init__(
        self,
        config: ReceiveConfig,
        intake: Intake,
        *,
        budget: Budget | None = None,
        outcomes: Outcomes | None = None,
        credentials: Any = None,
    ) -> None:
        self.budget = budget or Budget(config.max_in_flight)
        self.outcomes = outcomes or Outcomes()
        self._config, self._intake, self._credentials = config, intake, credentials
        self._decompressor = Decompressor(config.max_bytes)
        self._unread: dict[Any, tuple[float, Signal]] = {}  # context -> when its headers came, its service; in that order
        self._server: Any = None
        self._watch: asyncio.Task[None] | None = None
        self.port = 0

    async def start(self) -> None:
        """Listens. Raises `ConfigError` where the address cannot be had."""
        config = self._config
        server = aio.server(
            options=[
                ("grpc.max_receive_message_length", config.max_bytes),
                ("grpc.per_message_decompression", 0),
                ("grpc.max_concurrent_streams", config.max_streams),
                ("grpc.max_allowed_incoming_connections", config.max_connections),
                ("grpc.server_handshake_timeout_ms", int(config.read_timeout * 1000)),
                ("grpc.keepalive_time_ms", 60_000),  # a peer that vanished is noticed within 80 s
                ("grpc.keepalive_timeout_ms", 20_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),  # clients may ping this often
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.so_reuseport", 0),  # else a second collector would share the port, silently
            ]
        )
        server.add_generic_rpc_handlers((_Methods({name: self._handler(signal) for name, signal in METHODS.items()}),))
        try:
            if self._credentials is None:
                self.port = server.add_insecure_port(config.grpc)
            else:
                self.port = server.add_secure_port(config.grpc, self._credentials)
        except RuntimeError as error:
            if split(config.grpc)[1]:
                listening_socket("receive.grpc", config.grpc, backlog=1).close()  # raises, with the system's own reason
            raise cannot_listen("receive.grpc", config.grpc, error) from error
        await server.start()
        self._server, self._watch = server, asyncio.create_task(self._end_slow())

    async def stop(self, grace_s: float) -> None:
        """Accepts nothing more, answers what is under way, and after `grace_s` ends what is left."""
        if self._server is None:
            return
        await self._server.stop(grace_s)
        if self._watch is not None:
            self._watch.cancel()
        self._decompressor.close()
        self._server = self._watch = None

    def _handler(self, signal: Signal) -> Any:
        async def export(requests: Any, context: Any) -> bytes:
            try:
                with self.budget.lease() as lease:
                    return await self._export(signal, context, lease)
            except aio.BaseError:
                raise  # ended already, by the watch or by the server's stop
            except Exception as error:
                if replies.is_unforeseen(error):
                    log.exception("%s: unforeseen error; the client is told to try again", signal)
                refused = replies.refusal(error)
                outcome = Outcome.UNREAD if isinstance(error, _NoMessage) else refused.outcome
            self.outcomes.count(Transport.GRPC, signal, outcome)
            await _refuse(context, refused)
            raise AssertionError("not reached: grpcio's abort raises")

        return grpc.stream_unary_rpc_method_handler(export)

    async def _export(self, signal: Signal, context: Any, lease: Lease) -> bytes:
        lease.hold(UNREAD_BYTES)
        self._unread[context] = (asyncio.get_running_loop().time(), signal)
        try:
            body = await context.read()
        finally:
            self._unread.pop(context, None)
        if body is aio.EOF:
            raise _NoMessage("expected one message, got none")
        lease.hold(len(body))
        encoding = sniffed_encoding(body)
        if encoding is not None:
            try:
                body = await self._decompressor.decompressed(encoding, body, lease)
            except LeadlineError as error:
                if not isinstance(error, Overloaded):
                    self._intake.undecodable()
                raise
        receipt = await self._intake.accept(signal, body)
        if not receipt.rejected and not receipt.message:
            self.outcomes.count(Transport.GRPC, signal, Outcome.ACCEPTED)
            return b""
        self.outcomes.count(Transport.GRPC, signal, Outcome.PARTIAL)
        return replies.success_body(signal, receipt, as_json=False)

    async def _end_slow(self) -> None:
        """Ends calls whose message does not come, and the oldest of the slow ones where there are too many."""
        loop = asyncio.get_running_loop()
        timeout = self._config.read_timeout
        most = max(8, self.budget.limit // SLOW_SHARE_BYTES)
        while True:
            await asyncio.sleep(min(0.25, timeout / 4))
            now = loop.time()
            slow = [
                (context, now - since, signal) for context, (since, signal) in self._unread.items() if now - since > min(SLOW_S, timeout)
            ]
            for place, (context, age, signal) in enumerate(slow):
                if age > timeout:
                    text = f"the message had not come whole after {timeout:g} s (receive.read_timeout). Send smaller batches."
                elif place < len(slow) - most:
                    text = "too many messages are coming in slowly. Send this one again after the delay."
                else:
                    continue
                self._unread.pop(context, None)
                self.outcomes.count(Transport.GRPC, signal, Outcome.UNREAD)
                refused = Refusal(Outcome.UNREAD, 503, code_pb2.UNAVAILABLE, text, RETRY_AFTER_S)
                with contextlib.suppress(Exception):  # the call may have ended by itself meanwhile
                    await _refuse(context, refused)


class _NoMessage(InvalidRequest):
    """The call's message did not come: above the size limit (grpcio has replied by itself), given up, or really none."""


@dataclass(frozen=True, slots=True)
class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Finds the handler of a method; grpcio replies UNIMPLEMENTED where there is none."""

    handlers: dict[str, Any]

    def service(self, handler_call_details: Any) -> Any:
        return self.handlers.get(handler_call_details.method)


async def _refuse(context: Any, refused: Refusal) -> None:
    """Ends the call with a status; raises, as grpcio's abort does.

    RetryInfo goes out twice: within the Status, as OTLP says, and by itself, where the Python exporter looks for it.
    """
    status = replies.status(refused, refused.grpc)
    trailers = [("grpc-status-details-bin", status.SerializeToString())]
    if refused.retry_after_s is not None:
        trailers.append(("google.rpc.retryinfo-bin", status.details[0].value))
    await context.abort(_CODES[refused.grpc], refused.message, tuple(trailers))
