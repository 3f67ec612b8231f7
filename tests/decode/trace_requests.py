"""Trace requests from a seed: every form in which predictions come, whole and spoilt."""

from __future__ import annotations

import base64
import json
import math
import random
import struct
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

RECEIVE_NS = 1_700_000_000_000_000_000
NAMES = ["amount", "age", "country", "is_new", "ÿ", "x" * 300, ""]
DTYPES = {"amount": "float64", "age": "int64", "country": "string", "is_new": "bool", "ÿ": "category"}


def any_value(value: Any, into: AnyValue) -> None:
    """Writes None, str, bool, int, float, bytes, list, and dict or tuple of pairs, into an AnyValue."""
    match value:
        case None:
            pass
        case bool():
            into.bool_value = value
        case int():
            into.int_value = value
        case float():
            into.double_value = value
        case str():
            into.string_value = value
        case bytes():
            into.bytes_value = value
        case list():
            into.array_value.SetInParent()
            for item in value:
                any_value(item, into.array_value.values.add())
        case _:
            into.kvlist_value.SetInParent()
            for key, item in value.items() if isinstance(value, dict) else value:
                entry = into.kvlist_value.values.add()
                entry.key = key
                any_value(item, entry.value)


def set_attributes(attributes: dict[str, Any] | list[tuple[str, Any]], into: Any) -> None:
    for key, value in attributes.items() if isinstance(attributes, dict) else attributes:
        attribute = into.add()
        attribute.key = key
        any_value(value, attribute.value)


class Requests:
    """A generator of requests; the same `random.Random` gives the same requests."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def maybe(self, share: float) -> bool:
        return self.rng.random() < share

    def number(self) -> float | int:
        rng = self.rng
        kind = rng.randrange(5)
        return [
            rng.gauss(0, 10),
            rng.randrange(-5, 1000),
            rng.choice([0.0, -0.0, 1e300, 1.5e-9, 0.1, 2.0**60]),
            10.0 ** rng.randrange(-9, 24),
            2**53,
        ][kind]

    def text(self) -> str:
        return self.rng.choice(["DE", "", "größe", "a" * 200, "€" * 60, "line\nbreak", 'quo"te', "ok", "7"])

    def scalar(self) -> Any:
        rng = self.rng
        return rng.choice(
            [self.number, self.text, lambda: rng.random() < 0.5, lambda: None, lambda: rng.choice([math.inf, -math.inf, 1.0])]
        )()

    def anything(self) -> Any:
        rng = self.rng
        return rng.choice(
            [
                self.scalar,
                self.scalar,
                lambda: [self.scalar() for _ in range(rng.randrange(4))],
                lambda: {"a": self.scalar()},
                lambda: rng.randbytes(4),
            ]
        )()

    def spoilt(self, value: Any) -> Any:
        """Mostly the value; sometimes one of another type or length."""
        if self.maybe(0.9):
            return value
        if isinstance(value, list | bytes | str) and self.maybe(0.6):
            return value[:-1]
        return self.anything()

    def features(self) -> list[str]:
        return self.rng.sample(NAMES[:5], self.rng.randrange(1, 5))

    def of_type(self, name: str) -> Any:
        rng = self.rng
        kinds: dict[str, Any] = {
            "string": self.text,
            "category": self.text,
            "bool": lambda: rng.random() < 0.5,
            "int64": lambda: rng.randrange(1000),
        }
        return kinds.get(DTYPES.get(name, ""), self.number)()

    def packed(self, names: list[str], rows: int) -> dict[str, Any]:
        rng = self.rng
        numeric = [name for name in names if DTYPES[name] not in ("string", "category")]
        encoding = rng.choice(["f32le", "f64le", "f16le", "i8q", "F32LE", None, "json"])
        data = b""
        for _ in range(rows):
            match encoding:
                case "f64le":
                    data += struct.pack(f"<{len(numeric)}d", *(float(self.of_type(name)) for name in numeric))
                case "f16le":
                    data += struct.pack(f"<{len(numeric)}e", *(rng.gauss(0, 10) for _ in numeric))
                case "i8q":
                    data += (
                        struct.pack(f"<f{len(numeric)}b", rng.random(), *(rng.randrange(-128, 128) for _ in numeric)) if numeric else b""
                    )
                case _:
                    data += struct.pack(f"<{len(numeric)}f", *(rng.choice([rng.gauss(0, 10), 0.0, math.inf]) for _ in numeric))
        if encoding == "json":
            flat = [self.of_type(name) for _ in range(rows) for name in names]
            data = json.dumps(flat if self.maybe(0.6) else {name: self.of_type(name) for name in names}).encode()
        elif not self.maybe(0.95):
            data = data[:-1]
        found: dict[str, Any] = {}
        if encoding is not None:
            found["ml.features.encoding"] = encoding if self.maybe(0.95) else "arrow"
        if self.maybe(0.5):
            found["ml.features.packed"] = data
        else:
            text = (base64.urlsafe_b64encode if self.maybe(0.3) else base64.b64encode)(data).decode()
            found["ml.features.packed_b64"] = (text.rstrip("=") if self.maybe(0.3) else text) if self.maybe(0.95) else "*" + text
        if len(numeric) < len(names) and encoding != "json":
            found["ml.features.categorical"] = [self.text() for _ in range(rows * (len(names) - len(numeric)) - self.maybe(0.05))]
        if self.maybe(0.5):
            found["ml.features.len"] = rows * len(numeric) + self.maybe(0.05) * 1000
        if self.maybe(0.5):
            mask = rng.randbytes((rows * len(names) + 7) // 8 + self.maybe(0.05))
            found["ml.features.null_mask"] = mask if self.maybe(0.5) else base64.b64encode(mask).decode()
        return found

    def form(self, rows: int, batch: bool) -> list[tuple[str, Any]]:
        """The features of one span in one form."""
        names = self.features()
        column = (lambda make: [make() for _ in range(rows)]) if batch and self.maybe(0.7) else (lambda make: make())
        match self.rng.randrange(6):
            case 0:
                return [
                    (f"ml.features.{name}", self.spoilt(column(lambda name=name: self.of_type(name))))
                    for name in [*names, self.rng.choice(NAMES)]
                ]
            case 1:
                values = [self.of_type(name) if self.maybe(0.9) else None for _ in range(rows) for name in names]
                own = [] if self.maybe(0.3) else [("ml.features.names", self.spoilt(names))]
                return [*own, ("ml.features.values", self.spoilt(values))]
            case 2:
                names = [*names, *names[: self.maybe(0.1)], self.rng.choice(NAMES)]
                return [("ml.features", tuple((name, column(lambda name=name: self.of_type(name))) for name in names))]
            case 3 | 4:
                whole: Any = {name: column(lambda name=name: self.of_type(name)) for name in names} | {"none": None}
                if self.maybe(0.2):
                    whole["nested"] = {"a": [1, {"b": 2}]}
                if batch and self.maybe(0.4):
                    whole = [{name: self.of_type(name) for name in names if self.maybe(0.9)} for _ in range(rows + self.maybe(0.1))]
                text = json.dumps(whole, ensure_ascii=self.maybe(0.5), indent=self.rng.choice([None, 1]))
                # cut short, but for what is also too long: one note is enough
                if len(whole) != rows + 1 and not self.maybe(0.9):
                    text = text[: self.rng.randrange(len(text))]
                return [(self.rng.choice(["ml.features", "ml.features.json"]), text)]
            case _:
                return list(self.packed(names, rows).items())

    def prediction(self, scope_names: list[str] | None) -> list[tuple[str, Any]]:
        rng = self.rng
        batch = self.maybe(0.35)
        rows = rng.choice([0, 1, 1, 2, 3, 5]) if batch else 1
        column = (lambda make: [make() for _ in range(rows)]) if batch else (lambda make: make())
        found: list[tuple[str, Any]] = []
        if self.maybe(0.9):
            found.append(("ml.model.name", rng.choice(["fraud", "fraud", "churn", "m" * 300, 7, ""])))
        for key, make in {
            "ml.model.version": lambda: rng.choice(["1", 2, 2.5, "v" * 200]),
            "ml.experiment.role": lambda: rng.choice(["champion", "challenger"]),
            "ml.task": lambda: "classification",
            "error.type": lambda: rng.choice(["Timeout", ""]),
            "ml.sampling.weight": lambda: rng.choice([10.0, 0, -1.0, math.inf, 3, "x"]),
            "country": self.text,
            "ml.segment.country": self.text,
            "ml.segment.channel": self.text,  # named nowhere
            "ml.feature.amount": rng.random,  # for ml.features.amount
            "gen_ai.request.model": lambda: "llm",
            "gen_ai.response.model": lambda: "llm-2026",
            "gen_ai.usage.prompt_tokens": lambda: rng.randrange(100),
            "gen_ai.usage.input_tokens": lambda: rng.randrange(100),
            "http.route": self.text,
        }.items():
            if self.maybe(0.3):
                found.append((key, make()))
        for key, make in {
            "ml.prediction.id": lambda: rng.choice(["order-1", "", 17, "i" * 600]),
            "ml.prediction.label": lambda: rng.choice([self.scalar(), "spam", "spam"]),
            "ml.prediction.score": rng.random,
            "ml.prediction.confidence": rng.random,
        }.items():
            if self.maybe(0.5):
                found.append((key, self.spoilt(column(make))))
        if batch and self.maybe(0.1):
            found.append(("ml.prediction.score", struct.pack(f"<{rows}f", *(rng.random() for _ in range(rows)))))
        if self.maybe(0.3):
            scores = [rng.choice([rng.random(), 0.5]) for _ in range(3 * rows)]
            packed = self.maybe(0.3)
            found.append(("ml.prediction.class_scores", struct.pack(f"<{len(scores)}f", *scores) if packed else self.spoilt(scores)))
            found.append(("ml.prediction.class_names", ["a", "b", rng.choice(["c", None])][: 3 - self.maybe(0.1)]))
        if batch:
            found.append(("ml.batch.size", rows if self.maybe(0.95) else rng.choice([-1, "3", 10**9, 20])))
        for _ in range(rng.choice([0, 1, 1, 1, 2])):
            found += self.form(rows, batch)
        if scope_names is not None and self.maybe(0.8):
            found += list(self.packed(scope_names, rows).items())
            if self.maybe(0.3):
                found.append(("ml.features.schema_id", "id" if self.maybe(0.8) else "other"))
        rng.shuffle(found)
        if found and self.maybe(0.1):
            found.append(rng.choice(found))
        return found

    def request(self) -> bytes:
        rng = self.rng
        request = ExportTraceServiceRequest()
        for _ in range(rng.choice([0, 1, 1, 2])):
            resource_spans = request.resource_spans.add()
            if self.maybe(0.7):
                set_attributes(
                    {"service.name": "shop", "country": self.text()} if self.maybe(0.3) else {"service.name": "shop"},
                    resource_spans.resource.attributes,
                )
            for _ in range(rng.choice([0, 1, 2])):
                scope_spans = resource_spans.scope_spans.add()
                names = None
                if self.maybe(0.5):
                    names = self.features()
                    schema: dict[str, Any] = {"ml.features.names": names, "ml.features.dtypes": [DTYPES[name] for name in names]}
                    if self.maybe(0.4):
                        schema["ml.features.roles"] = [rng.choice(["feature", "", "target"]) for _ in names]
                    if self.maybe(0.5):
                        schema["ml.features.schema_id"] = "id"
                    if self.maybe(0.1):
                        schema["ml.model.name"] = "of-scope"
                    set_attributes(schema, scope_spans.scope.attributes)
                for _ in range(rng.choice([0, 1, 2, 3])):
                    self.span(scope_spans.spans.add(), names)
        return request.SerializeToString()

    def span(self, span: Any, names: list[str] | None) -> None:
        rng = self.rng
        span.trace_id = rng.choice([rng.randbytes(16)] * 20 + [bytes(16), b"", rng.randbytes(15)])
        span.span_id = rng.choice([rng.randbytes(8)] * 20 + [bytes(8), b"", rng.randbytes(16)])
        span.name = "predict"
        start = rng.choice([RECEIVE_NS - rng.randrange(10**9)] * 8 + [0, 2**64 - 1, RECEIVE_NS - 10**18, RECEIVE_NS + 10**12])
        span.start_time_unix_nano = start
        span.end_time_unix_nano = rng.choice([min(start + rng.randrange(10**9), 2**64 - 1)] * 6 + [0, max(start - 5, 0)])
        span.status.code = rng.choice([0, 1, 2])
        span.trace_state = rng.choice(
            ["", "", "ot=th:8", "ot=th:c;rv:0123456789abcd", "a=b,ot=rv:00000000000001", "ot=th:A", "ot=th:1;th:1", "x=y"]
        )
        if self.maybe(0.8):
            set_attributes(self.prediction(names), span.attributes)
        if self.maybe(0.2):
            set_attributes({"a": [1, {"b": 2}]}, span.events.add().attributes)
            set_attributes({"a": b"x"}, span.links.add().attributes)
