"""What HTTP connections give and take: whole messages, and the writing of response heads."""

from __future__ import annotations

import functools
import http
import re
from enum import Enum
from typing import Final

import msgspec

from groove_trio.wire.head import Headers, tokens
from groove_trio.words.errors import GrooveError

Fields = tuple[tuple[bytes, bytes], ...]
"""Header fields that do not change; the fastest to write."""

BODILESS = frozenset({204, 304})  # RFC 9110, sections 15.3.5 and 15.4.5
CACHED_HEADS = 256  # different heads that are kept ready; a server has a few per route

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_REASONS = {status.value: status.phrase.encode() for status in http.HTTPStatus}


class Signal(Enum):
    """What `next_event` gives when there is no message."""

    NEED_DATA = "need data"
    CLOSED = "closed"


NEED_DATA: Final = Signal.NEED_DATA
"""Nothing whole yet: read from the peer, `receive` it, ask again."""

CLOSED: Final = Signal.CLOSED
"""Nothing will come any more."""


class Stage(Enum):
    """Where a connection is within the exchange of one request and one response."""

    HEAD = "the head is awaited"
    BODY = "the body is awaited"
    WHOLE = "the message is whole and not given out"
    OURS = "our turn: a server to answer, a client to ask"
    CLOSED = "nothing more will be read"


class Request(msgspec.Struct, frozen=True):
    """A whole request. Field names are lower-case, values without outer white space."""

    method: str
    target: str
    headers: Headers
    body: bytes
    version: str = "1.1"

    def header(self, name: bytes) -> bytes | None:
        """The value of the first field of this (lower-case) name."""
        return find(self.headers, name)


class Response(msgspec.Struct, frozen=True):
    """A whole response.

    To be sent, `headers` needs no framing: Content-Length and Transfer-Encoding are dropped
    from it and ours is set; ``Connection: close`` ends the connection with this response.
    """

    status: int
    headers: Fields | Headers
    body: bytes = b""

    def header(self, name: bytes) -> bytes | None:
        """The value of the first field of this (lower-case) name."""
        return find(self.headers, name)


class Upgrade(msgspec.Struct, frozen=True):
    """A request that asks for WebSocket, and what the peer sent after it.

    Either answer it with `ServerConnection.send` (a refusal; the connection ends with it), or
    give both to `ws.ServerSocket` and let go of the HTTP connection.
    """

    request: Request
    trailing: bytes


class Switched(msgspec.Struct, frozen=True):
    """The server's 101, and what it sent after it: for `ws.ClientSocket.accept`."""

    response: Response
    trailing: bytes


def find(headers: Fields | Headers, name: bytes) -> bytes | None:
    """The value of the first field of this (lower-case) name."""
    for found, value in headers:
        if found == name:
            return value
    return None


@functools.lru_cache(CACHED_HEADS)
def prepare_head(status: int, headers: Fields) -> tuple[bytes, bool]:
    """A response's head up to its framing fields, and whether it ends the connection.

    Raises:
        GrooveError: A field would break the message.
    """
    kept = [(name, value) for name, value in headers if name.lower() not in _FRAMING]
    members = tokens([(name.lower(), value) for name, value in kept], b"connection")
    close = b"close" in members
    if close:
        others = [member for member in members if member != b"close"]
        kept = [(name, value) for name, value in kept if name.lower() != b"connection"]
        kept += [(b"Connection", b", ".join(others))] if others else []
    return b"HTTP/1.1 %d %b\r\n%b" % (status, _REASONS.get(status, b""), write_fields(kept)), close


def write_fields(fields: Fields | Headers) -> bytes:
    """Header lines, without the empty one that ends a head.

    Raises:
        GrooveError: A field would break the message.
    """
    if not all(_NAME.fullmatch(name) and _VALUE.fullmatch(value) for name, value in fields):
        raise GrooveError("A header field of the answer is not valid.")
    return b"".join([b"%b: %b\r\n" % field for field in fields])


def write_response(response: Response, *, start: bytes, head: bool, close: bool) -> bytes:
    """A response's bytes; `head` leaves the body out and its length in."""
    connection = b"Connection: close\r\n" if close else b""
    if response.status in BODILESS:
        return b"%b%b\r\n" % (start, connection)
    body = b"" if head else response.body
    return b"%bContent-Length: %d\r\n%b\r\n%b" % (start, len(response.body), connection, body)
