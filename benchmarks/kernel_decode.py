"""What decoding a span costs: requests of three-span traces with one prediction of 20 features each, beside protobuf's own parser.

python benchmarks/kernel_decode.py

CPU time of one thread, the least of several rounds (other work on the machine only adds). `FromString` builds protobuf's objects (upb, in
C) and reads nothing of them; `read` also takes the ids and attributes out in Python, as a collector without a kernel would. The kernel
gives columns, checks every byte and encodes the prediction rows. Not shown: redaction, the trace buffer, sketches.
"""

from __future__ import annotations

import gzip
import random
import struct
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from leadline._kernel import decode_traces, decompress, prediction_columns
from leadline.decode.dialect import load
from payloads import Requests

NOW = 1_700_000_000_000_000_000
BAR_NS = 500


def packed(spans: int, seed: int) -> bytes:
    """The same traffic from Leadline's SDK: 20 features packed as f32, their schema in the scope."""
    rng = random.Random(seed)
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for key, items in (("ml.features.names", [f"f{n}" for n in range(20)]), ("ml.features.dtypes", ["float32"] * 20)):
        values = scope.scope.attributes.add(key=key).value.array_value.values
        for item in items:
            values.add(string_value=item)
    for number in range(spans):
        span = scope.spans.add(trace_id=rng.randbytes(16), span_id=rng.randbytes(8), name="predict fraud")
        span.start_time_unix_nano, span.end_time_unix_nano = NOW - rng.randrange(10**8), NOW
        if number % 3:
            span.attributes.add(key="db.system.name").value.string_value = "redis"
        else:
            span.attributes.add(key="ml.model.name").value.string_value = "fraud"
            span.attributes.add(key="ml.model.version").value.string_value = "7"
            span.attributes.add(key="ml.features.packed").value.bytes_value = struct.pack("<20f", *(rng.gauss(0, 1) for _ in range(20)))
    return request.SerializeToString()


def read(data: bytes) -> int:
    count = 0
    for resource in ExportTraceServiceRequest.FromString(data).resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                count += len((span.trace_id, span.span_id, span.start_time_unix_nano, span.end_time_unix_nano, span.status.code))
                count += len(
                    {attribute.key: getattr(attribute.value, attribute.value.WhichOneof("value")) for attribute in span.attributes}
                )
    return count


def least(run: Callable[[], object], rounds: int = 15, share_s: float = 0.04) -> float:
    """Seconds of CPU of one call."""
    run()
    started = time.process_time()
    run()
    calls = max(1, round(share_s / max(time.process_time() - started, 1e-6)))
    best = float("inf")
    for _ in range(rounds):
        started = time.process_time()
        for _ in range(calls):
            run()
        best = min(best, (time.process_time() - started) / calls)
    return best


def main() -> None:
    dialect = load(["ml", "gen_ai"], ["country"])
    missed = False
    print(f"{'request':34} {'B/span':>7} {'kernel':>9} {'FromString':>11} {'read':>9}   ns/span")
    for name, spans, data in (
        ("513 spans, an attribute a feature", 513, Requests(513).next(NOW)),
        ("513 spans, packed f32", 513, packed(513, 1)),
        ("9 spans, an attribute a feature", 9, Requests(9).next(NOW)),
    ):
        ours = least(lambda data=data: decode_traces(data, dialect, NOW)) / spans * 1e9
        objects = least(lambda data=data: ExportTraceServiceRequest.FromString(data)) / spans * 1e9
        python = least(lambda data=data: read(data)) / spans * 1e9
        bar = f", bar {BAR_NS} ns" if spans == 513 else ""
        missed |= spans == 513 and ours > BAR_NS
        print(
            f"{name:34} {len(data) / spans:7.0f} {ours:9.0f} {objects:11.0f} {python:9.0f}   1/{objects / ours:.1f}, 1/{python / ours:.1f}{bar}"
        )
    batch = decode_traces(Requests(513).next(NOW), dialect, NOW)
    print(f"prediction_columns: {least(lambda: prediction_columns([batch] * 20)) / (20 * 171) * 1e9:.0f} ns a prediction")
    body = Requests(513).next(NOW)
    for encoding, data, other in (("gzip", gzip.compress(body, 6), gzip.decompress), ("deflate", zlib.compress(body, 6), zlib.decompress)):
        ours, theirs = least(lambda d=data, e=encoding: decompress(e, d, 1 << 26)), least(lambda d=data, f=other: f(d))
        print(f"decompress {encoding}: {len(body) / ours / 1e6:.0f} MB/s, Python's {len(body) / theirs / 1e6:.0f} MB/s")
    sys.exit("a bar was missed" if missed else 0)


if __name__ == "__main__":
    main()
