"""What happened: the events that a subscriber of ``/ws`` sees, each in an `Envelope`.

The first message of a connection is a `Snapshot` (or a `Gap` and then a `Snapshot`, when the
events after the number asked for are no longer held); then events in order. `Envelope.seq`
grows by one an event and, since it begins at the daemon's start time in microseconds, never
repeats a number of an earlier run.
"""

from __future__ import annotations

from typing import dataclass_transform

import msgspec
from msgspec import Struct

from groove_trio.words.schemas import (
    AgentId,
    AgentState,
    AgentView,
    Decision,
    Lease,
    LocksView,
    Operation,
    OutputLine,
    Source,
)


def _camel(name: str) -> str:
    return name[0].lower() + name[1:]


# As in `schemas.Word`: what msgspec hands down, type checkers are told.
@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Event(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag=_camel):
    """Base of all events; ``type`` in JSON is the class name in camelCase."""


class AgentAdded(Event):
    """An agent was admitted; its scope is reserved."""

    agent: AgentView


class AgentStateChanged(Event):
    """An agent moved along the lifecycle table."""

    id: AgentId
    before: AgentState
    after: AgentState
    reason: str | None
    agent: AgentView


class AgentChanged(Event):
    """Something else about an agent changed: its name or its restart policy."""

    agent: AgentView


class AgentRemoved(Event):
    """An agent was forgotten and its scope released."""

    id: AgentId


class OutputAppended(Event):
    """Lines that an agent wrote, already in its log; consecutive in `seq`."""

    id: AgentId
    lines: list[OutputLine]


class KnockDecided(Event):
    """One knock and its decision."""

    id: AgentId
    operation: Operation
    source: Source
    tool: str
    decision: Decision


class LeaseDeclared(Event):
    """A lease was taken."""

    lease: Lease


class LeaseEnded(Event):
    """A lease was given back, ran out, or went with its agent."""

    lease: Lease
    why: str


class Draining(Event):
    """The daemon is shutting down; no agent is admitted any more."""


class Gap(Event):
    """Events were missed: `missed` of them, numbers `first` to `last`.

    `missed` is null when they belong to an earlier run of the daemon and can't be counted.
    Output lines that were missed are in ``GET /api/agents/{id}/output``.
    """

    missed: int | None
    first: int
    last: int


class Snapshot(Event):
    """All there is, as of the envelope's `seq`."""

    agents: list[AgentView]
    locks: LocksView
    draining: bool


AnyEvent = (
    AgentAdded
    | AgentStateChanged
    | AgentChanged
    | AgentRemoved
    | OutputAppended
    | KnockDecided
    | LeaseDeclared
    | LeaseEnded
    | Draining
    | Gap
    | Snapshot
)


class Envelope(Struct, frozen=True, kw_only=True, rename="camel"):
    """One event on the wire: its number, its time (UTC, RFC 3339) and itself."""

    seq: int
    time: str
    event: AnyEvent
