"""What happened: the events that a subscriber of ``/ws`` sees, each in an `Envelope`.

A connection without ``after`` begins with a `Snapshot` and goes on with events in order. With
``after``, the number of the event seen last, it begins with the events that followed, when all of
them are still held; otherwise with a `Gap` and then a `Snapshot`. A subscriber that falls so far
behind that events it has not read are no longer held gets a `Gap` alone, and then what happens
from there on: it asks again for what it needs.

`Envelope.seq` grows by one an event and, since it begins at the daemon's start time in
microseconds, never repeats a number of an earlier run. The `seq` of a `Snapshot` or a `Gap` is
that of the latest event before it, so that ``after`` may always be the `seq` received last.
"""

from __future__ import annotations

from typing import dataclass_transform

import msgspec
from msgspec import Struct

from groove_trio.words.agents import AgentState, AgentView
from groove_trio.words.base import AgentId
from groove_trio.words.knocks import Decision, Operation, Source
from groove_trio.words.leases import Lease, LocksView
from groove_trio.words.output import OutputLine


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
    """One knock and its decision.

    At the gate, thread `pid` of the program `tool` makes the system call `call`. What it was
    granted comes `again` so many times within a second, and is told of once more then.
    """

    id: AgentId
    operation: Operation
    source: Source
    tool: str
    decision: Decision
    call: str = ""
    pid: int = 0
    again: int = 0


class CallRefused(Event):
    """A process of an agent made a system call that no agent may make, such as ``mount``."""

    id: AgentId
    call: str
    pid: int
    tool: str


class LeaseDeclared(Event):
    """A lease was taken, or its times were moved because the machine's clock was set."""

    lease: Lease


class LeaseEnded(Event):
    """A lease was given back, ran out, or went with its agent."""

    lease: Lease
    why: str


class Draining(Event):
    """The daemon is shutting down; no agent is admitted any more."""


class Gap(Event):
    """Events were missed: `missed` of them, numbers `first` to `last`.

    `missed` is null when the number asked for belongs to another run of the daemon, so that
    they can't be counted.
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
    | CallRefused
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
