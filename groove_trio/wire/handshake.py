"""The opening handshake of WebSocket (RFC 6455, section 4): what each side must check."""

from __future__ import annotations

import base64
import binascii
import hashlib

from groove_trio.wire.head import Headers, tokens
from groove_trio.wire.message import Request
from groove_trio.words.errors import BadRequest, UpgradeRequired

VERSION = b"13"
KEY_SIZE = 16  # bytes before base64; section 4.1
REFUSAL_HEADERS = (
    (b"connection", b"upgrade"),
    (b"upgrade", b"websocket"),
    (b"sec-websocket-version", VERSION),
)
"""What a 426 says beside its status: RFC 9110, section 15.5.22; RFC 6455, section 4.4."""

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3


def check_request(request: Request) -> bytes:
    """The request's key; RFC 6455, section 4.2.1.

    Raises:
        BadRequest: The request breaks a rule.
        UpgradeRequired: Another version.
    """
    if request.method != "GET" or request.version != "1.1" or request.body:
        raise BadRequest("A WebSocket handshake is a GET of HTTP/1.1 without a body.")
    if b"websocket" not in tokens(request.headers, b"upgrade"):
        raise UpgradeRequired("This path speaks WebSocket: Upgrade must name it.")
    if b"upgrade" not in tokens(request.headers, b"connection"):
        raise BadRequest("The Connection field of a WebSocket handshake must name Upgrade.")
    if request.header(b"sec-websocket-version") != VERSION:
        raise UpgradeRequired("This path speaks WebSocket version 13.", version=13)
    key = request.header(b"sec-websocket-key") or b""
    try:
        nonce = base64.b64decode(key, validate=True)
    except binascii.Error:
        nonce = b""
    if len(nonce) != KEY_SIZE:
        raise BadRequest("Sec-WebSocket-Key must be 16 bytes in base64.")
    return key


def fault_of_answer(status: int, headers: Headers, key: bytes) -> str | None:
    """What is wrong with a server's answer; RFC 6455, section 4.1."""
    accepted = dict(headers).get(b"sec-websocket-accept", b"")
    if status != 101:  # noqa: PLR2004
        return f"The server did not agree to WebSocket: status {status}."
    if tokens(headers, b"upgrade") != [b"websocket"]:
        return "The server's Upgrade field does not say websocket."
    if b"upgrade" not in tokens(headers, b"connection"):
        return "The server's Connection field does not name Upgrade."
    if accepted != accept_token(key):
        return "The server's Sec-WebSocket-Accept does not belong to our key."
    return None


def accept_token(key: bytes) -> bytes:
    """The Sec-WebSocket-Accept that proves that a key was read; section 4.2.2."""
    digest = hashlib.sha1(key + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest)


def joined(headers: Headers, name: bytes) -> str:
    """A field's value over all its lines."""
    return ", ".join(value.decode("latin-1") for found, value in headers if found == name)
