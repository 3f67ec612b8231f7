"""Rules in force, read from ClickHouse: what a collector counts for the evaluator."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable
from typing import Any

from leadline.errors import LeadlineError
from leadline.model.ports import Store

_log = logging.getLogger("leadline.store")
_TELL_AFTER = 3
"""Failures in a row: at a first start the tables are not there yet, and a restart of ClickHouse is over by then."""
_SQL = "SELECT name, argMax(body, created_at) AS newest FROM rules WHERE name IN ('slis', 'references') GROUP BY name"


async def poll_rules(store: Store, into: Callable[[dict[str, Any]], None], every_s: float, stop: asyncio.Event) -> None:
    """Hands new rules on until `stop`. While ClickHouse does not answer, those in force stay."""
    failures = 0
    while not stop.is_set():
        try:
            rules: dict[str, Any] = {}
            for row in await store.query(_SQL):
                rules.update(json.loads(row["newest"]))
            if rules:
                into(rules)
            failures = 0
        except LeadlineError as error:
            failures += 1
            if failures == _TELL_AFTER:
                _log.warning("rules cannot be read, those in force stay: %s", error)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), every_s)
