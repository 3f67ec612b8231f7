"""Rules into the store, from where collectors poll what to count.

Two rows of table `rules` are for them: ``slis``, `{"slis": [{"id", "model", "among", "good"}]}`, and ``references``,
`{"references": [{"model", "series", "baseline", "bins_id", "edges", "atoms", "categories"}]}`: all that is in force. A row
``rule/<name>`` for each rule says what the `rule_hash` of an evaluation stood for; a rule that is gone gets a last row with active = false.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from leadline.evaluate.rules import RuleSet, SloRule
from leadline.model.blocks import Block
from leadline.model.ports import Reader, Store
from leadline.model.times import unix_seconds

COLUMNS = ("name", "hash", "created_at", "active", "body")


async def publish(store: Store, reader: Reader, rules: RuleSet, now_ns: int) -> list[str]:
    """Writes what differs from the newest rows; returns the names that were written. Raises `StoreError`."""
    references: dict[str, dict[str, Any]] = {}
    for rule in rules.drift:
        for reference in await reader.references(rule.model, rule.baseline, rule.series):
            references.setdefault(f"{rule.model}\0{reference['series']}\0{reference['bins_id']}", reference)
    bodies: dict[str, tuple[str, str]] = {}

    def body(name: str, value: object, content_hash: str | None = None) -> None:
        text = json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
        bodies[name] = (content_hash or hashlib.sha256(text.encode()).hexdigest()[:16], text)

    body("slis", {"slis": [{"id": sli, "model": model, "among": among, "good": good} for sli, model, among, good in rules.slis()]})
    body("references", {"references": [references[key] for key in sorted(references)]})
    for slo in rules.slos:
        body(f"rule/{slo.rule}", _described(slo), slo.hash)
    for drift in rules.drift:
        body(f"rule/{drift.rule}", asdict(drift), drift.hash)
    for own in rules.own:
        body(f"rule/{own.rule}", asdict(own), own.hash)
    in_force = await reader.rules_in_force()
    rows: list[dict[str, Any]] = []
    created = unix_seconds(now_ns)
    for name, (content_hash, text) in bodies.items():
        if in_force.get(name) != content_hash:
            rows.append({"name": name, "hash": content_hash, "created_at": created, "active": True, "body": text})
    for name in in_force.keys() - bodies.keys():
        rows.append({"name": name, "hash": in_force[name], "created_at": created, "active": False, "body": ""})
    if rows:
        data = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
        token = f"rules/{now_ns // 1_000_000}/{hashlib.sha256(data).hexdigest()[:16]}"
        await store.insert(Block("rules", COLUMNS, "JSONEachRow", data, token, len(rows)))
    return [str(row["name"]) for row in rows]


def _described(rule: SloRule) -> dict[str, Any]:
    return {
        "model": rule.model,
        "name": rule.name,
        "sli": rule.sli,
        "objective": str(rule.objective),
        "period_s": rule.period_ns / 1e9,
        "good": rule.good.text,
        "among": rule.among.text if rule.among else "",
        "pairs": [
            {"severity": pair.severity, "long_s": pair.long_ns / 1e9, "short_s": pair.short_ns / 1e9, "factor": float(pair.factor)}
            for pair in rule.pairs
        ],
        "by_version": rule.by_version,
    }
