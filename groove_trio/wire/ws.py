"""WebSocket (RFC 6455) without I/O, both roles, whole messages, on wsproto's frames.

A socket object is one side of one connection. What came from the network goes into `receive`;
`events` gives what it meant; the `send_*` methods give the bytes to write. wsproto parses and
checks frames; this module does the handshake (wsproto takes any key), puts messages together
within bounds (wsproto has none), answers pings, and brings a connection to its end: a broken
rule comes out as `Closed` with the close frame to send. What comes and goes is in `frames`.
"""

from __future__ import annotations

import base64
import io
import secrets
from collections.abc import Iterator
from typing import Any

import wsproto.events
from wsproto.connection import CLIENT, SERVER, Connection, ConnectionState
from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason

from groove_trio.wire.deflate import OFFER, Deflate, answer_offers, read_answer
from groove_trio.wire.frames import (
    ABNORMAL,
    BINARY,
    GOING_AWAY,
    INTERNAL_ERROR,
    INVALID_DATA,
    NO_STATUS,
    NORMAL,
    POLICY_VIOLATION,
    PROTOCOL_ERROR,
    TEXT,
    TOO_BIG,
    TRY_AGAIN_LATER,
    BytesMessage,
    Closed,
    Event,
    Ping,
    Pong,
    TextMessage,
    server_frame,
    text_frame,
)
from groove_trio.wire.handshake import (
    KEY_SIZE,
    VERSION,
    accept_token,
    check_request,
    fault_of_answer,
    joined,
)
from groove_trio.wire.head import Headers
from groove_trio.wire.message import Fields, Request, Response, write_fields
from groove_trio.words.errors import BadAnswer, shown

__all__ = [
    "ABNORMAL",
    "GOING_AWAY",
    "INTERNAL_ERROR",
    "INVALID_DATA",
    "MAX_CONTROL",
    "MAX_FRAGMENTS",
    "MAX_MESSAGE",
    "NORMAL",
    "NO_STATUS",
    "POLICY_VIOLATION",
    "PROTOCOL_ERROR",
    "TOO_BIG",
    "TRY_AGAIN_LATER",
    "BytesMessage",
    "ClientSocket",
    "Closed",
    "Event",
    "Ping",
    "Pong",
    "ServerSocket",
    "TextMessage",
    "text_frame",
]

MAX_MESSAGE = 1024 * 1024  # websockets' max_size
MAX_FRAGMENTS = 1024  # of one message; a message of MAX_MESSAGE in pieces of 1 KiB
MAX_CONTROL = 125  # RFC 6455, section 5.5

OPEN = ConnectionState.OPEN
LOCAL_CLOSING = ConnectionState.LOCAL_CLOSING


class _Socket:
    """What both roles share: everything after the handshake."""

    _client: bool

    heard: int
    """Frames received so far: control frames, and each fragment of a message."""

    def __init__(self, *, max_message: int, max_fragments: int) -> None:
        self._max_message = max_message
        self._max_fragments = max_fragments
        self._frames: Connection | None = None
        self._deflate: Deflate | None = None
        self._text = io.StringIO()  # no lists of pieces: one of 2 bytes takes over 50
        self._data = bytearray()
        self._size = 0
        self._fragments = 0
        self.heard = 0
        self._eof = False
        self._over = False
        self._closing = False

    @property
    def open(self) -> bool:
        """Whether messages may still be sent."""
        return self._frames is not None and not self._closing and not self._over

    def receive(self, data: bytes | bytearray) -> None:
        """Takes what was read from the peer; ``b""`` says that it left."""
        if not data:
            self._eof = True
        elif self._frames is not None and not self._over:
            self._frames.receive_data(bytes(data))

    def events(self) -> Iterator[Event]:
        """What came, in order. After `Closed` nothing follows."""
        while self._frames is not None and not self._over:
            for event in self._frames.events():
                ours = self._understand(event)
                if ours is not None:
                    yield ours
                if self._over:
                    return
            break
        if self._eof and not self._over:
            self._over = True
            yield Closed(ABNORMAL, "the peer left without closing")

    def send_text(self, text: str | bytes) -> bytes:
        """The bytes of a text message; ``b""`` once the connection is closing."""
        if self._client or self._deflate is not None:
            text = text if isinstance(text, str) else text.decode()
            return self._send(wsproto.events.TextMessage(text))
        payload = text.encode() if isinstance(text, str) else text
        return server_frame(TEXT, payload) if self.open else b""

    def send_bytes(self, data: bytes) -> bytes:
        """The bytes of a binary message; ``b""`` once the connection is closing."""
        if self._client or self._deflate is not None:
            return self._send(wsproto.events.BytesMessage(data))
        return server_frame(BINARY, data) if self.open else b""

    def ping(self, payload: bytes = b"") -> bytes:
        """The bytes of a ping (at most 125 bytes of payload); ``b""`` once closing."""
        return self._send(wsproto.events.Ping(payload[:MAX_CONTROL]))

    def close(self, code: int = NORMAL, reason: str = "") -> bytes:
        """The bytes of the close frame that begins the closing handshake; ``b""`` if begun.

        Go on with `receive` and `events` until `Closed` says that the peer agreed, under a
        deadline. A reason is cut to what fits.
        """
        frame = self._send_close(code, reason)
        self._closing = True
        return frame

    def _send(self, event: wsproto.events.Event) -> bytes:
        if self._frames is None or not self.open:
            return b""
        return bytes(self._frames.send(event))

    def _begin(self, trailing: bytes) -> None:
        extensions: list[Extension] = [] if self._deflate is None else [self._deflate]
        self._frames = Connection(CLIENT if self._client else SERVER, extensions, trailing)

    def _understand(self, event: wsproto.events.Event) -> Event | None:
        # a piece of a frame is no frame; only pieces of messages come in pieces of frames
        self.heard += getattr(event, "frame_finished", True)
        match event:
            case wsproto.events.Message():
                return None if self._closing else self._collect(event)  # pyright: ignore[reportUnknownArgumentType]
            case wsproto.events.Ping(payload=payload):
                return Ping(bytes(payload), self._send(wsproto.events.Pong(payload)))
            case wsproto.events.Pong(payload=payload):
                return Pong(bytes(payload))
            case wsproto.events.CloseConnection(code=code, reason=reason):
                return self._end(int(code), reason or "")
            case _:
                return None

    def _collect(self, piece: wsproto.events.Message[Any]) -> Event | None:
        """Adds a piece to the message, and gives the message when it is whole."""
        data = piece.data
        is_text = isinstance(data, str)
        if is_text:
            self._text.write(data)
            self._size += len(data) if data.isascii() else len(data.encode())
        else:
            self._data += data
            self._size += len(data)
        self._fragments += piece.frame_finished
        if self._size > self._max_message:
            return self._fail(TOO_BIG, f"a message may have {self._max_message} bytes")
        if self._fragments > self._max_fragments:
            why = f"a message may have {self._max_fragments} fragments"
            return self._fail(POLICY_VIOLATION, why)
        if not piece.message_finished:
            return None
        message = TextMessage(self._text.getvalue()) if is_text else BytesMessage(bytes(self._data))
        self._forget()
        return message

    def _forget(self) -> None:
        self._text, self._data = io.StringIO(), bytearray()
        self._size = self._fragments = 0

    def _end(self, code: int, reason: str) -> Closed:
        """The peer's close frame, or wsproto's verdict that it broke a rule.

        The verdict comes as the same event as a close frame, but leaves the state as it was.
        """
        frames = self._frames
        if frames is not None and frames.state in {OPEN, LOCAL_CLOSING}:
            return self._fail(code, reason)
        reply = self._send_close(code, reason)
        self._over = self._closing = True
        return Closed(code, reason, reply)

    def _fail(self, code: int, reason: str) -> Closed:
        reply = self._send_close(code, reason)
        self._over = self._closing = True
        self._forget()
        return Closed(code, reason, reply, failed=True)

    def _send_close(self, code: int, reason: str) -> bytes:
        # wsproto answers a close frame without a code in kind only for its own enum member.
        known = CloseReason.NO_STATUS_RCVD if code == NO_STATUS else code
        return self._send(wsproto.events.CloseConnection(known, reason or None))


class ServerSocket(_Socket):
    """The server's side, made from an upgrade request.

    Args:
        request: What asked for the upgrade; checked here.
        trailing: What the peer sent after it (`http.Upgrade.trailing`).
        deflate: Whether to accept permessage-deflate when it is offered.
        subprotocols: Those this server speaks; the first that the client offers is chosen.
        max_message: Bytes of one message, after inflating.
        max_fragments: Frames of one message.

    Raises:
        BadRequest: Not a WebSocket handshake.
        UpgradeRequired: Not version 13; answer with `handshake.REFUSAL_HEADERS`.
    """

    _client = False

    def __init__(
        self,
        request: Request,
        trailing: bytes = b"",
        *,
        deflate: bool = False,
        subprotocols: tuple[str, ...] = (),
        max_message: int = MAX_MESSAGE,
        max_fragments: int = MAX_FRAGMENTS,
    ) -> None:
        super().__init__(max_message=max_message, max_fragments=max_fragments)
        self._key = check_request(request)
        self._trailing = trailing
        self._extensions = ""
        if deflate:
            offers = joined(request.headers, b"sec-websocket-extensions")
            agreed = answer_offers(offers)
            if agreed is not None:
                self._extensions = agreed[0]
                self._deflate = Deflate(agreed[1], client=False, limit=max_message)
        offered = joined(request.headers, b"sec-websocket-protocol").split(",")
        spoken = {word.strip() for word in offered}
        self.subprotocol = next((name for name in subprotocols if name in spoken), None)

    def accept(self, headers: Fields = ()) -> bytes:
        """The bytes of the 101, with these header fields beside the handshake's own."""
        fields = [
            (b"Upgrade", b"websocket"),
            (b"Connection", b"Upgrade"),
            (b"Sec-WebSocket-Accept", accept_token(self._key)),
        ]
        if self._extensions:
            fields.append((b"Sec-WebSocket-Extensions", self._extensions.encode()))
        if self.subprotocol is not None:
            fields.append((b"Sec-WebSocket-Protocol", self.subprotocol.encode()))
        head = write_fields((*fields, *headers))
        self._begin(self._trailing)
        self._trailing = b""
        return b"HTTP/1.1 101 Switching Protocols\r\n%b\r\n" % head


class ClientSocket(_Socket):
    """The client's side. Send `headers` with a GET over `http.ClientConnection`, then `accept`.

    Args:
        deflate: Whether to offer permessage-deflate.
        subprotocols: Those to offer.
        max_message: Bytes of one message, after inflating.
        max_fragments: Frames of one message.

    Attributes:
        headers: The fields of the handshake request.
    """

    _client = True

    def __init__(
        self,
        *,
        deflate: bool = False,
        subprotocols: tuple[str, ...] = (),
        max_message: int = MAX_MESSAGE,
        max_fragments: int = MAX_FRAGMENTS,
    ) -> None:
        super().__init__(max_message=max_message, max_fragments=max_fragments)
        self._key = base64.b64encode(secrets.token_bytes(KEY_SIZE))
        self._offers_deflate = deflate
        self._offered = subprotocols
        self.subprotocol: str | None = None
        self.headers: Headers = [
            (b"Upgrade", b"websocket"),
            (b"Connection", b"Upgrade"),
            (b"Sec-WebSocket-Key", self._key),
            (b"Sec-WebSocket-Version", VERSION),
        ]
        if deflate:
            self.headers.append((b"Sec-WebSocket-Extensions", OFFER.encode()))
        if subprotocols:
            self.headers.append((b"Sec-WebSocket-Protocol", ", ".join(subprotocols).encode()))

    def accept(self, response: Response, trailing: bytes = b"") -> None:
        """Takes the server's 101 and what came after it (`http.Switched`).

        Raises:
            BadAnswer: The server agreed to something else.
        """
        headers = list(response.headers)
        problem = fault_of_answer(response.status, headers, self._key)
        if problem is not None:
            raise BadAnswer(problem)
        extensions = joined(headers, b"sec-websocket-extensions")
        if extensions:
            agreed = read_answer(extensions) if self._offers_deflate else None
            if agreed is None:
                raise BadAnswer(f"The server agreed to {shown(extensions)}, not offered.")
            self._deflate = Deflate(agreed, client=True, limit=self._max_message)
        chosen = joined(headers, b"sec-websocket-protocol")
        if chosen and chosen not in self._offered:
            raise BadAnswer(f"The server chose the subprotocol {shown(chosen)}, not offered.")
        self.subprotocol = chosen or None
        self._begin(trailing)
