"""What every connection is held to: limits, the fields of every answer, and who gets to answer."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from enum import Enum
from functools import lru_cache
from typing import Protocol

import trio

from groove_trio.rules.admission import Admission
from groove_trio.shell.identity import check, identify
from groove_trio.wire.http import MAX_BODY, Request, Response, Upgrade
from groove_trio.words.actors import Actor
from groove_trio.words.errors import GrooveError

Handler = Callable[[Request, Actor], Awaitable[Response]]
"""Answers one admitted request. A `GrooveError` it raises becomes the answer."""

Upgrader = Callable[[Upgrade, trio.abc.HalfCloseableStream, Actor], Awaitable[None]]
"""Takes a connection over for WebSocket and returns when it is over. A `GrooveError` it raises
becomes the answer, so it raises one only before it has written anything."""

Fields = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one connection may take, and how many there may be. Times in seconds.

    Attributes:
        connections: Open at a time. nginx takes 512 for a worker.
        turned_away: Connections over the cap that are told so at a time; any more are closed
            without a word.
        head_s: From a request's first byte, or from accept, to the end of its head. Apache's
            RequestReadTimeout gives 20 to 40, gunicorn 30; a loopback head takes one packet.
        body_s: From the end of the head to the end of the body. nginx gives 60 between reads.
        idle_s: Between requests. nginx's keepalive_timeout.
        write_s: For each 256 KiB of an answer to leave. nginx gives 60 between writes.
        linger_s: How long a closed direction's rest is read away. nginx gives 5 between reads.
        linger_bytes: How much of it.
        body_bytes: Of one request. nginx's client_max_body_size.
    """

    connections: int = 256
    turned_away: int = 64
    head_s: float = 10.0
    body_s: float = 30.0
    idle_s: float = 75.0
    write_s: float = 10.0
    linger_s: float = 2.0
    linger_bytes: int = 16 * 1024 * 1024
    body_bytes: int = MAX_BODY


class Place(Enum):
    """How far a new connection gets."""

    INSIDE = "it is served"
    THRESHOLD = "it is told that there is no room"
    OUTSIDE = "it is closed without a word"


class Open(Protocol):
    """An open connection, as far as the door is concerned."""

    def leave(self) -> None:
        """Ends it now if nothing is being asked; otherwise its next answer is its last."""


@dataclass(frozen=True, kw_only=True)
class Door:
    """All that the connections of one daemon share.

    Attributes:
        admission: The rule for requests, made for the addresses that are bound.
        handler: Answers requests.
        upgrade: Takes WebSocket connections over.
        refuse: Writes an error as an answer.
        identify: Tells who is at the other end of a new connection, before anything is read of
            it; raises a `GrooveError` for whom there is nothing to say to but that.
        check: Makes sure, without waiting, that the other end may be told that there is no room.
        limits: What a connection may take.
    """

    admission: Admission
    handler: Handler
    upgrade: Upgrader
    refuse: Callable[[GrooveError], Response]
    identify: Callable[[trio.abc.Stream], Awaitable[Actor]] = identify
    check: Callable[[trio.abc.Stream], None] = check
    limits: Limits = Limits()
    _open: set[Open] = field(default_factory=set[Open], init=False)
    _turned_away: set[Open] = field(default_factory=set[Open], init=False)
    _draining: trio.Event = field(default_factory=trio.Event, init=False)

    @property
    def connections(self) -> int:
        """How many connections are open, WebSockets included."""
        return len(self._open)

    @property
    def draining(self) -> bool:
        """Whether the door is being closed: every answer is a connection's last."""
        return self._draining.is_set()

    def enter(self, connection: Open) -> Place:
        """Takes a connection in, if there is room."""
        if len(self._open) < self.limits.connections:
            self._open.add(connection)
            return Place.INSIDE
        if len(self._turned_away) < self.limits.turned_away:
            self._turned_away.add(connection)
            return Place.THRESHOLD
        return Place.OUTSIDE

    def exit(self, connection: Open) -> None:
        """Lets a connection go."""
        self._open.discard(connection)
        self._turned_away.discard(connection)

    def drain(self) -> None:
        """Closes idle connections, and busy ones after the answer they wait for.

        Does not wait: the nursery of the connections does, under the caller's deadline. A
        WebSocket ends when its subscription does.
        """
        self._draining.set()
        for connection in list(self._open):
            connection.leave()


HOUSE_FIELDS: Fields = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
"""What every answer says to a browser, unless its handler says something else by that name."""

CLOSE = (b"connection", b"close")


def dress(response: Response, *, close: bool = False) -> Response:
    """The response with the fields that every answer has, and Date (RFC 9110, section 6.6.1)."""
    headers = response.headers
    fields = headers if type(headers) is tuple else tuple(headers)
    return Response(response.status, _fields(fields, int(time.time()), close), response.body)


@lru_cache(256)
def _fields(own: Fields, second: int, close: bool) -> Fields:
    names = {name for name, _ in own}
    house = tuple(pair for pair in HOUSE_FIELDS if pair[0] not in names)
    date = (b"date", formatdate(second, usegmt=True).encode())
    return (*own, *house, date, CLOSE) if close else (*own, *house, date)
