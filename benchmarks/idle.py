"""An idle `leadline collect`: seconds until it takes requests, and resident memory five seconds later.

python benchmarks/idle.py            5 starts each, with the engine configured but away, and with no store
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from leadline.testing.processes import Processes

BARS = {"seconds to ready": 2.0, "resident MB": 100.0}


async def one(store: str) -> tuple[float, float]:
    """(seconds to ready, resident MB five seconds later)."""
    with tempfile.TemporaryDirectory(prefix="leadline-bench-") as data, Processes(Path(data), (f"store.clickhouse={store}",)) as machine:
        begun = time.monotonic()
        machine.start("collect")
        await machine.ready()
        ready = time.monotonic() - begun
        await asyncio.sleep(5)
        status = Path(f"/proc/{machine.processes['collect'].pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
        return ready, int(line.split()[1]) * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=5)
    starts = parser.parse_args().starts
    for store in ("embedded", "none"):
        measured = [asyncio.run(one(store)) for _ in range(starts)]
        for values, (name, bar) in zip(zip(*measured, strict=True), BARS.items(), strict=True):
            spread = " / ".join(f"{value:.2f}" for value in (min(values), statistics.median(values), max(values)))
            print(f"store {store}: {name} {spread} (min / median / max of {starts}; bar {bar:g})")


if __name__ == "__main__":
    main()
