"""What a denial says: the path, the rule, who owns it, until when, and the way out.

One function for each way of being denied, so that all of them read alike wherever they are
made. `reason` and `way_out` are sentences for the model that asked; `rule` is short and
stable, for a record.
"""

from __future__ import annotations

import re

from groove_trio.words.base import MAX_PATH, AgentId
from groove_trio.words.errors import shown
from groove_trio.words.knocks import Denied
from groove_trio.words.leases import Lease

_PLAIN = re.compile(r"\A[A-Za-z0-9_./@+-]+\Z")
_ASK_OWNER = "Ask the user who runs the daemon."


def unknown_agent(path: str, agent: str) -> Denied:
    """No agent of that id holds a scope."""
    return Denied(
        path=path,
        rule="unknown agent",
        reason=f"No agent {shown(agent)} is known.",
        way_out="Use the id in GROOVE_AGENT, or spawn the agent first.",
    )


def unknown_operation(path: str, operation: str) -> Denied:
    """Nobody knows what it would do."""
    return Denied(
        path=path,
        rule="unknown operation",
        reason=f"No operation {shown(operation)} is known.",
        way_out="Knock with read, write, create, delete, rename or metadata.",
    )


def protected(path: str, rule: str) -> Denied:
    """The name is protected, in every scope that does not name it literally."""
    return Denied(
        path=path,
        rule=f"protected {rule}",
        reason=f"{shown(path)} is protected: it could change what others run or are told.",
        way_out=f"{_ASK_OWNER} Only a scope that holds the pattern {shown(rule)} itself may.",
    )


def hidden(path: str, rule: str) -> Denied:
    """A read of secrets."""
    return Denied(
        path=path,
        rule=f"hidden {rule}",
        reason=f"{shown(path)} is hidden from agents: secrets are kept there.",
        way_out=f"Do without it. {_ASK_OWNER}",
    )


def unowned(path: str) -> Denied:
    """It is in nobody's scope, so not in this agent's."""
    what = f"{shown(path)} is" if path else "The project root itself is"
    return Denied(
        path=path,
        rule="nobody's scope",
        reason=f"{what} not in your scope; it is in nobody's.",
        way_out=f"Declare a lease: groove-trio declare {_argument(path)}",
    )


def owned(path: str, owner: AgentId, name: str, pattern: str) -> Denied:
    """It is in another agent's scope."""
    return Denied(
        path=path,
        rule=f"scope of {name}",
        reason=f"{shown(path)} belongs to {name}, whose scope holds {shown(pattern)}.",
        way_out=f"Ask {name} to make the change, or stay within your own scope.",
        owner=owner,
    )


def leased(path: str, lease: Lease, name: str) -> Denied:
    """Another agent has a lease on it."""
    return Denied(
        path=path,
        rule=f"lease {lease.id}",
        reason=f"{shown(path)} is leased by {name} until {lease.until}.",
        way_out=f"Wait until then, or ask {name} to complete the lease.",
        owner=lease.agent,
        until=lease.until,
    )


def beneath(path: str, owner: AgentId, name: str, by: str) -> Denied:
    """A directory would be moved or removed with what another agent may hold in it."""
    return Denied(
        path=path,
        rule=by,
        reason=f"What {name} may hold beneath {shown(path)} would go with it.",
        way_out=f"Ask {name}, or do it for the files that are yours, one by one.",
        owner=owner,
    )


def protected_beneath(path: str, name: str, rule: str) -> Denied:
    """A directory would be moved or removed with a protected name in it."""
    return Denied(
        path=path,
        rule=f"protected {rule}",
        reason=f"{shown(name)} beneath {shown(path)} is protected and would go with it.",
        way_out="Do it for the files that are not protected, one by one.",
    )


def too_large(path: str) -> Denied:
    """A directory would be moved or removed, and it can't be said with what."""
    return Denied(
        path=path,
        rule="large directory",
        reason=f"There are too many names beneath {shown(path)} to look for protected ones.",
        way_out="Do it for its parts, one by one.",
    )


def outside(path: str, where: str) -> Denied:
    """It leads out of the project."""
    return Denied(
        path=path,
        rule="outside the project",
        reason=f"It leads to {shown(where)}, which is outside the project and every scope.",
        way_out="Work inside the project; for temporary files, use TMPDIR.",
    )


def undecided(path: str, reason: str) -> Denied:
    """It can't be said where the path leads."""
    return Denied(
        path=path,
        rule="undecidable path",
        reason=reason,
        way_out="Give a plain path without links or '..'.",
    )


def unrecorded(path: str, reason: str) -> Denied:
    """The audit log can't be written, so nothing is allowed."""
    return Denied(
        path=path,
        rule="audit log",
        reason=reason,
        way_out="Try again later; most often the disk is full.",
    )


def closing(path: str) -> Denied:
    """The broker takes no more knocks."""
    return Denied(
        path=path,
        rule="shutting down",
        reason="The daemon is shutting down.",
        way_out="Stop here; the work can be resumed when it is started again.",
    )


def crowded(path: str) -> Denied:
    """The broker's queue is full and the caller would not wait."""
    return Denied(
        path=path,
        rule="full queue",
        reason="Too many knocks wait for an answer.",
        way_out="Try again shortly.",
    )


def _argument(path: str) -> str:
    if not path:
        return "PATH"
    return path if _PLAIN.match(path) else shown(path, MAX_PATH)
