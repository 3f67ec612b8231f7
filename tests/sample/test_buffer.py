"""The trace buffer: what waits, what is due, what is given out, and that every span is counted once."""

from __future__ import annotations

import random
import struct
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from leadline._kernel import PREDICTION_COLUMNS, Dialect, SpanBatch, Taken, TraceBuffer, decode_traces
from reference.trace_buffer import PlainBuffer, Seen

SECOND = 1_000_000_000
T0 = 1_700_000_000 * SECOND
NONE = 1 << 56
DIALECT = Dialect([("span", "ml.model.name", "model"), ("span", "ml.model.version", "version")])
SAMPLINGS = ("dropped", "kept", "rescued-before")


def span(
    trace: int | bytes,
    number: int = 1,
    *,
    error: bool = False,
    parent: int = 0,
    model: str = "",
    state: str = "",
    start: int = T0,
    ms: int = 5,
) -> Span:
    """A span of `trace`; a root unless it has a parent; a prediction if it has a model."""
    made = Span(
        trace_id=trace if isinstance(trace, bytes) else trace_id(trace),
        span_id=struct.pack(">Q", number),
        parent_span_id=struct.pack(">Q", parent) if parent else b"",
        name="predict",
        trace_state=state,
        start_time_unix_nano=start,
        end_time_unix_nano=start + ms * 1_000_000,
    )
    if error:
        made.status.code = Status.STATUS_CODE_ERROR
    if model:
        made.attributes.add(key="ml.model.name").value.string_value = model
        made.attributes.add(key="ml.model.version").value.string_value = "7"
    return made


def trace_id(trace: int) -> bytes:
    return struct.pack(">QQ", 0xABCD, trace << 8 | 0x11)


def request(spans: Sequence[Span], service: str = "scorer") -> ExportTraceServiceRequest:
    made = ExportTraceServiceRequest()
    resource = made.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = service
    resource.scope_spans.add(spans=spans).scope.name = "tests"
    return made


def batch(spans: Sequence[Span], receive_ns: int = T0, service: str = "scorer") -> SpanBatch:
    return decode_traces(request(spans, service).SerializeToString(), DIALECT, receive_ns)


def decide(
    buffer: TraceBuffer,
    keep: dict[bytes, bool],
    *,
    threshold: int = NONE,
    weight: float = 4.0,
    samplings: Sequence[str] = SAMPLINGS,
    revision: int = 3,
    bodies: Mapping[int, bytes] | None = None,
    otlp: bool = False,
) -> Taken:
    """Decides; of `bodies` just those are lent that are needed."""
    columns = decisions(keep, threshold, weight)
    sources = buffer.sources(*columns[:2])
    assert sources == sorted(set(sources))
    return buffer.decide(
        *columns,
        samplings=samplings,
        policies=["budget", "error"],
        plan_revision=revision,
        collector="c1",
        segment=9,
        bodies={sequence: (bodies or {})[sequence] for sequence in sources},
        otlp=otlp,
    )


def decisions(keep: dict[bytes, bool], threshold: int = NONE, weight: float = 4.0) -> tuple[Any, ...]:
    n = len(keep)
    return (
        np.frombuffer(b"".join(keep), dtype=np.uint8).reshape(n, 16),
        np.array(list(keep.values()), dtype=bool),
        np.full(n, threshold, dtype=np.uint64),
        np.full(n, weight),
        np.array(list(keep.values()), dtype=np.uint8),
        np.zeros(n, dtype=np.uint8),
    )


def due_ids(buffer: TraceBuffer, now_ns: int, limit: int = 1000, **options: bool) -> list[bytes]:
    return [bytes(row) for row in buffer.due(now_ns, limit, **options)["trace_id"]]


class Rows:
    """Reads the rows of `predictions` (RowBinary)."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def __iter__(self) -> Rows:
        return self

    def __next__(self) -> dict[str, Any]:
        if self._at == len(self._data):
            raise StopIteration
        return {name: self._value(kind) for name, kind in PREDICTION_COLUMNS}

    def _take(self, size: int) -> bytes:
        self._at += size
        return self._data[self._at - size : self._at]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def _value(self, kind: str) -> Any:
        if kind.startswith("Nullable("):
            return None if self._take(1)[0] else self._value(kind[9:-1])
        if kind.startswith("Map("):
            return {self._value("String"): self._value("String") for _ in range(self._varint())}
        if kind in ("String", "LowCardinality(String)"):
            return self._take(self._varint()).decode()
        return struct.unpack(
            {"DateTime64(9)": "<q", "UInt64": "<Q", "Float64": "<d", "UInt32": "<I"}[kind], self._take(4 if kind == "UInt32" else 8)
        )[0]


def test_an_empty_buffer_has_nothing() -> None:
    """Nothing waits, nothing is due, and a decision about an unknown trace gives nothing out."""
    buffer = TraceBuffer(SECOND)
    buffer.add(decode_traces(b"", DIALECT, T0), 1)
    assert (buffer.spans, buffer.traces, buffer.bytes, buffer.late, buffer.predictions, buffer.oldest_sequence) == (0, 0, 0, 0, {}, None)
    table = buffer.due(T0, 10, everything=True, rows=True)
    assert table["trace_id"].shape == (0, 16)
    assert all(len(values) == 0 for name, values in table.items() if name not in ("service", "rows"))
    taken = decide(buffer, {trace_id(1): True})
    assert (taken.span_rows, taken.prediction_rows, taken.otlp, taken.spans_kept, taken.spans_dropped) == (b"", b"", [], 0, 0)


def test_a_trace_is_due_after_its_first_span() -> None:
    """`wait_ns` runs from the first span; later spans do not move it."""
    buffer = TraceBuffer(10 * SECOND)
    buffer.add(batch([span(1), span(2)], T0), 1)
    buffer.add(batch([span(3), span(1, 2, parent=1)], T0 + 4 * SECOND), 2)
    assert due_ids(buffer, T0 + 10 * SECOND - 1) == []
    assert due_ids(buffer, T0 + 10 * SECOND) == [trace_id(1), trace_id(2)]
    assert due_ids(buffer, T0 + 14 * SECOND) == [trace_id(1), trace_id(2), trace_id(3)]
    assert due_ids(buffer, T0 + 14 * SECOND, limit=2) == [trace_id(1), trace_id(2)]
    assert due_ids(buffer, T0, everything=True) == [trace_id(1), trace_id(2), trace_id(3)]


def test_a_root_makes_its_trace_due_sooner() -> None:
    """With `wait_after_root_ns` a whole trace does not wait for what will not come."""
    buffer = TraceBuffer(10 * SECOND, wait_after_root_ns=2 * SECOND)
    buffer.add(batch([span(1, 2, parent=1), span(2, 2, parent=1)], T0), 1)
    buffer.add(batch([span(2, 1)], T0 + SECOND), 2)
    buffer.add(batch([span(1, 1)], T0 + 9 * SECOND), 3)
    assert due_ids(buffer, T0 + 3 * SECOND - 1) == []
    assert due_ids(buffer, T0 + 3 * SECOND) == [trace_id(2)]
    assert due_ids(buffer, T0 + 10 * SECOND) == [trace_id(2), trace_id(1)]  # its first span was earlier than its root's wait


def test_the_facts_of_a_trace() -> None:
    """Aggregates over all spans; the service is that of the root; times of 0 are unknown; rows are the predictions'."""
    buffer = TraceBuffer(0)
    buffer.add(
        batch(
            [span(1, 2, parent=1, start=T0 + 50, model="fraud", state="ot=th:8;rv:f0000000000000"), span(1, 3, parent=1, start=0)], T0, "b"
        ),
        1,
    )
    buffer.add(batch([span(1, 1, error=True, start=T0 + 99, ms=7, model="risk", state="ot=rv:e0000000000000;th:c")], T0 + 1, "a"), 2)
    table = buffer.due(T0 + 1, 10, rows=True)
    names, services = table["service"][1], table["service"][0]
    assert table["trace_id"].tolist() == [list(trace_id(1))]
    assert [names[code] for code in services] == ["a"]
    assert {
        name: table[name].tolist() for name in ("randomness", "threshold", "sampled", "spans", "start_ns", "end_ns", "error", "predictions")
    } == {
        "randomness": [0xE << 52],
        "threshold": [0xC << 52],
        "sampled": [True],
        "spans": [3],
        "start_ns": [T0 + 50],
        "end_ns": [T0 + 99 + 7_000_000],
        "error": [True],
        "predictions": [2],
    }
    assert [table["groups"][code] for code in table["p_group"]] == [("fraud", "7", ""), ("risk", "7", "")]
    assert table["p_trace"].tolist() == [0, 0]
    assert table["p_duration_ns"].tolist() == [5_000_000, 7_000_000]
    codes, _, models = table["rows"]["model"]
    assert [models[code] for code in codes] == ["fraud", "risk"]
    assert table["rows"]["duration_ns"][0].tolist() == [5_000_000, 7_000_000]
    dtypes = {
        "uint8": "trace_id",
        "uint64": "randomness threshold bytes p_duration_ns",
        "bool": "sampled error",
        "int64": "start_ns end_ns",
    }
    dtypes["uint32"] = "spans predictions p_trace p_group"
    for dtype, columns in dtypes.items():
        assert {table[name].dtype.name for name in columns.split()} == {dtype}


def test_without_rv_the_id_is_the_randomness() -> None:
    """The last 56 bits of the trace id."""
    buffer = TraceBuffer(0)
    buffer.add(batch([span(bytes(range(1, 17)))]), 1)
    assert buffer.due(T0, 1)["randomness"].tolist() == [int.from_bytes(bytes(range(10, 17)), "big")]


def test_prediction_rows_of_kept_and_dropped_traces() -> None:
    """Each prediction has its row, whatever was decided; the weight of a dropped one is NULL."""
    buffer = TraceBuffer(0)
    buffer.add(batch([span(1, model="fraud"), span(2, model="fraud"), span(3, model="risk"), span(4)]), 1)
    assert buffer.predictions == {"fraud": 2, "risk": 1}
    taken = decide(buffer, {trace_id(1): True, trace_id(2): False, trace_id(4): False})
    rows = list(Rows(taken.prediction_rows))
    assert [(row["trace_id"], row["model"], row["weight"], row["sampling"]) for row in rows] == [
        (trace_id(1).hex(), "fraud", 4.0, "kept"),
        (trace_id(2).hex(), "fraud", None, "dropped"),
    ]
    assert {(row["policy"], row["plan_revision"], row["collector"], row["segment"]) for row in rows} == {("budget", 3, "c1", 9)}
    assert taken.predictions == {"fraud": 2}
    assert (buffer.predictions, buffer.spans, buffer.traces) == ({"risk": 1}, 1, 1)
    assert [row["weight"] for row in Rows(decide(buffer, {trace_id(3): True}, weight=float("nan")).prediction_rows)] == [None]


def test_late_spans_follow_their_trace() -> None:
    """A span of a decided trace is late; the next decide gives it out with its trace's decision."""
    buffer = TraceBuffer(0)
    buffer.add(batch([span(1), span(2)]), 1)
    decide(buffer, {trace_id(1): True, trace_id(2): False}, weight=8.0, revision=5)
    assert buffer.oldest_sequence is None
    buffer.add(batch([span(1, 2, parent=1, model="m"), span(2, 2, parent=1, model="m"), span(3)]), 7)
    assert (buffer.late, buffer.spans, buffer.traces, buffer.oldest_sequence) == (2, 3, 1, 7)
    assert due_ids(buffer, T0) == [trace_id(3)]
    taken = decide(buffer, {}, revision=99)
    assert (taken.spans_kept, taken.spans_dropped, taken.spans_rescued, taken.predictions) == (1, 1, 0, {"m": 2})
    assert [(row["sampling"], row["weight"], row["plan_revision"]) for row in Rows(taken.prediction_rows)] == [
        ("kept", 8.0, 5),
        ("dropped", None, 5),
    ]
    assert (buffer.late, buffer.spans) == (0, 1)


def test_a_late_error_of_a_dropped_trace_is_rescued() -> None:
    """It is kept to be looked at: weight 0, and no `th`. A second late error is rescued as well."""
    buffer = TraceBuffer(0)
    buffer.add(batch([span(1, state="ot=th:0")]), 1)
    decide(buffer, {trace_id(1): False}, revision=5)
    for number in (2, 3):
        buffer.add(batch([span(1, number, parent=1, error=True, model="m", state="ot=th:0"), span(1, 9, parent=1)]), number)
        taken = decide(buffer, {}, otlp=True)
        assert (taken.spans_kept, taken.spans_rescued, taken.spans_dropped) == (1, 1, 1)
        assert [(row["sampling"], row["weight"], row["policy"], row["plan_revision"]) for row in Rows(taken.prediction_rows)] == [
            ("rescued", 0.0, "budget", 5)
        ]
        assert [kept.trace_state for kept in otlp_spans(taken)] == [""]


def test_memory_of_decisions_is_bounded_and_first_in_first_out() -> None:
    """What is forgotten is decided anew. Kept and dropped traces have a memory each."""
    buffer = TraceBuffer(0, remember_kept=1, remember_dropped=2)
    buffer.add(batch([span(number) for number in range(1, 6)]), 1)
    decide(buffer, {trace_id(1): True, trace_id(2): True, trace_id(3): False, trace_id(4): False, trace_id(5): False})
    buffer.add(batch([span(number, 2, parent=1) for number in range(1, 6)]), 2)
    assert (buffer.late, sorted(due_ids(buffer, T0))) == (3, [trace_id(1), trace_id(3)])
    nothing = TraceBuffer(0, remember_kept=0, remember_dropped=0)
    nothing.add(batch([span(1)]), 1)
    decide(nothing, {trace_id(1): True})
    nothing.add(batch([span(1)]), 1)
    assert (nothing.late, nothing.traces) == (0, 1)


def test_decisions_of_an_earlier_run_are_remembered() -> None:
    """After a restart late spans follow what was decided before it; a trace that waits again is not touched."""
    buffer = TraceBuffer(0)
    buffer.add(batch([span(3)]), 1)
    remembered = {trace_id(1): True, trace_id(2): False, trace_id(3): False}
    buffer.remember(*decisions(remembered, weight=16.0), samplings=SAMPLINGS, policies=["budget"], plan_revision=2)
    buffer.remember(*decisions({trace_id(2): True}, weight=2.0), samplings=SAMPLINGS, policies=["budget"], plan_revision=2)
    buffer.add(batch([span(1, 2, model="m"), span(2, 2, model="m"), span(3, 2)]), 2)
    assert (buffer.late, buffer.traces) == (2, 1)
    assert [row["weight"] for row in Rows(decide(buffer, {}).prediction_rows)] == [16.0, 2.0]


def test_over_its_bounds_the_oldest_are_due_early() -> None:
    """Past `max_traces` or `max_bytes` just enough traces are due to be within them again."""
    buffer = TraceBuffer(60 * SECOND, max_traces=3)
    for number in range(1, 6):
        buffer.add(batch([span(number)], T0 + number), number)
    assert due_ids(buffer, T0) == [trace_id(1), trace_id(2)]
    sizes = TraceBuffer(60 * SECOND)
    for number in range(1, 9):
        sizes.add(batch([span(number, model="m" * 5000)], T0 + number), number)
    bounded = TraceBuffer(60 * SECOND, max_bytes=sizes.bytes // 2 + 1000)
    for number in range(1, 9):
        bounded.add(batch([span(number, model="m" * 5000)], T0 + number), number)
    ids = due_ids(bounded, T0)
    assert ids == [trace_id(number) for number in range(1, 5)]
    decide(bounded, dict.fromkeys(ids, False))
    assert due_ids(bounded, T0) == []


def test_bytes_pins_a_request_until_its_last_span() -> None:
    """A request counts once however many spans of it wait, and goes with the last one."""
    buffer = TraceBuffer(0)
    buffer.add(batch([span(1, 1, state="x=" + "y" * 100_000), span(2, 1)]), 4)
    assert 100_000 < buffer.bytes < 102_000
    decide(buffer, {trace_id(1): True})
    assert buffer.bytes > 100_000
    assert buffer.oldest_sequence == 4
    decide(buffer, {trace_id(2): True})
    assert (buffer.bytes, buffer.oldest_sequence) == (0, None)


def test_the_oldest_sequence_is_that_of_what_waits() -> None:
    """The journal can be cut below it."""
    buffer = TraceBuffer(0)
    for sequence, number in ((5, 1), (6, 2), (6, 3), (7, 1)):
        buffer.add(batch([span(number, sequence)]), sequence)
    seen = []
    for number in (2, 1, 3):
        seen.append(buffer.oldest_sequence)
        decide(buffer, {trace_id(number): False})
    assert [*seen, buffer.oldest_sequence] == [5, 5, 6, None]


def test_threads_may_share_a_buffer() -> None:
    """Requests are added from several threads while another looks and decides; nothing is lost and nothing hangs."""
    buffer = TraceBuffer(0)
    batches = [[batch([span(thread * 1000 + n, n + 1, model="m") for n in range(20)], T0 + n) for n in range(50)] for thread in range(4)]

    def add_all(own: list[SpanBatch]) -> None:
        for sequence, added in enumerate(own):
            buffer.add(added, sequence)

    threads = [threading.Thread(target=add_all, args=(own,)) for own in batches]
    for thread in threads:
        thread.start()
    dropped = rows = 0
    while any(thread.is_alive() for thread in threads) or buffer.spans:
        assert sum(buffer.predictions.values()) <= 4000
        taken = decide(buffer, dict.fromkeys(due_ids(buffer, T0 + 100), False))
        dropped, rows = dropped + taken.spans_dropped, rows + taken.predictions.get("m", 0)
    assert (dropped, rows, buffer.bytes) == (4000, 4000, 0)


def test_bytes_that_are_not_held_take_no_room_and_may_be_missing() -> None:
    """Only what is kept is asked for. What cannot be had, or is not what it was, is neither kept nor dropped, and counted."""
    first, second = (request([span(n, parent=0, model="m"), span(n + 10)]).SerializeToString() for n in (1, 2))
    buffer, held = TraceBuffer(0), TraceBuffer(0)
    for sequence, body in ((5, first), (6, second)):
        buffer.add(decode_traces(body, DIALECT, T0), sequence, hold=False)
        held.add(decode_traces(body, DIALECT, T0), sequence)
    assert held.bytes - buffer.bytes == len(first) + len(second)
    columns = decisions({trace_id(1): True, trace_id(2): True, trace_id(11): False})
    assert (buffer.sources(*columns[:2]), held.sources(*columns[:2])) == ([5, 6], [])
    words: dict[str, Any] = {"samplings": SAMPLINGS, "policies": ["budget"], "plan_revision": 1, "collector": "c", "segment": 1}
    taken = buffer.decide(*columns, **words, bodies={5: first[:-1]})
    assert (taken.spans_kept, taken.spans_dropped, taken.spans_missing, taken.predictions) == (0, 1, 2, {"m": 2})
    buffer.add(decode_traces(request([span(1, 7, parent=1)]).SerializeToString(), DIALECT, T0), 7, hold=False)
    assert (buffer.late, buffer.sources(*decisions({})[:2])) == (1, [7])


@pytest.mark.parametrize("hold", [True, False])
def test_a_burst_leaves_no_memory_behind(hold: bool) -> None:
    """Once everything is decided the records of a large burst are given back, and the buffer goes on; wherever the bytes were."""
    buffer = TraceBuffer(0, remember_kept=0, remember_dropped=0)
    for start in (0, 100_000):
        bodies = {}
        for first in range(start, start + 70_000, 1000):
            bodies[first] = request([span(number) for number in range(first, first + 1000)]).SerializeToString()
            buffer.add(decode_traces(bodies[first], DIALECT, T0), first, hold=hold)
        ids = buffer.due(T0, 100_000)["trace_id"]
        zeros = np.zeros(len(ids), dtype=np.uint8)
        keep = np.arange(len(ids)) % 7 == 0
        assert buffer.sources(ids, keep) == ([] if hold else list(bodies))
        columns = (ids, keep, zeros.astype(np.uint64), zeros + 1.0, zeros, zeros)
        words: dict[str, Any] = {"samplings": SAMPLINGS, "policies": ["p"], "plan_revision": 1, "collector": "c", "segment": 1}
        taken = buffer.decide(*columns, **words, bodies={} if hold else bodies)
        assert (taken.spans_kept, taken.spans_dropped, taken.spans_missing) == (10_000, 60_000, 0)
        assert (buffer.spans, buffer.traces, buffer.bytes) == (0, 0, 0)


def test_arguments_are_checked() -> None:
    """Each fault says where, what was expected, what was got."""
    with pytest.raises(ValueError, match="wait_ns: expected 0 or more, got -1"):
        TraceBuffer(-1)
    buffer = TraceBuffer(0)
    ids, *columns = decisions({trace_id(1): True, trace_id(2): True})
    words = {"samplings": SAMPLINGS, "policies": ["budget"], "plan_revision": 1, "collector": "c", "segment": 1}
    with pytest.raises(ValueError, match=r"trace_ids: expected shape \(n, 16\), got \[4, 8\]"):
        buffer.decide(ids.reshape(4, 8), *columns, **words)
    with pytest.raises(ValueError, match="keep: expected 1 entries, one for each of trace_ids, got 2"):
        buffer.decide(ids[:1], *columns, **words)
    with pytest.raises(ValueError, match=r"sampling\[0\]: expected an index into a list of 1, got 1"):
        buffer.decide(ids, *columns, **(words | {"samplings": ["kept"]}))


def test_arrays_of_any_layout_are_read() -> None:
    """Decisions read back from a log lie at odd addresses; slices have strides."""
    buffer = TraceBuffer(0)
    buffer.add(batch([span(1, model="m"), span(2, model="m")]), 1)
    ids = np.frombuffer(b"x" + b"".join(trace_id(1) + bytes(16) + trace_id(2) + bytes(16) for _ in "a"), np.uint8, offset=1).reshape(4, 16)[
        ::2
    ]
    weight = np.frombuffer(b"x" + struct.pack("<dd", 3.0, 5.0), np.float64, offset=1)
    threshold = np.frombuffer(b"x" + struct.pack("<QQ", NONE, NONE), np.uint64, offset=1)
    ones = np.ones(4, dtype=np.uint8)[::2]
    taken = buffer.decide(
        ids,
        ones.view(bool)[:2],
        threshold,
        weight,
        ones,
        ones - 1,
        samplings=SAMPLINGS,
        policies=["p"],
        plan_revision=1,
        collector="c",
        segment=1,
    )
    assert [row["weight"] for row in Rows(taken.prediction_rows)] == [3.0, 5.0]


def otlp_spans(taken: Taken) -> list[Span]:
    return [
        kept
        for body in taken.otlp
        for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope_spans in resource_spans.scope_spans
        for kept in scope_spans.spans
    ]


@pytest.mark.parametrize("hold", [True, False])
@pytest.mark.parametrize("seed", range(40))
def test_any_history_agrees_with_the_oracle(seed: int, hold: bool) -> None:
    """Random adds, decisions, restarts' memories and bounds: the same traces are due in the same order with the same
    facts, the same spans are kept, and spans added = kept + dropped + waiting after every step; whether the buffer holds the
    requests' bytes or they are lent to it."""
    rng = random.Random(seed)
    bodies: dict[int, bytes] = {}
    options = {
        "wait_after_root_ns": rng.choice((0, 3)),
        "max_traces": rng.choice((8, 1000)),
        "remember_kept": rng.choice((0, 2, 50)),
        "remember_dropped": rng.choice((0, 3, 50)),
    }
    wait_ns = rng.choice((0, 7))
    buffer, plain = TraceBuffer(wait_ns, **options), PlainBuffer(wait_ns, **options)
    added, given, now = Counter[str](), Counter[str](), T0
    for step in range(60):
        now += rng.randrange(3)
        match rng.choice("aaadddr"):
            case "a":
                spans = [random_span(rng, step * 100 + number) for number in range(rng.randrange(12))]
                service = rng.choice(("a", "b", "c"))
                bodies[step] = request(spans, service).SerializeToString()
                buffer.add(decode_traces(bodies[step], DIALECT, now), step, hold=hold or rng.random() < 0.1)
                plain.add([seen(made, service) for made in spans], now, step)
                added["spans"] += len(spans)
                added["predictions"] += sum(1 for made in spans if made.attributes)
            case "d":
                limit, everything = rng.choice((2, 5, 100)), rng.random() < 0.1
                table = buffer.due(now, limit, everything=everything, rows=rng.random() < 0.5)
                ids = [bytes(row) for row in table["trace_id"]]
                assert ids == plain.due(now, limit, everything=everything)
                assert facts(table) == [plain.facts(id_) for id_ in ids]
                asked = {id_: rng.random() < 0.5 for id_ in ids if rng.random() < 0.8} | {trace_id(999): True}
                taken = decide(buffer, asked, samplings=("dropped", "kept"), bodies=bodies, otlp=True)
                kept, counts = plain.decide([(id_, keep, "kept" if keep else "dropped") for id_, keep in asked.items()])
                assert sorted(made.span_id for made in otlp_spans(taken)) == sorted(id_ for id_, _ in kept)
                expected = (counts["kept"], counts["dropped"], counts["rescued"], counts["predictions"])
                assert (taken.spans_kept, taken.spans_dropped, taken.spans_rescued, sum(taken.predictions.values())) == expected
                assert len(list(Rows(taken.prediction_rows))) == counts["predictions"]
                given += counts
            case "r":
                known = {trace_id(rng.randrange(30)): rng.random() < 0.5}
                buffer.remember(*decisions(known), samplings=SAMPLINGS, policies=["budget"], plan_revision=1)
                plain.remember([(id_, keep, "kept" if keep else "dropped") for id_, keep in known.items()])
        waiting = plain.waiting
        assert (buffer.spans, buffer.late) == (len(waiting), plain.late)
        assert sum(buffer.predictions.values()) == sum(made.rows for _, made in waiting)
        assert buffer.oldest_sequence == min((sequence for sequence, _ in waiting), default=None)
        assert added["spans"] == given["kept"] + given["dropped"] + buffer.spans
        assert added["predictions"] == given["predictions"] + sum(buffer.predictions.values())
    ids = due_ids(buffer, now, everything=True)
    decide(buffer, dict.fromkeys(ids, False), bodies=bodies)
    assert (buffer.spans, buffer.traces, buffer.bytes, buffer.predictions) == (0, 0, 0, {})


def random_span(rng: random.Random, number: int) -> Span:
    return span(
        rng.randrange(30),
        number + 1,
        error=rng.random() < 0.2,
        parent=rng.choice((0, 1, 1)),
        model=rng.choice(("", "", "fraud", "risk")),
        state=rng.choice(("", "", "ot=th:8", "ot=rv:00000000000001;th:0", "ot=rv:ffffffffffffff", "ot=bad")),
        start=rng.choice((0, T0, T0 + 5, T0 + 7)),
        ms=rng.randrange(5),
    )


def seen(made: Span, service: str) -> Seen:
    said = {item[:2]: item[3:] for item in made.trace_state.removeprefix("ot=").split(";") if made.trace_state != "ot=bad" and item}
    return Seen(
        made.trace_id,
        made.span_id,
        made.start_time_unix_nano,
        made.end_time_unix_nano,
        not made.parent_span_id,
        made.status.code == Status.STATUS_CODE_ERROR,
        int(said["rv"], 16) if "rv" in said else None,
        int(said["th"].ljust(14, "0"), 16) if "th" in said else None,
        service,
        len(made.attributes) // 2,
        made.ByteSize(),
    )


def facts(table: dict[str, Any]) -> list[dict[str, Any]]:
    names = ("randomness", "threshold", "sampled", "spans", "bytes", "start_ns", "end_ns", "error", "predictions")
    codes, services = table["service"]
    return [{name: table[name][at].item() for name in names} | {"service": services[codes[at]]} for at in range(len(table["spans"]))]


@pytest.mark.parametrize("seed", range(10))
def test_order_of_arrival_changes_nothing(seed: int) -> None:
    """The due table of spans received at the same time is the same for every order of spans and of requests."""
    rng = random.Random(seed)
    by_service = {service: [random_span(rng, n) for n in range(40)] for service in ("a", "b", "c")}

    def table() -> dict[str, Any]:
        buffer = TraceBuffer(0, wait_after_root_ns=1)
        services = rng.sample(sorted(by_service), 3)
        for sequence, service in enumerate(services):
            spans = rng.sample(by_service[service], 40)
            cut = rng.randrange(40)
            buffer.add(batch(spans[:cut], T0, service), sequence)
            buffer.add(batch(spans[cut:], T0, service), sequence)
        return buffer.due(T0, 1000)

    first = table()
    for _ in range(5):
        again = table()
        assert facts(again) == facts(first)
        assert np.array_equal(again["trace_id"], first["trace_id"])
        assert predictions(again) == predictions(first)


def predictions(table: dict[str, Any]) -> Counter[Any]:
    groups = table["groups"]
    return Counter(
        (int(trace), groups[group], int(duration))
        for trace, group, duration in zip(table["p_trace"], table["p_group"], table["p_duration_ns"], strict=True)
    )
