"""Kept traces out over OTLP: to real receivers, with the threshold they were kept by."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from leadline.errors import ConfigError, InvalidRequest, Overloaded, PermanentError, StoreError
from leadline.model.blocks import Block
from leadline.model.signals import Signal
from leadline.settings import ExportConfig
from leadline.store.otlp_out import OtlpOut
from leadline.testing.processes import Processes, free_port, until
from leadline.testing.receivers import receiving

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from load import send
from payloads import Requests


async def _insert(endpoint: str, data: bytes) -> None:
    out = OtlpOut(ExportConfig(otlp=endpoint))
    try:
        await out.insert(Block("(otlp)", (), "otlp", data, "c/1/otlp/0", 1))
    finally:
        await out.close()


@pytest.mark.parametrize("transport", ["grpc", "http"])
async def test_a_block_arrives_as_it_is(transport: str) -> None:
    """The receiver gets the same bytes."""
    body = Requests(99, seed=1).next()
    async with receiving() as receivers:
        port = receivers.grpc.port if transport == "grpc" else receivers.http.port
        await _insert(f"{transport}://127.0.0.1:{port}", body)
        assert receivers.intake.requests == [(Signal.TRACES, body)]


@pytest.mark.parametrize("transport", ["grpc", "http"])
@pytest.mark.parametrize(("error", "expected"), [(Overloaded("full"), StoreError), (InvalidRequest("no"), PermanentError)])
async def test_what_passes_is_tried_again_and_what_does_not_is_not(transport: str, error: Exception, expected: type[Exception]) -> None:
    """A receiver under pressure means later; one that cannot read it means never."""
    async with receiving() as receivers:
        receivers.intake.error = error
        port = receivers.grpc.port if transport == "grpc" else receivers.http.port
        with pytest.raises(expected, match=r"127\.0\.0\.1"):
            await _insert(f"{transport}://127.0.0.1:{port}", Requests(99, seed=2).next())


async def test_nobody_there_means_later() -> None:
    """A refused connection is not the block's fault."""
    for transport in ("grpc", "http"):
        with pytest.raises(StoreError):
            await _insert(f"{transport}://127.0.0.1:{free_port()}", b"x")


def test_an_endpoint_without_a_scheme_is_refused() -> None:
    """It says what is expected."""
    with pytest.raises(ConfigError, match="expected http://host:4318"):
        OtlpOut(ExportConfig(otlp="tempo:4317"))


async def test_kept_spans_go_out_with_a_threshold_that_holds(tmp_path: Path) -> None:
    """What the collector kept arrives, each span with `ot=th`, and R ≥ T holds for every one."""
    async with receiving() as receivers:
        overrides = (
            "collector=c1",
            "store.clickhouse=none",
            "sample.keep=[{probabilistic: 25%}]",
            "sample.budget.traces_per_second=null",
            "sample.decision_wait=500ms",
            f"export.otlp=grpc://127.0.0.1:{receivers.grpc.port}",
        )
        with Processes(tmp_path, overrides) as machine:
            machine.start("collect")
            await machine.ready()
            await send(f"127.0.0.1:{machine.ports['grpc']}", seconds=20, rate=0, channels=1, spans=99, in_flight=2, seed=1, total=9_900)
            counts = await machine.settled()

            def arrived() -> list[Span]:
                messages = [ExportTraceServiceRequest.FromString(body) for _, body in receivers.intake.requests]
                scopes = [scope for message in messages for resource in message.resource_spans for scope in resource.scope_spans]
                return [span for scope in scopes for span in scope.spans]

            await until(lambda: len(arrived()) == counts["traces"]["kept"], "all kept spans are there")
        assert 0 < len(arrived()) < counts["traces"]["received"]
        assert {span.trace_state for span in arrived()} == {"ot=th:c"}
        assert all(int.from_bytes(span.trace_id[9:], "big") >= 0xC0000000000000 for span in arrived())
