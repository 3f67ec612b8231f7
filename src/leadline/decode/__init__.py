"""Bytes to columns: the decoders of the three signals, and the dialects that say which attribute means what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from leadline._kernel import DecodeError, decode_traces
from leadline.decode import dialect
from leadline.decode.records import decode_logs, decode_metrics
from leadline.errors import InvalidRequest
from leadline.model.accounting import Key
from leadline.model.ports import Decoder
from leadline.model.requests import Decoded
from leadline.model.signals import Signal


def decoders(dialects: Sequence[str], segments: Sequence[str], *, max_late_ns: int) -> Mapping[Signal, Decoder]:
    """The decoder of each signal.

    Parameters
    ----------
    dialects, segments : sequence of str
        As in Settings.
    max_late_ns : int
        Event times further back than this are clamped.

    Raises
    ------
    ConfigError
        For a dialect that cannot be read, with every fault and its place.
    """
    table = dialect.load(dialects, segments)

    def traces(body: bytes, receive_ns: int) -> tuple[Decoded, dict[Key, int]]:
        try:
            batch = decode_traces(body, table, receive_ns, max_late_ns=max_late_ns)
        except DecodeError as error:
            raise InvalidRequest(f"not an ExportTraceServiceRequest: {error}") from error
        items = {("traces", ""): batch.spans + sum(batch.rejected.values())}
        items.update({("predictions", model): n for model, n in batch.predictions.items()})
        return batch, items

    def metrics(body: bytes, receive_ns: int) -> tuple[Decoded, dict[Key, int]]:
        batch = decode_metrics(body, receive_ns, max_late_ns=max_late_ns)
        return batch, {("metrics", ""): batch.items + sum(batch.rejected.values())}

    def logs(body: bytes, receive_ns: int) -> tuple[Decoded, dict[Key, int]]:
        batch = decode_logs(body, receive_ns, max_late_ns=max_late_ns)
        return batch, {("logs", ""): batch.items + sum(batch.rejected.values())}

    return {Signal.TRACES: traces, Signal.METRICS: metrics, Signal.LOGS: logs}
