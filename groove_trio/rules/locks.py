"""The lock table: who holds which scope and which lease, and so who may write a path now.

Invariants, kept by `reserve` and `declare` and by nothing else:

- No two scopes held share a path.
- No two leases share a path, and no lease shares one with a scope of another agent. A lease on
  a path of one's own scope is allowed; it grants nothing that was not granted.

So every path has at most one agent that may write it, and a decision never weighs one claim
against another: it asks whether the path is in *this* agent's scope or lease. Whether others
own something is looked up only to say so in a denial.

A lease on ``docs/x.md`` covers that name; one on ``docs/``, with its slash, covers the
directory and all beneath. Declaring again what one already leases renews it: the new lease
takes the place of the old where it covers all of it, else it is refused.

A scope is held until it is released: an agent that ended, even one that died with the daemon,
keeps it while a process of its tree may live. When that is, the supervisor knows.

Renaming a directory moves what is beneath it, so it is decided for the whole of it: a
directory with another agent's paths or a protected name in it stays where it is.

Times are nanoseconds since the epoch, and always an argument. A decision costs the agent's own
scope and one search among the leases, whatever the number of agents.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from groove_trio.rules import denials
from groove_trio.rules.claims import condensed, covers
from groove_trio.rules.leases import Leases
from groove_trio.rules.scopes import PROTECTED, Scope, ScopeIndex, overlap, protected_by
from groove_trio.words.clock import NS, parse_rfc3339, rfc3339
from groove_trio.words.errors import shown
from groove_trio.words.schemas import (
    MAX_PATTERN,
    AgentId,
    Decision,
    Denied,
    Explanation,
    Granted,
    Holding,
    Lease,
    LeaseId,
    LocksView,
    Operation,
)

MAX_AGENT_CLAIMS = 256
"""Paths that one agent may lease at a time: four leases of the greatest size."""

MAX_CLAIMS = 10_000
"""Paths leased in all: every new scope is compared with each, at about 5 µs."""

# What a pattern can't say literally; a "?" in its place says a little more, which is safe.
_SPECIAL = re.compile("[*?\\[\\]{}!~\\\\\\x00-\\x1f\\x7f-\\x9f\\ud800-\\udfff]")

_ABOVE_PROTECTED = tuple(
    (pattern[:end], pattern)
    for pattern in PROTECTED
    for end in range(len(pattern))
    if pattern[end] == "/" and pattern[end + 1 :] != "**"
)


@dataclass(frozen=True, slots=True)
class Overlap:
    """A scope was refused: `witness` is a path that another agent holds."""

    witness: str
    owner: AgentId
    name: str
    by: str


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


@dataclass(slots=True)
class _Holder:
    name: str
    scope: Scope


class LockTable:
    """Scopes and leases held; owned by one task, changed by nothing else. No I/O, no clock.

    Attributes:
        leases: Those in force, to be read; `declare`, `drop` and `release` change them.
    """

    def __init__(self) -> None:
        self.leases = Leases()
        self._holders: dict[AgentId, _Holder] = {}
        self._index: ScopeIndex[AgentId] = ScopeIndex()

    # Scopes

    def reserve(self, agent: AgentId, name: str, scope: Scope) -> Overlap | None:
        """Takes a scope for an agent, or says which path of it another agent holds.

        Taking the same scope again for the same agent changes nothing.

        Raises:
            ValueError: The agent holds another scope.
        """
        known = self._holders.get(agent)
        if known is not None:
            if known.scope != scope:
                raise ValueError(f"agent {agent} holds another scope already")
            known.name = name
            return None
        if (found := self._index.first_overlap(scope)) is not None:
            owner, witness = found
            return Overlap(witness, owner, self._holders[owner].name, "its scope")
        for claim, lease in self.leases.by_claim():
            if (shared := _meets(scope, claim)) is not None:
                name = self._holders[lease.agent].name
                return Overlap(shared, lease.agent, name, f"lease {lease.id}")
        self._holders[agent] = _Holder(name, scope)
        self._index.add(agent, scope)
        return None

    def release(self, agent: AgentId) -> list[Lease]:
        """Forgets an agent; returns the leases that end with it. An unknown one is no fault."""
        holder = self._holders.get(agent)
        if holder is None:
            return []
        ended = list(self.leases.of(agent).values())
        self.drop(ended)
        self._index.remove(agent)
        del self._holders[agent]
        return ended

    def rename(self, agent: AgentId, name: str) -> None:
        """Gives a known agent the name that others are told.

        Raises:
            KeyError: The agent is not known.
        """
        self._holders[agent].name = name

    def knows(self, agent: AgentId) -> bool:
        """Whether the agent holds a scope, be it an empty one."""
        return agent in self._holders

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
        if agent not in self._holders:
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
        self.leases.drop(leases)

    def restore(self, leases: Iterable[Lease], now: int) -> list[tuple[Lease, str]]:
        """Takes up leases of an earlier run; returns those it can't, each with the reason."""
        dropped: list[tuple[Lease, str]] = []
        for lease in leases:
            if problem := self._unfit(lease, now):
                dropped.append((lease, problem))
            else:
                self.leases.put(lease)
        return dropped

    def _unfit(self, lease: Lease, now: int) -> str | None:
        try:
            until = parse_rfc3339(lease.until)
        except ValueError as error:
            return str(error)
        if until <= now:
            return "it ran out"
        if lease.agent not in self._holders:
            return "its agent is not known any more"
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
        if (owner := self._other_owner(agent, claim)) is not None:
            return Held(owner, self._holders[owner].name, claim, None, "its scope")
        for lease in self.leases.touching(claim):
            renewed = lease.agent == agent and all(
                any(covers(new, old) for new in claims) for old in lease.paths
            )
            if not renewed:
                name = self._holders[lease.agent].name
                return Held(lease.agent, name, claim, lease.until, f"lease {lease.id}")
            replaced[lease.id] = lease
        return None

    def _other_owner(self, agent: AgentId, claim: str) -> AgentId | None:
        """Another agent whose scope holds a path of the claim."""
        if not claim.endswith("/"):
            found = self._index.owner_of(claim)
            return None if found is None or found[0] == agent else found[0]
        own = self._holders[agent].scope
        self._index.remove(agent)
        try:
            beneath = self._index.first_overlap(_as_scope(claim))
        finally:
            self._index.add(agent, own)
        return None if beneath is None else beneath[0]

    # Decisions

    def decide(
        self, agent: AgentId, operation: Operation, path: str, now: int, *, deep: bool = False
    ) -> Decision:
        """Decides one operation on a resolved path inside the project.

        Args:
            agent: Whose operation it is.
            operation: What it does.
            path: Relative to the project root, ``""`` for the root.
            now: The time.
            deep: Whether what lies beneath the path goes with it: a directory is renamed, or
                removed with its content.
        """
        holder = self._holders.get(agent)
        if holder is None:
            return denials.unknown_agent(path, agent)
        if path.startswith(f".groove/agents/{agent}/tmp/"):  # noqa: S108 - inside the project
            return Granted(path=path, rule="own temporary directory")
        if operation == "read":
            if path == ".groove" or path.startswith(".groove/"):
                return denials.hidden(path, ".groove/**")
            return Granted(path=path, rule="read in the project")
        pattern, rule = holder.scope.permits(path)
        if rule is not None:
            return denials.protected(path, rule)
        if pattern is None:
            lease = self.leases.at(path, now)
            if lease is None or lease.agent != agent:
                return self._denied(path, lease)
            granted = Granted(path=path, rule=f"lease {lease.id}")
        else:
            granted = Granted(path=path, rule=pattern)
        return (deep and self._denied_beneath(agent, path, pattern, now)) or granted

    def _denied(self, path: str, lease: Lease | None) -> Denied:
        if lease is not None:
            return denials.leased(path, lease, self._holders[lease.agent].name)
        found = self._index.owner_of(path)
        if found is None:
            return denials.unowned(path)
        owner, pattern = found
        return denials.owned(path, owner, self._holders[owner].name, pattern)

    def _denied_beneath(
        self, agent: AgentId, path: str, pattern: str | None, now: int
    ) -> Denied | None:
        literal = self._holders[agent].scope.patterns
        for above, rule in _ABOVE_PROTECTED:
            if (path == above or above.startswith(f"{path}/")) and rule not in literal:
                return denials.protected(path, rule)
        for lease in self.leases.beneath(f"{path}/", now):
            if lease.agent != agent:
                name = self._holders[lease.agent].name
                return denials.beneath(path, lease.agent, name, f"lease {lease.id}")
        if pattern is not None and (pattern == "**" or pattern.endswith(("/**", "/"))):
            return None  # all beneath is in the scope, so it is in no other
        other = self._other_owner(agent, f"{path}/")
        if other is None:
            return None
        name = self._holders[other].name
        return denials.beneath(path, other, name, f"scope of {name}")

    # Views

    def view(self) -> LocksView:
        """Who holds what, oldest first."""
        return LocksView(
            holdings=[
                Holding(agent=agent, name=holder.name, scope=list(holder.scope.patterns))
                for agent, holder in self._holders.items()
            ],
            leases=list(self.leases),
        )

    def explain(self, path: str, now: int, *, exists: bool) -> Explanation:
        """Says who may write a path inside the project, and by which rule."""
        found = self._index.owner_of(path)
        lease = self.leases.at(path, now)
        owner, pattern = found or (lease.agent if lease else None, None)
        name = None if owner is None else self._holders[owner].name
        rule = protected_by(path)
        named = owner is not None and self._holders[owner].scope.permits(path)[1] is None
        if rule is not None and not named:
            summary = f"No agent may write it: it is protected by {shown(rule)}."
        elif pattern is not None:
            summary = f"{name} may write it: its scope holds {shown(pattern)}."
        elif lease is not None:
            summary = f"{name} may write it until {lease.until}, by lease {lease.id}."
        else:
            summary = "No agent may write it; any may declare a lease on it."
        return Explanation(
            path=path,
            inside=True,
            protected_by=rule,
            owner=owner,
            owner_name=name,
            pattern=pattern,
            lease=lease,
            exists=exists,
            summary=summary,
            protected_patterns=list(PROTECTED),
        )


def _as_scope(claim: str) -> Scope:
    """A scope of at least what a claim covers, and hardly more; for comparing with scopes."""
    text = _SPECIAL.sub("?", claim)
    if len(text) >= MAX_PATTERN:
        text = text[: MAX_PATTERN - 2].rpartition("/")[0] + "/"
    if text == "/":
        return Scope(["**"])
    return Scope([text.removesuffix("/"), text])


def _meets(scope: Scope, claim: str) -> str | None:
    """A path that is in the scope and in the claim."""
    if not claim.endswith("/"):
        return claim if scope.matches(claim) else None
    return overlap(scope, _as_scope(claim))
