"""OTLP/JSON to protobuf: what is taken, what is refused and with which path."""

from __future__ import annotations

import base64
import json
import math
import random
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from leadline.errors import InvalidRequest, TooLarge
from leadline.model.signals import Signal
from leadline.receive import otlp_json
from reference import otlp_json as oracle

MAX_DEPTH = 64

REQUESTS: dict[Signal, Any] = {
    Signal.TRACES: ExportTraceServiceRequest,
    Signal.METRICS: ExportMetricsServiceRequest,
    Signal.LOGS: ExportLogsServiceRequest,
}


def transcode(signal: Signal, document: bytes) -> bytes:
    return otlp_json.transcode(signal, document, 2**26)


def parsed(signal: Signal, document: Any) -> Any:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return REQUESTS[signal].FromString(transcode(signal, data))


def span(**fields: Any) -> dict[str, Any]:
    return {"resourceSpans": [{"scopeSpans": [{"spans": [fields]}]}]}


def span_of(document: Any) -> Any:
    return parsed(Signal.TRACES, document).resource_spans[0].scope_spans[0].spans[0]


def point(**fields: Any) -> dict[str, Any]:
    return {"resourceMetrics": [{"scopeMetrics": [{"metrics": [{"gauge": {"dataPoints": [fields]}}]}]}]}


def point_of(document: Any) -> Any:
    return parsed(Signal.METRICS, document).resource_metrics[0].scope_metrics[0].metrics[0].gauge.data_points[0]


def value_of(value: Any) -> Any:
    return span_of(span(attributes=[{"key": "k", "value": value}])).attributes[0].value


def test_a_whole_span() -> None:
    """Every kind of field at once, as a client of the specification writes it."""
    found = span_of(
        {
            "resourceSpans": [
                {
                    "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "scoring"}}]},
                    "scopeSpans": [
                        {
                            "scope": {"name": "lib", "version": "1"},
                            "spans": [
                                {
                                    "traceId": "0102030405060708090A0B0C0D0E0F10",
                                    "spanId": "a1b2c3d4e5f60718",
                                    "parentSpanId": "",
                                    "traceState": "ot=th:8",
                                    "flags": 257,
                                    "name": "predict",
                                    "kind": 2,
                                    "startTimeUnixNano": "1700000000000000000",
                                    "endTimeUnixNano": "18446744073709551615",
                                    "attributes": [{"key": "n", "value": {"intValue": "-9223372036854775808"}}],
                                    "droppedAttributesCount": 4294967295,
                                    "events": [{"timeUnixNano": "1", "name": "e"}],
                                    "links": [{"traceId": "00" * 16, "spanId": "FF" * 8}],
                                    "status": {"code": 2, "message": "ü\u20ac\U0001f600"},
                                }
                            ],
                        }
                    ],
                    "schemaUrl": "https://opentelemetry.io/schemas/1.40.0",
                }
            ]
        }
    )
    assert found.trace_id == bytes(range(1, 17))
    assert found.span_id.hex() == "a1b2c3d4e5f60718"
    assert found.parent_span_id == b""
    assert (found.trace_state, found.flags, found.name, found.kind) == ("ot=th:8", 257, "predict", 2)
    assert (found.start_time_unix_nano, found.end_time_unix_nano) == (1_700_000_000_000_000_000, 2**64 - 1)
    assert found.attributes[0].value.int_value == -(2**63)
    assert found.dropped_attributes_count == 2**32 - 1
    assert (found.events[0].name, found.links[0].span_id) == ("e", b"\xff" * 8)
    assert (found.status.code, found.status.message) == (2, "ü€😀")


def test_all_kinds_of_metrics() -> None:
    found = parsed(
        Signal.METRICS,
        {
            "resourceMetrics": [
                {
                    "scopeMetrics": [
                        {
                            "metrics": [
                                {"name": "a", "sum": {"aggregationTemporality": 2, "isMonotonic": True, "dataPoints": [{"asInt": "-3"}]}},
                                {
                                    "name": "b",
                                    "histogram": {
                                        "aggregationTemporality": "AGGREGATION_TEMPORALITY_DELTA",
                                        "dataPoints": [
                                            {"count": 3, "sum": 2.5, "bucketCounts": ["1", 2], "explicitBounds": [0.5], "min": 0}
                                        ],
                                    },
                                },
                                {
                                    "name": "c",
                                    "exponentialHistogram": {
                                        "dataPoints": [
                                            {
                                                "scale": -2,
                                                "zeroCount": "7",
                                                "positive": {"offset": -5, "bucketCounts": [1, "300"]},
                                                "zeroThreshold": 0.25,
                                            }
                                        ]
                                    },
                                },
                                {"name": "d", "summary": {"dataPoints": [{"quantileValues": [{"quantile": 0.5, "value": 4}]}]}},
                            ]
                        }
                    ]
                }
            ]
        },
    )
    a, b, c, d = found.resource_metrics[0].scope_metrics[0].metrics
    assert (a.sum.data_points[0].as_int, a.sum.is_monotonic, a.sum.aggregation_temporality) == (-3, True, 2)
    histogram = b.histogram.data_points[0]
    assert (list(histogram.bucket_counts), list(histogram.explicit_bounds)) == ([1, 2], [0.5])
    assert (histogram.HasField("min"), histogram.HasField("max"), b.histogram.aggregation_temporality) == (True, False, 1)
    exponential = c.exponential_histogram.data_points[0]
    assert (exponential.scale, exponential.zero_count, exponential.positive.offset) == (-2, 7, -5)
    assert (list(exponential.positive.bucket_counts), exponential.zero_threshold) == ([1, 300], 0.25)
    assert d.summary.data_points[0].quantile_values[0].value == 4


def test_a_log_record_with_a_map_for_a_body() -> None:
    """As BentoML's monitoring writes: columns in a map, ids that are no trace ids among them."""
    body = {"kvlistValue": {"values": [{"key": "amount", "value": {"doubleValue": 12}}, {"key": "id", "value": {"stringValue": "123"}}]}}
    found = parsed(
        Signal.LOGS, {"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": body, "severityNumber": 9, "eventName": "x"}]}]}]}
    )
    record = found.resource_logs[0].scope_logs[0].log_records[0]
    assert record.body.kvlist_value.values[0].value.double_value == 12.0
    assert (record.severity_number, record.event_name, record.trace_id) == (9, "x", b"")


def test_both_spellings_of_names() -> None:
    found = span_of(b'{"resource_spans":[{"scope_spans":[{"spans":[{"trace_id":"%s","start_time_unix_nano":5}]}]}]}' % (b"aB" * 16))
    assert (found.trace_id, found.start_time_unix_nano) == (b"\xab" * 16, 5)


@pytest.mark.parametrize(("given", "kind"), [(3, 3), ("SPAN_KIND_CLIENT", 3), ("3", 3), (0, 0), (99, 99)])
def test_enums_are_numbers_or_names(given: Any, kind: int) -> None:
    assert span_of(span(kind=given)).kind == kind


@pytest.mark.parametrize(
    ("given", "number"), [(5, 5), ("5", 5), ("-5", -5), (5.0, 5), ("5e3", 5000), (0, 0), ("9223372036854775807", 2**63 - 1)]
)
def test_integers_are_numbers_or_strings(given: Any, number: int) -> None:
    assert value_of({"intValue": given}).int_value == number


@pytest.mark.parametrize(("given", "number"), [("NaN", math.nan), ("Infinity", math.inf), ("-Infinity", -math.inf), (1, 1.0), ("2.5", 2.5)])
def test_doubles_may_be_named(given: Any, number: float) -> None:
    found = value_of({"doubleValue": given}).double_value
    assert found == number or (math.isnan(found) and math.isnan(number))


def test_null_in_the_place_of_a_value_is_kept() -> None:
    """JavaScript writes NaN as null: the value is NaN, and its neighbours are not lost with it."""
    assert math.isnan(value_of({"doubleValue": None}).double_value)
    assert math.isnan(point_of(point(asDouble=None)).as_double)
    values = value_of({"arrayValue": {"values": [{"intValue": 1}, None, {}, {"doubleValue": None}]}}).array_value.values
    assert [value.WhichOneof("value") for value in values] == ["int_value", None, None, "double_value"]


def test_null_elsewhere_is_absent() -> None:
    found = span_of(span(name=None, traceId=None, attributes=None, status=None, kind=None, startTimeUnixNano=None, events=[None]))
    assert found == ExportTraceServiceRequest.FromString(b"\n\6\x12\4\x12\2\x2a\0").resource_spans[0].scope_spans[0].spans[0]
    assert not value_of({"stringValue": None}).WhichOneof("value")


@pytest.mark.parametrize("value", [{"stringValue": ""}, {"boolValue": False}, {"intValue": 0}, {"doubleValue": 0}, {"bytesValue": ""}])
def test_zero_values_stay_values(value: dict[str, Any]) -> None:
    assert value_of(value).WhichOneof("value") is not None


@pytest.mark.parametrize("given", ["+/8=", "-_8=", "+/8", "-_8"])
def test_bytes_are_base64_of_either_alphabet(given: str) -> None:
    assert value_of({"bytesValue": given}).bytes_value == b"\xfb\xff"


def test_unknown_members_are_passed_over_at_every_level() -> None:
    extra = {"unknown": [{"deep": {"traceId": 5}}, None, 1.5]}
    document = {"resourceSpans": [{"scopeSpans": [{"spans": [{"name": "a", **extra}], **extra}], **extra}], **extra}
    assert span_of(document).name == "a"


def test_references_to_a_table_of_strings_are_not_fatal() -> None:
    assert value_of({"stringValueStrindex": 3, "keyStrindex": 1}) is not None


def test_of_a_key_that_occurs_twice_the_later_counts() -> None:
    assert span_of(b'{"resourceSpans":[],"resourceSpans":[{"scopeSpans":[{"spans":[{"name":"a","name":"b"}]}]}]}').name == "b"


def test_half_a_surrogate_pair_becomes_a_replacement_character() -> None:
    assert span_of(b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":"a\\ud800b"}]}]}]}').name == "a\ufffdb"


def test_a_byte_order_mark_is_passed_over() -> None:
    assert transcode(Signal.LOGS, b"\xef\xbb\xbf{}") == b""


IN_SPAN = "resourceSpans[0].scopeSpans[0].spans[0]"
REFUSED = [
    (span(traceId="abc"), f'{IN_SPAN}.traceId: expected 32 hex digits, got "abc"'),
    (span(traceId=base64.b64encode(b"x" * 16).decode()), f'{IN_SPAN}.traceId: expected 32 hex digits, got "eHh4eHh4eHh4eHh4eHh4eA=="'),
    (span(spanId="ab cdef01234567 "), f'{IN_SPAN}.spanId: expected 16 hex digits, got "ab cdef01234567 "'),
    (span(spanId=7), f"{IN_SPAN}.spanId: expected 16 hex digits, got 7"),
    (span(links=[{}, {"spanId": "x"}]), f'{IN_SPAN}.links[1].spanId: expected 16 hex digits, got "x"'),
    (span(name=5), f"{IN_SPAN}.name: expected a string, got a number"),
    (span(kind="SERVER"), f"{IN_SPAN}.kind: expected a number or one of SPAN_KIND_UNSPECIFIED, "),
    (span(kind=True), f"{IN_SPAN}.kind: expected a number or one of "),
    (span(startTimeUnixNano=-1), f"{IN_SPAN}.startTimeUnixNano: expected an integer from 0 to 18446744073709551615, "),
    (span(startTimeUnixNano="soon"), f"{IN_SPAN}.startTimeUnixNano: expected an integer from 0 to 18446744073709551615, "),
    (span(startTimeUnixNano=2**64), f"{IN_SPAN}.startTimeUnixNano: expected an integer "),
    (span(startTimeUnixNano=1.5), f"{IN_SPAN}.startTimeUnixNano: expected an integer "),
    (span(startTimeUnixNano=True), f"{IN_SPAN}.startTimeUnixNano: expected an integer "),
    (span(flags="9" * 5000), f"{IN_SPAN}.flags: expected an integer "),
    (span(attributes={"k": "v"}), f"{IN_SPAN}.attributes: expected an array, got an object"),
    (span(attributes=[{"key": "k", "value": "v"}]), f"{IN_SPAN}.attributes[0].value: expected an object, got a string"),
    (span(attributes=[{"key": "k", "value": {"boolValue": "yes"}}]), f"{IN_SPAN}.attributes[0].value.boolValue: expected true or false, "),
    (span(attributes=[{"value": {"doubleValue": "much"}}]), f"{IN_SPAN}.attributes[0].value.doubleValue: expected a number, "),
    (span(attributes=[{"value": {"bytesValue": "?"}}]), f'{IN_SPAN}.attributes[0].value.bytesValue: expected base64, got "?"'),
    ({"resourceSpans": {}}, "resourceSpans: expected an array, got an object"),
    ({"resourceSpans": [5]}, "resourceSpans[0]: expected an object, got a number"),
    ([], "expected an object, got an array"),
    ("x", "expected an object, got a string"),
    (b"null", "expected an object, got null"),
    (b"{", "not JSON: "),
    (b'{"a":1,}', "not JSON: "),
    (b'{"a" 1}', "not JSON: "),
    (b"{} x", "not JSON: expected the end at byte 3"),
    (b'{"a":"\xff"}', "not JSON: invalid UTF-8 at byte 6"),
    (b'{"a":' * 100_000, "a: nested too deeply"),
    (b"[" * 100_000, "expected an object, got an array"),
]


@pytest.mark.parametrize(("document", "text"), REFUSED, ids=[str(n) for n in range(len(REFUSED))])
def test_faults_say_where_what_and_got(document: Any, text: str) -> None:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(InvalidRequest) as caught:
        transcode(Signal.TRACES, data)
    assert str(caught.value).startswith(text)
    assert len(str(caught.value)) < 400


def test_what_becomes_too_large_is_refused() -> None:
    """A number of two characters becomes eight bytes."""
    document = {"resourceMetrics": [{"scopeMetrics": [{"metrics": [{"histogram": {"dataPoints": [{"bucketCounts": [0] * 1000}]}}]}]}]}
    with pytest.raises(TooLarge, match=r"more than 8000 bytes \(receive\.max_bytes\)"):
        otlp_json.transcode(Signal.METRICS, json.dumps(document).encode(), 8000)


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"intValue": 1}
    for _ in range(levels):
        value = {"arrayValue": {"values": [value]}}
    return value


def test_values_nest_to_a_bound() -> None:
    assert transcode(Signal.TRACES, json.dumps(span(attributes=[{"value": nested(MAX_DEPTH)}])).encode())
    with pytest.raises(InvalidRequest, match="nested too deeply: values may nest 64 levels"):
        value_of(nested(MAX_DEPTH + 1))


def test_lengths_of_several_bytes() -> None:
    text, counts = "é" * 300_000, list(range(50_000))
    assert span_of(span(name=text, attributes=[{"key": "k", "value": {"stringValue": text}}])).name == text
    document = {"resourceMetrics": [{"scopeMetrics": [{"metrics": [{"histogram": {"dataPoints": [{"bucketCounts": counts}]}}]}]}]}
    found = parsed(Signal.METRICS, document).resource_metrics[0].scope_metrics[0].metrics[0].histogram.data_points[0]
    assert list(found.bucket_counts) == counts


# --- properties

texts = st.text(max_size=12)
values: Any = st.recursive(
    st.one_of(
        st.builds(lambda v: {"stringValue": v}, texts),
        st.builds(lambda v: {"intValue": str(v)}, st.integers(-(2**63), 2**63 - 1)),
        st.builds(lambda v: {"doubleValue": v}, st.floats(allow_nan=False, allow_infinity=False)),
        st.builds(lambda v: {"boolValue": v}, st.booleans()),
        st.builds(lambda v: {"bytesValue": base64.b64encode(v).decode()}, st.binary(max_size=9)),
        st.just({}),
    ),
    lambda inner: st.one_of(
        st.builds(lambda v: {"arrayValue": {"values": v}}, st.lists(inner, max_size=4)),
        st.builds(
            lambda v: {"kvlistValue": {"values": [{"key": k, "value": w} for k, w in v]}}, st.lists(st.tuples(texts, inner), max_size=4)
        ),
    ),
    max_leaves=8,
)
attributes = st.lists(st.builds(lambda k, v: {"key": k, "value": v}, texts, values), max_size=5)
spans = st.builds(
    lambda t, s, n, k, a, b: {"traceId": t.hex(), "spanId": s.hex(), "name": n, "kind": k, "attributes": a, "startTimeUnixNano": str(b)},
    st.binary(min_size=16, max_size=16), st.binary(min_size=8, max_size=8), texts, st.integers(0, 5), attributes, st.integers(0, 2**64 - 1),
)  # fmt: skip
documents = st.builds(
    lambda r, s: {"resourceSpans": [{"resource": {"attributes": r}, "scopeSpans": [{"spans": s}]}]}, attributes, st.lists(spans, max_size=5)
)


def as_base64_ids(document: Any) -> Any:
    """The same document as protobuf's own JSON mapping wants it: ids in base64."""
    copy = json.loads(json.dumps(document))
    for each in copy["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        for key in ("traceId", "spanId"):
            each[key] = base64.b64encode(bytes.fromhex(each[key])).decode()
    return copy


@given(documents, st.sampled_from([None, 2]), st.booleans())
@settings(max_examples=150, deadline=None)
def test_agrees_with_protobuf(document: Any, indent: int | None, ascii_only: bool) -> None:
    """Held to protobuf's own JSON parser."""
    data = json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode()
    expected: Message = json_format.ParseDict(as_base64_ids(document), ExportTraceServiceRequest())
    assert parsed(Signal.TRACES, data) == expected


WHOLE: dict[Signal, Any] = {
    Signal.TRACES: span(name="aé\n", traceId="ab" * 16, attributes=[{"key": "k", "value": nested(3)}], events=[{"name": "e"}], kind=3),
    Signal.LOGS: {"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": {"doubleValue": None}, "severityNumber": "9", "flags": 1}]}]}]},
    Signal.METRICS: {
        "resourceMetrics": [
            {"scopeMetrics": [{"metrics": [{"name": "h", "exponentialHistogram": {"dataPoints": [
                {"scale": -2, "sum": 1.5, "zeroCount": "7", "positive": {"offset": -5, "bucketCounts": [1, "300"]}, "min": "NaN"}
            ]}}]}]}
        ]
    },
}  # fmt: skip


@pytest.mark.parametrize("signal", list(Signal))
@pytest.mark.parametrize("seed", range(10))
def test_agrees_with_its_oracle_on_damaged_documents(signal: Signal, seed: int) -> None:
    """Bytes changed, cut and doubled at random: refused by both, or the same bytes from both."""
    rng = random.Random(seed)
    whole = json.dumps(WHOLE[signal]).encode()
    taken = 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data))
            choice = rng.randrange(4)
            if choice == 0:
                data[at] = rng.choice(b'{}[]",:0aN\\\xc3 ')
            elif choice == 1:
                del data[at : at + rng.randint(1, 9)]
            elif choice == 2:
                data[at:at] = data[at : at + rng.randint(1, 9)]
            else:
                data[at:at] = rng.choice((b"null", b"1e1", b'"7"', b"-3.5", b"true", b"{}", b"[]", b'"\\ud83d"'))
            if not data:
                break
        try:
            expected: bytes | None = oracle.transcode(signal, bytes(data)) if data.strip() else b""
        except oracle.JsonFault:
            expected = None
        try:
            found: bytes | None = transcode(signal, bytes(data))
        except InvalidRequest:
            found = None
        assert found == expected, bytes(data)
        taken += found is not None
    assert taken > 10
