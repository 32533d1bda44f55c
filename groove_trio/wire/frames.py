"""What a WebSocket gives and takes: its events, its close codes, and ready frames."""

from __future__ import annotations

import struct
from dataclasses import dataclass

# RFC 6455, section 7.4.1, and the registry it began
NORMAL = 1000
GOING_AWAY = 1001
PROTOCOL_ERROR = 1002
NO_STATUS = 1005
ABNORMAL = 1006
INVALID_DATA = 1007
POLICY_VIOLATION = 1008
TOO_BIG = 1009
INTERNAL_ERROR = 1011
TRY_AGAIN_LATER = 1013

_SHORT = 126
_LONG = 0x10000
TEXT = 0x81  # first byte: FIN and opcode 1
BINARY = 0x82  # FIN and opcode 2


@dataclass(frozen=True, slots=True)
class TextMessage:
    """A whole text message."""

    text: str


@dataclass(frozen=True, slots=True)
class BytesMessage:
    """A whole binary message."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Ping:
    """A ping; `reply` is the pong to write (empty when the connection is closing)."""

    payload: bytes
    reply: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    """A pong, asked for or not."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    """The end; nothing comes after it.

    Write `reply` (it may be empty), then close the stream: at once if `failed`, and a client
    may wait a little for the server to close first. `code` is 1005 if the peer gave none,
    1006 if it left without a word.
    """

    code: int
    reason: str
    reply: bytes = b""
    failed: bool = False


Event = TextMessage | BytesMessage | Ping | Pong | Closed


def text_frame(payload: bytes) -> bytes:
    """A ready server frame of one text message: encode once, write to many.

    Args:
        payload: UTF-8; not checked.
    """
    return server_frame(TEXT, payload)


def server_frame(first: int, payload: bytes) -> bytes:
    """A whole, unmasked frame; `first` is its first byte."""
    size = len(payload)
    if size < _SHORT:
        return bytes((first, size)) + payload
    if size < _LONG:
        return struct.pack("!BBH", first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload
