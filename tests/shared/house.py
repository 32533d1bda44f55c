"""A supervisor over fake process trees, with everything else real; for the virtual clock."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from groove_trio.shell.audit import AuditLog, open_audit
from groove_trio.shell.broker import Broker
from groove_trio.shell.hub import Hub
from groove_trio.shell.process import Exit
from groove_trio.shell.steady import SteadyClock
from groove_trio.shell.supervisor import Supervisor
from groove_trio.words.actors import OWNER
from groove_trio.words.agents import AgentSpec, AgentView
from groove_trio.words.base import AgentId
from groove_trio.words.events import AgentStateChanged, AnyEvent, OutputAppended


class FakeTree:
    """A process tree made of events; a test plays the program."""

    def __init__(self, asked: dict[str, Any], pid: int) -> None:
        self.asked = asked
        self.agent: AgentId = asked["agent"]
        self.pid = pid
        self.read = bytearray()
        self.stdin_closed = False
        self.deaf = False  # does not mind SIGTERM
        self.stuck = 0  # times that not even SIGKILL helps
        self.signals: list[str] = []
        self.closed = False
        self.started_s = trio.current_time()
        self.ended = trio.Event()
        self.code: int | None = None
        self.signal: str | None = None
        self.gone = trio.Event()
        self.reads = True
        self.pipes = {s: trio.open_memory_channel[bytes](100) for s in ("out", "err")}

    # What the test plays

    def say(self, data: bytes, stream: str = "out") -> None:
        self.pipes[stream][0].send_nowait(data)

    def exit(
        self, code: int | None = 0, signal: str | None = None, *, all_of_it: bool = True
    ) -> None:
        self.code, self.signal = code, signal
        self.ended.set()
        if all_of_it:
            self.vanish()

    def vanish(self) -> None:
        self.gone.set()
        for sender, _ in self.pipes.values():
            sender.close()

    # What the supervisor sees

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if not self.reads:
            await trio.sleep_forever()
        if self.ended.is_set():
            raise trio.BrokenResourceError
        self.read += data

    async def close_stdin(self) -> None:
        self.stdin_closed = True
        await trio.lowlevel.checkpoint()

    async def receive(self, stream: str) -> bytes:
        try:
            return await self.pipes[stream][1].receive()
        except trio.EndOfChannel:
            return b""

    async def wait(self) -> Exit:
        await self.ended.wait()
        return Exit(self.code, self.signal, self.started_s, trio.current_time())

    async def stop(self, grace_s: float) -> list[int]:
        if self.gone.is_set():
            await trio.lowlevel.checkpoint()
            return []
        self.signals.append("SIGTERM")
        if not self.deaf:
            self.exit(self.code if self.ended.is_set() else None, self.signal or "SIGTERM")
        with trio.move_on_after(grace_s):
            await self.gone.wait()
            return []
        self.signals.append("SIGKILL")
        if self.stuck:
            self.stuck -= 1
            return [self.pid]
        self.exit(self.code, "SIGKILL")
        return []

    async def aclose(self) -> None:
        if not self.gone.is_set():
            self.signals.append("SIGKILL")
            self.exit(None, "SIGKILL")
        self.closed = True
        await trio.lowlevel.checkpoint()


class FakeCensus:
    """Knows of no process, until a test says so."""

    elusive = False

    def __init__(self) -> None:
        self.left: dict[AgentId, list[Any]] = {}
        self.asked: list[AgentId] = []

    async def find(self, agents: list[AgentId]) -> dict[AgentId, list[Any]]:
        self.asked += agents
        await trio.lowlevel.checkpoint()
        return {agent: self.left.get(agent, []) for agent in agents}

    def glance(self, agent: AgentId) -> list[Any]:
        return []


class House:
    """Everything around a supervisor, and the trees that it opened."""

    tree = FakeTree

    def __init__(
        self,
        project: Path,
        audit: AuditLog,
        *,
        hub: Hub | None = None,
        census: FakeCensus | None = None,
        clock: Callable[[], int] = time.time_ns,
        draw: Callable[[], float] = lambda: 0.5,
    ) -> None:
        self.project = project
        self.audit = audit
        self.draw = draw
        self.hub = hub or Hub()
        self.events: list[AnyEvent] = []
        publish = self.hub.publish

        def note(event: AnyEvent) -> None:
            self.events.append(event)
            publish(event)

        self.hub.publish = note  # type: ignore[method-assign]
        self.census = census or FakeCensus()
        leases = project / ".groove/leases.json"
        self.broker = Broker(
            project, audit, self.hub.publish, leases, clock=SteadyClock(clock, clock)
        )
        self.trees: list[FakeTree] = []
        self.refuse: list[Exception] = []
        self.open_wait = trio.Event()
        self.open_wait.set()
        self.prepare: Callable[[FakeTree], None] = lambda tree: None
        self.supervisor = self.new_supervisor()

    def new_supervisor(self) -> Supervisor:
        return Supervisor(
            project=self.project,
            url="http://127.0.0.1:1",
            broker=self.broker,
            audit=self.audit,
            hub=self.hub,
            census=self.census,  # type: ignore[arg-type]
            open_tree=self.open_tree,  # type: ignore[arg-type]
            draw=self.draw,
        )

    async def open_tree(self, **asked: Any) -> FakeTree:
        await trio.lowlevel.checkpoint()
        await self.open_wait.wait()
        if self.refuse:
            raise self.refuse.pop(0)
        tree = self.tree(asked, 1000 + len(self.trees))
        self.prepare(tree)
        self.trees.append(tree)
        return tree

    async def spawn(self, scope: list[str] | None = None, **fields: Any) -> AgentView:
        fields = {"role": "worker", "argv": ["prog"], "scope": scope or [], **fields}
        return await self.supervisor.spawn(AgentSpec(**fields), OWNER)

    async def until(self, key: str, *states: str) -> AgentView:
        while (view := self.supervisor.view(key)).state not in states:
            await trio.sleep(0.1)
        return view

    def holders(self) -> set[str]:
        return {holding.name for holding in self.broker.view().holdings}

    def moves(self, agent: str) -> list[str]:
        return [
            event.after
            for event in self.events
            if isinstance(event, AgentStateChanged) and event.id == agent
        ]

    def lines(self, agent: str) -> list[str]:
        return [
            line.text
            for event in self.events
            if isinstance(event, OutputAppended) and event.id == agent
            for line in event.lines
        ]

    async def actions(self) -> list[str]:
        page = await self.audit.read(0, 1000)
        return [json.loads(bytes(record))["action"] for record in page.records]


@asynccontextmanager
async def running(
    project: Path,
    make: Callable[[Path, AuditLog], House] = House,
    *,
    drain: bool = True,
    **audit_options: Any,
) -> AsyncIterator[House]:
    """A house on a project, opened and closed in the daemon's order.

    Args:
        project: The project.
        make: Builds the house.
        drain: Whether the agents are asked to stop at the end, or cancelled.
        audit_options: For `open_audit`.
    """
    (project / ".groove").mkdir(mode=0o700, exist_ok=True)
    async with open_audit(project / ".groove" / "audit", **audit_options) as audit:
        house = make(project, audit)
        async with trio.open_nursery() as core:
            await core.start(house.broker.run)
            async with trio.open_nursery() as agents:
                await agents.start(house.supervisor.run)
                yield house
                if drain:
                    await house.supervisor.drain()
                else:
                    agents.cancel_scope.cancel()
            house.broker.close()
