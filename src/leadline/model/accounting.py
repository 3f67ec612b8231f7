"""Where every item went.

received = kept + sampled_out + rejected + duplicate + forwarded + waiting, for every signal and model. Each term is
counted at its own place: *received* and *duplicate* where the journal writes, *rejected* where bytes are decoded, *sampled_out*
where traces are decided, *kept* where ClickHouse has said yes, *waiting* by asking the buffers. What is missing is *lost*.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

TERMS = ("received", "kept", "sampled_out", "rejected", "duplicate", "forwarded", "waiting")
SIGNALS = ("traces", "metrics", "logs", "predictions")

Key = tuple[str, str]
"""(signal, model); the model is empty but for predictions."""


class Ledger:
    """Counts by (signal, model) and term. Not locked: each ledger has one writer."""

    def __init__(self, counts: Mapping[Key, Mapping[str, int]] | None = None) -> None:
        self._counts: dict[Key, dict[str, int]] = {key: dict(terms) for key, terms in (counts or {}).items()}

    def add(self, term: str, items: Mapping[Key, int]) -> None:
        """Adds to one term; zeros leave no trace."""
        for key, n in items.items():
            if n:
                terms = self._counts.setdefault(key, {})
                terms[term] = terms.get(term, 0) + n

    def get(self, key: Key, term: str) -> int:
        return self._counts.get(key, {}).get(term, 0)

    def keys(self) -> list[Key]:
        return sorted(self._counts)

    def copy(self) -> Ledger:
        return Ledger(self._counts)

    def merged(self, other: Ledger) -> Ledger:
        """The sum of both."""
        result = self.copy()
        for key, terms in other._counts.items():
            for term, n in terms.items():
                result.add(term, {key: n})
        return result

    def minus(self, other: Ledger) -> Ledger:
        """What this has over `other`; may be negative (waiting falls)."""
        result = self.copy()
        for key, terms in other._counts.items():
            for term, n in terms.items():
                result.add(term, {key: -n})
        return result

    def rows(self) -> list[tuple[str, str, dict[str, int]]]:
        """(signal, model, terms) of every key with a count that is not zero."""
        return [
            (signal, model, {term: terms.get(term, 0) for term in TERMS})
            for (signal, model), terms in sorted(self._counts.items())
            if any(terms.values())
        ]

    def by_signal(self) -> dict[str, dict[str, int]]:
        """signal -> terms and *lost*, summed over models: the body of `/api/v1/accounting`."""
        total: dict[str, dict[str, int]] = {signal: dict.fromkeys(TERMS, 0) for signal in SIGNALS}
        for (signal, _), terms in self._counts.items():
            for term, n in terms.items():
                total[signal][term] += n
        return {signal: {**terms, "lost": lost(terms)} for signal, terms in total.items()}

    def by_model(self) -> dict[str, dict[str, int]]:
        """model -> terms and *lost*, of predictions."""
        return {model: {**terms, "lost": lost(terms)} for signal, model, terms in self.rows() if signal == "predictions"}

    def to_json(self) -> list[list[object]]:
        return [[signal, model, {term: n for term, n in terms.items() if n}] for signal, model, terms in self.rows()]

    @classmethod
    def from_json(cls, rows: Iterable[tuple[str, str, Mapping[str, int]]]) -> Ledger:
        return cls({(signal, model): terms for signal, model, terms in rows})


def lost(terms: Mapping[str, int]) -> int:
    """What the terms do not explain. 0, or something is broken."""
    return terms.get("received", 0) - sum(terms.get(term, 0) for term in TERMS[1:])
