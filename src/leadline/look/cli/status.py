"""`leadline status`"""

from __future__ import annotations

from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from leadline.errors import LeadlineError
from leadline.look.cli.options import ConfigFile, DataDir, Overrides, settings_of
from leadline.model.accounting import TERMS
from leadline.settings import Settings

_RATES = """
SELECT model, version, sum(observed) AS predictions, max(window_start) AS newest
FROM sketches WHERE series = '' AND window_start >= now() - INTERVAL 1 HOUR GROUP BY model, version ORDER BY predictions DESC LIMIT 20
"""
_ALERTS = """
SELECT rule, severity, argMax(state, evaluated_at) AS now, argMax(value, evaluated_at) AS value, argMax(threshold, evaluated_at) AS threshold,
       argMax(fired_at, evaluated_at) AS since, argMax(annotations['summary'], evaluated_at) AS summary, max(evaluated_at) AS evaluated
FROM evaluations WHERE evaluated_at >= now() - INTERVAL 1 DAY GROUP BY rule, fingerprint, severity ORDER BY now = 'firing' DESC, rule LIMIT 50
"""


def command(config: ConfigFile = None, data: DataDir = None, overrides: Overrides = None) -> None:
    """Show where every item went, what is measured, the budget, and the alerts."""
    settings = settings_of(config, data, overrides)
    console = Console()
    problems = _accounting(settings, console) + _from_store(settings, console)
    for problem in problems:
        console.print(f"[yellow]{problem}[/yellow]")
    if problems:
        raise LeadlineError("status is incomplete; start what is missing with `leadline up`, or give the --config and --set it runs with")


def _accounting(settings: Settings, console: Console) -> list[str]:
    url = f"http://{settings.console.http}"
    try:
        body: dict[str, Any] = httpx.get(f"{url}/api/v1/accounting", timeout=10).raise_for_status().json()
        metrics = _values(httpx.get(f"{url}/metrics", timeout=10).raise_for_status().text)
    except httpx.HTTPError as error:
        return [f"no collector answers on {url}: {error}"]
    table = Table(title=f"collector {body['collector']}: where every item went", title_justify="left")
    table.add_column("signal")
    for term in (*TERMS, "lost"):
        table.add_column(term.replace("_", " "), justify="right")
    for signal, terms in body["signals"].items():
        lost = terms["lost"]
        table.add_row(signal, *(f"{terms[term]:,}" for term in TERMS), f"[bold red]{lost:,}[/bold red]" if lost else "0")
    console.print(table)
    console.print(f"requests undecodable {body['requests_undecodable']:,}, told to come back later {body['requests_refused']:,}")
    budget = settings.sample.budget.traces_per_second
    console.print(
        f"sampling: budget {'none' if budget is None else f'{budget:g} traces/s'}, plan revision {metrics.get('leadline_plan_revision', 0):.0f}, "
        f"base probability {metrics.get('leadline_plan_base_probability', 0):.4g}; "
        f"undecided {metrics.get('leadline_buffer_traces', 0):,.0f} traces in {metrics.get('leadline_buffer_bytes', 0) / 1e6:,.1f} MB"
    )
    console.print(
        f"journal {metrics.get('leadline_journal_bytes', 0) / 1e6:,.1f} MB on disk, outbox {metrics.get('leadline_outbox_bytes', 0) / 1e6:,.1f} MB, "
        f"resident {metrics.get('leadline_resident_bytes', 0) / 1e6:,.0f} MB"
    )
    return []


def _from_store(settings: Settings, console: Console) -> list[str]:
    import asyncio

    from leadline.store.client import open_store

    if settings.store.clickhouse == "none":
        return []
    store = open_store(settings)

    async def ask() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        return await store.query(_RATES), await store.query(_ALERTS)

    try:
        rates, alerts = asyncio.run(ask())
    except LeadlineError as error:
        return [f"ClickHouse does not answer: {error}"]
    table = Table("model", "version", "predictions", "newest window", title="measured in the last hour", title_justify="left")
    for row in rates:
        table.add_row(row["model"], row["version"], f"{int(row['predictions']):,}", str(row["newest"]))
    console.print(table if rates else "no predictions measured in the last hour (sketches go out each `sketch.window`)")
    table = Table("rule", "severity", "state", "value", "threshold", "since", "what", title="rules", title_justify="left")
    for row in alerts:
        style = "bold red" if row["now"] == "firing" else ""
        table.add_row(
            row["rule"],
            row["severity"],
            row["now"],
            _short(row["value"]),
            _short(row["threshold"]),
            str(row["since"] or ""),
            row["summary"],
            style=style,
        )
    console.print(table if alerts else "no rules evaluated in the last day (write one: see `leadline check --help`)")
    return []


def _short(value: Any) -> str:
    return "" if value is None else f"{float(value):.4g}"


def _values(text: str) -> dict[str, float]:
    """Metrics without labels: name -> value."""
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#") and "{" not in line)
    return {name: float(value) for name, value in pairs}
