"""Who is asking."""

from __future__ import annotations

from typing import Literal

from groove_trio.words.base import AgentId, Word


class Actor(Word):
    """Who is asking: fixed when a connection is accepted, then carried as a value."""

    kind: Literal["owner", "agent", "daemon", "system"]
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind


OWNER = Actor(kind="owner")
"""The user who runs the daemon."""

SYSTEM = Actor(kind="system")
"""The daemon itself: an expiry, a restart, a crash."""


def agent_actor(agent: AgentId) -> Actor:
    """The actor that is an agent."""
    return Actor(kind="agent", name=agent)
