"""A supervisor over fake process trees (see tests/shared/house.py), on the virtual clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from house import House, running


@pytest.fixture
def inline_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs thread work in the loop: a virtual clock takes a waiting thread for idleness."""

    async def run_sync(function: Any, *arguments: Any, **_: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return function(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)


@pytest.fixture
def open_house(tmp_path: Path, autojump_clock: object, inline_threads: None) -> Callable[..., Any]:
    """Opens a house on the test's directory; one after the other, as daemons would."""

    @asynccontextmanager
    async def opened(*, drain: bool = True) -> AsyncIterator[House]:
        async with running(tmp_path, drain=drain) as house:
            yield house

    return opened
