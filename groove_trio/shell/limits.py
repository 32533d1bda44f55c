"""What one connection may take, and how many there may be."""

from __future__ import annotations

from dataclasses import dataclass, replace

from groove_trio.wire.http import MAX_BODY

CONNECTIONS = 256
"""Places, the reserve included. nginx takes 512 connections for a worker."""

RESERVE = 16
"""Places for hurried guests, when all others are taken. OpenSSH's MaxStartups begins to refuse
strangers at 10; PostgreSQL keeps 3 of its 100 connections for the superuser."""

AGENTS = 128
"""Connections of all agents together: half of all places stay the owner's."""

AGENT = 16
"""Connections of one agent; a browser opens 6 to a host, a hook one for each tool call."""

UNKNOWN = 64
"""Callers looked for among the agents' processes at a time; more wait in the kernel's queue."""

TURNED_AWAY = 64
"""Callers who are told at a time that they are not let in; more are closed without a word."""

HEAD_S = 10.0
"""From a request's first byte, or from accept, to the end of its head. Apache's RequestReadTimeout
gives 20 to 40, gunicorn 30; a head on loopback takes one packet."""

BODY_S = 30.0
"""From the end of the head to the end of the body. nginx gives 60 between two reads."""

IDLE_S = 75.0
"""Between requests. nginx's keepalive_timeout."""

WRITE_S = 10.0
"""For each 256 KiB of an answer to leave. nginx gives 60 between two writes."""

LINGER_S = 2.0
"""For reading the rest of a direction away after ours is closed. nginx gives 5 between reads."""

LINGER_BYTES = 16 * 1024 * 1024
"""To read away so: an upload that came too large is mostly heard to its end, and told why."""

HURRY_S = 2.0
"""For the head, for the body and for each piece of the answer of a hurried guest; what is not
lost on loopback comes within milliseconds."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of one door. Times in seconds; the constants of this module say why.

    Attributes:
        connections: Open at a time, `reserve` included.
        reserve: The last places, for whoever is quick.
        agents: Of them, those of all agents together.
        agent: Of them, those of one agent.
        unknown: Callers being told apart at a time.
        turned_away: Callers being refused at a time.
        head_s: To the end of a request's head.
        body_s: From there to the end of the body.
        idle_s: Between requests.
        write_s: For each piece of an answer.
        linger_s: For the rest of what the peer says.
        linger_bytes: How much of it.
        body_bytes: Of one request. nginx's client_max_body_size.
        hurry_s: For each step of one who is let into the reserve.
    """

    connections: int = CONNECTIONS
    reserve: int = RESERVE
    agents: int = AGENTS
    agent: int = AGENT
    unknown: int = UNKNOWN
    turned_away: int = TURNED_AWAY
    head_s: float = HEAD_S
    body_s: float = BODY_S
    idle_s: float = IDLE_S
    write_s: float = WRITE_S
    linger_s: float = LINGER_S
    linger_bytes: int = LINGER_BYTES
    body_bytes: int = MAX_BODY
    hurry_s: float = HURRY_S

    def hurried(self) -> Limits:
        """The limits of a place in the reserve: the same, and less time for everything."""
        return replace(
            self,
            head_s=min(self.head_s, self.hurry_s),
            body_s=min(self.body_s, self.hurry_s),
            write_s=min(self.write_s, self.hurry_s),
        )


LIMITS = Limits()
