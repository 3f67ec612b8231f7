"""Rules files: what is promised of a model, and what is watched.

::

    model: fraud
    slos:
      - {name: served-well, objective: 99.9%, window: 30d, good: "error_type = '' AND duration_ms < 250"}
    drift:
      - {reference: baseline/2026-10-train, series: ["features/*", score], measure: psi, window: 1h, false_alarms: 1 per 90d}

`load_rules` reads files and directories, checks them whole, and raises one `ConfigError` with every fault and its
place. What can be used, but not as it was written, is in `RuleSet.warnings`: a factor that no outage can reach is lowered, and
said. The rules that watch Leadline itself (`rules/leadline.yaml`, `self:`) are always part of the set.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from leadline.errors import ConfigError, ExpressionError
from leadline.evaluate.detector import DriftRule
from leadline.evaluate.slo.windows import SECOND, SEVERITIES, Pair, Severity, exact, pairs_for
from leadline.evaluate.wording import spoken
from leadline.expression import Expression, compile_expression, with_segments
from leadline.model.findings import Kind
from leadline.settings import Config, EvaluateConfig, Seconds, describe_fault, placed, read_yaml, seconds

SHIPPED = Path(__file__).parent / "rules" / "leadline.yaml"
RESERVED_LABELS = ("alertname", "severity", "rule", "slo", "model", "version", "series")
"""Set on every alert, so that no inhibition rule of Alertmanager ever compares a missing label with a missing label."""


def _objective(value: object) -> object:
    text = str(value).strip()
    match = re.fullmatch(r"([0-9.]+)\s*(%?)", text)
    if not match:
        raise ValueError("expected a share such as 99.9%")
    number = exact(match[1]) / (100 if match[2] else 1)
    if number > 1:
        raise ValueError(f"expected a share such as 99.9% or 0.999 (write {text}% for {text} in a hundred)")
    if number == 1:
        raise ValueError(
            "an objective of 100 % leaves no error budget, so no burn rate can be computed; take 99.99 %, or a count of bad events in SQL"
        )
    if number < Fraction(1, 2):
        raise ValueError("expected an objective of at least 50 %: below it, a burn rate says nothing. Turn the condition round")
    return number


def alarm_rate(value: object) -> object:
    """``1 per 90d`` -> alarms a second."""
    if isinstance(value, str) and (match := re.fullmatch(r"\s*([0-9.]+)\s+per\s+(.+)", value)):
        period = seconds(match[2])
        if isinstance(period, float) and period > 0:
            return float(match[1]) / period
    raise ValueError("expected an alarm budget such as '1 per 90d'")


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", value):
        raise ValueError("expected a name of letters, digits, '_', '.', '-', at most 63 of them")
    return value


def _baseline(value: object) -> object:
    """``baseline/2026-10-train`` -> ``2026-10-train``."""
    if isinstance(value, str) and value.startswith("baseline/") and len(value) > len("baseline/"):
        return value.removeprefix("baseline/")
    raise ValueError("expected baseline/NAME, where NAME is what `leadline baseline create` was given")


Name = Annotated[str, AfterValidator(_name)]
Objective = Annotated[Fraction, BeforeValidator(_objective), Field(strict=False)]


class SloSpec(Config):
    """An SLO as it is written."""

    name: Name = Field(description="the alert's label `slo`; used once a model")
    model: str | None = Field(None, description="in place of the file's")
    objective: Objective = Field(description="share of good events, from 50 % to below 100 %")
    window: Seconds = Field(30 * 86400.0, gt=0, description="the period over which the objective holds and the error budget is counted")
    good: str = Field(description="condition of a good event")
    among: str = Field("", description="condition of an event that counts at all; all predictions if not said")
    severities: list[Severity] = Field(default_factory=lambda: list(SEVERITIES), min_length=1, description="which alerts it may raise")
    by: list[Literal["version"]] = Field(default_factory=list, description="one alert a version, in place of one a model")
    for_: Seconds = Field(0.0, alias="for", description="how long a burn must last before it fires; the short windows already see to that")
    keep_firing_for: Seconds = Field(0.0, description="how long an alert stays after its burn has ended")
    min_bad: int = Field(3, ge=1, description="bad events in the long window below which nothing fires")
    min_events: int = Field(1, ge=1, description="events in the long window below which nothing fires")
    runbook: str = Field("", description="link in the alert; the shipped runbook's section if not said")
    labels: dict[str, str] = Field(default_factory=dict, description="added to the alert")


class DriftSpec(Config):
    """A drift rule as it is written."""

    name: Name = Field("drift", description="used once a model")
    model: str | None = Field(None, description="in place of the file's")
    reference: Annotated[str, BeforeValidator(_baseline)] = Field(description="baseline/NAME: the frozen reference")
    series: list[str] = Field(min_length=1, description="shell patterns: features/*, score, predicted")
    measure: str = Field("psi", description="how two samples are compared")
    window: Seconds = Field(3600.0, gt=0, description="predictions of one window are compared with the reference, window after window")
    false_alarms: Annotated[float, BeforeValidator(alarm_rate)] = Field(
        1 / (90 * 86400), description="alarms of the whole rule that chance may raise"
    )
    effect: float | None = Field(None, ge=0, description="smallest value of the measure worth an alarm; the measure's own if not said")
    min_predictions: float = Field(100.0, ge=1, description="effective sample size below which a window is not judged")
    runbook: str = Field("", description="link in the alert; the shipped runbook's section if not said")
    labels: dict[str, str] = Field(default_factory=dict, description="added to the alert")


class SelfSpec(Config):
    """A rule about Leadline itself as it is written."""

    name: Name = Field(description="the rule is called leadline/NAME")
    alert: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="the alert's name")
    severity: Literal["page", "ticket", "none"] = Field("ticket", description="of the alert")
    reading: str = Field(description="what is compared: one of those in src/leadline/store/readings.py")
    above: float | None = Field(None, description="fires above this; exactly one of above, below and always is said")
    below: float | None = Field(None, description="fires below this")
    always: bool = Field(False, description="fires always: the dead man")
    for_: Seconds = Field(0.0, alias="for", description="how long it must last before it fires")
    keep_firing_for: Seconds = Field(0.0, description="how long an alert stays after it has ended")
    summary: str = Field(description="the alert's first line; {value} and label names in braces stand for what was measured")
    description: str = Field("", description="the rest of its text, in the same way")
    query: str = Field("", description="SQL to begin with")
    labels: dict[str, str] = Field(default_factory=dict, description="added to the alert")

    @model_validator(mode="after")
    def _one_comparison(self) -> SelfSpec:
        if [self.above is not None, self.below is not None, self.always].count(True) != 1:
            raise ValueError("expected exactly one of above, below and always")
        return self


class FileSpec(Config):
    """A rules file as it is written."""

    model: str = Field("", description="whose predictions the rules are about")
    slos: list[SloSpec] = Field(default_factory=list, description="objectives, and alerts on their burn rate")
    drift: list[DriftSpec] = Field(default_factory=list, description="comparisons with a frozen reference")
    own: list[SelfSpec] = Field(default_factory=list, alias="self", description="rules about Leadline itself, beside the shipped ones")


SECTIONS: Mapping[str, type[SloSpec | DriftSpec | SelfSpec]] = {"slos": SloSpec, "drift": DriftSpec, "self": SelfSpec}


@dataclass(frozen=True, slots=True)
class SloRule:
    """An SLO in force. All durations are already divided by `evaluate.time_scale`."""

    rule: str
    hash: str
    model: str
    name: str
    sli: str
    objective: Fraction
    period_ns: int
    good: Expression
    among: Expression | None
    pairs: tuple[Pair, ...]
    severities: tuple[Severity, ...]
    by_version: bool
    for_ns: int
    keep_firing_for_ns: int
    min_bad: int
    min_events: int
    runbook: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def with_shadow(self) -> bool:
        """Predictions in the role `shadow` reach no user: they count only where the rule itself speaks of roles."""
        return any("role" in expression.columns for expression in (self.good, self.among) if expression is not None)

    @property
    def windows_ns(self) -> frozenset[int]:
        return frozenset(width for pair in self.pairs for width in (pair.long_ns, pair.short_ns)) | {self.period_ns}


class Words(dict[str, object]):
    """What the braces of a rule's text stand for; a label that a sample does not have is ``?``."""

    def __missing__(self, key: str) -> str:
        return "?"


@dataclass(frozen=True, slots=True)
class SelfRule:
    """A rule about Leadline itself in force."""

    rule: str
    hash: str
    alert: str
    severity: str
    reading: str
    above: float | None
    below: float | None
    for_ns: int
    keep_firing_for_ns: int
    summary: str
    description: str
    query: str
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        return Kind.DEAD_MAN if self.above is None and self.below is None else Kind.SELF


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Every rule in force, in the order of the files."""

    slos: tuple[SloRule, ...] = ()
    drift: tuple[DriftRule, ...] = ()
    own: tuple[SelfRule, ...] = ()
    warnings: tuple[str, ...] = ()
    time_scale: Fraction = Fraction(1)
    min_coverage: float = 0.5
    resolve_latest_after_ns: int = 3600 * SECOND

    def slis(self) -> list[tuple[str, str, str, str]]:
        """(id, model, among, good) of each SLI to count, once, sorted."""
        found = {rule.sli: (rule.sli, rule.model, rule.among.text if rule.among else "", rule.good.text) for rule in self.slos}
        return [found[sli] for sli in sorted(found)]


def sli_id(model: str, among: str, good: str) -> str:
    """16 hex digits of what is counted: the same for the same conditions, however they are spaced."""
    return _hash([model, _respaced(among), _respaced(good)])


def _respaced(text: str) -> str:
    parts = re.split(r"('(?:[^'\\]|\\.|'')*')", text.strip())
    return "".join(part if index % 2 else re.sub(r"\s+", " ", part) for index, part in enumerate(parts))


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True, default=str).encode()).hexdigest()[
        :16
    ]


def load_rules(
    paths: Iterable[Path],
    config: EvaluateConfig | None = None,
    *,
    sli_window_s: float = 10.0,
    sketch_window_s: float = 60.0,
    segments: Sequence[str] = (),
    measures: Iterable[str] | None = None,
) -> RuleSet:
    """Reads and checks rules files.

    Parameters
    ----------
    paths : files or directories
        Of a directory, every ``*.yaml`` and ``*.yml`` in it, by name.
    config : EvaluateConfig
        Its burn table and time scale apply to every rule.
    sli_window_s : float
        Width of the collectors' counters: no window of an SLO may be shorter.
    sketch_window_s : float
        Width of the collectors' sketches: no window of a drift rule may be shorter.
    segments : names of the configured segments, which conditions may use by their bare names
    measures : names of the drift measures there are; None: not checked

    Raises
    ------
    ConfigError
        With every fault of every file, each with its file and line.
    """
    loading = _Loading(
        config or EvaluateConfig(), sli_window_s, sketch_window_s, tuple(segments), None if measures is None else tuple(measures)
    )
    for path in [SHIPPED, *paths]:
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix in {".yaml", ".yml"})
            if not files:
                loading.faults.append(f"{path}: expected rules files (*.yaml) in this directory, found none")
        else:
            files = [path]
        for file in files:
            loading.read(file)
    if loading.faults:
        raise ConfigError(loading.faults)
    return RuleSet(
        tuple(loading.slos),
        tuple(loading.drift),
        tuple(loading.own),
        tuple(loading.warnings),
        loading.scale,
        loading.config.min_coverage,
        loading.scaled_ns(loading.config.resolve_latest_after),
    )


Fault = Callable[[str, str], None]
"""Notes a fault: of which key, and what it is."""


class _Loading:
    """What is gathered while files are read: rules, faults, and names already taken with their places."""

    def __init__(
        self,
        config: EvaluateConfig,
        sli_window_s: float,
        sketch_window_s: float,
        segments: tuple[str, ...],
        measures: tuple[str, ...] | None,
    ) -> None:
        self.config, self.sli_window_s, self.sketch_window_s, self.measures = config, sli_window_s, sketch_window_s, measures
        self.columns = with_segments(segments)
        self.scale = exact(config.time_scale)
        self.slos: list[SloRule] = []
        self.drift: list[DriftRule] = []
        self.own: list[SelfRule] = []
        self.faults: list[str] = []
        self.warnings: list[str] = []
        self.taken: dict[str, str] = {}

    def scaled_ns(self, duration_s: float) -> int:
        return round(exact(duration_s) / self.scale * 1000) * 1_000_000

    def read(self, path: Path) -> None:
        try:
            tree, places = read_yaml(path)
        except ConfigError as error:
            self.faults += error.faults
            return
        if "apiVersion" in tree:
            self.faults.append(
                f"{path}:1: expected Leadline's rules (model, slos, drift), got {tree['apiVersion']!r}; see docs for the form"
            )
            return
        try:
            FileSpec.model_validate(tree)
        except ValidationError as error:
            self.faults += [describe_fault(fault, places, FileSpec) for fault in error.errors()]
        model = tree.get("model")
        for section, kind in SECTIONS.items():
            items = tree.get(section)
            for index, item in enumerate(items if isinstance(items, list) else ()):
                try:
                    spec = kind.model_validate(item)
                except ValidationError:
                    continue  # told above, with its place; the others are looked at all the same
                own_places = {key[2:]: place for key, place in places.items() if key[:2] == (section, index)}
                self.add(f"{section}[{index}]", spec, model if isinstance(model, str) else "", own_places)

    def add(self, where: str, item: SloSpec | DriftSpec | SelfSpec, file_model: str, places: Mapping[tuple[Any, ...], str]) -> None:
        def fault(key: str, message: str) -> None:
            self.faults.append(placed(f"{where}{f'.{key}' if key else ''}: {message}", places.get((key,), places[()])))

        if reserved := sorted(item.labels.keys() & set(RESERVED_LABELS)):
            fault("labels", f"{', '.join(reserved)}: set by Leadline; expected other names")
        if isinstance(item, SelfSpec):
            rule, model = f"leadline/{item.name}", ""
        else:
            model = item.model or file_model
            rule = f"{model}/{item.name}"
            if not model:
                fault("model", "expected a model, here or at the top of the file (model: NAME)")
        if rule in self.taken:
            fault("name", f"expected a name used once, got {item.name!r}, which is also at {self.taken[rule]}")
        self.taken.setdefault(rule, places[()])
        if isinstance(item, SloSpec):
            self.add_slo(item, rule, model, where=where, places=places, fault=fault)
        elif isinstance(item, DriftSpec):
            self.add_drift(item, rule, model, fault)
        else:
            for key, text in (("summary", item.summary), ("description", item.description)):
                try:
                    text.format_map(Words(value=1.0))
                except (ValueError, AttributeError, IndexError, TypeError) as error:
                    fault(key, f"expected text with {{value}} and label names in braces: {error}")
            content = item.model_dump(mode="json")
            self.own.append(
                SelfRule(
                    rule=rule,
                    hash=_hash([content, self.scale]),
                    alert=item.alert,
                    severity=item.severity,
                    reading=item.reading,
                    above=item.above,
                    below=item.below,
                    for_ns=self.scaled_ns(item.for_),
                    keep_firing_for_ns=self.scaled_ns(item.keep_firing_for),
                    summary=item.summary,
                    description=item.description,
                    query=item.query,
                    labels=item.labels,
                )
            )

    def condition(self, text: str, key: str, fault: Fault) -> Expression | None:
        try:
            return compile_expression(text, columns=self.columns)
        except ExpressionError as error:
            fault(key, str(error))
            return None

    def add_slo(self, item: SloSpec, rule: str, model: str, *, where: str, places: Mapping[tuple[Any, ...], str], fault: Fault) -> None:
        good = self.condition(item.good, "good", fault)
        among = self.condition(item.among, "among", fault) if item.among.strip() else None
        pairs = pairs_for(item.objective, exact(item.window), self.config.burn_table, self.scale)
        pairs = tuple(pair for pair in pairs if pair.severity in item.severities)
        if not pairs:
            fault("severities", f"expected one that the burn table has a pair for, got {item.severities}")
        for pair in pairs:
            shown = f"the {pair.severity} windows {spoken(pair.long_ns)}/{spoken(pair.short_ns)}"
            if pair.short_ns < self.sli_window_s * SECOND:
                fault(
                    "window",
                    f"{shown} are shorter than the counters that fill them (sketch.sli_window is {self.sli_window_s:g} s)"
                    "; lower evaluate.time_scale or sketch.sli_window",
                )
            if pair.short_ns < self.config.every * SECOND:
                self.warnings.append(
                    f"{where}: {shown} are shorter than a tick (evaluate.every is {self.config.every:g} s), so a burn may begin and end "
                    f"unseen; lower evaluate.every ({places[()]})"
                )
            if pair.factor != pair.wanted:
                self.warnings.append(
                    f"{where}.objective: {shown} should trip at {float(pair.wanted):g} times the budgeted rate, which an objective of "
                    f"{float(item.objective):.6g} cannot reach (a total outage burns {float(1 / (1 - item.objective)):.4g} times); "
                    f"{float(pair.factor):.4g} is used ({places.get(('objective',), places[()])})"
                )
        if good is None or (item.among.strip() and among is None):
            return
        content = item.model_dump(mode="json", exclude={"model"})
        self.slos.append(
            SloRule(
                rule=rule,
                hash=_hash([model, content, [asdict(pair) for pair in pairs], self.scale]),
                model=model,
                name=item.name,
                sli=sli_id(model, item.among, item.good),
                objective=item.objective,
                period_ns=self.scaled_ns(item.window),
                good=good,
                among=among,
                pairs=pairs,
                severities=tuple(severity for severity in SEVERITIES if any(pair.severity == severity for pair in pairs)),
                by_version="version" in item.by,
                for_ns=self.scaled_ns(item.for_),
                keep_firing_for_ns=self.scaled_ns(item.keep_firing_for),
                min_bad=item.min_bad,
                min_events=item.min_events,
                runbook=item.runbook,
                labels=item.labels,
            )
        )

    def add_drift(self, item: DriftSpec, rule: str, model: str, fault: Fault) -> None:
        if self.measures is not None and item.measure not in self.measures:
            fault("measure", f"expected one of {', '.join(self.measures)}, got {item.measure!r}")
        window_ns = self.scaled_ns(item.window)
        if window_ns < self.sketch_window_s * SECOND:
            fault(
                "window",
                f"expected at least the width of a sketch (sketch.window is {self.sketch_window_s:g} s), got {spoken(window_ns)} "
                f"after evaluate.time_scale {float(self.scale):g}; widen it, or lower sketch.window or evaluate.time_scale",
            )
        self.drift.append(
            DriftRule(
                rule=rule,
                hash=_hash([model, item.model_dump(mode="json", exclude={"model"}), self.scale]),
                model=model,
                name=item.name,
                baseline=item.reference,
                series=tuple(item.series),
                measure=item.measure,
                window_ns=window_ns,
                # Both the window and the span of the alarm budget are scaled, so their ratio is not.
                false_alarms_per_window=item.false_alarms * item.window,
                effect=item.effect,
                min_predictions=item.min_predictions,
                labels=item.labels,
                runbook=item.runbook,
            )
        )


@dataclass(frozen=True, slots=True)
class Report:
    """What `leadline check` says of rules files."""

    rules: RuleSet | None
    faults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def check(
    paths: Iterable[Path],
    config: EvaluateConfig | None = None,
    *,
    sli_window_s: float = 10.0,
    sketch_window_s: float = 60.0,
    segments: Sequence[str] = (),
    measures: Iterable[str] | None = None,
    events_per_s: Mapping[str, float] | None = None,
) -> Report:
    """Everything that is wrong or doubtful about rules files, without running them.

    `events_per_s` is the observed traffic, by SLI id, where it is known.
    """
    try:
        rules = load_rules(paths, config, sli_window_s=sli_window_s, sketch_window_s=sketch_window_s, segments=segments, measures=measures)
    except ConfigError as error:
        return Report(None, tuple(error.faults))
    return Report(rules, (), (*rules.warnings, *low_traffic(rules, events_per_s or {})))


def low_traffic(rules: RuleSet, events_per_s: Mapping[str, float]) -> list[str]:
    """Windows that hold so few events that the least number of errors that may fire is already the burn that fires.

    With n < min_bad / (factor × (1 - objective)) events in a window, `min_bad` errors trip it whatever the true rate is.
    """
    warnings = []
    for rule in rules.slos:
        if rule.sli not in events_per_s:
            continue
        for pair in rule.pairs:
            expected = events_per_s[rule.sli] * pair.long_ns / SECOND
            enough = float(rule.min_bad / (pair.factor * (1 - rule.objective)))
            if expected < enough:
                warnings.append(
                    f"{rule.rule}: about {expected:.0f} events in {spoken(pair.long_ns)}, so that {rule.min_bad} bad ones are "
                    f"enough for a {pair.severity}. From {enough:.0f} events on it takes more: raise min_bad or min_events, "
                    "or lower the objective"
                )
    return warnings
