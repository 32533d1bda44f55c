"""What is done to an agent that exists: stopped, laid to rest, changed, forgotten.

Everything here but `Changing.stop` runs in a task of the supervisor's, so it ends what it began
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

from groove_trio.shell.agent import Agent
from groove_trio.shell.broker import Broker
from groove_trio.shell.census import Census
from groove_trio.shell.holding import Holdings
from groove_trio.shell.store import Store
from groove_trio.shell.table import AgentTable
from groove_trio.shell.takeup import end_one
from groove_trio.words.actors import Actor
from groove_trio.words.errors import AuditUnavailable, Draining, UnknownAgent, WrongState

_log = logging.getLogger("groove_trio")


@dataclass(frozen=True, slots=True, kw_only=True)
class Changing:
    """The supervisor's hands."""

    table: AgentTable
    store: Store
    broker: Broker
    holdings: Holdings
    census: Census

    async def stop(
        self, agent: Agent, actor: Actor, grace_s: float, nursery: trio.Nursery | None
    ) -> None:
        """Asks a live agent to stop; returns when its task has ended and its scope is free.

        Raises:
            AuditUnavailable: It could not be recorded; nothing was done.
        """
        done, seq = agent.done, 0
        if agent.state != "stopping":
            seq = self.table.move(agent, "stop", actor, f"stopped by {actor}")
        agent.again = False
        agent.grace_s = grace_s
        if agent.waiting is not None:
            agent.nudge()
        elif agent.tree is not None and nursery is not None:
            # Its end is under way, perhaps with a longer grace.
            nursery.start_soon(agent.tree.stop, grace_s)
        await self.table.durable(seq)
        await done.wait()

    async def lay_to_rest(self, agent: Agent, actor: Actor) -> None:
        """Stops an agent that no task stands behind, unless somebody else just has.

        Raises:
            WrongState: It is about to be started, or processes of it can't be ended.
            UnknownAgent: Somebody else has just removed it.
            AuditUnavailable: It could not be recorded; nothing was done.
        """
        async with self._alone(agent):
            if agent.state not in ("parked", "interrupted"):
                return
            await end_one(agent.id, self.census)
            seq = self.table.move(agent, "stop", actor, f"stopped by {actor}")
            await self.holdings.release(agent, "the agent is stopped", actor)
        await self.table.save(agent)
        await self.table.durable(seq)

    async def remove(self, agent: Agent, actor: Actor) -> None:
        """Forgets an agent: name, scope, directory.

        Raises:
            WrongState: It is live, or about to be, or processes of it can't be ended.
            UnknownAgent: Somebody else has just removed it.
            AuditUnavailable: It could not be recorded; nothing was done.
        """
        async with self._alone(agent):
            if agent.state == "interrupted":
                await end_one(agent.id, self.census)
                _check_over(agent)
            seq = self.table.note(agent, "remove", actor, before=agent.state)
            self.table.drop(agent)
            await self.holdings.release(agent, "the agent was removed", actor)
            await erase(self.store, agent)
        await self.table.durable(seq)

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

    async def patch(self, agent: Agent, changes: dict[str, Any], actor: Actor) -> None:
        """Changes parts of an agent's spec.

        Raises:
            NameTaken: Another agent has the name.
            UnknownAgent: Somebody else has just removed it.
            AuditUnavailable: It could not be recorded; nothing was changed.
        """
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
        if after != before:
            self.table.drop_name(before)
            with suppress(UnknownAgent, Draining):  # it holds no scope now
                await self.broker.rename(agent.id, after, actor)
        async with agent.saving:
            try:
                await trio.to_thread.run_sync(self.store.save_spec, agent.id, agent.spec)
            except OSError as error:
                _log.warning("the changes to %s can't be saved: %s", agent.name, error)
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
