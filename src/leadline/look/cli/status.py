"""`leadline status`"""

from __future__ import annotations

import re
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table
from rich.text import Text

from leadline.errors import LeadlineError
from leadline.evaluate.wording import instant
from leadline.look import tables
from leadline.look.cli.options import ConfigFile, DataDir, Overrides, settings_of
from leadline.settings import Settings

_RATES = """
SELECT model, version, sum(observed) AS predictions, max(window_start) AS newest
FROM sketches WHERE series = '' AND window_start >= now() - INTERVAL 1 HOUR GROUP BY model, version ORDER BY predictions DESC LIMIT 20
"""
_ALERTS = """
SELECT rule, severity, state, value, threshold, labels['series'] AS series, labels['alertname'] AS alert, summary, toUnixTimestamp64Milli(fired_at) AS fired_ms,
       toUnixTimestamp64Milli(resolved_at) AS resolved_ms, toUnixTimestamp64Milli(evaluated) AS tick_ms, toUnixTimestamp64Milli(now64(3)) AS now_ms
FROM alerts_now WHERE evaluated = (SELECT max(evaluated_at) FROM evaluations)
"""
_QUIET = {"inactive", "insufficient_history"}
_ORDER = {"page": 0, "ticket": 1, "none": 2}


def command(config: ConfigFile = None, data: DataDir = None, overrides: Overrides = None) -> None:
    """Show where every item went, what is measured, the budget, and the alerts."""
    settings = settings_of(config, data, overrides)
    console = tables.console()
    problems = _accounting(settings, console) + _from_store(settings, console)
    for problem in problems:
        console.print(f"[yellow]{problem}[/yellow]")
    if problems:
        raise LeadlineError("status is incomplete; start what is missing with `leadline up`, or give the --config and --set it runs with")


def _accounting(settings: Settings, console: Console) -> list[str]:
    url = f"http://{settings.console.http}"
    try:
        body: dict[str, Any] = httpx.get(f"{url}/api/v1/accounting", timeout=10).raise_for_status().json()
        exposition = httpx.get(f"{url}/metrics", timeout=10).raise_for_status().text
    except httpx.HTTPError as error:
        return [f"no collector answers on {url}: {error}"]
    metrics = _values(exposition)
    console.print(tables.accounting_table(f"collector {body['collector']}: where every item went", body["signals"]))
    console.print(f"requests undecodable {body['requests_undecodable']:,}, told to come back later {body['requests_refused']:,}")
    for what, name in (("rejected", "leadline_rejected_total"), ("doubtful or left out", "leadline_doubtful_total")):
        counts = [f"{n:,.0f} × {reason} ({signal})" for (signal, reason), n in _labelled(exposition, name).items()]
        if counts:
            console.print(f"[yellow]{what} since the collector started:[/yellow] {', '.join(counts)}", soft_wrap=True)
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
    return _alerts(settings, console, alerts)


def _alerts(settings: Settings, console: Console, alerts: list[dict[str, Any]]) -> list[str]:
    """What fires, waits or cannot be judged, each; what is quiet, a line a rule. Returns what is wrong with the evaluator."""
    if not alerts:
        console.print("no rule was ever evaluated: start `leadline evaluate`; for rules of your own see `leadline check --help`")
        return []
    tick_ms, now_ms = int(alerts[0]["tick_ms"]), int(alerts[0]["now_ms"])
    ago_s = max(0.0, (now_ms - tick_ms) / 1000)
    console.print(f"[bold]alerts at the tick of {instant(tick_ms * 1_000_000)}, {ago_s:,.0f} s ago[/bold]")
    quiet: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in sorted(alerts, key=lambda row: (row["state"] != "firing", _ORDER.get(row["severity"], 3), row["rule"], row["series"])):
        if row["state"] in _QUIET:
            quiet.setdefault((row["rule"], row["severity"]), []).append(row)
            continue
        style = "" if row["state"] != "firing" or row["severity"] == "none" else "bold red" if row["severity"] == "page" else "bold yellow"
        since = f" since {instant(int(row['fired_ms']) * 1_000_000)}" if row["state"] == "firing" and row["fired_ms"] else ""
        of = f", {row['series']}" if row["series"] not in ("", "none") else ""
        console.print(Text(f"  {row['state']}: {row['rule']} ({row['severity']}{of}){since}", style=style), soft_wrap=True)
        console.print(Text(f"    {row['summary']}"), soft_wrap=True)
    table = Table("not firing", "severity", "state", "value", "threshold", "")
    table.columns[0].no_wrap = True
    for (rule, severity), rows in quiet.items():
        nearest = max(rows, key=lambda row: float(row["value"] or 0) / (float(row["threshold"] or 0) or 1))
        ended = max((int(row["resolved_ms"]) for row in rows if row["resolved_ms"]), default=None)
        what = [f"ended {instant(ended * 1_000_000)}"] if ended else []
        what += [f"{len(rows)} alerts"] if len(rows) > 1 else []
        still = nearest["alert"] == "LeadlineBurnRate" and None not in (nearest["value"], nearest["threshold"])
        what += ["the short window is clean"] if still and float(nearest["value"]) >= float(nearest["threshold"]) else []
        state = "inactive" if any(row["state"] == "inactive" for row in rows) else str(rows[0]["state"])
        table.add_row(rule, severity, state, _short(nearest["value"]), _short(nearest["threshold"]), ", ".join(what), style="dim")
    if quiet:
        console.print(table)
    late_s = 3 * settings.evaluate.every + settings.evaluate.patience
    if ago_s > late_s:
        return [
            f"the evaluator is {ago_s:,.0f} s behind: nothing fires or resolves meanwhile. Is `leadline evaluate` running? Its log says why"
        ]
    return []


def _short(value: Any) -> str:
    return "" if value is None else f"{float(value):.4g}"


def _values(text: str) -> dict[str, float]:
    """Metrics without labels: name -> value."""
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#") and "{" not in line)
    return {name: float(value) for name, value in pairs}


def _labelled(text: str, metric: str) -> dict[tuple[str, ...], float]:
    """One metric with labels: their values, in order -> value."""
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(metric + "{"))
    return {tuple(re.findall(r'="([^"]*)"', labels)): float(value) for labels, value in pairs}
