"""How long a knock over HTTP waits."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from groove_trio.api.coordination import ANSWER_S, soon
from groove_trio.shell.clerk import Clerk
from groove_trio.words.errors import Busy


async def test_a_knock_gives_up_when_the_queue_stays_full(
    autojump_clock: trio.testing.MockClock,
) -> None:
    start = trio.current_time()
    with pytest.raises(Busy, match="not answered within 2 s"):
        await soon(trio.sleep_forever)
    assert trio.current_time() - start == pytest.approx(ANSWER_S)


async def test_a_knock_that_finds_the_queue_full_is_answered_in_time(
    calling: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Clerk, "full", True)
    async with calling() as caller:
        body = {"agent": "nobody", "operation": "write", "path": "a"}
        status, answer = await caller.ask("POST", "/api/knock", body)
        assert (status, answer["allow"]) == (200, False)
