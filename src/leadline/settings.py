"""Settings: one Config per stage, from YAML, the environment and `--set`, checked together.

`load(path, overrides)` reads a YAML file (an empty or absent one is fine: every key has a default), lays
`LEADLINE_STAGE__KEY=value` variables and then `key.path=value` overrides over it, and reports every fault at once with
file and line. Sizes are written ``64MiB``, times ``10s``, shares ``5%`` or ``0.05``; a plain number is bytes, seconds
or a share. A list of one may be written as that one: ``rules: fraud.yaml``.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from leadline.errors import ConfigError

_SIZE_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_TIME_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def size_bytes(value: object) -> object:
    """``64MiB`` -> 67108864; numbers pass through."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9.]+)\s*([A-Za-z]*)\s*", value)
        if match and match[2].lower() in _SIZE_UNITS:
            return int(float(match[1]) * _SIZE_UNITS[match[2].lower()])
        raise ValueError(f"expected a size such as 64MiB, got {value!r}")
    return value


def seconds(value: object) -> object:
    """``1m30s`` -> 90.0; numbers pass through."""
    if isinstance(value, str):
        parts = re.findall(r"([0-9.]+)\s*(ms|[smhdw])", value)
        if parts and re.fullmatch(r"(\s*[0-9.]+\s*(ms|[smhdw])\s*)+", value):
            return sum(float(number) * _TIME_UNITS[unit] for number, unit in parts)
        try:
            return float(value)
        except ValueError:
            raise ValueError(f"expected a time such as 10s, 5m or 30d, got {value!r}") from None
    return value


def share(value: object) -> object:
    """``5%`` -> 0.05; numbers pass through."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9.]+)\s*%\s*", value)
        try:
            return float(match[1]) / 100 if match else float(value)
        except ValueError:
            raise ValueError(f"expected a share such as 5% or 0.05, got {value!r}") from None
    return value


def http_url(value: str) -> str:
    """Passes an http or https URL through."""
    if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", value):
        raise ValueError("expected a URL such as http://127.0.0.1:9093")
    return value


Size = Annotated[int, BeforeValidator(size_bytes), Field(ge=0)]
Seconds = Annotated[float, BeforeValidator(seconds), Field(ge=0)]
Share = Annotated[float, BeforeValidator(share), Field(ge=0, le=1)]
Address = Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:]+\]|[^:\s]+):\d{1,5}$")]
Url = Annotated[str, AfterValidator(http_url)]


class Config(BaseModel):
    """A group of settings: unknown keys are faults, values never change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _one_is_a_list(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        lists = {name for name, field in cls.model_fields.items() if get_origin(field.annotation) is list}
        return {name: [value] if name in lists and isinstance(value, str) else value for name, value in given.items()}


class ReceiveConfig(Config):
    """OTLP in."""

    grpc: Address = Field("127.0.0.1:4317", description="OTLP/gRPC listens here; loopback unless told otherwise")
    http: Address = Field("127.0.0.1:4318", description="OTLP/HTTP (protobuf and JSON) listens here")
    max_bytes: Size = Field(64 * 2**20, description="largest request, before and after decompression")
    max_connections: int = Field(1000, ge=1, description="connections at once, of each transport")
    max_streams: int = Field(1000, ge=1, description="gRPC calls at once on one connection")
    max_late: Seconds = Field(7 * 86400.0, description="event times further back than this are clamped, and counted")
    read_timeout: Seconds = Field(30.0, gt=0, description="a request that has not come whole by then is ended")
    max_in_flight: Size = Field(512 * 2**20, description="bytes of requests in hand before clients are told to slow down")


class JournalConfig(Config):
    """The write-ahead log: an acknowledged request is on disk."""

    enabled: bool = Field(True, description="off: acknowledged means in memory (benchmarks, tests)")
    dir: Path | None = Field(None, description="where segments lie; <data>/journal if not said")
    max_bytes: Size = Field(10 * 2**30, description="past this, clients are told to slow down")
    sync: bool = Field(True, description="acknowledge what is on the disk, not in the page cache")
    segment: Seconds = Field(10.0, gt=0, description="a journal segment is cut this often; SLI counters go out with it")
    retry_horizon: Seconds = Field(900.0, description="how long a request is remembered, to know a client's retry")
    retry_entries: int = Field(1_000_000, ge=1, description="how many requests are remembered at most")


class SketchConfig(Config):
    """What is measured of every prediction."""

    window: Seconds = Field(60.0, gt=0, description="event-time window of a sketch; sketches go out this often")
    sli_window: Seconds = Field(10.0, gt=0, description="event-time window of the exact good/bad counters")
    max_groups: int = Field(1000, ge=1, description="(model, version, role) sketched at once; the rest go to (other)")
    max_series: int = Field(2000, ge=1, description="series a group; the rest go to (other)")
    max_categories: int = Field(256, ge=1, description="distinct texts a series; the rest go to (other)")
    rules_poll: Seconds = Field(10.0, gt=0, description="how often new rules and references are looked for")


class KeepExpression(Config):
    """Keeps traces with a prediction for which the SQL expression is true."""

    expression: str = Field(description="condition over a prediction's row and its trace (span_count, error, service)")
    name: str = Field("", description="what kept traces say raised them, in column Policy; `expression` if not said")
    probability: Share = Field(1.0, description="with which such a trace is kept at least")


class KeepSlow(Config):
    """Keeps slow traces: above a fixed time, or above a quantile of their own model (service, without a prediction)."""

    slow: SlowLimit = Field(description="what counts as slow")


class SlowLimit(Config):
    """What counts as slow."""

    threshold: Seconds | None = Field(None, description="fixed limit; without it the plan's quantile is used")
    quantile: Share = Field(0.99, description="of the durations of the trace's own model")
    probability: Share = Field(1.0, description="with which a slow trace is kept at least")


class KeepProbabilistic(Config):
    """Keeps a share of all traces."""

    probabilistic: Share = Field(description="of all traces, kept at least, such as 5%")


def _policy_kind(policy: object) -> str | None:
    """Which of the policies is meant, so that a fault is told of that one alone."""
    if isinstance(policy, str):
        return "<name>"
    return next((f"<{kind}>" for kind in ("probabilistic", "slow", "expression") if isinstance(policy, dict) and kind in policy), None)


Keep = Annotated[
    Annotated[Literal["error", "slow", "always"], Tag("<name>")]
    | Annotated[KeepProbabilistic, Tag("<probabilistic>")]
    | Annotated[KeepSlow, Tag("<slow>")]
    | Annotated[KeepExpression, Tag("<expression>")],
    Discriminator(
        _policy_kind,
        custom_error_type="policy_unknown",
        custom_error_message="expected error, slow, always, {probabilistic: 5%}, {slow: {threshold: 50ms}} or {expression: score > 0.9}",
    ),
]


class BudgetConfig(Config):
    """How much may be kept."""

    traces_per_second: float | None = Field(20.0, gt=0, description="kept traces a second, as a long-run mean; null: no budget")
    burst: Seconds = Field(
        10.0, ge=1, description="how many seconds of budget are saved up; half of what there is may go to one batch of decisions"
    )


class SampleConfig(Config):
    """Which whole traces are kept."""

    decision_wait: Seconds = Field(5.0, description="a trace is decided this long after its first span")
    decision_wait_after_root: Seconds = Field(0.0, description="or this long after its root span; 0: off")
    budget: BudgetConfig = Field(BudgetConfig(), description="how much may be kept")
    keep: list[Keep] = Field(default=["error", "slow"], description="policies; each raises a trace's probability")
    max_bytes: Size = Field(
        2**30, description="memory for undecided traces, whose spans lie in the journal; past it the oldest are decided early"
    )
    max_traces: int = Field(1_000_000, ge=1, description="undecided traces at once; past it the oldest are decided early")
    remember_kept: int = Field(100_000, ge=0, description="decisions remembered for late spans")
    remember_dropped: int = Field(1_000_000, ge=0, description="the same of traces that were not kept: a late error of one is rescued")
    plan_every: Seconds = Field(10.0, gt=0, description="how often the plan is solved anew from the budget")


class StoreConfig(Config):
    """ClickHouse."""

    clickhouse: str = Field(
        "embedded",
        description="embedded (leadline engine, data under --data), http(s)://user:password@host:port/database, or none (encode, count, throw away)",
    )
    token_file: Path | None = Field(None, description="the embedded engine's writer token; <data>/engine/token if not said")
    max_pending: Size = Field(2**30, description="encoded blocks waiting for ClickHouse; past it clients are told to slow down")
    flush: Seconds = Field(1.0, gt=0, description="how long a block may wait to grow before it is sent")


class ExportConfig(Config):
    """Kept traces out over OTLP."""

    otlp: str | None = Field(None, description="http://host:4318 (HTTP) or grpc://host:4317; with ot=th set")
    headers: dict[str, str] = Field(default_factory=dict, description="sent with every request, such as Authorization")


class EngineConfig(Config):
    """Embedded ClickHouse (chdb) behind ClickHouse's HTTP interface."""

    http: Address = Field("127.0.0.1:8123", description="ClickHouse's HTTP interface listens here; loopback unless told otherwise")
    dir: Path | None = Field(None, description="<data>/clickhouse if not said")
    readers: int = Field(4, ge=1, description="read-only connections")
    max_memory: Size = Field(4 * 2**30, description="ClickHouse's memory limit")
    max_query_memory: Size = Field(2 * 2**30, description="of one query; past it the query is ended")
    max_execution: Seconds = Field(60.0, gt=0, description="a query is ended after this")
    allowed_hosts: list[str] = Field(
        default_factory=list, description="host names, beside loopback and the address listened on, that requests may name"
    )


class ConsoleConfig(Config):
    """Health, metrics and accounting."""

    http: Address = Field("127.0.0.1:8080", description="a collector's /healthz, /readyz, /metrics and /api/v1/accounting")


class EvaluateConfig(Config):
    """The rules evaluator."""

    rules: list[Path] = Field(default_factory=list, description="rules files or directories; the shipped self-watch rules always run")
    every: Seconds = Field(30.0, gt=0, description="a tick")
    burn_table: list[BurnRow] | None = Field(None, description="windows and factors; the SRE workbook's if not said")
    time_scale: float = Field(1.0, gt=0, description="divides every window and `for` of rules: a demo plays a day in minutes")
    lag: Seconds | None = Field(
        None, description="a tick is evaluated this long after its time; once the watermark has passed it if not said"
    )
    patience: Seconds = Field(60.0, description="how long a tick waits for the watermark; then it may fire, but resolves nothing")
    min_coverage: Share = Field(0.5, description="of a window; below it, a burn must have used up the budget that the pair stands for")
    resolve_latest_after: Seconds = Field(3600.0, description="ends a resolve that waits for data; it is marked incomplete")
    collector_silent: Seconds = Field(120.0, gt=0, description="a collector silent for this long no longer holds the watermark back")
    max_backlog: int = Field(2880, ge=1, description="missed ticks that are evaluated afterwards; older ones are left out, and said so")


class BurnRow(Config):
    """One pair of windows of a multi-window, multi-burn-rate alert."""

    severity: Literal["page", "ticket"] = Field(description="of the alert that the pair raises")
    long: Seconds = Field(description="long window: how much has burned")
    short: Seconds = Field(description="short window: whether it still burns")
    factor: float = Field(gt=0, description="burn rate at which both must be; 1 uses up the error budget in exactly the SLO's window")


class AlertConfig(Config):
    """Alertmanager."""

    alertmanagers: list[Url] = Field(default_factory=list, description="base URLs; every one gets every alert")
    resend: Seconds = Field(
        60.0, gt=0, description="a firing alert is sent again this often; Alertmanager ends it after four times as long"
    )
    timeout: Seconds = Field(10.0, gt=0, description="of one request to an Alertmanager")
    headers: dict[str, str] = Field(default_factory=dict, description="sent with every request, such as Authorization")
    ca_file: Path | None = Field(None, description="certificates to trust, in place of the system's")
    cert_file: Path | None = Field(None, description="client certificate with its key, for mutual TLS")
    max_alerts: int = Field(10_000, ge=1, description="alerts held for sending; further ones are counted and left out")
    external_url: str = Field("http://127.0.0.1:8080", description="links in alerts begin with this")
    labels: dict[str, str] = Field(default_factory=dict, description="added to every alert where absent")


class Settings(Config):
    """All of it. `data` is where everything is kept that is not said otherwise."""

    data: Path = Field(Path("data"), description="where everything is kept that has no place of its own")
    collector: str = Field("", description="this collector's name in every row; host name if not said")
    segments: list[str] = Field(default_factory=list, description="attributes or features whose values slice the traffic")
    dialects: list[str] = Field(default_factory=lambda: ["ml", "gen_ai"], description="names of shipped dialects, or files")
    receive: ReceiveConfig = Field(ReceiveConfig(), description="OTLP in")
    journal: JournalConfig = Field(JournalConfig(), description="the write-ahead log")
    sketch: SketchConfig = Field(SketchConfig(), description="what is measured of every prediction")
    sample: SampleConfig = Field(default_factory=SampleConfig, description="which whole traces are kept")
    store: StoreConfig = Field(StoreConfig(), description="ClickHouse")
    export: ExportConfig = Field(ExportConfig(), description="kept traces out over OTLP")
    engine: EngineConfig = Field(EngineConfig(), description="the embedded ClickHouse")
    console: ConsoleConfig = Field(ConsoleConfig(), description="health, metrics and accounting")
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig, description="the rules evaluator")
    alert: AlertConfig = Field(default_factory=AlertConfig, description="Alertmanager")
    shutdown: Seconds = Field(30.0, description="the budget for draining on SIGTERM")

    @property
    def journal_dir(self) -> Path:
        return self.journal.dir or self.data / "journal"

    @property
    def engine_dir(self) -> Path:
        return self.engine.dir or self.data / "clickhouse"

    @property
    def token_file(self) -> Path:
        return self.store.token_file or self.data / "engine" / "token"


KeepSlow.model_rebuild()
EvaluateConfig.model_rebuild()
Settings.model_rebuild()


def load(path: Path | None = None, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> Settings:
    """Reads settings; raises one `ConfigError` with every fault and its place."""
    tree: dict[str, Any] = {}
    places: dict[tuple[Any, ...], str] = {}
    if path is not None:
        tree, places = read_yaml(path)
    for name, value in (os.environ if environ is None else environ).items():
        if name.startswith("LEADLINE_") and "__" in name:
            _lay(tree, tuple(name[len("LEADLINE_") :].lower().split("__")), value, places, f"${name}")
    for item in overrides:
        key, separator, value = item.partition("=")
        if not separator:
            raise ConfigError([f"--set {item}: expected key.path=value, such as --set receive.grpc=127.0.0.1:4317"])
        _lay(tree, tuple(key.strip().split(".")), value, places, f"--set {item}")
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise ConfigError([describe_fault(fault, places, Settings) for fault in error.errors()]) from error


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[tuple[Any, ...], str]]:
    """The mapping in a YAML file (an empty one is fine), and the place, ``file:line``, of each key path; raises `ConfigError`."""
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read ({error.strerror}). Give the path of a YAML file."]) from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError([f"{path}: not YAML: {error}"]) from error
    if node is None:
        return {}, {}
    if not isinstance(tree, dict):
        raise ConfigError([f"{path}: expected a mapping at the top, got {type(tree).__name__}"])
    lines: dict[tuple[Any, ...], int] = {}
    _note_lines(node, (), lines)
    return tree, {key: f"{path}:{line}" for key, line in lines.items()}


def _lay(tree: dict[str, Any], keys: tuple[str, ...], value: str, places: dict[tuple[Any, ...], str], place: str) -> None:
    here = tree
    for key in keys[:-1]:
        deeper = here.setdefault(key, {})
        if not isinstance(deeper, dict):
            deeper = here[key] = {}
        here = deeper
    here[keys[-1]] = yaml.safe_load(value) if value else value
    places[keys] = place


def _note_lines(node: yaml.Node, keys: tuple[Any, ...], lines: dict[tuple[Any, ...], int]) -> None:
    lines[keys] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            lines[(*keys, key.value)] = key.start_mark.line + 1
            _note_lines(value, (*keys, key.value), lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _note_lines(value, (*keys, index), lines)


def describe_fault(fault: Any, places: Mapping[tuple[Any, ...], str], root: type[Config]) -> str:
    """A fault that pydantic found in what should be a `root`, with its key and its place."""
    # After an index pydantic puts the tag of what was meant there; it is no key.
    keys = tuple(key for before, key in pairwise((None, *fault["loc"])) if not (isinstance(before, int) and str(key).startswith("<")))
    near = (places[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in places)
    within = (place for key, place in places.items() if key[: len(keys)] == keys)
    place = next(near, next(within, "settings"))
    shown = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).lstrip(".")
    got = "" if fault["type"] in ("missing", "extra_forbidden") else f", got {fault.get('input')!r}"
    message = _no_such_key(root, keys) if fault["type"] == "extra_forbidden" else fault["msg"].removeprefix("Value error, ")
    return placed(f"{shown}: {message[0].lower()}{message[1:]}{got}", place)


def _no_such_key(root: type[Config], keys: Sequence[Any]) -> str:
    groups = [root]
    for key in (key for key in keys[:-1] if isinstance(key, str)):
        fields = (field for group in groups for name, field in group.model_fields.items() if key == (field.alias or name))
        groups = [found for field in fields for found in groups_of(field.annotation)]
    known = [field.alias or name for group in groups for name, field in group.model_fields.items()]
    near = difflib.get_close_matches(str(keys[-1]), known, 1)
    return f"no such key; did you mean {near[0]}?" if near else f"no such key; expected one of {', '.join(known)}"


def groups_of(annotation: Any) -> Iterator[type[Config]]:
    """The groups of settings that a field of this type may hold."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield annotation
    for part in get_args(annotation):
        yield from groups_of(part)


def placed(message: str, place: str) -> str:
    """A message with its place at the end of its first line: an expression's caret stands below."""
    first, newline, rest = message.partition("\n")
    return f"{first} ({place}){newline}{rest}"
