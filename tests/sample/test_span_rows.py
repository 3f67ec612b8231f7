"""Kept spans as they leave: rows of `otel_traces` in a real ClickHouse, and OTLP, against the plain-Python oracle."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chdb
import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

import leadline
from leadline._kernel import PREDICTION_COLUMNS, SPAN_COLUMNS, Dialect, Taken, TraceBuffer, decode_traces
from reference.span_rows import span_row, spans_of, trace_state

T0 = 1_700_000_000_000_000_000
NONE = 1 << 56
DIALECT = Dialect([("span", "ml.model.name", "model"), ("span", "ml.prediction.id", "prediction_id")])
SCHEMA = (Path(leadline.__file__).parent / "store" / "schema" / "0001_tables.sql").read_text()
TEXTS = (
    "",
    "a",
    "München",
    "日本語 🚢",
    'tab\tquote"back\\slash',
    "nul\0bell\x07\x1f\x7f",
    "line\nline\r\x08\x0c",
    "x" * 300,
    "</script>&",
    "\u2028",
)
DOUBLES = (
    0.0,
    -0.0,
    1.0,
    -2.5,
    0.1,
    1e20,
    1e21,
    1.5e-7,
    1e-6,
    5e-324,
    1.7976931348623157e308,
    123456789.123456789,
    float("nan"),
    float("inf"),
    float("-inf"),
)


def text(rng: random.Random) -> str:
    return rng.choice(TEXTS)


def any_value(rng: random.Random, depth: int = 3) -> AnyValue:
    match rng.randrange(8 if depth else 6):
        case 0:
            return AnyValue()
        case 1:
            return AnyValue(string_value=text(rng))
        case 2:
            return AnyValue(bool_value=rng.random() < 0.5)
        case 3:
            return AnyValue(int_value=rng.choice((0, 7, -1, 2**63 - 1, -(2**63), rng.randrange(10**9))))
        case 4:
            return AnyValue(double_value=rng.choice((*DOUBLES, rng.gauss(0, 1e3))))
        case 5:
            return AnyValue(bytes_value=rng.randbytes(rng.randrange(8)))
        case 6:
            value = AnyValue()
            value.array_value.values.extend(any_value(rng, depth - 1) for _ in range(rng.randrange(4)))
            value.array_value.SetInParent()
            return value
        case _:
            value = AnyValue()
            value.kvlist_value.values.extend(KeyValue(key=text(rng), value=any_value(rng, depth - 1)) for _ in range(rng.randrange(4)))
            value.kvlist_value.SetInParent()
            return value


def attributes(rng: random.Random) -> list[KeyValue]:
    return [KeyValue(key=rng.choice(("k", "http.route", "", text(rng))), value=any_value(rng)) for _ in range(rng.randrange(6))]


def time_ns(rng: random.Random) -> int:
    return rng.choice((0, T0, T0 + rng.randrange(10**12), 2**63 - 1, 2**64 - 1))


def random_span(rng: random.Random) -> Span:
    span = Span(
        trace_id=rng.randbytes(15) + b"\1",
        span_id=rng.randbytes(7) + b"\1",
        parent_span_id=rng.choice((b"", rng.randbytes(8))),
        trace_state=rng.choice(
            ("", "vendor=1", "ot=th:8", "a=1, ot=rv:7fffffffffffff;th:4;x:y ,b=2", "ot=TH:1", "ot=th:8,ot=th:8", "ot=p:8;rv:80000000000000")
        ),
        name=text(rng),
        kind=rng.randrange(6),
        start_time_unix_nano=time_ns(rng),
        end_time_unix_nano=time_ns(rng),
        attributes=attributes(rng),
        flags=rng.randrange(2**32),
        dropped_attributes_count=rng.randrange(3),
        dropped_events_count=rng.randrange(3),
    )
    for _ in range(rng.randrange(4)):
        span.events.add(time_unix_nano=time_ns(rng), name=text(rng), attributes=attributes(rng))
    for _ in range(rng.randrange(3)):
        link = span.links.add(
            trace_id=rng.randbytes(16), span_id=rng.randbytes(8), trace_state=rng.choice(("", "ot=th:8")), attributes=attributes(rng)
        )
        link.flags = 1
    if rng.random() < 0.7:
        span.status.code, span.status.message = rng.randrange(3), text(rng)
    return span


def random_request(seed: int, *, spans: int) -> ExportTraceServiceRequest:
    rng = random.Random(seed)
    request = ExportTraceServiceRequest()
    while spans > 0:
        resource = request.resource_spans.add(schema_url=rng.choice(("", "https://example.org/1")))
        if rng.random() < 0.8:
            resource.resource.attributes.extend(attributes(rng))
            resource.resource.attributes.add(key="service.name").value.string_value = rng.choice(("a", "b", text(rng)))
            resource.resource.dropped_attributes_count = 2
        for _ in range(rng.randrange(3)):
            scope = resource.scope_spans.add(schema_url=rng.choice(("", "https://example.org/2")))
            if rng.random() < 0.8:
                scope.scope.name, scope.scope.version = text(rng), text(rng)
                scope.scope.attributes.extend(attributes(rng))
            here = rng.randrange(1, 6)
            scope.spans.extend(random_span(rng) for _ in range(here))
            spans -= here
    return request


def take(*bodies: bytes, threshold: int = NONE, weight: float = 2.0, otlp: bool = True) -> Taken:
    """Keeps everything."""
    buffer = TraceBuffer(0)
    for sequence, body in enumerate(bodies):
        buffer.add(decode_traces(body, DIALECT, T0), sequence)
    ids = buffer.due(T0, 1_000_000)["trace_id"]
    n = len(ids)
    return buffer.decide(
        ids,
        np.ones(n, dtype=bool),
        np.full(n, threshold, dtype=np.uint64),
        np.full(n, weight),
        np.zeros(n, dtype=np.uint8),
        np.zeros(n, dtype=np.uint8),
        samplings=["kept"],
        policies=["slow"],
        plan_revision=7,
        collector="c1",
        segment=2**40,
        otlp=otlp,
    )


@pytest.fixture(scope="module")
def clickhouse() -> Iterator[Any]:
    """An embedded ClickHouse with the shipped schema; rows of any age stay."""
    connection = chdb.connect(":memory:")
    for table in ("otel_traces", "predictions"):
        statement = re.search(rf"CREATE TABLE IF NOT EXISTS {table}\n.*?;$", SCHEMA, re.S | re.M)
        assert statement
        connection.query(statement[0].rstrip(";"))
        connection.query(f"ALTER TABLE {table} REMOVE TTL")
    yield connection
    connection.close()


def load(connection: Any, table: str, columns: tuple[tuple[str, str], ...], rows: bytes) -> None:
    connection.query(f"TRUNCATE TABLE {table}")
    names = ", ".join(f"`{name}`" for name, _ in columns)
    with connection.send_insert(f"INSERT INTO {table} ({names}) SETTINGS max_partitions_per_insert_block = 0", "RowBinary") as insert:
        insert.append(rows)
        insert.finish()


def read(connection: Any, table: str, columns: tuple[tuple[str, str], ...]) -> list[dict[str, Any]]:
    def expression(name: str, kind: str) -> str:
        match kind:
            case "DateTime64(9)":
                return f"toUnixTimestamp64Nano(`{name}`)"
            case "Array(DateTime64(9))":
                return f"arrayMap(t -> toUnixTimestamp64Nano(t), `{name}`)"
            case "Map(LowCardinality(String), String)":
                return f"arrayZip(mapKeys(`{name}`), mapValues(`{name}`))"
            case "Array(Map(LowCardinality(String), String))":
                return f"arrayMap(m -> arrayZip(mapKeys(m), mapValues(m)), `{name}`)"
            case _:
                return f"`{name}`"

    selected = ", ".join(f"{expression(name, kind)} AS `{name}_`" for name, kind in columns)
    found = connection.query(f"SELECT {selected} FROM {table} SETTINGS output_format_json_quote_64bit_integers = 0", "JSONEachRow")
    lines = str(found).split("\n")
    return [{name: row[name + "_"] for name, _ in columns} for row in map(json.loads, filter(None, lines))]


def ours(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"Weight": 2.0, "Sampling": "kept", "Policy": "slow", "PlanRevision": 7, "Collector": "c1", "Segment": 2**40}


def key(row: dict[str, Any]) -> tuple[str, str]:
    return row["TraceId"], row["SpanId"]


@pytest.mark.parametrize("threshold", [NONE, 0, 0x80 << 48, 0xFFFF << 40])
def test_rows_are_the_oracles(clickhouse: Any, threshold: int) -> None:
    """Random spans with events, links, nested attributes and extreme times, column by column as ClickHouse reads them."""
    requests = [random_request(threshold + seed, spans=100) for seed in range(2)]
    taken = take(*(request.SerializeToString() for request in requests), threshold=threshold)
    load(clickhouse, "otel_traces", SPAN_COLUMNS, taken.span_rows)
    expected = [ours(span_row(*parts, threshold)) for request in requests for parts in spans_of(request)]
    found = sorted(read(clickhouse, "otel_traces", SPAN_COLUMNS), key=key)
    assert len(found) == taken.spans_kept == len(expected)
    for got, wanted in zip(found, sorted(expected, key=key), strict=True):
        assert got == wanted


def test_columns_are_the_tables(clickhouse: Any) -> None:
    """`SPAN_COLUMNS` and `PREDICTION_COLUMNS` are the columns of the schema, in its order, with its types."""
    for table, columns in (("otel_traces", SPAN_COLUMNS), ("predictions", PREDICTION_COLUMNS)):
        rows = str(
            clickhouse.query(f"SELECT name, type FROM system.columns WHERE table = '{table}' ORDER BY position", "JSONCompactEachRow")
        )
        assert tuple(tuple(json.loads(line)) for line in rows.splitlines()) == columns


def test_text_that_is_not_utf8_is_made_so(clickhouse: Any) -> None:
    """Each ill-formed sequence becomes U+FFFD, in keys, values, names, messages and JSON."""
    bad = b"\xff\xc3(\xe2\x82_"
    span = random_span(random.Random(1))
    del span.attributes[:], span.events[:], span.links[:]
    span.name = span.status.message = "MARKER"
    span.attributes.add(key="MARKER").value.string_value = "<MARKER>"
    span.attributes.add(key="list").value.array_value.values.add().string_value = "MARKER"
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add(spans=[span]).scope.name = "MARKER"
    taken = take(request.SerializeToString().replace(b"MARKER", bad))
    load(clickhouse, "otel_traces", SPAN_COLUMNS, taken.span_rows)
    (row,) = read(clickhouse, "otel_traces", SPAN_COLUMNS)
    clean = bad.decode(errors="replace")
    assert (row["SpanName"], row["ScopeName"]) == (clean, clean)
    assert row["SpanAttributes"] == [[clean, f"<{clean}>"], ["list", f'["{clean}"]']]


def test_prediction_rows_load(clickhouse: Any) -> None:
    """Prefix and suffix together are a row of `predictions`."""
    span = Span(trace_id=b"\1" * 16, span_id=b"\2" * 8, start_time_unix_nano=T0 - 9, end_time_unix_nano=T0)
    for name, value in (("ml.model.name", "fraud"), ("ml.prediction.id", "p-1")):
        span.attributes.add(key=name).value.string_value = value
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add(spans=[span])
    taken = take(request.SerializeToString())
    load(clickhouse, "predictions", PREDICTION_COLUMNS, taken.prediction_rows)
    (row,) = read(clickhouse, "predictions", PREDICTION_COLUMNS)
    wanted = {"prediction_id": "p-1", "trace_id": "01" * 16, "span_id": "02" * 8, "event_time": T0, "model": "fraud", "duration_ns": 9}
    wanted |= {"weight": 2.0, "sampling": "kept", "policy": "slow", "plan_revision": 7, "collector": "c1", "segment": 2**40}
    assert {name: row[name] for name in wanted} == wanted


STATES = [
    # (trace state, last 7 bytes of the trace id, threshold, what is emitted)
    ("", "ffffffffffffff", 0, "ot=th:0"),
    ("", "ffffffffffffff", 0xE666 << 40, "ot=th:e666"),
    ("", "e6660000000000", 0xE666 << 40, "ot=th:e666"),
    ("", "e665ffffffffff", 0xE666 << 40, ""),  # R < T: no th that is not true
    ("", "ffffffffffffff", NONE, ""),
    ("", "ffffffffffffff", 2**64 - 1, ""),
    ("v=1,w=2", "ffffffffffffff", 0x8 << 52, "ot=th:8,v=1,w=2"),
    ("v=1,w=2", "ffffffffffffff", NONE, "v=1,w=2"),
    ("ot=th:8", "ffffffffffffff", 0x8 << 52, "ot=th:8"),
    ("v=1, ot=th:8", "ffffffffffffff", 0x8 << 52, "v=1, ot=th:8"),  # nothing to say: nothing touched
    ("ot=th:8", "ffffffffffffff", NONE, ""),
    ("v=1, ot=th:8", "ffffffffffffff", 0xC << 52, "ot=th:c,v=1"),
    ("ot=x:1;rv:c0000000000000;th:8", "00000000000000", 0xC << 52, "ot=th:c;rv:c0000000000000;x:1"),
    ("ot=rv:bfffffffffffff;th:8", "ffffffffffffff", 0xC << 52, "ot=rv:bfffffffffffff"),
    ("ot=th:8;th:8,v=1", "ffffffffffffff", 0xC << 52, "ot=th:c,v=1"),  # malformed is absent
    ("ot=RV:1;rv:XYZ", "00000000000000", 0xC << 52, ""),
    ("ot=th:8," + ",".join(f"v{n}=1" for n in range(31)), "ffffffffffffff", 0xC << 52, "ot=th:c," + ",".join(f"v{n}=1" for n in range(31))),
    (",".join(f"v{n}=1" for n in range(32)), "ffffffffffffff", 0xC << 52, "ot=th:c," + ",".join(f"v{n}=1" for n in range(31))),
    (f"ot=rv:ffffffffffffff;a:{'1' * 200};b:{'2' * 26}", "0" * 14, 0xABCDEF << 32, f"ot=th:abcdef;rv:ffffffffffffff;a:{'1' * 200}"),
]


@pytest.mark.parametrize(("state", "randomness", "threshold", "emitted"), STATES)
def test_the_emitted_threshold_is_true(state: str, randomness: str, threshold: int, emitted: str) -> None:
    """`th` is written where the span's randomness is not below it, else erased; what others wrote stays."""
    span = Span(trace_id=bytes.fromhex("aa" * 9 + randomness), span_id=b"\2" * 8, trace_state=state)
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add(spans=[span])
    (body,) = take(request.SerializeToString(), threshold=threshold).otlp
    ((kept, _, _),) = spans_of(ExportTraceServiceRequest.FromString(body))
    assert kept.trace_state == emitted == trace_state(span, threshold)


@pytest.mark.parametrize("threshold", [NONE, 0, 0x80 << 48])
def test_otlp_differs_in_trace_state_alone(threshold: int) -> None:
    """Spans keep every field, and their own resource, scope and schema URLs."""
    requests = [random_request(seed, spans=60) for seed in range(3)]
    taken = take(*(request.SerializeToString() for request in requests), threshold=threshold)
    assert taken.spans_kept == sum(1 for request in requests for _ in spans_of(request))
    for request in requests:
        for span, _, _ in spans_of(request):
            span.trace_state = trace_state(span, threshold)
    assert flat(*(ExportTraceServiceRequest.FromString(body) for body in taken.otlp)) == flat(*requests)


def flat(*requests: ExportTraceServiceRequest) -> dict[bytes, tuple[bytes, ...]]:
    """Span by span: its bytes, and those of what it stands under."""
    return {
        span.span_id: (
            span.SerializeToString(deterministic=True),
            resource.resource.SerializeToString(deterministic=True),
            resource.schema_url.encode(),
            scope.scope.SerializeToString(deterministic=True),
            scope.schema_url.encode(),
        )
        for request in requests
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }


def test_otlp_requests_stay_below_4_mib() -> None:
    """Chunks fit what gRPC takes by default; spans of one scope stay together; a larger span goes alone."""
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = "s" * 10_000
    for size in [50_000] * 200 + [5 << 20] + [50_000] * 10:
        scope = resource.scope_spans.add() if size > 50_000 else (resource.scope_spans or [resource.scope_spans.add()])[-1]
        scope.spans.add(trace_id=b"\1" * 16, span_id=len(scope.spans).to_bytes(4, "big") + size.to_bytes(4, "big"), name="n" * size)
    taken = take(request.SerializeToString())
    sizes = [len(body) for body in taken.otlp]
    parsed = [ExportTraceServiceRequest.FromString(body) for body in taken.otlp]
    assert sum(1 for part in parsed for _ in spans_of(part)) == 211
    assert sum(1 for size in sizes if size > 4 << 20) == 1
    assert len(sizes) == 5
    assert all(part.resource_spans[0].resource == resource.resource for part in parsed)


def test_resource_attributes_are_not_mixed_up(clickhouse: Any) -> None:
    """One trace over many services: each span's row has its own resource."""
    bodies = []
    for service in range(20):
        request = ExportTraceServiceRequest()
        for part in range(2):
            resource = request.resource_spans.add()
            resource.resource.attributes.add(key="service.name").value.string_value = f"s{service}-{part}"
            resource.scope_spans.add(
                spans=[Span(trace_id=b"\1" * 16, span_id=bytes([service + 1, part + 1] * 4))]
            ).scope.name = f"scope{service}-{part}"
        bodies.append(request.SerializeToString())
    load(clickhouse, "otel_traces", SPAN_COLUMNS, take(*bodies).span_rows)
    rows = read(clickhouse, "otel_traces", SPAN_COLUMNS)
    for row in rows:
        service, part = (byte - 1 for byte in bytes.fromhex(row["SpanId"])[:2])
        assert (row["ServiceName"], row["ScopeName"]) == (f"s{service}-{part}", f"scope{service}-{part}")
        assert row["ResourceAttributes"] == [["service.name", f"s{service}-{part}"]]
    assert len(rows) == 40
