"""The supervisor: sole owner of the agent table, and of one task per live agent.

Verbs change the table in sync steps and leave the rest to the agent's task; they wait for it,
and whoever stops waiting changes nothing about what was asked. What each verb does is in its own
part: `starting` for those that start an agent, `changing` for all others.

When a scope is held: from before the program starts until the agent is ``completed``,
``failed``, ``parked`` or ``stopped`` *and* no process of its tree lives. Restarting such an agent
takes its scope anew and may be refused. Between automatic restarts, and through a restart that
was asked for while it ran, the scope stays held. An ``interrupted`` agent keeps its scope until
it is resumed, stopped or removed.

Stop is a request and never a cancellation: `Supervisor.drain` asks every agent to end, its
output is still read while it does, and only then the nursery closes. Cancelling
`Supervisor.run` is the backstop; it kills.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import trio

from groove_trio.providers.base import Provider
from groove_trio.providers.known import known_providers
from groove_trio.shell.audit import AuditLog
from groove_trio.shell.broker import Broker
from groove_trio.shell.census import Census
from groove_trio.shell.changing import Changing
from groove_trio.shell.holding import Holdings
from groove_trio.shell.hub import Hub
from groove_trio.shell.launching import AVAILABLE, HandOver, Launcher, OpenConfined, OpenTree
from groove_trio.shell.life import Life
from groove_trio.shell.opening import open_tree
from groove_trio.shell.starting import Starting
from groove_trio.shell.store import Store
from groove_trio.shell.table import AgentTable
from groove_trio.shell.takeup import take_up
from groove_trio.shell.tasks import Tasks
from groove_trio.shell.tending import Tending
from groove_trio.words.actors import Actor
from groove_trio.words.agents import AgentPatch, AgentSpec, AgentView, Containment
from groove_trio.words.base import AgentId
from groove_trio.words.daemon import ProviderView
from groove_trio.words.errors import UnknownAgent
from groove_trio.words.output import OutputPage


class Supervisor:
    """Spawns agents, keeps them alive by their policy, stops them, and forgets none.

    Args:
        project: The project root, absolute, symlinks resolved.
        url: The daemon's address, for the agents' environment.
        broker: Who reserves scopes; running.
        audit: The open log.
        hub: Where events go.
        census: Who knows which process is whose; running.
        providers: Beside ``command`` and ``demo``; one of the same name takes its place.
        containment: What agents can be held to here, strongest first.
        missing: What each other level needs that this kernel lacks, in words.
        confined: What starts a program behind gate or wall.
        descriptor_limit: Soft limit of descriptors for agents, if not the daemon's own.
        hand_over: What hands stored keys over to those who need them; without it, none are.
        open_tree: What starts a tree.
        draw: Numbers from 0 to 1 for the jitter of waits.
    """

    def __init__(
        self,
        *,
        project: Path,
        url: str,
        broker: Broker,
        audit: AuditLog,
        hub: Hub,
        census: Census,
        providers: Iterable[Provider] = (),
        containment: Callable[[], Sequence[Containment]] = lambda: AVAILABLE,
        missing: Callable[[], Mapping[Containment, str]] = dict,
        confined: OpenConfined | None = None,
        descriptor_limit: int | None = None,
        hand_over: HandOver | None = None,
        open_tree: OpenTree = open_tree,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._broker = broker
        self._census = census
        self._store = store = Store(project)
        self._table = table = AgentTable(store, audit, hub)
        self._holdings = holdings = Holdings(broker, table)
        self._tasks = tasks = Tasks(table)
        self._launcher = launcher = Launcher(
            project=str(project),
            url=url,
            store=store,
            census=census,
            providers=known_providers(providers),
            containment=containment,
            missing=missing,
            confined=confined,
            descriptor_limit=descriptor_limit,
            hand_over=hand_over,
            open_tree=open_tree,
        )
        life = Life(table, hub, launcher.start, holdings.release, draw)
        self._changing = changing = Changing(
            table=table,
            store=store,
            broker=broker,
            holdings=holdings,
            census=census,
            launcher=launcher,
            tasks=tasks,
        )
        tending = Tending(table=table, store=store, holdings=holdings, census=census, life=life)
        self._starting = Starting(
            table=table, launcher=launcher, tending=tending, changing=changing, tasks=tasks
        )
        self._drained = trio.Event()
        self._over = trio.Event()

    # Running

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Takes up the agents of an earlier daemon, then tends all agents until drained.

        Cancelling it kills every tree at once; what ran shows as ``interrupted`` to the next
        daemon.

        Raises:
            UnsafeState: A state file has the wrong type, owner or mode.
            AuditUnavailable: The log can't be written.
        """
        try:
            await take_up(self._store, self._table, self._holdings, self._census)
            await self._broker.restore_leases()
            async with trio.open_nursery() as self._tasks.nursery:
                task_status.started()
                await self._drained.wait()
        finally:
            self._tasks.nursery = None
            self._over.set()

    async def drain(self) -> None:
        """Refuses new agents, asks all to stop, and returns when nothing of them lives.

        Cancelling it ends the waiting and not the stopping. May be called again.
        """
        self._table.closing = True
        for agent in self._table:
            agent.again = False
            agent.grace_s = agent.spec.grace_s
            if agent.live and agent.state != "stopping":
                self._table.force(agent, "stop", "the daemon shut down")
            agent.nudge()
        self._drained.set()
        await self._over.wait()

    @property
    def draining(self) -> bool:
        """Whether no agent is admitted any more."""
        return self._table.closing

    # Looking

    def views(self) -> list[AgentView]:
        """All agents, oldest first."""
        return [agent.view() for agent in self._table]

    def view(self, key: str) -> AgentView:
        """The agent with this id or else this name.

        Raises:
            UnknownAgent: There is none.
        """
        return self._table.get(key).view()

    def identify(self, key: str) -> AgentId:
        """The id of the agent with this id or name; what nobody has stays as it is."""
        try:
            return self._table.get(key).id
        except UnknownAgent:
            return AgentId(key)

    def providers(self) -> list[ProviderView]:
        """What can be asked for in a spec's ``provider``."""
        return [
            ProviderView(
                name=each.name, summary=each.summary, containment=self._launcher.held_to(each)
            )
            for each in self._launcher.providers.values()
        ]

    async def output(self, key: str, after: int, limit: int) -> OutputPage:
        """Lines of an agent that follow number `after`; a negative one counts from the end.

        Raises:
            UnknownAgent: There is none.
        """
        return await self._table.get(key).output.read(after, limit)

    # Starting

    async def spawn(self, spec: AgentSpec, actor: Actor) -> AgentView:
        """Admits an agent and starts it; returns when its program runs.

        If it can't be started nothing of it remains: no scope, no directory, no process. If
        the caller is cancelled, neither.

        Raises:
            BadRequest, UnknownProvider, OutsideProject, ContainmentUnavailable: The spec.
            NameTaken, ScopeOverlap: Another agent is in the way.
            SpawnFailed, OutOfResources: The program, or the machine.
            Draining, AuditUnavailable: The daemon.
        """
        return await self._starting.spawn(spec, actor)

    async def restart(self, key: str, actor: Actor) -> AgentView:
        """Starts an agent anew, stopping it first if need be; returns when its program runs.

        What its restart policy remembers is forgotten. Whoever stops waiting changes nothing.

        Raises:
            UnknownAgent: There is none.
            ScopeOverlap: It had given up its scope, and another agent has taken a path of it.
            WrongState: It was stopped before it was started again.
            SpawnFailed, OutOfResources, OutsideProject: It can't be started, and has failed.
            Draining, AuditUnavailable: The daemon.
        """
        return await self._starting.restart(key, actor)

    async def resume(self, key: str, actor: Actor) -> AgentView:
        """Starts an agent that an earlier daemon left ``interrupted``; as `restart`.

        Raises:
            UnknownAgent: There is none.
            WrongState: It is not interrupted.
            SpawnFailed, OutOfResources, OutsideProject: It can't be started, and has failed.
            Draining, AuditUnavailable: The daemon.
        """
        return await self._starting.resume(key, actor)

    # Stopping

    async def stop(self, key: str, actor: Actor, grace_s: float | None = None) -> AgentView:
        """Stops an agent; returns when no process of its tree lives and its scope is free.

        One that has ended is left as it is; a ``parked`` or ``interrupted`` one is laid to
        rest. Asked again, a shorter grace takes over. Whoever stops waiting changes nothing.

        Args:
            key: Id or name.
            actor: Who asks.
            grace_s: Seconds between SIGTERM and SIGKILL; by default the agent's own.

        Raises:
            UnknownAgent: There is none.
            AuditUnavailable: It could not be recorded; nothing was done.
        """
        return await self._changing.stop(key, actor, grace_s)

    async def over(self, key: str) -> None:
        """Waits until no task stands behind an agent: nothing of it lives, its scope is free."""
        await self._table.get(key).done.wait()

    async def remove(self, key: str, actor: Actor) -> AgentView:
        """Forgets an agent that does not run: its scope, its directory, its output.

        The audit log keeps the facts.

        Raises:
            UnknownAgent: There is none.
            WrongState: It is live, or being started; stop it first.
            AuditUnavailable: It could not be recorded; nothing was done.
        """
        return await self._changing.remove(key, actor)

    # Changing

    async def instruct(self, key: str, text: str, actor: Actor) -> AgentView:
        """Hands a follow-up to a running, interactive agent; returns when it is on its way.

        Raises:
            UnknownAgent: There is none.
            WrongState: It doesn't run, or doesn't read follow-ups.
            BadRequest: The text can't be put to it.
            Busy: It hasn't read the last ones yet.
            AuditUnavailable: It could not be recorded; nothing was sent.
        """
        return await self._changing.instruct(key, text, actor)

    async def patch(self, key: str, patch: AgentPatch, actor: Actor) -> AgentView:
        """Changes an agent's name, restart policy or grace; the policy counts from now on.

        Raises:
            UnknownAgent: There is none.
            BadRequest: A field breaks the schema.
            NameTaken: Another agent has the name.
            AuditUnavailable: It could not be recorded; nothing was changed.
        """
        return await self._changing.patch(key, patch, actor)
