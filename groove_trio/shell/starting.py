"""The verbs that start agents: spawn, restart, resume.

The way of a spawn, each step with what refuses it:

```
Starting.spawn        the spec is checked, a name is taken             400, 409, 422
└ Tending.bring_up    the scope is held, the directory made            409, 503
  └ Life.lead         from here on the task is the agent's own
    └ Launcher.start  argv and environment from the provider           400, 422
      └ open_tree     pipes, fork, exec, enrolment                     422, 503
```

A verb waits for the outcome and no longer: whoever stops waiting changes nothing. Only a spawn
is taken back if its caller is gone before it has its answer, since nobody would know of the
agent.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import trio

from groove_trio.rules.lifecycle import Trigger, step
from groove_trio.shell.agent import Agent, Settling
from groove_trio.shell.changing import Changing
from groove_trio.shell.launching import Launcher
from groove_trio.shell.table import AgentTable
from groove_trio.shell.tasks import Tasks
from groove_trio.shell.tending import Tending
from groove_trio.words.actors import SYSTEM, Actor
from groove_trio.words.agents import AgentSpec, AgentView
from groove_trio.words.errors import GrooveError

_log = logging.getLogger("groove_trio")


@dataclass(frozen=True, slots=True, kw_only=True)
class Starting:
    """Asks for starts, and tells how they went."""

    table: AgentTable
    launcher: Launcher
    tending: Tending
    changing: Changing
    tasks: Tasks

    async def spawn(self, spec: AgentSpec, actor: Actor) -> AgentView:
        """Starts a new agent; as `Supervisor.spawn`."""
        self.tasks.check_open()
        agent = self.tending.make(*self.launcher.check(spec))
        settling = agent.settling = Settling()
        self.tasks.begin(self.tending.bring_up, agent, actor)
        try:
            await settling.wait()
        except trio.Cancelled:
            self.tasks.begin(self._take_back, agent, settling)
            raise
        return agent.view()

    async def _take_back(self, agent: Agent, settling: Settling) -> None:
        """Undoes a spawn whose caller is gone."""
        try:
            await settling.wait()
            await self.changing.stop(agent.id, SYSTEM, None)
            await self.changing.remove(agent.id, SYSTEM)
        except GrooveError as error:  # it did not start, or the daemon ends anyway
            _log.info("not taken back: %s", error)

    async def restart(self, key: str, actor: Actor) -> AgentView:
        """Starts an agent anew; as `Supervisor.restart`."""
        self.tasks.check_open()
        return await self._again(self.table.get(key), "restart", actor)

    async def resume(self, key: str, actor: Actor) -> AgentView:
        """Starts an interrupted agent; as `Supervisor.resume`."""
        self.tasks.check_open()
        agent = self.table.get(key)
        step(agent.state, "resume")
        return await self._again(agent, "resume", actor)

    async def _again(self, agent: Agent, trigger: Trigger, actor: Actor) -> AgentView:
        settling = agent.settling
        if settling is None:
            settling = agent.settling = Settling()
            try:
                if not self.tending.redirect(agent, trigger, actor):
                    self.tasks.begin(self.tending.again, agent, trigger, actor)
            except GrooveError as error:
                agent.call_off(error)
        elif agent.state == "stopping":  # somebody had called that start off
            agent.again = True
        await settling.wait()
        return agent.view()
