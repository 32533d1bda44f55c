"""One subscriber over one WebSocket: events out, pings both ways, and a proper end.

Three tasks share the stream: the reader, which alone reads; the writer, which drains the
subscription; the heartbeat. A fourth watches over the writes. All that is written goes through
one place under one lock, so that frames don't mix and nothing follows a close frame. The lock is
never held for longer than a write's deadlines.

A subscriber that does not read costs no memory: the subscription holds its place in the hub's
history, not its events. When one write takes longer than `WRITE_S` the subscriber is told so with
close code 1013, if it reads again within `CLOSE_S`, and is dropped otherwise.

Messages from the subscriber mean nothing here. They are checked all the same, as everything from
outside is, so that no later reader of them is the first to look: JSON is let go, what a strict
reader refuses ends the connection with 1008, and binary with 1003.

Whatever comes faster than `FRAME_RATE` ends it with 1008 too. Of the pings that come together
the latest is answered, and a peer that sends without reading is not read any further: an answer
waits to leave, under the same deadline as any write.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from math import inf
from typing import Final, assert_never

import trio

from groove_trio.rules.bucket import Bucket
from groove_trio.shell.hub import Subscription
from groove_trio.shell.linger import linger
from groove_trio.wire import strict
from groove_trio.wire.http import Upgrade
from groove_trio.wire.ws import (
    GOING_AWAY,
    INTERNAL_ERROR,
    POLICY_VIOLATION,
    TRY_AGAIN_LATER,
    BytesMessage,
    Closed,
    Event,
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
"""For the peer to hang up after the last word; nginx lingers for up to 5 between reads."""

MAX_MESSAGE: Final = 16 * 1024
"""Bytes of a message from a subscriber, who has nothing to say."""

MAX_FRAGMENTS: Final = 16
"""Of such a message: 1 KiB each, as in `groove_trio.wire.ws`."""

FRAME_BURST: Final = 1000
"""Frames that a subscriber may send at once, control frames and fragments alike. As many as
nghttp2 lets a peer reset streams at once, which is the same attack: small to send, work to read.
"""

FRAME_RATE: Final = 33
"""Frames a second, for as long as it likes: nghttp2's rate for the same. What is read without
completing a frame counts as one, or a frame could come byte by byte, each a turn of the loop."""

READ_BYTES: Final = 4096
"""At a time: room for 680 pings, which take some milliseconds to read."""

FRAMES_AT_ONCE: Final = 64
"""Frames that are dealt with before the others get a turn."""

LINGER_BYTES: Final = 1024 * 1024
"""Read away unlooked at after the last word, so that it arrives: thrice what the sockets between
hold of a flood that has just begun (Linux gives each 128 KiB at first)."""

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
            await linger(stream, seconds=LINGER_S, max_bytes=LINGER_BYTES)


class _Feed:
    """What the tasks share."""

    _scope: trio.CancelScope  # around all

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        socket: ServerSocket,
        subscription: Subscription,
    ) -> None:
        self.broken = False
        self._stream = stream
        self._bare = stream.socket if isinstance(stream, trio.SocketStream) else None
        self._socket = socket
        self._subscription = subscription
        self._writing = trio.Lock()
        self._write_start = inf
        self._heard = True
        self._rate = Bucket(FRAME_BURST, FRAME_RATE, trio.current_time())

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._scope = nursery.cancel_scope
            nursery.start_soon(self._watch_writes)
            await self._send(self._socket.accept)
            nursery.start_soon(self._write_events)
            nursery.start_soon(self._keep_alive)
            await self._read()
            nursery.cancel_scope.cancel()

    async def _write_events(self) -> None:
        while frames := await self._subscription.frames():
            await self._send(self._while_open, frames)
        await self._close(GOING_AWAY, "the daemon is shutting down")

    async def _keep_alive(self) -> None:
        while True:
            await trio.sleep(PING_S)
            if not self._heard:
                await self._close(INTERNAL_ERROR, "no answer to a ping")
                return
            self._heard = False
            await self._send(self._socket.ping)

    async def _watch_writes(self) -> None:
        """Gives up when a write takes too long.

        One task that sleeps instead of a cancel scope for each write, which would cost as much
        as the write. It is never late: it looks at least once in the time that a write has.
        """
        while True:
            due = min(self._write_start, trio.current_time()) + WRITE_S + CLOSE_S
            if due <= trio.current_time():
                self._give_up()
                return
            await trio.sleep_until(due)

    async def _read(self) -> None:
        try:
            while not await self._understand():
                self._socket.receive(await self._stream.receive_some(READ_BYTES))
                self._heard = True
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._give_up()

    async def _understand(self) -> bool:
        """Answers what was received, a part at a time; whether that was the end."""
        events = self._socket.events()
        while True:
            before = self._socket.heard
            part = list(islice(events, FRAMES_AT_ONCE))
            frames = max(1, self._socket.heard - before)
            over = bool(part) and isinstance(part[-1], Closed)
            if not over and not self._rate.take(frames, trio.current_time()):
                return await self._fail(POLICY_VIOLATION, f"over {FRAME_RATE} frames a second")
            if await self._answer(part):
                return True
            if len(part) < FRAMES_AT_ONCE:
                return False
            await trio.lowlevel.checkpoint()

    async def _answer(self, events: list[Event]) -> bool:
        """Answers what was understood; whether that was the end."""
        if events and isinstance(events[-1], Closed):
            # Its close frame is the one there is, whatever else is wrong with what came before.
            await self._send(bytes, events[-1].reply)
            return True
        pong = b""
        for event in events:
            match event:
                case Ping():
                    pong = event.reply  # the most recent is enough: RFC 6455, section 5.5.3
                case TextMessage():
                    refusal = _fault_of(event.text)
                    if refusal is not None:
                        return await self._fail(POLICY_VIOLATION, refusal)
                case BytesMessage():
                    return await self._fail(UNSUPPORTED, "messages are text")
                case Pong() | Closed():
                    pass
                case _:
                    assert_never(event)
        if pong:
            await self._send(self._while_open, pong)
        return False

    async def _close(self, code: int, reason: str) -> None:
        """Says goodbye, once, and gives the peer `CLOSE_S` to agree; the reader goes on."""
        if self._socket.open:
            await self._send(self._socket.close, code, reason)
            self._scope.deadline = trio.current_time() + CLOSE_S

    async def _fail(self, code: int, reason: str) -> bool:
        """Says goodbye to a peer that broke a rule, and listens no more: that is the end."""
        await self._send(self._socket.close, code, reason)
        return True

    def _while_open(self, frames: bytes) -> bytes:
        return frames if self._socket.open else b""

    async def _send(self, make: Callable[..., bytes], *words: str | int | bytes) -> None:
        """Writes what `make` gives, called when it is its turn: nothing follows a close frame.

        This runs once for each event and subscriber, so it is one function, takes a lock that is
        free without a turn of the loop, and tries the socket itself before the stream around it:
        what that wraps around each write takes about as long as the write.
        """
        try:
            self._writing.acquire_nowait()
        except trio.WouldBlock:
            await self._writing.acquire()
        self._write_start = start = trio.current_time()
        try:
            data = make(*words)
            sent = await self._bare.send(data) if data and self._bare is not None else 0
            if sent < len(data):
                await self._stream.send_all(memoryview(data)[sent:])
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            self._give_up()
        finally:
            self._write_start = inf
            self._writing.release()
        if trio.current_time() - start > WRITE_S:
            await self._close(TRY_AGAIN_LATER, "too slow")

    def _give_up(self) -> None:
        self.broken = True
        self._scope.cancel()


def _fault_of(text: str) -> str | None:
    """Why a strict reader refuses a message."""
    try:
        strict.decode(text.encode(), object)
    except BadRequest as refusal:
        return refusal.detail
    return None
