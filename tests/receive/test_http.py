"""OTLP/HTTP: what each error becomes, in which encoding, and what hostile bytes on a socket meet."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from google.protobuf import json_format
from google.rpc import code_pb2, error_details_pb2, status_pb2
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

from leadline.errors import ConfigError, InvalidRequest, Overloaded, StoreError, TooLarge
from leadline.model.signals import Receipt, Signal
from leadline.receive.http import MAX_HEADER_BYTES, PATHS, HttpReceiver
from leadline.receive.outcomes import Outcome
from leadline.settings import ReceiveConfig
from leadline.testing.intake import RecordingIntake
from leadline.testing.receivers import Receivers, until

Start = Callable[..., Any]
PROTOBUF, JSON = "application/x-protobuf", "application/json"
SPAN = b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":"a"}]}]}]}'
SPAN_BYTES = b"\n\x07\x12\x05\x12\x03*\x01a"


def status_of(response: httpx.Response) -> status_pb2.Status:
    """The Status in an error's body, whichever encoding its content type names."""
    if response.headers["content-type"] == JSON:
        return json_format.Parse(response.content, status_pb2.Status())
    assert response.headers["content-type"] == PROTOBUF
    return status_pb2.Status.FromString(response.content)


@pytest.mark.parametrize(("path", "signal"), PATHS.items())
@pytest.mark.parametrize("kind", [PROTOBUF, JSON, "Application/X-Protobuf", "application/json; charset=utf-8"])
async def test_each_path_takes_both_encodings(served: Receivers, path: str, signal: Signal, kind: str) -> None:
    """The reply's content type is the request's, parameters and case aside; full success says nothing more."""
    response = await served.post(b"{}" if "json" in kind.lower() else b"\n\0", kind, path)
    plain = kind.lower().partition(";")[0]
    assert (response.status_code, response.headers["content-type"]) == (200, plain)
    assert response.content == (b"{}" if plain == JSON else b"")
    assert served.intake.requests == [(signal, b"" if plain == JSON else b"\n\0")]


@pytest.mark.parametrize(("kind", "body"), [(PROTOBUF, b""), (JSON, b""), (JSON, b"{}"), (JSON, b' {"resourceSpans": []} ')])
async def test_empty_requests_are_accepted(served: Receivers, kind: str, body: bytes) -> None:
    assert (await served.post(body, kind)).status_code == 200
    assert served.intake.bodies(Signal.TRACES) == [b""]


@pytest.mark.parametrize("kind", [PROTOBUF, JSON])
@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [
        (InvalidRequest("offset 3: expected a tag"), 400, code_pb2.INVALID_ARGUMENT, None),
        (TooLarge("too large"), 413, code_pb2.RESOURCE_EXHAUSTED, None),
        (Overloaded("wait", retry_after_s=2.5), 429, code_pb2.RESOURCE_EXHAUSTED, "3"),
        (StoreError("gone"), 503, code_pb2.UNAVAILABLE, "1"),
        (RuntimeError("surprise"), 503, code_pb2.UNAVAILABLE, "5"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
async def test_errors_become_replies(
    served: Receivers, kind: str, error: Exception, status: int, code: int, retry_after: str | None
) -> None:
    """Status, code, Retry-After and RetryInfo follow the kind of the error; the body is a Status in the request's encoding."""
    served.intake.error = error
    response = await served.post(b"{}" if kind == JSON else b"", kind)
    assert (response.status_code, response.headers["content-type"]) == (status, kind)
    assert response.headers.get("retry-after") == retry_after
    found = status_of(response)
    assert found.code == code
    assert found.message
    assert "surprise" not in found.message, "what was not foreseen is for the log, not for the client"
    assert any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in found.details) == (retry_after is not None)
    assert served.budget.held == 0


async def test_partial_success_carries_count_and_reason(served: Receivers) -> None:
    served.intake.receipt = Receipt(rejected=7, message="7 points without a value")
    as_json = await served.post(b"{}", JSON, "/v1/metrics")
    assert as_json.json() == {"partialSuccess": {"rejectedDataPoints": "7", "errorMessage": "7 points without a value"}}
    as_bytes = ExportMetricsServiceResponse.FromString((await served.post(b"", path="/v1/metrics")).content)
    assert as_bytes.partial_success.rejected_data_points == 7


async def test_a_warning_rejects_nothing(served: Receivers) -> None:
    served.intake.receipt = Receipt(message="clocks differ by 3 h")
    assert (await served.post(b"{}", JSON)).json() == {"partialSuccess": {"errorMessage": "clocks differ by 3 h"}}
    assert served.outcomes.of(Outcome.PARTIAL) == 1


async def test_a_response_stays_below_4_mib(served: Receivers) -> None:
    served.intake.receipt = Receipt(rejected=1, message="x" * 10_000_000)
    assert len((await served.post(b"{}", JSON)).content) < 2**20


@pytest.mark.parametrize(
    ("method", "path", "kind", "encoding", "status", "reply_kind"),
    [
        ("POST", "/v1/trace", PROTOBUF, "", 404, PROTOBUF),
        ("POST", "/v1/traces/", JSON, "", 404, JSON),
        ("GET", "/", "", "", 404, JSON),
        ("GET", "/v1/traces", PROTOBUF, "", 405, PROTOBUF),
        ("PUT", "/v1/logs", JSON, "", 405, JSON),
        ("POST", "/v1/traces", "", "", 415, JSON),
        ("POST", "/v1/traces", "text/plain", "", 415, JSON),
        ("POST", "/v1/traces", "application/protobuf", "", 415, JSON),
        ("POST", "/v1/traces", PROTOBUF, "br", 415, PROTOBUF),
        ("POST", "/v1/traces", JSON, "gzip, gzip", 415, JSON),
    ],
)
async def test_unsupported_requests_get_a_status_too(
    served: Receivers, method: str, path: str, kind: str, encoding: str, status: int, reply_kind: str
) -> None:
    """The body is a Status in the request's encoding, in JSON where the content type tells none."""
    headers = {name: value for name, value in {"content-type": kind, "content-encoding": encoding}.items() if value}
    response = await served.client.request(method, path, headers=headers, content=b"{}")
    assert (response.status_code, response.headers["content-type"]) == (status, reply_kind)
    assert status_of(response).message
    assert served.outcomes.of(Outcome.UNSUPPORTED) == 1
    assert not served.intake.requests
    if status == 405:
        assert response.headers["allow"] == "POST"


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "zlib": zlib.compress,
}


@pytest.mark.parametrize("encoding", [*ENCODERS, "GZIP", "identity"])
@pytest.mark.parametrize("size", [10, 3_000_000])
async def test_compressed_bodies_arrive_decompressed(served: Receivers, encoding: str, size: int) -> None:
    body = b"\n" + bytes(range(256)) * (size // 256)
    sent = ENCODERS.get(encoding.lower(), bytes)(body)
    assert (await served.post(sent, content_encoding=encoding)).status_code == 200
    assert served.intake.bodies(Signal.TRACES) == [body]


async def test_zstd_bodies_arrive_decompressed(served: Receivers) -> None:
    import pyarrow

    body = bytes(range(256)) * 4000
    sent = pyarrow.compress(body, codec="zstd", asbytes=True)
    assert (await served.post(sent, content_encoding="zstd")).status_code == 200
    assert served.intake.bodies(Signal.TRACES) == [body]


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
@pytest.mark.parametrize("body", [b"", b"nonsense", gzip.compress(b"x" * 100)[:-9], b"\x28\xb5\x2f\xfd\x00"])
async def test_corrupt_compression_is_invalid(served: Receivers, encoding: str, body: bytes) -> None:
    response = await served.post(body, content_encoding=encoding)
    assert (response.status_code, status_of(response).code) == (400, code_pb2.INVALID_ARGUMENT)
    assert served.intake.undecoded == 1


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_above_the_size_limit_is_413(start: Start, encoding: str, chunked: bool) -> None:
    """As sent or once decompressed, with its length declared or not; never with Retry-After."""
    served = await start(max_bytes="1MiB")
    at_limit = b"\n" * 2**20
    assert (await served.post(at_limit)).status_code == 200
    body = ENCODERS.get(encoding, bytes)(at_limit + b"\n")

    async def pieces() -> Any:
        for begin in range(0, len(body), 65536):
            yield body[begin : begin + 65536]

    response = await served.client.post(
        "/v1/traces", content=pieces() if chunked else body, headers={"content-type": PROTOBUF, "content-encoding": encoding}
    )
    assert (response.status_code, status_of(response).code) == (413, code_pb2.RESOURCE_EXHAUSTED)
    assert "retry-after" not in response.headers
    assert served.budget.held == 0


async def test_a_full_budget_says_come_back(start: Start) -> None:
    served = await start(max_in_flight="1MiB")
    served.intake.gate = asyncio.Event()
    first = asyncio.create_task(served.post(b"\n" * 900_000))
    await until(lambda: served.intake.waiting == 1, what="the first request in hand")
    second = await served.post(b"\n" * 900_000)
    assert (second.status_code, second.headers["retry-after"]) == (429, "1")
    served.intake.gate.set()
    assert (await first).status_code == 200
    assert (await served.post(b"\n" * 900_000)).status_code == 200
    assert (served.budget.held, served.outcomes.of(Outcome.OVERLOADED)) == (0, 1)


async def test_json_arrives_as_protobuf(served: Receivers) -> None:
    assert (await served.post(SPAN, JSON)).status_code == 200
    assert served.intake.bodies(Signal.TRACES) == [SPAN_BYTES]


async def test_json_faults_name_the_field(served: Receivers) -> None:
    """The text begins with the path, and a BadRequest detail carries it."""
    response = await served.post(SPAN.replace(b'"name":"a"', b'"traceId":"abc"'), JSON)
    found = status_of(response)
    path = "resourceSpans[0].scopeSpans[0].spans[0].traceId"
    assert (response.status_code, found.code) == (400, code_pb2.INVALID_ARGUMENT)
    assert found.message == f'{path}: expected 32 hex digits, got "abc"'
    detail = error_details_pb2.BadRequest()
    assert found.details[0].Unpack(detail)
    assert detail.field_violations[0].field == path
    assert served.intake.undecoded == 1


async def test_a_large_json_document_is_taken_in_steps(served: Receivers) -> None:
    """Small requests are answered while a large document is being transcoded: many of them, before it is done."""
    span = json.dumps({"name": "a", "attributes": [{"key": f"k{n}", "value": {"doubleValue": n / 7}} for n in range(20)]})
    document = f'{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{",".join([span] * 3000)}]}}]}}]}}'.encode()
    large = asyncio.create_task(served.post(document, JSON))
    between = 0
    while not large.done():
        assert (await served.post(b"\n\0")).status_code == 200
        between += 1
    assert (await large).status_code == 200
    assert between >= 5
    assert max(map(len, served.intake.bodies(Signal.TRACES))) > 500_000


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is a program of the system")
async def test_curl_gets_its_reply(served: Receivers) -> None:
    """A large body from curl (which asks with Expect: 100-continue) and a refusal it can print."""
    url = f"http://127.0.0.1:{served.http.port}/v1/traces"
    arguments = ["curl", "-sS", "-w", " %{http_code}", "-H", "content-type: application/json", "--data-binary", "@-", url]
    for body, expected in [(SPAN + b" " * 3_000_000, b"{} 200"), (b"[1]", b" 400")]:
        curl = await asyncio.create_subprocess_exec(*arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
        output, _ = await curl.communicate(body)
        assert output.endswith(expected)


async def _raw(served: Receivers, sent: bytes, *, seconds: float = 20) -> bytes:
    """Sends bytes as they are and reads until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.http.port)
    writer.write(sent)
    try:
        return await asyncio.wait_for(reader.read(), seconds)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\x00\x01\x00", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0" * 100, b"GET\r\n\r\n"])
async def test_what_is_not_http_is_refused(served: Receivers, sent: bytes) -> None:
    reply = await _raw(served, sent)
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["code"] == code_pb2.INVALID_ARGUMENT
    assert (await served.post(b"")).status_code == 200, "others are served as before"


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /v1/traces HTTP/1.1\r\n" + b"a: b\r\n" * MAX_HEADER_BYTES,
        b"POST /v1/traces HTTP/1.1\r\na: " + b"b" * 4 * MAX_HEADER_BYTES,
        b"POST /" + b"v" * 8 * MAX_HEADER_BYTES,
    ],
    ids=["many", "one long", "long path"],
)
async def test_headers_are_bounded(served: Receivers, sent: bytes) -> None:
    reply = await _raw(served, sent)
    assert reply == b"" or reply.startswith(b"HTTP/1.1 400 ")
    assert served.outcomes.of(Outcome.INVALID) == 1


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /v1/traces HTTP/1.1\r\nhost: a\r\n",
        b"POST /v1/traces HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{",
        b"POST /v1/traces HTTP/1.1\r\nhost: a\r\ncontent-type: text/plain\r\ncontent-length: 999999\r\n\r\n{",
    ],
    ids=["nothing", "half the headers", "half the body", "half a refused body"],
)
async def test_requests_that_do_not_come_whole_are_closed(start: Start, sent: bytes) -> None:
    served = await start(read_timeout=0.2)
    await _raw(served, sent)
    assert served.outcomes.of(Outcome.UNREAD) >= 1
    await until(lambda: served.budget.held == 0 and served.http.connections == 0, what="the connection gone")


async def test_connections_beyond_the_maximum_are_told_to_come_back(start: Start) -> None:
    served = await start(max_connections=2)
    others = [await asyncio.open_connection("127.0.0.1", served.http.port) for _ in range(2)]
    await until(lambda: served.http.connections == 2, what="two connections")
    response = await served.post(b"")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert status_of(response).code == code_pb2.UNAVAILABLE
    for _, writer in others:
        writer.close()
    await until(lambda: served.http.connections == 0, what="they are closed")
    assert (await served.post(b"")).status_code == 200


async def test_a_client_that_goes_away_gives_its_bytes_back(served: Receivers) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", served.http.port)
    writer.write(b"POST /v1/traces HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{")
    await until(lambda: served.budget.held == 1, what="the first byte in hand")
    writer.close()
    await until(lambda: served.budget.held == 0, what="it is given back")
    assert list(served.outcomes) == [("http/json", "traces", "unread", 1)]


async def test_stopping_finishes_what_is_under_way(served: Receivers) -> None:
    served.intake.gate = asyncio.Event()
    request = asyncio.create_task(served.post(b""))
    await until(lambda: served.intake.waiting == 1, what="the request in hand")
    stopping = asyncio.create_task(served.http.stop(20))
    served.intake.gate.set()
    assert (await request).status_code == 200
    await stopping
    with pytest.raises(httpx.ConnectError):
        await served.post(b"")


async def test_a_taken_port_says_what_to_do(served: Receivers) -> None:
    config = ReceiveConfig(http=f"127.0.0.1:{served.http.port}")
    with pytest.raises(
        ConfigError, match=r"receive\.http: cannot listen on 127\.0\.0\.1:\d+ \(address already in use\).*--set receive\.http="
    ):
        await HttpReceiver(config, RecordingIntake()).start()
