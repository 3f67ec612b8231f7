"""A collector under attack: what hostile and enormous requests do to the other clients of the whole collector.

python benchmarks/hostile.py                         every attack, 8 s each, beside a quiet run
python benchmarks/hostile.py --only logs-56MiB --seconds 30

Two ordinary clients send 9 spans every 20 ms, one over gRPC and one over HTTP, while a process of its own attacks. Printed of each attack:
what its requests were told, how long the ordinary clients waited, and the collector's peak memory. The bar is 100 ms at the p99. Not shown:
an attack from many machines, and a disk that cannot follow.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import httpx

sys.path.insert(0, str(Path(__file__).parent))
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from leadline.testing.processes import Processes
from load import METHOD
from payloads import Requests

MIB = 2**20
BAR_MS = 100.0
PAUSE_S = 0.02
PROTOBUF, JSON = "application/x-protobuf", "application/json"

Attack = tuple[str, str, float, Callable[[], Iterator[bytes]], dict[str, str]]
"""(transport, path or method, seconds between requests, bodies, headers)."""


# --- what is sent


def repeated(make: Callable[[], bytes]) -> Callable[[], Iterator[bytes]]:
    def bodies() -> Iterator[bytes]:
        body = make()
        while True:
            yield body

    return bodies


def random_bytes() -> Iterator[bytes]:
    while True:
        yield os.urandom(64 * 1024)


def truncated() -> Iterator[bytes]:
    body = Requests().next()
    at = 1
    while True:
        yield body[: at % len(body)]
        at += 7919


def inner_claims() -> bytes:
    """A span that says it is 1 GiB long."""
    return b"\x0a\x80\x80\x80\x80\x04" + bytes(1000)


def bomb(encoding: str) -> bytes:
    """256 MiB of nothing in a few kilobytes."""
    if encoding == "zstd":
        # a frame without its content's size, and 2,048 blocks that each repeat one byte 128 KiB times
        block = ((128 * 1024) << 3 | 1 << 1).to_bytes(3, "little") + b"\x0a"
        return b"\x28\xb5\x2f\xfd" + b"\x00\x58" + block * 2047 + ((128 * 1024) << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"\x0a"
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(compressor.compress(bytes(MIB)) for _ in range(256)) + compressor.flush()


def large_traces() -> bytes:
    requests = Requests(spans=513)
    one = requests.next()
    return b"".join(requests.next() for _ in range(56 * MIB // len(one)))


def large_logs() -> bytes:
    request = ExportLogsServiceRequest()
    records = request.resource_logs.add().scope_logs.add().log_records
    for number in range(2000):
        record = records.add(time_unix_nano=time.time_ns(), severity_number=9)
        record.body.string_value = f"request {number} was answered in time, which is a line of ordinary length for a log"
        for key in ("k8s.pod.name", "http.route", "user.tier"):
            record.attributes.add(key=key).value.string_value = f"{key}-{number % 50}"
    one = request.SerializeToString()
    return one * (56 * MIB // len(one))


def log_of_small_values() -> bytes:
    """One record of 56 MiB: an array of empty values."""
    body = bytes.fromhex("0a00") * (28 * MIB)

    def field(tag: int, content: bytes) -> bytes:
        return bytes([tag]) + varint(len(content)) + content

    return field(0x0A, field(0x12, field(0x12, field(0x2A, field(0x2A, body)))))


def large_metrics() -> bytes:
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="queue")
    for number in range(2000):
        point = metric.gauge.data_points.add(time_unix_nano=time.time_ns(), as_double=number)
        for key in ("host", "queue", "zone"):
            point.attributes.add(key=key).value.string_value = f"{key}-{number % 50}"
    one = request.SerializeToString()
    return one * (56 * MIB // len(one))


def large_json() -> bytes:
    attributes = [{"key": f"ml.features.f{n}", "value": {"doubleValue": n / 7}} for n in range(20)]
    span = {"traceId": "%032x", "spanId": "%016x", "name": "predict", "startTimeUnixNano": "1", "attributes": attributes}
    span["attributes"] = [{"key": "ml.model.name", "value": {"stringValue": "fraud"}}, *attributes]
    text = json.dumps(span)
    spans = ",".join(text.replace("%032x", f"{n + 1:032x}").replace("%016x", f"{n + 1:016x}") for n in range(56 * MIB // (len(text) + 50)))
    return f'{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{spans}]}}]}}]}}'.encode()


def long_string() -> bytes:
    """A span whose name is 56 MiB long."""
    return b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"%032x","spanId":"%016x","name":"%b"}]}]}]}' % (1, 1, b"x" * (56 * MIB))


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


ATTACKS: dict[str, Attack] = {
    "random-grpc": ("grpc", METHOD, 0.01, random_bytes, {}),
    "random-http": ("http", "/v1/traces", 0.01, random_bytes, {"content-type": PROTOBUF}),
    "random-json": ("http", "/v1/traces", 0.01, random_bytes, {"content-type": JSON}),
    "truncated": ("grpc", METHOD, 0.01, truncated, {}),
    "inner-1GiB": ("grpc", METHOD, 0.01, repeated(inner_claims), {}),
    "claim-1GiB-grpc": ("raw-grpc", METHOD, 0.02, repeated(lambda: struct.pack(">BI", 0, 2**30)), {}),
    "claim-60MiB-grpc": ("raw-grpc", METHOD, 0.02, repeated(lambda: struct.pack(">BI", 0, 60 * MIB)), {}),
    "claim-1GiB-http": ("raw-http", "/v1/traces", 0.02, repeated(lambda: b"content-length: 1073741824"), {}),
    "claim-60MiB-http": ("raw-http", "/v1/traces", 0.02, repeated(lambda: b"content-length: 62914560"), {}),
    "bomb-gzip": ("http", "/v1/traces", 0.1, repeated(lambda: bomb("gzip")), {"content-type": PROTOBUF, "content-encoding": "gzip"}),
    "bomb-zstd": ("http", "/v1/traces", 0.1, repeated(lambda: bomb("zstd")), {"content-type": PROTOBUF, "content-encoding": "zstd"}),
    "bomb-gzip-grpc": ("grpc", METHOD, 0.1, repeated(lambda: bomb("gzip")), {}),
    "bomb-json": (
        "http", "/v1/logs", 0.5, repeated(lambda: gzip.compress(b'{"resourceLogs":[' + b'{"scopeLogs":[]},' * 3_000_000 + b"{}]}")),
        {"content-type": JSON, "content-encoding": "gzip"},
    ),
    "traces-56MiB-grpc": ("grpc", METHOD, 1.0, repeated(large_traces), {}),
    "traces-56MiB-http": ("http", "/v1/traces", 1.0, repeated(large_traces), {"content-type": PROTOBUF}),
    "traces-56MiB-json": ("http", "/v1/traces", 1.0, repeated(large_json), {"content-type": JSON}),
    "string-56MiB-json": ("http", "/v1/traces", 1.0, repeated(long_string), {"content-type": JSON}),
    "logs-56MiB": ("http", "/v1/logs", 1.0, repeated(large_logs), {"content-type": PROTOBUF}),
    "log-of-small-values": ("http", "/v1/logs", 1.0, repeated(log_of_small_values), {"content-type": PROTOBUF}),
    "metrics-56MiB": ("http", "/v1/metrics", 1.0, repeated(large_metrics), {"content-type": PROTOBUF}),
}  # fmt: skip


# --- who sends it


async def attack(name: str, ports: dict[str, int], seconds: float) -> Counter[str]:
    """Sends until the time is up, at most four requests at once; returns what they were told."""
    transport, path, pause_s, bodies, headers = ATTACKS[name]
    told = Counter[str]()
    made = bodies()
    slots = asyncio.Semaphore(4 if not transport.startswith("raw") else 200)
    until = time.monotonic() + seconds
    async with sender(transport, path, headers, ports) as send:

        async def one(body: bytes) -> None:
            try:
                told[await send(body)] += 1
            finally:
                slots.release()

        async with asyncio.TaskGroup() as tasks:
            next(made)  # made before the first is sent
            print("ready", flush=True)
            while time.monotonic() < until:
                await slots.acquire()
                tasks.create_task(one(next(made)))
                await asyncio.sleep(pause_s)
            if transport.startswith("raw"):  # they wait for what never comes
                raise asyncio.CancelledError
    return told


@asynccontextmanager
async def sender(transport: str, path: str, headers: dict[str, str], ports: dict[str, int]) -> AsyncIterator[Any]:
    if transport == "grpc":
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{ports['grpc']}", options=options) as channel:
            call = channel.unary_unary(path)

            async def send_grpc(body: bytes) -> str:
                try:
                    await call(body, timeout=60)
                except grpc.aio.AioRpcError as error:
                    return f"{error.code().name}: {(error.details() or '')[:70]}"
                return "OK"

            yield send_grpc
    elif transport == "http":
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports['http']}", timeout=60) as client:

            async def send_http(body: bytes) -> str:
                try:
                    reply = await client.post(path, content=body, headers=headers)
                except httpx.HTTPError as error:
                    return type(error).__name__
                if reply.status_code == 200:
                    return "200" if len(reply.content) < 3 else "200, in part"
                return f"{reply.status_code}: {_message(reply)[:70]}"

            yield send_http
    else:
        connections: list[asyncio.StreamWriter] = []

        async def send_raw(body: bytes) -> str:
            reader, writer = await asyncio.open_connection("127.0.0.1", ports["grpc" if transport == "raw-grpc" else "http"])
            connections.append(writer)
            if transport == "raw-grpc":
                writer.write(
                    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0) + frame(1, 4, 1, hpack(path)) + frame(0, 0, 1, body + bytes(1000))
                )
            else:
                writer.write(
                    b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: %b\r\n%b\r\n\r\n" % (path.encode(), PROTOBUF.encode(), body)
                    + bytes(1000)
                )
            reply = b""
            with suppress(OSError):
                while piece := await reader.read(65536):
                    reply += piece
                    if b"grpc-status" in reply or (transport == "raw-http" and b"\r\n\r\n" in reply):
                        break
            if transport == "raw-http":
                return reply.split(b"\r\n")[0].decode() or "closed"
            return "refused" if reply else "closed"

        yield send_raw
        for writer in connections:
            writer.close()


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """An HTTP/2 frame."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def hpack(path: str) -> bytes:
    """The headers of a gRPC call, none of them compressed."""
    headers = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x", "content-type": "application/grpc", "te": "trailers"}
    return b"".join(b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode() for name, value in headers.items())


def _message(reply: httpx.Response) -> str:
    if "json" in reply.headers.get("content-type", ""):
        return str(reply.json().get("message", ""))
    from google.rpc.status_pb2 import Status

    return Status.FromString(reply.content).message


# --- the others


async def ordinary(ports: dict[str, int], stop: asyncio.Event) -> tuple[list[float], Counter[str]]:
    """Sends small requests over both transports until `stop`; returns how long each took in ms, and what failed."""
    taken: list[float] = []
    failed = Counter[str]()
    requests = Requests(spans=9, seed=99)

    async def timed(send: Callable[[bytes], Any]) -> None:
        begun = time.monotonic()
        try:
            await send(requests.next())
        except (grpc.aio.AioRpcError, httpx.HTTPError) as error:
            failed[type(error).__name__] += 1
        taken.append((time.monotonic() - begun) * 1e3)

    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports['http']}", timeout=60) as client,
    ):
        call = channel.unary_unary(METHOD)

        async def by_grpc(body: bytes) -> None:
            await call(body, timeout=60)

        async def by_http(body: bytes) -> None:
            (await client.post("/v1/traces", content=body, headers={"content-type": PROTOBUF})).raise_for_status()

        async with asyncio.TaskGroup() as tasks:
            while not stop.is_set():
                tasks.create_task(timed(by_grpc))
                tasks.create_task(timed(by_http))
                await asyncio.sleep(PAUSE_S)
    return taken, failed


async def one(name: str, seconds: float) -> float:
    """Runs one attack against a collector of its own; returns the p99 of the others, in ms."""
    with tempfile.TemporaryDirectory(prefix="leadline-bench-") as data, Processes(Path(data), ("store.clickhouse=none",)) as machine:
        machine.start("collect")
        await machine.ready()
        told = ""
        stop = asyncio.Event()
        if name == "quiet":
            others = asyncio.create_task(ordinary(machine.ports, stop))
            await asyncio.sleep(seconds)
        else:
            command = [sys.executable, __file__, "--attack", name, "--seconds", str(seconds), "--ports", json.dumps(machine.ports)]
            attacker = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            assert attacker.stdout is not None
            await attacker.stdout.readline()  # it has made its requests
            others = asyncio.create_task(ordinary(machine.ports, stop))
            told = (await attacker.stdout.read()).decode().strip()
            await attacker.wait()
        stop.set()
        taken, failed = await others
        status = Path(f"/proc/{machine.processes['collect'].pid}/status").read_text()
        peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024 / 1e6
        lost = {signal: terms["lost"] for signal, terms in machine.accounting().items() if terms["lost"]}
    taken.sort()
    p50, p99 = (taken[int(len(taken) * level)] for level in (0.5, 0.99))
    faults = f"  others failed {dict(failed)}" * bool(failed) + f"  LOST {lost}" * bool(lost)
    print(f"{name:<20} {p50:8.1f} {p99:8.1f} {taken[-1]:8.1f} {len(taken):8} {peak:8.0f}   {told}{faults}", flush=True)
    return p99


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each attack")
    parser.add_argument("--only", default=",".join(ATTACKS), help="names of attacks")
    parser.add_argument("--attack", help=argparse.SUPPRESS)
    parser.add_argument("--ports", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.attack:
        told = Counter[str]()
        with suppress(asyncio.CancelledError):
            told = asyncio.run(attack(arguments.attack, arguments.ports, arguments.seconds))
        print("; ".join(f"{n} × {what}" for what, n in told.most_common(4)))
        return
    print(f"{'attack':<20} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8} {'others':>8} {'peak MB':>8}   what the attacker was told")
    quiet = asyncio.run(one("quiet", arguments.seconds))
    worst = {name: asyncio.run(one(name, arguments.seconds)) for name in arguments.only.split(",")}
    name, p99 = max(worst.items(), key=lambda item: item[1])
    print(f"worst p99 of the others: {p99:.1f} ms, under {name} ({p99 / quiet:.1f} times that of the quiet run; bar {BAR_MS:g} ms)")


if __name__ == "__main__":
    main()
