"""The trace buffer, in ns a span and bytes a span, each as a share of its limit; 513-span requests of 3-span traces with 20 features.

python benchmarks/trace_buffer.py [--spans 300000]

Times are CPU time, the least of 5 runs, the call from Python included. `held` is what `TraceBuffer.bytes` says beyond the spans' own
bytes; `resident` is what the process grew by while the spans were added, their bytes included, so it shows what `held` leaves out.
A limit is the bar that the design states, or (resident) the 460 B a buffered span that contrib's adaptive tail sampling reports.
It does not show contention: several threads adding at once wait for each other.
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from leadline._kernel import SpanBatch, TraceBuffer, decode_traces
from leadline.decode.dialect import load
from payloads import Requests

START = 1_700_000_000_000_000_000
WORDS = {"samplings": ["dropped", "kept"], "policies": ["budget"], "plan_revision": 1, "collector": "bench", "segment": 1}


def decide_all(buffer: TraceBuffer, *, keep: bool, rows: bool = False, otlp: bool = False) -> tuple[float, float]:
    """Seconds spent in `due` and in `decide`, 5,000 traces at a time."""
    due = decide = 0.0
    while buffer.spans:
        begun = time.thread_time()
        ids = buffer.due(1 << 62, 5_000, rows=rows)["trace_id"]
        between = time.thread_time()
        zeros = np.zeros(len(ids), dtype=np.uint8)
        columns = (ids, np.full(len(ids), keep), zeros.astype(np.uint64), zeros + 1.0, zeros + np.uint8(keep), zeros)
        buffer.decide(*columns, **WORDS, otlp=otlp)
        due, decide = due + between - begun, decide + time.thread_time() - between
    return due, decide


def filled(batches: list[SpanBatch]) -> TraceBuffer:
    buffer = TraceBuffer(0)
    for sequence, batch in enumerate(batches):
        buffer.add(batch, sequence)
    return buffer


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spans", type=int, default=300_000)
    requests = Requests(seed=1)
    count = parser.parse_args().spans // requests.spans
    dialect = load(["ml"])
    spans = count * requests.spans

    gc.collect()
    before, held = resident(), TraceBuffer(0)
    for sequence in range(count):
        held.add(decode_traces(requests.next(START + sequence), dialect, START + sequence), sequence)
    gc.collect()
    grown = (resident() - before) / spans
    own = requests.size / requests.spans
    beyond = held.bytes / spans - own
    decide_all(held, keep=False)

    batches = [decode_traces(requests.next(START + sequence), dialect, START + sequence) for sequence in range(count)]
    times: dict[str, float] = {}

    def least(name: str, seconds: float) -> None:
        times[name] = min(times.get(name, float("inf")), seconds / spans * 1e9)

    for _ in range(5):
        begun = time.thread_time()
        buffer = filled(batches)
        least("add", time.thread_time() - begun)
        due, decide = decide_all(buffer, keep=False)
        least("due + decide, dropped", due + decide)
        least("due with rows", decide_all(filled(batches), keep=False, rows=True)[0])
        least("decide, kept", decide_all(filled(batches), keep=True)[1])
        least("decide, kept, with OTLP", decide_all(filled(batches), keep=True, otlp=True)[1])
    limits = {"add": 120, "due + decide, dropped": 100, "due with rows": 500, "decide, kept": 1500, "decide, kept, with OTLP": 2000}
    print(f"{spans} spans of {own:.0f} B; {os.uname().machine}, {os.cpu_count()} cores")
    for name, limit in limits.items():
        print(f"{name:<26}{times[name]:8.0f} ns a span   {times[name] / limit:5.2f} of {limit}")
    for name, size, limit in (("held beyond the span", beyond, 150), ("resident, all", grown, 460 + own)):
        print(f"{name:<26}{size:8.0f} B a span    {size / limit:5.2f} of {limit:.0f}")


if __name__ == "__main__":
    main()
