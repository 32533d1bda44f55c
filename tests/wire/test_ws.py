"""WebSocket, both roles: with each other, with `websockets`, and against rule-breakers."""

from __future__ import annotations

import itertools
import os
import struct
import zlib

import pytest
import websockets.client
import websockets.frames
import websockets.http11
import websockets.server
import websockets.uri
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    ServerPerMessageDeflateFactory,
)

from groove_trio.wire.http import (
    ClientConnection,
    Request,
    Response,
    ServerConnection,
    Switched,
    Upgrade,
)
from groove_trio.wire.ws import (
    MAX_FRAGMENTS,
    MAX_MESSAGE,
    BytesMessage,
    ClientSocket,
    Closed,
    Event,
    Ping,
    Pong,
    ServerSocket,
    TextMessage,
    text_frame,
)
from groove_trio.words.errors import BadAnswer, BadRequest, GrooveError, UpgradeRequired

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = {
    b"host": b"a",
    b"upgrade": b"websocket",
    b"connection": b"Upgrade",
    b"sec-websocket-key": KEY,
    b"sec-websocket-version": b"13",
}
BOTH = pytest.mark.parametrize("deflate", [False, True], ids=["plain", "deflate"])


def request(method: str = "GET", body: bytes = b"", **changed: bytes | None) -> Request:
    fields = {**HANDSHAKE, **{name.replace("_", "-").encode(): v for name, v in changed.items()}}
    return Request(method, "/ws", [(k, v) for k, v in fields.items() if v is not None], body)


def server(deflate: bool = False, **options: int) -> ServerSocket:
    offer = b"permessage-deflate" if deflate else None
    socket = ServerSocket(request(sec_websocket_extensions=offer), b"", deflate=deflate, **options)
    socket.accept()
    return socket


def pair(deflate: bool = False) -> tuple[ServerSocket, ClientSocket]:
    """Both roles, after a handshake over both HTTP roles."""
    here, there = ClientSocket(deflate=deflate), ServerConnection()
    link = ClientConnection("a")
    there.receive(link.request("GET", "/ws", here.headers))
    upgrade = there.next_event()
    assert isinstance(upgrade, Upgrade)
    socket = ServerSocket(upgrade.request, upgrade.trailing, deflate=deflate)
    link.receive(socket.accept())
    switched = link.next_event()
    assert isinstance(switched, Switched)
    here.accept(switched.response, switched.trailing)
    return socket, here


def frame(first: int, payload: bytes = b"", *, masked: bool = True) -> bytes:
    """A frame as a client sends it, right or wrong; the mask is zero, so payloads stay legible."""
    size = len(payload)
    bit = 0x80 if masked else 0
    if size < 126:
        head = bytes([first, bit | size])
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, bit | 127, size)
    return head + (bytes(4) if masked else b"") + payload


def heard(data: bytes, deflate: bool = False, **options: int) -> list[Event]:
    socket = server(deflate, **options)
    socket.receive(data)
    return list(socket.events())


def failure(data: bytes, deflate: bool = False, **options: int) -> int:
    """The code that a stream fails with: the last event, and the frame that it gives."""
    event = heard(data, deflate, **options)[-1]
    assert isinstance(event, Closed)
    assert event.failed
    assert event.reply[:1] == b"\x88"
    assert struct.unpack("!H", event.reply[2:4]) == (event.code,)
    return event.code


# The handshake


def test_the_example_of_the_rfc() -> None:
    socket = ServerSocket(request())
    assert not socket.open
    answer = socket.accept(((b"X-More", b"y"),))
    assert answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer
    assert answer.endswith(b"X-More: y\r\n\r\n")
    assert b"Extensions" not in answer
    assert socket.open


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"method": "POST"}, BadRequest),
        ({"body": b"x"}, BadRequest),
        ({"upgrade": None}, UpgradeRequired),
        ({"upgrade": b"h2c"}, UpgradeRequired),
        ({"connection": None}, BadRequest),
        ({"connection": b"keep-alive"}, BadRequest),
        ({"sec_websocket_version": None}, UpgradeRequired),
        ({"sec_websocket_version": b"8"}, UpgradeRequired),
        ({"sec_websocket_version": b"13, 8"}, UpgradeRequired),
        ({"sec_websocket_key": None}, BadRequest),
        ({"sec_websocket_key": b""}, BadRequest),
        ({"sec_websocket_key": b"x"}, BadRequest),
        ({"sec_websocket_key": b"c2hvcnQ="}, BadRequest),
        ({"sec_websocket_key": b"dGhlIHNhbXBsZSBub25jZQ"}, BadRequest),
        ({"sec_websocket_key": b"dGhlIHNhbXBsZSBub25jZSE="}, BadRequest),
        ({"sec_websocket_key": b"dGhlIHNhbXBsZSBub25j!!=="}, BadRequest),
        ({"sec_websocket_key": b"\xe9" * 24}, BadRequest),
    ],
)
def test_a_bad_handshake_is_refused(changed: dict[str, bytes], error: type[GrooveError]) -> None:
    with pytest.raises(error):
        ServerSocket(request(**changed))


def test_http_1_0_is_refused() -> None:
    old = request()
    with pytest.raises(BadRequest):
        ServerSocket(Request("GET", "/ws", old.headers, b"", "1.0"))


@pytest.mark.parametrize("changed", [{"upgrade": b"h2c, WebSocket"}, {"connection": b"x, UPGRADE"}])
def test_tokens_are_found_in_lists_and_any_case(changed: dict[str, bytes]) -> None:
    assert ServerSocket(request(**changed)).accept()


def test_a_subprotocol_is_only_chosen_when_offered_and_spoken() -> None:
    offered = request(sec_websocket_protocol=b"chat, soup")
    assert ServerSocket(offered).subprotocol is None
    assert b"Protocol:" not in ServerSocket(offered).accept()
    socket = ServerSocket(offered, subprotocols=("soup", "chat"))
    assert socket.subprotocol == "soup"
    assert b"Sec-WebSocket-Protocol: soup\r\n" in socket.accept()
    assert ServerSocket(request(), subprotocols=("soup",)).subprotocol is None


def test_the_answer_cannot_be_split() -> None:
    with pytest.raises(GrooveError):
        ServerSocket(request()).accept(((b"x", b"a\r\nb: c"),))


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        ("permessage-deflate", "permessage-deflate"),
        ("permessage-deflate; client_max_window_bits", "permessage-deflate"),
        (
            "permessage-deflate; client_max_window_bits=10",
            "permessage-deflate; client_max_window_bits=10",
        ),
        (
            'permessage-deflate;server_max_window_bits="9"',
            "permessage-deflate; server_max_window_bits=9",
        ),
        (
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        ),
        ("x-unknown, permessage-deflate; nonsense, PerMessage-Deflate", "permessage-deflate"),
        (
            "permessage-deflate; server_max_window_bits=8, permessage-deflate",
            "permessage-deflate",
        ),
        ("permessage-deflate; client_max_window_bits=16", None),
        ("permessage-deflate; client_max_window_bits=08", None),
        ("permessage-deflate; client_max_window_bits=x", None),
        ("permessage-deflate; server_max_window_bits", None),
        ("permessage-deflate; server_no_context_takeover=1", None),
        ("permessage-deflate; server_no_context_takeover; server_no_context_takeover", None),
        ("permessage-deflate; unknown", None),
        ("permessage-deflate;", None),
        ("x-webkit-deflate-frame", None),
        ("", None),
        (", " * 100 + "permessage-deflate", None),
    ],
)
def test_deflate_is_agreed_on_strictly(offer: str, answer: str | None) -> None:
    asked = request(sec_websocket_extensions=offer.encode())
    line = f"Sec-WebSocket-Extensions: {answer}\r\n".encode()
    assert (line in ServerSocket(asked, deflate=True).accept()) is (answer is not None)
    assert b"Extensions" not in ServerSocket(asked).accept()


@pytest.mark.parametrize(
    "change",
    [
        (b"upgrade", b"h2c"),
        (b"connection", b"close"),
        (b"sec-websocket-accept", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        (b"sec-websocket-extensions", b"x-other"),
        (b"sec-websocket-extensions", b"permessage-deflate; client_max_window_bits"),
        (b"sec-websocket-extensions", b"permessage-deflate; client_max_window_bits=8"),
        (b"sec-websocket-extensions", b"permessage-deflate, permessage-deflate"),
        (b"sec-websocket-protocol", b"soup"),
    ],
)
@BOTH
def test_a_client_refuses_what_it_did_not_ask_for(
    change: tuple[bytes, bytes], deflate: bool
) -> None:
    socket = ClientSocket(deflate=deflate)
    asked = [(name.lower(), value) for name, value in socket.headers]
    raw = ServerSocket(Request("GET", "/", [(b"host", b"a"), *asked], b"")).accept()
    lines = [line.split(b": ", 1) for line in raw.split(b"\r\n")[1:-2]]
    good = {name.lower(): value for name, value in lines}
    socket.accept(Response(101, list(good.items())))
    with pytest.raises(BadAnswer):
        socket.accept(Response(101, [*{**good, change[0]: change[1]}.items()]))
    with pytest.raises(BadAnswer):
        socket.accept(Response(200, list(good.items())))


def test_a_client_refuses_deflate_that_it_did_not_offer() -> None:
    offered, silent = ClientSocket(deflate=True), ClientSocket()
    silent._key = offered._key  # noqa: SLF001
    asked = [(name.lower(), value) for name, value in offered.headers]
    there = ServerSocket(Request("GET", "/", [(b"host", b"a"), *asked], b""), deflate=True)
    fields = [line.split(b": ", 1) for line in there.accept().split(b"\r\n")[1:-2]]
    with pytest.raises(BadAnswer):
        silent.accept(Response(101, [(name.lower(), value) for name, value in fields]))


# Messages between both roles


MESSAGES = ["", "hi", "é€😀", "x" * 125, "x" * 126, "y" * 65535, "z" * 65536, "z" * MAX_MESSAGE]


@BOTH
def test_messages_pass_both_ways(deflate: bool) -> None:
    ours, theirs = pair(deflate)
    for sender, receiver in ((ours, theirs), (theirs, ours)):
        for text in MESSAGES:
            receiver.receive(sender.send_text(text))
            receiver.receive(sender.send_bytes(text.encode()))
            assert list(receiver.events()) == [TextMessage(text), BytesMessage(text.encode())]


@BOTH
def test_text_can_be_given_as_utf8(deflate: bool) -> None:
    for ours, theirs in (pair(deflate), pair(deflate)[::-1]):
        theirs.receive(ours.send_text("é".encode()))
        assert list(theirs.events()) == [TextMessage("é")]


@BOTH
def test_empty_messages_in_a_row(deflate: bool) -> None:
    ours, theirs = pair(deflate)
    for text in ("", "", "a", "", ""):
        theirs.receive(ours.send_text(text))
        ours.receive(theirs.send_text(text))
        assert [*theirs.events(), *ours.events()] == [TextMessage(text)] * 2


@BOTH
def test_pings_are_answered(deflate: bool) -> None:
    ours, theirs = pair(deflate)
    theirs.receive(ours.ping(b"abc"))
    (ping,) = theirs.events()
    assert isinstance(ping, Ping)
    ours.receive(ping.reply)
    assert list(ours.events()) == [Pong(b"abc")]


@BOTH
def test_closing_goes_both_ways_and_ends(deflate: bool) -> None:
    for first, second in (pair(deflate), pair(deflate)[::-1]):
        second.receive(first.close(1001, "bye") + b"")
        assert not first.open
        assert first.close() == first.send_text("x") == first.send_bytes(b"") == first.ping() == b""
        (closed,) = second.events()
        assert isinstance(closed, Closed)
        assert (closed.code, closed.reason, closed.failed) == (1001, "bye", False)
        assert not second.open
        first.receive(closed.reply)
        assert list(first.events()) == [Closed(1001, "bye")]
        first.receive(b"\xff")
        first.receive(b"")
        assert list(first.events()) == []


def test_what_comes_before_the_peer_agrees_to_close_is_dropped() -> None:
    ours, theirs = pair()
    late = theirs.send_text("late") + theirs.ping()
    theirs.receive(ours.close())
    (closed,) = theirs.events()
    assert isinstance(closed, Closed)
    ours.receive(late + closed.reply)
    assert list(ours.events()) == [Ping(b"", b""), Closed(1000, "")]


def test_a_long_reason_is_cut_between_characters() -> None:
    ours, theirs = pair()
    theirs.receive(ours.close(1011, "é" * 100))
    (closed,) = theirs.events()
    assert closed == Closed(1011, "é" * 61, closed.reply)


def test_a_peer_that_leaves_is_seen() -> None:
    for end in pair():
        end.receive(b"")
        assert list(end.events()) == [Closed(1006, "the peer left without closing")]
        assert not end.open
        assert list(end.events()) == []


def test_early_frames_are_heard_after_the_handshake() -> None:
    socket = ServerSocket(request(), frame(0x81, b"early"))
    assert list(socket.events()) == []
    socket.accept()
    assert list(socket.events()) == [TextMessage("early")]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_a_ready_frame_is_what_a_server_sends(size: int) -> None:
    payload = b"x" * size
    assert text_frame(payload) == frame(0x81, payload, masked=False)
    assert server().send_text(payload) == text_frame(payload)


# Rules


BROKEN = {
    "reserved bit 1": (frame(0xC1, b"x"), 1002),
    "reserved bit 2": (frame(0xA1, b"x"), 1002),
    "reserved bit 3": (frame(0x91, b"x"), 1002),
    "reserved bit on a ping": (frame(0xC9), 1002),
    **{
        f"opcode {code}": (frame(0x80 | code), 1002) for code in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
    },
    "unmasked": (frame(0x81, b"x", masked=False), 1002),
    "long ping": (frame(0x89, b"x" * 126), 1002),
    "fragmented ping": (frame(0x09), 1002),
    "fragmented close": (frame(0x08), 1002),
    "continuation of nothing": (frame(0x80, b"x"), 1002),
    "continuation after the end": (frame(0x81, b"x") + frame(0x80, b"x"), 1002),
    "message within a message": (frame(0x01, b"x") + frame(0x81, b"x"), 1002),
    "length in too many bytes": (b"\x81\xfe\x00\x7d" + bytes(4 + 125), 1002),
    "length in far too many bytes": (b"\x81\xff" + bytes(6) + b"\xff\xff" + bytes(4), 1002),
    "length with the top bit": (b"\x81\xff\x80" + bytes(7 + 4), 1002),
    "close of one byte": (frame(0x88, b"\x03"), 1002),
    **{
        f"close with {code}": (frame(0x88, struct.pack("!H", code)), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    },
    "close with bad text": (frame(0x88, b"\x03\xe8\xff"), 1007),
    "bad text": (frame(0x81, b"\xff"), 1007),
    "bad text, early": (frame(0x01, b"a\xc3\x28"), 1007),
    "overlong text": (frame(0x81, b"\xc0\xaf"), 1007),
    "surrogate": (frame(0x81, b"\xed\xa0\x80"), 1007),
    "beyond unicode, early": (frame(0x01, b"\xf4\x90"), 1007),
    "unfinished text": (frame(0x81, b"\xe2\x82"), 1007),
    "unfinished text over fragments": (frame(0x01, b"\xe2") + frame(0x80, b"\x82"), 1007),
    "bad text over fragments": (frame(0x01, b"\xe2") + frame(0x00, b"\x28"), 1007),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_rule_fails_the_connection_with_its_code(case: str) -> None:
    data, code = BROKEN[case]
    assert failure(data) == code
    good = frame(0x81, b"ok")
    if "continuation" not in case:
        assert [type(event) for event in heard(good + data + good)] == [TextMessage, Closed]


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_rule_fails_a_compressed_connection_too(case: str) -> None:
    data, code = BROKEN[case]
    if case != "reserved bit 1":
        assert failure(data, deflate=True) == code


def test_text_fails_as_soon_as_it_is_bad() -> None:
    socket = server()
    socket.receive(frame(0x81, b"ab\xff" + b"c" * 1000)[:11])
    (closed,) = socket.events()
    assert isinstance(closed, Closed)
    assert closed.code == 1007


def test_text_may_be_parted_anywhere() -> None:
    data = b"".join(frame(0x00, bytes([byte])) for byte in "é€😀".encode())
    data = b"\x01" + data[1:] + frame(0x89, b"p") + frame(0x80)
    assert heard(data) == [Ping(b"p", b"\x8a\x01p"), TextMessage("é€😀")]


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1011, 1012, 1013, 3000, 3999, 4999])
def test_a_close_is_answered_in_kind(code: int) -> None:
    payload = struct.pack("!H", code) + b"why"
    assert heard(frame(0x88, payload)) == [Closed(code, "why", frame(0x88, payload, masked=False))]


def test_a_close_without_a_code_is_answered_without_one() -> None:
    assert heard(frame(0x88) + frame(0x81, b"x")) == [Closed(1005, "", b"\x88\x00")]


def test_a_client_refuses_masked_frames() -> None:
    _, client = pair()
    client.receive(frame(0x81, b"x"))
    (closed,) = client.events()
    assert isinstance(closed, Closed)
    assert closed.code == 1002


def test_a_rule_broken_while_closing_ends_the_wait() -> None:
    socket = server()
    socket.close()
    socket.receive(frame(0x83))
    assert [(e.code, e.failed, e.reply) for e in socket.events() if isinstance(e, Closed)] == [
        (1002, True, b"")
    ]


# Limits


def deflated(data: bytes, *, wbits: int = -15) -> bytes:
    machine = zlib.compressobj(wbits=wbits)
    return (machine.compress(data) + machine.flush(zlib.Z_SYNC_FLUSH)).removesuffix(
        b"\x00\x00\xff\xff"
    )


def test_a_message_is_bounded() -> None:
    assert heard(frame(0x82, b"x" * 100), max_message=100) == [BytesMessage(b"x" * 100)]
    assert failure(frame(0x82, b"x" * 101), max_message=100) == 1009
    assert failure(frame(0x82, b"x" * 200)[:-80], max_message=100) == 1009
    assert failure(frame(0x02, b"x" * 60) + frame(0x80, b"x" * 41), max_message=100) == 1009
    assert heard(frame(0x81, "é".encode() * 50), max_message=100) == [TextMessage("é" * 50)]
    assert failure(frame(0x81, "é".encode() * 51), max_message=100) == 1009


def test_fragments_are_bounded() -> None:
    assert heard(frame(0x01, b"x") + frame(0x00) * 8 + frame(0x80), max_fragments=10) == [
        TextMessage("x")
    ]
    assert failure(frame(0x01, b"x") + frame(0x00) * 10, max_fragments=10) == 1008
    assert failure(frame(0x02) + frame(0x00) * MAX_FRAGMENTS) == 1008


def test_a_frame_in_many_reads_is_one_fragment() -> None:
    socket = server(max_fragments=1)
    for byte in frame(0x81, b"x" * 500):
        socket.receive(bytes([byte]))
        events = list(socket.events())
    assert events == [TextMessage("x" * 500)]


def test_limits_begin_anew_with_each_message() -> None:
    data = (frame(0x01, b"x" * 5) + frame(0x80, b"y" * 5)) * 3
    assert heard(data, max_message=10, max_fragments=2) == [TextMessage("xxxxxyyyyy")] * 3


def test_inflating_is_bounded() -> None:
    fits, bomb = deflated(bytes(100)), deflated(bytes(101))
    assert heard(frame(0xC2, fits), True, max_message=100) == [BytesMessage(bytes(100))]
    assert failure(frame(0xC2, bomb), True, max_message=100) == 1009
    assert failure(frame(0x42, bomb[:4]) + frame(0x80, bomb[4:]), True, max_message=100) == 1009


def test_a_bomb_does_not_inflate_beyond_the_limit() -> None:
    import tracemalloc

    bomb = deflated(bytes(64 * 1024 * 1024))
    assert len(bomb) < 70_000
    socket = server(True)
    tracemalloc.start()
    try:
        socket.receive(frame(0xC2, bomb))
        (closed,) = socket.events()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(closed, Closed)
    assert closed.code == 1009
    assert peak < 4 * MAX_MESSAGE


@pytest.mark.parametrize("block", [b"\x03\x00", b"\x00\x00\x00\xff\xff"])
def test_a_message_of_empty_blocks_need_not_end_to_be_too_big(block: bytes) -> None:
    endless = b"\xc2\xff" + bytes([0x7F]) + b"\xff" * 7 + bytes(4)  # a frame of 2**63 - 1 bytes
    socket = server(True, max_message=1000)
    socket.receive(endless)
    events: list[Event] = []
    taken = 0
    while not events and taken < 100_000:
        socket.receive(block * 100)
        taken += len(block) * 100
        events += socket.events()
    assert [event.code for event in events if isinstance(event, Closed)] == [1009]
    assert taken < 10_000
    few = deflated(b"")[:-1] + block * 100 + deflated(b"x")
    assert heard(frame(0xC2, few), True, max_message=1000) == [BytesMessage(b"x")]


@pytest.mark.parametrize("junk", [b"\xff", b"\x07junk", b"\x00\x01\x02\x03\x04\x05"])
def test_what_does_not_inflate_fails(junk: bytes) -> None:
    assert failure(frame(0xC1, junk), True) == 1007


def test_a_ping_within_a_compressed_message_changes_nothing() -> None:
    data = deflated(b"hello hello hello")
    parts = frame(0x41, data[:3]) + frame(0x89, b"p") + frame(0x00, data[3:5]) + frame(0x8A)
    assert heard(parts + frame(0x80, data[5:]) + frame(0x81, b"plain"), True) == [
        Ping(b"p", b"\x8a\x01p"),
        Pong(b""),
        TextMessage("hello hello hello"),
        TextMessage("plain"),
    ]


def test_a_message_that_ends_the_deflate_stream_is_heard_and_so_is_the_next() -> None:
    # RFC 7692, section 7.2.3.4
    last = bytes([0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00, 0x00])
    assert heard(frame(0xC1, last) * 2 + frame(0xC1, deflated(b"x")), True) == [
        TextMessage("Hello"),
        TextMessage("Hello"),
        TextMessage("x"),
    ]


def test_the_examples_of_rfc_7692() -> None:
    hello = bytes([0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00])
    again = bytes([0xF2, 0x00, 0x11, 0x00, 0x00])
    stored = bytes([0x00, 0x05, 0x00, 0xFA, 0xFF, 0x48, 0x65, 0x6C, 0x6C, 0x6F, 0x00])
    two = bytes([0xF2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0xCA, 0xC9, 0xC9, 0x07, 0x00])
    told = heard(b"".join(frame(0xC1, payload) for payload in (hello, again, stored, two)), True)
    assert told == [TextMessage("Hello")] * 4
    assert heard(frame(0xC1, b"\x00"), True) == [TextMessage("")]


@BOTH
def test_frames_are_counted_whole_whatever_they_are(deflate: bool) -> None:
    socket = server(deflate)
    pieces = frame(0x01, b"a") + frame(0x89, b"p") + frame(0x00) + frame(0x80, b"b" * 200)
    for data, frames in ((pieces, 4), (frame(0x8A), 5), (frame(0x82, b"x" * 70_000), 6)):
        for start in range(0, len(data), 999):
            assert socket.heard < frames
            socket.receive(data[start : start + 999])
            list(socket.events())
        assert socket.heard == frames
    socket.close()
    socket.receive(frame(0x81, b"dropped") * 3)
    assert list(socket.events()) == []
    assert socket.heard == 9


# Any bytes


PIECES = st.one_of(
    st.sampled_from([data for data, _ in BROKEN.values()]),
    st.sampled_from([frame(0x81, b"hi"), frame(0x01, b"a"), frame(0x80, b"b"), frame(0x89, b"p")]),
    st.sampled_from([frame(0xC1, deflated(b"abc" * 9)), frame(0x88), frame(0x82, b"x" * 200)]),
    st.binary(max_size=6),
)


def told(pieces: list[bytes], deflate: bool) -> list[Event]:
    socket = server(deflate, max_message=150, max_fragments=4)
    events: list[Event] = []
    for piece in [*pieces, b""]:
        socket.receive(piece)
        events += socket.events()
    assert isinstance(events[-1], Closed)
    assert not any(isinstance(event, Closed) for event in events[:-1])
    return events


@given(
    st.lists(PIECES, max_size=6).map(b"".join),
    st.lists(st.integers(0, 600), max_size=10),
    st.booleans(),
)
def test_chopping_makes_no_difference(stream: bytes, cuts: list[int], deflate: bool) -> None:
    places = sorted({0, *(cut % (len(stream) + 1) for cut in cuts), len(stream)})
    pieces = [stream[a:b] for a, b in itertools.pairwise(places)]
    whole = told([stream] if stream else [], deflate)
    parts = told(pieces, deflate)
    assert [(type(e), e) for e in parts[:-1]] == [(type(e), e) for e in whole[:-1]]
    assert isinstance(parts[-1], Closed)
    assert isinstance(whole[-1], Closed)
    assert (parts[-1].code, parts[-1].failed) == (whole[-1].code, whole[-1].failed)


# The oracle: `websockets`, without I/O, in the other role.


def against_their_client(deflate: bool) -> tuple[ServerSocket, websockets.client.ClientProtocol]:
    extensions = [ClientPerMessageDeflateFactory()] if deflate else []
    theirs = websockets.client.ClientProtocol(
        websockets.uri.parse_uri("ws://a/ws"), extensions=extensions, max_size=None
    )
    theirs.send_request(theirs.connect())
    link = ServerConnection()
    link.receive(b"".join(theirs.data_to_send()))
    upgrade = link.next_event()
    assert isinstance(upgrade, Upgrade)
    ours = ServerSocket(upgrade.request, upgrade.trailing, deflate=deflate)
    theirs.receive_data(ours.accept())
    assert isinstance(theirs.events_received()[0], websockets.http11.Response)
    assert theirs.handshake_exc is None
    return ours, theirs


def against_their_server(deflate: bool) -> tuple[ClientSocket, websockets.server.ServerProtocol]:
    extensions = [ServerPerMessageDeflateFactory()] if deflate else []
    theirs = websockets.server.ServerProtocol(extensions=extensions, max_size=None)
    ours, link = ClientSocket(deflate=deflate), ClientConnection("a")
    theirs.receive_data(link.request("GET", "/ws", ours.headers))
    (asked,) = theirs.events_received()
    assert isinstance(asked, websockets.http11.Request)
    theirs.send_response(theirs.accept(asked))
    link.receive(b"".join(theirs.data_to_send()))
    switched = link.next_event()
    assert isinstance(switched, Switched)
    ours.accept(switched.response, switched.trailing)
    return ours, theirs


SAID = st.lists(
    st.one_of(st.text(max_size=300), st.binary(max_size=300), st.just("x" * 70_000)), max_size=6
)


@pytest.mark.parametrize("against", [against_their_client, against_their_server])
@BOTH
@given(said=SAID)
@settings(max_examples=30)
def test_messages_pass_to_and_from_websockets(against, deflate: bool, said: list) -> None:
    ours, theirs = against(deflate)
    for message in said:
        text = isinstance(message, str)
        data = message.encode() if text else message
        theirs.receive_data(ours.send_text(message) if text else ours.send_bytes(message))
        (got,) = theirs.events_received()
        assert (got.opcode, bytes(got.data)) == (1 if text else 2, data)
        half = len(data) // 2
        (theirs.send_text if text else theirs.send_binary)(data[:half], fin=False)
        theirs.send_ping(b"between")
        theirs.send_continuation(data[half:], fin=True)
        ours.receive(b"".join(theirs.data_to_send()))
        ping, whole = ours.events()
        assert isinstance(ping, Ping)
        theirs.receive_data(ping.reply)
        (pong,) = theirs.events_received()
        assert (pong.opcode, bytes(pong.data)) == (10, b"between")
        assert whole == (TextMessage(message) if text else BytesMessage(data))


@pytest.mark.parametrize("against", [against_their_client, against_their_server])
@BOTH
def test_websockets_agrees_on_how_it_closed(against, deflate: bool) -> None:
    ours, theirs = against(deflate)
    theirs.receive_data(ours.close(1001, "bye"))
    ours.receive(b"".join(theirs.data_to_send()))
    assert list(ours.events()) == [Closed(1001, "bye")]
    assert theirs.close_rcvd == theirs.close_sent == websockets.frames.Close(1001, "bye")
    ours, theirs = against(deflate)
    theirs.send_close(4000, "tired")
    ours.receive(b"".join(theirs.data_to_send()))
    (closed,) = ours.events()
    theirs.receive_data(closed.reply)
    assert theirs.close_rcvd == theirs.close_sent == websockets.frames.Close(4000, "tired")


@BOTH
def test_random_bytes_compress_and_pass(deflate: bool) -> None:
    ours, theirs = against_their_client(deflate)
    data = os.urandom(200_000)
    theirs.receive_data(ours.send_bytes(data))
    (got,) = theirs.events_received()
    assert bytes(got.data) == data
