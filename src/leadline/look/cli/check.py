"""`leadline check`"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from leadline.errors import ConfigError, LeadlineError
from leadline.evaluate.rules import Report, RuleSet, SloRule, check
from leadline.evaluate.wording import quoted, spoken
from leadline.look import tables
from leadline.look.cli.options import ConfigFile, DataDir, Overrides, settings_of
from leadline.model.findings import Kind
from leadline.settings import Settings, placed, read_yaml

_COUNTED = """
SELECT sli, sum(good + bad) AS events, greatest(60, toUnixTimestamp(now()) - min(toUnixTimestamp(window_start))) AS seconds
FROM sli_counts WHERE window_start > now() - INTERVAL 1 DAY GROUP BY sli
"""
_MODELS = """
SELECT DISTINCT model FROM
(
    SELECT model FROM sketches WHERE window_start > now() - INTERVAL 1 DAY AND series = ''
    UNION ALL SELECT model FROM predictions WHERE event_time > now() - INTERVAL 5 MINUTE  -- sketches go out each sketch.window
)
ORDER BY model
"""


def command(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RULES", help="rules files or directories; those of evaluate.rules if none is said", show_default=False),
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="do not ask ClickHouse how much traffic there is")] = False,
    config: ConfigFile = None,
    data: DataDir = None,
    overrides: Overrides = None,
) -> None:
    """Check settings, dialects, sampling expressions and rules, and show the rules as they will run.

    Every fault is told at once, with its place; the exit status is then 1. Warnings are about what can be used, but not as one may
    think: a factor no outage can reach, windows in which a handful of errors is a page, a model without traffic.

    A rules file, rules/fraud.yaml:

    \b
      model: fraud
      slos:
        - name: served-well
          objective: 99.9%
          window: 30d
          good: "error_type = '' AND duration_ms < 250"
        - name: sure
          objective: 95%
          window: 7d
          among: "predicted = 'fraud'"
          good: "confidence > 0.8"
          by: \\[version]            # one alert a version
          severities: \\[ticket]     # nobody is woken
      drift:
        - reference: baseline/train     # leadline baseline create train …
          series: \\["features/*", score, predicted]
          false_alarms: 1 per 90d

    Conditions are SQL over a prediction's row: model, version, role, task, predicted, score, confidence, duration_ms, error_type and
    segments. What is NULL is neither good nor bad.

    \b
      leadline check rules/
      leadline check --config leadline.yaml --offline
    """
    try:
        settings = settings_of(config, data, overrides)
    except ConfigError as error:
        _tell("fault", error.faults)
        print("the rules are checked once the settings are right", file=sys.stderr)
        raise typer.Exit(1) from None
    faults = [_with_place(fault, config) for fault in setting_faults(settings)]
    paths = files or settings.evaluate.rules
    report = rules_report(settings, paths)
    warnings = list(report.warnings)
    if report.rules is not None and not offline and settings.store.clickhouse != "none":
        warnings += asyncio.run(_from_store(settings, report.rules, paths))
    faults += report.faults
    console = tables.console()
    if report.rules is not None:
        show(console, report.rules, settings)
    _tell("warning", warnings)
    _tell("fault", faults)
    if not paths:
        print("no rules of your own are checked: name files, or set evaluate.rules")
    if faults:
        raise typer.Exit(1)
    found = len(report.rules.slos) + len(report.rules.drift) if report.rules else 0
    print(f"settings and {_number(found, 'rule')} can be used, with {_number(len(warnings), 'warning')}")


def setting_faults(settings: Settings) -> list[str]:
    """What is wrong about settings beyond their types: what each process would refuse at its start."""
    from leadline.decode import dialect
    from leadline.sample.policies import policies_of
    from leadline.store.client import open_store
    from leadline.store.otlp_out import OtlpOut

    faults: list[str] = []
    for part in (
        lambda: dialect.load(settings.dialects, settings.segments),
        lambda: policies_of(settings.sample, settings.segments),
        lambda: open_store(settings),
        lambda: OtlpOut(settings.export) if settings.export.otlp is not None else None,
    ):
        try:
            part()
        except ConfigError as error:
            faults += error.faults
    return faults


def rules_report(settings: Settings, paths: Sequence[Path], events_per_s: dict[str, float] | None = None) -> Report:
    """The rules in `paths`, held against the settings they will run with."""
    from leadline.evaluate.drift import DETECTORS

    return check(
        paths,
        settings.evaluate,
        sli_window_s=settings.sketch.sli_window,
        sketch_window_s=settings.sketch.window,
        segments=settings.segments,
        measures=tuple(DETECTORS),
        events_per_s=events_per_s,
    )


def show(console: Console, rules: RuleSet, settings: Settings) -> None:
    """Prints the rules in force: windows, factors, and what they come to."""
    if rules.slos:
        table = Table(title="SLOs: an alert fires while both windows burn at the factor", title_justify="left")
        for name in ("rule", "objective", "severity"):
            table.add_column(name, no_wrap=True)
        for name in ("long", "short", "factor", "bad share", "at least"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("good")
        for rule in rules.slos:
            for index, pair in enumerate(rule.pairs):
                about = (rule.rule, f"{float(rule.objective * 100):.6g} % of {spoken(rule.period_ns)}") if not index else ("", "")
                condition = f"{rule.good.text}{f' (among {rule.among.text})' if rule.among else ''}" if not index else ""
                table.add_row(
                    *about,
                    pair.severity,
                    spoken(pair.long_ns),
                    spoken(pair.short_ns),
                    f"{float(pair.factor):.4g}",
                    f"{float(100 * pair.factor * (1 - rule.objective)):.4g} %",
                    f"{rule.min_bad} bad",
                    _escaped(condition),
                )
            table.add_section()
        console.print(table)
    if rules.drift:
        table = Table("rule", "reference", "series", "measure", "window", "false alarms", title="drift: tickets", title_justify="left")
        for drift in rules.drift:
            chance = f"1 per {spoken(drift.window_ns / drift.false_alarms_per_window)}" if drift.false_alarms_per_window else "none"
            series = _escaped(", ".join(drift.series))
            table.add_row(drift.rule, drift.baseline, series, drift.measure, spoken(drift.window_ns), chance)
        console.print(table)
    table = Table("alert", "severity", "fires when", "for", title="Leadline itself: always in force", title_justify="left")
    for own in rules.own:
        when = (
            "always"
            if own.kind is Kind.DEAD_MAN
            else f"{own.reading} {'>' if own.above is not None else '<'} {own.above or own.below or 0:g}"
        )
        table.add_row(own.alert, own.severity, when, spoken(own.for_ns))
    console.print(table)
    if rules.time_scale != 1:
        console.print(f"evaluate.time_scale is {float(rules.time_scale):g}: windows and times above are already divided by it")
    if not settings.alert.alertmanagers:
        console.print("alert.alertmanagers is empty: alerts are written to table evaluations, and nobody is told")


async def _from_store(settings: Settings, rules: RuleSet, paths: Sequence[Path]) -> list[str]:
    """Warnings that take ClickHouse: low traffic, models that nobody has seen, references that are not there."""
    from leadline.store.client import open_store
    from leadline.store.readings import StoreReader

    store = open_store(settings)
    try:
        counted = {row["sli"]: float(row["events"]) / float(row["seconds"]) for row in await store.query(_COUNTED)}
        models = [str(row["model"]) for row in await store.query(_MODELS)]
        warnings, events_per_s = [], {}
        for rule in rules.slos:
            if rule.model not in models:
                seen = f"; seen were {', '.join(models[:10])}" if models else ""
                warnings.append(f"{rule.rule}: no prediction of model {rule.model!r} was measured in the last day{seen}")
            elif rule.sli in counted:
                events_per_s[rule.sli] = counted[rule.sli]
            else:  # a rule that is not in force yet: its events are counted from the rows themselves
                (row,) = await store.query(_events_of(rule))
                events_per_s[rule.sli] = float(row["events"]) / 3600
        whole = rules_report(settings, paths, events_per_s)
        warnings += whole.warnings[len(rules.warnings) :]
        reader = StoreReader(store)
        for drift in rules.drift:
            if not await reader.references(drift.model, drift.baseline, drift.series):
                warnings.append(
                    f"{drift.rule}: baseline {drift.baseline!r} of {drift.model} has no series that match {', '.join(drift.series)}; "
                    f"see `leadline baseline list`, or make it: leadline baseline create {drift.baseline} --model {drift.model} --help"
                )
        return warnings
    except LeadlineError as error:
        print(f"traffic and references are not checked: {error}", file=sys.stderr)
        return []
    finally:
        store.close()


def _events_of(rule: SloRule) -> str:
    among = f" AND ({rule.among.sql()})" if rule.among else ""
    role = "" if rule.with_shadow else " AND role != 'shadow'"
    return (
        f"SELECT count() AS events FROM predictions WHERE model = {quoted(rule.model)}{role} "
        f"AND event_time > now() - INTERVAL 1 HOUR AND ({rule.good.sql()}) IS NOT NULL{among}"
    )


def _with_place(fault: str, config: Path | None) -> str:
    """A fault of a setting, with its place in the file where it was said there."""
    if config is None:
        return fault
    places = read_yaml(config)[1]
    key = fault.partition(":")[0]
    names: tuple[Any, ...] = tuple(int(part) if part.isdigit() else part for part in key.replace("[", ".").replace("]", "").split("."))
    place = next((places[names[:n]] for n in range(len(names), 0, -1) if names[:n] in places), None)
    return fault if place is None else placed(fault, place)


def _tell(what: str, texts: Sequence[str]) -> None:
    for text in texts:
        print(f"{what}: {text}", file=sys.stderr)


def _number(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
