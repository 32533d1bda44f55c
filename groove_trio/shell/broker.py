"""The knock broker: who may do what, asked by many and answered by one task (`Clerk`).

A caller hands in a request and parks until the task has decided and recorded it. Who needs his
record durable before he may know the answer (denials, every change) then waits for the log in
his own task.

Whatever goes wrong ends as a denial: an unknown agent, a path that can't be decided, a log that
can't be written, a queue that ended. A caller who goes after his change was made gives it back
in the same step in which he learns that he is cancelled, so no scope and no lease is held for
nobody.

Leases are also saved in a file, which the same kind of task writes that syncs the log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import trio

from groove_trio.rules import denials
from groove_trio.rules.chain import AGENT_SPAWN, GATE_REFUSE, legible
from groove_trio.rules.leases import check_lease
from groove_trio.rules.locks import Declared, LockTable
from groove_trio.rules.scopes import Scope
from groove_trio.shell.audit import AuditLog
from groove_trio.shell.changes import Changes, Outcome
from groove_trio.shell.clerk import Clerk, entry_of
from groove_trio.shell.judge import Judge
from groove_trio.shell.leasefile import LeaseFile
from groove_trio.shell.slots import ChangeRequest, KnockRequest
from groove_trio.shell.steady import SteadyClock
from groove_trio.words.actors import OWNER, Actor, agent_actor
from groove_trio.words.audit import AuditEntry
from groove_trio.words.base import MAX_NAME, AgentId
from groove_trio.words.errors import AuditUnavailable, Draining, OutOfResources
from groove_trio.words.events import AnyEvent, CallRefused
from groove_trio.words.knocks import Decision, Denied, Knock
from groove_trio.words.leases import DEFAULT_LEASE_S, Explanation, Lease, LocksView

RECORD_S = 2.0  # for a denial to reach the disk; it stays one without, and says so
_SAVE_S = 5.0

T = TypeVar("T")


class Broker:
    """Answers knocks and changes who holds what.

    Args:
        root: The project root, symlinks resolved.
        audit: The open log.
        publish: Takes the events; does not wait.
        leases: The file in which leases outlive the daemon.
        clock: What leases are measured by.
        wanted: Whether anyone wants the event of a knock; if not, it is not built.

    Attributes:
        again: Whether a thread was just granted the very same; see `Folds.again`.
    """

    def __init__(
        self,
        root: Path,
        audit: AuditLog,
        publish: Callable[[AnyEvent], None],
        leases: Path,
        *,
        clock: SteadyClock | None = None,
        wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        self._audit = audit
        clock = clock or SteadyClock()
        self._clock = clock.now
        self._publish = publish
        self._table = LockTable()
        self._root = root
        self._judge = Judge(str(root), self._table)
        self._file = LeaseFile(leases, self._table.leases, audit.settled)
        self._changes = Changes(self._judge, self._table, audit, self._file, publish, clock)
        self._clerk = Clerk(
            judge=self._judge,
            changes=self._changes,
            table=self._table,
            audit=audit,
            publish=publish,
            clock=clock.now,
            wanted=wanted,
        )
        self.again = self._clerk.folds.again

    # The task

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answers requests until `close` was called and all that were made are answered.

        However it ends, nobody stays parked: what is not answered is refused.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._file.run)
            nursery.start_soon(self._clerk.folds.run)
            task_status.started()
            await self._clerk.serve()
            with trio.move_on_after(_SAVE_S), suppress(OSError):
                await self._file.saved()
            nursery.cancel_scope.cancel()

    def close(self) -> None:
        """Takes no more requests; those already made are answered. May be repeated."""
        self._clerk.close()

    # Knocks

    @property
    def crowded(self) -> bool:
        """Whether the next caller has to wait for room in the queue."""
        return self._clerk.full

    async def knock(self, knock: Knock) -> Decision:
        """Answers a knock; waits for room in the queue. Always checkpoints.

        Granted knocks are written before this returns, denied ones are on disk. Raises nothing
        but cancellation: whatever can't be decided or recorded is `Denied`.
        """
        knock = self._judge.plain(knock)
        request = KnockRequest(knock)
        try:
            await self._clerk.put(request)
        except Draining:
            return await self._deny(knock, denials.closing(knock.path))
        return await self._decision_of(request)

    async def knock_nowait(self, knock: Knock) -> Decision:
        """Answers a knock, or denies it at once when the queue is full. Always checkpoints."""
        knock = self._judge.plain(knock)
        request = KnockRequest(knock)
        try:
            self._clerk.put_nowait(request)
        except trio.WouldBlock:
            return await self._deny(knock, denials.crowded(knock.path))
        except Draining:
            return await self._deny(knock, denials.closing(knock.path))
        return await self._decision_of(request)

    @property
    def at_leisure(self) -> bool:
        """Whether nobody waits whose turn would be before that of the next caller."""
        return self._clerk.at_leisure

    def decide_now(self, knock: Knock) -> tuple[Decision, int]:
        """As `decide`, without a checkpoint; only when `at_leisure`."""
        return self._clerk.decide_now(self._judge.plain(knock))

    async def decide(self, knock: Knock) -> tuple[Decision, int]:
        """As `knock`, for a caller that has more to do than to wait for the disk.

        Returns:
            The decision, and the number of its record; a denial is told only after `recorded`.
            0: there is nothing to wait for.
        """
        request = KnockRequest(self._judge.plain(knock))
        try:
            await self._clerk.put(request)
        except Draining:
            return self._judge.fit(denials.closing(knock.path)), 0
        await request.wait()
        return self._outcome_of(request)

    async def recorded(self, denied: Denied, seq: int) -> Denied:
        """Waits until a denial of `decide` is on disk; the denial as it is to be told."""
        return await self._recorded(denied, seq) if seq else denied

    async def refused(self, agent: AgentId, call: str, pid: int, command: str) -> None:
        """Records a call that no agent may make; on disk when this returns, if it can be."""
        tool = legible(command[:MAX_NAME])
        detail = {"call": call, "pid": pid, "tool": tool}
        who = agent_actor(agent)
        entry = AuditEntry(actor=who, action=GATE_REFUSE, agent=agent, detail=detail)
        with suppress(AuditUnavailable), trio.move_on_after(RECORD_S):
            await self._audit.durable(self._audit.append([entry]))
            self._publish(CallRefused(id=agent, call=call, pid=pid, tool=tool))

    async def _decision_of(self, request: KnockRequest) -> Decision:
        await request.wait()
        decision, seq = self._outcome_of(request)
        return await self.recorded(decision, seq) if isinstance(decision, Denied) else decision

    def _outcome_of(self, request: KnockRequest) -> tuple[Decision, int]:
        decision = request.decision
        if decision is None or not (request.seq or isinstance(decision, Denied)):
            # the task broke before this was in the log
            return self._judge.fit(denials.closing(request.knock.path)), 0
        return decision, request.seq

    async def _deny(self, knock: Knock, denied: Denied) -> Denied:
        """A denial that the task takes no part in."""
        denied = self._judge.fit(denied)
        try:
            seq = self._audit.append([entry_of(knock, denied)])
        except AuditUnavailable as error:
            await trio.lowlevel.checkpoint()
            return denials.unrecorded(denied.path, error.detail)
        return await self._recorded(denied, seq)

    async def _recorded(self, denied: Denied, seq: int) -> Denied:
        try:
            with trio.move_on_after(RECORD_S):
                await self._audit.durable(seq)
                return denied
        except AuditUnavailable as error:
            return denials.unrecorded(denied.path, error.detail)
        return denials.unrecorded(denied.path, f"the disk took more than {RECORD_S:g} s")

    def grant_state(self, agent: AgentId, directories: Sequence[str]) -> None:
        """Lets an agent write where its provider keeps state, outside the project."""
        self._judge.states[agent] = directories

    # Changes

    async def reserve(  # noqa: PLR0917 - what is recorded of an agent
        self,
        agent: AgentId,
        name: str,
        scope: Scope,
        cwd: str,
        actor: Actor,
        detail: Mapping[str, Any] | None = None,
        *,
        action: str = AGENT_SPAWN,
    ) -> None:
        """Takes a scope for an agent, exclusively; recorded on disk when this returns.

        Taking the same scope again for the same agent only records it. If cancelled, the
        scope is given back.

        Args:
            agent: For whom.
            name: What it goes by in denials.
            scope: What it may write; an empty one makes a read-only agent known.
            cwd: Its working directory, resolved; relative to the root, or absolute.
            actor: Who asked for it.
            detail: What to record beside name and scope.
            action: What to record it as: ``agent.spawn`` or ``agent.restore``.

        Raises:
            ScopeOverlap: Another agent holds a path of it, by scope or lease.
            AuditUnavailable: It could not be recorded; the scope is not held.
            Draining: The daemon is shutting down.
        """
        place = str(self._root / cwd)

        def act() -> Outcome[bool]:
            return self._changes.reserve(agent, name, scope, place, actor, action, detail or {})

        request = await self._ask(act)
        try:
            await self._settled(request)
        except BaseException:
            if request.outcome is not None and request.outcome.value:
                self._changes.undo_reserve(agent, request.outcome.seq)
            raise

    async def release(self, agent: AgentId, actor: Actor, why: str) -> list[Lease]:
        """Frees an agent's scope and leases; returns those. May be repeated.

        Raises:
            AuditUnavailable: It could not be recorded. If `view` still shows the agent,
                nothing changed.
            Draining: The daemon is shutting down.
        """
        leases = await self._change(lambda: self._changes.release(agent, actor, why))
        if leases:
            with suppress(OSError):  # its agent holds nothing, so no daemon takes them up
                await self._file.saved()
        return leases

    async def rename(self, agent: AgentId, name: str, actor: Actor) -> None:
        """Changes the name under which others hear of an agent.

        Raises:
            UnknownAgent: It holds no scope.
            AuditUnavailable, Draining: As `release`.
        """
        await self._change(lambda: self._changes.rename(agent, name, actor))

    async def declare(
        self,
        agent: AgentId,
        paths: Sequence[str],
        ttl_s: float = DEFAULT_LEASE_S,
        reason: str = "",
        actor: Actor = OWNER,
    ) -> Lease:
        """Takes a lease on paths that no other agent holds; on disk when this returns.

        A path that is a directory, or ends in a slash, stands for all beneath it. Declaring
        what the agent leases already renews it. If cancelled, the lease is given back.

        Args:
            agent: For whom.
            paths: Absolute, or relative to the agent's working directory.
            ttl_s: Seconds until it ends by itself.
            reason: For others to read.
            actor: Who asks.

        Raises:
            Locked: Another agent holds one of the paths; owner, resource and expiry are told.
            NotAllowed: A path is protected, or the agent leases too many.
            OutsideProject, BadRequest: A path is outside, or can't be decided.
            UnknownAgent: It holds no scope.
            AuditUnavailable, OutOfResources, Draining: The lease is not held.
        """
        check_lease(paths, ttl_s, reason)
        reason = legible(reason)
        request = await self._ask(lambda: self._changes.declare(agent, paths, ttl_s, reason, actor))
        try:
            declared = await self._settled(request)
            await self._saved("The lease could not be saved, so it is not held.")
        except BaseException:
            outcome: Outcome[Declared] | None = request.outcome
            if outcome is not None and outcome.value is not None:
                self._changes.undo_declare(outcome.value, outcome.seq)
            raise
        return declared.lease

    async def complete(
        self, agent: AgentId, lease: str | None = None, actor: Actor = OWNER
    ) -> list[Lease]:
        """Gives back one lease of an agent, or all; returns those.

        Raises:
            UnknownLease: The agent holds no such lease.
            UnknownAgent: It holds no scope.
            OutOfResources: It is given back, and would be held again after a crash.
            AuditUnavailable, Draining: As `release`.
        """
        leases = await self._change(lambda: self._changes.complete(agent, lease, actor))
        if leases:
            await self._saved("The lease is given back, but that could not be saved.")
        return leases

    async def restore_leases(self) -> None:
        """Takes up the leases of the run before; the agents' scopes must be reserved by now.

        Raises:
            UnsafeState: Their file has the wrong owner, mode, type or content.
            AuditUnavailable: That some could not be taken up was not recorded.
        """
        leases = await trio.to_thread.run_sync(self._file.load)
        await self._change(lambda: Outcome[None](self._changes.restore(leases)))

    async def _change(self, act: Callable[[], Outcome[T]]) -> T:
        return await self._settled(await self._ask(act))

    async def _ask(self, act: Callable[[], Outcome[T]]) -> ChangeRequest[T]:
        """Has the task perform a change; if cancelled before, it is not performed."""
        request = ChangeRequest(act)
        await self._clerk.put(request)
        await request.wait()
        if request.fault is not None:
            raise request.fault
        return request

    async def _settled(self, request: ChangeRequest[T]) -> T:
        """Waits until what was done is on disk; the value, or the refusal raised."""
        outcome = request.outcome
        if outcome is None:
            raise Draining
        await self._audit.durable(outcome.seq)
        if outcome.refusal is not None:
            raise outcome.refusal
        return cast("T", outcome.value)  # no refusal, so there is a value

    async def _saved(self, otherwise: str) -> None:
        try:
            await self._file.saved()
        except OSError as error:
            raise OutOfResources(otherwise, errno=str(error.errno)) from error

    # Views

    async def explain(self, path: str) -> Explanation:
        """Says who may write a path, relative to the root or absolute. Always checkpoints.

        Raises:
            BadRequest: It can't be decided where it leads.
        """
        await trio.lowlevel.checkpoint()
        return self._judge.explain(path, self._clock())

    def view(self) -> LocksView:
        """Who holds what now."""
        return self._table.view()
