"""The demo's model server and its traffic, with real processes and real OTLP: the tally is exact."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.sdk.otlp_server import Received

from leadline.look.demo.patients import FEATURES, MMOL, load, write_csv
from leadline.look.demo.service import Faults, train
from leadline.look.demo.story import _service
from leadline.look.demo.traffic import Sent, Traffic, tally
from leadline.settings import load as load_settings


@pytest.fixture
def received() -> Iterator[Received]:
    server = Received()
    yield server
    server.close()


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


async def test_the_tally_is_what_the_service_sent(received: Received, tmp_path: Path) -> None:
    """Each answered request is one prediction with the same version, error, duration and glucose; outcomes are feedback."""
    settings = load_settings(None, [f"receive.grpc=127.0.0.1:{received.grpc_port}"])
    async with _service(settings, tmp_path / "log") as url:
        traffic = Traffic(url, load(), rate=200, outcome_share=0.3)
        running = asyncio.create_task(traffic.run())

        async def sent(count: int) -> None:
            async with asyncio.timeout(60):
                while len(traffic.sent) < count:
                    await asyncio.sleep(0.02)

        await sent(100)
        await traffic.break_v2(Faults(error_share=0.5, slow_share=0.2, delay_ms=30))
        traffic.in_mmol = True
        await sent(300)
        traffic.stop()
        await running
    assert traffic.lost == 0
    spans = [
        span
        for signal, body, _ in received.requests
        if signal == "traces"
        for group in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]
    predictions = [(span, attributes(span)) for span in spans if span.name.startswith("predict ")]
    assert sum(span.name == "feature store" for span in spans) == len(predictions)

    def of_span(span: Any, told: dict[str, Any]) -> tuple[str, bool, int, float]:
        values = np.frombuffer(told["ml.features.packed"], "<f4")
        return (
            told["ml.model.version"],
            told.get("error.type", "").endswith("FeatureStoreTimeout"),
            span.end_time_unix_nano - span.start_time_unix_nano,
            float(values[-1]),
        )

    def of_tally(one: Sent) -> tuple[str, bool, int, float]:
        return one.version, one.failed, one.duration_ns, float(np.float32(one.features["glucose"]))

    assert Counter(of_span(*one) for one in predictions) == Counter(of_tally(one) for one in traffic.sent)
    counts = tally(traffic.sent, 25)
    assert counts["v1"]["failed"] == 0
    assert 0 < counts["v2"]["failed"] < counts["v2"]["bad"]
    glucose = [float(one.features["glucose"]) for one in traffic.sent]
    assert min(glucose) < 124 / MMOL < 58 <= max(glucose)
    outcomes = [
        record
        for signal, body, _ in received.requests
        if signal == "logs"
        for group in ExportLogsServiceRequest.FromString(body).resource_logs
        for scope in group.scope_logs
        for record in scope.log_records
    ]
    assert len(outcomes) == traffic.outcomes > 0


def test_the_models_have_learnt_something() -> None:
    """Both versions are right about their own training set clearly more often than not."""
    patients = load()
    table = [[float(row[name]) for name in FEATURES] for row in patients.rows]
    for model in train(patients).values():
        assert model.score(table, patients.fast) > 0.7


def test_the_training_set_is_a_file_with_every_patient(tmp_path: Path) -> None:
    """A header with the features' names, then 442 rows."""
    write_csv(load().rows, tmp_path / "training.csv")
    lines = (tmp_path / "training.csv").read_text().splitlines()
    assert lines[0] == ",".join(FEATURES)
    assert len(lines) == 443
