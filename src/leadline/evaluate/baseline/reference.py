"""A baseline as rows of tables `baselines` and `baseline_windows`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

from leadline.evaluate.baseline.bins import Bins, Floats
from leadline.model.blocks import Block
from leadline.model.times import unix_seconds

COLUMNS = (
    "baseline", "created_at", "model", "version", "series", "kind", "bins_id", "edges", "atoms", "categories", "counts", "n_eff", "source",
)  # fmt: skip
WINDOW_COLUMNS = ("baseline", "bins_id", "window_start", "window_s", "counts")
ROWS_A_BLOCK = 100_000


@dataclass(frozen=True, slots=True)
class Reference:
    """One series, frozen.

    Parameters
    ----------
    series : str
        As in table `sketches`: ``features/<name>``, ``score``, ``predicted``, …
    bins : Bins
    counts : array, shape (bins.width,)
        Of the whole reference.
    n_eff : float
        Effective sample size behind the counts.
    windows : mapping, window start in seconds since 1970 -> counts
        The reference's own history; empty where it has no times.
    """

    series: str
    bins: Bins
    counts: Floats
    n_eff: float
    windows: dict[int, Floats] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Baseline:
    """Everything of one ``leadline baseline create``.

    Parameters
    ----------
    name, model, version : str
        `version` is empty where the reference is of no one version.
    references : tuple of Reference
    window_s : int
        Width of the history's windows.
    source : str
        Where it came from, for people.
    notes : tuple of str
        What was left out or looked doubtful, for people.
    """

    name: str
    model: str
    version: str
    references: tuple[Reference, ...]
    window_s: int
    source: str
    notes: tuple[str, ...] = ()

    def blocks(self, created_ns: int) -> list[Block]:
        """The rows to insert. Their tokens come from the content: creating the same baseline again at once changes nothing."""
        created = unix_seconds(created_ns)
        rows, windows = [], []
        for reference in self.references:
            bins, bins_id = reference.bins, reference.bins.id(self.model, reference.series)
            rows.append(
                {
                    "baseline": self.name,
                    "created_at": created,
                    "model": self.model,
                    "version": self.version,
                    "series": reference.series,
                    "kind": bins.kind,
                    "bins_id": bins_id,
                    "edges": bins.edges,
                    "atoms": bins.atoms,
                    "categories": bins.categories,
                    "counts": reference.counts.tolist(),
                    "n_eff": reference.n_eff,
                    "source": self.source,
                }
            )
            windows += [
                {"baseline": self.name, "bins_id": bins_id, "window_start": start, "window_s": self.window_s, "counts": counts.tolist()}
                for start, counts in sorted(reference.windows.items())
            ]
        content = hashlib.sha256(_lines([{**row, "created_at": ""} for row in rows]) + _lines(windows)).hexdigest()[:32]
        blocks = [Block("baselines", COLUMNS, "JSONEachRow", _lines(rows), f"baseline/{content}/0", len(rows))]
        for start in range(0, len(windows), ROWS_A_BLOCK):
            part = windows[start : start + ROWS_A_BLOCK]
            token = f"baseline/{content}/windows/{start}"
            blocks.append(Block("baseline_windows", WINDOW_COLUMNS, "JSONEachRow", _lines(part), token, len(part)))
        return blocks


def _lines(rows: list[dict[str, object]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n" for row in rows)
