"""The accept loop, and the conversation on one connection.

A connection is one task with one cancel scope, whose deadline moves with what the peer is waited
for: the head, the body, the next request, the reading of our answer. While a handler works there
is none. Whatever goes wrong on a connection ends that connection.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence
from enum import Enum
from math import inf

import trio

from groove_trio.shell.door import Door, Place, dress
from groove_trio.shell.linger import READ_BYTES, linger
from groove_trio.wire.head import RequestHead
from groove_trio.wire.http import CLOSED, NEED_DATA, Request, Response, ServerConnection, Upgrade
from groove_trio.words.actors import Actor
from groove_trio.words.errors import Busy, Draining, GrooveError, RequestTimeout

WRITE_BYTES = 4 * READ_BYTES

ACCEPT_PAUSE_S = 0.1  # trio.serve_listeners waits as long when descriptors run out
OUT_OF_CAPACITY = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})

LOG = logging.getLogger("groove_trio")


async def accept_connections(
    listeners: Sequence[trio.abc.Listener[trio.abc.HalfCloseableStream]],
    door: Door,
    connections: trio.Nursery,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Accepts until cancelled; then the listeners are closed, and the connections go on.

    Args:
        listeners: Owned from now on.
        door: What the connections are held to.
        connections: Where each connection becomes a task: the nursery around this one, because
            the doors close before the conversations end.
        task_status: Says when accepting has begun.
    """
    async with trio.open_nursery() as nursery:
        for listener in listeners:
            nursery.start_soon(_accept_on, listener, door, connections)
        task_status.started()


async def _accept_on(
    listener: trio.abc.Listener[trio.abc.HalfCloseableStream], door: Door, connections: trio.Nursery
) -> None:
    async with listener:
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in OUT_OF_CAPACITY:
                    raise
                LOG.error("cannot accept connections: %s", error)  # noqa: TRY400 - no news in it
                await trio.sleep(ACCEPT_PAUSE_S)
            else:
                connections.start_soon(serve_connection, stream, door)


async def serve_connection(stream: trio.abc.HalfCloseableStream, door: Door) -> None:
    """Talks to one peer until either side ends it; the stream is closed then.

    Nothing but cancellation comes out: a fault is logged and ends this connection alone.
    """
    connection = Connection(stream, door)
    try:
        match door.enter(connection):
            case Place.INSIDE:
                await connection.run()
            case Place.THRESHOLD:
                await connection.turn_away()
            case Place.OUTSIDE:
                pass
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the peer has left
    except Exception:
        LOG.exception("a connection failed")
    finally:
        door.exit(connection)
        await trio.aclose_forcefully(stream)


class _Awaits(Enum):
    """What a connection waits for; who has to hurry."""

    REQUEST = "the peer, who is free to say nothing"
    HEAD = "the peer, in the middle of a head"
    BODY = "the peer, in the middle of a body"
    ANSWER = "us"
    READING = "the peer, to read our answer"


class _Unwelcome(Exception):
    """An upgrade was not admitted: the connection ends without a byte."""


class Connection:
    """One conversation over HTTP/1.1, until a WebSocket takes over or it ends."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, door: Door) -> None:
        self._stream = stream
        self._door = door
        self._http = ServerConnection(max_body=door.limits.body_bytes)
        self._scope = trio.CancelScope()
        self._awaits = _Awaits.REQUEST
        self._admitted = False

    def leave(self) -> None:
        """Ends the conversation now if nothing is being asked, or else with the next answer."""
        if self._awaits is _Awaits.REQUEST:
            self._scope.cancel()

    async def run(self) -> None:
        """Talks until either side ends it. Does not close the stream."""
        try:
            with self._scope:
                self._await(_Awaits.REQUEST, self._door.limits.head_s)
                await self._converse(await self._door.identify(self._stream))
            if self._scope.cancelled_caught and self._awaits in {_Awaits.HEAD, _Awaits.BODY}:
                await self.refuse(RequestTimeout(f"The rest of {self._awaits.name} did not come."))
        except _Unwelcome:
            pass
        except GrooveError as refusal:
            await self.refuse(refusal)

    async def turn_away(self) -> None:
        """Says that there is no room, to whom that is any business of."""
        try:
            self._door.check(self._stream)
        except GrooveError as refusal:
            await self.refuse(refusal)
        else:
            await self.refuse(Busy("All connections are taken; try again shortly."))

    async def refuse(self, refusal: GrooveError) -> None:
        """Says why this conversation ends."""
        answer = self._http.send(dress(self._door.refuse(refusal), close=True))
        with trio.move_on_after(self._door.limits.write_s) as scope:
            await self._stream.send_all(answer)
        if not scope.cancelled_caught:
            await self._linger()

    def _await(self, what: _Awaits, seconds: float) -> None:
        self._awaits = what
        self._scope.deadline = trio.current_time() + seconds

    async def _converse(self, actor: Actor) -> None:
        http = self._http
        while not (http.must_close or (self._door.draining and http.idle)):
            event = http.next_event()
            if event is NEED_DATA:
                await self._read()
            elif event is CLOSED:
                return
            elif isinstance(event, Request):
                await self._answer(event, actor)
            else:
                await self._upgrade(event, actor)
                return
        await self._linger()

    async def _read(self) -> None:
        head = self._http.unfinished
        if head is None:
            if self._awaits is _Awaits.REQUEST and not self._http.idle:
                self._await(_Awaits.HEAD, self._door.limits.head_s)
        elif self._awaits is not _Awaits.BODY:
            self._admit(head, upgrades=head.upgrades)
            self._await(_Awaits.BODY, self._door.limits.body_s)
            interim = self._http.wants_continue()
            if interim is not None:
                await self._stream.send_all(interim)
        data = await self._stream.receive_some(READ_BYTES)
        if self._scope.cancel_called:
            # The deadline, or `leave`, came between these bytes and us: without this it would
            # strike within the handler.
            await trio.lowlevel.checkpoint()
        self._http.receive(data)

    def _admit(self, request: Request | RequestHead, *, upgrades: bool = False) -> None:
        """Asks the rule, once a request, as soon as its head is there.

        Raises:
            GrooveError: Not admitted; the answer is the last.
            _Unwelcome: Not admitted, and not even told so: a foreign page's WebSocket.
        """
        if self._admitted:
            return
        self._admitted = True
        admit = self._door.admission.admit
        refusal = admit(request.method, request.target, request.headers)
        if refusal is not None:
            raise _Unwelcome if upgrades else refusal

    async def _answer(self, request: Request, actor: Actor) -> None:
        self._admit(request)
        self._admitted = False
        self._await(_Awaits.ANSWER, inf)
        try:
            response = await self._door.handler(request, actor)
        except GrooveError as refusal:
            response = self._door.refuse(refusal)
        except Exception as fault:
            LOG.exception("answering %s %s failed", request.method, request.target)
            raise GrooveError from fault
        await self._send(response)
        self._await(_Awaits.REQUEST, self._door.limits.idle_s)

    async def _send(self, response: Response) -> None:
        answer = self._http.send(dress(response, close=self._door.draining))
        with memoryview(answer) as left:
            for start in range(0, len(answer), WRITE_BYTES):
                self._await(_Awaits.READING, self._door.limits.write_s)
                await self._stream.send_all(left[start : start + WRITE_BYTES])

    async def _upgrade(self, upgrade: Upgrade, actor: Actor) -> None:
        self._admit(upgrade.request, upgrades=True)
        if self._door.draining:
            raise Draining
        self._await(_Awaits.ANSWER, inf)
        await self._door.upgrade(upgrade, self._stream, actor)

    async def _linger(self) -> None:
        limits = self._door.limits
        await linger(self._stream, seconds=limits.linger_s, max_bytes=limits.linger_bytes)
