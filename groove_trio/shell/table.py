"""The agent table: who there is, under which name, in which state. Changed in sync steps only.

A change is one step without a checkpoint: the record goes into the audit log, the state moves
along the lifecycle table, the event goes out. An end is told later, when the scope is free, by
`AgentTable.tell`: who hears of it may take the scope.

If the log can't be written, a change that was *asked for* does not happen. A change that
*happened* (a program ended) can't be refused. It is told of; its record waits for the log, and so
does all that would follow from it: the scope stays held and nothing is restarted.

``status.json`` follows each change; when the disk refuses it, the old file stands, and the
worst that comes of it is an agent that shows as ``interrupted`` although it had ended.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import trio

from groove_trio.rules.lifecycle import FINAL, Trigger, step
from groove_trio.shell.agent import Agent
from groove_trio.shell.audit import AuditLog
from groove_trio.shell.hub import Hub
from groove_trio.shell.output import OutputLog
from groove_trio.shell.store import Store
from groove_trio.words.actors import SYSTEM, Actor
from groove_trio.words.agents import AgentSpec
from groove_trio.words.audit import AuditEntry
from groove_trio.words.base import AgentId
from groove_trio.words.clock import rfc3339
from groove_trio.words.errors import AuditUnavailable, NameTaken, UnknownAgent, shown
from groove_trio.words.events import AgentAdded, AgentChanged, AgentRemoved, AgentStateChanged

RETRY_S = 1.0
"""Between two tries to record what has happened."""

_log = logging.getLogger("groove_trio")


def now() -> str:
    """This moment as it is written down."""
    return rfc3339(time.time_ns())


class AgentTable:
    """All agents of one daemon, oldest first; the supervisor's alone to change.

    Attributes:
        closing: Whether the daemon is shutting down: then no record is waited for.
    """

    def __init__(self, store: Store, audit: AuditLog, hub: Hub) -> None:
        self.closing = False
        self._store = store
        self._audit = audit
        self._hub = hub
        self._agents: dict[AgentId, Agent] = {}
        self._names: dict[str, AgentId] = {}
        self._next: dict[str, int] = {}

    # Looking

    def __iter__(self) -> Iterator[Agent]:
        """Iterates over a copy, so that agents may come and go meanwhile."""
        return iter(list(self._agents.values()))

    def __len__(self) -> int:
        """How many agents there are."""
        return len(self._agents)

    def get(self, key: str) -> Agent:
        """The agent with this id or else this name.

        Raises:
            UnknownAgent: There is none.
        """
        agent = self._agents.get(AgentId(key)) or self._agents.get(
            self._names.get(key, AgentId(""))
        )
        if agent is None:
            raise UnknownAgent(f"there is no agent {shown(key)}", agent=shown(key))
        return agent

    # Ids and names

    def claim(self, spec: AgentSpec) -> tuple[AgentId, str]:
        """A new id, and the name asked for or the first free ``<role>-<n>``, now taken.

        Raises:
            NameTaken: Another agent has the name.
        """
        agent = AgentId(secrets.token_hex(4))
        while agent in self._agents or agent in self._names:
            agent = AgentId(secrets.token_hex(4))
        name = spec.name or self._default_name(spec.role)
        self.take_name(agent, name)
        return agent, name

    def _default_name(self, role: str) -> str:
        number = self._next.get(role, 0)
        while True:
            number += 1
            name = f"{role}-{number}"  # at most 50 and some characters
            if name not in self._names:
                self._next[role] = number
                return name

    def take_name(self, agent: AgentId, name: str) -> None:
        """Makes `name` this agent's too; `drop_name` gives one back.

        Raises:
            NameTaken: It is another's name, or another's id.
        """
        owner = self._names.get(name, agent)
        if owner != agent or name in self._agents:
            raise NameTaken(f"another agent is called {shown(name)}", name=name)
        self._names[name] = agent

    def drop_name(self, name: str) -> None:
        """Gives a name free."""
        self._names.pop(name, None)

    # Coming and going

    def new_log(self, agent: AgentId, last_seq: int = 0) -> OutputLog:
        """The output log of an agent; it outlasts a full disk, but not the daemon's end."""
        path = self._store.output(agent)
        return OutputLog(path, last_seq, give_up=lambda: self.closing)

    def restore(self, agent: Agent) -> None:
        """Puts in an agent of an earlier daemon; nobody listens yet."""
        self._agents[agent.id] = agent
        self._names.setdefault(agent.name, agent.id)

    def add(self, agent: Agent) -> None:
        """Puts in a new agent whose name was claimed."""
        self._agents[agent.id] = agent
        self._hub.publish(AgentAdded(agent=agent.view()))

    def drop(self, agent: Agent) -> None:
        """Takes an agent out and gives its name free."""
        del self._agents[agent.id]
        self.drop_name(agent.name)
        self._hub.publish(AgentRemoved(id=agent.id))

    # Changing

    def respec(self, agent: Agent, spec: AgentSpec) -> None:
        """Replaces what an agent was asked for."""
        agent.spec = spec
        agent.backoff.policy = spec.restart
        self._hub.publish(AgentChanged(agent=agent.view()))

    def note(self, agent: Agent, action: str, actor: Actor, **detail: Any) -> int:
        """Records something about an agent; returns the record's number.

        Raises:
            AuditUnavailable: The log can't be written.
        """
        detail = {
            "name": agent.name,
            **{key: value for key, value in detail.items() if value is not None},
        }
        entry = AuditEntry(actor=actor, action=f"agent.{action}", agent=agent.id, detail=detail)
        return self._audit.append([entry])

    def move(
        self,
        agent: Agent,
        trigger: Trigger,
        actor: Actor,
        reason: str | None = None,
        **changes: Any,
    ) -> int:
        """Moves an agent as asked; recorded, or else it doesn't happen. Returns the record.

        Raises:
            WrongState: The lifecycle knows no such way.
            AuditUnavailable: The log can't be written; nothing has changed.
        """
        after = step(agent.state, trigger)
        seq = self.note(agent, trigger, actor, **_facts(agent, after, reason, changes))
        self._change(agent, trigger, reason, changes)
        return seq

    async def fact(
        self, agent: Agent, trigger: Trigger, reason: str | None = None, **changes: Any
    ) -> None:
        """Moves an agent as it has moved by itself; returns when that is recorded and saved.

        The state changes before the first checkpoint.

        Raises:
            WrongState: The lifecycle knows no such way.
        """
        await self.passing(agent, trigger, reason, **changes)
        await self.save(agent)

    async def passing(
        self, agent: Agent, trigger: Trigger, reason: str | None = None, **changes: Any
    ) -> None:
        """As `fact`, for a state that another follows at once: recorded, and not saved."""
        facts = _facts(agent, step(agent.state, trigger), reason, changes)
        self._change(agent, trigger, reason, changes)
        await self._record(agent, trigger, facts)

    def force(self, agent: Agent, trigger: Trigger, reason: str) -> None:
        """Moves an agent whether or not that can be recorded, for a daemon that must end."""
        facts = _facts(agent, step(agent.state, trigger), reason, {})
        self._change(agent, trigger, reason, {})
        try:
            self.note(agent, trigger, SYSTEM, **facts)
        except AuditUnavailable as error:
            _log.warning("not recorded that %s is %s: %s", agent.name, agent.state, error)

    def _change(
        self, agent: Agent, trigger: Trigger, reason: str | None, changes: dict[str, Any]
    ) -> None:
        after = step(agent.state, trigger)
        self.tell(agent)  # an end that another start has overtaken
        agent.status = msgspec.structs.replace(agent.status, state=after, reason=reason, **changes)
        if after not in FINAL:
            self.tell(agent)

    def tell(self, agent: Agent) -> None:
        """Lets everybody see how an agent stands; called for an end once the scope is free."""
        before, after = agent.told.state, agent.status.state
        if agent.told is agent.status:
            return
        agent.told = agent.status
        view = agent.view()
        self._hub.publish(
            AgentStateChanged(
                id=agent.id, before=before, after=after, reason=view.reason, agent=view
            )
        )

    async def _record(self, agent: Agent, action: str, facts: dict[str, Any]) -> None:
        while True:
            try:
                seq = self.note(agent, action, SYSTEM, **facts)
            except AuditUnavailable as error:
                self.tell(agent)  # nobody can take its scope now: that could not be recorded either
                if self.closing:
                    _log.warning("not recorded that %s is %s: %s", agent.name, agent.state, error)
                    return
            else:
                break
            await trio.sleep(RETRY_S)
        try:
            await self._audit.durable(seq)
        except AuditUnavailable as error:  # it is in the log, which tells of the doubt itself
            _log.warning("may be lost that %s is %s: %s", agent.name, agent.state, error)

    async def durable(self, seq: int) -> None:
        """Waits until a record is on disk.

        Raises:
            AuditUnavailable: It may be lost.
        """
        await self._audit.durable(seq)

    async def save(self, agent: Agent) -> None:
        """Brings ``status.json`` up to date, unless the disk refuses. Always checkpoints."""
        async with agent.saving:
            status = agent.status
            if agent.saved is status or agent.id not in self._agents:
                return
            try:
                await trio.to_thread.run_sync(self._store.save_status, status)
            except OSError as error:
                _log.warning("how %s stands can't be saved: %s", agent.name, error)
            else:
                agent.saved = status


def _facts(agent: Agent, after: str, reason: str | None, changes: dict[str, Any]) -> dict[str, Any]:
    told = {
        "pid": changes.get("pid"),
        "exitCode": changes.get("exit_code"),
        "exitSignal": changes.get("exit_signal"),
    }
    if after == "running":  # what holds the run that begins
        told |= {
            "containment": agent.status.containment,
            "landlock": agent.landlock,
            "canary": agent.status.canary or None,
        }
    return {"before": agent.state, "after": after, "reason": reason, **told}
