"""Why a crash changes nothing: a run that is killed at each of its frames and replayed gives the blocks of one that was not.

The real stages, without threads and without a clock: a script of requests, decisions, cuts and rules is played frame by frame. At every frame that
is written, at every block that is about to go into the outbox and after each step the directory is photographed, as `kill -9` would leave
it. Each photograph is started from, and played on to the end.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from leadline.decode import decoders
from leadline.journal.frames import Frame, Kind, digest_of, head_of
from leadline.journal.log import Log
from leadline.journal.machine import SIGNAL_OF, Machine
from leadline.journal.state import State
from leadline.model.accounting import Ledger
from leadline.sample.sampler import Sampler
from leadline.settings import load
from leadline.sketch.measure import Measure
from leadline.store.records import Records

SECOND = 10**9
T0 = 1_800_000_000 * SECOND
HORIZON_NS = 900 * SECOND
SEGMENTS = ("country",)
DECODERS = decoders(["ml"], SEGMENTS, max_late_ns=600 * SECOND)
RULES = (
    {"slis": [{"id": "served", "model": "fraud", "good": "error_type = '' AND duration_ms < 6"}], "references": []},
    {
        "slis": [
            {"id": "served", "model": "fraud", "good": "error_type = '' AND duration_ms < 6"},
            {"id": "sure", "model": "", "good": "score > 0.5", "among": "country = 'DE'"},
        ],
        "references": [
            {"model": "fraud", "series": "features/amount", "bins_id": "b1", "edges": [0.0, 1.0, 2.0], "atoms": [], "categories": []}
        ],
    },
)
ALONE = ("sample.budget.traces_per_second=null", 'sample.keep=[error, {probabilistic: 40%}, {expression: "score > 0.9"}]')
"""A decision follows from its trace alone: whoever makes it again makes the same one."""
MOVING = ("sample.budget.traces_per_second=2", "sample.keep=[error, slow]", "sample.plan_every=3s")
"""Decisions follow from plans that move: what was written holds, what was not may be decided otherwise."""


# -- the script ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens. `meanwhile` are requests that are written while a decision is being made, and applied after it."""

    what: str  # request, decide, cut, control, duplicate, stored
    now_ns: int
    kind: Kind = Kind.TRACES
    payload: bytes = b""
    flag: int = 0
    meanwhile: tuple[bytes, ...] = ()


def script(seed: int, steps: int = 60) -> list[Step]:
    rng = random.Random(seed)
    made: list[Step] = []
    traces = Traces(rng)
    now = T0
    for _ in range(steps):
        now += rng.randrange(1, 2 * SECOND)
        match rng.choices(("traces", "others", "decide", "cut", "control", "duplicate", "stored"), (8, 2, 6, 3, 2, 2, 4))[0]:
            case "traces":
                made.append(Step("request", now, Kind.TRACES, traces.request(now)))
            case "others":
                made.append(Step("request", now, *rng.choice((metrics, logs))(rng, now)))
            case "decide":
                meanwhile = tuple(traces.request(now) for _ in range(rng.choice((0, 0, 1, 2))))
                made.append(Step("decide", now, meanwhile=meanwhile))
            case "cut":
                made.append(Step("cut", now, Kind.CUT, flag=rng.randrange(2)))
            case "control":
                made.append(Step("control", now, Kind.CONTROL, json.dumps(rng.choice(RULES)).encode()))
            case "duplicate":
                made.append(Step("duplicate", now, Kind.DUPLICATE, json.dumps([["traces", "", 3], ["predictions", "fraud", 1]]).encode()))
            case "stored":
                made.append(Step("stored", now))
    now += 60 * SECOND
    return [*made, Step("decide", now, flag=1), Step("cut", now, Kind.CUT, flag=1)]


class Traces:
    """Requests with spans of new traces and of traces that were there before: undecided, kept, dropped."""

    def __init__(self, rng: random.Random) -> None:
        self._rng, self._seen, self._spans = rng, list[bytes](), 0

    def request(self, now_ns: int) -> bytes:
        rng = self._rng
        request = ExportTraceServiceRequest()
        for service in rng.sample(("web", "scorer"), rng.randrange(1, 3)):
            resource = request.resource_spans.add()
            resource.resource.attributes.add(key="service.name").value.string_value = service
            spans = resource.scope_spans.add().spans
            for _ in range(rng.randrange(1, 6)):
                self._spans += 1
                if not self._seen or rng.random() < 0.6:
                    self._seen.append(rng.randbytes(16))
                trace = self._seen[-1] if rng.random() < 0.5 else rng.choice(self._seen)
                span = spans.add(
                    trace_id=bytes(16) if rng.random() < 0.08 else trace,
                    span_id=struct.pack(">Q", self._spans),
                    name="predict",
                    start_time_unix_nano=now_ns - rng.randrange(1, 9) * 1_000_000,
                    end_time_unix_nano=now_ns,
                    trace_state=rng.choice(("", "", "", "ot=th:c", "ot=rv:ffffffffffffff")),
                )
                if rng.random() < 0.5:
                    span.parent_span_id = struct.pack(">Q", 1)
                if rng.random() < 0.15:
                    span.status.code = Status.STATUS_CODE_ERROR
                if rng.random() < 0.6:
                    for key, text in (
                        ("ml.model.name", rng.choice(("fraud", "churn"))),
                        ("ml.model.version", "7"),
                        ("country", rng.choice(("DE", "FR"))),
                    ):
                        span.attributes.add(key=key).value.string_value = text
                    span.attributes.add(key="ml.features.amount").value.double_value = rng.choice((0.0, 0.5, rng.gauss(1, 1)))
                    span.attributes.add(key="ml.prediction.score").value.double_value = rng.random()
        return request.SerializeToString()


def metrics(rng: random.Random, now_ns: int) -> tuple[Kind, bytes]:
    request = ExportMetricsServiceRequest()
    points = request.resource_metrics.add().scope_metrics.add().metrics.add(name="m").gauge.data_points
    for _ in range(rng.randrange(1, 4)):
        points.add(time_unix_nano=now_ns, as_double=rng.random())
    return Kind.METRICS, request.SerializeToString()


def logs(rng: random.Random, now_ns: int) -> tuple[Kind, bytes]:
    request = ExportLogsServiceRequest()
    record = request.resource_logs.add().scope_logs.add().log_records.add(time_unix_nano=now_ns)
    record.body.string_value = str(rng.random())
    if rng.random() < 0.5:
        record.event_name = "ml.feedback"
        for key, text in (("ml.prediction.id", f"p{rng.random()}"), ("ml.actual.label", "fraud")):
            record.attributes.add(key=key).value.string_value = text
    return Kind.LOGS, request.SerializeToString()


# -- a run ---------------------------------------------------------------------------------------------------------------


class Photographed(State):
    """A `State` that tells when a transaction is under way: block files are written, nothing is noted yet."""

    before_noting: Callable[[], None] = staticmethod(lambda: None)

    def _insert(self, block: Any) -> int:
        self.before_noting()
        return super()._insert(block)


@dataclass
class Run:
    """The stages over a directory, played a script.

    `frames` is the log as it is written. `out` holds every block that was put into the outbox, by its token.
    """

    directory: Path
    overrides: Sequence[str]
    frames: list[Frame] = field(default_factory=list)
    written: Callable[[], None] = lambda: None
    out: dict[str, bytes] = field(default_factory=dict)
    stored: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        settings = load(overrides=["sample.decision_wait=4s", *self.overrides], environ={})
        self.state = Photographed(self.directory, sync=False)
        measure = Measure(settings.sketch, "c1", SEGMENTS)
        sampler = Sampler(settings.sample, "c1", lambda levels: measure.sketches.quantiles("duration_ms", levels), segments=SEGMENTS)
        self.machine = Machine(self.state, DECODERS, (measure, sampler, Records("c1")), sampler)
        self.noted: set[int] = set()
        self.sequence = 0
        self.new_segment = True
        self.begun: Frame | None = None

    def start(self, log: Log) -> None:
        """As a collector starts: replays what the log holds."""
        self.machine.replay(log, T0 - HORIZON_NS, lambda digest, now_ns: None)
        self._look()

    def write(self, kind: Kind, payload: bytes, now_ns: int, flag: int = 0) -> Frame:
        if self.new_segment and self.machine.control is not None:  # as the log begins each segment
            self.new_segment = False
            self.begun = self.write(Kind.CONTROL, self.machine.control, now_ns)
        self.new_segment = kind is Kind.CUT
        self.sequence += 1
        self.frames.append(Frame(kind, flag, self.sequence, now_ns, digest_of(payload), payload))
        self.written()
        return self.frames[-1]

    def play(self, step: Step) -> None:
        match step.what:
            case "decide":
                while self._decide(step):
                    pass
            case "stored":
                for number, block in self.state.pending()[:2]:
                    self.state.acknowledge(number)
                    self.stored.update(block.counts)
            case _:
                self._apply(self.write(step.kind, step.payload, step.now_ns, step.flag))
        self._look()

    def _apply(self, frame: Frame) -> None:
        if self.begun is not None:
            self.machine.apply(self.begun)
            self.begun = None
        self.machine.apply(frame)

    def _decide(self, step: Step) -> int:
        behind: list[Frame] = []

        def write(kind: Kind, payload: bytes, now_ns: int) -> int:
            behind.extend(self.write(Kind.TRACES, body, now_ns) for body in (step.meanwhile if not behind else ()))
            return self.write(kind, payload, now_ns).sequence

        n = self.machine.decide(step.now_ns, write, everything=bool(step.flag))
        if not behind:
            behind.extend(self.write(Kind.TRACES, body, step.now_ns) for body in (step.meanwhile if not n else ()))
        for frame in behind:
            self._apply(frame)
        return 0 if step.meanwhile else n

    def _look(self) -> None:
        for number, block in self.state.pending():
            if number in self.noted:
                continue
            self.noted.add(number)
            data = self.state.load(block).data
            assert self.out.setdefault(block.token, data) == data, f"{block.token} has come out twice, with other bytes"


@dataclass(frozen=True, slots=True)
class Photograph:
    """What a kill leaves: so many frames, the directory, the oldest position needed; and where the script goes on."""

    frames: int
    directory: Path
    needed_from: int
    following: int
    within: bool  # a step: not all that is written was applied, or not all that was applied is noted
    stored: frozenset[str]


def lay_log(directory: Path, frames: Sequence[Frame], forget_before: int) -> Log:
    """Writes frames as the log does, forgets what is not needed, and opens it."""
    file = None
    for frame in frames:
        file = file or (directory / f"{frame.sequence:016x}.log").open("wb")
        file.write(head_of(frame) + frame.payload)
        if frame.kind is Kind.CUT:
            file.close()
            file = None
    if file is not None:
        file.close()
    forgetful = Log(directory, lambda frame, note: None)
    for _ in forgetful.replay():
        pass
    forgetful.forget_before(forget_before)
    return Log(directory, lambda frame, note: None)


def uninterrupted(
    tmp_path: Path, steps: Sequence[Step], overrides: Sequence[str]
) -> tuple[Run, list[Photograph], dict[int, tuple[Any, set[str]]]]:
    """The run, its photographs, and after each step the ledger and the tokens that have come out."""
    run = Run(tmp_path / "live", overrides)
    taken: list[Photograph] = []
    after: dict[int, tuple[Any, set[str]]] = {}
    following = needed_from = 0

    def photograph(within: bool = True) -> None:
        directory = copied(run.directory, tmp_path / f"at-{len(taken)}")
        waiting = {block.token for _, block in run.state.pending()}
        taken.append(Photograph(len(run.frames), directory, needed_from, following, within, frozenset(set(run.out) - waiting)))

    run.written = photograph
    run.state.before_noting = photograph
    for index, step in enumerate(steps):
        following = index + 1
        run.play(step)
        after[index + 1] = (counted(run.machine.totals()), set(run.out))
        needed_from = run.machine.needed_from
        photograph(within=False)
    return run, taken, after


def copied(directory: Path, to: Path) -> Path:
    """What a kill would leave of a directory now; block files are never written again, so a link is a copy."""
    (to / "outbox").mkdir(parents=True)
    for path in directory.glob("state.db*"):
        shutil.copy(path, to)
    for path in (directory / "outbox").iterdir():
        os.link(path, to / "outbox" / path.name)
    return to


def facts(out: dict[str, bytes]) -> dict[str, bytes]:
    """All but the plans, which each start says anew."""
    return {token: data for token, data in out.items() if "/sampling_plans/" not in token}


def counted(ledger: Ledger) -> Any:
    return [(signal, model, terms) for signal, model, terms in ledger.rows()]


def restarted(photograph: Photograph, live: Run, *, forgetting: bool, before_noting: Callable[[], None] = lambda: None) -> Run:
    run = Run(photograph.directory, live.overrides)
    run.state.before_noting = before_noting
    run.sequence = photograph.frames
    run.new_segment = not photograph.frames or live.frames[photograph.frames - 1].kind is Kind.CUT
    log = lay_log(photograph.directory, live.frames[: photograph.frames], photograph.needed_from if forgetting else 0)
    run.start(log)
    return run


# -- the tests -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["whole log", "what is not needed forgotten"])
def forgetting(request: pytest.FixtureRequest) -> Iterator[bool]:
    return request.param != "whole log"


@pytest.mark.parametrize("seed", range(3))
def test_killed_between_steps_the_rest_gives_the_same_bytes(tmp_path: Path, seed: int, forgetting: bool) -> None:
    """Counts after the replay are those before the kill, and every block until the end has the bytes of the uninterrupted run."""
    steps = script(seed)
    live, photographs, after = uninterrupted(tmp_path, steps, ALONE)
    assert_everything_happened(live)
    for photograph in photographs:
        if photograph.within:
            continue
        again = restarted(photograph, live, forgetting=forgetting)
        assert (counted(again.machine.totals()), photograph.stored | set(again.out)) == after[photograph.following]
        for step in steps[photograph.following :]:
            again.play(step)
        assert facts(again.out) == facts({token: data for token, data in live.out.items() if token not in photograph.stored})
        again.state.close()
    live.state.close()


@pytest.mark.parametrize("overrides", [ALONE, MOVING], ids=["decided alone", "plans that move"])
@pytest.mark.parametrize("seed", range(3, 5))
def test_killed_anywhere_every_item_is_counted_once(tmp_path: Path, seed: int, overrides: Sequence[str], forgetting: bool) -> None:
    """Also between a frame and what follows from it, and between a block's file and its note."""
    steps = script(seed)
    live, photographs, _ = uninterrupted(tmp_path, steps, overrides)
    for photograph in photographs:
        again = restarted(photograph, live, forgetting=forgetting)
        items = Counter[tuple[str, str]]()
        for frame in live.frames[: photograph.frames]:
            items.update(carried(frame))
        totals = again.machine.totals()
        assert {key: totals.get(key, "received") for key in items} == dict(items)
        assert {name: terms["lost"] for name, terms in totals.by_signal().items()} == dict.fromkeys(totals.by_signal(), 0)
        decided_before = {token: data for token, data in again.out.items() if token in live.out}
        assert decided_before == {token: live.out[token] for token in decided_before}
        end = Step("decide", steps[-1].now_ns, flag=1)
        again.play(end)
        again.play(Step("cut", steps[-1].now_ns, Kind.CUT, flag=1))
        terms = again.machine.totals().by_signal()
        in_outbox = Counter[tuple[str, str]]()
        for _, block in again.state.pending():
            in_outbox.update(block.counts)
        for name in terms:
            waiting = sum(n for (signal, _), n in in_outbox.items() if signal == name)
            assert (terms[name]["lost"], terms[name]["waiting"]) == (0, waiting), name
        again.state.close()
    live.state.close()


def test_killed_again_while_replaying(tmp_path: Path) -> None:
    """A replay that is killed when it is about to note a block leaves what the next replay makes the same of."""
    live, photographs, _ = uninterrupted(tmp_path, script(5), ALONE)
    killed = 0
    for photograph in photographs:
        deaths: list[Photograph] = []

        def die(at: Photograph = photograph, deaths: list[Photograph] = deaths) -> None:
            deaths.append(replace(at, directory=copied(at.directory, tmp_path / f"{at.directory.name}-again-{len(deaths)}")))

        twice = restarted(photograph, live, forgetting=True, before_noting=die)
        for death in deaths:
            killed += 1
            again = restarted(death, live, forgetting=True)
            assert (again.out, counted(again.machine.totals())) == (twice.out, counted(twice.machine.totals()))
            again.state.close()
        twice.state.close()
    assert killed > 10
    live.state.close()


def carried(frame: Frame) -> Counter[tuple[str, str]]:
    """What a frame adds to *received*."""
    if frame.kind is Kind.DUPLICATE:
        return Counter({(signal, model): n for signal, model, n in json.loads(frame.payload)})
    if frame.kind not in SIGNAL_OF:
        return Counter()
    return Counter(DECODERS[SIGNAL_OF[frame.kind]](frame.payload, frame.time_ns)[1])


def assert_everything_happened(live: Run) -> None:
    """A script that never drops, keeps, or measures would prove nothing."""
    tables = Counter(token.split("/")[2] for token in live.out)
    assert min(tables[name] for name in ("otel_traces", "predictions", "sli_counts", "sketches", "otel_logs")) > 0, tables
    terms = live.machine.totals().by_signal()["traces"]
    assert min(terms[name] for name in ("kept", "sampled_out", "rejected", "duplicate")) > 0, terms
