"""The tree of errors.

LeadlineError
├── PermanentError      the same input fails again: refuse (400), drop, count
│   ├── InvalidRequest  bytes that are not the OTLP they claim to be
│   ├── TooLarge        a request above `receive.max_bytes`, before or after decompression
│   ├── ConfigError     settings, rules or dialects that do not say what they must
│   └── ExpressionError an expression outside the grammar, with its column
└── RetryableError      the same input may pass later: 503 / 429 with a delay
    ├── Overloaded      a bound is reached; `retry_after_s` says when to come back
    └── StoreError      ClickHouse did not answer, or refused for a passing reason
"""

from __future__ import annotations


class LeadlineError(Exception):
    """Anything Leadline raises on purpose. The text says where, what was expected, what was got, what to do."""


class PermanentError(LeadlineError):
    """The same input fails again."""


class InvalidRequest(PermanentError):
    """Bytes that are not the OTLP they claim to be."""


class TooLarge(PermanentError):
    """A request above the size limit, before or after decompression."""


class ConfigError(PermanentError):
    """Settings, rules or dialects that do not say what they must. Holds every fault found, each with its place."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


class ExpressionError(PermanentError):
    """An expression outside the grammar. `column` is 1-based."""

    def __init__(self, message: str, *, text: str, column: int) -> None:
        self.text, self.column = text, column
        super().__init__(f"{message} (column {column})\n  {text}\n  {' ' * (column - 1)}^")


class RetryableError(LeadlineError):
    """The same input may pass later."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class Overloaded(RetryableError):
    """A bound is reached."""


class StoreError(RetryableError):
    """ClickHouse did not answer, or refused for a passing reason."""


def reason(error: Exception) -> str:
    """What the operating system says, to stand within a sentence."""
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{why[:1].lower()}{why[1:]}"
