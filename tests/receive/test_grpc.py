"""OTLP/gRPC: what each error becomes, and that nothing a client does holds memory or calls for ever."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import zlib
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from leadline.errors import ConfigError, InvalidRequest, Overloaded, StoreError, TooLarge
from leadline.model.signals import Receipt, Signal
from leadline.receive.grpc import UNREAD_BYTES, GrpcReceiver
from leadline.receive.outcomes import Outcome
from leadline.settings import ReceiveConfig
from leadline.testing.intake import RecordingIntake
from leadline.testing.receivers import METHOD_OF, Receivers, until

Start = Any


def status_of(error: aio.AioRpcError) -> status_pb2.Status:
    trailers = dict(error.trailing_metadata() or ())
    return status_pb2.Status.FromString(trailers["grpc-status-details-bin"])


def retry_info(status: status_pb2.Status) -> error_details_pb2.RetryInfo | None:
    for detail in status.details:
        info = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            return info
    return None


@pytest.mark.parametrize("signal", list(Signal))
async def test_each_service_hands_its_bytes_on(served: Receivers, signal: Signal) -> None:
    """The body reaches the intake as it was sent, under its signal, and the reply leaves partial_success unset."""
    assert await served.export(b"\n\0", signal) == b""
    assert served.intake.requests == [(signal, b"\n\0")]
    assert list(served.outcomes) == [("grpc", signal, "accepted", 1)]


async def test_an_empty_message_is_accepted(served: Receivers) -> None:
    assert await served.export(b"") == b""
    assert served.intake.bodies(Signal.TRACES) == [b""]


@pytest.mark.parametrize(
    ("error", "code", "delay", "outcome"),
    [
        (InvalidRequest("offset 3: expected a tag"), grpc.StatusCode.INVALID_ARGUMENT, None, Outcome.INVALID),
        (TooLarge("too large"), grpc.StatusCode.RESOURCE_EXHAUSTED, None, Outcome.TOO_LARGE),
        (Overloaded("wait", retry_after_s=2.5), grpc.StatusCode.UNAVAILABLE, 2.5, Outcome.OVERLOADED),
        (StoreError("gone"), grpc.StatusCode.UNAVAILABLE, 1.0, Outcome.UNAVAILABLE),
        (RuntimeError("surprise"), grpc.StatusCode.UNAVAILABLE, 5.0, Outcome.UNAVAILABLE),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
async def test_errors_become_statuses(
    served: Receivers, error: Exception, code: grpc.StatusCode, delay: float | None, outcome: Outcome
) -> None:
    """Code, text and RetryInfo follow the kind of the error; the Status repeats them in grpc-status-details-bin."""
    served.intake.error = error
    with pytest.raises(aio.AioRpcError) as caught:
        await served.export(b"\n\0")
    status = status_of(caught.value)
    assert (caught.value.code(), status.code) == (code, code.value[0])
    assert caught.value.details() == status.message
    assert "surprise" not in status.message, "what was not foreseen is for the log, not for the client"
    info = retry_info(status)
    assert (info and info.retry_delay.ToMilliseconds() / 1000) == delay
    trailers = dict(caught.value.trailing_metadata() or ())
    assert ("google.rpc.retryinfo-bin" in trailers) == (delay is not None), "the Python exporter reads RetryInfo there"
    assert served.outcomes.of(outcome) == 1
    assert served.budget.held == 0


async def test_partial_success_carries_count_and_reason(served: Receivers) -> None:
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

    served.intake.receipt = Receipt(rejected=3, message="3 records without a body")
    reply = ExportLogsServiceResponse.FromString(await served.export(b"", "logs"))
    assert (reply.partial_success.rejected_log_records, reply.partial_success.error_message) == (3, "3 records without a body")


async def test_long_texts_are_cut_to_fit_trailers(served: Receivers) -> None:
    """A text of any length and alphabet still reaches the client: trailers have a bound of their own."""
    served.intake.error = InvalidRequest("ü" * 100_000)
    with pytest.raises(aio.AioRpcError) as caught:
        await served.export(b"\n\0")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert 100 < len(status_of(caught.value).message.encode()) <= 1000


async def test_unknown_method_is_unimplemented(served: Receivers) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await served.channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Import")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip, grpc.Compression.Deflate])
@pytest.mark.parametrize("size", [10, 5_000_000])
async def test_compressed_messages_arrive_decompressed(served: Receivers, compression: grpc.Compression, size: int) -> None:
    body = b"\n" + bytes(range(256)) * (size // 256)
    assert await served.export(body, compression=compression) == b""
    assert served.intake.bodies(Signal.TRACES) == [body]


@pytest.mark.parametrize("body", [gzip.compress(b"\n" * 50)[:-9], b"\x1f\x8b" + b"nonsense", zlib.compress(b"\n" * 50)[:-5]])
async def test_corrupt_compression_is_invalid(served: Receivers, body: bytes) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await served.export(body)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert served.intake.undecoded == 1


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
async def test_above_the_size_limit_is_never_retryable(start: Start, compression: grpc.Compression) -> None:
    """RESOURCE_EXHAUSTED without RetryInfo, whether grpcio finds it (as sent) or we do (decompressed)."""
    served = await start(max_bytes="1MiB")
    assert await served.export(b"\n" * 2**20) == b""
    with pytest.raises(aio.AioRpcError) as caught:
        await served.export(b"\n" * (2**20 + 1), compression=compression)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    trailers = dict(caught.value.trailing_metadata() or ())
    assert "google.rpc.retryinfo-bin" not in trailers
    if "grpc-status-details-bin" in trailers:
        assert retry_info(status_of(caught.value)) is None
    await until(lambda: served.outcomes.of(Outcome.TOO_LARGE) + served.outcomes.of(Outcome.UNREAD) == 1, what="counted")


async def test_a_full_budget_says_come_back(start: Start) -> None:
    """Bytes in hand are bounded: what does not fit is refused with a delay, and is welcome once there is room."""
    served = await start(max_in_flight="1MiB")
    served.intake.gate = asyncio.Event()
    first = asyncio.create_task(served.export(b"\n" * 900_000))
    await until(lambda: served.intake.waiting == 1, what="the first request in hand")
    with pytest.raises(aio.AioRpcError) as caught:
        await served.export(b"\n" * 900_000)
    info = retry_info(status_of(caught.value))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert info is not None
    assert info.retry_delay.seconds >= 1
    served.intake.gate.set()
    assert await first == b""
    assert await served.export(b"\n" * 900_000) == b""
    assert served.budget.held == 0
    assert served.budget.peak <= 2**20


async def test_a_call_without_a_message_is_ended(start: Start) -> None:
    """A stream that is opened and left alone ends after `read_timeout`, with a text that says so."""
    served = await start(read_timeout=0.2)

    async def silence() -> Any:
        await asyncio.Event().wait()
        yield b""

    call = served.channel.stream_unary(METHOD_OF[Signal.TRACES])(silence())
    with pytest.raises(aio.AioRpcError) as caught:
        await asyncio.wait_for(call, 10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "receive.read_timeout" in (caught.value.details() or "")
    await until(lambda: served.budget.held == 0, what="its bytes given back")
    assert list(served.outcomes) == [("grpc", "traces", "unread", 1)]
    assert await served.export(b"\n\0") == b"", "others are served as before"


async def test_of_too_many_slow_calls_the_oldest_go(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages that trickle in cannot fill memory: past a bound the calls that took longest are told to come back."""
    monkeypatch.setattr("leadline.receive.grpc.SLOW_S", 0.05)
    served = await start(max_in_flight="64MiB")  # room for 8 slow calls

    def opened() -> int:
        return served.budget.held // UNREAD_BYTES + served.outcomes.of(Outcome.UNREAD)

    async def silence() -> Any:
        await asyncio.Event().wait()
        yield b""

    calls = []
    for _ in range(11):
        calls.append(served.channel.stream_unary(METHOD_OF[Signal.TRACES])(silence()))
        await until(lambda: opened() == len(calls), what="the call is open")
    await until(lambda: sum(call.done() for call in calls) == 3, what="three calls ended")
    assert [call.done() for call in calls] == [True] * 3 + [False] * 8
    assert await calls[0].code() is grpc.StatusCode.UNAVAILABLE
    assert served.outcomes.of(Outcome.UNREAD) == 3


async def test_connections_are_bounded(start: Start) -> None:
    served = await start(max_connections=3)
    assert await served.export(b"") == b""
    readers = []
    for _ in range(6):
        reader, writer = await asyncio.open_connection("127.0.0.1", served.grpc.port)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        readers.append((reader, writer))
    first_bytes = await asyncio.gather(*(reader.read(9) for reader, _ in readers), return_exceptions=True)
    assert sum(isinstance(first, bytes) and first != b"" for first in first_bytes) == 2
    for _, writer in readers:
        writer.close()
    assert await served.export(b"") == b""


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100_000, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 1000])
async def test_what_is_not_grpc_is_closed(served: Receivers, sent: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.grpc.port)
    writer.write(sent)
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), 20)
    writer.close()
    assert await served.export(b"") == b"", "others are served as before"


async def test_a_call_closed_without_a_message_is_invalid(served: Receivers) -> None:
    async def nothing() -> Any:
        return
        yield b""

    with pytest.raises(aio.AioRpcError) as caught:
        await served.channel.stream_unary(METHOD_OF[Signal.TRACES])(nothing())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_cancelled_call_gives_its_bytes_back(served: Receivers) -> None:
    served.intake.gate = asyncio.Event()
    call = served.channel.unary_unary(METHOD_OF[Signal.TRACES])(b"\n" * 1000)
    task = asyncio.ensure_future(call)
    await until(lambda: served.intake.waiting == 1, what="the request in hand")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: served.budget.held == 0, what="the bytes given back")


async def test_streams_beyond_the_maximum_are_held_back(start: Start) -> None:
    """Never more than `max_streams` calls of one connection are in hand; grpcio holds the rest back, or refuses them for now."""
    served = await start(max_streams=4)
    served.intake.gate = asyncio.Event()
    calls = [asyncio.create_task(served.export(b"\n\0")) for _ in range(20)]
    await until(lambda: served.intake.waiting >= 4, what="the first calls in hand")
    assert served.intake.waiting == 4
    served.intake.gate.set()
    replies = await asyncio.gather(*calls, return_exceptions=True)
    assert replies.count(b"") >= 4
    assert {reply.code() for reply in replies if isinstance(reply, aio.AioRpcError)} <= {grpc.StatusCode.UNAVAILABLE}


async def test_a_slow_call_blocks_no_other(served: Receivers) -> None:
    served.intake.gate = asyncio.Event()
    slow = asyncio.create_task(served.export(b"\n\0"))
    await until(lambda: served.intake.waiting == 1, what="the slow call in hand")
    served.intake.gate, gate = None, served.intake.gate
    assert await served.export(b"\n\0") == b""
    assert not slow.done()
    gate.set()
    assert await slow == b""


async def test_stopping_finishes_what_is_under_way(served: Receivers) -> None:
    served.intake.gate = asyncio.Event()
    call = asyncio.create_task(served.export(b"\n\0"))
    await until(lambda: served.intake.waiting == 1, what="the call in hand")
    stopping = asyncio.create_task(served.grpc.stop(20))
    served.intake.gate.set()
    assert await call == b""
    await stopping


async def test_a_taken_port_says_what_to_do(served: Receivers) -> None:
    """A second collector does not share the port silently."""
    config = ReceiveConfig(grpc=f"127.0.0.1:{served.grpc.port}")
    with pytest.raises(ConfigError, match=r"receive\.grpc: cannot listen on 127\.0\.0\.1:\d+ \(.*in use.*\).*--set receive\.grpc="):
        await GrpcReceiver(config, RecordingIntake()).start()
