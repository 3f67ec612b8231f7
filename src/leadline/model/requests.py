"""An accepted request on its way through the stages, and the marks between requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from leadline.model.signals import Signal


class Decoded(Protocol):
    """What the stages need to know of a decoded request, whatever its signal."""

    @property
    def rejected(self) -> dict[str, int]:
        """Items refused one by one: reason -> count."""

    @property
    def notes(self) -> dict[str, int]:
        """What was taken but is doubtful, or left out of an item: note -> count."""


@dataclass(frozen=True, slots=True)
class Request:
    """One accepted request.

    Parameters
    ----------
    signal : Signal
    sequence : int
        Its position in the journal.
    receive_ns : int
    decoded : Decoded
        A kernel `SpanBatch`, or a batch of metrics or logs.
    items : mapping (signal, model) -> int
        All that it carried, rejected items included: spans and, by model, predictions; data points; records.
    """

    signal: Signal
    sequence: int
    receive_ns: int
    decoded: Decoded
    items: Mapping[tuple[str, str], int]


@dataclass(frozen=True, slots=True)
class Cut:
    """The end of a journal segment: what was measured so far goes out.

    Parameters
    ----------
    sequence : int
        Its position in the journal; the `segment` of the rows that go out.
    time_ns : int
    sketches : bool
        Whether sketches go out too (each `sketch.window`), or only counters.
    """

    sequence: int
    time_ns: int
    sketches: bool
