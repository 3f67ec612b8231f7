"""How late predictions come is known with and without SLIs to count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.sketch.conftest import _DIALECT, START_S

from leadline._kernel import decode_traces
from leadline.model.requests import Cut, Request
from leadline.model.signals import Signal
from leadline.settings import SketchConfig
from leadline.sketch.measure import Measure

SECOND = 10**9


def request(sequence: int, late_s: float, n: int = 50) -> Request:
    """`n` predictions that happened `late_s` before they were received."""
    body = ExportTraceServiceRequest()
    scope = body.resource_spans.add().scope_spans.add()
    received_ns = (START_S + sequence) * SECOND
    at_ns = received_ns - round(late_s * SECOND)
    for number in range(n):
        span = scope.spans.add(trace_id=number.to_bytes(16, "big"), span_id=b"s" * 8, start_time_unix_nano=at_ns, end_time_unix_nano=at_ns)
        span.attributes.add(key="ml.model.name").value.string_value = "m"
    decoded = decode_traces(body.SerializeToString(), _DIALECT, received_ns, max_late_ns=10**18)
    return Request(Signal.TRACES, sequence, received_ns, decoded, {("predictions", "m"): n})


@pytest.mark.parametrize("slis", [[], [{"id": "s", "model": "m", "good": "error_type = ''"}]], ids=["no SLI", "an SLI"])
def test_the_lag_is_measured_at_each_cut(slis: list[dict[str, Any]]) -> None:
    """The evaluator holds drift windows back by it, also where nothing but drift is watched."""
    measure = Measure(SketchConfig(), "c", ())
    measure.control({"slis": slis})
    assert measure.lag_p99_ms == 0
    measure.add(request(1, late_s=1.5))
    measure.cut(Cut(2, (START_S + 2) * SECOND, sketches=False))
    assert measure.lag_p99_ms == pytest.approx(1500)
    for sequence in range(3, 300):
        measure.add(request(sequence, late_s=0.25))
        measure.cut(Cut(sequence, (START_S + sequence) * SECOND, sketches=True))
    assert measure.lag_p99_ms == pytest.approx(250), "old lags are forgotten"
    assert np.isfinite(measure.lag_p99_ms)
