"""Monitor, Prediction and feedback: what is on the spans and events."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from opentelemetry import context, trace
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode
from tests.sdk.conftest import Recorder

from leadline import names
from leadline.sdk import Monitor, current


def test_a_prediction_is_a_span_with_identity_answer_and_segments(recorder: Recorder) -> None:
    """Who answered is known at the start, so that samplers see it; the rest at the end."""
    monitor = recorder.monitor(role="shadow", task="classification", sampling_weight=10.0, features=["a", "b"])
    with monitor.prediction(features=[1.0, 2.0]) as prediction:
        assert current() is prediction
        assert trace.get_current_span() is prediction.span
        prediction.output("yes", score=np.float32(0.25), class_scores={"yes": 0.75, "no": 0.25})
        prediction.segment(country="DE", tier=1)
    assert current() is None
    span = recorder.span
    assert (span.name, span.kind, span.status.status_code) == ("predict fraud", SpanKind.SERVER, StatusCode.UNSET)
    packed = {key for key in recorder.attributes if key.startswith(names.FEATURES_PREFIX)}
    assert {key: value for key, value in recorder.attributes.items() if key not in packed} == {
        "ml.model.name": "fraud",
        "ml.model.version": "1",
        "ml.task": "classification",
        "ml.experiment.role": "shadow",
        "ml.sampling.weight": 10.0,
        "ml.prediction.label": "yes",
        "ml.prediction.score": 0.25,
        "ml.prediction.confidence": 0.75,
        "ml.prediction.class_names": ("yes", "no"),
        "ml.prediction.class_scores": (0.75, 0.25),
        "ml.segment.country": "DE",
        "ml.segment.tier": "1",
    }
    assert packed == {"ml.features.schema_id", "ml.features.encoding", "ml.features.len", "ml.features.packed"}
    assert span.instrumentation_scope is not None
    assert dict(span.instrumentation_scope.attributes or {}) == {
        "ml.features.schema_id": recorder.attributes["ml.features.schema_id"],
        "ml.features.names": ("a", "b"),
        "ml.features.dtypes": ("float32", "float32"),
        "ml.features.roles": ("feature", "feature"),
    }


def test_the_id_is_trace_and_span_unless_given(recorder: Recorder) -> None:
    """The default costs nothing to make; one's own is sent."""
    monitor = recorder.monitor()
    with monitor.prediction() as prediction:
        seen = prediction.id
    where = recorder.span.get_span_context()
    assert where is not None
    assert seen == f"{where.trace_id:032x}-{where.span_id:016x}"
    with monitor.prediction(id="order-17") as prediction:
        assert prediction.id == "order-17"
    assert (recorder.spans[1].attributes or {})[names.PREDICTION_ID] == "order-17"


def test_inside_a_server_span_it_is_internal(recorder: Recorder) -> None:
    """A prediction is SERVER only where it is the entry."""
    with recorder.traces.get_tracer("web").start_as_current_span("POST /predict"), recorder.monitor().prediction():
        pass
    assert [span.kind for span in recorder.spans] == [SpanKind.INTERNAL, SpanKind.INTERNAL]
    assert recorder.spans[0].parent is not None


class Refused(Exception):
    pass


@pytest.mark.parametrize(("error", "kind"), [(KeyError("amount"), "KeyError"), (Refused("x"), f"{__name__}.Refused")])
def test_an_exception_is_an_error_with_its_type_and_goes_on(recorder: Recorder, error: Exception, kind: str) -> None:
    """Status ERROR and error.type; the text, which may hold personal data, stays out; what was said before is there."""
    monitor = recorder.monitor()
    with pytest.raises(type(error)), monitor.prediction(features={"a": 1.0}):
        raise error
    assert recorder.span.status.status_code is StatusCode.ERROR
    assert not recorder.span.status.description
    assert recorder.attributes[names.ERROR_TYPE] == kind
    assert names.FEATURES_PACKED in recorder.attributes
    assert not recorder.span.events


def test_the_schema_is_learnt_and_announced(recorder: Recorder) -> None:
    """Later rows use the first row's schema, whatever the order of their keys; fewer keys are missing values."""
    monitor = recorder.monitor()
    for row in ({"a": 1.5, "b": "x"}, {"b": "y", "a": 2.5}, {"a": 3.5}):
        with monitor.prediction(features=row):
            pass
    scopes = [dict(span.instrumentation_scope.attributes or {}) for span in recorder.spans if span.instrumentation_scope]
    assert scopes[0] == scopes[1] == scopes[2]
    assert scopes[0][names.FEATURES_DTYPES] == ("float32", "categorical")
    assert [(span.attributes or {}).get(names.FEATURES_NULL_MASK) for span in recorder.spans] == [None, None, b"\x02"]


def test_features_given_inside_the_block_carry_their_schema_once(recorder: Recorder) -> None:
    """The scope is fixed when a span starts: the first span names the schema itself, the next ones in their scope."""
    monitor = recorder.monitor()
    for _ in range(2):
        with monitor.prediction() as prediction:
            prediction.features({"a": 1.5})
    first, second = recorder.spans
    assert (first.attributes or {})[names.FEATURES_NAMES] == ("a",)
    assert names.FEATURES_NAMES not in (second.attributes or {})
    assert second.instrumentation_scope is not None
    assert (second.instrumentation_scope.attributes or {})[names.FEATURES_NAMES] == ("a",)


def test_capture_none_and_full(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable turns features off, or makes a few of them readable."""
    for capture in ("none", "full"):
        monkeypatch.setenv("LEADLINE_CAPTURE_FEATURES", capture)
        with recorder.monitor(features={"a": "float", "b": "str"}).prediction(features={"a": 1.5, "b": "x"}):
            pass
    none, full = ({k: v for k, v in (span.attributes or {}).items() if k.startswith(names.FEATURES_PREFIX)} for span in recorder.spans)
    assert none == {}
    assert full == {"ml.features.a": 1.5, "ml.features.b": "x"}
    scope = recorder.spans[0].instrumentation_scope
    assert scope is not None
    assert not scope.attributes
    monkeypatch.setenv("LEADLINE_CAPTURE_FEATURES", "some")
    with pytest.raises(ValueError, match="LEADLINE_CAPTURE_FEATURES: expected one of 'none', 'packed', 'full', got 'some'"):
        recorder.monitor()


def test_full_capture_does_not_hide_behind_reserved_names(recorder: Recorder) -> None:
    """A feature called `packed` stays packed, so that it is not taken for the vector."""
    with recorder.monitor(capture="full").prediction(features={"packed": 1.0}):
        pass
    assert isinstance(recorder.attributes[names.FEATURES_PACKED], bytes)


def test_a_table_is_one_span(recorder: Recorder) -> None:
    """N rows in a block: columns of N, with an id each."""
    monitor = recorder.monitor()
    with monitor.prediction() as prediction:
        prediction.features(np.arange(6.0).reshape(3, 2))
        prediction.output(np.array([1, 0, 1]), score=np.array([0.5, 0.25, 0.75]))
        prediction.segment(country=["DE", "FR", "DE"], channel="web")
    assert recorder.attributes[names.BATCH_SIZE] == 3
    assert recorder.attributes[names.PREDICTION_LABEL] == ("1", "0", "1")
    assert recorder.attributes[names.PREDICTION_SCORE] == (0.5, 0.25, 0.75)
    assert recorder.attributes["ml.segment.country"] == ("DE", "FR", "DE")
    assert recorder.attributes["ml.segment.channel"] == "web"
    assert [one.rsplit("-", 1)[1] for one in prediction.ids] == ["0", "1", "2"]


def test_record_batch_cuts_into_spans(recorder: Recorder) -> None:
    """25,000 rows are three spans of one trace; no row is lost or moved."""
    rows = 25_000
    table = np.arange(2.0 * rows).reshape(rows, 2)
    ids = recorder.monitor(features=["a", "b"]).record_batch(table, predicted=[str(i) for i in range(rows)], start_ns=10, end_ns=30)
    assert [(span.attributes or {})[names.BATCH_SIZE] for span in recorder.spans] == [10_000, 10_000, 5_000]
    assert [(span.start_time, span.end_time) for span in recorder.spans] == [(10, 30)] * 3
    assert len({span.get_span_context().trace_id for span in recorder.spans if span.get_span_context()}) == 1
    packed: list[Any] = [(span.attributes or {})[names.FEATURES_PACKED] for span in recorder.spans]
    assert np.array_equal(np.frombuffer(b"".join(packed), "<f4").reshape(rows, 2), table)
    labels: list[Any] = [label for span in recorder.spans for label in (span.attributes or {})[names.PREDICTION_LABEL]]  # type: ignore[union-attr]
    assert labels == [str(i) for i in range(rows)]
    assert len(set(ids)) == rows


def test_record_batch_keeps_given_ids_and_refuses_unequal_columns(recorder: Recorder) -> None:
    """Ids come back as given; columns of different length are a programming error."""
    monitor = recorder.monitor()
    assert monitor.record_batch(predicted=["a", "b"], ids=["1", "2"]) == ["1", "2"]
    assert recorder.attributes[names.PREDICTION_ID] == ("1", "2")
    assert monitor.record_batch([]) == []
    with pytest.raises(ValueError, match=r"expected columns of one length, got \{'predicted': 2, 'features': 3\}"):
        monitor.record_batch(np.ones((3, 1)), predicted=["a", "b"])


@pytest.mark.parametrize("features", [object(), [1, 2, 3], {}, np.ones((2, 3)), 7])
def test_unreadable_features_are_counted_never_raised(recorder: Recorder, features: Any) -> None:
    """The prediction itself is still measured."""
    monitor = recorder.monitor(features=["a", "b"])
    with monitor.prediction(features=features) as prediction:
        prediction.output("yes")
    assert recorder.attributes.get(names.FEATURES_PACKED, b"\0\0\xc0\x7f\0\0\xc0\x7f") == b"\0\0\xc0\x7f\0\0\xc0\x7f"
    assert monitor.faults["features_unreadable"] == (not isinstance(features, dict))


def test_unreadable_outputs_are_counted_never_raised(recorder: Recorder) -> None:
    """Whatever a model returns, serving goes on."""
    monitor = recorder.monitor()
    with monitor.prediction() as prediction:
        prediction.output(score="high")
    with monitor.prediction() as prediction:
        prediction.answer(object())
    assert monitor.faults["output_unreadable"] == 2
    assert len(recorder.spans) == 2


def test_too_many_schemas_are_bounded(recorder: Recorder) -> None:
    """Names that never repeat do not fill memory with schemas."""
    monitor = recorder.monitor()
    for i in range(70):
        with monitor.prediction(features={f"f{i}": 1.0}):
            pass
    assert monitor.faults["features_too_many_schemas"] == 6
    assert len(recorder.spans) == 70


@pytest.mark.parametrize("how", ["suppressed", "unsampled", "disabled"])
def test_off_means_no_work_and_still_an_id(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is recorded, features are not even looked at."""

    class Untouched(dict[str, float]):
        def __getitem__(self, key: str) -> float:
            raise AssertionError("looked at")

    if how == "disabled":
        monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    provider = TracerProvider(sampler=ALWAYS_OFF) if how == "unsampled" else TracerProvider()
    monitor = Monitor("m", "1", tracer_provider=provider, features=["a"])
    token = context.attach(context.set_value(_SUPPRESS_INSTRUMENTATION_KEY, how == "suppressed"))
    try:
        with monitor.prediction(features=Untouched(a=1.0)) as prediction:
            prediction.output("yes")
            assert len(prediction.id) > 30
    finally:
        context.detach(token)
    assert not monitor.faults


def test_feedback_is_a_log_event(recorder: Recorder) -> None:
    """Keys of the convention; a whole number is a class, any other a number."""
    monitor = recorder.monitor()
    at = datetime(2026, 11, 1, 12, 0, 0, 250_000, UTC)
    monitor.feedback("p-1", np.int64(1), name="review", source="HUMAN", feedback_id="f-2", supersedes="f-1", time=at)
    monitor.feedback("p-2", 3.75)
    monitor.feedback("p-3", score=4.0)
    first, *numbers = recorder.events
    assert first.event_name == "ml.feedback"
    assert first.timestamp == 1_793_534_400_250_000_000
    assert dict(first.attributes) == {
        "ml.prediction.id": "p-1",
        "ml.model.name": "fraud",
        "ml.model.version": "1",
        "ml.actual.label": "1",
        "ml.feedback.name": "review",
        "ml.feedback.source": "HUMAN",
        "ml.feedback.id": "f-2",
        "ml.feedback.supersedes": "f-1",
        "ml.feedback.time": "2026-11-01T12:00:00.250000+00:00",
    }
    assert [event.attributes[names.ACTUAL_SCORE] for event in numbers] == [3.75, 4.0]
    for bad, text in (
        ({}, "expected actual= or score="),
        ({"actual": 1, "source": "ME"}, "source: expected one of"),
        ({"actual": 1, "time": datetime(2026, 1, 1)}, "its zone"),
    ):
        with pytest.raises(ValueError, match=text):
            monitor.feedback("p", **bad)


def test_flush_reaches_both_providers(recorder: Recorder) -> None:
    """True when everything queued went out."""
    assert recorder.monitor().flush()


def test_threads_do_not_mix_predictions(recorder: Recorder) -> None:
    """Each thread's block has its own span and its own current prediction."""
    monitor = recorder.monitor(features=["a"])

    def work(number: int) -> None:
        for i in range(50):
            with monitor.prediction(features=[float(number)]) as prediction:
                assert current() is prediction
                prediction.output(str(number), score=float(i))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = [
        (np.frombuffer((span.attributes or {})[names.FEATURES_PACKED], "<f4")[0], (span.attributes or {})[names.PREDICTION_LABEL])
        for span in recorder.spans
    ]  # type: ignore[arg-type]
    assert len(seen) == 200
    assert all(str(int(value)) == label for value, label in seen)
