"""What became of requests, counted: the numbers behind `leadline_requests_total` on /metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from enum import StrEnum


class Transport(StrEnum):
    """How a request came in; the two HTTP encodings are told apart, because their costs are far apart."""

    GRPC = "grpc"
    HTTP_PROTOBUF = "http/protobuf"
    HTTP_JSON = "http/json"
    HTTP = "http"  # no encoding known: refused before its content type meant anything


class Outcome(StrEnum):
    """What the client was told."""

    ACCEPTED = "accepted"
    PARTIAL = "partial"  # accepted, and some items rejected or a warning given
    INVALID = "invalid"  # does not decode: 400 / INVALID_ARGUMENT
    TOO_LARGE = "too_large"  # above `receive.max_bytes`: 413 / RESOURCE_EXHAUSTED without RetryInfo
    OVERLOADED = "overloaded"  # told to come back later: 429 / UNAVAILABLE with RetryInfo
    UNAVAILABLE = "unavailable"  # failed for a passing or unforeseen reason: 503 / UNAVAILABLE
    UNSUPPORTED = "unsupported"  # wrong path, method, content type or encoding: 404, 405, 415
    UNREAD = "unread"  # its bytes never came whole: given up, too slow, or (gRPC) above `receive.max_bytes`


class Outcomes:
    """Requests by transport, signal and outcome. The label sets are closed, so this is at most a hundred numbers.

    Examples
    --------
    >>> outcomes = Outcomes()
    >>> outcomes.count(Transport.GRPC, "traces", Outcome.ACCEPTED)
    >>> list(outcomes)
    [('grpc', 'traces', 'accepted', 1)]
    """

    def __init__(self) -> None:
        self._counts: Counter[tuple[Transport, str, Outcome]] = Counter()

    def count(self, transport: Transport, signal: str, outcome: Outcome) -> None:
        """Adds one. `signal` is a `Signal`, or "" where none is known."""
        self._counts[transport, signal, outcome] += 1

    def of(self, outcome: Outcome) -> int:
        """Requests of all transports and signals with this outcome."""
        return sum(n for (_, _, found), n in self._counts.items() if found is outcome)

    def __iter__(self) -> Iterator[tuple[str, str, str, int]]:
        """(transport, signal, outcome, requests), sorted."""
        for (transport, signal, outcome), n in sorted(self._counts.items()):
            yield transport.value, str(signal), outcome.value, n
