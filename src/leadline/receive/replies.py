"""What a client is told: a table from errors to gRPC and HTTP, and the bytes of the replies.

A refusal is a `google.rpc.Status` in the request's own encoding; JSON where that is not known, because a person reads it.
Retryable answers are 429 and 503 with Retry-After, and UNAVAILABLE with RetryInfo: OTLP makes clients retry those.
RESOURCE_EXHAUSTED without RetryInfo means "never": used for requests above the size limit only.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from google.protobuf import any_pb2, duration_pb2, json_format
from google.rpc import code_pb2, error_details_pb2, status_pb2
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from leadline.errors import InvalidRequest, LeadlineError, Overloaded, PermanentError, RetryableError, TooLarge
from leadline.model.signals import Receipt, Signal
from leadline.receive.outcomes import Outcome

ERROR_TEXT_BYTES = 1_000
"""Bound of an error's text. gRPC sends it twice in its trailers (once percent-encoded), and clients take 8 KiB of them."""

WARNING_TEXT_BYTES = 64 * 1024
"""Bound of a partial success's text; OTLP bounds the whole response at 4 MiB."""

UNFORESEEN_RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request refused, for either transport.

    Parameters
    ----------
    outcome : Outcome
    http : int
        Status of the HTTP reply.
    grpc : int
        Code of the gRPC reply, and of the Status in the body of an HTTP one (but 429, which is RESOURCE_EXHAUSTED).
    message : str
        For a person: where, expected, got, what to do.
    retry_after_s : float or None
        None: the same request fails again.
    path : str
        The field at fault, where one is known: a BadRequest detail.
    headers : tuple of (name, value)
        More HTTP headers.
    """

    outcome: Outcome
    http: int
    grpc: int
    message: str
    retry_after_s: float | None = None
    path: str = ""
    headers: tuple[tuple[bytes, bytes], ...] = ()


# The first kind that fits wins; what fits none is unforeseen.
_KINDS: tuple[tuple[type[LeadlineError], Outcome, int, int], ...] = (
    (InvalidRequest, Outcome.INVALID, 400, code_pb2.INVALID_ARGUMENT),
    (TooLarge, Outcome.TOO_LARGE, 413, code_pb2.RESOURCE_EXHAUSTED),
    (Overloaded, Outcome.OVERLOADED, 429, code_pb2.UNAVAILABLE),
    (RetryableError, Outcome.UNAVAILABLE, 503, code_pb2.UNAVAILABLE),
    (PermanentError, Outcome.INVALID, 400, code_pb2.INVALID_ARGUMENT),
)


def refusal(error: Exception) -> Refusal:
    """What to tell a client whose request ended in `error`. Unforeseen errors are retryable, and never 500."""
    for kind, outcome, http, grpc in _KINDS:
        if isinstance(error, kind):
            delay = error.retry_after_s if isinstance(error, RetryableError) else None
            return Refusal(outcome, http, grpc, clipped(str(error), ERROR_TEXT_BYTES), delay, getattr(error, "path", ""))
    message = f"{type(error).__name__} while taking the request in; it was not accepted. Send it again; the collector's log says more."
    return Refusal(Outcome.UNAVAILABLE, 503, code_pb2.UNAVAILABLE, message, UNFORESEEN_RETRY_S)


def is_unforeseen(error: Exception) -> bool:
    """Whether `error` is none of ours, and so is to be logged with its traceback."""
    return not isinstance(error, LeadlineError)


def clipped(text: str, limit: int) -> str:
    """`text`, cut to `limit` bytes of UTF-8."""
    data = text.encode("utf-8", "replace")
    return data.decode() if len(data) <= limit else data[: limit - 3].decode("utf-8", "ignore") + "…"


def status(refused: Refusal, code: int) -> status_pb2.Status:
    """The google.rpc.Status of a refusal, with RetryInfo or BadRequest where they apply."""
    details = []
    if refused.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(refused.retry_after_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if refused.path:
        violation = error_details_pb2.BadRequest.FieldViolation(field=clipped(refused.path, 200), description=clipped(refused.message, 500))
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code, message=refused.message, details=packed)


def refusal_body(refused: Refusal, *, as_json: bool) -> bytes:
    """The body of an HTTP error."""
    message = status(refused, code_pb2.RESOURCE_EXHAUSTED if refused.http == 429 else refused.grpc)
    return _json(message) if as_json else bytes(message.SerializeToString())


def refusal_headers(refused: Refusal) -> list[tuple[bytes, bytes]]:
    """The headers of an HTTP error beside its content type; Retry-After is whole seconds, rounded up."""
    headers = list(refused.headers)
    if refused.retry_after_s is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(refused.retry_after_s))).encode()))
    return headers


def success_body(signal: Signal, receipt: Receipt, *, as_json: bool) -> bytes:
    """An Export…ServiceResponse: partial_success is unset where nothing is to be said."""
    if not receipt.rejected and not receipt.message:
        return b"{}" if as_json else b""
    text = clipped(receipt.message or "rejected; the collector's metrics say why", WARNING_TEXT_BYTES)
    response = _RESPONSES[signal](receipt.rejected, text)
    return _json(response) if as_json else bytes(response.SerializeToString())


def _json(message: Any) -> bytes:
    return json.dumps(json_format.MessageToDict(message), separators=(",", ":")).encode()


def _traces(rejected: int, text: str) -> Any:
    part = trace_service_pb2.ExportTracePartialSuccess(rejected_spans=rejected, error_message=text)
    return trace_service_pb2.ExportTraceServiceResponse(partial_success=part)


def _metrics(rejected: int, text: str) -> Any:
    part = metrics_service_pb2.ExportMetricsPartialSuccess(rejected_data_points=rejected, error_message=text)
    return metrics_service_pb2.ExportMetricsServiceResponse(partial_success=part)


def _logs(rejected: int, text: str) -> Any:
    part = logs_service_pb2.ExportLogsPartialSuccess(rejected_log_records=rejected, error_message=text)
    return logs_service_pb2.ExportLogsServiceResponse(partial_success=part)


_RESPONSES = {Signal.TRACES: _traces, Signal.METRICS: _metrics, Signal.LOGS: _logs}
