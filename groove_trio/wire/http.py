"""HTTP/1.1 without I/O, both roles, on h11: bytes in, whole messages out, and back.

A connection object is one peer's side of one connection. What came from the network goes
into `receive`; `next_event` gives the next whole message; `send` or `request` gives the bytes
to write. Nothing here waits, and nothing comes out but an event or a `GrooveError` that
carries the status to answer with.

The division of labour: `head` and `body` check and bound the raw bytes; h11 parses what they
let through, and its state machine decides what may follow what (keep-alive, Expect, upgrade,
close). h11 is never given a byte beyond the message in hand, so that pipelined requests are
each checked before it sees them. Response heads are written here, from prepared pieces, for
speed; h11 is told of each response by a stand-in of the same effect on its state.
"""

from __future__ import annotations

import functools
import http
import re
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal

import h11

from groove_trio.wire import head as heads
from groove_trio.wire.body import ChunkedBody, UnboundedBody
from groove_trio.wire.head import Headers
from groove_trio.words.errors import BadAnswer, BadRequest, GrooveError, PayloadTooLarge

MAX_BODY = 1024 * 1024  # nginx's client_max_body_size
MAX_ANSWER = 64 * 1024 * 1024  # what a client takes: an output page of 1,000 lines of 64 KiB
MAX_AHEAD = 256 * 1024  # bytes held that no event has used: a head, a read, pipelined requests
MAX_INTERIM = 16  # 1xx answers before the real one; curl stops at a header limit instead

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Signal(Enum):
    """What `next_event` gives when there is no message."""

    NEED_DATA = "need data"
    CLOSED = "closed"


NEED_DATA: Final = Signal.NEED_DATA
"""Nothing whole yet: read from the peer, `receive` it, ask again."""

CLOSED: Final = Signal.CLOSED
"""Nothing will come any more."""


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request. Field names are lower-case, values without outer white space."""

    method: str
    target: str
    headers: Headers
    body: bytes
    version: str = "1.1"

    def header(self, name: bytes) -> bytes | None:
        """The value of the first field of this (lower-case) name."""
        return _find(self.headers, name)


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response.

    To be sent: `headers` need no framing fields (Content-Length and Transfer-Encoding are
    dropped, ours is set). A tuple that is the same object every time is written fastest.
    """

    status: int
    headers: tuple[tuple[bytes, bytes], ...] | Headers
    body: bytes = b""

    def header(self, name: bytes) -> bytes | None:
        """The value of the first field of this (lower-case) name."""
        return _find(self.headers, name)


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A request that asks for WebSocket, and what the peer sent after it.

    Either answer it with `ServerConnection.send` (a refusal; the connection ends with it), or
    give both to `ws.ServerSocket` and let go of the HTTP connection.
    """

    request: Request
    trailing: bytes


@dataclass(frozen=True, slots=True)
class Switched:
    """The server's 101, and what it sent after it: for `ws.ClientSocket.accept`."""

    response: Response
    trailing: bytes


class ServerConnection:
    """The server's side of one connection.

    Requests come one at a time and in order: the next is read only after `send` has answered
    the one before. Usage::

        while True:
            match connection.next_event():
                case NEED_DATA:
                    if (interim := connection.wants_continue()) is not None:
                        await stream.send_all(interim)
                    connection.receive(await stream.receive_some(65536))
                case Request() as request:
                    await stream.send_all(connection.send(await handle(request)))
                    if connection.must_close:
                        break
                case Upgrade(request, trailing):
                    ...
                case CLOSED:
                    break

    A `GrooveError` out of `next_event` or `receive` is to be answered with `send` (its status,
    then close); after it `next_event` gives only CLOSED. `send` also works before any request
    has come whole, for a 408 or a 503, and closes then.

    Attributes:
        must_close: Whether the connection ends with the answer sent last, or has failed.
    """

    __slots__ = (
        "_ahead",
        "_body",
        "_eof",
        "_h11",
        "_head",
        "_interim",
        "_left",
        "_max_body",
        "_pieces",
        "_searched",
        "_stage",
        "must_close",
    )

    def __init__(self, *, max_body: int = MAX_BODY) -> None:
        self._max_body = max_body
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=heads.MAX_HEAD)
        self._ahead = b""
        self._searched = 0
        self._eof = False
        self._stage = _Stage.HEAD
        self._head: heads.RequestHead | None = None
        self._body: ChunkedBody | None = None
        self._pieces: list[bytes] = []
        self._left = 0
        self._interim = False
        self.must_close = False

    @property
    def idle(self) -> bool:
        """Whether no byte of a next request has come."""
        return self._stage is _Stage.HEAD and not self._ahead

    @property
    def unfinished(self) -> heads.RequestHead | None:
        """The head of a request whose body has not come whole; it can be refused already."""
        return self._head if self._stage is _Stage.BODY else None

    def receive(self, data: bytes | bytearray) -> None:
        """Takes what was read from the peer; ``b""`` says that it has ended its direction.

        Raises:
            BadRequest: More was sent ahead than `MAX_AHEAD`; cannot happen to a caller that
                reads at most 64 KiB at a time and only when told NEED_DATA.
        """
        if not data:
            self._eof = True
            return
        self._ahead = self._ahead + data if self._ahead else bytes(data)
        if len(self._ahead) > MAX_AHEAD:
            self._fail()
            raise BadRequest(f"More than {MAX_AHEAD} bytes were sent ahead of the answers.")

    def next_event(
        self,
    ) -> Request | Upgrade | Literal[Signal.NEED_DATA, Signal.CLOSED]:
        """The next whole request, if there is one.

        Raises:
            GrooveError: The peer sent what cannot be served; `status` is what to answer.
        """
        try:
            return self._advance()
        except GrooveError:
            self._fail()
            raise
        except h11.RemoteProtocolError as error:
            self._fail()
            raise BadRequest(f"The request is not valid HTTP: {error}.") from error

    def wants_continue(self) -> bytes | None:
        """The interim answer a client waits for before it sends its body; given out once."""
        if self._stage is _Stage.BODY and self._interim:
            self._interim = False
            return CONTINUE
        return None

    def send(self, response: Response, *, head: bool = False) -> bytes:
        """The bytes of a response; then `must_close` says whether the connection ends with it.

        The answer to a HEAD has its length but not its body; `head` asks for that explicitly.

        Raises:
            GrooveError: A header field would break the message; nothing is sent.
        """
        request = self._head if self._stage is _Stage.ANSWER else None
        start, asks_close = _response_head(response.status, _frozen(response.headers))
        upgrading = request is not None and request.upgrades
        close = self.must_close or asks_close or self._eof or request is None or upgrading
        if not close:
            close = not self._next_cycle()
        if close:
            self._fail()
        if head or (request is not None and request.method == "HEAD"):
            return _finish_head(start, response, close=close)
        if response.status in _BODILESS:
            return _finish_head(start, response, close=close)
        return _finish_head(start, response, close=close) + response.body

    def _advance(self) -> Request | Upgrade | Literal[Signal.NEED_DATA, Signal.CLOSED]:
        if self._stage is _Stage.HEAD and not self._read_head():
            if not self._eof:
                return NEED_DATA
            if self._ahead not in _NOTHING:
                raise BadRequest("The connection ended in the middle of a request header.")
            self._fail()
        if self._stage is _Stage.BODY and not self._read_body():
            if not self._eof:
                return NEED_DATA
            raise BadRequest("The connection ended in the middle of a request body.")
        if self._stage is _Stage.WHOLE:
            return self._deliver()
        return CLOSED if self._stage is _Stage.CLOSED else NEED_DATA

    def _read_head(self) -> bool:
        """Cuts a whole head off what is ahead and has it checked; False while it is not whole."""
        if self._ahead[:2] == b"\r\n":
            # RFC 9112, section 2.2: ignore at least one empty line before a request
            if len(self._ahead) == 2:  # noqa: PLR2004
                return False
            self._ahead = self._ahead[2:]
        end = self._ahead.find(b"\r\n\r\n", self._searched)
        if end < 0:
            if self._ahead:
                heads.check_unfinished(self._ahead)
                self._searched = max(0, len(self._ahead) - 3)
            return False
        raw, self._ahead = self._ahead[: end + 4], self._ahead[end + 4 :]
        self._searched = 0
        head = heads.read_request(raw, self._max_body)
        self._h11.receive_data(raw)
        self._h11.next_event()
        self._head = head
        if head.chunked:
            self._body = ChunkedBody(self._max_body)
        self._left = head.length or 0
        self._interim = head.expects
        self._stage = _Stage.BODY
        return True

    def _read_body(self) -> bool:
        """Takes what belongs to the body off what is ahead; False while it is not whole."""
        if self._body is not None:
            return self._read_chunks(self._body)
        if self._left:
            piece = self._ahead[: self._left]
            if not piece:
                return False
            self._ahead = self._ahead[self._left :]
            self._left -= len(piece)
            self._interim = False
            self._pieces.append(piece)
            self._h11.receive_data(piece)
            self._h11.next_event()
            if self._left:
                return False
        self._h11.next_event()
        self._stage = _Stage.WHOLE
        return True

    def _read_chunks(self, body: ChunkedBody) -> bool:
        data, self._ahead = self._ahead, b""
        if data:
            self._interim = False
        rest = body.take(data)
        if rest is None:
            return False
        self._ahead = rest
        # The coding is undone already; h11 only has to hear that the message is over.
        self._h11.receive_data(b"0\r\n\r\n")
        self._h11.next_event()
        self._pieces = [body.whole()]
        self._body = None
        self._stage = _Stage.WHOLE
        return True

    def _deliver(self) -> Request | Upgrade:
        head = self._head
        assert head is not None
        pieces = self._pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._pieces = []
        self._stage = _Stage.ANSWER
        request = Request(head.method, head.target, head.headers, body, head.version)
        if head.upgrades:
            trailing, self._ahead = self._ahead, b""
            return Upgrade(request, trailing)
        return request

    def _next_cycle(self) -> bool:
        """Tells h11 of the response, and makes it ready for another request if it agrees."""
        self._h11.send(_STAND_IN)
        self._h11.send(_END)
        if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            return False
        self._h11.start_next_cycle()
        self._stage = _Stage.HEAD
        self._head = None
        return True

    def _fail(self) -> None:
        self.must_close = True
        self._stage = _Stage.CLOSED
        self._ahead = b""
        self._pieces = []
        self._body = None


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
        "_h11",
        "_head",
        "_interims",
        "_left",
        "_max_body",
        "_method",
        "_pieces",
        "_stage",
        "must_close",
    )

    def __init__(self, authority: str = "localhost", *, max_body: int = MAX_ANSWER) -> None:
        self._authority = authority.encode()
        self._max_body = max_body
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=heads.MAX_HEAD)
        self._ahead = b""
        self._eof = False
        self._stage = _Stage.ANSWER
        self._head: heads.ResponseHead | None = None
        self._body: ChunkedBody | UnboundedBody | None = None
        self._pieces: list[bytes] = []
        self._left = 0
        self._interims = 0
        self._method = ""
        self.must_close = False

    def request(
        self,
        method: str,
        target: str,
        headers: Headers | tuple[tuple[bytes, bytes], ...] = (),
        body: bytes = b"",
    ) -> bytes:
        """The bytes of a request. Host and Content-Length are added.

        Raises:
            BadRequest: Not valid HTTP, or the answer to the one before has not come whole.
        """
        names = {name.lower() for name, _ in headers}
        fields = list(headers)
        if b"host" not in names:
            fields.insert(0, (b"host", self._authority))
        if (body or method in {"POST", "PUT", "PATCH"}) and b"content-length" not in names:
            fields.append((b"content-length", b"%d" % len(body)))
        try:
            parts = [self._h11.send(h11.Request(method=method, target=target, headers=fields))]
            if body:
                parts.append(self._h11.send(h11.Data(data=body)))
            parts.append(self._h11.send(h11.EndOfMessage()))
        except (h11.LocalProtocolError, UnicodeEncodeError) as error:
            raise BadRequest(f"The request cannot be sent: {error}.") from error
        self._method = method
        self._stage = _Stage.HEAD
        self._interims = 0
        return b"".join(parts)

    def receive(self, data: bytes | bytearray) -> None:
        """Takes what was read from the server; ``b""`` says that it has closed."""
        if data:
            self._ahead += data
        else:
            self._eof = True

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
            self._fail()
            raise
        except (GrooveError, h11.RemoteProtocolError) as error:
            self._fail()
            raise BadAnswer(f"The answer is not valid HTTP: {error}.") from error

    def _advance(self) -> Response | Switched | Literal[Signal.NEED_DATA, Signal.CLOSED]:
        while self._stage is _Stage.HEAD:
            if not self._read_head():
                return self._starve("header", clean=not self._ahead)
        if self._stage is _Stage.BODY and not self._read_body():
            return self._starve("body", clean=False)
        if self._stage is _Stage.WHOLE:
            return self._deliver()
        if self._stage is _Stage.ANSWER and self._ahead:
            raise BadAnswer("The server sent something that nobody asked for.")
        if self._eof:
            self._fail()
        return CLOSED if self._stage is _Stage.CLOSED else NEED_DATA

    def _starve(self, part: str, *, clean: bool) -> Literal[Signal.NEED_DATA, Signal.CLOSED]:
        if not self._eof:
            return NEED_DATA
        if not clean:
            raise BadAnswer(f"The connection ended in the middle of the answer's {part}.")
        self._fail()
        return CLOSED

    def _read_head(self) -> bool:
        end = self._ahead.find(b"\r\n\r\n")
        if end < 0 or end > heads.MAX_HEAD:
            if len(self._ahead) > heads.MAX_HEAD:
                raise BadAnswer(f"The answer's header is over {heads.MAX_HEAD} bytes.")
            heads.check_unfinished(self._ahead)
            return False
        raw, self._ahead = self._ahead[: end + 4], self._ahead[end + 4 :]
        head = heads.read_response(raw)
        self._h11.receive_data(raw)
        self._h11.next_event()
        if head.status == http.HTTPStatus.SWITCHING_PROTOCOLS:
            self._head = head
            self._stage = _Stage.WHOLE
        elif head.status < http.HTTPStatus.OK:
            self._interims += 1
            if self._interims > MAX_INTERIM:
                raise BadAnswer(f"More than {MAX_INTERIM} interim answers came.")
        else:
            self._begin_body(head)
        return True

    def _begin_body(self, head: heads.ResponseHead) -> None:
        self._head = head
        self._stage = _Stage.BODY
        self._left = 0
        if self._method == "HEAD" or head.status in _BODILESS:
            return
        if head.chunked:
            self._body = ChunkedBody(self._max_body)
        elif head.length is None:
            self._body = UnboundedBody(self._max_body)
        elif head.length > self._max_body:
            detail = f"The answer is larger than {self._max_body} bytes."
            raise PayloadTooLarge(detail, limit=self._max_body)
        else:
            self._left = head.length

    def _read_body(self) -> bool:
        data, self._ahead = self._ahead, b""
        match self._body:
            case ChunkedBody() as body:
                rest = body.take(data)
                if rest is None:
                    return False
                self._ahead = rest
                self._h11.receive_data(b"0\r\n\r\n")
                self._pieces = [body.whole()]
            case UnboundedBody() as body:
                body.take(data)
                if not self._eof:
                    return False
                self._h11.receive_data(b"")
                self._pieces = [body.whole()]
            case None:
                self._ahead = data[self._left :]
                if not self._take_piece(data[: self._left]):
                    return False
        self._h11.next_event()
        self._body = None
        self._stage = _Stage.WHOLE
        return True

    def _take_piece(self, piece: bytes) -> bool:
        if piece:
            self._left -= len(piece)
            self._pieces.append(piece)
            self._h11.receive_data(piece)
            self._h11.next_event()
        return not self._left

    def _deliver(self) -> Response | Switched:
        head = self._head
        assert head is not None
        response = Response(head.status, head.headers, b"".join(self._pieces))
        self._pieces = []
        self._head = None
        if head.status == http.HTTPStatus.SWITCHING_PROTOCOLS:
            trailing, self._ahead = self._ahead, b""
            self._fail()
            return Switched(response, trailing)
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
            self._stage = _Stage.ANSWER
        else:
            self._fail()
        return response

    def _fail(self) -> None:
        self.must_close = True
        self._stage = _Stage.CLOSED
        self._ahead = b""
        self._pieces = []
        self._body = None


class _Stage(Enum):
    """Where a connection is within the exchange of one request and one response."""

    HEAD = "the head is awaited"
    BODY = "the body is awaited"
    WHOLE = "the message is whole and not given out"
    ANSWER = "our turn: a server to answer, a client to ask"
    CLOSED = "nothing more will be read"


_NOTHING = (b"", b"\r\n")
_BODILESS = frozenset({204, 304})  # RFC 9110, sections 15.3.5 and 15.4.5
_STAND_IN = h11.Response(status_code=204, headers=[])
_END = h11.EndOfMessage()
_BLOCK = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++: [^\x00-\x08\x0a-\x1f\x7f]*+\r\n)*+")
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_REASONS = {status.value: status.phrase.encode() for status in http.HTTPStatus}
_CACHED_HEADS = 256  # several per route


def _find(headers: Headers | tuple[tuple[bytes, bytes], ...], name: bytes) -> bytes | None:
    for found, value in headers:
        if found == name:
            return value
    return None


def _frozen(
    headers: Headers | tuple[tuple[bytes, bytes], ...],
) -> tuple[tuple[bytes, bytes], ...]:
    return headers if isinstance(headers, tuple) else tuple(headers)


@functools.lru_cache(_CACHED_HEADS)
def _response_head(status: int, headers: tuple[tuple[bytes, bytes], ...]) -> tuple[bytes, bool]:
    """The head up to the framing fields, and whether it says ``Connection: close`` itself."""
    block = b"".join(
        b"%b: %b\r\n" % (name, value)
        for name, value in headers
        if name.lower() not in _FRAMING and (name.lower(), value.lower()) != _CLOSE
    )
    if not _BLOCK.fullmatch(block):
        raise GrooveError("A header field of the answer is not valid.")
    start = b"HTTP/1.1 %d %b\r\n%b" % (status, _REASONS.get(status, b""), block)
    return start, b"close" in heads.tokens([(n.lower(), v) for n, v in headers], b"connection")


_CLOSE = (b"connection", b"close")


def _finish_head(start: bytes, response: Response, *, close: bool) -> bytes:
    connection = b"Connection: close\r\n" if close else b""
    if response.status in _BODILESS:
        return b"%b%b\r\n" % (start, connection)
    return b"%bContent-Length: %d\r\n%b\r\n" % (start, len(response.body), connection)
