"""Who holds what: agents, their scopes and leases, and what is asked about them all.

This keeps books; it refuses nothing. That no two agents come to hold one path is for the lock
table to see to, which asks here before it enters anything. What an agent may do follows from
the books as they stand, and is said in `rules.ruling`.
"""

from __future__ import annotations

from dataclasses import dataclass

from groove_trio.rules.leases import Leases
from groove_trio.rules.scopes import Scope, ScopeIndex, overlap
from groove_trio.words.base import AgentId
from groove_trio.words.leases import Holding


@dataclass(frozen=True, slots=True)
class Overlap:
    """What a scope shares with another agent: `witness` is a path that `owner` holds."""

    witness: str
    owner: AgentId
    name: str
    by: str


@dataclass(slots=True)
class _Holder:
    name: str
    scope: Scope


class Owners:
    """The agents that are known, each with a name and a scope, and the leases they have.

    Attributes:
        leases: Those in force.
    """

    def __init__(self) -> None:
        self.leases = Leases()
        self._holders: dict[AgentId, _Holder] = {}
        self._index: ScopeIndex[AgentId] = ScopeIndex()

    def __contains__(self, agent: AgentId) -> bool:
        return agent in self._holders

    def add(self, agent: AgentId, name: str, scope: Scope) -> None:
        """Enters an agent that is not known yet, with a scope that meets no other's."""
        self._holders[agent] = _Holder(name, scope)
        self._index.add(agent, scope)

    def remove(self, agent: AgentId) -> None:
        """Strikes out an agent, which has no leases any more."""
        self._index.remove(agent)
        del self._holders[agent]

    def rename(self, agent: AgentId, name: str) -> None:
        """Gives an agent the name that others are told.

        Raises:
            KeyError: The agent is not known.
        """
        self._holders[agent].name = name

    def scope_of(self, agent: AgentId) -> Scope | None:
        """The scope of an agent, be it an empty one; None if the agent is not known."""
        holder = self._holders.get(agent)
        return None if holder is None else holder.scope

    def name_of(self, agent: AgentId) -> str:
        """What a known agent goes by."""
        return self._holders[agent].name

    def owner_of(self, path: str) -> tuple[AgentId, str] | None:
        """The agent whose scope holds a path, and the pattern by which it does."""
        return self._index.owner_of(path)

    def meeting(self, scope: Scope) -> Overlap | None:
        """What anyone holds, by scope or lease, of a scope."""
        if (found := self._index.first_overlap(scope)) is not None:
            owner, witness = found
            return Overlap(witness, owner, self.name_of(owner), "its scope")
        for claim, lease in self.leases.by_claim():
            if (shared := _meets(scope, claim)) is not None:
                by = f"lease {lease.id}"
                return Overlap(shared, lease.agent, self.name_of(lease.agent), by)
        return None

    def other_than(self, agent: AgentId, claim: str) -> AgentId | None:
        """Another agent whose scope holds a path of a claim."""
        if not claim.endswith("/"):
            found = self._index.owner_of(claim)
            return None if found is None or found[0] == agent else found[0]
        own = self._holders[agent].scope
        self._index.remove(agent)
        try:
            beneath = self._index.first_overlap(Scope.of_claim(claim))
        finally:
            self._index.add(agent, own)
        return None if beneath is None else beneath[0]

    def holdings(self) -> list[Holding]:
        """Who holds which scope, oldest first."""
        return [
            Holding(agent=agent, name=holder.name, scope=list(holder.scope.patterns))
            for agent, holder in self._holders.items()
        ]


def _meets(scope: Scope, claim: str) -> str | None:
    """A path that is in the scope and in the claim."""
    if not claim.endswith("/"):
        return claim if scope.matches(claim) else None
    return overlap(scope, Scope.of_claim(claim)) if scope.reaches(claim) else None
