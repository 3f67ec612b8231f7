"""Ground truth in log events: ``ml.feedback``, and ``gen_ai.evaluation.result`` as another name of the same thing.

A label belongs to a prediction by ``ml.prediction.id`` (for generated text the response's id), else by the event's own trace context:
``<trace>-<span>``, the id that a prediction has which names none. Of labels with one (prediction, name, feedback id) the last label time wins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from leadline import names
from leadline.decode.attributes import any_text, nanoseconds_json, number_json, quoted

COLUMNS = (
    "prediction_id", "name", "feedback_id", "actual", "actual_score", "source", "label_time", "receive_time", "supersedes", "collector", "segment",
)  # fmt: skip
_LAST_NS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Convention:
    """Which attribute of an event means what."""

    prediction_ids: tuple[str, ...]
    label: str
    score: str
    name: str
    source: str = ""
    feedback_id: str = ""
    time: str = ""
    supersedes: str = ""


CONVENTIONS: Mapping[str, Convention] = {
    names.FEEDBACK_EVENT: Convention(
        (names.PREDICTION_ID,), names.ACTUAL_LABEL, names.ACTUAL_SCORE, names.FEEDBACK_NAME,
        names.FEEDBACK_SOURCE, names.FEEDBACK_ID, names.FEEDBACK_TIME, names.FEEDBACK_SUPERSEDES,
    ),
    "gen_ai.evaluation.result": Convention(
        (names.PREDICTION_ID, "gen_ai.response.id"), "gen_ai.evaluation.score.label", "gen_ai.evaluation.score.value", "gen_ai.evaluation.name",
    ),
}  # fmt: skip
"""Event name -> its attributes."""


@dataclass(frozen=True, slots=True)
class Label:
    """What became known about one prediction.

    Parameters
    ----------
    actual : str or None
    actual_score : float or None
        At least one of the two is given.
    label_time_ns : int or None
        When it became known; None where the event does not say.
    """

    prediction_id: str
    name: str
    feedback_id: str
    actual: str | None
    actual_score: float | None
    source: str
    label_time_ns: int | None
    supersedes: str

    def row(self, collector: str, segment: int, receive_ns: int) -> str:
        """A JSONEachRow line of table `labels`."""
        actual = "null" if self.actual is None else quoted(self.actual)
        score = "null" if self.actual_score is None else number_json(self.actual_score)
        time = nanoseconds_json(receive_ns if self.label_time_ns is None else self.label_time_ns)
        return (
            f'{{"prediction_id":{quoted(self.prediction_id)},"name":{quoted(self.name)},"feedback_id":{quoted(self.feedback_id)},"actual":{actual},'
            f'"actual_score":{score},"source":{quoted(self.source)},"label_time":{time},"receive_time":{nanoseconds_json(receive_ns)},'
            f'"supersedes":{quoted(self.supersedes)},"collector":{quoted(collector)},"segment":{segment}}}\n'
        )


def label_of(record: LogRecord, event_name: str, note: Callable[[str], None]) -> Label | None:
    """The label in a log event; None where it is no feedback, or not usable, which `note` is told.

    Notes: ``feedback_without_prediction``, ``feedback_without_actual``, ``feedback_score_malformed``, ``feedback_time_malformed``.
    """
    convention = CONVENTIONS.get(event_name)
    if convention is None:
        return None
    values: dict[str, AnyValue] = {item.key: item.value for item in record.attributes}

    def text(key: str) -> str:
        return any_text(values[key]) if key in values else ""

    prediction_id = next((found for key in convention.prediction_ids if (found := text(key))), "")
    if not prediction_id and any(record.trace_id) and any(record.span_id):
        prediction_id = f"{record.trace_id.hex()}-{record.span_id.hex()}"
    if not prediction_id:
        note("feedback_without_prediction")
        return None
    actual = text(convention.label) if convention.label in values else None
    score = None
    if convention.score in values:
        try:
            score = float(text(convention.score))
        except ValueError:
            note("feedback_score_malformed")
    if actual is None and (score is None or math.isnan(score)):
        note("feedback_without_actual")
        return None
    time_ns = record.time_unix_nano or record.observed_time_unix_nano or None
    if stated := text(convention.time):
        try:
            time_ns = _time_ns(stated)
        except (ValueError, OverflowError):
            note("feedback_time_malformed")
    feedback_id, source, supersedes = text(convention.feedback_id), text(convention.source), text(convention.supersedes)
    return Label(prediction_id, text(convention.name), feedback_id, actual, score, source, time_ns, supersedes)


def _time_ns(text: str) -> int:
    """RFC 3339 (UTC where no zone is given) or nanoseconds since 1970."""
    if text.isdecimal():
        time_ns = int(text)
    else:
        time = datetime.fromisoformat(text)
        since = (time if time.tzinfo else time.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
        time_ns = ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1_000
    if not 0 <= time_ns <= _LAST_NS:
        raise ValueError(text)
    return time_ns
