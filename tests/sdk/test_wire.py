"""End to end: a real SDK's OTLP bytes through the kernel's decoder and sketches, against what was recorded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from tests.sdk.conftest import Recorder

from leadline import _kernel
from leadline.decode import dialect
from leadline.model.columns import Column, columns_of

RECEIVED_NS = 2_000_000_000_000_000_000
ROWS: list[dict[str, Any]] = [
    {"amount": 12.5, "count": 3, "country": "DE", "night": True},
    {"amount": None, "count": 2**24 + 1, "country": "FR", "night": False},
    {"amount": -0.25, "count": 0, "country": None, "night": True},
]
SCHEMA = {"amount": "float", "count": "int64", "country": "category", "night": "bool"}


def decoded(recorder: Recorder, segments: tuple[str, ...] = ()) -> _kernel.SpanBatch:
    body = encode_spans(recorder.spans).SerializeToString()
    batch = _kernel.decode_traces(body, dialect.load(["ml"], segments), RECEIVED_NS, max_late_ns=2**62)
    assert batch.spans == len(recorder.spans)
    assert (batch.rejected, batch.notes) == ({}, {})
    return batch


def listed(column: Column) -> list[Any]:
    values = column.values.tolist() if column.categories is None else [column.categories[code] for code in column.values]
    return values if column.null is None else [None if gone else value for value, gone in zip(values, column.null, strict=True)]


def columns(recorder: Recorder, segments: tuple[str, ...] = ()) -> dict[str, list[Any]]:
    return {name: listed(column) for name, column in columns_of(_kernel.prediction_columns([decoded(recorder, segments)])).items()}


def ends(recorder: Recorder, series: str) -> tuple[float, list[float]]:
    """Weight, smallest and largest of a numeric series."""
    sketches = _kernel.Sketches()
    sketches.add(decoded(recorder))
    ((*_, weight, values),) = sketches.quantiles(series, [0.0, 1.0])
    return weight, values.tolist()


def test_a_prediction_row_is_what_was_recorded(recorder: Recorder) -> None:
    """Identity, answer, error, weight and segments arrive in the slim row."""
    monitor = recorder.monitor(role="canary", task="classification", sampling_weight=4.0)
    with monitor.prediction(features=ROWS[0]) as prediction:
        prediction.output("yes", score=0.75, class_scores={"yes": 0.75, "no": 0.25})
        prediction.segment(channel="web")
    with pytest.raises(LookupError), monitor.prediction(features=ROWS[1]):
        raise LookupError
    found = columns(recorder, ("channel", "country"))
    spans = recorder.spans
    assert found["model"] == ["fraud", "fraud"]
    assert found["version"] == ["1", "1"]
    assert found["role"] == ["canary", "canary"]
    assert found["task"] == ["classification", "classification"]
    assert found["predicted"] == ["yes", None]
    assert found["score"] == [0.75, None]
    assert found["confidence"] == [0.75, None]
    assert found["error_type"] == ["", "LookupError"]
    assert found["inbound_weight"] == [4.0, 4.0]
    assert found["duration_ns"] == [(span.end_time or 0) - (span.start_time or 0) for span in spans]
    assert found["event_time"] == [span.end_time for span in spans]
    assert found["segments.channel"] == ["web", None]
    assert found["segments.country"] == ["DE", "FR"]


@pytest.mark.parametrize("form", ["row by row", "late features", "batch of columns", "batch of rows", "base64", "readable"])
def test_every_form_of_features_reaches_the_sketches(recorder: Recorder, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same three rows, however they are sent: values, texts and what is missing."""
    monitor = recorder.monitor(features=None if form == "late features" else SCHEMA, capture="full" if form == "readable" else "packed")
    monitor.as_bytes = form != "base64"
    if form.startswith("batch"):
        monitor.record_batch(ROWS if form.endswith("rows") else {name: [row[name] for row in ROWS] for name in SCHEMA})
    else:
        for row in ROWS:
            with monitor.prediction() as prediction:
                prediction.features(row)
    assert ends(recorder, "features/amount") == (2.0, [-0.25, 12.5])
    assert ends(recorder, "features/count") == (3.0, [0.0, 2**24 + 1])
    assert columns(recorder, ("country",))["segments.country"] == ["DE", "FR", None]


def test_a_batch_has_an_id_a_row(recorder: Recorder) -> None:
    """What `record_batch` returns is what the collector derives."""
    monitor = recorder.monitor(features=["a", "b"])
    ids = monitor.record_batch(
        np.ones((3, 2)), predicted=["x", "y", "z"], scores=[0.1, 0.2, 0.3], segments={"channel": "web", "country": ["DE", "FR", "DE"]}
    )
    found = columns(recorder, ("channel", "country"))
    assert found["predicted"] == ["x", "y", "z"]
    assert found["score"] == [0.1, 0.2, 0.3]
    assert found["segments.channel"] == ["web"] * 3
    assert found["segments.country"] == ["DE", "FR", "DE"]
    assert len(set(ids)) == 3
