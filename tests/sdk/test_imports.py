"""What the SDK loads into a model server."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("chdb", "scipy", "pyarrow", "pandas", "grpc", "numpy", "pydantic", "starlette", "uvicorn", "sqlglot", "clickhouse_connect")
OURS = ("leadline", "leadline.names", "leadline.sdk")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_sdk_loads_no_part_of_the_collector() -> None:
    """`import leadline.sdk` needs opentelemetry-api alone; numpy is used where it is already there."""
    loaded = run("import sys, leadline.sdk; print(*sorted(sys.modules))").split()
    assert not {name.split(".")[0] for name in loaded} & set(HEAVY)
    assert not [name for name in loaded if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.proto"))]
    assert not [name for name in loaded if name.startswith("leadline") and not name.startswith("leadline.sdk.") and name not in OURS]
    assert "leadline.sdk.monitor" in loaded


def test_it_works_without_numpy_and_without_an_sdk() -> None:
    """Rows and lists of rows need the standard library only; without OpenTelemetry's SDK everything is a no-op."""
    code = """
import sys
sys.modules["numpy"] = None
import leadline.sdk
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
no_op = leadline.sdk.Monitor("m", "1")
with no_op.prediction(features={"a": 1.0}) as prediction:
    prediction.output("yes")
no_op.feedback(prediction.id, "no")
assert no_op.record_batch([[1.0], [2.0]]) and no_op.flush() and not no_op.faults
spans = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
monitor = leadline.sdk.Monitor("m", "1", tracer_provider=provider)
monitor.record_batch([{"a": 1.0, "b": "x"}, {"a": None, "b": "y"}])
with monitor.prediction(features={"a": 1.0, "b": "x"}): pass
print(len(spans.get_finished_spans()), dict(monitor.faults))
"""
    assert run(code) == "2 {}"
