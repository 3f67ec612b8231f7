"""Receivers for the tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from leadline.testing.receivers import Receivers, receiving


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Any]]:
    """Starts both receivers with the settings given; they are stopped after the test."""
    async with AsyncExitStack() as stack:

        async def begin(**settings: Any) -> Receivers:
            return await stack.enter_async_context(receiving(**settings))

        yield begin


@pytest.fixture
async def served() -> AsyncIterator[Receivers]:
    """Both receivers with the settings' defaults."""
    async with receiving() as receivers:
        yield receivers
