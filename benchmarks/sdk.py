"""What a monitored prediction costs the model server, as a ratio to a bare span of the same run.

Two sides of the cost: *hot* is on the request thread (start, attributes, end), *encode* is protobuf on the exporter's
thread, under the same GIL. Processor time of one thread, minimum of the repeats; rows are random, from a seed. A ratio
travels between machines, microseconds do not. Not shown: the network, gzip, contention between threads.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import time
from collections.abc import Callable, Sequence

import numpy as np
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from leadline.sdk import Monitor

BATCH = 512


class Kept(SpanProcessor):
    """Where a batch processor's queue would be: one append a span."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


def measure(
    make: Callable[[TracerProvider], Callable[[int], None]], rows: int, repeats: int, *, sampled: bool = True
) -> tuple[float, float, int]:
    """(hot µs, encode µs, bytes on the wire) a row."""
    hot, encode, size = [], [], 0
    for _ in range(repeats):
        kept = Kept()
        provider = TracerProvider() if sampled else TracerProvider(sampler=ALWAYS_OFF)
        provider.add_span_processor(kept)
        call = make(provider)
        call(0)
        kept.spans.clear()
        start = time.thread_time_ns()
        for i in range(BATCH):
            call(i)
        hot.append(time.thread_time_ns() - start)
        if kept.spans:
            start = time.thread_time_ns()
            size = len(encode_spans(kept.spans).SerializeToString())
            encode.append(time.thread_time_ns() - start)
    per = BATCH * rows * 1000
    return min(hot) / per, min(encode, default=0) / per, size // (BATCH * rows)


def bare(provider: TracerProvider) -> Callable[[int], None]:
    """The peer: a span with the same identity, label and score, and no features."""
    tracer = provider.get_tracer("bare")
    identity = {"ml.model.name": "fraud", "ml.model.version": "1"}

    def call(_: int) -> None:
        with tracer.start_as_current_span("predict fraud", attributes=identity) as span:
            span.set_attributes({"ml.prediction.label": "yes", "ml.prediction.score": 0.5})

    return call


def one_attribute_each(features: Sequence[dict[str, float]]) -> Callable[[TracerProvider], Callable[[int], None]]:
    """What one would write without an SDK: a span attribute for every feature."""

    def make(provider: TracerProvider) -> Callable[[int], None]:
        tracer = provider.get_tracer("plain")
        identity = {"ml.model.name": "fraud", "ml.model.version": "1"}

        def call(i: int) -> None:
            with tracer.start_as_current_span("predict fraud", attributes=identity) as span:
                span.set_attributes({f"ml.features.{name}": value for name, value in features[i].items()})
                span.set_attributes({"ml.prediction.label": "yes", "ml.prediction.score": 0.5})

        return call

    return make


def monitored(rows: Sequence[object], names: list[str], **more: object) -> Callable[[TracerProvider], Callable[[int], None]]:
    """The SDK."""

    def make(provider: TracerProvider) -> Callable[[int], None]:
        monitor = Monitor("fraud", "1", features=names, tracer_provider=provider, **more)  # type: ignore[arg-type]

        def call(i: int) -> None:
            with monitor.prediction(features=rows[i]) as prediction:
                prediction.output("yes", score=0.5)

        return call

    return make


def batches(table: np.ndarray, names: list[str], size: int) -> Callable[[TracerProvider], Callable[[int], None]]:
    """`record_batch` of `size` rows at a time."""
    labels, scores = ["yes"] * size, [0.5] * size

    def make(provider: TracerProvider) -> Callable[[int], None]:
        monitor = Monitor("fraud", "1", features=names, tracer_provider=provider)
        return lambda _: monitor.record_batch(table[:size], predicted=labels, scores=scores) and None

    return make


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    commit = (
        subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    )
    print(f"# Python {platform.python_version()}, {platform.machine()}, commit {commit}; ratios to a bare span of this run")
    base_hot, base_encode, base_size = measure(bare, 1, repeats)
    print(f"{'':44}{'hot':>8}{'encode':>8}{'CPU':>8}{'bytes':>8}   hot µs")

    def line(name: str, result: tuple[float, float, int]) -> None:
        hot, encode, size = result
        total = (hot + encode) / (base_hot + base_encode)
        print(f"{name:44}{hot / base_hot:8.2f}{encode / base_encode:8.2f}{total:8.2f}{size / base_size:8.2f}   {hot:6.2f}")

    line("bare span, no features", (base_hot, base_encode, base_size))
    for k in (30, 100):
        table = np.random.default_rng(7).normal(size=(BATCH, k))
        names = [f"feature_{i:03}" for i in range(k)]
        lists = table.tolist()
        mappings = [dict(zip(names, row, strict=True)) for row in lists]
        line(f"{k} features, one attribute each, no SDK", measure(one_attribute_each(mappings), 1, repeats))
        line(f"{k} features, mapping", measure(monitored(mappings, names), 1, repeats))
        line(f"{k} features, list", measure(monitored(lists, names), 1, repeats))
        line(f"{k} features, numpy row", measure(monitored(list(table), names), 1, repeats))
        line(f"{k} features, record_batch of 256, a row", measure(batches(table, names, 256), 256, max(2, repeats // 3)))
    line("30 features, capture none", measure(monitored(mappings, names, capture="none"), 1, repeats))
    line("30 features, trace not sampled", measure(monitored(mappings, names), 1, repeats, sampled=False))


if __name__ == "__main__":
    main()
