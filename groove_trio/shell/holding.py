"""Agents' scopes, asked of the broker: taken before anything runs, given back after its end."""

from __future__ import annotations

import logging

import trio

from groove_trio.rules.scopes import Scope
from groove_trio.shell.agent import Agent
from groove_trio.shell.broker import Broker
from groove_trio.shell.table import RETRY_S, AgentTable
from groove_trio.words.actors import SYSTEM, Actor
from groove_trio.words.errors import AuditUnavailable, Draining

_log = logging.getLogger("groove_trio")


class Holdings:
    """What stands between the agents' tasks and the broker."""

    __slots__ = ("_broker", "_table")

    def __init__(self, broker: Broker, table: AgentTable) -> None:
        self._broker = broker
        self._table = table

    async def hold(self, agent: Agent, actor: Actor, *, action: str) -> None:
        """Takes an agent's scope for it; taking it again changes nothing.

        Raises:
            ScopeOverlap: Another agent holds a path of it.
            AuditUnavailable, Draining: It is not held.
        """
        spec = agent.spec
        detail = {
            "role": spec.role,
            "provider": spec.provider,
            "permission": spec.permission,
            "containment": agent.status.containment,
            "restartMode": spec.restart.mode,
        }
        scope = Scope(spec.patterns)
        await self._broker.reserve(
            agent.id, agent.name, scope, spec.cwd, actor, detail, action=action
        )

    async def release(self, agent: Agent, why: str, actor: Actor = SYSTEM) -> None:
        """Gives an agent's scope back, however long the log can't be written.

        While it can't, the scope stays held; only a daemon that ends doesn't wait.
        """
        while True:
            try:
                await self._broker.release(agent.id, actor, why)
            except Draining:
                return
            except AuditUnavailable as error:
                self._table.tell(agent)  # nobody can take the scope without a log either
                if self._table.closing:
                    _log.warning("the scope of %s is not given back: %s", agent.name, error)
                    return
            else:
                return
            await trio.sleep(RETRY_S)
