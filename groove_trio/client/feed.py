"""The event feed, followed across dropped connections.

A feed is pulled: nothing is read from the socket while the caller is busy, so a slow caller costs
the daemon nothing but its place in the history. After a drop the feed asks for what came after
the last event it handed out; where the daemon no longer holds all of that, a `Gap` and a
`Snapshot` say so. Nothing is handed out twice, and nothing is left out silently.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Self

import anyio
import anyio.abc
import msgspec

from groove_trio.client.faults import error_from
from groove_trio.client.find import Address
from groove_trio.client.link import BROKEN, open_stream, receive
from groove_trio.wire.http import CLOSED, MAX_ANSWER, NEED_DATA, ClientConnection, Switched
from groove_trio.wire.ws import (
    ABNORMAL,
    GOING_AWAY,
    NORMAL,
    ClientSocket,
    Closed,
    Ping,
    TextMessage,
)
from groove_trio.words.errors import (
    BadAnswer,
    Busy,
    Draining,
    RemoteError,
    Unreachable,
    shown,
)
from groove_trio.words.events import Envelope

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 2.0
TRIES = 8  # with the waits above about ten seconds: a daemon's restart
SILENCE_S = 30.0  # then we ask; nothing for as long again is a dropped connection

_decode = msgspec.json.Decoder(Envelope).decode
_PASSING = (Unreachable, BadAnswer, Busy, Draining)
"""What another try may overcome."""


class Feed(anyio.abc.AsyncResource):
    """Events as they happen; an async context manager to iterate over. Not for two tasks at once.

    Ends when the daemon shuts down. While the caller is busy nothing is read; a caller that stays
    away for long may find a `Gap`.

    Attributes:
        seq: The number of the last event handed out; None before the first. Another feed with
            ``after=feed.seq`` goes on there.
    """

    def __init__(
        self, locate: Callable[[], Address], after: int | None = None, tries: int = TRIES
    ) -> None:
        self.seq = after
        self._locate = locate
        self._tries = tries
        self._wire: _Wire | None = None
        self._ready: deque[Envelope] = deque()
        self._ended = False

    async def __aenter__(self) -> Self:
        """Subscribes, as `open` does."""
        await self.open()
        return self

    async def open(self) -> None:
        """Subscribes: returns when the daemon has agreed, so that no event after that is missed.

        Raises:
            Unreachable: Nobody listens there.
        """
        after = "" if self.seq is None else f"?after={self.seq}"
        wire = await _open_wire(self._locate(), f"/ws{after}")
        self._wire = wire
        try:
            await self._take(wire)  # the first events may have come with the answer
        except BaseException:
            self._wire = None
            await wire.aclose()
            raise

    async def aclose(self) -> None:
        """Closes the connection, without waiting for the daemon's farewell. May be repeated."""
        self._ended = True
        await self._drop()

    def __aiter__(self) -> Self:
        """Iterates over events until the daemon shuts down."""
        return self

    async def __anext__(self) -> Envelope:
        """Waits for the next event. Cancelling it loses nothing.

        Raises:
            Unreachable: The connection dropped and could not be had again, for about ten seconds.
            RemoteError: An event that this version does not know.
        """
        while not self._ready:
            if self._ended:
                raise StopAsyncIteration
            if self._wire is None:
                await self._reopen()
            elif await self._wire.hear():
                await self._take(self._wire)
        envelope = self._ready.popleft()
        self.seq = envelope.seq
        return envelope

    async def _take(self, wire: _Wire) -> None:
        """Takes what was heard; nothing of it is lost if the answer to it can't be sent."""
        texts, replies, code = wire.take()
        self._ready.extend(_envelope(text) for text in texts)
        if code is None:
            await wire.say(replies)
            return
        self._wire = None
        self._ended |= code in (NORMAL, GOING_AWAY)
        try:
            await wire.say(replies)
        finally:
            await wire.aclose()

    async def _reopen(self) -> None:
        wait = FIRST_WAIT_S
        for left in reversed(range(self._tries)):
            try:
                await self.open()
            except _PASSING:
                if not left:
                    raise
                await anyio.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT_S)
            else:
                return

    async def _drop(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.aclose()


def _envelope(text: str) -> Envelope:
    try:
        return _decode(text)
    except msgspec.DecodeError as error:
        raise RemoteError(f"the daemon sent an event that can't be read: {shown(text)}") from error


class _Wire:
    """One connection that speaks WebSocket."""

    def __init__(self, stream: anyio.abc.SocketStream, socket: ClientSocket) -> None:
        self._stream = stream
        self._socket = socket
        self._asked = False
        self._torn = False  # a frame of ours may have gone out in part

    async def aclose(self) -> None:
        await anyio.aclose_forcefully(self._stream)

    async def hear(self) -> bool:
        """Waits for data, and says whether there is something to take. Cancelling loses nothing."""
        if not self._torn:
            with anyio.move_on_after(SILENCE_S):
                self._socket.receive(await receive(self._stream))
                self._asked = False
                return True
            if not self._asked:
                self._asked = True
                await self.say(self._socket.ping())
                return False
        self._socket.receive(b"")  # as good as gone
        return True

    async def say(self, data: bytes) -> None:
        if not data:
            return
        self._torn = True
        with suppress(*BROKEN):
            await self._stream.send(data)
        self._torn = False

    def take(self) -> tuple[list[str], bytes, int | None]:
        """The messages that came, what to answer to pings, and the code it closed with."""
        texts: list[str] = []
        replies = b""
        for event in self._socket.events():
            match event:
                case TextMessage(text=text):
                    texts.append(text)
                case Ping(reply=reply):
                    replies += reply
                case Closed(code=code, reply=reply, failed=failed):
                    return texts, replies + reply, ABNORMAL if failed else code
                case _:
                    pass
        return texts, replies, None


async def _open_wire(address: Address, target: str) -> _Wire:
    stream = await open_stream(address)
    agreed = False
    try:
        socket = await _shake_hands(stream, address, target)
        agreed = True
    finally:
        if not agreed:
            await anyio.aclose_forcefully(stream)
    return _Wire(stream, socket)


async def _shake_hands(
    stream: anyio.abc.SocketStream, address: Address, target: str
) -> ClientSocket:
    http = ClientConnection(address.authority)
    socket = ClientSocket(max_message=MAX_ANSWER)  # a snapshot tells all agents at once
    with suppress(*BROKEN):
        await stream.send(http.request("GET", target, socket.headers))
    while True:
        event = http.next_event()
        if event is CLOSED:
            raise Unreachable(f"the connection to {address.url} broke", url=address.url)
        if event is NEED_DATA:
            http.receive(await receive(stream))
        elif isinstance(event, Switched):
            socket.accept(event.response, event.trailing)
            return socket
        else:
            raise error_from(event.status, event.body)
