"""One agent's output, from the log and then live, each line once and in order."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Self

from anyio.abc import AsyncResource

from groove_trio.client.feed import Feed
from groove_trio.words.agents import AgentState
from groove_trio.words.base import MAX_PAGE, AgentId
from groove_trio.words.errors import UnknownAgent
from groove_trio.words.events import (
    AgentRemoved,
    AgentStateChanged,
    AnyEvent,
    Gap,
    OutputAppended,
    Snapshot,
)
from groove_trio.words.output import OutputLine

if TYPE_CHECKING:
    from groove_trio.client.verbs import Client

ENDED: frozenset[AgentState] = frozenset(
    {"completed", "failed", "parked", "stopped", "interrupted"}
)
"""States that nothing but the owner's word leads out of."""


class Lines(AsyncResource):
    """Lines as they are written; an async iterator. Not for two tasks at once.

    It subscribes first and reads the log second, so that no line falls between the two, and goes
    back to the log wherever the feed has a gap. It closes itself at the end and on an error; a
    caller that may leave in between holds it in ``async with``.

    Attributes:
        seq: The number of the last line handed out.
    """

    def __init__(self, groove: Client, key: str, after: int) -> None:
        self.seq = after
        self._groove = groove
        self._key = key
        self._id = AgentId("")
        self._feed: Feed | None = None
        self._ready: deque[OutputLine] = deque()
        self._fetched = after
        self._behind = True  # the log holds more than was fetched
        self._ended = False  # the agent has ended, and all it wrote is in the log
        self._over = False

    async def aclose(self) -> None:
        """Closes the subscription. May be repeated."""
        self._over = True
        feed, self._feed = self._feed, None
        if feed is not None:
            await feed.aclose()

    def __aiter__(self) -> Self:
        """Iterates over lines until the agent has ended."""
        return self

    async def __anext__(self) -> OutputLine:
        """Waits for the next line. Cancelling it loses nothing.

        Raises:
            UnknownAgent: There is no such agent.
            Unreachable: The daemon is gone.
        """
        while not self._ready:
            if self._over:
                await self.aclose()
                raise StopAsyncIteration
            try:
                await self._more()
            except Exception:
                await self.aclose()
                raise
        line = self._ready.popleft()
        self.seq = line.seq
        return line

    async def _more(self) -> None:
        if self._feed is None:
            self._id = (await self._groove.agent(self._key)).id
            self._feed = self._groove.events()
            await self._feed.open()
        elif self._behind:
            try:
                page = await self._groove.output(self._id, self._fetched, MAX_PAGE)
            except UnknownAgent:  # forgotten meanwhile
                self._over = True
                return
            self._ready.extend(page.lines)
            self._fetched, self._behind = page.next, page.more
            self._over = self._ended and not page.more
        else:
            try:
                envelope = await anext(self._feed)
            except StopAsyncIteration:
                self._over = True
            else:
                self._take(envelope.event)

    def _take(self, event: AnyEvent) -> None:
        match event:
            case OutputAppended(id=agent, lines=lines) if agent == self._id:
                self._append([line for line in lines if line.seq > self._fetched])
            case AgentStateChanged(id=agent, after=state) if agent == self._id:
                self._ended = state in ENDED
                self._behind |= self._ended
            case AgentRemoved(id=agent) if agent == self._id:
                self._over = True
            case Snapshot(agents=agents):
                state_now = next((each.state for each in agents if each.id == self._id), None)
                self._over = state_now is None
                self._ended = state_now in ENDED
                self._behind = True
            case Gap():
                self._behind = True
            case _:
                pass

    def _append(self, lines: list[OutputLine]) -> None:
        if lines and lines[0].seq == self._fetched + 1:
            self._ready.extend(lines)
            self._fetched = lines[-1].seq
        elif lines:
            self._behind = True
