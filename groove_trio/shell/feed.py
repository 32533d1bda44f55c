"""One subscriber over one WebSocket: events out, pings both ways, and a proper end.

Three tasks share the stream: the reader, which alone reads; the writer, which drains the
subscription; the heartbeat. All that is written goes through one place under one lock, so that
frames don't mix and nothing follows a close frame. The lock is never held for longer than a
write's deadlines.

A subscriber that does not read costs no memory: the subscription holds its place in the hub's
history, not its events. When one write takes longer than `WRITE_S` the subscriber is told so with
close code 1013, if it reads again within `CLOSE_S`, and is dropped otherwise.

Messages from the subscriber mean nothing here. They are checked all the same, as everything from
outside is, so that no later reader of them is the first to look: JSON is let go, what a strict
reader refuses ends the connection with 1008, and binary with 1003.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, assert_never

import trio

from groove_trio.shell.hub import Subscription
from groove_trio.shell.linger import READ_BYTES, linger
from groove_trio.wire import strict
from groove_trio.wire.http import Upgrade
from groove_trio.wire.ws import (
    GOING_AWAY,
    INTERNAL_ERROR,
    POLICY_VIOLATION,
    TRY_AGAIN_LATER,
    BytesMessage,
    Closed,
    Ping,
    Pong,
    ServerSocket,
    TextMessage,
)
from groove_trio.words.errors import BadRequest

PING_S: Final = 20.0
"""Between pings, and for how long a subscriber may be silent after one: as in ``websockets``."""

WRITE_S: Final = 10.0
"""For one batch to leave."""

CLOSE_S: Final = 5.0
"""For the peer to agree to a close; ``websockets`` gives 10, on a network."""

LINGER_S: Final = 1.0

MAX_MESSAGE: Final = 16 * 1024
"""Bytes of a message from a subscriber, who has nothing to say."""

MAX_FRAGMENTS: Final = 16

UNSUPPORTED: Final = 1003  # RFC 6455, section 7.4.1


def feed_socket(upgrade: Upgrade) -> ServerSocket:
    """The socket for a feed: without compression, since one frame is written to many.

    Raises:
        BadRequest: Not a WebSocket handshake.
        UpgradeRequired: Another version of it.
    """
    return ServerSocket(
        upgrade.request, upgrade.trailing, max_message=MAX_MESSAGE, max_fragments=MAX_FRAGMENTS
    )


async def run_feed(
    stream: trio.abc.HalfCloseableStream, socket: ServerSocket, subscription: Subscription
) -> None:
    """Accepts the upgrade and hands out events until either side ends it.

    When the subscription ends, what is left of it is written, then close code 1001. Always
    checkpoints; does not close the stream. A peer that vanishes is no error.
    """
    feed = _Feed(stream, socket, subscription)
    await feed.run()
    if not feed.broken:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await linger(stream, seconds=LINGER_S, max_bytes=MAX_MESSAGE)


class _Feed:
    """What the three tasks share."""

    _scope: trio.CancelScope  # around all three

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        socket: ServerSocket,
        subscription: Subscription,
    ) -> None:
        self.broken = False
        self._stream = stream
        self._socket = socket
        self._subscription = subscription
        self._writing = trio.Lock()
        self._heard = True

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._scope = nursery.cancel_scope
            await self._send(self._socket.accept)
            nursery.start_soon(self._write_events)
            nursery.start_soon(self._keep_alive)
            await self._read()
            nursery.cancel_scope.cancel()

    async def _write_events(self) -> None:
        while batch := await self._subscription.take():
            frames = b"".join([published.frame for published in batch])
            await self._send(partial(self._while_open, frames))
        await self._close(GOING_AWAY, "the daemon is shutting down")

    async def _keep_alive(self) -> None:
        while True:
            await trio.sleep(PING_S)
            if not self._heard:
                await self._close(INTERNAL_ERROR, "no answer to a ping")
                return
            self._heard = False
            await self._send(self._socket.ping)

    async def _read(self) -> None:
        try:
            while not await self._understand():
                self._socket.receive(await self._stream.receive_some(READ_BYTES))
                self._heard = True
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._give_up()

    async def _understand(self) -> bool:
        """Answers what was received; whether that was the end."""
        pongs: list[bytes] = []
        for event in self._socket.events():
            match event:
                case Ping():
                    pongs.append(event.reply)
                case TextMessage():
                    await self._check(event.text)
                case BytesMessage():
                    await self._close(UNSUPPORTED, "messages are text")
                case Closed():
                    await self._send(partial(bytes, event.reply))
                    return True
                case Pong():
                    pass
                case _:
                    assert_never(event)
        if pongs:
            await self._send(partial(self._while_open, b"".join(pongs)))
        return False

    async def _check(self, text: str) -> None:
        try:
            strict.decode(text.encode(), object)
        except BadRequest as refusal:
            await self._close(POLICY_VIOLATION, refusal.detail)

    async def _close(self, code: int, reason: str) -> None:
        """Says goodbye, once, and gives the peer `CLOSE_S` to agree; the reader goes on."""
        if self._socket.open:
            await self._send(partial(self._socket.close, code, reason))
            self._scope.deadline = trio.current_time() + CLOSE_S

    def _while_open(self, frames: bytes) -> bytes:
        return frames if self._socket.open else b""

    async def _send(self, make: Callable[[], bytes]) -> None:
        """Writes what `make` gives, called when it is its turn: nothing follows a close frame."""
        async with self._writing:
            data = make()
            if data:
                await self._write(data)

    async def _write(self, data: bytes) -> None:
        start = trio.current_time()
        with trio.move_on_after(WRITE_S + CLOSE_S) as scope:
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._give_up()
        if scope.cancelled_caught:
            self._give_up()
        elif trio.current_time() - start > WRITE_S and self._socket.open:
            await self._write(self._socket.close(TRY_AGAIN_LATER, "too slow"))
            self._scope.deadline = trio.current_time() + CLOSE_S

    def _give_up(self) -> None:
        self.broken = True
        self._scope.cancel()
