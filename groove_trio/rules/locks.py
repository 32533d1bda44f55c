"""The lock table: who holds which scope and which lease, and so who may write a path now.

Invariants, kept by `reserve` and `declare` and by nothing else:

- No two scopes held share a path.
- No two leases share a path, and no lease shares one with a scope of another agent. A lease on
  a path of one's own scope is allowed; it grants nothing that was not granted.

So every path has at most one agent that may write it; who that is, `rules.ruling` says.

A lease on ``docs/x.md`` covers that name; one on ``docs/``, with its slash, covers the
directory and all beneath. Declaring again what one already leases renews it: the new lease
takes the place of the old where it covers all of it, else it is refused.

A scope is held until it is released: an agent that ended, even one that died with the daemon,
keeps it while a process of its tree may live. When that is, the supervisor knows.

Times are nanoseconds since the epoch, and always an argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from groove_trio.rules.claims import condensed, covers, is_claim
from groove_trio.rules.leases import moved_lease
from groove_trio.rules.owners import Overlap, Owners
from groove_trio.rules.ruling import decide, explain
from groove_trio.rules.scopes import Scope, protected_by
from groove_trio.words.base import AgentId
from groove_trio.words.clock import NS, parse_rfc3339, rfc3339
from groove_trio.words.errors import shown
from groove_trio.words.knocks import Decision, Operation
from groove_trio.words.leases import (
    MAX_LEASE_PATHS,
    MAX_LEASE_S,
    Explanation,
    Lease,
    LeaseId,
    LocksView,
)

MAX_AGENT_CLAIMS = 256
"""Paths that one agent may lease at a time: four leases of the greatest size."""

MAX_CLAIMS = 10_000
"""Paths leased in all: every new scope is compared with each, at about 5 µs."""


@dataclass(frozen=True, slots=True)
class Declared:
    """A lease was taken; `replaced` are the agent's own that it renews."""

    lease: Lease
    replaced: tuple[Lease, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """A lease was refused: `owner` holds `resource`, until a time or (None) until it is removed."""

    owner: AgentId
    name: str
    resource: str
    until: str | None
    by: str


@dataclass(frozen=True, slots=True)
class Barred:
    """A lease was refused, and nobody's leaving would change that."""

    resource: str
    reason: str


class LockTable:
    """Scopes and leases held; owned by one task, changed by nothing else. No I/O, no clock.

    Attributes:
        leases: Those in force, to be read; `declare`, `drop` and `release` change them.
        version: Another one after each change, so that what was decided may be decided anew.
    """

    def __init__(self) -> None:
        self.version = 0
        self._owners = Owners()
        self.leases = self._owners.leases

    # Scopes

    def reserve(self, agent: AgentId, name: str, scope: Scope) -> Overlap | None:
        """Takes a scope for an agent, or says which path of it another agent holds.

        Taking the same scope again for the same agent changes nothing.

        Raises:
            ValueError: The agent holds another scope.
        """
        self.version += 1
        known = self._owners.scope_of(agent)
        if known is not None:
            if known != scope:
                raise ValueError(f"agent {agent} holds another scope already")
            self._owners.rename(agent, name)
            return None
        if (overlap := self._owners.meeting(scope)) is not None:
            return overlap
        self._owners.add(agent, name, scope)
        return None

    def release(self, agent: AgentId) -> list[Lease]:
        """Forgets an agent; returns the leases that end with it. An unknown one is no fault."""
        self.version += 1
        if agent not in self._owners:
            return []
        ended = list(self.leases.of(agent).values())
        self.drop(ended)
        self._owners.remove(agent)
        return ended

    def rename(self, agent: AgentId, name: str) -> None:
        """Gives a known agent the name that others are told.

        Raises:
            KeyError: The agent is not known.
        """
        self.version += 1
        self._owners.rename(agent, name)

    def knows(self, agent: AgentId) -> bool:
        """Whether the agent holds a scope, be it an empty one."""
        return agent in self._owners

    # Leases

    def declare(  # noqa: PLR0917 - what a lease consists of
        self,
        agent: AgentId,
        claims: Sequence[str],
        now: int,
        ttl_s: float,
        reason: str,
        lease_id: LeaseId,
    ) -> Declared | Held | Barred:
        """Takes a lease on all of `claims`, or none; `drop` what is `due` before.

        Args:
            agent: For whom.
            claims: Resolved paths; a directory that is meant with all beneath ends in a slash.
            now: The time it begins.
            ttl_s: Seconds until it ends by itself.
            reason: For others to read.
            lease_id: A new id.
        """
        self.version += 1
        if agent not in self._owners:
            return Barred(agent, "no such agent is known")
        claims = condensed(claims)
        replaced: dict[LeaseId, Lease] = {}
        for claim in claims:
            refusal = self._refusal(agent, claim, claims, replaced)
            if refusal is not None:
                return refusal
        more = len(claims) - sum(len(lease.paths) for lease in replaced.values())
        if self.leases.claims_of(agent) + more > MAX_AGENT_CLAIMS:
            return Barred(claims[0], f"an agent may lease {MAX_AGENT_CLAIMS} paths at a time")
        if self.leases.claims + more > MAX_CLAIMS:
            return Barred(claims[0], f"{MAX_CLAIMS} paths are leased, which is the limit")
        self.leases.drop(replaced.values())
        lease = Lease(
            id=lease_id,
            agent=agent,
            paths=claims,
            since=rfc3339(now),
            until=rfc3339(now + int(ttl_s * NS)),
            reason=reason,
        )
        self.leases.put(lease)
        return Declared(lease, tuple(replaced.values()))

    def undeclare(self, declared: Declared) -> None:
        """Takes `declare` back, at once or later: the lease ends, and what it replaced is back.

        Nobody else can have claimed that since, because the lease covered it. One that has
        ended in another way is no fault.
        """
        self.version += 1
        if declared.lease in self.leases:
            self.leases.drop([declared.lease])
            for lease in declared.replaced:
                self.leases.put(lease)

    def leases_of(self, agent: AgentId, lease_id: str | None = None) -> list[Lease]:
        """An agent's leases, or the one of them with this id; empty if there is none."""
        own = self.leases.of(agent)
        return [lease for lease in own.values() if lease_id in {None, lease.id}]

    def drop(self, leases: Iterable[Lease]) -> None:
        """Ends leases; one that has ended already is no fault."""
        self.version += 1
        self.leases.drop(leases)

    def move_leases(self, leases: Iterable[Lease]) -> None:
        """Gives leases that are in force other times."""
        self.version += 1
        self.leases.move(leases)

    def restore(
        self, leases: Iterable[Lease], now: int
    ) -> tuple[list[tuple[Lease, str]], list[Lease]]:
        """Takes up leases of an earlier run.

        Nobody can tell how far the clock was set between two runs. What began later than now
        shows that it was set back, and begins now: it ends after as long as it was to last.

        Returns:
            Those it can't take up, each with the reason; and those that begin now.
        """
        self.version += 1
        dropped: list[tuple[Lease, str]] = []
        moved: list[Lease] = []
        for lease in leases:
            if problem := self._unfit(lease, now):
                dropped.append((lease, problem))
                continue
            ahead = parse_rfc3339(lease.since) - now
            taken = moved_lease(lease, -ahead) if ahead > 0 else lease
            self.leases.put(taken)
            if taken is not lease:
                moved.append(taken)
        return dropped, moved

    def _unfit(self, lease: Lease, now: int) -> str | None:
        try:
            since, until = parse_rfc3339(lease.since), parse_rfc3339(lease.until)
        except ValueError as error:
            return str(error)
        if until <= now:
            return "it ran out"
        if until - since > MAX_LEASE_S * NS:
            return "it lasts longer than a lease may"
        if lease.agent not in self._owners:
            return "its agent is not known any more"
        if not 1 <= len(lease.paths) <= MAX_LEASE_PATHS or not all(map(is_claim, lease.paths)):
            return "it is not on paths in the project"
        if lease in self.leases or condensed(lease.paths) != lease.paths:
            return "it is there twice"
        for claim in lease.paths:
            if self._refusal(lease.agent, claim, (), {}) is not None:
                return f"{shown(claim)} is held otherwise"
        return None

    def _refusal(
        self,
        agent: AgentId,
        claim: str,
        claims: Sequence[str],
        replaced: dict[LeaseId, Lease],
    ) -> Held | Barred | None:
        """Why an agent can't have a claim; notes in `replaced` which of its leases it renews."""
        path = claim.removesuffix("/")
        if not path:
            return Barred(claim, "the project as a whole cannot be leased")
        if (rule := protected_by(path)) is not None:
            return Barred(claim, f"it is protected by {rule}")
        if (owner := self._owners.other_than(agent, claim)) is not None:
            return Held(owner, self._owners.name_of(owner), claim, None, "its scope")
        for lease in self.leases.touching(claim):
            renewed = lease.agent == agent and all(
                any(covers(new, old) for new in claims) for old in lease.paths
            )
            if not renewed:
                name = self._owners.name_of(lease.agent)
                return Held(lease.agent, name, claim, lease.until, f"lease {lease.id}")
            replaced[lease.id] = lease
        return None

    # Decisions

    def decide(
        self,
        agent: AgentId,
        operation: Operation,
        path: str,
        now: int,
        *,
        deep: bool = False,
        above: bool = False,
        empty: bool = False,
    ) -> Decision:
        """Decides one operation on a resolved path inside the project; see `ruling.decide`."""
        return decide(
            self._owners, agent, operation, path, now, deep=deep, above=above, empty=empty
        )

    def explain(self, path: str, now: int, *, exists: bool) -> Explanation:
        """Says who may write a path inside the project, and by which rule."""
        return explain(self._owners, path, now, exists=exists)

    def view(self) -> LocksView:
        """Who holds what, oldest first."""
        return LocksView(holdings=self._owners.holdings(), leases=list(self.leases))
