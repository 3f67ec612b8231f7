"""`setup()`: OpenTelemetry's SDK and OTLP exporters, configured for a collector on this machine or elsewhere, in one call."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

MAX_EXPORT_BYTES: Final = 16_000_000
"""A request stays well below OTLP's 64 MiB, and one that is sent again costs little."""
DELAY_MS: Final = 1000
SIGTERM_FLUSH_S: Final = 5.0
QUEUE_SPANS: Final = 4096
BATCH_SPANS: Final = 512
GRPC_PORT_ENDPOINT: Final = "http://127.0.0.1:4317"
HTTP_PORT_ENDPOINT: Final = "http://127.0.0.1:4318"


@dataclass(frozen=True, slots=True)
class Providers:
    """What `setup` put in place."""

    tracer_provider: TracerProvider
    logger_provider: LoggerProvider

    def flush(self, timeout_s: float = 30.0) -> bool:
        """Sends what is queued; False if it did not get through in time."""
        timeout_ms = int(timeout_s * 1000)
        spans = self.tracer_provider.force_flush(timeout_ms)
        return self.logger_provider.force_flush(timeout_ms) and spans

    def shutdown(self) -> None:
        """Sends what is queued and stops; also done when the interpreter ends."""
        self.tracer_provider.shutdown()
        self.logger_provider.shutdown()


class _Sized:
    """Divides a batch of spans into exports of bounded size: the SDK's batches are counted in spans, and a span may carry 4 MB."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        from opentelemetry.sdk.trace.export import SpanExportResult

        result, size = SpanExportResult.SUCCESS, 0
        part: list[ReadableSpan] = []
        for span in spans:
            weight = _weight(span)
            if part and size + weight > MAX_EXPORT_BYTES:
                result = self._worse(result, part)
                part, size = [], 0
            part.append(span)
            size += weight
        return self._worse(result, part) if part else result

    def _worse(self, result: SpanExportResult, part: list[ReadableSpan]) -> SpanExportResult:
        from opentelemetry.sdk.trace.export import SpanExportResult

        return result if self._exporter.export(part) is SpanExportResult.SUCCESS else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _weight(span: ReadableSpan) -> int:
    """About how many bytes a span takes on the wire; exact where it matters, in its long values."""
    size = 300
    for value in (span.attributes or {}).values():
        if isinstance(value, bytes | str):
            size += len(value)
        elif isinstance(value, Sequence):
            size += len(value) * (12 if not value or not isinstance(value[0], str) else 8 + len(value[0]))
        size += 30
    return size


def setup(
    endpoint: str | None = None,
    *,
    protocol: Literal["grpc", "http"] | None = None,
    service: str | None = None,
    set_global: bool = True,
    flush_on_sigterm: bool = True,
) -> Providers:
    """Sends spans and events to a collector: gzip, batches of 512 spans and at most 16 MB, one second's delay, a flush at exit.

    Parameters
    ----------
    endpoint : str, optional
        ``http://127.0.0.1:4317`` (``:4318`` for HTTP) if neither this nor OTEL_EXPORTER_OTLP_ENDPOINT says.
    protocol : {"grpc", "http"}, optional
        From OTEL_EXPORTER_OTLP_PROTOCOL, or ``grpc``.
    service : str, optional
        `service.name`; from OTEL_SERVICE_NAME, or the program's name.
    set_global : bool
        Make them OpenTelemetry's global providers.
    flush_on_sigterm : bool
        Send what is queued when the process is told to end by SIGTERM, if nothing else handles that signal: exit handlers do
        not run then, and web servers such as uvicorn end themselves by it.

    Returns
    -------
    Providers
        Flush and shut down by hand where a process ends in another way (a recycled worker, a lambda).

    Notes
    -----
    What OTEL_* variables say about endpoints, headers, compression, certificates, batches and queues holds where no
    argument says otherwise. Needs the extra: ``pip install 'leadline[sdk]'``.
    """
    try:
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ImportError("leadline.sdk.setup needs OpenTelemetry's SDK: pip install 'leadline[sdk]'") from error

    chosen = protocol or ("http" if os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc").startswith("http") else "grpc")
    if chosen not in {"grpc", "http"}:
        raise ValueError(f"protocol: expected 'grpc' or 'http', got {protocol!r}")
    spans_out, logs_out = (_grpc if chosen == "grpc" else _http)(endpoint)
    name = service or os.environ.get("OTEL_SERVICE_NAME") or Path(sys.argv[0]).stem or "model"
    resource = Resource.create({"service.name": name})
    tracer_provider, logger_provider = TracerProvider(resource=resource), LoggerProvider(resource=resource)
    tracer_provider.add_span_processor(
        BatchSpanProcessor(
            _Sized(spans_out),  # type: ignore[arg-type]
            max_queue_size=_env("OTEL_BSP_MAX_QUEUE_SIZE", QUEUE_SPANS),
            schedule_delay_millis=_env("OTEL_BSP_SCHEDULE_DELAY", DELAY_MS),
            max_export_batch_size=_env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH_SPANS),
        )
    )
    logger_provider.add_log_record_processor(
        BatchLogRecordProcessor(logs_out, schedule_delay_millis=_env("OTEL_BLRP_SCHEDULE_DELAY", DELAY_MS))
    )
    if set_global:
        from opentelemetry import _logs, trace

        trace.set_tracer_provider(tracer_provider)
        _logs.set_logger_provider(logger_provider)
    ready = Providers(tracer_provider, logger_provider)
    if flush_on_sigterm and threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, functools.partial(_end, ready))
    return ready


def _end(ready: Providers, number: int, frame: object) -> None:
    """Flushes in a thread of its own: the interrupted one may hold a lock of the exporter, so this waits for a bounded time."""
    thread = threading.Thread(target=ready.shutdown, daemon=True)
    thread.start()
    thread.join(SIGTERM_FLUSH_S)
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


def _env(name: str, default: int) -> int | None:
    """None where the variable is set: the SDK reads it itself."""
    return None if os.environ.get(name) else default


def _grpc(endpoint: str | None) -> tuple[Any, Any]:
    try:
        import grpc
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise ImportError("protocol='grpc' needs opentelemetry-exporter-otlp-proto-grpc: pip install 'leadline[sdk]'") from error
    squeezed = None if _says("COMPRESSION") else grpc.Compression.Gzip
    target = endpoint or (None if _says("ENDPOINT") else GRPC_PORT_ENDPOINT)
    insecure = None if target is None else not target.startswith("https://")
    return (
        OTLPSpanExporter(endpoint=target, insecure=insecure, compression=squeezed),
        OTLPLogExporter(endpoint=target, insecure=insecure, compression=squeezed),
    )


def _http(endpoint: str | None) -> tuple[Any, Any]:
    try:
        from opentelemetry.exporter.otlp.proto.http import Compression
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise ImportError("protocol='http' needs: pip install opentelemetry-exporter-otlp-proto-http") from error
    squeezed = None if _says("COMPRESSION") else Compression.Gzip
    base = endpoint or (None if _says("ENDPOINT") else HTTP_PORT_ENDPOINT)
    targets = [None if base is None else f"{base.rstrip('/')}/v1/{signal}" for signal in ("traces", "logs")]
    return OTLPSpanExporter(endpoint=targets[0], compression=squeezed), OTLPLogExporter(endpoint=targets[1], compression=squeezed)


def _says(what: str) -> bool:
    return any(os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}{what}") for signal in ("", "TRACES_", "LOGS_"))
