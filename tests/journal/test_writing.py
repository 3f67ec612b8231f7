"""Outcomes of writes come from the journal's thread to whoever waits on the event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from leadline.errors import Overloaded
from leadline.journal.writing import Outcomes, Writing


async def test_all_who_wait_are_told_once_it_is_on_disk() -> None:
    """The client that sent it, and one that sent it again meanwhile; what was to be noted is noted before."""
    noted: list[bool] = []
    writing, outcomes = Writing(noted.append), Outcomes()
    waiting = [asyncio.ensure_future(writing.wait()) for _ in range(2)]
    await asyncio.sleep(0)
    threading.Thread(target=outcomes.teller(writing), args=(7,)).start()
    await asyncio.gather(*waiting)
    assert noted == [True]


async def test_why_it_could_not_be_written_is_raised() -> None:
    """And noted as not on disk."""
    noted: list[bool] = []
    writing, outcomes = Writing(noted.append), Outcomes()
    waiting = asyncio.ensure_future(writing.wait())
    await asyncio.sleep(0)
    outcomes.teller(writing)(Overloaded("the disk is full", retry_after_s=5))
    with pytest.raises(Overloaded, match="the disk is full"):
        await waiting
    assert noted == [False]


async def test_one_that_goes_away_changes_nothing() -> None:
    """It is noted all the same, and the other is told."""
    noted: list[bool] = []
    writing, outcomes = Writing(noted.append), Outcomes()
    gone, stays = (asyncio.ensure_future(writing.wait()) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    threading.Thread(target=outcomes.teller(writing), args=(7,)).start()
    await stays
    assert gone.cancelled()
    assert noted == [True]


async def test_many_threads_at_once_lose_nothing() -> None:
    """Whoever tells while others are being handed out is handed out too."""
    outcomes = Outcomes()
    noted: list[bool] = []
    writings = [Writing(noted.append) for _ in range(400)]
    waiting = [asyncio.ensure_future(writing.wait()) for writing in writings]
    await asyncio.sleep(0)
    tellers = [outcomes.teller(writing) for writing in writings]
    threads = [threading.Thread(target=lambda part=part: [tell(1) for tell in part]) for part in (tellers[n::4] for n in range(4))]
    for thread in threads:
        thread.start()
    await asyncio.wait_for(asyncio.gather(*waiting), 30)
    assert len(noted) == 400


def test_a_loop_that_is_closed_is_left_alone() -> None:
    """At shutdown the journal's thread may be the last."""
    outcomes = Outcomes()

    async def make() -> object:
        return outcomes.teller(Writing(lambda on_disk: None))

    tell = asyncio.run(make())
    tell(1)  # type: ignore[operator]
