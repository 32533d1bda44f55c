"""Leases, and who holds what."""

from __future__ import annotations

from typing import Annotated, NewType

from msgspec import Meta

from groove_trio.words.base import MAX_NAME, AgentId, Path, Word

LeaseId = NewType("LeaseId", str)
"""Names one lease: eight lower-case hexadecimal digits."""

MAX_LEASE_PATHS = 64  # a change that touches more wants a scope
MIN_LEASE_S = 1  # less would end before the first write
MAX_LEASE_S = 86_400  # a day: whoever forgot it is found out by tomorrow
DEFAULT_LEASE_S = 600  # Kubernetes gives 15 to a leader, who renews it; agents forget to


class DeclareRequest(Word):
    """Asks for a lease: an exclusive, temporary claim on paths that no scope owns.

    An agent asks for itself and need not say so; the owner names the `agent`.
    """

    paths: Annotated[list[Path], Meta(min_length=1, max_length=MAX_LEASE_PATHS)]
    agent: Annotated[str, Meta(max_length=MAX_NAME)] = ""
    ttl_s: Annotated[float, Meta(ge=MIN_LEASE_S, le=MAX_LEASE_S)] = DEFAULT_LEASE_S
    reason: Annotated[str, Meta(max_length=500)] = ""


class CompleteRequest(Word):
    """Gives a lease back: by id, or all of the agent's when `lease` is left out."""

    agent: Annotated[str, Meta(max_length=MAX_NAME)] = ""
    lease: Annotated[str, Meta(max_length=MAX_NAME)] | None = None


class Lease(Word):
    """A lease held: paths relative to the project root, `until` in UTC."""

    id: LeaseId
    agent: AgentId
    paths: list[str]
    since: str
    until: str
    reason: str = ""


class Holding(Word):
    """What one agent holds now."""

    agent: AgentId
    name: str
    scope: list[str]


class LocksView(Word):
    """Who holds what."""

    holdings: list[Holding]
    leases: list[Lease]


class Explanation(Word):
    """Who may write a path, by which rule; `path` is the resolved one."""

    path: str
    inside: bool
    protected_by: str | None
    owner: AgentId | None
    owner_name: str | None
    pattern: str | None
    lease: Lease | None
    exists: bool
    summary: str
    protected_patterns: list[str]
