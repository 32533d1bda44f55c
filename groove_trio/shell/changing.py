"""The verbs for an agent that exists: stop, remove, instruct, patch.

What takes more than one step runs in a task of the supervisor's, so it ends what it began
whoever stops waiting; and everything is recorded before it is done.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import msgspec
import trio
from msgspec import UNSET
from msgspec.structs import asdict

from groove_trio.shell.agent import MAX_FOLLOW_UPS, Agent
from groove_trio.shell.broker import Broker
from groove_trio.shell.census import Census
from groove_trio.shell.holding import Holdings
from groove_trio.shell.launching import Launcher, validated
from groove_trio.shell.store import Store
from groove_trio.shell.table import AgentTable
from groove_trio.shell.takeup import end_one
from groove_trio.shell.tasks import Tasks
from groove_trio.words.actors import Actor
from groove_trio.words.agents import AgentPatch, AgentView, InstructRequest
from groove_trio.words.errors import (
    AuditUnavailable,
    Busy,
    Draining,
    GrooveError,
    UnknownAgent,
    WrongState,
)

_log = logging.getLogger("groove_trio")


@dataclass(frozen=True, slots=True, kw_only=True)
class Changing:
    """The supervisor's hands."""

    table: AgentTable
    store: Store
    broker: Broker
    holdings: Holdings
    census: Census
    launcher: Launcher
    tasks: Tasks

    # Stopping

    async def stop(self, key: str, actor: Actor, grace_s: float | None) -> AgentView:
        """Stops an agent, whether or not it lives; as `Supervisor.stop`."""
        agent = self.table.get(key)
        if agent.settling is not None and not agent.live:
            with suppress(GrooveError):
                await agent.settling.wait()
        if agent.live:
            await self._stop_live(agent, actor, agent.spec.grace_s if grace_s is None else grace_s)
        elif agent.state in ("parked", "interrupted"):
            await self.tasks.carry(self._lay_to_rest, agent, actor)
        else:
            agent.again = False
            await agent.done.wait()
        return agent.view()

    async def _stop_live(self, agent: Agent, actor: Actor, grace_s: float) -> None:
        """Asks a live agent to stop; returns when its task has ended and its scope is free."""
        done, seq = agent.done, 0
        if agent.state != "stopping":
            seq = self.table.move(agent, "stop", actor, f"stopped by {actor}")
        agent.again = False
        agent.grace_s = grace_s
        if agent.waiting is not None:
            agent.nudge()
        elif agent.tree is not None:
            # Its end is under way, perhaps with a longer grace.
            self.tasks.begin(agent.tree.stop, grace_s)
        await self.table.durable(seq)
        await done.wait()

    async def _lay_to_rest(self, agent: Agent, actor: Actor) -> None:
        """Stops an agent that no task stands behind, unless somebody else just has."""
        async with self._alone(agent):
            if agent.state not in ("parked", "interrupted"):
                return
            await end_one(agent.id, self.census)
            seq = self.table.move(agent, "stop", actor, f"stopped by {actor}")
            # First: the daemon that comes after a crash must not hold again what another has.
            await self.table.save(agent)
            await self.holdings.release(agent, "the agent is stopped", actor)
            self.table.tell(agent)
        await self.table.durable(seq)

    # Forgetting

    async def remove(self, key: str, actor: Actor) -> AgentView:
        """Forgets an agent: name, scope, directory; as `Supervisor.remove`."""
        agent = self.table.get(key)
        await self.tasks.carry(self._remove, agent, actor)
        return agent.view()

    async def _remove(self, agent: Agent, actor: Actor) -> None:
        async with self._alone(agent):
            if agent.state == "interrupted":
                await end_one(agent.id, self.census)
                _check_over(agent)
            seq = self.table.note(agent, "remove", actor, before=agent.state)
            await self.table.durable(seq)
            await erase(self.store, agent)  # before its scope and its name are anyone's
            await self.holdings.release(agent, "the agent was removed", actor)
            self.table.drop(agent)

    @asynccontextmanager
    async def _alone(self, agent: Agent) -> AsyncGenerator[None]:
        """Keeps off whoever else would start, stop or remove an agent that is over.

        Raises:
            WrongState: It is live, or about to be.
            UnknownAgent: Somebody else has just removed it.
        """
        _check_over(agent)
        while not agent.done.is_set():
            await agent.done.wait()
        _check_over(agent)
        self.table.get(agent.id)
        agent.done = trio.Event()
        try:
            yield
        finally:
            agent.done.set()

    # Instructing and patching

    async def instruct(self, key: str, text: str, actor: Actor) -> AgentView:
        """Hands a follow-up to a running, interactive agent; as `Supervisor.instruct`."""
        text = validated(InstructRequest(text=text), InstructRequest).text
        agent = self.table.get(key)
        if agent.input is None or agent.state != "running":
            doing = "reads no follow-ups" if agent.state == "running" else f"is {agent.state}"
            raise WrongState(f"{agent.name} {doing}", state=agent.state)
        data = self.launcher.provider(agent.spec.provider).instruct(text)
        if agent.input.statistics().current_buffer_used >= MAX_FOLLOW_UPS:
            detail = f"{agent.name} has not read its last {MAX_FOLLOW_UPS} follow-ups yet"
            raise Busy(detail)
        seq = self.table.note(agent, "instruct", actor, characters=len(text))
        agent.input.send_nowait(data)
        await self.table.durable(seq)
        return agent.view()

    async def patch(self, key: str, patch: AgentPatch, actor: Actor) -> AgentView:
        """Changes parts of an agent's spec; as `Supervisor.patch`."""
        patch = validated(patch, AgentPatch)
        agent = self.table.get(key)
        changes = {name: each for name, each in asdict(patch).items() if each is not UNSET}
        await self.tasks.carry(self._patch, agent, changes, actor)
        return agent.view()

    async def _patch(self, agent: Agent, changes: dict[str, Any], actor: Actor) -> None:
        self.table.get(agent.id)
        before, after = agent.name, changes.get("name", agent.name)
        self.table.take_name(agent.id, after)
        try:
            seq = self.table.note(agent, "patch", actor, changes=msgspec.to_builtins(changes))
        except AuditUnavailable:
            if after != before:
                self.table.drop_name(after)
            raise
        self.table.respec(agent, msgspec.structs.replace(agent.spec, **changes))
        async with agent.saving:
            try:
                await trio.to_thread.run_sync(self.store.save_spec, agent.id, agent.spec)
            except OSError as error:
                _log.warning("the changes to %s can't be saved: %s", agent.name, error)
        if after != before:
            if agent.name != before:  # nobody has given it back meanwhile
                self.table.drop_name(before)  # not earlier: two would have it after a crash
            with suppress(UnknownAgent, Draining):  # it holds no scope now
                await self.broker.rename(agent.id, agent.name, actor)
        await self.table.durable(seq)


def _check_over(agent: Agent) -> None:
    if agent.live or agent.settling is not None:
        detail = f"{agent.name} is {agent.state} or about to be started; stop it first"
        raise WrongState(detail, state=agent.state)


async def erase(store: Store, agent: Agent) -> None:
    """Deletes an agent's directory; what the disk won't delete now goes at the next start."""
    try:
        await trio.to_thread.run_sync(store.remove, agent.id)
    except OSError as error:
        _log.warning("the directory of %s is not deleted: %s", agent.name, error)
