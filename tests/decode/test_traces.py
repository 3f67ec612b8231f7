"""decode_traces against the plain-Python oracle, and against bytes that are not what they claim."""

from __future__ import annotations

import json
import math
import random
import struct
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.decode.trace_requests import RECEIVE_NS, Requests, set_attributes
from tests.reference.decode import Decoded, decode

from leadline._kernel import DecodeError, SpanBatch, decode_traces, prediction_columns
from leadline.decode.dialect import SHIPPED, load, rules, segment_rules

SEGMENTS = ["country", "is_new"]
RULES = [*rules(SHIPPED / "ml.yaml"), *rules(SHIPPED / "gen_ai.yaml"), *segment_rules(SEGMENTS)]
DIALECT = load(["ml", "gen_ai"], SEGMENTS)


class Row:
    """A prediction row's prefix, read back from RowBinary."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, layout: str) -> Any:
        (value,) = struct.unpack_from(layout, self.data, self.at)
        self.at += struct.calcsize(layout)
        return value

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.take("<B")
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def text(self) -> str:
        size = self.varint()
        self.at += size
        return self.data[self.at - size : self.at].decode()

    def nullable(self, read: Any) -> Any:
        return None if self.take("<B") else read()

    def read(self) -> dict[str, Any]:
        def double() -> float:
            return float(self.take("<d"))

        row: dict[str, Any] = {name: self.text() for name in ("prediction_id", "trace_id", "span_id")}
        row |= {name: self.take("<q") for name in ("event_time", "receive_time")}
        row |= {name: self.text() for name in ("model", "version", "role", "task")}
        row["predicted"] = self.nullable(self.text)
        row |= {name: self.nullable(double) for name in ("score", "confidence")}
        row["duration_ns"], row["error_type"] = self.take("<Q"), self.text()
        row["segments"] = {self.text(): self.text() for _ in range(self.varint())}
        row["inbound_weight"] = self.nullable(double)
        assert self.at == len(self.data)
        return row


def comparable(value: Any) -> Any:
    return "NaN" if isinstance(value, float) and math.isnan(value) else value


def rows_of(batch: SpanBatch) -> list[dict[str, Any]]:
    return [{name: comparable(value) for name, value in Row(row).read().items()} for row in batch.rows()]


def values_of(batch: SpanBatch) -> Counter[tuple[int, str, Any]]:
    return Counter((prediction, series, comparable(value)) for prediction, series, value in batch.values())


def assert_agree(batch: SpanBatch, expected: Decoded) -> None:
    assert batch.spans == len(expected.spans)
    assert batch.rejected == dict(expected.rejected)
    assert rows_of(batch) == [{name: comparable(value) for name, value in each.row.items()} for each in expected.predictions]
    assert values_of(batch) == Counter(
        (at, series, comparable(value)) for at, each in enumerate(expected.predictions) for series, value in each.values.items()
    )
    assert batch.notes == dict(expected.notes)
    assert batch.predictions == dict(Counter(each.row["model"] for each in expected.predictions))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_agrees_with_the_oracle(seed: int) -> None:
    """Spans, rejections, rows, values and notes are the oracle's, for every form, whole and spoilt."""
    data = Requests(random.Random(seed)).request()
    batch = decode_traces(data, DIALECT, RECEIVE_NS, max_rows_per_span=10)
    assert_agree(batch, decode(data, RULES, RECEIVE_NS, max_rows_per_span=10))


def request_of(*spans: dict[str, Any], scope: dict[str, Any] | None = None, **fields: Any) -> bytes:
    request = ExportTraceServiceRequest()
    scope_spans = request.resource_spans.add().scope_spans.add()
    set_attributes(scope or {}, scope_spans.scope.attributes)
    for number, attributes in enumerate(spans, 1):
        span = scope_spans.spans.add(trace_id=b"t" * 16, span_id=number.to_bytes(8, "big"), end_time_unix_nano=RECEIVE_NS, **fields)
        set_attributes(attributes, span.attributes)
    return request.SerializeToString()


SCHEMA = {
    "ml.features.names": ["amount", "country", "age"],
    "ml.features.dtypes": ["float32", "string", "float32"],
    "ml.features.schema_id": "s",
}
ONE = {"features/amount": 1.5, "features/country": "DE", "features/age": 40.0}


def test_gen_ai_names_old_and_new() -> None:
    """vLLM's old names and the new ones are one series each; the answering model is the version, and the model for want of another."""
    old = {
        "gen_ai.response.model": "llm-2026",
        "gen_ai.request.id": "r1",
        "gen_ai.usage.prompt_tokens": 10,
        "gen_ai.usage.completion_tokens": 20,
    }
    new = {"gen_ai.request.model": "llm", "gen_ai.response.id": "r2", "gen_ai.usage.input_tokens": 30, "gen_ai.usage.prompt_tokens": 10}
    latency = {"gen_ai.request.model": "llm", "gen_ai.latency.time_to_first_token": 0.25, "error.type": "timeout"}
    batch = decode_traces(request_of(old, new, latency), DIALECT, RECEIVE_NS)
    assert [(row["model"], row["version"], row["prediction_id"][:2], row["error_type"]) for row in rows_of(batch)] == [
        ("llm-2026", "llm-2026", "r1", ""),
        ("llm", "", "r2", ""),
        ("llm", "", "74", "timeout"),
    ]
    assert {(at, series, value) for at, series, value in batch.values() if series != "duration_ms"} == {
        (0, "features/tokens_in", 10.0),
        (0, "features/tokens_out", 20.0),
        (1, "features/tokens_in", 30.0),
        (2, "features/time_to_first_token_s", 0.25),
    }


def test_a_segment_takes_the_nearest_attribute_then_the_feature() -> None:
    """`ml.segment.country`, then the span's `country`, then the resource's, then the feature."""
    feature = {"ml.model.name": "m", "ml.features.country": "feature"}
    batch = decode_traces(
        request_of(feature, feature | {"country": "own"}, feature | {"country": "own", "ml.segment.country": "said"}), DIALECT, RECEIVE_NS
    )
    assert [row["segments"]["country"] for row in rows_of(batch)] == ["feature", "own", "said"]


@pytest.mark.parametrize(
    ("trace_state", "attributes", "weight"),
    [
        ("ot=th:8", {}, 2.0),
        ("ot=th:8", {"ml.sampling.weight": 7.0}, 2.0),
        ("ot=th:0", {}, 1.0),
        ("ot=rv:0123456789abcd", {"ml.sampling.weight": 7}, 7.0),
        ("ot=th:8X", {"ml.sampling.weight": 7.0}, 7.0),
        ("", {"ml.sampling.weight": 0.0}, None),
        ("", {}, None),
    ],
)
def test_the_inbound_weight(trace_state: str, attributes: dict[str, Any], weight: float | None) -> None:
    """The threshold's adjusted count, else what the span says, else unknown, which is not 1."""
    batch = decode_traces(request_of({"ml.model.name": "m", **attributes}, trace_state=trace_state), DIALECT, RECEIVE_NS)
    assert rows_of(batch)[0]["inbound_weight"] == weight


def test_confidence_and_class_from_class_scores() -> None:
    """The largest score is the confidence, and its name the prediction, where neither is given."""
    scores = {"ml.model.name": "m", "ml.prediction.class_scores": [0.2, 0.7, 0.1], "ml.prediction.class_names": ["a", "b", "c"]}
    given = {"ml.prediction.confidence": 0.5, "ml.prediction.label": "c"}
    batch = decode_traces(request_of(scores, scores | given), DIALECT, RECEIVE_NS)
    assert [(row["predicted"], row["confidence"]) for row in rows_of(batch)] == [("b", 0.7), ("c", 0.5)]


@pytest.mark.parametrize(
    ("attributes", "scope"),
    [
        ({"ml.features.amount": 1.5, "ml.features.country": "DE", "ml.features.age": 40}, {}),
        ({"ml.features": {"amount": 1.5, "country": "DE", "age": 40}}, {}),
        ({"ml.features": '{"amount": 1.5, "country": "DE", "age": 40}'}, {}),
        ({"ml.features.json": '{"amount": 1.5, "country": "\\u0044E", "age": 4e1}'}, {}),
        ({"ml.features.names": ["amount", "country", "age"], "ml.features.values": [1.5, "DE", 40]}, {}),
        ({"ml.features.values": [1.5, "DE", 40]}, SCHEMA),
        ({"ml.features.packed": struct.pack("<2f", 1.5, 40), "ml.features.categorical": ["DE"], "ml.features.schema_id": "s"}, SCHEMA),
        ({"ml.features.packed_b64": "AADAPwAAIEI=", "ml.features.categorical": ["DE"], "ml.features.len": 2}, SCHEMA),
        ({"ml.features.packed": struct.pack("<2d", 1.5, 40), "ml.features.encoding": "f64le", "ml.features.categorical": ["DE"]}, SCHEMA),
        ({"ml.features.packed": struct.pack("<2e", 1.5, 40), "ml.features.encoding": "f16le", "ml.features.categorical": ["DE"]}, SCHEMA),
        ({"ml.features.packed": struct.pack("<f2b", 0.5, 3, 80), "ml.features.encoding": "i8q", "ml.features.categorical": ["DE"]}, SCHEMA),
        ({"ml.features.packed": b'[1.5, "DE", 40]', "ml.features.encoding": "json"}, SCHEMA),
    ],
)
def test_every_form_gives_the_same_features(attributes: dict[str, Any], scope: dict[str, Any]) -> None:
    """One attribute each, map, JSON, names and values, packed in each encoding: the same three features and the same segment."""
    batch = decode_traces(request_of({"ml.model.name": "m", **attributes}, scope=scope), DIALECT, RECEIVE_NS)
    assert {series: value for _, series, value in batch.values() if series != "duration_ms"} == ONE
    assert rows_of(batch)[0]["segments"] == {"country": "DE"}
    assert batch.notes == {}


@pytest.mark.parametrize(
    ("attributes", "note"),
    [
        ({"ml.features.packed": bytes(4)}, "features_length_mismatch"),
        ({"ml.features.packed": bytes(8)}, "features_length_mismatch"),  # the text is missing
        ({"ml.features.packed": bytes(8), "ml.features.categorical": ["DE"], "ml.features.len": 5}, "features_length_mismatch"),
        (
            {"ml.features.packed": bytes(8), "ml.features.categorical": ["DE"], "ml.features.null_mask": bytes(2)},
            "features_length_mismatch",
        ),
        ({"ml.features.packed": bytes(8), "ml.features.categorical": ["DE"], "ml.features.schema_id": "t"}, "features_schema_unknown"),
        ({"ml.features.packed": bytes(8), "ml.features.encoding": "arrow"}, "features_encoding_unknown"),
        ({"ml.features.packed_b64": "AADAPwAAIEI*"}, "features_base64_malformed"),
        ({"ml.features.json": '{"amount": 1.5, "country": "D'}, "features_json_malformed"),
        ({"ml.features.amount": [1.5]}, "feature_not_scalar"),
    ],
)
def test_a_spoilt_vector_gives_no_features_and_the_prediction_counts(attributes: dict[str, Any], note: str) -> None:
    """Nothing is decoded short; what was wrong is noted; the row is there."""
    batch = decode_traces(request_of({"ml.model.name": "m", **attributes}, scope=SCHEMA), DIALECT, RECEIVE_NS)
    assert [series for _, series, _ in batch.values()] == ["duration_ms"]
    assert batch.notes == {note: 1}
    assert batch.predictions == {"m": 1}


def test_a_misspelled_attribute_is_noted() -> None:
    """What begins with `ml.` and is no name of the convention is counted, on any span that is taken; segments that nobody named are not."""
    spoilt = {"ml.feature.amount": 1.5, "ml.segment.channel": "web", "ml.model_version": "2", "mlops.team": "a"}
    batch = decode_traces(request_of({"ml.model.name": "m", **spoilt}), DIALECT, RECEIVE_NS)
    assert batch.notes == {"attribute_unknown": 2}
    assert [series for _, series, _ in batch.values()] == ["duration_ms"]
    assert decode_traces(request_of({"ml.model_name": "m"}), DIALECT, RECEIVE_NS).notes == {"attribute_unknown": 1}


def test_a_packed_vector_without_schema_is_noted() -> None:
    """Neither span nor scope says the names."""
    batch = decode_traces(request_of({"ml.model.name": "m", "ml.features.packed": bytes(8)}), DIALECT, RECEIVE_NS)
    assert batch.notes == {"features_schema_unknown": 1}


def test_a_batch_is_rows() -> None:
    """A packed [3, 2] matrix with ids and scores is three predictions, in order; the mask takes one value out."""
    data = request_of(
        {
            "ml.model.name": "m",
            "ml.batch.size": 3,
            "ml.prediction.id": ["a", "b", "c"],
            "ml.prediction.score": [0.1, 0.2, 0.3],
            "ml.features.packed": struct.pack("<6f", *range(6)),
            "ml.features.categorical": ["DE", "FR", "IT"],
            "ml.features.null_mask": bytes([0b00100000, 0]),
        },
        scope=SCHEMA,
    )
    batch = decode_traces(data, DIALECT, RECEIVE_NS)
    assert [row["prediction_id"] for row in rows_of(batch)] == ["a", "b", "c"]
    assert [row["segments"] for row in rows_of(batch)] == [{"country": "DE"}, {"country": "FR"}, {"country": "IT"}]
    values = {(prediction, series): value for prediction, series, value in batch.values()}
    assert [values[at, "features/amount"] for at in range(3)] == [0.0, 2.0, 4.0]
    assert [values[at, "features/age"] for at in range(3)] == [1.0, None, 5.0]
    assert [values[at, "score"] for at in range(3)] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("size", "reason"), [(11, "batch_too_large"), (10**12, "batch_too_large"), (-1, "batch_size_invalid"), ("3", "batch_size_invalid")]
)
def test_a_batch_out_of_bounds_is_rejected(size: Any, reason: str) -> None:
    """The other spans of the request are taken."""
    data = request_of({"ml.model.name": "m", "ml.batch.size": size}, {"ml.model.name": "m"})
    batch = decode_traces(data, DIALECT, RECEIVE_NS, max_rows_per_span=10)
    assert (batch.spans, batch.rejected, batch.predictions) == (1, {reason: 1}, {"m": 1})


def test_rows_never_take_much_more_than_the_request() -> None:
    """Small spans that claim many rows with a long model name are rejected once the request is used up 64 times over."""
    spans = [{"ml.batch.size": 300, "pad": "x" * 300}] * 400
    data = request_of(*spans, scope={"ml.model.name": "m" * 256, "ml.model.version": "v" * 128})
    batch = decode_traces(data, DIALECT, RECEIVE_NS)
    assert batch.rejected["expansion_too_large"] == 400 - batch.spans > 0
    assert sum(map(len, batch.rows())) <= 64 * len(data) + (1 << 20)


@pytest.mark.parametrize("form", ["attributes", "map", "json"])
def test_one_value_for_all_rows_is_bounded_too(form: str) -> None:
    """A thousand features, each said once for 10,000 rows, would be 160 MB from 40 kB."""
    features = {f"f{number}": 1 for number in range(2000)}
    given = {
        "attributes": {f"ml.features.{name}": value for name, value in features.items()},
        "map": {"ml.features": features},
        "json": {"ml.features.json": json.dumps(features)},
    }[form]
    batch = decode_traces(request_of({"ml.model.name": "m", "ml.batch.size": 10_000, **given}), DIALECT, RECEIVE_NS)
    assert (batch.spans, batch.rejected, batch.values()) == (0, {"expansion_too_large": 1}, [])


def test_invalid_utf8_is_replaced() -> None:
    """Texts that are not UTF-8 fail nothing: U+FFFD stands in rows, names and values."""
    data = request_of({"ml.model.name": "m@@", "ml.features.co@@": "D@@", "ml.prediction.label": "@@", "ml.segment.country": "@@"})
    batch = decode_traces(data.replace(b"@@", b"\xff\xfe"), DIALECT, RECEIVE_NS)
    assert batch.predictions == {"m\ufffd\ufffd": 1}
    assert {(series, value) for _, series, value in batch.values()} >= {
        ("features/co\ufffd\ufffd", "D\ufffd\ufffd"),
        ("predicted", "\ufffd\ufffd"),
    }
    assert rows_of(batch)[0]["segments"] == {"country": "\ufffd\ufffd"}


def test_columns_are_the_rows() -> None:
    """`prediction_columns` says of each prediction what its row says, over several batches."""
    rng = random.Random(5)
    batches = [decode_traces(Requests(rng).request(), DIALECT, RECEIVE_NS, max_rows_per_span=10) for _ in range(60)]
    rows = [row for batch in batches for row in rows_of(batch)]
    columns = prediction_columns(batches)
    known = {
        "event_time",
        "receive_time",
        "model",
        "version",
        "role",
        "task",
        "predicted",
        "score",
        "confidence",
        "duration_ns",
        "error_type",
        "inbound_weight",
    }
    assert set(columns) == known | {f"segments.{name}" for row in rows for name in row["segments"]}
    for name, (values, null, categories) in columns.items():
        read = [categories[code] for code in values] if categories is not None else values.tolist()
        if null is not None:
            read = [None if is_null else value for value, is_null in zip(read, null, strict=True)]
        segment = name.removeprefix("segments.")
        assert [comparable(value) for value in read] == [row["segments"].get(segment) if segment != name else row[name] for row in rows], (
            name
        )
        assert categories is None or len(set(categories)) == len(categories)


def test_no_predictions_are_empty_columns() -> None:
    """No batch, and a batch without predictions."""
    for batches in ([], [decode_traces(b"", DIALECT, RECEIVE_NS)]):
        columns = prediction_columns(batches)
        assert all(len(values) == 0 for values, _, _ in columns.values())


def large_request(seed: int) -> bytes:
    rng = random.Random(seed)
    return next(data for data in iter(Requests(rng).request, b"never") if len(data) > 1500)


def outcome(data: bytes) -> SpanBatch | DecodeError:
    try:
        return decode_traces(data, DIALECT, RECEIVE_NS, max_rows_per_span=10)
    except DecodeError as error:
        return error


def test_truncation_anywhere_is_an_error_or_a_request() -> None:
    """Cut at every byte of some requests: decoded, or refused with an offset inside."""
    for seed in range(4):
        data = large_request(seed)
        for end in range(len(data)):
            got = outcome(data[:end])
            if isinstance(got, DecodeError):
                assert 0 <= got.offset <= end
                assert got.what in str(got)
            else:
                assert got.size == end


def test_any_byte_changed_is_an_error_or_a_request() -> None:
    """Each byte of a request replaced by each of some values: never anything but a batch or a DecodeError."""
    data = large_request(7)
    for at in range(len(data)):
        for byte in (0x00, 0x7F, 0x80, 0xFF, data[at] ^ 0x08):
            got = outcome(data[:at] + bytes([byte]) + data[at + 1 :])
            assert isinstance(got, SpanBatch) or 0 <= got.offset <= len(data)


@pytest.mark.parametrize(
    ("data", "offset", "what"),
    [
        (b"\x0a", 1, "whole varint"),
        (b"\x0a\x05ab", 1, "length that ends within"),
        (b"\x0a\x80\x80\x80\x80\x04", 1, "length that ends within"),  # 1 GiB
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 1, "length that ends within"),  # 2**64 - 1
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 1, "whole varint"),  # 65 bits
        (b"\x02\x00", 0, "field number"),
        (b"\x0b\x0c", 1, "groups are refused"),
        (b"\x7d\x00\x00", 1, "4 bytes"),
        (b"\x79\x00\x00", 1, "8 bytes"),
        (b"\xff" * 12, 0, "whole varint"),
        (b"\x0a\x04\x12\x02\x12\x7f", 5, "length that ends within"),
    ],
)
def test_faults_of_the_wire_have_an_offset(data: bytes, offset: int, what: str) -> None:
    """The error says where and what was expected."""
    with pytest.raises(DecodeError, match=what) as caught:
        decode_traces(data, DIALECT, RECEIVE_NS)
    assert caught.value.offset == offset
    assert isinstance(caught.value, ValueError)


def test_unknown_fields_are_passed_over() -> None:
    """Fields of later versions of OTLP, of every wire type, at every level."""
    unknown = b"\xf8\x3f\x01" + b"\xf9\x3f" + bytes(8) + b"\xfa\x3f\x03abc" + b"\xfd\x3f" + bytes(4)

    def message(tag: int, content: bytes) -> bytes:
        assert len(content) < 128
        return bytes([tag, len(content)]) + content

    value = message(0x12, message(0x0A, b"m") + unknown)
    attribute = message(0x4A, unknown + message(0x0A, b"ml.model.name") + value)
    span = message(0x0A, b"t" * 16) + message(0x12, b"s" * 8) + attribute
    scope_spans = message(0x12, span)
    data = message(0x0A, message(0x12, scope_spans)) + unknown
    assert decode_traces(data, DIALECT, RECEIVE_NS).predictions == {"m": 1}


def test_nesting_is_bounded() -> None:
    """Arrays and maps nest as deep as `max_depth` and no deeper, in attributes, events and resources."""

    def nested(depth: int) -> Any:
        value: Any = 1
        for level in range(depth):
            value = [value] if level % 2 else {"k": value}
        return value

    data = request_of({"a": nested(20)})
    assert decode_traces(data, DIALECT, RECEIVE_NS, max_depth=20).spans == 1
    with pytest.raises(DecodeError, match="nested no deeper"):
        decode_traces(data, DIALECT, RECEIVE_NS, max_depth=19)
    deep = b""
    for _ in range(40_000):
        deep = b"\x2a" + varint(len(deep) + 1 + len(varint(len(deep)))) + b"\x0a" + varint(len(deep)) + deep
        if len(deep) > 300_000:
            break
    attribute = b"\x0a\x01k\x12" + varint(len(deep)) + deep
    resource = b"\x0a" + varint(len(attribute)) + attribute
    spans = b"\x0a" + varint(len(resource)) + resource
    data = b"\x0a" + varint(len(spans)) + spans
    for depth in (64, 1000):
        with pytest.raises(DecodeError, match="nested no deeper"):
            decode_traces(data, DIALECT, RECEIVE_NS, max_depth=depth)
    for depth in (0, 1001):
        with pytest.raises(ValueError, match="max_depth: expected 1 to 1000"):
            decode_traces(b"", DIALECT, RECEIVE_NS, max_depth=depth)


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
