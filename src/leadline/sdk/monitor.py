"""Monitor: what a model server says about one version of one model."""

from __future__ import annotations

import importlib.metadata
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from time import time_ns
from typing import Any, Final, ParamSpec, TypeVar, overload

from opentelemetry import trace
from opentelemetry._logs import LoggerProvider, LogRecord, SeverityNumber, get_logger_provider
from opentelemetry.trace import Tracer, TracerProvider

from leadline import __version__, names
from leadline.sdk import pack
from leadline.sdk import schema as schemas
from leadline.sdk.pack import Attributes
from leadline.sdk.prediction import Prediction
from leadline.sdk.schema import Schema, announcement

P = ParamSpec("P")
R = TypeVar("R")

TASKS: Final = ("classification", "regression", "ranking", "embedding", "forecasting", "other")
ROLES: Final = ("champion", "challenger", "shadow", "canary")
SOURCES: Final = ("HUMAN", "LLM", "CODE", "SYSTEM")
CAPTURES: Final = ("none", "packed", "full")
MAX_SCHEMAS: Final = 64
DRAIN_BYTES: Final = 32_000_000

_log = logging.getLogger("leadline.sdk")
_capabilities: dict[str, bool] = {}


def _spans_take_bytes() -> bool:
    """opentelemetry-sdk carries bytes from 1.45 on; before, they vanish without a word."""
    if "bytes" not in _capabilities:
        try:
            major, minor = (int(part) for part in importlib.metadata.version("opentelemetry-sdk").split(".")[:2])
            _capabilities["bytes"] = (major, minor) >= (1, 45)
        except (importlib.metadata.PackageNotFoundError, ValueError):
            _capabilities["bytes"] = False
    return _capabilities["bytes"]


class Monitor:
    """What a model server says about one version of one model.

    Parameters
    ----------
    model, version : str
        Identity; at most 256 and 128 characters.
    role : str
        ``champion``, ``challenger``, ``shadow``, ``canary`` or empty.
    task : str
        One of `TASKS`, or empty.
    features : mapping of name to dtype, iterable of names, or None
        The schema. Names alone are float32. None: it is inferred from the first row that has names, and `x0, x1, …`
        where rows have none. Dtypes: float32, float64, int64, bool, categorical (and numpy's and pandas' spellings).
    feature_roles : mapping of name to str
        What a column is for, where it is no feature (``id``, ``personal``, …): it is sent and kept with the span, and not measured.
    sampling_weight : float or None
        The adjusted count of each prediction, where the server monitors only some: 10 for one in ten.
    capture : {"none", "packed", "full"} or None
        ``none`` sends no features; ``full`` sends up to 20 of them as readable attributes instead of packed.
        None: the variable LEADLINE_CAPTURE_FEATURES, or ``packed``.
    tracer_provider, logger_provider : optional
        OpenTelemetry's global ones if not given.

    Notes
    -----
    Nothing here raises because of a prediction's data. What could not be taken is counted in `faults` (and logged
    once a kind): ``features_unreadable``, ``feature_not_a_number``, ``features_too_many_schemas``,
    ``output_unreadable``, ``segments_too_many``, ``classes_too_many``.
    """

    def __init__(
        self,
        model: str,
        version: str,
        *,
        role: str = "",
        task: str = "",
        features: Mapping[str, object] | Iterable[str] | None = None,
        feature_roles: Mapping[str, str] | None = None,
        sampling_weight: float | None = None,
        capture: str | None = None,
        tracer_provider: TracerProvider | None = None,
        logger_provider: LoggerProvider | None = None,
    ) -> None:
        self.model, self.version = str(model)[:256], str(version)[:128]
        if not self.model:
            raise ValueError("model: expected a name, got an empty text")
        self.role, self.task = _one_of("role", role, ("", *ROLES)), _one_of("task", task, ("", *TASKS))
        if sampling_weight is not None and not sampling_weight > 0:
            raise ValueError(f"sampling_weight: expected a number above 0 (10 for one in ten), got {sampling_weight!r}")
        place = "capture" if capture is not None else "LEADLINE_CAPTURE_FEATURES"
        wanted = (os.environ.get("LEADLINE_CAPTURE_FEATURES") or "packed") if capture is None else capture
        self.capture = _one_of(place, wanted.lower(), CAPTURES)
        self.faults: Counter[str] = Counter()
        self._tracer_provider, self._logger_provider = tracer_provider, logger_provider
        self.as_bytes = _spans_take_bytes()
        self._feature_roles = dict(feature_roles or {})
        self.schema = None if features is None else schemas.declared(features, self._feature_roles)
        """The declared schema, or the latest one inferred."""
        self.learns = self.schema is None
        self._by_names: dict[tuple[str, ...], Schema] = {}
        self._tracers: dict[str, Tracer] = {}
        self._plain = self._get_tracer(None)
        self.latest_tracer = self.tracer(None if self.capture == "none" else self.schema)
        self._pending_bytes = 0
        self.span_name = f"predict {self.model}"
        self.identity: Attributes = {names.MODEL_NAME: self.model, names.MODEL_VERSION: self.version}
        for key, value in ((names.TASK, self.task), (names.ROLE, self.role), (names.SAMPLING_WEIGHT, sampling_weight)):
            if value not in {"", None}:
                self.identity[key] = value

    def prediction(self, *, features: Any = None, id: str | None = None) -> Prediction:
        """A `with` block around the answering of one request.

        Parameters
        ----------
        features : mapping, sequence, array, pandas row or table, optional
            One row, or a table of N rows; may also be given inside the block.
        id : str, optional
            Your own prediction id, for labels to join on; ``<trace>-<span>`` if not given.
        """
        return Prediction(self, features, id)

    @overload
    def observe(self, function: Callable[P, R]) -> Callable[P, R]: ...
    @overload
    def observe(
        self, function: None = None, *, features: str | Callable[..., Any] | None = None, output: Callable[[Any], Any] | None = None
    ) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
    def observe(
        self,
        function: Callable[..., Any] | None = None,
        *,
        features: str | Callable[..., Any] | None = None,
        output: Callable[[Any], Any] | None = None,
    ) -> Any:
        """Decorator: each call of a function, coroutine, generator or async generator is a prediction.

        Parameters
        ----------
        features : str or callable, optional
            The name of the parameter that holds the features, or a function of the call's arguments; the first parameter
            (after `self`) if not given.
        output : callable, optional
            Makes of the result what `Prediction.answer` understands. Of a generator's items, the last one counts.
        """
        from leadline.sdk.observe import observed

        def decorate(target: Callable[..., Any]) -> Callable[..., Any]:
            return observed(self, target, features, output)

        return decorate if function is None else decorate(function)

    def record_batch(
        self,
        features: Any = None,
        *,
        predicted: Sequence[Any] | None = None,
        scores: Sequence[float] | None = None,
        confidences: Sequence[float] | None = None,
        ids: Sequence[str] | None = None,
        segments: Mapping[str, Any] | None = None,
        start_ns: int | None = None,
        end_ns: int | None = None,
    ) -> list[str]:
        """Records rows that were predicted together, as few spans of packed columns.

        Parameters
        ----------
        features : table of N rows, optional
            ndarray (N, k), DataFrame, Arrow table, mapping of name to column, or a list of rows.
        predicted, scores, confidences, ids : sequences of N, optional
        segments : mapping of name to a text or to N texts, optional
        start_ns, end_ns : int, optional
            When the batch was worked on. Without them the rows' duration is next to nothing.

        Returns
        -------
        list of str
            The predictions' ids, in order; ``<trace>-<span>-<row of the span>`` where none were given.

        Raises
        ------
        ValueError
            If the columns differ in length.

        Notes
        -----
        Spans are cut at 10,000 rows and about 4 MB. After each 32 MB this call waits for the exporter, so that a
        nightly batch does not overrun its queue.
        """
        given = {"predicted": predicted, "scores": scores, "confidences": confidences, "ids": ids}
        lengths = {name: len(column) for name, column in given.items() if column is not None}
        rows = pack.row_count(features) if features is not None else None
        if features is not None:
            lengths["features"] = int(pack.width(features) > 0 or isinstance(features, Mapping)) if rows is None else rows
        for name, value in (segments or {}).items():
            if not isinstance(value, str) and hasattr(value, "__len__"):
                lengths[f"segments[{name!r}]"] = len(value)
        if len(set(lengths.values())) > 1:
            raise ValueError(f"record_batch: expected columns of one length, got {lengths}")
        if not lengths or not next(iter(lengths.values())):
            return []
        prediction = Prediction(self, features, None, ids=ids, rows=next(iter(lengths.values())), waits=True)
        prediction.output(predicted, score=scores, confidence=confidences)
        prediction.segment(**(segments or {}))
        prediction.start(start_ns)
        prediction.end(None, end_ns)
        return prediction.ids

    def feedback(
        self,
        id: str,
        actual: object = None,
        *,
        score: float | None = None,
        name: str = "",
        source: str = "",
        feedback_id: str = "",
        time: datetime | int | None = None,
        supersedes: str = "",
    ) -> None:
        """Ground truth for a prediction, now or days later: an OTLP log event.

        Parameters
        ----------
        id : str
            The prediction's id.
        actual, score : optional
            The true label, or the true number; one of them. A float that is not whole counts as a number.
        name : str
            What kind of truth (``chargeback``, ``review``), where there are several.
        source : {"", "HUMAN", "LLM", "CODE", "SYSTEM"}
        feedback_id, supersedes : str
            An id of this piece of feedback, and the id of one that it replaces.
        time : datetime or int nanoseconds, optional
            When the truth became known; now if not given.
        """
        _one_of("source", source, ("", *SOURCES))
        actual = pack.scalar(actual)
        if isinstance(actual, float) and not actual.is_integer() and score is None:
            actual, score = None, actual
        if pack.is_missing(actual) and score is None:
            raise ValueError("feedback: expected actual= or score=, got neither")
        attributes: Attributes = {names.PREDICTION_ID: str(id), names.MODEL_NAME: self.model, names.MODEL_VERSION: self.version}
        if not pack.is_missing(actual):
            attributes[names.ACTUAL_LABEL] = pack.text_of(actual)
        if score is not None:
            attributes[names.ACTUAL_SCORE] = float(score)
        at_ns = _nanoseconds(time)
        for key, value in (
            (names.FEEDBACK_NAME, name),
            (names.FEEDBACK_SOURCE, source),
            (names.FEEDBACK_ID, feedback_id),
            (names.FEEDBACK_SUPERSEDES, supersedes),
            (names.FEEDBACK_TIME, "" if time is None else datetime.fromtimestamp(at_ns / 1e9, UTC).isoformat()),
        ):
            if value:
                attributes[key] = value
        logger = (self._logger_provider or get_logger_provider()).get_logger(names.SCOPE_NAME, __version__)
        logger.emit(
            LogRecord(
                timestamp=at_ns,
                severity_number=SeverityNumber.INFO,
                body=names.FEEDBACK_EVENT,
                attributes=attributes,
                event_name=names.FEEDBACK_EVENT,
            )
        )

    def flush(self, timeout_s: float = 30.0) -> bool:
        """Sends what is queued; False if it did not get through in time."""
        done = True
        for provider in (self._tracer_provider or trace.get_tracer_provider(), self._logger_provider or get_logger_provider()):
            flush = getattr(provider, "force_flush", None)
            done = (flush is None or bool(flush(int(timeout_s * 1000)))) and done
        self._pending_bytes = 0
        return done

    def sent(self, size: int) -> None:
        """Counts what a batch has put into the exporter's queue, and lets it drain before it overflows."""
        self._pending_bytes += size
        if self._pending_bytes > DRAIN_BYTES:
            self.flush()

    def fault(self, kind: str, detail: object = "") -> None:
        """Counts something that could not be taken; the first of each kind is logged."""
        self.faults[kind] += 1
        if self.faults[kind] == 1:
            _log.warning("%s %s: %s %s (counted in Monitor.faults; said once)", self.model, self.version, kind, detail)

    def schema_of(self, features: Any) -> Schema | None:
        """The schema that fits these features; None where they cannot be read or there are too many schemas."""
        if not self.learns:
            return self.schema
        if isinstance(features, Mapping) and (known := self._by_names.get(tuple(features))) is not None:
            return known
        if (row := pack.first_row(features)) is None:
            row = {f"x{i}": 0.0 for i in range(pack.width(features))}
        if not row:
            return None
        key = tuple(str(name) for name in row)
        if (known := self._by_names.get(key)) is None:
            wanted = set(key)
            known = next((one for one in self._by_names.values() if wanted <= set(one.names)), None)
            if known is None or any(
                known.dtypes[known.names.index(name)] != schemas.CATEGORICAL and isinstance(row[name], str) for name in key
            ):
                known = schemas.inferred({str(name): value for name, value in row.items()}, self._feature_roles)
            if len(self._by_names) >= MAX_SCHEMAS:
                self.fault("features_too_many_schemas", f"over {MAX_SCHEMAS} sets of names; declare features=")
                return None
            self._by_names[key] = known
            self.schema, self.latest_tracer = known, self.tracer(known)
        return known

    def tracer(self, schema: Schema | None) -> Tracer:
        """The tracer whose scope announces `schema`."""
        if schema is None:
            return self._plain
        if (known := self._tracers.get(schema.id)) is None:
            known = self._tracers[schema.id] = self._get_tracer(announcement(schema))
        return known

    def _get_tracer(self, attributes: Attributes | None) -> Tracer:
        provider = self._tracer_provider
        if provider is None:
            return trace.get_tracer(names.SCOPE_NAME, __version__, attributes=attributes)
        return provider.get_tracer(names.SCOPE_NAME, __version__, attributes=attributes)


def _one_of(what: str, value: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise ValueError(f"{what}: expected one of {', '.join(repr(one) for one in allowed)}, got {value!r}")
    return value


def _nanoseconds(at: datetime | int | None) -> int:
    if at is None:
        return time_ns()
    if isinstance(at, datetime):
        if at.tzinfo is None:
            raise ValueError(f"feedback: expected a time with its zone, got {at!r}. Say datetime.now(UTC), for instance.")
        return round(at.timestamp() * 1e6) * 1000
    return int(at)
