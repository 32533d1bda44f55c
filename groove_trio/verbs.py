"""What an open groove can do: one method a verb, each handed to the part that owns the matter."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from groove_trio import __version__
from groove_trio.api.feed import follow
from groove_trio.api.problems import problem
from groove_trio.api.routes import answer, urgent
from groove_trio.rules.admission import Admission
from groove_trio.rules.lifecycle import LIVE
from groove_trio.shell.audit import AuditLog
from groove_trio.shell.broker import Broker
from groove_trio.shell.census import Census
from groove_trio.shell.confining import Confining
from groove_trio.shell.door import Door
from groove_trio.shell.heads import verify_log
from groove_trio.shell.hub import Hub, Subscription
from groove_trio.shell.identity import Identity
from groove_trio.shell.refusals import Refusals
from groove_trio.shell.supervisor import Supervisor
from groove_trio.shell.vault import Vault
from groove_trio.words.actors import OWNER, SYSTEM, Actor
from groove_trio.words.agents import AgentPatch, AgentSpec, AgentView
from groove_trio.words.audit import AuditFilter, AuditPage, Verification
from groove_trio.words.base import MAX_NAME
from groove_trio.words.clock import instant, rfc3339
from groove_trio.words.credentials import CredentialRequest, CredentialView, checked_provider
from groove_trio.words.daemon import ProviderView, Status
from groove_trio.words.errors import BadRequest, Draining, NotAdmitted, shown
from groove_trio.words.events import Snapshot
from groove_trio.words.knocks import Decision, Knock, Operation, Source
from groove_trio.words.leases import DEFAULT_LEASE_S, Explanation, Lease, LocksView
from groove_trio.words.output import OutputPage
from groove_trio.words.secret import Secret


def url_of(host: str, port: int) -> str:
    """The address of a bind as a URL."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@dataclass(frozen=True)
class Parts:
    """What a groove is made of; each has one owner."""

    audit: AuditLog
    hub: Hub
    census: Census
    broker: Broker
    confining: Confining
    supervisor: Supervisor
    identity: Identity
    refusals: Refusals
    vault: Vault


class Groove:
    """An open groove: everything the daemon can do, for the program that embeds it.

    Got from `open_groove`; usable until its block ends. All methods belong to the trio thread.
    `actor` says on whose behalf; it is the owner unless the HTTP interface says otherwise.
    Agents go by id or by name.

    Attributes:
        project: The project root, symlinks resolved.
        url: Where it listens, such as ``http://127.0.0.1:31415``.
        port: The port of `url`.
        door: What its connections are held to.
    """

    def __init__(self, project: Path, parts: Parts, binds: Sequence[tuple[str, int]]) -> None:
        host, self.port = binds[0]
        self.project = project
        self.url = url_of(host, self.port)
        self.door = Door(
            admission=Admission(binds),
            handler=partial(answer, self),
            upgrade=partial(follow, self),
            refuse=problem,
            check=parts.identity.check,
            identify=parts.identity.whose,
            record=self._record_stranger,
            urgent=urgent,
        )
        self._parts = parts
        self._opened_ns = time.time_ns()
        self._opened = trio.current_time()

    # Agents

    async def spawn(self, spec: AgentSpec, *, actor: Actor = OWNER) -> AgentView:
        """Starts an agent; returns when its program runs.

        Raises:
            InvalidScope: A pattern breaks the language.
            ScopeOverlap: Another agent holds a scope that shares a path; it is named.
            UnknownProvider, OutsideProject, NameTaken, ContainmentUnavailable: As they say.
            SpawnFailed, OutOfResources: The program did not start; nothing is held for it.
            Draining, AuditUnavailable: The daemon takes no changes now.
        """
        return await self._parts.supervisor.spawn(spec, actor)

    def agents(self) -> list[AgentView]:
        """All known agents, oldest first."""
        return self._parts.supervisor.views()

    def agent(self, key: str) -> AgentView:
        """One agent, by id or name.

        Raises:
            UnknownAgent: There is none.
        """
        return self._parts.supervisor.view(key)

    async def stop(
        self, key: str, grace_s: float | None = None, *, actor: Actor = OWNER
    ) -> AgentView:
        """Stops an agent: SIGTERM to its tree, SIGKILL after the grace; returns when all is gone.

        Args:
            key: Its id or name.
            grace_s: Seconds between the two; None for the agent's own.
            actor: Who asks.
        """
        return await self._parts.supervisor.stop(self.agent(key).id, actor, grace_s)

    async def restart(self, key: str, *, actor: Actor = OWNER) -> AgentView:
        """Stops an agent where needed and starts it anew, its restart count at zero."""
        return await self._parts.supervisor.restart(self.agent(key).id, actor)

    async def resume(self, key: str, *, actor: Actor = OWNER) -> AgentView:
        """Starts an agent that was running when an earlier daemon died."""
        return await self._parts.supervisor.resume(self.agent(key).id, actor)

    async def instruct(self, key: str, text: str, *, actor: Actor = OWNER) -> AgentView:
        """Hands a follow-up to a running, interactive agent."""
        return await self._parts.supervisor.instruct(self.agent(key).id, text, actor)

    async def patch(self, key: str, patch: AgentPatch, *, actor: Actor = OWNER) -> AgentView:
        """Changes an agent's name, restart policy or grace."""
        return await self._parts.supervisor.patch(self.agent(key).id, patch, actor)

    async def remove(self, key: str, *, actor: Actor = OWNER) -> AgentView:
        """Forgets an agent that does not run and frees what it holds."""
        return await self._parts.supervisor.remove(self.agent(key).id, actor)

    async def wait(self, key: str) -> AgentView:
        """Waits until an agent has come to an end, by itself or not, and tells how.

        Nothing of it lives then, and its scope is free for another. A restart is no end. Always
        checkpoints.

        Raises:
            UnknownAgent: There is none, or not any more.
            Draining: The daemon shut down first.
        """
        agent = self.agent(key).id
        with self.events() as events:
            async for _ in events:  # the first is the snapshot
                if self.agent(agent).state not in LIVE:
                    await self._parts.supervisor.over(agent)
                    view = self.agent(agent)
                    if view.state not in LIVE:
                        return view
        raise Draining("the daemon shuts down")

    async def output(self, key: str, after: int = 0, limit: int = 100) -> OutputPage:
        """Lines an agent wrote, after a sequence number; a negative one counts from the end."""
        return await self._parts.supervisor.output(self.agent(key).id, after, limit)

    # Knocks and leases

    async def knock(
        self,
        key: str,
        operation: Operation,
        path: str,
        *,
        tool: str = "",
        actor: Actor = OWNER,
        source: Source = "library",
    ) -> Decision:
        """Asks whether an agent may do an operation on a path; the answer is in the log.

        Never raises for a fault: whatever can't be decided or recorded is denied.
        """
        agent = self._parts.supervisor.identify(key)
        return await self._parts.broker.knock(
            Knock(
                agent=agent, operation=operation, path=path, actor=actor, source=source, tool=tool
            )
        )

    @property
    def crowded(self) -> bool:
        """Whether a knock now has to wait for others to be answered."""
        return self._parts.broker.crowded

    async def declare(
        self,
        key: str,
        paths: Sequence[str],
        ttl_s: float = DEFAULT_LEASE_S,
        *,
        reason: str = "",
        actor: Actor = OWNER,
    ) -> Lease:
        """Takes a lease on paths that no scope owns.

        Raises:
            Locked: Another agent owns or leases one of them; owner, resource and expiry are told.
            OutsideProject: A path does not lie in the project.
        """
        return await self._parts.broker.declare(
            self.agent(key).id, list(paths), ttl_s, reason, actor
        )

    async def complete(
        self, key: str, lease: str | None = None, *, actor: Actor = OWNER
    ) -> list[Lease]:
        """Gives back one lease of an agent, or all of them.

        Raises:
            UnknownLease: The agent holds no such lease.
        """
        return await self._parts.broker.complete(self.agent(key).id, lease, actor)

    async def explain(self, path: str) -> Explanation:
        """Says who may write a path, and by which rule."""
        return await self._parts.broker.explain(path)

    def locks(self) -> LocksView:
        """Who holds what now."""
        return self._parts.broker.view()

    # Stored keys

    async def credentials(self) -> list[CredentialView]:
        """The stored keys of the user, by provider: names and dates, never a value.

        Raises:
            SealBroken, VaultUnavailable: They can't be told.
        """
        return await self._parts.vault.keys()

    async def set_credential(
        self, provider: str, value: Secret, *, variable: str | None = None, actor: Actor = OWNER
    ) -> CredentialView:
        """Stores a provider's key; one that was stored for it is gone then.

        Args:
            provider: Whose key it is; one that this groove doesn't know may be another's.
            value: The key.
            variable: The environment variable that it is handed over in; None for the first that
                the provider takes one in.
            actor: Who asks.

        Raises:
            BadRequest: It can't be a key, or the provider takes none, or not in this variable.
            MachineChanged: Others are stored that belong to another machine.
            SealBroken, VaultUnavailable: Nothing can be stored as it is.
            Draining, AuditUnavailable: The daemon takes no changes now.
        """
        provider = checked_provider(provider)
        request = CredentialRequest.checked(value, variable)
        self._check_open()
        return await self._parts.vault.store(provider, request.variable, request.secret, actor)

    async def remove_credential(self, provider: str, *, actor: Actor = OWNER) -> CredentialView:
        """Forgets a provider's key.

        Raises:
            UnknownCredential: None is stored.
            SealBroken, VaultUnavailable: Nothing can be removed as it is.
            Draining, AuditUnavailable: The daemon takes no changes now.
        """
        provider = checked_provider(provider)
        self._check_open()
        return await self._parts.vault.remove(provider, actor)

    def _check_open(self) -> None:
        if self._parts.supervisor.draining:
            raise Draining("the daemon shuts down")

    # The daemon

    async def refused(self, actor: Actor, method: str, path: str, why: str) -> None:
        """Records that an agent asked for what it may not do; often repeated, only counted."""
        detail = {"method": method, "path": path[:MAX_NAME], "why": why}
        await self._parts.refusals.note(actor, detail)

    async def _record_stranger(self, refusal: NotAdmitted) -> None:
        detail = {"why": refusal.detail, **refusal.fields}
        await self._parts.refusals.note(SYSTEM, detail, refusal.fields.get("uid"))

    def status(self) -> Status:
        """The daemon told."""
        parts = self._parts
        kernel = parts.confining.kernel
        states = Counter[str](view.state for view in self.agents())
        return Status(
            version=__version__,
            pid=os.getpid(),
            project=str(self.project),
            url=self.url,
            started=rfc3339(self._opened_ns),
            uptime_s=trio.current_time() - self._opened,
            draining=parts.supervisor.draining,
            agents=dict(states),
            connections=self.door.connections,
            subscribers=parts.hub.subscribers,
            leases=len(self.locks().leases),
            audit_seq=parts.audit.seq,
            audit_ok=parts.audit.ok,
            containment=list(kernel.levels),
            missing=kernel.told(),
        )

    def providers(self) -> list[ProviderView]:
        """The providers that can be spawned."""
        return self._parts.supervisor.providers()

    def events(self, after: int | None = None) -> AbstractContextManager[Subscription]:
        """Subscribes to events, from now or from a sequence number on; a context manager."""
        return self._parts.hub.subscribe(after, self.snapshot)

    def snapshot(self) -> Snapshot:
        """All there is, as the first message of a feed."""
        return Snapshot(
            agents=self.agents(), locks=self.locks(), draining=self._parts.supervisor.draining
        )

    async def audit(
        self,
        after: int = 0,
        limit: int = 100,
        *,
        agent: str | None = None,
        action: str | None = None,
        actor: str | None = None,
        since: str | None = None,
        until: str | None = None,
    ) -> AuditPage:
        """Records of the audit log after a number; a negative one counts from the log's end.

        Args:
            after: The number.
            limit: At most so many.
            agent: Only records about this agent, by id.
            action: Only this action, or this family of actions, such as ``knock``.
            actor: Only what this actor did, ``agent:3fa9c21e``, or this kind of actor, ``agent``.
            since: Only from this time on, RFC 3339.
            until: Only before this time.

        Raises:
            BadRequest: A time is none.
            AuditUnavailable: The log can't be read.
        """
        log = self._parts.audit
        wanted = AuditFilter(
            agent=agent or "",
            action=action or "",
            actor=actor or "",
            since=_canonical("since", since),
            until=_canonical("until", until),
        )
        return await log.read(after if after >= 0 else log.seq + after, limit, wanted)

    async def verify_audit(self) -> Verification:
        """Reads the whole audit log again and checks it: chain, macs, and its checkpoint."""
        log = self._parts.audit
        return await trio.to_thread.run_sync(verify_log, log.directory, log.config_dir)


def _canonical(name: str, time: str | None) -> str:
    try:
        return rfc3339(instant(time)) if time else ""
    except ValueError as error:
        raise BadRequest(f"{name}: {shown(time)} is {error}", field=name) from error
