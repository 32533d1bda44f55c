"""The leases in force: by id, by path, and by when they run out.

This only keeps books. Whether a lease may be taken is for the lock table to say, which knows
the scopes as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from heapq import heapify, heappop, heappush
from typing import Final

import msgspec

from groove_trio.rules.claims import Claims
from groove_trio.words.base import AgentId
from groove_trio.words.clock import parse_rfc3339, rfc3339
from groove_trio.words.errors import BadRequest, shown
from groove_trio.words.leases import (
    MAX_LEASE_PATHS,
    MAX_LEASE_S,
    MIN_LEASE_S,
    Lease,
    LeaseId,
)

MAX_REASON = 500  # as in `DeclareRequest`


def moved_lease(lease: Lease, by: int) -> Lease:
    """A lease as it is told when the clock was set forward by so many nanoseconds, or back."""
    since, until = parse_rfc3339(lease.since) + by, parse_rfc3339(lease.until) + by
    return msgspec.structs.replace(lease, since=rfc3339(since), until=rfc3339(until))


class Leases:
    """Leases of which no two share a path (`touching` says which a new claim would meet)."""

    SLACK: Final = 64
    """Ended leases that may linger among the expiries, beside as many as there are in force."""

    def __init__(self) -> None:
        self._leases: dict[LeaseId, Lease] = {}
        self._until: dict[LeaseId, int] = {}
        self._expiries: list[tuple[int, LeaseId]] = []  # a heap; ended leases linger in it
        self._claims = Claims()
        self._by_agent: dict[AgentId, dict[LeaseId, Lease]] = {}

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._leases.values())

    def __contains__(self, lease: object) -> bool:
        """Whether this very lease, or one of its id, is in force."""
        return isinstance(lease, Lease) and lease.id in self._leases

    @property
    def claims(self) -> int:
        """How many paths are leased in all."""
        return len(self._claims)

    @property
    def pending(self) -> int:
        """How many expiries are kept, those of ended leases included."""
        return len(self._expiries)

    def claims_of(self, agent: AgentId) -> int:
        """How many paths an agent leases."""
        return sum(len(lease.paths) for lease in self._by_agent.get(agent, {}).values())

    def put(self, lease: Lease) -> None:
        """Takes up a lease that shares no path with those there are.

        Raises:
            ValueError: Its `until` is not a time.
        """
        until = parse_rfc3339(lease.until)
        self._leases[lease.id] = lease
        self._until[lease.id] = until
        self._expect(until, lease.id)
        self._by_agent.setdefault(lease.agent, {})[lease.id] = lease
        for claim in lease.paths:
            self._claims.add(claim, lease.id)

    def move(self, leases: Iterable[Lease]) -> None:
        """Gives leases that are in force other times; the order of all stays as it is."""
        for lease in leases:
            until = parse_rfc3339(lease.until)
            self._leases[lease.id] = self._by_agent[lease.agent][lease.id] = lease
            self._until[lease.id] = until
            self._expect(until, lease.id)

    def _expect(self, until: int, lease: LeaseId) -> None:
        heappush(self._expiries, (until, lease))
        if self.pending > 2 * len(self._leases) + self.SLACK:
            self._expiries = [(until, lease) for lease, until in self._until.items()]
            heapify(self._expiries)

    def drop(self, leases: Iterable[Lease]) -> None:
        """Ends leases; one that has ended already is no fault."""
        for lease in leases:
            if self._leases.pop(lease.id, None) is None:
                continue
            del self._until[lease.id]
            own = self._by_agent[lease.agent]
            del own[lease.id]
            if not own:
                del self._by_agent[lease.agent]
            for claim in lease.paths:
                self._claims.remove(claim)

    def of(self, agent: AgentId) -> dict[LeaseId, Lease]:
        """An agent's leases by id; not to be changed."""
        return self._by_agent.get(agent, {})

    def at(self, path: str, now: int) -> Lease | None:
        """The lease that covers a path and has not run out."""
        lease = self._claims.holding(path)
        return None if lease is None or self._until[lease] <= now else self._leases[lease]

    def touching(self, claim: str) -> list[Lease]:
        """The leases that a new claim would share a path with, run out or not."""
        return [self._leases[lease] for lease in self._claims.touching(claim)]

    def beneath(self, directory: str, now: int) -> Iterator[Lease]:
        """The leases on what lies in a directory (given with its slash) that have not run out."""
        for _, lease in self._claims.beneath(directory):
            if self._until[lease] > now:
                yield self._leases[lease]

    def by_claim(self) -> Iterator[tuple[str, Lease]]:
        """Every claim with its lease."""
        return ((claim, self._leases[lease]) for claim, lease in self._claims)

    def due(self, now: int) -> list[Lease]:
        """The leases that have run out; they grant nothing more, but stand until dropped."""
        return [self._leases[lease] for lease, until in self._until.items() if until <= now]

    def next_expiry(self) -> int | None:
        """When the next lease runs out."""
        heap = self._expiries
        while heap and self._until.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else None


def check_lease(paths: Sequence[str], ttl_s: float, reason: str) -> None:
    """The bounds of `DeclareRequest`, for callers that did not come by the wire.

    Raises:
        BadRequest: One of them is passed.
    """
    if not 1 <= len(paths) <= MAX_LEASE_PATHS:
        raise BadRequest(
            f"A lease is on 1 to {MAX_LEASE_PATHS} paths, not {len(paths)}.", field="paths"
        )
    if not MIN_LEASE_S <= ttl_s <= MAX_LEASE_S:  # also refuses NaN
        raise BadRequest(
            f"A lease lasts {MIN_LEASE_S} to {MAX_LEASE_S} seconds, not {shown(ttl_s)}.",
            field="ttlS",
        )
    if len(reason) > MAX_REASON:
        raise BadRequest(f"A reason has at most {MAX_REASON} characters.", field="reason")
