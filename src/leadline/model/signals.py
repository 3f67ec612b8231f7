"""The signals of OTLP, and what a request's reply says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Signal(StrEnum):
    """An OTLP signal; the value is the name used in accounting."""

    TRACES = "traces"
    METRICS = "metrics"
    LOGS = "logs"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What is said to the client of an accepted request.

    Parameters
    ----------
    rejected : int
        Items refused one by one; the others are stored. Sampling is not rejection.
    message : str
        Why, for a person; empty exactly when nothing is to be said (partial_success stays unset).
    """

    rejected: int = 0
    message: str = ""
