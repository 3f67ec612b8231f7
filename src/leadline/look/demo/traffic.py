"""Requests at a bounded rate, and an exact tally of them: what Leadline says must agree with what was sent."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import httpx

from leadline.look.demo.patients import MMOL, Patients, Row
from leadline.look.demo.service import DURATION_HEADER, Faults, version_of

MAX_AT_ONCE: Final = 64
MAX_SENT: Final = 200_000
"""Requests that are remembered; an open-ended demo goes on without a tally of the oldest ones."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One answered request."""

    at_ns: int
    version: str
    failed: bool
    duration_ns: int
    """Of the prediction's own span, as the server measured it."""
    features: Row


@dataclass
class Traffic:
    """A hospital that asks for predictions, `rate` times a second.

    Parameters
    ----------
    url : str
        The service.
    patients : Patients
        Who comes in, drawn at random with replacement; measured again with a little noise.
    outcome_share : float
        Of how many patients the outcome is reported back.
    """

    url: str
    patients: Patients
    rate: float = 60.0
    outcome_share: float = 0.05
    seed: int = 11
    sent: list[Sent] = field(default_factory=list)
    outcomes: int = 0
    forgotten: int = 0
    lost: int = 0
    """Requests without an answer from the service: none, if the tally is to be exact."""
    in_mmol: bool = False
    """The laboratory's new analyser reports glucose in mmol/l."""

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)
        self._stop = asyncio.Event()
        self._client = httpx.AsyncClient(base_url=self.url, timeout=30.0, limits=httpx.Limits(max_connections=MAX_AT_ONCE))

    async def run(self) -> None:
        """Sends until `stop`; then waits for what is on its way."""
        gate = asyncio.Semaphore(MAX_AT_ONCE)
        running: set[asyncio.Task[None]] = set()
        due = time.monotonic()
        async with self._client:
            while not self._stop.is_set():
                await gate.acquire()
                task = asyncio.create_task(self._ask())
                running.add(task)
                task.add_done_callback(running.discard)
                task.add_done_callback(lambda _: gate.release())
                due = max(due + 1 / self.rate, time.monotonic() - 1.0)  # after a pause, at most a second is made up for
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            await asyncio.gather(*running)

    def stop(self) -> None:
        self._stop.set()

    async def break_v2(self, faults: Faults) -> None:
        """Breaks, or repairs, v2's feature store."""
        (await self._client.post("/faults", json=faults.model_dump())).raise_for_status()

    def draw(self) -> tuple[Row, bool]:
        """A patient, and the outcome."""
        at = self._dice.randrange(len(self.patients.rows))
        row = dict(self.patients.rows[at])
        if self.in_mmol:
            row["glucose"] = round(float(row["glucose"]) / MMOL, 2)
        return row, self.patients.fast[at]

    async def _ask(self) -> None:
        (row, fast), patient, reports = self.draw(), f"patient-{self._dice.randrange(10**9)}", self._dice.random() < self.outcome_share
        at_ns = time.time_ns()
        try:
            answer = await self._client.post("/predict", json={"patient": patient, "features": row})
            duration_ns = int(answer.headers[DURATION_HEADER])
            if reports and answer.status_code == 200:
                (await self._client.post("/outcome", json={"id": answer.json()["id"], "fast": fast})).raise_for_status()
                self.outcomes += 1
        except (httpx.HTTPError, KeyError):
            self.lost += 1
            return
        self.sent.append(Sent(at_ns, version_of(patient), answer.status_code != 200, duration_ns, row))
        if len(self.sent) > MAX_SENT:
            del self.sent[: MAX_SENT // 10]
            self.forgotten += MAX_SENT // 10


def tally(sent: Sequence[Sent], bad_above_ms: float) -> dict[str, Counter[str]]:
    """version -> answered, failed, bad (failed, or slower than `bad_above_ms`)."""
    counts: dict[str, Counter[str]] = {}
    for one in sent:
        of = counts.setdefault(one.version, Counter())
        of["answered"] += 1
        of["failed"] += one.failed
        of["bad"] += one.failed or one.duration_ns >= bad_above_ms * 1e6
    return counts
