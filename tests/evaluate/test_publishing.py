"""Rules in table `rules`: what collectors count, and what a hash stood for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from leadline.evaluate.publishing import publish
from leadline.evaluate.rules import load_rules
from leadline.store.readings import StoreReader

NOW = 1_800_000_000_000_000_000
SECOND = 1_000_000_000


def newest(store: Any) -> dict[str, Any]:
    """Name -> body, as a collector polls it."""
    rows = store.run("SELECT name, argMax(body, created_at) AS newest FROM rules WHERE name IN ('slis', 'references') GROUP BY name")
    return {row["name"]: json.loads(row["newest"]) for row in rows}


async def test_collectors_find_slis_and_references(store: Any, tmp_path: Path) -> None:
    """Written when it changes, and only then; a baseline made later becomes a reference; a rule that is gone is said to be."""
    path, reader = tmp_path / "rules.yaml", StoreReader(store)
    path.write_text(
        "model: fraud\nslos: [{name: ok, objective: 99%, good: \"error_type = ''\"}]\ndrift: [{reference: baseline/b, series: ['features/*']}]\n"
    )
    rules = load_rules([path])
    written = await publish(store, reader, rules, NOW)
    assert {"slis", "references", "rule/fraud/ok", "rule/fraud/drift", "rule/leadline/lost"} <= set(written)
    assert newest(store)["slis"] == {"slis": [{"id": rules.slos[0].sli, "model": "fraud", "among": "", "good": "error_type = ''"}]}
    assert newest(store)["references"] == {"references": []}
    assert await publish(store, reader, rules, NOW + SECOND) == []
    base = {"baseline": "b", "created_at": 1_800_000_000, "model": "fraud", "version": "", "kind": "numeric", "atoms": [], "categories": []}
    store.rows(
        "baselines",
        [
            {**base, "series": s, "bins_id": s, "edges": [0, 1], "counts": [0] * 6, "n_eff": 9, "source": ""}
            for s in ("features/a", "score")
        ],
    )
    assert await publish(store, reader, rules, NOW + 2 * SECOND) == ["references"]
    assert newest(store)["references"]["references"] == [
        {
            "model": "fraud",
            "series": "features/a",
            "baseline": "b",
            "bins_id": "features/a",
            "edges": [0.0, 1.0],
            "atoms": [],
            "categories": [],
        }
    ]
    # There and back again: the rows of the way back are not taken for a repeat of the way there.
    assert "slis" in await publish(store, reader, load_rules([]), NOW + 3 * SECOND)
    assert newest(store)["slis"] == {"slis": []}
    assert "rule/fraud/ok" not in await reader.rules_in_force()
    assert "slis" in await publish(store, reader, rules, NOW + 4 * SECOND)
    assert newest(store)["slis"]["slis"][0]["id"] == rules.slos[0].sli
    assert (await reader.rules_in_force())["rule/fraud/ok"] == rules.slos[0].hash
