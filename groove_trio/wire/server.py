"""The server's side of an HTTP connection.

Every head is matched, byte for byte, by the expressions of `head`, and every body is bounded
and cut off here; h11 never sees a byte that these have not let through, nor one beyond the
message in hand. An ordinary request (HTTP/1.1, framed by Content-Length or not at all, no
Connection field but ``keep-alive``, no Expect, no Upgrade) leaves h11's state machine nothing
to decide, so it is not asked: that would be four fifths of what a request costs. All others
are told to h11 whole, once each in a machine of their own, and it decides whether the
connection lives on. The tests hold both paths against h11: whatever is taken, it reads the
same way.
"""

from __future__ import annotations

from typing import Literal

import h11

from groove_trio.wire import head as heads
from groove_trio.wire.body import ChunkedBody
from groove_trio.wire.message import (
    CLOSED,
    NEED_DATA,
    Request,
    Response,
    Signal,
    Stage,
    Upgrade,
    prepare_head,
    write_response,
)
from groove_trio.words.errors import BadRequest, GrooveError

MAX_BODY = 1024 * 1024  # nginx's client_max_body_size
MAX_AHEAD = 256 * 1024
"""Bytes held that no event has used: a head, a read, pipelined requests. One request is in hand at
a time, whatever came with it, as in nginx and Node.js; asyncio's streams hold twice 64 KiB."""

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class ServerConnection:
    """The server's side of one connection.

    Requests come one at a time and in order: the next is read only after `send` has answered
    the one before. Usage::

        while not connection.must_close:
            match connection.next_event():
                case Signal.NEED_DATA:
                    if (interim := connection.wants_continue()) is not None:
                        await stream.send_all(interim)
                    connection.receive(await stream.receive_some(65536))
                case Signal.CLOSED:
                    break
                case Upgrade() as upgrade:
                    ...
                case request:
                    await stream.send_all(connection.send(await handle(request)))

    A `GrooveError` out of `next_event` or `receive` is to be answered with `send` (its status,
    then close); after it `next_event` gives only CLOSED. `send` also works before any request
    has come whole, for a 408 or a 503, and closes then.

    Args:
        max_body: The largest body of a request, in bytes.

    Attributes:
        must_close: Whether the connection ends with the answer sent last, or has failed.
    """

    __slots__ = (
        "_ahead",
        "_body",
        "_chunks",
        "_eof",
        "_head",
        "_interim",
        "_last",
        "_left",
        "_max_body",
        "_raw",
        "_searched",
        "_skipped",
        "_stage",
        "must_close",
    )

    def __init__(self, *, max_body: int = MAX_BODY) -> None:
        self._max_body = max_body
        self._ahead = b""
        self._searched = 0
        self._skipped = False  # whether an empty line came before this request
        self._eof = False
        self._stage = Stage.HEAD
        self._raw = b""  # the head of a request that h11 will be asked about
        self._head = heads.NO_HEAD
        self._chunks: ChunkedBody | None = None
        self._body = bytearray()
        self._left = 0
        self._interim = False
        self._last = False
        self.must_close = False

    @property
    def idle(self) -> bool:
        """Whether no byte of a next request has come."""
        return self._stage is Stage.HEAD and not self._ahead

    @property
    def unfinished(self) -> heads.RequestHead | None:
        """The head of a request whose body has not come whole; it can be refused already."""
        return self._head if self._stage is Stage.BODY else None

    def receive(self, data: bytes | bytearray) -> None:
        """Takes what was read from the peer; ``b""`` says that it has ended its direction.

        Raises:
            BadRequest: More was sent ahead than `MAX_AHEAD`; cannot happen to a caller that
                reads at most 64 KiB at a time and only when told NEED_DATA.
        """
        if not data:
            self._eof = True
        elif self._stage is not Stage.CLOSED:
            self._ahead = self._ahead + data if self._ahead else bytes(data)
            if len(self._ahead) > MAX_AHEAD:
                self._end()
                raise BadRequest(f"More than {MAX_AHEAD} bytes were sent ahead of the answers.")

    def next_event(
        self,
    ) -> Request | Upgrade | Literal[Signal.NEED_DATA, Signal.CLOSED]:
        """The next whole request, if there is one. Until the last is answered: NEED_DATA.

        Raises:
            GrooveError: The peer sent what cannot be served; `status` is what to answer.
        """
        try:
            if self._stage is Stage.HEAD and not self._read_head():
                return self._starve(clean=not self._ahead)
            if self._stage is Stage.BODY and not self._read_body():
                return self._starve(clean=False)
            if self._stage is Stage.WHOLE:
                return self._deliver()
        except GrooveError:
            self._end()
            raise
        except h11.RemoteProtocolError as error:
            self._end()
            raise BadRequest(f"The request is not valid HTTP: {error}.") from error
        return CLOSED if self._stage is Stage.CLOSED else NEED_DATA

    def wants_continue(self) -> bytes | None:
        """The interim answer a client waits for before it sends its body; given out once."""
        if self._stage is Stage.BODY and self._interim:
            self._interim = False
            return CONTINUE
        return None

    def send(self, response: Response, *, head: bool = False) -> bytes:
        """The bytes of a response; then `must_close` says whether the connection ends with it.

        The answer to a HEAD has its length but not its body; `head` asks for that explicitly.

        Raises:
            GrooveError: A header field would break the message; nothing is sent.
        """
        headers = response.headers
        fields = headers if isinstance(headers, tuple) else tuple(headers)
        start, close = prepare_head(response.status, fields)
        bodiless = head or self._head.method == "HEAD"
        if close or self._last or self._eof or self._stage is not Stage.OURS:
            self._end()
        else:
            self._stage = Stage.HEAD
        self._head = heads.NO_HEAD
        return write_response(response, start=start, head=bodiless, close=self.must_close)

    def _starve(self, *, clean: bool) -> Literal[Signal.NEED_DATA, Signal.CLOSED]:
        """There is less than a message: will more come?"""
        if not self._eof:
            return NEED_DATA
        if not clean:
            raise BadRequest("The connection ended in the middle of a request.")
        self._end()
        return CLOSED

    def _read_head(self) -> bool:
        """Cuts a whole head off what is ahead and has it checked; False while it is not whole."""
        ahead = self._ahead
        while ahead[:2] == b"\r\n":
            # RFC 9112, section 2.2: ignore at least one empty line before a request
            if self._skipped:
                raise BadRequest("There is more than one empty line before the request.")
            self._skipped = True
            self._ahead = ahead = ahead[2:]
        end = ahead.find(b"\r\n\r\n", self._searched)
        if end < 0:
            if ahead:
                heads.check_unfinished(ahead, self._searched)
                self._searched = max(0, len(ahead) - 3)
            return False
        raw, self._ahead = ahead[: end + 4], ahead[end + 4 :]
        self._searched = 0
        self._skipped = False
        self._head = head = heads.read_request(raw, self._max_body)
        self._raw = b"" if head.ordinary else raw
        self._chunks = ChunkedBody(self._max_body) if head.chunked else None
        self._left = head.length or 0
        self._interim = head.expects
        self._stage = Stage.BODY if self._left or head.chunked else Stage.WHOLE
        return True

    def _read_body(self) -> bool:
        """Takes what belongs to the body off what is ahead; False while it is not whole."""
        ahead = self._ahead
        if not ahead:
            return False
        self._interim = False
        if self._chunks is not None:
            rest = self._chunks.take(ahead)
            self._ahead = rest or b""
            if rest is None:
                return False
            self._body = self._chunks.body
            self._chunks = None
        else:
            self._body += ahead[: self._left]
            self._ahead = ahead[self._left :]
            self._left -= len(ahead) - len(self._ahead)
            if self._left:
                return False
        self._stage = Stage.WHOLE
        return True

    def _deliver(self) -> Request | Upgrade:
        head = self._head
        body = bytes(self._body)
        self._body = bytearray()
        if self._raw:
            self._last = not self._ask_h11(body)
        self._stage = Stage.OURS
        request = Request(head.method, head.target, head.headers, body, head.version)
        if head.upgrades:
            self._last = True
            trailing, self._ahead = self._ahead, b""
            return Upgrade(request, trailing)
        return request

    def _ask_h11(self, body: bytes) -> bool:
        """Whether the connection may live on after this request."""
        machine = h11.Connection(h11.SERVER, max_incomplete_event_size=heads.MAX_HEAD)
        machine.receive_data(self._raw)
        machine.next_event()
        if self._head.chunked:
            # The coding is undone already, and was checked more strictly than h11 would.
            body = b"0\r\n\r\n"
        if body:
            machine.receive_data(body)
        while machine.their_state is h11.SEND_BODY:
            machine.next_event()
        if machine.their_state not in {h11.DONE, h11.MUST_CLOSE}:
            # Only an answer tells it that nothing is switched, and what becomes of the rest.
            machine.send(h11.Response(status_code=426, headers=[(b"content-length", b"0")]))
            machine.send(h11.EndOfMessage())
        return machine.their_state is not h11.MUST_CLOSE

    def _end(self) -> None:
        self.must_close = True
        self._stage = Stage.CLOSED
        self._ahead = b""
        self._body = bytearray()
        self._chunks = None
