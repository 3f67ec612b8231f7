"""Requests for load: one encoded template, whose ids, times and values are written anew in place, from a seed."""

from __future__ import annotations

import struct
import time

import numpy as np
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

FEATURES = 20
SPANS_PER_TRACE = 3
SPANS = 513


class Requests:
    """Encoded trace requests of `spans` spans in three-span traces: a server span, a prediction with 20 features, a lookup.

    Parameters
    ----------
    spans : int
        A multiple of 3.
    seed : int
    model : str
    error_share : float
        Of traces whose prediction has status ERROR.
    """

    def __init__(self, spans: int = SPANS, seed: int = 1, model: str = "fraud", error_share: float = 0.01) -> None:
        self._rng = np.random.default_rng(seed)
        self.spans, self.traces = spans, spans // SPANS_PER_TRACE
        request = ExportTraceServiceRequest()
        resource = request.resource_spans.add()
        for key, value in (("service.name", "scorer"), ("service.instance.id", "bench-1")):
            attribute = resource.resource.attributes.add(key=key)
            attribute.value.string_value = value
        scope = resource.scope_spans.add()
        scope.scope.name = "bench"
        for trace in range(self.traces):
            error = trace < round(self.traces * error_share)
            for position in range(SPANS_PER_TRACE):
                span = scope.spans.add(
                    trace_id=_mark(0xA1, trace, 16), span_id=_mark(0xB2, trace * 4 + position, 8), name=("POST /score", f"predict {model}", "lookup")[position],
                    kind=Span.SPAN_KIND_SERVER if position == 0 else Span.SPAN_KIND_INTERNAL, start_time_unix_nano=_TIME, end_time_unix_nano=_TIME,
                )  # fmt: skip
                if position:
                    span.parent_span_id = _mark(0xB2, trace * 4, 8)
                for key, value in _ATTRIBUTES[position].items():
                    span.attributes.add(key=key).value.string_value = value
                if position == 1:
                    span.attributes.add(key="ml.model.name").value.string_value = model
                    span.attributes.add(key="ml.model.version").value.string_value = "7"
                    for feature in range(FEATURES):
                        span.attributes.add(key=f"ml.features.f{feature}").value.double_value = _VALUE
                    if error:
                        span.status.code = Status.STATUS_CODE_ERROR
        body = request.SerializeToString()
        self.size = len(body)
        self._body = np.frombuffer(body, dtype=np.uint8).copy()
        trace_ids = [body.index(_mark(0xA1, trace, 16)) for trace in range(self.traces)]
        self._trace_at = np.array([list(_all(body, _mark(0xA1, trace, 16), start)) for trace, start in enumerate(trace_ids)])
        self._span_at = np.array(
            [list(_all(body, _mark(0xB2, n, 8), 0))[:1] for trace in range(self.traces) for n in range(trace * 4, trace * 4 + 3)]
        )
        self._parent_at = np.array([_all(body, _mark(0xB2, trace * 4, 8), 0)[1:] for trace in range(self.traces)])
        self._time_at = np.array(_all(body, struct.pack("<Q", _TIME), 0)).reshape(-1, 2)
        self._value_at = np.array(_all(body, struct.pack("<d", _VALUE), 0))

    def next(self, now_ns: int | None = None) -> bytes:
        """A request with new ids, times and values."""
        now = time.time_ns() if now_ns is None else now_ns
        body, rng = self._body, self._rng
        ids = rng.integers(1, 256, (self.traces, 16), dtype=np.uint8)
        for column in range(SPANS_PER_TRACE):
            body[self._trace_at[:, column, None] + np.arange(16)] = ids
        spans = rng.integers(1, 256, (self.traces, SPANS_PER_TRACE, 8), dtype=np.uint8)
        body[self._span_at.reshape(-1, 1) + np.arange(8)] = spans.reshape(-1, 8)
        for column in range(SPANS_PER_TRACE - 1):
            body[self._parent_at[:, column, None] + np.arange(8)] = spans[:, 0]
        ends = np.full(self.spans, now, dtype="<u8")
        starts = ends - rng.gamma(2.0, 8e6, self.spans).astype("<u8")
        for column, times in ((0, starts), (1, ends)):
            body[self._time_at[:, column, None] + np.arange(8)] = times.view(np.uint8).reshape(-1, 8)
        values = rng.normal(size=len(self._value_at)).astype("<f8")
        body[self._value_at[:, None] + np.arange(8)] = values.view(np.uint8).reshape(-1, 8)
        return body.tobytes()


_ATTRIBUTES = (
    {"http.request.method": "POST", "url.path": "/v1/score", "server.address": "scorer", "user_agent.original": "client/3"},
    {},
    {"db.system.name": "redis", "db.operation.name": "HMGET", "server.address": "features-0"},
)
_TIME = 0x1122334455667788
_VALUE = 1.2345678901234567e-89


def _mark(tag: int, number: int, size: int) -> bytes:
    return bytes([tag, 0xE7, 0x5D]) + number.to_bytes(4, "big") + bytes([tag]) * (size - 7)


def _all(body: bytes, needle: bytes, start: int) -> list[int]:
    found = []
    at = body.find(needle, start)
    while at >= 0:
        found.append(at)
        at = body.find(needle, at + 1)
    return found
