"""What a sketched value costs, and how far off its rank is, beside the t-digests of PyPI in the same run.

A value goes through everything that table `sketches` holds: moments, atoms and digest, and 20 frozen bins of a reference. The peers keep a
digest alone. Each is fed the way it is fastest: we decoded requests of 10,000 rows × 20 features, the peers one array of 10,000
values of a feature at a time (tdigest: fewer, for it takes 20 µs a value). Processor time of one thread, minimum of the repeats; values
from a seed. A ratio travels between machines, nanoseconds do not.

Error: |F(q̂) − level| over what was sent, 0 where the level lies within the jump at q̂; the largest over ten levels. Not shown: decoding (it is in
the collector's own benchmark), many groups at once, merging over windows in ClickHouse (tests/sketch/test_accuracy.py).
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import time
from collections.abc import Callable
from typing import Any

import fastdigest
import numpy as np
from numpy.typing import NDArray
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue

from leadline._kernel import Sketches, SpanBatch, decode_traces
from leadline.decode.dialect import load

FEATURES, CHUNK = 20, 10_000
NAMES = [f"f{i:02}" for i in range(FEATURES)]
LEVELS = [0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 0.9999]
SERIES: dict[str, Callable[[np.random.Generator, int], NDArray[np.float64]]] = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "lognormal": lambda rng, n: rng.lognormal(size=n),
    "60 % zeros": lambda rng, n: np.where(rng.random(n) < 0.6, 0.0, rng.standard_normal(n)),
    "2 decimals": lambda rng, n: np.round(rng.standard_normal(n), 2),
    "Poisson(3)": lambda rng, n: rng.poisson(3, n).astype(np.float64),
}

Quantile = Callable[[float], float]


def request(table: NDArray[np.float64]) -> SpanBatch:
    """One span with a row of `table` a prediction."""
    message = ExportTraceServiceRequest()
    spans = message.resource_spans.add().scope_spans.add()
    names = AnyValue(array_value=ArrayValue(values=[AnyValue(string_value=name) for name in NAMES]))
    spans.scope.attributes.append(KeyValue(key="ml.features.names", value=names))
    span = spans.spans.add(trace_id=b"t" * 16, span_id=b"s" * 8, start_time_unix_nano=10**18, end_time_unix_nano=10**18)
    values = {
        "ml.model.name": AnyValue(string_value="m"),
        "ml.batch.size": AnyValue(int_value=len(table)),
        "ml.features.encoding": AnyValue(string_value="f64le"),
        "ml.features.packed": AnyValue(bytes_value=table.astype("<f8").tobytes()),
    }
    span.attributes.extend(KeyValue(key=key, value=value) for key, value in values.items())
    return decode_traces(message.SerializeToString(), load(["ml"]), 10**18)


def timed(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """(least processor time in ns, what the work gave)."""
    best, given = float("inf"), None
    for _ in range(repeats):
        start = time.thread_time_ns()
        given = work()
        best = min(best, time.thread_time_ns() - start)
    return best, given


def ours(table: NDArray[np.float64], repeats: int, *, bins: bool) -> tuple[float, Quantile]:
    batches = [request(part) for part in np.split(table, range(CHUNK, len(table), CHUNK))]
    edges = np.unique(np.quantile(table[:, 0], np.linspace(0, 1, 21))).tolist()

    def work() -> Sketches:
        sketches = Sketches()
        if bins:
            sketches.set_references([("m", f"features/{name}", "reference", edges, [], []) for name in NAMES])
        for batch in batches:
            sketches.add(batch)
        return sketches

    def drained() -> None:
        work().drain("benchmark", 0)

    spent, _ = timed(drained, repeats)
    sketches = work()
    return spent / table.size, lambda level: float(sketches.quantiles("features/f00", [level])[0][4][0])


def peer(
    make: Callable[[], Any], update: str, quantile: str, scale: float = 1.0
) -> Callable[[NDArray[np.float64], int], tuple[float, Quantile]]:
    def run(column: NDArray[np.float64], repeats: int) -> tuple[float, Quantile]:
        chunks = np.split(column, range(CHUNK, len(column), CHUNK))

        def work() -> Any:
            digest = make()
            for chunk in chunks:
                getattr(digest, update)(chunk)
            return digest

        spent, digest = timed(work, repeats)
        return spent / len(column), lambda level: float(getattr(digest, quantile)(level * scale))

    return run


PEERS = {"fastdigest 200": (peer(lambda: fastdigest.TDigest(200), "batch_update", "quantile"), 1)}
try:  # these two have no wheels: they are built from source, so they are not among the locked dependencies
    import pytdigest
    import tdigest
except ImportError as absent:
    print(f"left out: {absent.name} (pip install pytdigest tdigest)")
else:
    PEERS["pytdigest 200"] = (peer(lambda: pytdigest.TDigest(200), "update", "inverse_cdf"), 1)
    PEERS["tdigest 1/200"] = (peer(lambda: tdigest.TDigest(0.005), "batch_update", "percentile", 100.0), 50)


def error(column: NDArray[np.float64], quantile: Quantile) -> float:
    """Largest distance of a level from the ranks of the value given for it."""
    values = np.sort(column)

    def distance(level: float) -> float:
        found = quantile(level)
        below, up_to = (float(np.searchsorted(values, found, side=side)) / len(values) for side in ("left", "right"))
        return max(0.0, below - level, level - up_to)

    return max(distance(level) for level in LEVELS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    commit = (
        subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    )
    print(
        f"# Python {platform.python_version()}, {platform.machine()}, commit {commit}; {arguments.rows} rows × {FEATURES} features, one minute"
    )
    print(f"{'series':12}{'':22}{'ns a value':>12}{'ours is 1':>12}{'worst rank error':>18}")
    for name, draw in SERIES.items():
        rng = np.random.default_rng(11)
        table = np.column_stack([draw(rng, arguments.rows) for _ in NAMES])
        whole, quantile = ours(table, arguments.repeats, bins=True)

        def line(what: str, spent: float, off: float, series: str = name, unit: float = whole) -> None:
            print(f"{series:12}{what:22}{spent:12.1f}{spent / unit:12.2f}{off:18.5f}")

        line("leadline, 20 bins", whole, error(table[:, 0], quantile))
        plain, quantile = ours(table, arguments.repeats, bins=False)
        line("leadline, no bins", plain, error(table[:, 0], quantile))
        for peer_name, (run, fewer) in PEERS.items():
            column = np.ascontiguousarray(table[: len(table) // fewer, 0])
            spent, quantile = run(column, 1 if fewer > 1 else arguments.repeats)
            line(peer_name, spent, error(column, quantile))


if __name__ == "__main__":
    main()
