"""Prediction: one answered request, or a table of them, as a span."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context, trace
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from leadline import names
from leadline.sdk import pack
from leadline.sdk.pack import Attributes
from leadline.sdk.schema import Schema, announcement

if TYPE_CHECKING:
    from leadline.sdk.monitor import Monitor

MAX_SEGMENTS: Final = 32
MAX_CLASSES: Final = 500
READABLE_FEATURES: Final = 20
"""Above this, one attribute a feature costs more than the prediction's own span (benchmarks/sdk.py)."""

_current: ContextVar[Prediction | None] = ContextVar("leadline_prediction", default=None)


def current() -> Prediction | None:
    """The prediction whose `with` block (or observed function) this code runs in."""
    return _current.get()


class Prediction:
    """One answered request: made by `Monitor.prediction`, used as a `with` block.

    Attributes
    ----------
    id : str
        The prediction's id, to give to the caller (a response header) and back to `Monitor.feedback`.
    span : Span
        OpenTelemetry's span, for attributes of your own.
    """

    __slots__ = (
        "_answered",
        "_attributes",
        "_features",
        "_fitting",
        "_id",
        "_ids",
        "_monitor",
        "_read",
        "_rows",
        "_schema",
        "_tokens",
        "_tracer",
        "_waits",
        "span",
    )

    def __init__(
        self,
        monitor: Monitor,
        features: Any,
        id: str | None,
        *,
        ids: Sequence[str] | None = None,
        rows: int | None = None,
        waits: bool = False,
    ) -> None:
        self._monitor = monitor
        self._features = features
        self._id = id
        self._ids = None if ids is None else [str(one)[:512] for one in ids]
        self._rows = rows
        self._waits = waits
        self._attributes: Attributes = {}
        self._schema: Schema | None = None  # what the span's scope announces
        self._read: Any = None  # the features that `_fitting` is the schema of
        self._fitting: Schema | None = None
        self._tracer: Tracer = monitor.latest_tracer
        self._answered = False
        self._tokens: tuple[Token[Any], Token[Prediction | None]] | None = None
        self.span: Span = trace.INVALID_SPAN

    def __enter__(self) -> Prediction:
        self.start()
        self._tokens = (context.attach(trace.set_span_in_context(self.span)), _current.set(self))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if self._tokens is not None:
            _current.reset(self._tokens[1])
            context.detach(self._tokens[0])
            self._tokens = None
        self.end(error)

    @property
    def id(self) -> str:
        """``<trace>-<span>`` unless given; without a trace (instrumentation is off), random digits."""
        if self._id is None:
            where = self.span.get_span_context()
            if where.is_valid:  # not kept: readers derive the same, so it need not be sent
                return f"{where.trace_id:032x}-{where.span_id:016x}"
            self._id = os.urandom(24).hex()
        return self._id

    @property
    def ids(self) -> list[str]:
        """The ids of a table's rows, known once the block has ended; of a single row, its id alone."""
        return [self.id] if self._ids is None else self._ids

    def features(self, features: Any, *, ids: Sequence[str] | None = None) -> None:
        """What was asked: one row, or a table of N rows, with your own ids for them if you have any."""
        self._features = features
        if ids is not None:
            self._ids = [str(one)[:512] for one in ids]

    def output(
        self,
        label: Any = None,
        *,
        score: Any = None,
        class_scores: Mapping[str, float] | Sequence[float] | None = None,
        confidence: Any = None,
    ) -> None:
        """What was answered. For a table of N rows, sequences of N.

        Parameters
        ----------
        label : text, number or sequence
            The predicted class.
        score : float or sequence
            The predicted number, or the probability of the predicted class.
        class_scores : mapping of class to score, or sequence of scores
            All of them, for one row; confidence is their largest where it is not given.
        confidence : float or sequence
        """
        self._answered = True
        found = self._attributes
        try:
            for key, value in ((names.PREDICTION_SCORE, score), (names.PREDICTION_CONFIDENCE, confidence)):
                if value is not None:
                    found[key] = [float(one) for one in _listed(value)] if hasattr(value, "__len__") else float(value)
            if label is not None:
                several = hasattr(label, "__len__") and not isinstance(label, str)
                found[names.PREDICTION_LABEL] = [pack.text_of(one) for one in _listed(label)] if several else pack.text_of(label)
            if class_scores is not None:
                scores = [float(one) for one in (class_scores.values() if isinstance(class_scores, Mapping) else _listed(class_scores))]
                if len(scores) > MAX_CLASSES:
                    self._monitor.fault("classes_too_many", f"{len(scores)}; up to {MAX_CLASSES} are sent")
                    return
                if scores:
                    found.setdefault(names.PREDICTION_CONFIDENCE, max(scores))
                found[names.PREDICTION_CLASS_SCORES] = scores
                if isinstance(class_scores, Mapping):
                    found[names.PREDICTION_CLASS_NAMES] = [pack.text_of(one) for one in class_scores]
        except (TypeError, ValueError) as error:
            self._monitor.fault("output_unreadable", error)

    def answer(self, result: Any) -> None:
        """`output` from whatever a model function returned: a mapping with label / score / class_scores / confidence, a
        class (text, bool, int), a number (float), or an array of either for a table."""
        if self._answered or result is None:
            return
        if isinstance(result, Mapping):
            known = {key: result[key] for key in ("label", "score", "class_scores", "confidence") if key in result}
            if known:
                self.output(**known)
                return
        kind = getattr(getattr(result, "dtype", None), "kind", "")
        if hasattr(result, "tolist"):
            result = result.tolist()
        if isinstance(result, list) and len(result) == 1 and (self._features is None or pack.row_count(self._features) in {None, 1}):
            result = result[0]
        first = result[0] if isinstance(result, list | tuple) and result else result
        if isinstance(first, float) and (kind == "f" or not kind):
            self.output(score=result) if self._monitor.task != "classification" else self.output(result)
        elif isinstance(first, str | bool | int):
            self.output(result)
        else:
            self._monitor.fault("output_unreadable", type(result).__name__)

    def segment(self, **values: Any) -> None:
        """Slices of traffic that this prediction belongs to: ``segment(country="DE")``."""
        for name, value in values.items():
            if len(self._attributes) > MAX_SEGMENTS:
                self._monitor.fault("segments_too_many", f"over {MAX_SEGMENTS}")
                return
            several = hasattr(value, "__len__") and not isinstance(value, str)
            self._attributes[names.SEGMENT_PREFIX + name] = (
                [pack.text_of(one) for one in _listed(value)] if several else pack.text_of(value)
            )

    def start(self, start_ns: int | None = None) -> None:
        """Starts the span without making it current."""
        if context.get_value(_SUPPRESS_INSTRUMENTATION_KEY):
            return
        monitor = self._monitor
        if self._features is not None and monitor.learns and monitor.capture != "none":
            self._schema = self._schema_of(self._features)
            self._tracer = monitor.tracer(self._schema)
        else:
            self._schema, self._tracer = monitor.schema, monitor.latest_tracer
        parent = trace.get_current_span().get_span_context()
        kind = SpanKind.INTERNAL if parent.is_valid and not parent.is_remote else SpanKind.SERVER
        self.span = self._tracer.start_span(monitor.span_name, kind=kind, attributes=monitor.identity, start_time=start_ns)

    def end(self, error: BaseException | None = None, end_ns: int | None = None) -> None:
        """Ends the span with all that was said."""
        span, monitor = self.span, self._monitor
        if not span.is_recording():
            return
        if error is not None:
            span.set_status(Status(StatusCode.ERROR))
            self._attributes[names.ERROR_TYPE] = _error_type(error)
        if self._features is not None and self._rows is None:
            self._rows = pack.row_count(self._features)
        if self._rows is not None:
            self._end_rows(self._rows, end_ns)
            return
        attributes = self._attributes
        if self._id is not None:
            attributes[names.PREDICTION_ID] = self._id
        if self._features is not None and monitor.capture != "none":
            attributes.update(self._row_attributes(self._features))
        span.set_attributes(attributes)
        span.end(end_ns)

    def _row_attributes(self, features: Any) -> Attributes:
        monitor = self._monitor
        schema = self._schema_of(features)
        if schema is None:
            return {}
        try:
            values = pack.row_values(schema, features)
            if monitor.capture == "full" and len(values) <= READABLE_FEATURES and not names.FEATURES_RESERVED & set(schema.names):
                pairs = zip(schema.names, map(pack.scalar, values), strict=True)
                return {names.FEATURES_PREFIX + name: value for name, value in pairs if not pack.is_missing(value)}
            found = pack.pack_row(schema, values, as_bytes=monitor.as_bytes, faults=monitor.faults)
        except Exception as error:  # monitoring never fails a prediction; what a foreign type raises when read is not ours to list
            monitor.fault("features_unreadable", f"{type(error).__name__}: {error}")
            return {}
        return found if schema is self._schema else {**found, **announcement(schema)}

    def _end_rows(self, rows: int, end_ns: int | None) -> None:
        """One span of packed columns, or several where one would be too large; this prediction's span is the first."""
        monitor, columns = self._monitor, dict(self._attributes)
        if self._ids is not None:
            columns[names.PREDICTION_ID] = self._ids
        for key in [key for key, value in columns.items() if isinstance(value, list) and len(value) != rows]:
            monitor.fault("output_unreadable", f"{key}: expected {rows} entries, got {len(columns.pop(key))}")
        table = None if self._features is None or monitor.capture == "none" else self._table(self._features)
        step = pack.rows_per_span(None if table is None else table.schema)
        start_ns, inside = getattr(self.span, "start_time", None), trace.set_span_in_context(self.span)
        row_ids: list[str] = []
        for first in range(0, rows, step) or (0,):
            count = min(step, rows - first)
            span = self.span
            if first:
                span = self._tracer.start_span(monitor.span_name, inside, attributes=monitor.identity, start_time=start_ns)
            attributes = {key: value[first : first + count] if isinstance(value, list) else value for key, value in columns.items()}
            attributes[names.BATCH_SIZE] = count
            if table is not None:
                attributes |= self._part(table, first, count)
            where = span.get_span_context()
            row_ids += attributes.get(names.PREDICTION_ID) or [f"{where.trace_id:032x}-{where.span_id:016x}-{row}" for row in range(count)]
            span.set_attributes(attributes)
            span.end(end_ns)
            if self._waits:
                monitor.sent(64 * count + len(attributes.get(names.FEATURES_PACKED, b"")))
        self._ids = row_ids

    def _table(self, features: Any) -> pack.Table | None:
        schema = self._schema_of(features)
        try:
            return None if schema is None else pack.Table(schema, features)
        except Exception as error:  # as above
            self._monitor.fault("features_unreadable", f"{type(error).__name__}: {error}")
            return None

    def _part(self, table: pack.Table, first: int, count: int) -> Attributes:
        try:
            found = table.part(first, count, as_bytes=self._monitor.as_bytes, faults=self._monitor.faults)
        except Exception as error:  # as above
            self._monitor.fault("features_unreadable", f"{type(error).__name__}: {error}")
            return {}
        return found if table.schema is self._schema else {**found, **announcement(table.schema)}

    def _schema_of(self, features: Any) -> Schema | None:
        if features is self._read:
            return self._fitting
        self._read, self._fitting = features, None
        try:
            schema = self._monitor.schema_of(features)
        except Exception as error:  # as above
            self._monitor.fault("features_unreadable", f"{type(error).__name__}: {error}")
            return None
        if schema is None:
            self._monitor.fault("features_unreadable", type(features).__name__)
        self._fitting = schema
        return schema


def _listed(values: Any) -> Any:
    return values.tolist() if hasattr(values, "tolist") else values


def _error_type(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
