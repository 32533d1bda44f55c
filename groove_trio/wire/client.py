"""The client's side of an HTTP connection: requests written by h11, answers read strictly."""

from __future__ import annotations

from typing import Literal

import h11

from groove_trio.wire import head as heads
from groove_trio.wire.body import ChunkedBody, UnboundedBody
from groove_trio.wire.head import Headers
from groove_trio.wire.message import (
    BODILESS,
    CLOSED,
    NEED_DATA,
    Fields,
    Response,
    Signal,
    Stage,
    Switched,
)
from groove_trio.words.errors import BadAnswer, BadRequest, GrooveError, PayloadTooLarge

MAX_ANSWER = 64 * 1024 * 1024  # an output page of 1,000 lines of 64 KiB
MAX_INTERIM = 16  # 1xx answers before the real one; Go's net/http stops after 5

_SWITCHING = 101
_FINAL = 200
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


class ClientConnection:
    """The client's side of one connection: one request at a time, each with its answer.

    Args:
        authority: What the Host field says when a request's headers have none, such as
            ``127.0.0.1:4242``.
        max_body: The largest body taken of an answer, in bytes.

    Attributes:
        must_close: Whether no further request can be made on this connection.
    """

    __slots__ = (
        "_ahead",
        "_authority",
        "_body",
        "_eof",
        "_framing",
        "_head",
        "_interims",
        "_left",
        "_machine",
        "_max_body",
        "_method",
        "_searched",
        "_stage",
        "must_close",
    )

    def __init__(self, authority: str = "localhost", *, max_body: int = MAX_ANSWER) -> None:
        self._authority = authority.encode()
        self._max_body = max_body
        self._machine = h11.Connection(h11.CLIENT, max_incomplete_event_size=heads.MAX_HEAD)
        self._ahead = b""
        self._searched = 0
        self._eof = False
        self._stage = Stage.OURS
        self._head = heads.NO_ANSWER
        self._body = bytearray()
        self._framing: ChunkedBody | UnboundedBody | None = None
        self._left = 0
        self._interims = 0
        self._method = ""
        self.must_close = False

    def request(
        self, method: str, target: str, headers: Headers | Fields = (), body: bytes = b""
    ) -> bytes:
        """The bytes of a request. Host and Content-Length are added.

        Raises:
            BadRequest: Not valid HTTP, or the answer to the one before has not come whole.
        """
        names = {name.lower() for name, _ in headers}
        fields = list(headers)
        if b"host" not in names:
            fields.insert(0, (b"host", self._authority))
        if (body or method in _WITH_BODY) and b"content-length" not in names:
            fields.append((b"content-length", b"%d" % len(body)))
        machine = self._machine
        try:
            parts = [machine.send(h11.Request(method=method, target=target, headers=fields))]
            if body:
                parts.append(machine.send(h11.Data(data=body)))
            parts.append(machine.send(h11.EndOfMessage()))
        except (h11.LocalProtocolError, UnicodeEncodeError) as error:
            self.must_close = True
            raise BadRequest(f"The request cannot be sent: {error}.") from error
        self._method = method
        self._stage = Stage.HEAD
        self._interims = 0
        return b"".join(parts)

    def receive(self, data: bytes | bytearray) -> None:
        """Takes what was read from the server; ``b""`` says that it has closed."""
        if not data:
            self._eof = True
        elif self._stage is not Stage.CLOSED:
            self._ahead = self._ahead + data if self._ahead else bytes(data)

    def next_event(
        self,
    ) -> Response | Switched | Literal[Signal.NEED_DATA, Signal.CLOSED]:
        """The next whole answer, if there is one. CLOSED if the server left without a byte.

        Raises:
            BadAnswer: The server sent something else than an HTTP/1.1 answer.
            PayloadTooLarge: The answer's body is over the limit.
        """
        try:
            return self._advance()
        except (BadAnswer, PayloadTooLarge):
            self._end()
            raise
        except (GrooveError, h11.RemoteProtocolError) as error:
            self._end()
            raise BadAnswer(f"The answer is not valid HTTP: {error}.") from error

    def _advance(self) -> Response | Switched | Literal[Signal.NEED_DATA, Signal.CLOSED]:
        while self._stage is Stage.HEAD:
            if not self._read_head():
                return self._starve(clean=not self._ahead)
        if self._stage is Stage.BODY and not self._read_body():
            return self._starve(clean=False)
        if self._stage is Stage.WHOLE:
            return self._deliver()
        if self._stage is Stage.OURS and self._ahead:
            raise BadAnswer("The server sent something that nobody asked for.")
        if self._eof:
            self._end()
        return CLOSED if self._stage is Stage.CLOSED else NEED_DATA

    def _starve(self, *, clean: bool) -> Literal[Signal.NEED_DATA, Signal.CLOSED]:
        """There is less than an answer: will more come?"""
        if not self._eof:
            return NEED_DATA
        if not clean:
            raise BadAnswer("The connection ended in the middle of an answer.")
        self._end()
        return CLOSED

    def _read_head(self) -> bool:
        ahead = self._ahead
        end = ahead.find(b"\r\n\r\n", self._searched)
        if end < 0:
            if ahead:
                heads.check_unfinished(ahead, self._searched)
                self._searched = max(0, len(ahead) - 3)
            return False
        raw, self._ahead = ahead[: end + 4], ahead[end + 4 :]
        self._searched = 0
        head = heads.read_response(raw)
        self._machine.receive_data(raw)
        self._machine.next_event()
        if _SWITCHING < head.status < _FINAL or head.status < _SWITCHING:
            self._interims += 1
            if self._interims > MAX_INTERIM:
                raise BadAnswer(f"More than {MAX_INTERIM} interim answers came.")
        else:
            self._head = head
            self._begin_body(head)
        return True

    def _begin_body(self, head: heads.ResponseHead) -> None:
        self._stage = Stage.BODY
        self._left = 0
        if head.status == _SWITCHING:
            self._stage = Stage.WHOLE
        elif self._method == "HEAD" or head.status in BODILESS:
            pass
        elif head.chunked:
            self._framing = ChunkedBody(self._max_body)
        elif head.length is None:
            self._framing = UnboundedBody(self._max_body)
        elif head.length > self._max_body:
            detail = f"The answer is larger than {self._max_body} bytes."
            raise PayloadTooLarge(detail, limit=self._max_body)
        else:
            self._left = head.length

    def _read_body(self) -> bool:
        """Takes what belongs to the body off what is ahead, and tells h11 of its end."""
        data, self._ahead = self._ahead, b""
        match self._framing:
            case ChunkedBody() as chunks:
                rest = chunks.take(data)
                if rest is None:
                    return False
                self._ahead = rest
                self._machine.receive_data(b"0\r\n\r\n")
                self._body = chunks.body
            case UnboundedBody() as remainder:
                remainder.take(data)
                if not self._eof:
                    return False
                self._machine.receive_data(b"")
                self._body = remainder.body
            case None:
                if not self._take_piece(data):
                    return False
        self._machine.next_event()
        self._framing = None
        self._stage = Stage.WHOLE
        return True

    def _take_piece(self, data: bytes) -> bool:
        piece, self._ahead = data[: self._left], data[self._left :]
        if piece:
            self._left -= len(piece)
            self._body += piece
            self._machine.receive_data(piece)
            self._machine.next_event()
        return not self._left

    def _deliver(self) -> Response | Switched:
        head = self._head
        response = Response(head.status, head.headers, bytes(self._body))
        self._body = bytearray()
        if head.status == _SWITCHING:
            trailing = self._ahead
            self._end()
            return Switched(response, trailing)
        if self._machine.our_state is h11.DONE and self._machine.their_state is h11.DONE:
            self._machine.start_next_cycle()
            self._stage = Stage.OURS
        else:
            self._end()
        return response

    def _end(self) -> None:
        self.must_close = True
        self._stage = Stage.CLOSED
        self._ahead = b""
        self._body = bytearray()
        self._framing = None
