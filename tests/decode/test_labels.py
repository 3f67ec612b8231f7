"""Ground truth: feedback events become rows of `labels`, whoever sends them."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

from leadline.decode.records import decode_logs

NOW = 4_000_000_000_000_000_000  # 2096: no TTL of the tables is over
TRACE, SPAN = bytes(range(16)), bytes(range(8))


def _value(value: object) -> AnyValue:
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case _:
            return AnyValue(string_value=str(value))


def _batch(event: str, attributes: dict[str, object], **fields: Any) -> Any:
    request = ExportLogsServiceRequest()
    record = LogRecord(event_name=event, attributes=[KeyValue(key=key, value=_value(value)) for key, value in attributes.items()], **fields)
    request.resource_logs.add().scope_logs.add().log_records.append(record)
    return decode_logs(request.SerializeToString(), NOW)


def test_feedback_arrives_as_record_and_as_label(clickhouse: Any) -> None:
    attributes = {
        "ml.prediction.id": "p-1", "ml.actual.label": "fraud", "ml.actual.score": 0.25, "ml.feedback.name": "chargeback", "ml.feedback.source": "HUMAN",
        "ml.feedback.id": "f-9", "ml.feedback.time": "2096-09-20T12:00:00.5+02:00", "ml.feedback.supersedes": "f-8",
    }  # fmt: skip
    batch = _batch("ml.feedback", attributes, time_unix_nano=NOW)
    assert (batch.items, len(batch.labels), batch.notes) == (1, 1, {})
    rows = batch.rows("c1", 3)
    assert [(table, n) for table, *_, n in rows] == [("otel_logs", 1), ("labels", 1)]
    clickhouse.insert(rows)
    assert clickhouse.ask("SELECT * FROM labels") == [
        {
            "prediction_id": "p-1", "name": "chargeback", "feedback_id": "f-9", "actual": "fraud", "actual_score": 0.25, "source": "HUMAN",
            "label_time": "2096-09-20 10:00:00.500000000", "receive_time": "2096-10-02 07:06:40.000000000", "supersedes": "f-8",
            "collector": "c1", "segment": 3,
        }
    ]  # fmt: skip


def test_of_labels_with_one_key_the_last_label_time_wins(clickhouse: Any) -> None:
    for day, actual in ((2, "late truth"), (1, "early guess")):
        attributes = {"ml.prediction.id": "p", "ml.actual.label": actual, "ml.feedback.time": f"2096-09-0{day}T00:00:00Z"}
        clickhouse.insert(_batch("ml.feedback", attributes).rows("c", day))
    assert clickhouse.ask("SELECT actual FROM labels FINAL") == [{"actual": "late truth"}]


@pytest.mark.parametrize(
    ("attributes", "fields", "actual", "score", "prediction", "time"),
    [
        ({"ml.prediction.id": "p", "ml.actual.label": 1}, {}, "1", None, "p", None),
        ({"ml.prediction.id": "p", "ml.actual.label": True}, {"time_unix_nano": 5}, "true", None, "p", 5),
        ({"ml.prediction.id": "p", "ml.actual.score": 7}, {"observed_time_unix_nano": 6}, None, 7.0, "p", 6),
        ({"ml.prediction.id": "p", "ml.actual.score": "0.5"}, {}, None, 0.5, "p", None),
        ({"ml.prediction.id": "p", "ml.actual.label": ""}, {}, "", None, "p", None),
        ({"ml.actual.label": "x"}, {"trace_id": TRACE, "span_id": SPAN}, "x", None, f"{TRACE.hex()}-{SPAN.hex()}", None),
        (
            {"ml.prediction.id": "", "ml.actual.label": "x"},
            {"trace_id": TRACE, "span_id": SPAN},
            "x",
            None,
            f"{TRACE.hex()}-{SPAN.hex()}",
            None,
        ),
        ({"ml.prediction.id": "p", "ml.actual.label": "x", "ml.feedback.time": str(NOW)}, {}, "x", None, "p", NOW),
        ({"ml.prediction.id": "p", "ml.actual.label": "x", "ml.feedback.time": "2096-10-02T07:06:40"}, {}, "x", None, "p", NOW),
    ],
)
def test_forms_of_feedback(
    attributes: dict[str, object], fields: dict[str, Any], actual: str | None, score: float | None, prediction: str, time: int | None
) -> None:
    (label,) = _batch("ml.feedback", attributes, **fields).labels
    assert (label.actual, label.actual_score, label.prediction_id, label.label_time_ns) == (actual, score, prediction, time)


def test_an_evaluation_of_generated_text_is_feedback() -> None:
    attributes = {"gen_ai.evaluation.name": "Relevance", "gen_ai.evaluation.score.value": 4.0, "gen_ai.evaluation.score.label": "relevant"}
    (label,) = _batch("gen_ai.evaluation.result", {**attributes, "gen_ai.response.id": "chatcmpl-1"}, trace_id=TRACE, span_id=SPAN).labels
    assert (label.prediction_id, label.name, label.actual, label.actual_score) == ("chatcmpl-1", "Relevance", "relevant", 4.0)
    (label,) = _batch("gen_ai.evaluation.result", attributes, trace_id=TRACE, span_id=SPAN).labels
    assert label.prediction_id == f"{TRACE.hex()}-{SPAN.hex()}"


@pytest.mark.parametrize(
    ("attributes", "fields", "note", "labels"),
    [
        ({"ml.actual.label": "x"}, {}, "feedback_without_prediction", 0),
        ({"ml.actual.label": "x"}, {"trace_id": bytes(16), "span_id": SPAN}, "feedback_without_prediction", 0),
        ({"ml.prediction.id": "p"}, {}, "feedback_without_actual", 0),
        ({"ml.prediction.id": "p", "ml.actual.score": "high"}, {}, "feedback_score_malformed", 0),
        ({"ml.prediction.id": "p", "ml.actual.label": "x", "ml.feedback.time": "yesterday"}, {}, "feedback_time_malformed", 1),
        ({"ml.prediction.id": "p", "ml.actual.label": "x", "ml.feedback.time": "9" * 30}, {}, "feedback_time_malformed", 1),
        ({"ml.prediction.id": "p", "ml.actual.label": "x", "ml.feedback.time": "1890-01-01"}, {}, "feedback_time_malformed", 1),
    ],
)
def test_feedback_that_cannot_be_used_is_noted_and_kept_as_a_record(
    attributes: dict[str, object], fields: dict[str, Any], note: str, labels: int
) -> None:
    batch = _batch("ml.feedback", attributes, **fields)
    assert batch.notes.get(note) == 1
    assert (batch.items, batch.rejected, len(batch.labels)) == (1, {}, labels)


def test_other_events_are_no_labels() -> None:
    assert _batch("ml.feedbacks", {"ml.prediction.id": "p", "ml.actual.label": "x"}).labels == ()


def test_the_sdks_own_feedback_is_read() -> None:
    """What `Monitor.feedback` emits, through OpenTelemetry's own encoder."""
    from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs

    from leadline.sdk import Monitor

    exporter = InMemoryLogRecordExporter()
    provider = LoggerProvider()
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    Monitor(model="fraud", version="1", logger_provider=provider).feedback("p-7", "fraud", source="HUMAN", feedback_id="f", time=NOW)
    batch = decode_logs(encode_logs(exporter.get_finished_logs()).SerializeToString(), NOW)
    (label,) = batch.labels
    assert (label.prediction_id, label.actual, label.source, label.feedback_id, label.label_time_ns) == ("p-7", "fraud", "HUMAN", "f", NOW)
    provider.shutdown()
