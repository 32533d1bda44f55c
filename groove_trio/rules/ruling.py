"""What the books say of one operation on one path: granted, or denied by whom and until when.

Every path has at most one agent that may write it (see `rules.locks`), so a decision never
weighs one claim against another: it asks whether the path is in *this* agent's scope or lease.
Whether others own something is looked up only to say so in a denial.

Renaming a directory moves what is beneath it, so it is decided for the whole of it: a
directory with another agent's paths or a protected name in it stays where it is.

A decision costs the agent's own scope and one search among the leases, whatever the number of
agents.
"""

from __future__ import annotations

from groove_trio.rules import denials
from groove_trio.rules.owners import Owners
from groove_trio.rules.scopes import PROTECTED, Scope, protected_by, shields
from groove_trio.words.base import AgentId
from groove_trio.words.errors import shown
from groove_trio.words.knocks import Decision, Denied, Granted, Operation
from groove_trio.words.leases import Explanation, Lease

_ABOVE_PROTECTED = tuple(
    (pattern[:end], pattern)
    for pattern in PROTECTED
    for end in range(len(pattern))
    if pattern[end] == "/" and pattern[end + 1 :] != "**"
)


def decide(
    owners: Owners,
    agent: AgentId,
    operation: Operation,
    path: str,
    now: int,
    *,
    deep: bool = False,
    above: bool = False,
    empty: bool = False,
) -> Decision:
    """Decides one operation on a resolved path inside the project.

    Args:
        owners: Who holds what.
        agent: Whose operation it is.
        operation: What it does.
        path: Relative to the project root, ``""`` for the root.
        now: The time, in nanoseconds since the epoch.
        deep: Whether what lies beneath the path goes with it: a directory is renamed, or
            removed with its content.
        above: Whether a directory is made: one that the agent's scope or lease lies beneath may
            be, for nobody else can use it and the agent can use nothing without it.
        empty: Whether it is an empty directory that is made or removed.
    """
    scope = owners.scope_of(agent)
    if scope is None:
        return denials.unknown_agent(path, agent)
    if path.startswith(f".groove/agents/{agent}/tmp/"):  # noqa: S108 - inside the project
        return Granted(path=path, rule="own temporary directory")
    if operation == "read":
        if path == ".groove" or path.startswith(".groove/"):
            return denials.hidden(path, ".groove/**")
        return Granted(path=path, rule="read in the project")
    pattern, rule = scope.permits(path)
    if rule is not None and not (empty and shields(path)):
        return denials.protected(path, rule)
    if pattern is None:
        lease = owners.leases.at(path, now)
        if lease is None or lease.agent != agent:
            if above and lease is None and _is_above(owners, agent, scope, path, now):
                return Granted(path=path, rule="directory above its own")
            return _denied(owners, path, lease)
        granted = Granted(path=path, rule=f"lease {lease.id}")
    else:
        granted = Granted(path=path, rule=pattern)
    return (deep and _denied_beneath(owners, agent, scope, path, pattern, now)) or granted


def _is_above(owners: Owners, agent: AgentId, scope: Scope, path: str, now: int) -> bool:
    """Whether a directory that nobody holds has something of the agent's beneath it."""
    beneath = f"{path}/"
    return owners.owner_of(path) is None and (
        scope.reaches(beneath)
        or any(lease.agent == agent for lease in owners.leases.beneath(beneath, now))
    )


def _denied(owners: Owners, path: str, lease: Lease | None) -> Denied:
    if lease is not None:
        return denials.leased(path, lease, owners.name_of(lease.agent))
    found = owners.owner_of(path)
    if found is None:
        return denials.unowned(path)
    owner, pattern = found
    return denials.owned(path, owner, owners.name_of(owner), pattern)


def _denied_beneath(  # noqa: PLR0917 - what `decide` knows by then
    owners: Owners, agent: AgentId, scope: Scope, path: str, pattern: str | None, now: int
) -> Denied | None:
    for above, rule in _ABOVE_PROTECTED:
        if (path == above or above.startswith(f"{path}/")) and rule not in scope.patterns:
            return denials.protected(path, rule)
    for lease in owners.leases.beneath(f"{path}/", now):
        if lease.agent != agent:
            name = owners.name_of(lease.agent)
            return denials.beneath(path, lease.agent, name, f"lease {lease.id}")
    if pattern is not None and (pattern == "**" or pattern.endswith(("/**", "/"))):
        return None  # all beneath is in the scope, so it is in no other
    other = owners.other_than(agent, f"{path}/")
    if other is None:
        return None
    name = owners.name_of(other)
    return denials.beneath(path, other, name, f"scope of {name}")


def explain(owners: Owners, path: str, now: int, *, exists: bool) -> Explanation:
    """Says who may write a path inside the project, and by which rule."""
    found = owners.owner_of(path)
    lease = owners.leases.at(path, now)
    owner, pattern = found or (lease.agent if lease else None, None)
    name = None if owner is None else owners.name_of(owner)
    rule = protected_by(path)
    scope = None if owner is None else owners.scope_of(owner)
    named = scope is not None and scope.permits(path)[1] is None
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
