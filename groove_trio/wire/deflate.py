"""permessage-deflate (RFC 7692) for wsproto, negotiated strictly and inflated within bounds.

wsproto ships an extension of its own; this one replaces it for three reasons, each a way to
hurt a server. It inflates whatever it is given in one call, so 64 KiB of input become 64 MiB
of output before anyone can object: here the inflater is told how much the message may still
grow. A ping between two fragments of a compressed message makes it forget that the message is
compressed. A malformed offer raises ValueError out of the handshake: here such an offer is
declined, as section 5.1 asks.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, Opcode, RsvBits

if TYPE_CHECKING:
    from wsproto.frame_protocol import FrameDecoder, FrameProtocol

NAME = "permessage-deflate"
OFFER = f"{NAME}; client_max_window_bits"
MAX_OFFERS = 16  # browsers send one, Autobahn up to three
DEFLATED_SLACK = 4096  # input over the bytes it becomes, at most as many again and these
INFLATE_STEP = 4096  # bytes of input inflated at a time; as much as a page of output buffer

_TAIL = b"\x00\x00\xff\xff"  # what a sender cuts off and a receiver puts back: section 7.2.1
_BITS = re.compile(r"[89]|1[0-5]")  # section 7.1.2: 8 to 15, no leading zero
_MIN_DEFLATE_BITS = 9  # zlib cannot compress raw streams with a window of 8 bits
_MAX_BITS = 15
_CONTROL = 0x08


class Parameters:
    """What the two sides agreed on."""

    __slots__ = ("client_bits", "client_fresh", "server_bits", "server_fresh")

    def __init__(self) -> None:
        self.client_bits = _MAX_BITS
        self.server_bits = _MAX_BITS
        self.client_fresh = False
        self.server_fresh = False


def answer_offers(header: str) -> tuple[str, Parameters] | None:
    """Picks the first acceptable offer of a Sec-WebSocket-Extensions field.

    Returns:
        The field to answer with and the agreement, or None to go on without compression.
    """
    for offer in header.split(",")[:MAX_OFFERS]:
        found = _parse(offer)
        if found is None or ("server_max_window_bits" in found and not _sendable(found)):
            continue
        agreed = Parameters()
        words = [NAME]
        if "server_no_context_takeover" in found:
            agreed.server_fresh = True
            words.append("server_no_context_takeover")
        if "client_no_context_takeover" in found:
            agreed.client_fresh = True
            words.append("client_no_context_takeover")
        if bits := found.get("server_max_window_bits"):
            agreed.server_bits = int(bits)
            words.append(f"server_max_window_bits={bits}")
        if bits := found.get("client_max_window_bits"):
            agreed.client_bits = int(bits)
            words.append(f"client_max_window_bits={bits}")
        return "; ".join(words), agreed
    return None


def read_answer(header: str) -> Parameters | None:
    """What a server's Sec-WebSocket-Extensions field agrees to; None if it is not an answer."""
    found = _parse(header)
    if found is None or found.get("client_max_window_bits") == "":
        return None
    agreed = Parameters()
    agreed.server_fresh = "server_no_context_takeover" in found
    agreed.client_fresh = "client_no_context_takeover" in found
    agreed.server_bits = int(found.get("server_max_window_bits") or _MAX_BITS)
    agreed.client_bits = int(found.get("client_max_window_bits") or _MAX_BITS)
    return agreed if agreed.client_bits >= _MIN_DEFLATE_BITS else None


def _sendable(found: dict[str, str]) -> bool:
    return int(found["server_max_window_bits"]) >= _MIN_DEFLATE_BITS


def _parse(offer: str) -> dict[str, str] | None:
    """The parameters of one offer or answer; None if it is not this extension, well-formed."""
    name, *parts = (part.strip(" \t") for part in offer.split(";"))
    if name.lower() != NAME:
        return None
    found: dict[str, str] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        key, value = key.strip(" \t").lower(), value.strip(" \t")
        if value[:1] == value[-1:] == '"' and len(value) > 1:
            value = value[1:-1]
        if key in found or not _is_parameter(key, equals, value):
            return None
        found[key] = value
    return found


def _is_parameter(key: str, equals: str, value: str) -> bool:
    match key:
        case "server_no_context_takeover" | "client_no_context_takeover":
            return not equals
        case "client_max_window_bits":
            return not equals or _BITS.fullmatch(value) is not None
        case "server_max_window_bits":
            return _BITS.fullmatch(value) is not None
        case _:
            return False


class Deflate(Extension):
    """The extension at work on one connection.

    Args:
        agreed: What was negotiated.
        client: Whether this side is the client.
        limit: The bytes one message may inflate to; beyond, the connection fails with 1009.
    """

    name = NAME

    def __init__(self, agreed: Parameters, *, client: bool, limit: int) -> None:
        self._limit = limit
        self._in_bits = agreed.server_bits if client else agreed.client_bits
        self._in_fresh = agreed.server_fresh if client else agreed.client_fresh
        self._out_bits = agreed.client_bits if client else agreed.server_bits
        self._out_fresh = agreed.client_fresh if client else agreed.server_fresh
        self._inflater = zlib.decompressobj(-self._in_bits)
        self._deflater = zlib.compressobj(wbits=-self._out_bits)
        self._control = False  # whether the frame being read is a control frame
        self._compressed = False  # whether the message being read is compressed
        self._inflated = 0  # bytes this message has become so far
        self._deflated = 0  # bytes it came in: blocks may be empty, and need never end

    def enabled(self) -> bool:
        """Always: an extension that was not agreed on is not made."""
        return True

    def offer(self) -> str:
        """What a client offers."""
        return OFFER.removeprefix(f"{NAME}; ")

    def frame_inbound_header(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002
        opcode: Opcode,
        rsv: RsvBits,
        payload_length: int,  # noqa: ARG002
    ) -> CloseReason | RsvBits:
        """RSV1 marks the first frame of a compressed message, and may stand nowhere else."""
        self._control = bool(opcode & _CONTROL)
        if opcode in {Opcode.TEXT, Opcode.BINARY}:
            self._compressed = rsv.rsv1
            self._inflated = self._deflated = 0
        elif rsv.rsv1:
            return CloseReason.PROTOCOL_ERROR
        return RsvBits(True, False, False)

    def frame_inbound_payload_data(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002
        data: bytes,
    ) -> bytes | CloseReason:
        """Inflates a piece of a frame."""
        if self._control or not self._compressed:
            return data
        return self._inflate(data)

    def frame_inbound_complete(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002
        fin: bool,
    ) -> bytes | CloseReason | None:
        """Inflates what a message's end brings out."""
        if self._control or not fin or not self._compressed:
            return None
        last = self._inflate(_TAIL)
        if self._in_fresh:
            self._inflater = zlib.decompressobj(-self._in_bits)
        return last

    def frame_outbound(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002
        opcode: Opcode,
        rsv: RsvBits,
        data: bytes,
        fin: bool,
    ) -> tuple[RsvBits, bytes]:
        """Deflates a frame's payload."""
        if opcode & _CONTROL:
            return rsv, data
        deflated = self._deflater.compress(data)
        if fin:
            deflated += self._deflater.flush(zlib.Z_SYNC_FLUSH)
            # Nothing to flush leaves nothing at all; section 7.2.3.6 wants an empty block.
            deflated = deflated.removesuffix(_TAIL) or b"\x00"
            if self._out_fresh:
                self._deflater = zlib.compressobj(wbits=-self._out_bits)
        return RsvBits(opcode is not Opcode.CONTINUATION, rsv.rsv2, rsv.rsv3), deflated

    def _inflate(self, data: bytes) -> bytes | CloseReason:
        pieces: list[bytes] = []
        position = 0
        self._deflated += len(data)
        if self._deflated > 2 * self._limit + DEFLATED_SLACK:
            return CloseReason.MESSAGE_TOO_BIG
        while position < len(data):
            step = data[position : position + INFLATE_STEP]
            room = self._limit - self._inflated + 1
            try:
                piece = self._inflater.decompress(step, room)
            except zlib.error:
                return CloseReason.INVALID_FRAME_PAYLOAD_DATA
            self._inflated += len(piece)
            if self._inflated > self._limit:
                return CloseReason.MESSAGE_TOO_BIG
            pieces.append(piece)
            position += len(step)
            if self._inflater.eof:
                # A block marked as the last one, section 7.2.3.4: what follows begins anew.
                position -= len(self._inflater.unused_data)
                self._inflater = zlib.decompressobj(-self._in_bits)
        return b"".join(pieces)
