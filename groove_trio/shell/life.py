"""One agent's task: start its program, carry its output, see it end, decide what comes next.

The program's two streams are pumped by two tasks, each a straight line from the pipe through
the splitter into the log and on to the hub; nothing is buffered between, so whoever is slow
slows the agent. A third task feeds standard input, so that a program that talks before it
listens never waits for us while we wait for it.

A run ends when the root process does, or is asked to stop; either way what is left of the tree
is asked to end, given its grace, and killed. Only when nothing lives is the run over. Then the
pumps have what is still in the pipes to read, and no more: a descriptor that was handed to a
stranger does not keep an agent open.

The task holds the agent's scope from before the program starts until nothing of it lives and
nothing of it will start again. A fault in the task ends this agent and no other.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import trio

from groove_trio.providers.base import Launch
from groove_trio.rules.lifecycle import Park, RestartIn, Stay
from groove_trio.shell.agent import MAX_FOLLOW_UPS, Agent, tell_exit
from groove_trio.shell.faults import kinds
from groove_trio.shell.hub import Hub
from groove_trio.shell.process import Exit, Tree
from groove_trio.shell.table import AgentTable, now
from groove_trio.wire.lines import LineSplitter
from groove_trio.words.errors import GrooveError
from groove_trio.words.events import OutputAppended
from groove_trio.words.output import OutputLine, Stream

EVENT_BYTES = 65_536
"""Text in one output event, lines counted with `LINE_BYTES` more: one send's worth."""

LINE_BYTES = 100  # what a line weighs beside its text: number, time, punctuation

LEFT_BYTES = 1 << 20  # the largest pipe an unprivileged program can make, pipe(7)
LEFT_IDLE_S = 0.5  # what is left in a pipe is there at once

STUCK_S = 1.0  # between two tries to end what can't be killed

_log = logging.getLogger("groove_trio")
_STREAMS: tuple[Stream, ...] = ("out", "err")


class Starter(Protocol):
    """Starts an agent's program, as `Launcher.start` does."""

    async def __call__(self, agent: Agent, /) -> tuple[Tree, Launch]:
        """Returns when exec has succeeded."""
        ...


@dataclass(frozen=True, slots=True)
class Life:
    """What all agents' tasks share; `lead` is one task.

    Attributes:
        table: Where changes are made.
        hub: Where output goes.
        start: Starts a program.
        release: Frees an agent's scope; told why.
        draw: A number from 0 to 1 for the jitter.
    """

    table: AgentTable
    hub: Hub
    start: Starter
    release: Callable[[Agent, str], Awaitable[None]]
    draw: Callable[[], float] = random.random

    async def lead(self, agent: Agent) -> None:
        """Leads a live agent from ``starting`` to a final state and a free scope.

        Raises nothing but cancellation, which kills the tree at once and leaves the agent's
        record as it is.
        """
        agent.failure = None
        try:
            while await self._turn(agent):
                pass
        except Exception as fault:  # noqa: BLE001 - it ends this agent and no other
            _log.exception("the task of agent %s broke", agent.name)
            agent.failure = GrooveError(f"the task of agent {agent.name} broke")
            if agent.live:
                reason = f"its task broke: {kinds(fault)}"
                await self.table.fact(agent, "crashed", reason, pid=None, ended=now())
        await self.release(agent, f"the agent is {agent.state}")
        self.table.tell(agent)

    async def _turn(self, agent: Agent) -> bool:
        """One run and what comes of it; whether there is another."""
        if agent.state == "stopping":
            return await self._stopped(agent, None)
        try:
            tree, launch = await self.start(agent)
        except GrooveError as error:
            return await self._not_started(agent, error)
        try:
            ended = await Run(agent, tree, self).carry(launch)
        finally:
            agent.tree = agent.input = None
            await tree.aclose()
        return await self._ended(agent, ended)

    async def _ended(self, agent: Agent, ended: Exit) -> bool:
        if agent.state == "stopping":
            return await self._stopped(agent, ended)
        return await self._decide(agent, ended, tell_exit(ended))

    async def _not_started(self, agent: Agent, error: GrooveError) -> bool:
        if agent.state == "stopping":
            return await self._stopped(agent, None)
        if not agent.promised:
            return await self._decide(agent, None, error.detail)
        agent.failure = error  # somebody asked for this start and is told
        await self.table.fact(agent, "failed", error.detail, ended=now())
        return False

    async def _stopped(self, agent: Agent, ended: Exit | None) -> bool:
        await self.table.passing(agent, "stopped", agent.status.reason, **_outcome(ended))
        if agent.again and not self.table.closing:
            # Nothing saved says that it is over: a daemon that dies here leaves it interrupted,
            # with the scope and the leases that it keeps through a restart.
            agent.again = False
            agent.done.set()  # who waits for the stop has it, whatever comes next
            agent.done = trio.Event()
            agent.backoff.reset()
            await self.table.fact(agent, "restart", **FRESH)
        else:
            await self.table.save(agent)
        return agent.live

    async def _decide(self, agent: Agent, ended: Exit | None, how: str) -> bool:
        """What the restart policy makes of an end; `ended` is None if it could not start."""
        decision = agent.backoff.on_exit(
            trio.current_time() if ended is None else ended.ended_s,
            None if ended is None else ended.started_s,
            ok=ended is not None and ended.ok,
            draw=self.draw(),
        )
        match decision:
            case Stay(state=state):
                await self.table.fact(agent, state, how, **_outcome(ended))
                return False
            case Park(reason=reason):
                await self.table.fact(agent, "parked", f"{how}; {reason}", **_outcome(ended))
                return False
            case RestartIn(seconds=seconds, number=number):
                reason = f"{how}; restart {number} in {seconds:.3g} s"
                await self.table.fact(agent, "backed-off", reason, **_outcome(ended))
                return await self._wait_out(agent, seconds)

    async def _wait_out(self, agent: Agent, seconds: float) -> bool:
        # Asked anew after each wait: a verb may have moved the agent meanwhile.
        if agent.state == "backing-off":
            with trio.move_on_after(seconds) as agent.waiting:
                await trio.sleep_forever()
            agent.waiting = None
        if agent.state == "backing-off":
            restarts = agent.status.restarts + 1
            await self.table.fact(agent, "retried", restarts=restarts, **FRESH)
        return agent.live


FRESH = {"pid": None, "exit_code": None, "exit_signal": None, "started": None, "ended": None}
"""Changes that make a status ready for a new run."""


def _outcome(ended: Exit | None) -> dict[str, object]:
    told = {} if ended is None else {"exit_code": ended.code, "exit_signal": ended.signal}
    return {"pid": None, "ended": now(), **told}


class Run:
    """One run of an agent's program."""

    __slots__ = ("_agent", "_gone", "_left", "_life", "_reading", "_tree")

    def __init__(self, agent: Agent, tree: Tree, life: Life) -> None:
        self._agent = agent
        self._tree = tree
        self._life = life
        self._gone = False
        self._reading: dict[Stream, trio.CancelScope] = {}
        self._left = dict.fromkeys(_STREAMS, LEFT_BYTES)

    async def carry(self, launch: Launch) -> Exit:
        """Carries the program from its start to the end of its tree and of its output.

        Returns:
            How it ended. Should it outlive even SIGKILL in a daemon that must end, an end that
            nobody can tell.
        """
        agent = self._agent
        agent.tree = self._tree
        feeding = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            for stream in _STREAMS:
                nursery.start_soon(self._pump, stream)
            if launch.stdin or launch.keep_open:
                nursery.start_soon(self._feed, launch, feeding)
            else:
                await self._tree.close_stdin()
            await self._announce()
            ended = await self._watch()
            feeding.cancel()
            self._gone = True
            for scope in self._reading.values():
                scope.deadline = trio.current_time() + LEFT_IDLE_S
        return ended

    async def _announce(self) -> None:
        agent = self._agent
        if agent.state == "starting":
            pid = self._tree.pid
            await self._life.table.fact(agent, "started", pid=pid, started=now())
            agent.newborn = False
            agent.settle()

    async def _watch(self) -> Exit:
        """Until the root ends or a stop is asked for; then until nothing of the tree lives."""
        agent, tree = self._agent, self._tree
        if agent.state != "stopping":
            with trio.CancelScope() as agent.waiting:
                await tree.wait()
            agent.waiting = None
        grace_s = agent.grace_s if agent.state == "stopping" else agent.spec.grace_s
        left = await tree.stop(grace_s)
        while left:
            _log.warning("processes of %s can't be killed: %s", agent.name, left)
            if self._life.table.closing:
                return Exit(None, None, trio.current_time(), trio.current_time())
            await trio.sleep(STUCK_S)
            left = await tree.stop(0)
        return await tree.wait()

    # Output

    async def _pump(self, stream: Stream) -> None:
        splitter = LineSplitter()
        while chunk := await self._receive(stream):
            await self._take(stream, splitter.feed(chunk))
        await self._take(stream, splitter.finish())

    async def _receive(self, stream: Stream) -> bytes:
        """What was written; nothing at the end, or when only a stranger could still write."""
        deadline = trio.current_time() + LEFT_IDLE_S if self._gone else float("inf")
        chunk = b""
        with trio.CancelScope(deadline=deadline) as scope:
            self._reading[stream] = scope
            chunk = await self._tree.receive(stream)
        if self._gone:
            self._left[stream] -= len(chunk)
            if self._left[stream] < 0:
                return b""
        return chunk

    async def _take(self, stream: Stream, texts: Sequence[tuple[str, bool]]) -> None:
        lines = await self._agent.output.append(stream, texts)
        for batch in batches(lines):
            self._life.hub.publish(OutputAppended(id=self._agent.id, lines=batch))

    # Input

    async def _feed(self, launch: Launch, scope: trio.CancelScope) -> None:
        """Writes what the program is to read; that it does not want it is its own affair."""
        agent, tree = self._agent, self._tree
        sender, receiver = trio.open_memory_channel[bytes](MAX_FOLLOW_UPS)
        with scope, sender, receiver:
            try:
                if launch.keep_open:
                    agent.input = sender
                if launch.stdin:
                    await tree.write(launch.stdin)
                if launch.keep_open:
                    async for text in receiver:
                        await tree.write(text)
            except trio.BrokenResourceError:
                pass
            finally:
                agent.input = None
            await tree.close_stdin()


def batches(lines: list[OutputLine]) -> Iterator[list[OutputLine]]:
    """Cuts lines into events of about `EVENT_BYTES` each."""
    size = begin = 0
    for end, line in enumerate(lines):
        weight = len(line.text) + LINE_BYTES
        if size and size + weight > EVENT_BYTES:
            yield lines[begin:end]
            begin, size = end, 0
        size += weight
    if lines:
        yield lines[begin:]
