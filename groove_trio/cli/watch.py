"""What the demo sees of its agents: their lines, their states, their processes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc

from groove_trio.cli.story import Story
from groove_trio.client import Client
from groove_trio.words.agents import AgentState
from groove_trio.words.base import AgentId
from groove_trio.words.events import AgentAdded, AgentStateChanged, OutputAppended, Snapshot

PATIENCE_S = 20.0


class Watch:
    """What happened so far, from the event feed, and a way to wait for more."""

    def __init__(self, story: Story) -> None:
        self.lines: dict[AgentId, list[str]] = {}
        self.states: dict[AgentId, list[AgentState]] = {}
        self.names: dict[AgentId, str] = {}
        self._story = story
        self._changed = anyio.Event()

    async def follow(self, groove: Client, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Takes every event until cancelled."""
        async with groove.events() as events:
            async for envelope in events:
                match envelope.event:
                    case OutputAppended(id=agent, lines=lines):
                        for line in lines:
                            if not line.text.startswith("read: "):  # our own words
                                self._story.heard(self.names.get(agent, agent), line.text)
                            self.lines.setdefault(agent, []).append(line.text)
                    case AgentStateChanged(id=agent, after=after):
                        self.states.setdefault(agent, []).append(after)
                    case AgentAdded(agent=view):
                        self.names[view.id] = view.name
                    case Snapshot():
                        task_status.started()
                    case _:
                        pass
                self._changed.set()
                self._changed = anyio.Event()

    async def line(self, agent: AgentId, start: str, count: int = 1) -> str:
        """Waits for the `count`-th line that begins with `start`; "" if it never comes."""
        with anyio.move_on_after(PATIENCE_S):
            while True:
                found = [each for each in self.lines.get(agent, ()) if each.startswith(start)]
                if len(found) >= count:
                    return found[count - 1]
                await self._changed.wait()
        return ""


@asynccontextmanager
async def watching(groove: Client, story: Story) -> AsyncGenerator[Watch]:
    """A `Watch` that follows while the block runs."""
    watch = Watch(story)
    async with anyio.create_task_group() as tasks:
        await tasks.start(watch.follow, groove)
        yield watch
        tasks.cancel_scope.cancel()


def alive(pid: int) -> bool:
    """Whether a process exists and is more than a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
