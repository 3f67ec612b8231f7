"""The budget of bytes in hand."""

from __future__ import annotations

import pytest

from leadline.errors import Overloaded
from leadline.receive.limits import Budget


def test_what_is_held_is_given_back() -> None:
    budget = Budget(100)
    with budget.lease() as first, budget.lease() as second:
        first.hold(40)
        second.hold(60)
        assert (budget.held, budget.peak) == (100, 100)
        first.hold(10)
        assert budget.held == 70
    assert (budget.held, budget.peak) == (0, 100)


def test_what_does_not_fit_is_refused_and_changes_nothing() -> None:
    budget = Budget(100)
    with budget.lease() as first, budget.lease() as second:
        first.hold(60)
        second.hold(30)
        with pytest.raises(Overloaded, match=r"90 bytes of requests are in hand and 11 more would pass receive\.max_in_flight \(100\)"):
            second.hold(41)
        assert (first.held, second.held, budget.held) == (60, 30, 90)


def test_a_request_alone_fits_whatever_its_size() -> None:
    """A budget below `max_bytes` slows large requests down, and never shuts them out."""
    budget = Budget(100)
    with budget.lease() as large:
        large.hold(1000)
        with budget.lease() as other, pytest.raises(Overloaded):
            other.hold(1)
    assert budget.held == 0


def test_large_requests_leave_room_for_others() -> None:
    """Past three quarters of the bound a large one is told to come back, and an ordinary one is not."""
    budget = Budget(100 * 2**20)
    with budget.lease() as first, budget.lease() as second, budget.lease() as small:
        first.hold(60 * 2**20)
        with pytest.raises(Overloaded, match="for large requests"):
            second.hold(20 * 2**20)
        second.hold(15 * 2**20)
        small.hold(2**20)
        assert budget.held == 76 * 2**20


def test_giving_back_twice_does_nothing() -> None:
    budget = Budget(100)
    lease = budget.lease()
    lease.hold(10)
    lease.release()
    lease.release()
    assert budget.held == 0
