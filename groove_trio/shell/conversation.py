"""The conversation on one connection.

A connection is one task with one cancel scope, whose deadline moves with what the peer is waited
for: the head, the body, the next request, the reading of our answer. While a handler works there
is none. Whatever goes wrong on a connection ends that connection.

One request is in hand at a time: the next is not looked at, and nothing more is read, before the
answer to the one before has left. So a peer that sends ahead and does not read stops itself,
and holds no more of ours than one read and one answer (nginx and Node.js answer pipelined
requests one by one as well).
"""

from __future__ import annotations

import logging
from dataclasses import replace
from enum import Enum
from math import inf

import trio

from groove_trio.shell.door import Door, dress
from groove_trio.shell.linger import READ_BYTES, linger
from groove_trio.wire.head import RequestHead
from groove_trio.wire.http import CLOSED, NEED_DATA, Request, Response, ServerConnection, Upgrade
from groove_trio.words.actors import Actor
from groove_trio.words.errors import (
    Busy,
    Draining,
    GrooveError,
    NotAdmitted,
    OutOfResources,
    RequestTimeout,
)

WRITE_BYTES = 4 * READ_BYTES
"""Of an answer, under one deadline; about what two socket buffers hold on loopback."""

BRIEF_S = 0.2
"""For telling a caller that there is no descriptor for it, and again for hearing it out."""

LOG = logging.getLogger("groove_trio")


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
        self._limits = door.limits
        self._http = ServerConnection(max_body=door.limits.body_bytes)
        self._scope = trio.CancelScope()
        self._awaits = _Awaits.REQUEST
        self._since = inf
        self._admitted = False

    @property
    def idle_since(self) -> float:
        """When it was let in or last answered; infinite while something is asked."""
        return self._since if self._awaits is _Awaits.REQUEST else inf

    @property
    def _hurried(self) -> bool:
        return self._limits is self._door.hurried

    def leave(self) -> None:
        """Ends the conversation now if nothing is being asked, or else with the next answer."""
        if self._awaits is _Awaits.REQUEST:
            self._scope.cancel()

    async def run(self) -> None:
        """Lets the peer in and talks until either side ends it. Does not close the stream."""
        actor: Actor | None = None
        try:
            with trio.move_on_after(self._limits.head_s):
                actor = await self._door.recognise(self._stream)
                self._limits = self._door.enter(self, actor)
        except GrooveError as refusal:
            await self._turn_away(refusal)
        else:
            if actor is not None:
                await self._talk(actor)

    async def turn_away(self) -> None:
        """Says that there is no descriptor for it, and is brief: it has the last one."""
        self._limits = replace(self._limits, write_s=BRIEF_S, linger_s=BRIEF_S)
        try:
            self._door.check(self._stream)
        except GrooveError as refusal:
            await self._turn_away(refusal)
        else:
            await self._turn_away(OutOfResources("No descriptor is free; try again shortly."))

    async def _turn_away(self, refusal: GrooveError) -> None:
        if not self._door.turn_away(self):
            return
        if isinstance(refusal, NotAdmitted):
            with trio.move_on_after(self._limits.write_s) as scope:
                await self._door.record(refusal)
            if scope.cancelled_caught:
                return
        await self.refuse(refusal)

    async def _talk(self, actor: Actor) -> None:
        try:
            with self._scope:
                self._await(_Awaits.REQUEST, self._limits.head_s)
                await self._converse(actor)
            if self._scope.cancelled_caught and self._awaits in {_Awaits.HEAD, _Awaits.BODY}:
                await self.refuse(RequestTimeout(f"The rest of {self._awaits.name} did not come."))
        except _Unwelcome:
            pass
        except GrooveError as refusal:
            await self.refuse(refusal)

    async def refuse(self, refusal: GrooveError) -> None:
        """Says why this conversation ends."""
        answer = self._http.send(dress(self._door.refuse(refusal), close=True))
        with trio.move_on_after(self._limits.write_s) as scope:
            await self._stream.send_all(answer)
        if not scope.cancelled_caught:
            await self._linger()

    def _await(self, what: _Awaits, seconds: float) -> None:
        self._awaits = what
        self._since = now = trio.current_time()
        self._scope.deadline = now + seconds

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
                self._await(_Awaits.HEAD, self._limits.head_s)
        elif self._awaits is not _Awaits.BODY:
            self._admit(head, upgrades=head.upgrades)
            self._await(_Awaits.BODY, self._limits.body_s)
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
        if not self._door.urgent(request):
            await self._door.pace.turn()
        try:
            response = await self._door.handler(request, actor)
        except GrooveError as refusal:
            response = self._door.refuse(refusal)
        except Exception as fault:
            LOG.exception("answering %s %s failed", request.method, request.target)
            raise GrooveError from fault
        await self._send(response)
        self._await(_Awaits.REQUEST, self._limits.idle_s)

    async def _send(self, response: Response) -> None:
        last = self._hurried or self._door.draining
        answer = self._http.send(dress(response, close=last))
        with memoryview(answer) as left:
            for start in range(0, len(answer), WRITE_BYTES):
                self._await(_Awaits.READING, self._limits.write_s)
                await self._stream.send_all(left[start : start + WRITE_BYTES])

    async def _upgrade(self, upgrade: Upgrade, actor: Actor) -> None:
        self._admit(upgrade.request, upgrades=True)
        if self._door.draining:
            raise Draining
        if self._hurried:
            raise Busy("All places for WebSockets are taken; try again shortly.")
        self._await(_Awaits.ANSWER, inf)
        await self._door.pace.turn()
        await self._door.upgrade(upgrade, self._stream, actor)

    async def _linger(self) -> None:
        limits = self._limits
        await linger(self._stream, seconds=limits.linger_s, max_bytes=limits.linger_bytes)
