"""HTTP/1.1 without I/O, both roles: bytes in, whole messages out, and back.

A connection object is one peer's side of one connection. What came from the network goes
into `receive`; `next_event` gives the next whole message; `send` or `request` gives the bytes
to write. Nothing here waits, and nothing comes out but an event or a `GrooveError` that
carries the status to answer with.

The rooms: `head` and `body` check and bound the raw bytes; `server` and `client` put messages
together, on h11; `message` holds what goes in and out. This module is their front door.
"""

from __future__ import annotations

from groove_trio.wire.client import MAX_ANSWER, MAX_INTERIM, ClientConnection
from groove_trio.wire.head import MAX_FIELDS, MAX_HEAD, MAX_LINE, Headers
from groove_trio.wire.message import (
    CLOSED,
    NEED_DATA,
    Request,
    Response,
    Signal,
    Switched,
    Upgrade,
)
from groove_trio.wire.server import CONTINUE, MAX_AHEAD, MAX_BODY, ServerConnection

__all__ = [
    "CLOSED",
    "CONTINUE",
    "MAX_AHEAD",
    "MAX_ANSWER",
    "MAX_BODY",
    "MAX_FIELDS",
    "MAX_HEAD",
    "MAX_INTERIM",
    "MAX_LINE",
    "NEED_DATA",
    "ClientConnection",
    "Headers",
    "Request",
    "Response",
    "ServerConnection",
    "Signal",
    "Switched",
    "Upgrade",
]
