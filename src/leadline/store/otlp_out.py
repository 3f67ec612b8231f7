"""Kept traces out over OTLP, to any endpoint: a gateway, Tempo, Jaeger, a vendor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leadline.errors import ConfigError, PermanentError, StoreError
from leadline.model.blocks import Block
from leadline.settings import ExportConfig

_METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_PASSING = {429, 502, 503, 504}


class OtlpOut:
    """Sends blocks whose data is an ExportTraceServiceRequest. A `Store` that only takes.

    Parameters
    ----------
    config : ExportConfig
        `otlp` is ``http(s)://host:4318`` (``/v1/traces`` is added) or ``grpc://host:4317``.
    """

    def __init__(self, config: ExportConfig) -> None:
        endpoint = config.otlp or ""
        scheme = endpoint.partition("://")[0]
        if scheme not in ("http", "https", "grpc"):
            raise ConfigError([f"export.otlp: expected http://host:4318, https://… or grpc://host:4317, got {endpoint!r}"])
        self._grpc = scheme == "grpc"
        self._endpoint = endpoint.removeprefix("grpc://").rstrip("/")
        if not self._grpc and not self._endpoint.endswith("/v1/traces"):
            self._endpoint += "/v1/traces"
        self._headers = dict(config.headers)
        self._client: Any = None

    async def insert(self, block: Block) -> None:
        if self._grpc:
            await self._send_grpc(block.data)
        else:
            await self._send_http(block.data)

    async def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        raise PermanentError("an OTLP endpoint cannot be queried")

    async def command(self, sql: str) -> None:
        raise PermanentError("an OTLP endpoint takes no statements")

    async def close(self) -> None:
        """Closes the connection; the next block opens another."""
        client, self._client = self._client, None
        if client is not None:
            await (client.close() if self._grpc else client.aclose())

    async def _send_http(self, data: bytes) -> None:
        import httpx

        if self._client is None:
            self._client = httpx.AsyncClient(timeout=10.0)
        try:
            reply = await self._client.post(
                self._endpoint, content=data, headers={"Content-Type": "application/x-protobuf", **self._headers}
            )
        except httpx.HTTPError as error:
            raise StoreError(f"{self._endpoint}: {error or type(error).__name__}") from error
        if reply.status_code in _PASSING:
            raise StoreError(f"{self._endpoint}: HTTP {reply.status_code}")
        if reply.status_code >= 300:
            raise PermanentError(f"{self._endpoint}: HTTP {reply.status_code}: {reply.text[:200]!r}")

    async def _send_grpc(self, data: bytes) -> None:
        import grpc

        if self._client is None:
            self._client = grpc.aio.insecure_channel(self._endpoint)
        try:
            await self._client.unary_unary(_METHOD)(
                data, timeout=10.0, metadata=[(key.lower(), value) for key, value in self._headers.items()]
            )
        except grpc.aio.AioRpcError as error:
            passing = {
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.DEADLINE_EXCEEDED,
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                grpc.StatusCode.ABORTED,
            }
            kind = StoreError if error.code() in passing else PermanentError
            raise kind(f"{self._endpoint}: {error.code().name}: {error.details()}") from error
