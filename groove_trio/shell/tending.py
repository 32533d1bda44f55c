"""The tasks that bring agents up: a new one, one that is over, one a dead daemon left behind.

Each start is a task of the supervisor's nursery that becomes the agent's own. It goes on
whatever becomes of the caller, so nothing is ever left half done; the outcome goes to
`Agent.settling`. What fails on the way is undone in the reverse order before it is told.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

import msgspec
import trio

from groove_trio.rules.chain import AGENT_RESTORE, AGENT_SPAWN
from groove_trio.rules.lifecycle import Trigger
from groove_trio.shell.agent import Agent, as_told
from groove_trio.shell.census import Census
from groove_trio.shell.changing import erase
from groove_trio.shell.holding import Holdings
from groove_trio.shell.life import FRESH, Life
from groove_trio.shell.store import AgentStatus, Store
from groove_trio.shell.table import AgentTable, now
from groove_trio.shell.takeup import end_one
from groove_trio.words.actors import Actor
from groove_trio.words.agents import AgentSpec, Containment
from groove_trio.words.errors import Draining, GrooveError, OutOfResources, WrongState


@dataclass(frozen=True, slots=True, kw_only=True)
class Tending:
    """Brings agents up; `bring_up` and `again` are tasks and raise nothing but cancellation."""

    table: AgentTable
    store: Store
    holdings: Holdings
    census: Census
    life: Life

    def make(self, spec: AgentSpec, containment: Containment) -> Agent:
        """A new agent under a name of its own, not yet in the table.

        Raises:
            NameTaken: Another agent has the name.
        """
        number, name = self.table.claim(spec)
        status = AgentStatus(id=number, state="starting", containment=containment, created=now())
        spec = msgspec.structs.replace(spec, name=name)
        agent = Agent(spec, status, self.table.new_log(number))
        agent.saved = status
        agent.newborn = agent.promised = True
        return agent

    async def bring_up(self, agent: Agent, actor: Actor) -> None:
        """Admits a new agent, leads it to its end, and undoes all if it never ran."""
        try:
            await self._admit(agent, actor)
        except Exception as error:  # noqa: BLE001 - it is told to the caller
            self.table.drop_name(agent.name)
            agent.call_off(as_told(error))
        else:
            await self._tend(agent)

    async def _admit(self, agent: Agent, actor: Actor) -> None:
        await self.holdings.hold(agent, actor, action=AGENT_SPAWN)
        try:
            await self._settle_in(agent)
        except Exception:
            # Cancelled while it releases, it tells of the cancellation, which goes first.
            await self.holdings.release(agent, "it could not be admitted")  # noqa: ASYNC120
            raise
        self.table.add(agent)

    async def _settle_in(self, agent: Agent) -> None:
        try:
            await trio.to_thread.run_sync(self.store.create, agent.spec, agent.status)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "EIO")
            detail = f"the agent's directory could not be made: {error.strerror} ({name})"
            raise OutOfResources(detail, errno=name) from error
        if self.table.closing:
            await erase(self.store, agent)
            raise Draining

    def redirect(self, agent: Agent, trigger: Trigger, actor: Actor) -> bool:
        """Has the task that stands behind a live agent start it anew; False if none does.

        Raises:
            AuditUnavailable, Draining: Nothing was done.
        """
        match agent.state:
            case "starting" | "running" | "stopping":
                if agent.state != "stopping":
                    self.table.move(agent, "stop", actor, "asked to start anew")
                agent.grace_s = agent.spec.grace_s
                agent.again = agent.promised = True
            case "backing-off":
                self._go(agent, trigger, actor)
            case _:
                return False
        agent.nudge()
        return True

    async def again(self, agent: Agent, trigger: Trigger, actor: Actor) -> None:
        """Starts an agent that is over, once its last task is, and leads it."""
        try:
            await self._prepare(agent, trigger, actor)
        except Exception as error:  # noqa: BLE001 - it is told to the caller
            agent.call_off(as_told(error))
        else:
            await self._tend(agent)

    async def _prepare(self, agent: Agent, trigger: Trigger, actor: Actor) -> None:
        await agent.done.wait()  # it may still be giving up the scope
        self.table.get(agent.id)  # or have been removed meanwhile, and nobody could stop it then
        if agent.state == "interrupted":
            await end_one(agent.id, self.census)
        await self.holdings.hold(agent, actor, action=AGENT_RESTORE)
        try:
            self._go(agent, trigger, actor)
        except GrooveError:
            if agent.state != "interrupted":
                await self.holdings.release(agent, "it was not started again")  # noqa: ASYNC120
            raise

    def _go(self, agent: Agent, trigger: Trigger, actor: Actor) -> None:
        if self.table.closing:
            raise Draining
        self.table.move(agent, trigger, actor, **FRESH)
        agent.promised = True
        agent.backoff.reset()

    async def _tend(self, agent: Agent) -> None:
        agent.done = trio.Event()
        try:
            await self.life.lead(agent)
            if agent.newborn and agent.failure is not None:
                self.table.drop(agent)
                await erase(self.store, agent)
        finally:
            agent.newborn = agent.again = False
            overtaken = f"the agent was {agent.state} before it was started"
            agent.settle(agent.failure or WrongState(overtaken, state=agent.state))
            agent.done.set()
