"""The kernel's decode, in plain Python on protobuf's objects: slow, and easy to read. Property tests hold the kernel to it."""

from __future__ import annotations

import base64
import json
import math
import re
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

Rule = tuple[str, str, str]
Scalar = float | str | None


class Refused(Exception):
    """The span is rejected, for this reason."""


class Doubtful(Exception):
    """The form gives nothing, under this note."""


@dataclass
class Prediction:
    row: dict[str, Any]
    values: dict[str, Scalar]


@dataclass
class Decoded:
    spans: list[dict[str, Any]] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)


def plain(value: AnyValue) -> Any:
    """An AnyValue as Python: None, str, bool, int, float, bytes, list, or a tuple of (key, value) pairs for a map."""
    match value.WhichOneof("value"):
        case "array_value":
            return [plain(item) for item in value.array_value.values]
        case "kvlist_value":
            return tuple((entry.key, plain(entry.value)) for entry in value.kvlist_value.values)
        case None | "string_value_strindex":
            return None
        case kind:
            return getattr(value, kind)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | bool | int | float)


def cut(text: str, size: int) -> str:
    return text.encode()[:size].decode(errors="ignore")


def text_of(value: Any, size: int) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return number_text(value)
    return cut(str(value), size)


def number_text(number: float) -> str:
    """The shortest decimal that reads back, in ClickHouse's notation."""
    if not math.isfinite(number):
        return str(number)
    if number == 0 or 1e-6 <= abs(number) < 1e21:
        text = format(Decimal(repr(number)), "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    sign, digits, exponent = Decimal(repr(number)).normalize().as_tuple()
    assert isinstance(exponent, int)
    rest = "".join(map(str, digits[1:]))
    return f"{'-' if sign else ''}{digits[0]}{'.' + rest if rest else ''}e{exponent + len(digits) - 1}"


def sampling(trace_state: str) -> tuple[int | None, int | None] | None:
    """(th, rv), or None where the `ot` entry is malformed."""
    entries = [entry.strip(" \t\n\r\f") for entry in trace_state.split(",")]
    entries = [entry[3:] for entry in entries if entry.startswith("ot=")]
    if not entries:
        return None, None
    if len(entries) > 1 or not entries[0] or len(entries[0]) > 256:
        return None
    found: dict[str, int] = {}
    for item in entries[0].split(";"):
        key, colon, value = item.partition(":")
        if not colon or not key:
            return None
        if key in ("th", "rv"):
            if key in found or not re.fullmatch(r"[0-9a-f]{1,14}" if key == "th" else r"[0-9a-f]{14}", value):
                return None
            found[key] = int(value.ljust(14, "0"), 16)
    return found.get("th"), found.get("rv")


class Fields:
    """What rules make of attributes: for each field the value of the first rule that found one; a blank one only for want of another."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = rules
        self.found: dict[str, tuple[int, Any, str]] = {}
        self.by_scope: dict[tuple[str, str], Any] = {}
        self.unknown = 0

    def take(self, scope: str, attributes: Any) -> list[tuple[str, Any]]:
        """Fills fields; gives the features of a prefix."""
        features = []
        for attribute in attributes:
            key, value = attribute.key, plain(attribute.value)
            exact = [(rank, name) for rank, (of, known, name) in enumerate(self.rules) if of == scope and known == key]
            for place, name in exact:
                rank = 1_000_000 if value is None or value == "" else place
                if name not in self.found or rank < self.found[name][0]:
                    self.found[name] = (rank, value, scope)
                if rank < self.by_scope.get((scope, name), (2_000_000,))[0]:
                    self.by_scope[scope, name] = (rank, value)
            if not exact:
                prefixes = {known[:-1]: name for of, known, name in self.rules if of == scope and known.endswith(".*")}
                best = max((prefix for prefix in prefixes if key.startswith(prefix) and len(key) > len(prefix)), key=len, default="")
                self.unknown += prefixes.get(best) == "unknown"
                if prefixes.get(best) == "feature":
                    features.append((cut(key[len(best) :], 256), value))
        return features

    def __contains__(self, name: str) -> bool:
        return name in self.found

    def get(self, name: str) -> Any:
        return self.found[name][1] if name in self.found else None

    def text(self, name: str) -> Any:
        value = self.get(name)
        return value if is_scalar(value) and value is not None and value != "" else None


def decode(
    data: bytes,
    rules: Sequence[Rule],
    receive_ns: int,
    *,
    max_late_ns: int = 604_800_000_000_000,
    max_rows_per_span: int = 10_000,
) -> Decoded:
    request = ExportTraceServiceRequest.FromString(data)
    out = Decoded()
    for resource_spans in request.resource_spans:
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                fields = Fields(rules)
                fields.take("resource", resource_spans.resource.attributes)
                fields.take("scope", scope_spans.scope.attributes)
                attributes = fields.take("span", span.attributes)
                notes: Counter[str] = Counter()
                try:
                    if len(span.trace_id) != 16 or not any(span.trace_id):
                        raise Refused("trace_id_invalid")
                    if len(span.span_id) != 8 or not any(span.span_id):
                        raise Refused("span_id_invalid")
                    th, rv = sampling(span.trace_state) or (None, None)
                    if fields.text("model") is not None:
                        decoder = Span(span, fields, attributes, notes, th=th, receive_ns=receive_ns, max_late_ns=max_late_ns)
                        out.predictions.extend(decoder.predictions(max_rows_per_span))
                except Refused as refused:
                    out.rejected[str(refused)] += 1
                    continue
                out.notes += notes
                if fields.unknown:
                    out.notes["attribute_unknown"] += fields.unknown
                if sampling(span.trace_state) is None:
                    out.notes["tracestate_malformed"] += 1
                if span.end_time_unix_nano < span.start_time_unix_nano:
                    out.notes["end_before_start" if span.end_time_unix_nano else "end_missing"] += 1
                out.spans.append({"trace_id": span.trace_id, "threshold": th, "randomness": rv})
    return out


class Span:
    """One span that is a prediction, or a batch of them."""

    def __init__(
        self,
        span: Any,
        fields: Fields,
        attributes: list[tuple[str, Any]],
        notes: Counter[str],
        *,
        th: int | None,
        receive_ns: int,
        max_late_ns: int,
    ) -> None:
        self.span, self.fields, self.attributes, self.notes = span, fields, attributes, notes
        self.th, self.receive_ns, self.max_late_ns = th, receive_ns, max_late_ns

    def predictions(self, max_rows: int) -> list[Prediction]:
        rows = self.fields.get("batch_size")
        self.batch = rows is not None
        if self.batch and (not isinstance(rows, int) or isinstance(rows, bool) or rows < 0):
            raise Refused("batch_size_invalid")
        self.rows = rows if self.batch else 1
        if self.rows > max_rows or (self.batch and self.rows > self.span.ByteSize()):
            raise Refused("batch_too_large")
        if self.rows == 0:
            return []
        self.values: list[dict[str, Scalar]] = [{} for _ in range(self.rows)]
        self.raw: list[dict[str, Any]] = [{} for _ in range(self.rows)]
        self.claims: dict[str, object] = {}
        for name, value in self.attributes:
            self.column(name, value, object())
        self.features()
        fields = {name: self.field(name) for name in ("predicted", "score", "confidence")}
        id_text = self.fields.text("prediction_id")
        ids = [id_text] * self.rows if id_text is not None else self.field("prediction_id")
        scores = self.class_scores()
        class_names = self.fields.get("class_names") if "predicted" not in self.fields or fields["predicted"] is None else None
        return [
            self.prediction(
                row,
                {name: column[row] if column is not None else Absent for name, column in fields.items()},
                ids=ids,
                id_text=id_text,
                scores=scores,
                class_names=class_names,
            )
            for row in range(self.rows)
        ]

    def prediction(
        self, row: int, given: dict[str, Any], *, ids: list[Any] | None, id_text: Any, scores: list[list[float]] | None, class_names: Any
    ) -> Prediction:
        span, values = self.span, self.values[row]
        trace_id, span_id = span.trace_id.hex(), span.span_id.hex()
        start, end = span.start_time_unix_nano, span.end_time_unix_nano
        said = min(end or start or self.receive_ns, 2**63 - 1)
        event = max(min(said, self.receive_ns + 5_000_000_000), self.receive_ns - self.max_late_ns)
        if event != said and row == 0:
            self.notes["event_time_clamped"] += 1
        own_id = ids[row] if ids is not None else None
        if is_scalar(own_id) and own_id not in (None, ""):
            prediction_id = text_of(own_id, 512)
            if id_text is not None and self.batch and self.rows > 1:
                prediction_id = cut(prediction_id, 491) + f"-{row}"
        else:
            prediction_id = f"{trace_id}-{span_id}" + (f"-{row}" if self.batch else "")
        best = None
        if scores is not None:
            for at, score in enumerate(scores[row]):
                if not math.isnan(score) and (best is None or score > scores[row][best]):
                    best = at
        predicted = given["predicted"]
        if (
            predicted is Absent
            and isinstance(class_names, list)
            and best is not None
            and scores is not None
            and len(class_names) == len(scores[row])
        ):
            predicted = class_names[best]
        predicted_text = None
        if predicted is not Absent:
            if not is_scalar(predicted):
                self.notes["field_type_unexpected"] += 1
            else:
                values["predicted"] = sketched(predicted)
                predicted_text = None if predicted is None else text_of(predicted, 512)
        numbers = {}
        for name, default in (("score", None), ("confidence", None if best is None or scores is None else scores[row][best])):
            value = given[name]
            numbers[name] = float(value) if is_number(value) else default
            if numbers[name] is not None:
                values[name] = numbers[name]
            elif value is None:
                values[name] = None
            elif value is not Absent:
                self.notes["field_type_unexpected"] += 1
        duration = max(end - start, 0)
        values["duration_ms"] = duration / 1e6
        weight = self.fields.get("weight")
        if self.th is not None:
            weight = 2**56 / (2**56 - self.th)
        elif not is_number(weight) or not math.isfinite(weight) or weight <= 0:
            weight = None
        segments = {}
        for _, _, name in self.fields.rules:
            if name.startswith("segment:"):
                segment = name.removeprefix("segment:")
                value = self.fields.text(name)
                value = self.raw[row].get(segment) if value is None else value
                if value is not None and value != "":
                    segments[segment] = text_of(value, 128)
        error = self.fields.text("error_type")
        return Prediction(
            {
                "prediction_id": prediction_id,
                "trace_id": trace_id,
                "span_id": span_id,
                "event_time": event,
                "receive_time": self.receive_ns,
                "model": self.text("model", 256),
                "version": self.text("version", 128),
                "role": self.text("role", 64),
                "task": self.text("task", 64),
                "predicted": predicted_text,
                "score": numbers["score"],
                "confidence": numbers["confidence"],
                "duration_ns": duration,
                "error_type": text_of(error, 256) if error is not None else "error" if span.status.code == 2 else "",
                "segments": segments,
                "inbound_weight": None if weight is None else float(weight),
            },
            values,
        )

    def text(self, name: str, size: int) -> str:
        value = self.fields.text(name)
        return "" if value is None else text_of(value, size)

    def field(self, name: str) -> list[Any] | None:
        if name not in self.fields:
            return None
        value = self.fields.get(name)
        if self.batch and isinstance(value, list):
            if len(value) == self.rows:
                return value
            self.notes["batch_length_mismatch"] += 1
        elif self.batch and isinstance(value, bytes) and name != "predicted":
            if len(value) == 4 * self.rows:
                return list(struct.unpack(f"<{self.rows}f", value))
            self.notes["batch_length_mismatch"] += 1
        elif is_scalar(value):
            if not self.batch or self.rows == 1:
                return [value]
            self.notes["batch_length_mismatch"] += 1
        else:
            self.notes["field_type_unexpected"] += 1
        return None

    def class_scores(self) -> list[list[float]] | None:
        value = self.fields.get("class_scores")
        if value is None:
            return None
        if isinstance(value, list):
            flat = [float(item) if is_number(item) else math.nan for item in value]
        elif isinstance(value, bytes) and len(value) % 4 == 0:
            flat = list(struct.unpack(f"<{len(value) // 4}f", value))
        else:
            self.notes["field_type_unexpected"] += 1
            return None
        if not self.rows or len(flat) % self.rows:
            self.notes["batch_length_mismatch"] += 1
            return None
        count = len(flat) // self.rows
        return [flat[row * count : (row + 1) * count] for row in range(self.rows)] if count else None

    def put(self, row: int, name: str, value: Any, source: object) -> None:
        if not is_scalar(value):
            self.notes["feature_not_scalar"] += 1
            return
        name = cut(name, 256)
        series = f"features/{name}"
        if self.claims.setdefault(name, source) is not source or series in self.values[row]:
            self.notes["feature_duplicate"] += 1
            return
        self.values[row][series] = sketched(value)
        self.raw[row][name] = value

    def column(self, name: str, value: Any, source: object) -> None:
        if not self.batch:
            self.put(0, name, value, source)
        elif isinstance(value, list):
            if len(value) != self.rows:
                self.notes["batch_length_mismatch"] += 1
                return
            for row, item in enumerate(value):
                self.put(row, name, item, source)
        elif is_scalar(value):
            for row in range(self.rows):
                self.put(row, name, value, source)
        else:
            self.notes["feature_not_scalar"] += 1

    def features(self) -> None:
        fields = self.fields
        for name in dict.fromkeys(name for _, _, name in fields.rules if name.startswith("feature:")):
            if name in fields:
                self.column(name.removeprefix("feature:"), fields.get(name), object())
        whole = fields.get("features_map")
        if isinstance(whole, tuple):
            for key, value in whole:
                if key:
                    self.column(key, value, object())
        elif isinstance(whole, str) and whole:
            self.noted(lambda: self.json(whole, None))
        elif whole is not None and whole != "":
            self.notes["field_type_unexpected"] += 1
        schema: list[tuple[str, str, bool]] | None = None
        packed = "features_packed" in fields or "features_packed_b64" in fields
        if "features_values" in fields or packed or "features_categorical" in fields:
            try:
                schema = self.schema()
            except Doubtful as doubtful:
                if "features_values" in fields:
                    self.notes[str(doubtful)] += 1
            else:
                if "features_values" in fields:
                    self.noted(lambda: self.named_values(schema or []))
        text = fields.get("features_json")
        if isinstance(text, str):
            self.noted(lambda: self.json(text, None))
        elif text is not None:
            self.notes["field_type_unexpected"] += 1
        if packed or ("features_categorical" in fields and "features_values" not in fields):
            self.noted(lambda: self.packed(schema))

    def noted(self, form: Any) -> None:
        try:
            form()
        except Doubtful as doubtful:
            self.notes[str(doubtful)] += 1

    def schema(self) -> list[tuple[str, str, bool]]:
        """(name, kind, is a feature) of each column."""
        names, dtypes, roles = (self.fields.get(f"features_{name}") for name in ("names", "dtypes", "roles"))
        if not isinstance(names, list) or not names or not all(is_scalar(name) and name is not None for name in names):
            raise Doubtful("features_schema_unknown")
        if self.fields.found["features_names"][2] != "span":
            said = self.fields.get("features_schema_id")
            base = self.fields.by_scope.get(("scope", "features_schema_id"))
            if base is not None and base[1] != said:
                raise Doubtful("features_schema_unknown")
        for other in (dtypes, roles):
            if other is not None and (not isinstance(other, list) or len(other) != len(names)):
                raise Doubtful("features_schema_unknown")
        kinds = {"string": "text", "str": "text", "text": "text", "category": "text", "categorical": "text", "object": "text"}
        kinds |= {"bool": "bool", "boolean": "bool"}
        return [
            (
                text_of(name, 256),
                kinds.get(dtypes[at].lower(), "number") if dtypes and isinstance(dtypes[at], str) else "number",
                not roles or roles[at] in (None, "") or (isinstance(roles[at], str) and roles[at].lower() == "feature"),
            )
            for at, name in enumerate(names)
        ]

    def named_values(self, schema: list[tuple[str, str, bool]]) -> None:
        values, source = self.fields.get("features_values"), object()
        if not isinstance(values, list) or len(values) != self.rows * len(schema):
            raise Doubtful("features_length_mismatch")
        for at, value in enumerate(values):
            name, _, is_feature = schema[at % len(schema)]
            if is_feature:
                self.put(at // len(schema), name, value, source)

    def packed(self, schema: list[tuple[str, str, bool]] | None) -> None:
        fields = self.fields
        encoding = (fields.get("features_encoding") or "f32le").lower()
        if encoding not in ("f16le", "f32le", "f64le", "i8q", "json"):
            raise Doubtful("features_encoding_unknown")
        data = fields.get("features_packed")
        if isinstance(data, str):
            data = data.encode()
        elif data is None:
            data = b""
            if fields.get("features_packed_b64") is not None:
                data = unbase64(fields.get("features_packed_b64"))
        if encoding == "json":
            self.json(data.decode(errors="replace"), schema, with_schema=True)
            return
        if schema is None:
            raise Doubtful("features_schema_unknown")
        columns, source = len(schema), object()
        numbers = sum(kind != "text" for _, kind, _ in schema)
        letter = {"f16le": "e", "f32le": "f", "f64le": "d", "i8q": "b"}[encoding]
        layout = struct.Struct(f"<{'f' if encoding == 'i8q' else ''}{numbers}{letter}" if numbers else "")
        said = fields.get("features_len")
        if len(data) != layout.size * self.rows:
            raise Doubtful("features_length_mismatch")
        if is_number(said) and int(said) not in (numbers, columns, numbers * self.rows, columns * self.rows):
            raise Doubtful("features_length_mismatch")
        texts = fields.get("features_categorical") or []
        if len(texts) != (columns - numbers) * self.rows:
            raise Doubtful("features_length_mismatch")
        mask = fields.get("features_null_mask") or b""
        mask = unbase64(mask) if isinstance(mask, str) else mask
        if mask and len(mask) != (columns * self.rows + 7) // 8:
            raise Doubtful("features_length_mismatch")
        remaining = iter(texts)
        for row in range(self.rows):
            vector = list(layout.unpack_from(data, row * layout.size))
            if encoding == "i8q" and numbers:
                scale = vector.pop(0)
                vector = [scale * step for step in vector]
            following = iter(vector)
            for at, (name, kind, is_feature) in enumerate(schema):
                value: Any = next(remaining) if kind == "text" else float(next(following))
                if kind == "bool" and not math.isnan(value):
                    value = bool(value)
                bit = row * columns + at
                if mask and mask[bit // 8] >> bit % 8 & 1:
                    value = None
                if is_feature:
                    self.put(row, name, value, source)

    def json(self, text: str, schema: list[tuple[str, str, bool]] | None, *, with_schema: bool = False) -> None:
        if with_schema and schema is None and text.lstrip().startswith("["):
            raise Doubtful("features_schema_unknown")
        try:
            whole = json.loads(text, object_pairs_hook=tuple)
        except ValueError:
            raise Doubtful("features_json_malformed") from None
        cells: list[tuple[int, str, Any, object]] = []
        source = object()
        if isinstance(whole, tuple):
            for key, value in whole:
                own = object()
                if self.batch and isinstance(value, list):
                    if len(value) != self.rows:
                        raise Doubtful("batch_length_mismatch")
                    cells += [(row, key, item, own) for row, item in enumerate(value)]
                elif is_scalar(value):
                    cells += [(row, key, value, own) for row in range(self.rows)]
                elif self.rows:
                    cells.append((0, key, value, own))
        elif isinstance(whole, list) and self.batch and not with_schema:
            if len(whole) != self.rows or not all(isinstance(row, tuple) for row in whole):
                raise Doubtful("batch_length_mismatch")
            cells = [(row, key, value, source) for row, pairs in enumerate(whole) for key, value in pairs]
        elif isinstance(whole, list) and with_schema:
            assert schema is not None
            if len(whole) != self.rows * len(schema):
                raise Doubtful("features_length_mismatch")
            cells = [
                (at // len(schema), schema[at % len(schema)][0] if schema[at % len(schema)][2] else "", value, source)
                for at, value in enumerate(whole)
            ]
        else:
            raise Doubtful("features_json_malformed")
        for row, name, value, own in cells:
            if name:
                self.put(row, name, value, own)


class Absent:
    """No attribute at all, which is not an empty one."""


def sketched(value: Any) -> Scalar:
    if value is None:
        return None
    return float(value) if is_number(value) else text_of(value, 128)


def unbase64(text: Any) -> bytes:
    try:
        return base64.b64decode(text.translate(str.maketrans("-_", "+/")).rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), validate=True)
    except ValueError:
        raise Doubtful("features_base64_malformed") from None
