"""What the broker's task does to the lock table, each change recorded before it is made.

Every method here is one step without a checkpoint: it decides, appends to the log, and changes
the table, or raises and has changed nothing. That the record is on disk is for the caller to
wait for (`Outcome.seq`); where it does not get there, `undo_reserve` and `undo_declare` take
the change back.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Generic, NamedTuple, TypeVar

from groove_trio.rules.chain import (
    AGENT_REFUSE,
    AGENT_RELEASE,
    AGENT_RENAME,
    LEASE_COMPLETE,
    LEASE_DECLARE,
    LEASE_DROP,
    LEASE_EXPIRE,
    LEASE_MOVE,
    LEASE_REFUSE,
    UNDO,
)
from groove_trio.rules.leases import moved_lease
from groove_trio.rules.locks import Barred, Declared, Held, LockTable
from groove_trio.rules.owners import Overlap
from groove_trio.rules.scopes import Scope
from groove_trio.shell.audit import AuditLog
from groove_trio.shell.judge import Judge
from groove_trio.shell.leasefile import LeaseFile
from groove_trio.shell.steady import SteadyClock
from groove_trio.words.actors import SYSTEM, Actor
from groove_trio.words.audit import AuditEntry
from groove_trio.words.base import AgentId
from groove_trio.words.errors import (
    AuditUnavailable,
    BadRequest,
    GrooveError,
    Locked,
    NotAllowed,
    ScopeOverlap,
    UnknownAgent,
    UnknownLease,
    shown,
)
from groove_trio.words.events import AnyEvent, LeaseDeclared, LeaseEnded
from groove_trio.words.leases import Lease, LeaseId

T = TypeVar("T")


class Outcome(NamedTuple, Generic[T]):
    """What became of a change: the number of its record (0: none), its value or the refusal."""

    seq: int
    value: T | None = None
    refusal: GrooveError | None = None


class Changes:
    """Changes of who holds what; made by one task.

    Args:
        judge: Resolves paths; told the agents' working directories.
        table: Who holds what.
        audit: The open log.
        file: Told when the leases are others.
        publish: Takes the events.
        clock: What leases are measured by.
    """

    def __init__(  # noqa: PLR0917 - the parts it works on
        self,
        judge: Judge,
        table: LockTable,
        audit: AuditLog,
        file: LeaseFile,
        publish: Callable[[AnyEvent], None],
        clock: SteadyClock,
    ) -> None:
        self._judge = judge
        self._table = table
        self._audit = audit
        self._file = file
        self._publish = publish
        self._clock = clock

    # Scopes

    def reserve(  # noqa: PLR0917 - what is recorded of an agent
        self,
        agent: AgentId,
        name: str,
        scope: Scope,
        cwd: str,
        actor: Actor,
        action: str,
        detail: Mapping[str, Any],
    ) -> Outcome[bool]:
        """Takes a scope; the value is whether it was not held by this agent before."""
        known = self._table.knows(agent)
        overlap = self._table.reserve(agent, name, scope)
        if overlap is not None:
            return self._refuse_scope(agent, name, scope, actor, overlap)
        facts = {**detail, "name": name, "scope": list(scope.patterns)}
        try:
            seq = self._record([_entry(actor, action, agent, **facts)])
        except BaseException:
            if not known:
                self._table.release(agent)
            raise
        self._judge.cwds[agent] = cwd
        return Outcome(seq, not known)

    def _refuse_scope(
        self, agent: AgentId, name: str, scope: Scope, actor: Actor, overlap: Overlap
    ) -> Outcome[bool]:
        facts = {"name": name, "scope": list(scope.patterns), "witness": overlap.witness}
        entry = _entry(actor, AGENT_REFUSE, agent, **facts, owner=overlap.owner, by=overlap.by)
        refusal = ScopeOverlap(
            f"The scope matches {shown(overlap.witness)}, which {overlap.name} holds by "
            f"{overlap.by}. Narrow the scope, or wait until {overlap.name} is removed.",
            witness=overlap.witness,
            owner=overlap.owner,
            ownerName=overlap.name,
        )
        return Outcome(self._record([entry]), refusal=refusal)

    def release(self, agent: AgentId, actor: Actor, why: str) -> Outcome[list[Lease]]:
        """Frees what an agent holds; an unknown one is no fault, and nothing is recorded."""
        if not self._table.knows(agent):
            return Outcome(0, [])
        leases = [lease.id for lease in self._table.leases_of(agent)]
        seq = self._record([_entry(actor, AGENT_RELEASE, agent, why=why, leases=leases)])
        return Outcome(seq, self._let_go(agent, why))

    def undo_reserve(self, agent: AgentId, seq: int) -> None:
        """Takes a reservation back, whether or not that can be recorded."""
        self._record_undo(agent, seq)
        self._let_go(agent, "taken back")

    def rename(self, agent: AgentId, name: str, actor: Actor) -> Outcome[None]:
        """Changes the name that others are told."""
        if not self._table.knows(agent):
            return Outcome(0, refusal=_unknown(agent))
        seq = self._record([_entry(actor, AGENT_RENAME, agent, name=name)])
        self._table.rename(agent, name)
        return Outcome(seq)

    def _let_go(self, agent: AgentId, why: str) -> list[Lease]:
        ended = self._table.release(agent)
        self._judge.cwds.pop(agent, None)
        self._judge.states.pop(agent, None)
        self._tell_ended(ended, why)
        return ended

    # Leases

    def declare(
        self, agent: AgentId, paths: Sequence[str], ttl_s: float, reason: str, actor: Actor
    ) -> Outcome[Declared]:
        """Takes a lease."""
        if not self._table.knows(agent):
            return Outcome(0, refusal=_unknown(agent))
        self.expire()
        lease_id = LeaseId(secrets.token_hex(4))
        try:
            claims = self._judge.claims(agent, paths)
            answer = self._table.declare(agent, claims, self._clock.now(), ttl_s, reason, lease_id)
        except BadRequest as refusal:
            return self._refuse_lease(agent, paths, actor, refusal)
        if not isinstance(answer, Declared):
            return self._refuse_lease(agent, claims, actor, _refusal(answer))
        lease = answer.lease
        facts = {"lease": lease.id, "paths": lease.paths, "until": lease.until, "reason": reason}
        replaced = [each.id for each in answer.replaced]
        try:
            entry = _entry(actor, LEASE_DECLARE, agent, **facts, replaces=replaced)
            seq = self._record([entry])
        except BaseException:
            self._table.undeclare(answer)
            raise
        self._tell_ended(answer.replaced, "renewed")
        self._publish(LeaseDeclared(lease=lease))
        self._file.changed()
        return Outcome(seq, answer)

    def _refuse_lease(
        self, agent: AgentId, paths: Sequence[str], actor: Actor, refusal: GrooveError
    ) -> Outcome[Declared]:
        entry = _entry(actor, LEASE_REFUSE, agent, paths=list(paths), reason=refusal.detail)
        return Outcome(self._record([entry]), refusal=refusal)

    def undo_declare(self, declared: Declared, seq: int) -> None:
        """Takes a lease back, whether or not that can be recorded."""
        lease = declared.lease
        if lease not in self._table.leases:
            return
        self._record_undo(lease.agent, seq)
        self._table.undeclare(declared)
        self._tell_ended([lease], "taken back")
        for again in declared.replaced:
            self._publish(LeaseDeclared(lease=again))

    def complete(self, agent: AgentId, lease: str | None, actor: Actor) -> Outcome[list[Lease]]:
        """Ends one lease of an agent, or all it has."""
        if not self._table.knows(agent):
            return Outcome(0, refusal=_unknown(agent))
        leases = self._table.leases_of(agent, lease)
        if not leases:
            if lease is None:
                return Outcome(0, [])
            return Outcome(0, refusal=UnknownLease(f"You hold no lease {shown(lease)}."))
        entries = [_entry(actor, LEASE_COMPLETE, agent, **_facts(each)) for each in leases]
        seq = self._record(entries)
        self._table.drop(leases)
        self._tell_ended(leases, "completed")
        return Outcome(seq, leases)

    def expire(self) -> bool:
        """Ends the leases that ran out; False if that could not be recorded and must wait."""
        self._follow_clock()
        now = self._clock.now()
        next_expiry = self._table.leases.next_expiry()
        if next_expiry is None or next_expiry > now:
            return True
        due = self._table.leases.due(now)
        try:
            self._record([_entry(SYSTEM, LEASE_EXPIRE, each.agent, **_facts(each)) for each in due])
        except AuditUnavailable:
            return False
        self._table.drop(due)
        self._tell_ended(due, "ran out")
        return True

    def _follow_clock(self) -> None:
        """Has the leases last as long as they were to, when the machine's clock was set.

        While that can't be recorded, they run on and their times are told as they were.
        """
        moved_by = self._clock.set_by()
        if not moved_by:
            return
        moved = [moved_lease(lease, moved_by) for lease in self._table.leases]
        try:
            if moved:
                self._record(list(map(_move, moved)))
        except AuditUnavailable:
            return
        self._clock.follow(moved_by)
        if moved:
            self._table.move_leases(moved)
            self._file.changed()
        for lease in moved:
            self._publish(LeaseDeclared(lease=lease))

    def restore(self, leases: Iterable[Lease]) -> int:
        """Takes up leases of an earlier run; returns the number of the last record, 0 if none."""
        dropped, moved = self._table.restore(leases, self._clock.now())
        if not dropped and not moved:
            return 0
        self._file.changed()
        return self._record(
            [
                *(
                    _entry(SYSTEM, LEASE_DROP, lease.agent, **_facts(lease), why=why)
                    for lease, why in dropped
                ),
                *map(_move, moved),
            ]
        )

    # What they share

    def _record(self, entries: Sequence[AuditEntry]) -> int:
        return self._audit.append(entries)

    def _record_undo(self, agent: AgentId, seq: int) -> None:
        with suppress(AuditUnavailable):
            self._record([_entry(SYSTEM, UNDO, agent, of=seq)])

    def _tell_ended(self, leases: Sequence[Lease], why: str) -> None:
        for lease in leases:
            self._publish(LeaseEnded(lease=lease, why=why))
        if leases:
            self._file.changed()


def _entry(actor: Actor, action: str, agent: AgentId, **detail: object) -> AuditEntry:
    return AuditEntry(actor=actor, action=action, agent=agent, detail=detail)


def _facts(lease: Lease) -> dict[str, object]:
    return {"lease": lease.id, "paths": lease.paths}


def _move(lease: Lease) -> AuditEntry:
    return _entry(SYSTEM, LEASE_MOVE, lease.agent, **_facts(lease), until=lease.until)


def _unknown(agent: AgentId) -> UnknownAgent:
    return UnknownAgent(f"No agent {shown(agent)} is known.")


def _refusal(answer: Held | Barred) -> GrooveError:
    if isinstance(answer, Barred):
        return NotAllowed(
            f"{shown(answer.resource)} cannot be leased: {answer.reason}.",
            resource=answer.resource,
            reason=answer.reason,
        )
    until = "until it is removed" if answer.until is None else f"until {answer.until}"
    return Locked(
        f"{answer.name} holds {shown(answer.resource)} by {answer.by}, {until}.",
        owner=answer.owner,
        ownerName=answer.name,
        resource=answer.resource,
        until=answer.until,
    )
