"""Real rows in a real ClickHouse: packed predictions through the kernel's decoder and sketches into chdb."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import chdb
import numpy as np
import pytest
from numpy.typing import NDArray
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue

from leadline._kernel import SKETCH_COLUMNS, SpanBatch, decode_traces
from leadline.decode.dialect import load

SCHEMA = Path(__file__).parents[2] / "src" / "leadline" / "store" / "schema"
START_S = 3_786_912_000
"""2090-01-01: no row is older than its table keeps it, whenever the tests run."""

_DIALECT = load(["ml"])


def _attribute(key: str, value: str | int | float | bytes | Sequence[str]) -> KeyValue:
    match value:
        case str():
            return KeyValue(key=key, value=AnyValue(string_value=value))
        case int():
            return KeyValue(key=key, value=AnyValue(int_value=value))
        case float():
            return KeyValue(key=key, value=AnyValue(double_value=value))
        case bytes():
            return KeyValue(key=key, value=AnyValue(bytes_value=value))
        case _:
            return KeyValue(key=key, value=AnyValue(array_value=ArrayValue(values=[AnyValue(string_value=text) for text in value])))


def predictions(
    columns: Mapping[str, NDArray[np.float64]],
    *,
    version: str = "1",
    minute: int = 0,
    weight: float | None = None,
    predicted: Sequence[str] | None = None,
) -> list[SpanBatch]:
    """Decoded requests with one prediction a row of `columns`, all answered in one minute after `START_S`."""
    at_ns = (START_S + 60 * minute + 1) * 1_000_000_000
    table = np.column_stack(list(columns.values())).astype("<f8")
    batches = []
    for part in np.split(table, range(10_000, len(table), 10_000)):
        request = ExportTraceServiceRequest()
        scope = request.resource_spans.add().scope_spans.add()
        features = {"ml.model.name": "m", "ml.model.version": version, "ml.features.names": list(columns)}
        scope.scope.attributes.extend(_attribute(key, value) for key, value in features.items())
        span = scope.spans.add(trace_id=b"t" * 16, span_id=b"s" * 8, start_time_unix_nano=at_ns, end_time_unix_nano=at_ns)
        packed: dict[str, Any] = {"ml.batch.size": len(part), "ml.features.encoding": "f64le", "ml.features.packed": part.tobytes()}
        if weight is not None:
            packed["ml.sampling.weight"] = weight
        if predicted is not None:
            packed["ml.prediction.label"] = predicted
        span.attributes.extend(_attribute(key, value) for key, value in packed.items())
        batches.append(decode_traces(request.SerializeToString(), _DIALECT, at_ns))
    return batches


class Database:
    """chdb with Leadline's schema."""

    def __init__(self, path: Path) -> None:
        self._connection = chdb.connect(str(path))
        for file in sorted(SCHEMA.glob("*.sql")):
            lines = [line for line in file.read_text().splitlines() if not line.lstrip().startswith("--")]
            for statement in "\n".join([*lines, ""]).split(";\n"):
                if statement.strip():
                    self.rows(statement)

    def rows(self, sql: str) -> list[dict[str, Any]]:
        answer = str(self._connection.query(f"{sql}", "JSONEachRow"))
        return [json.loads(line) for line in answer.splitlines()]

    def insert(self, rows: bytes, *, token: str) -> None:
        columns = ", ".join(name for name, _ in SKETCH_COLUMNS)
        insert = f"INSERT INTO sketches ({columns}) SETTINGS insert_deduplication_token = '{token}'"
        with self._connection.send_insert(insert, "RowBinary") as writer:
            writer.append(rows)
            writer.finish()

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    database = Database(tmp_path_factory.mktemp("clickhouse"))
    yield database
    database.close()
