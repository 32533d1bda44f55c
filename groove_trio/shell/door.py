"""What every connection is held to: limits, the fields of every answer, and who gets to answer."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import cached_property, lru_cache

import trio

from groove_trio.rules.admission import Admission
from groove_trio.shell.identity import check, identify
from groove_trio.shell.limits import LIMITS, Limits
from groove_trio.shell.pace import Pace
from groove_trio.shell.places import Open, Place, Places
from groove_trio.wire.http import Request, Response, Upgrade
from groove_trio.words.actors import Actor
from groove_trio.words.errors import Busy, GrooveError, NotAdmitted, OutOfResources

__all__ = ["CLOSE", "HOUSE_FIELDS", "Door", "Limits", "Open", "dress", "forget"]

MAKE_ROOM = 4
"""Idle connections closed at a time when descriptors run out: one makes room for a caller, three
for a look at whether it is an agent."""

Handler = Callable[[Request, Actor], Awaitable[Response]]
"""Answers one admitted request. A `GrooveError` it raises becomes the answer."""

Upgrader = Callable[[Upgrade, trio.abc.HalfCloseableStream, Actor], Awaitable[None]]
"""Takes a connection over for WebSocket and returns when it is over. A `GrooveError` it raises
becomes the answer, so it raises one only before it has written anything."""

Fields = tuple[tuple[bytes, bytes], ...]


async def forget(_refusal: NotAdmitted) -> None:
    """Notes nothing."""
    await trio.lowlevel.checkpoint()


def nothing(_request: Request) -> bool:
    """What is urgent where nothing is."""
    return False


class _Crowd:
    """Counts those who are inside its block; tells when they are few enough."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._inside = 0
        self._left = trio.Event()

    async def bearable(self) -> None:
        while self._inside >= self._size:
            await self._left.wait()

    def __enter__(self) -> None:
        self._inside += 1

    def __exit__(self, *_: object) -> None:
        self._inside -= 1
        if self._inside == self._size - 1:
            self._left.set()
            self._left = trio.Event()


@dataclass(frozen=True, kw_only=True)
class Door:
    """All that the connections of one daemon share.

    A caller passes in three steps, none of which reads a byte of it: `check` asks the kernel,
    without waiting, whether it is this user's at all; `identify` finds out whether it is an
    agent, which takes a look at who holds its socket once there are agents; and then `enter`
    gives it a place, by who it is (`places`). At most `Limits.unknown` are between the first and
    the last; while there are as many, the listener accepts nobody, so that callers wait in
    the kernel's queue, in the order in which they came, and agents that come in crowds delay
    the owner by the few milliseconds that a look takes.

    Attributes:
        admission: The rule for requests, made for the addresses that are bound.
        handler: Answers requests.
        upgrade: Takes WebSocket connections over.
        refuse: Writes an error as an answer.
        check: Makes sure, without waiting, that the other end is this user's, and gives its
            inode, or None where there is no socket; raises a `GrooveError` for whom there is
            nothing to say to but that.
        identify: Tells whose that inode is; raises as `check`.
        record: Notes that a caller was not let in.
        urgent: Tells which requests take so little that they need not wait for their turn.
        limits: What a connection may take.
        pace: How many requests are begun in one turn of the loop.
    """

    admission: Admission
    handler: Handler
    upgrade: Upgrader
    refuse: Callable[[GrooveError], Response]
    check: Callable[[trio.abc.Stream], int | None] = check
    identify: Callable[[int | None], Awaitable[Actor]] = identify
    record: Callable[[NotAdmitted], Awaitable[None]] = forget
    urgent: Callable[[Request], bool] = nothing
    limits: Limits = LIMITS
    pace: Pace = field(default_factory=Pace, init=False)
    _draining: trio.Event = field(default_factory=trio.Event, init=False)

    @cached_property
    def hurried(self) -> Limits:
        """What a connection in the reserve may take."""
        return self.limits.hurried()

    @cached_property
    def _places(self) -> Places:
        return Places(self.limits)

    @cached_property
    def _unknown(self) -> _Crowd:
        return _Crowd(self.limits.unknown)

    @property
    def connections(self) -> int:
        """How many connections are open, WebSockets included."""
        return len(self._places)

    @property
    def draining(self) -> bool:
        """Whether the door is being closed: every answer is a connection's last."""
        return self._draining.is_set()

    async def ready(self) -> None:
        """Waits while too many callers are being told apart. Does not checkpoint otherwise."""
        await self._unknown.bearable()

    async def recognise(self, stream: trio.abc.Stream) -> Actor:
        """Tells who has come.

        Raises:
            NotAdmitted: Another user, or nobody can tell.
            OutOfResources: There is no descriptor to look with.
            trio.BrokenResourceError: Nobody is there any more.
        """
        inode = self.check(stream)
        with self._unknown:
            try:
                return await self.identify(inode)
            except OutOfResources as error:
                refusal = error
            if not await self.make_room():
                raise refusal
            return await self.identify(inode)

    def enter(self, connection: Open, actor: Actor) -> Limits:
        """Takes a connection in.

        Returns:
            What it is held to: `limits`, or `hurried` if it got a place in the reserve.

        Raises:
            Busy: There is no place for it.
        """
        match self._places.take(connection, actor):
            case Place.GENERAL:
                return self.limits
            case Place.RESERVE:
                return self.hurried
            case Place.NONE:
                raise Busy("All connections are taken; try again shortly.")

    def turn_away(self, connection: Open) -> bool:
        """Whether there is room to tell a caller why it is not let in."""
        return self._places.turn_away(connection)

    async def make_room(self) -> bool:
        """Frees some descriptors by closing idle connections; whether there were any."""
        if not sum(self._places.evict() for _ in range(MAKE_ROOM)):
            return False
        for _ in range(2):  # their tasks have run by then: trio runs all that can, in any order
            await trio.lowlevel.checkpoint()
        return True

    def exit(self, connection: Open) -> None:
        """Lets a connection go."""
        self._places.free(connection)

    def drain(self) -> None:
        """Closes idle connections, and busy ones after the answer they wait for.

        Does not wait: the nursery of the connections does, under the caller's deadline. A
        WebSocket ends when its subscription does.
        """
        self._draining.set()
        for connection in self._places.everyone():
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
