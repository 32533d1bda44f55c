"""Who has a place, and who makes room when there is none.

A place is given to callers who are known, and to nobody else: another user never gets one, and an
agent is counted as one from the start. So nothing that a stranger or an agent does can take the
owner's places; what is left is to keep the owner's own programs from locking the owner out:

- *General* places are for any conversation, WebSockets included. Agents have half of them at
  most, and few each. When all are taken, the connection that has been idle longest goes: one that
  waits between requests, or that never said anything. So a crowd that comes and says nothing
  drives itself out, and not those who ask. Its client opens another when it needs one; HTTP asks
  every client to bear that (RFC 9112, section 9.3.1). An agent's newcomer only ever makes an
  agent's connection go.
- *Reserve* places are given to the owner when all general ones are busy, be it with WebSockets or
  with requests that never end. Who gets one is served one request, with little time for each
  step of it, and no WebSocket. So the reserve is free again in seconds, whatever happens in
  it, and who comes with one question and asks it at once, as the command line does, gets in.

All is counted in sync methods of one object; nothing waits here.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum
from math import inf
from typing import Protocol

from groove_trio.shell.limits import Limits
from groove_trio.words.actors import Actor


class Place(Enum):
    """How far a caller gets."""

    GENERAL = "it is served"
    RESERVE = "it is served one request, in a hurry"
    NONE = "there is no room for it"


class Open(Protocol):
    """An open connection, as far as the door is concerned."""

    @property
    def idle_since(self) -> float:
        """When it was let in or last answered; infinite while something is asked."""
        ...

    def leave(self) -> None:
        """Ends it now if nothing is being asked; otherwise its next answer is its last."""


class Places:
    """The connections that are let in, and those that are told why not."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._general: set[Open] = set()
        self._reserve: set[Open] = set()
        self._agents: dict[Open, str] = {}
        self._threshold: set[Open] = set()

    def __len__(self) -> int:
        return len(self._general) + len(self._reserve)

    def everyone(self) -> list[Open]:
        """The connections that are let in."""
        return [*self._general, *self._reserve]

    def take(self, connection: Open, actor: Actor) -> Place:
        """Gives a caller a place, if there is one; another may have to go for it."""
        general = self._limits.connections - self._limits.reserve
        if actor.kind == "agent":
            if self._agents_have_all(actor.name) or not self._fits(general, self._agents):
                return Place.NONE
            self._agents[connection] = actor.name
        elif not self._fits(general, self._general):
            if len(self._reserve) >= self._limits.reserve and not self.evict(self._reserve):
                return Place.NONE
            self._reserve.add(connection)
            return Place.RESERVE
        self._general.add(connection)
        return Place.GENERAL

    def turn_away(self, connection: Open) -> bool:
        """Whether there is room to tell a caller why it is not let in."""
        if len(self._threshold) >= self._limits.turned_away:
            return False
        self._threshold.add(connection)
        return True

    def free(self, connection: Open) -> None:
        """Lets a connection go."""
        self._general.discard(connection)
        self._reserve.discard(connection)
        self._threshold.discard(connection)
        self._agents.pop(connection, None)

    def evict(self, among: Collection[Open] | None = None) -> bool:
        """Ends the connection that has been idle longest; False if none is.

        Its place is free at once; its descriptor, as soon as its task has run.
        """
        idlest = min(self.everyone() if among is None else among, key=_since, default=None)
        if idlest is None or idlest.idle_since == inf:
            return False
        self.free(idlest)
        idlest.leave()
        return True

    def _fits(self, general: int, movable: Collection[Open]) -> bool:
        return len(self._general) < general or self.evict(movable)

    def _agents_have_all(self, name: str) -> bool:
        """Whether agents, or the one of this name, have all that they may."""
        theirs = list(self._agents.values())
        return len(theirs) >= self._limits.agents or theirs.count(name) >= self._limits.agent


def _since(connection: Open) -> float:
    return connection.idle_since
