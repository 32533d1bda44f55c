"""Attacks over WebSocket: upgrades that must not be, broken frames, floods, and who never reads."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
import zlib
from contextlib import suppress
from typing import Any

import pytest

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = {
    "Host": b"{host}",
    "Connection": b"Upgrade",
    "Upgrade": b"websocket",
    "Sec-WebSocket-Version": b"13",
    "Sec-WebSocket-Key": KEY,
}
Fields = dict[str, bytes | list[bytes] | None]


def upgrade(first: str = "GET /ws HTTP/1.1", fields: Fields | None = None) -> bytes:
    """A handshake with some fields changed: None leaves one out, a list gives it repeatedly."""
    lines = [first.encode()]
    for name, value in (HANDSHAKE | (fields or {})).items():
        values = value if isinstance(value, list) else [value]
        lines += [name.encode() + b": " + each for each in values if each is not None]
    return b"\r\n".join([*lines, b"", b""])


def frame(
    first: int, payload: bytes = b"", *, says: int | None = None, masked: bool = True
) -> bytes:
    """A client's frame, right or wrong, its mask zero; `says` is what its length field claims."""
    size = len(payload) if says is None else says
    bit = 0x80 if masked else 0
    if size < 126:
        head = bytes([first, bit | size])
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, bit | 127, size)
    return head + (bytes(4) if masked else b"") + payload


def text(message: bytes) -> bytes:
    return frame(0x81, message)


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(0x88, struct.pack("!H", code) + reason)


def raw_deflate(message: bytes) -> bytes:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (deflate.compress(message) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]


BOMB = raw_deflate(bytes(12 << 20))  # in 12 KiB


class Subscriber:
    """A client on the feed, after its handshake."""

    def __init__(self, attack: Any, early: bytes = b"", fields: Fields | None = None) -> None:
        self.attack = attack
        self.socket: socket.socket = attack.connect()
        attack.strike(upgrade(fields=fields) + early, on=self.socket)
        self._data = b""
        while b"\r\n\r\n" not in self._data:
            self._more()
        self.head, _, self._data = self._data.partition(b"\r\n\r\n")
        assert self.head.startswith(b"HTTP/1.1 101 "), self.head
        if not early:
            opcode, snapshot = self.next()
            assert (opcode, json.loads(snapshot)["event"]["type"]) == (1, "snapshot")

    def say(self, data: bytes) -> None:
        self.attack.strike(data, on=self.socket)

    def _more(self) -> None:
        data = self.socket.recv(65_536)
        if not data:
            raise EOFError
        self._data += data

    def next(self) -> tuple[int, bytes]:
        """The next frame, which must be a whole message or a control frame, and not masked."""
        while (cut := self._whole()) is None:
            self._more()
        start, end = cut
        first, payload = self._data[0], self._data[start:end]
        self._data = self._data[end:]
        assert first & 0xF0 == 0x80, first
        return first & 0x0F, payload

    def _whole(self) -> tuple[int, int] | None:
        data = self._data
        if len(data) < 2:
            return None
        size, start = data[1], 2
        if size >= 126:
            start = 4 if size == 126 else 10
            if len(data) < start:
                return None
            size = int.from_bytes(data[2:start], "big")
        return (start, start + size) if len(data) >= start + size else None

    def end(self) -> int | str:
        """How the daemon ended it: the code of its close frame, after which nothing comes.

        Events and pongs may come before it.
        """
        try:
            while (frame_of := self.next())[0] != 8:
                assert frame_of[0] in (1, 10), frame_of
        except (EOFError, ConnectionResetError):
            return "dropped"
        with suppress(ConnectionError):
            self.socket.sendall(frame(0x88, frame_of[1]))  # agreed
        with suppress(EOFError, ConnectionResetError):
            raise AssertionError(self.next())
        assert self._data == b""
        return int.from_bytes(frame_of[1][:2], "big") if frame_of[1] else "no code"


# Upgrades


FOREIGN: dict[str, Fields] = {
    **{
        f"origin {origin.decode()}": {"Origin": origin}
        for origin in (
            b"http://evil.example",
            b"null",
            b"http://127.0.0.1",
            b"http://127.0.0.1:{port}0",
            b"http://localhost:{port}",
            b"http://127.0.0.2:{port}",
            b"http://[::1]:{port}",
            b"http://" + socket.gethostname().encode() + b":{port}",
            b"http://localhost.evil.example:{port}",
            b"http://127.0.0.1:{port}.evil.example",
            b"http://127.0.0.1:{port}@evil.example",
            b"http://{host}/",
            b"https://{host}",
            b"HTTP://{host}",
            b"http://{host}, http://evil.example",
            b"",
        )
    },
    **{
        f"host {host.decode()}": {"Host": host}
        for host in (
            b"evil.example",
            b"evil.example:{port}",
            b"127.0.0.1",
            b"127.0.0.2:{port}",
            b"0.0.0.0:{port}",
            b"localhost:{port}",
            b"localhost.:{port}",
            b"",
        )
    },
    "host and origin of a rebound name": {
        "Host": b"evil.example:{port}",
        "Origin": b"http://evil.example:{port}",
    },
    "host and origin of localhost, half of which is not ours": {
        "Host": b"localhost:{port}",
        "Origin": b"http://localhost:{port}",
    },
    **{
        f"a page that is {site.decode()}": {"Sec-Fetch-Site": site}
        for site in (b"cross-site", b"same-site", b"", b"none, cross-site")
    },
    "a proxy": {"X-Forwarded-Host": b"{host}"},
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_foreign_upgrade_gets_no_byte(siege: Any, case: str) -> None:
    with siege() as attack:
        attack.strike(upgrade(fields=FOREIGN[case]))
        attack.expect("silence")


EVIL: Fields = {"Origin": b"http://evil.example"}
FOREIGN_AND_WRONG = {
    "elsewhere": upgrade("GET /api/agents HTTP/1.1", EVIL),
    "nowhere": upgrade("GET /no/such HTTP/1.1", EVIL),
    "as POST": upgrade("POST /ws HTTP/1.1", EVIL),
    "in another version": upgrade(fields=EVIL | {"Sec-WebSocket-Version": b"8"}),
    "without a key": upgrade(fields=EVIL | {"Sec-WebSocket-Key": None}),
    "with a body": upgrade(fields=EVIL | {"Content-Length": b"5"}) + b"hello",
    "with a body to come": upgrade(fields=EVIL | {"Content-Length": b"5"}),
    "with frames behind it": upgrade(fields=EVIL) + text(b"{}") * 100,
    "with a request behind it": upgrade(fields=EVIL)
    + b"GET /api/health HTTP/1.1\r\nHost: {host}\r\n\r\n",
}


@pytest.mark.parametrize("case", FOREIGN_AND_WRONG)
def test_a_foreign_upgrade_gets_no_byte_however_wrong_it_is(siege: Any, case: str) -> None:
    with siege() as attack:
        attack.strike(FOREIGN_AND_WRONG[case])
        attack.expect("silence")


WRONG: dict[str, tuple[bytes, str]] = {
    "on a route that has none": (upgrade("GET /api/health HTTP/1.1"), "400 close"),
    "on a route that only posts": (upgrade("GET /api/knock HTTP/1.1"), "405 close"),
    "nowhere": (upgrade("GET /ws/ HTTP/1.1"), "404 close"),
    "of the server itself": (upgrade("OPTIONS * HTTP/1.1"), "400 close | 405 close"),
    "version 8": (upgrade(fields={"Sec-WebSocket-Version": b"8"}), "426 close"),
    "versions": (upgrade(fields={"Sec-WebSocket-Version": b"13, 8"}), "426 close"),
    "no version": (upgrade(fields={"Sec-WebSocket-Version": None}), "426 close"),
    "two versions": (upgrade(fields={"Sec-WebSocket-Version": [b"13", b"13"]}), "400 close"),
    "no key": (upgrade(fields={"Sec-WebSocket-Key": None}), "400 close"),
    "short key": (upgrade(fields={"Sec-WebSocket-Key": b"c2hvcnQ="}), "400 close"),
    "long key": (upgrade(fields={"Sec-WebSocket-Key": KEY * 100}), "400 close"),
    "two keys": (upgrade(fields={"Sec-WebSocket-Key": [KEY, KEY]}), "400 close"),
    "keys in a list": (upgrade(fields={"Sec-WebSocket-Key": KEY + b", " + KEY}), "400 close"),
    "key not in base64": (upgrade(fields={"Sec-WebSocket-Key": b"!" * 24}), "400 close"),
    "key with white space": (
        upgrade(fields={"Sec-WebSocket-Key": KEY[:8] + b" " + KEY[8:]}),
        "400 close",
    ),
    "connection that stays": (upgrade(fields={"Connection": b"keep-alive"}), "400 close"),
    "connection missing": (upgrade(fields={"Connection": None}), "400 close"),
    "posted": (
        upgrade(
            "POST /ws HTTP/1.1",
            {"Content-Type": b"application/json", "Content-Length": b"0"},
        ),
        "400 close | 405 close",
    ),
    "with HEAD": (upgrade("HEAD /ws HTTP/1.1"), "400 close"),
    "with OPTIONS": (upgrade("OPTIONS /ws HTTP/1.1"), "400 close"),
    "of HTTP/1.0": (upgrade("GET /ws HTTP/1.0"), "426 close"),
    "of HTTP/2.0": (upgrade("GET /ws HTTP/2.0"), "505 close"),
    "to something else, and to close": (
        upgrade(fields={"Upgrade": b"h2c", "Connection": b"close, Upgrade"}),
        "426 close",
    ),
    "to something else": (upgrade(fields={"Upgrade": b"h2c"}), "426 open | 426 close"),
    "with a body": (upgrade(fields={"Content-Length": b"5"}) + b"hello", "400 close"),
    "with a chunked body": (
        upgrade(fields={"Transfer-Encoding": b"chunked"}) + b"5\r\nhello\r\n0\r\n\r\n",
        "400 close",
    ),
    "with two lengths": (upgrade(fields={"Content-Length": [b"0", b"0"]}), "400 close"),
    "with two origins": (upgrade(fields={"Origin": [b"http://{host}"] * 2}), "400 close"),
    "with two hosts": (upgrade(fields={"Host": [b"{host}"] * 2}), "400 close"),
    "with a folded key": (
        upgrade(fields={"Sec-WebSocket-Key": KEY[:8] + b"\r\n " + KEY[8:]}),
        "400 close",
    ),
    "in absolute form": (upgrade("GET http://{host}/ws HTTP/1.1"), "400 close"),
    **{
        f"after {value[:20]}": (upgrade(f"GET /ws?{value} HTTP/1.1"), "400 close")
        for value in (
            "after=x",
            "after=-1",
            "after=1.5",
            "after=NaN",
            "after=",
            "after=9223372036854775808",
            "after=" + "9" * 5000,
            "after=1&after=2",
            "after=%FF",
            "after=1" + "&x=1" * 100,
        )
    },
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_upgrade_is_refused_properly(siege: Any, case: str) -> None:
    data, outcomes = WRONG[case]
    with siege() as attack:
        attack.strike(data)
        answer = attack.expect(outcomes)
        assert answer is not None
        if answer.status == 426:
            assert answer.field("sec-websocket-version") == "13"
            assert answer.field("upgrade") == "websocket"
        assert answer.field("sec-websocket-accept") is None


def test_nothing_behind_a_refused_upgrade_is_served(siege: Any) -> None:
    with siege() as attack:
        asked = upgrade(fields={"Sec-WebSocket-Version": b"8"}) + text(b"{}")
        attack.strike(asked + b"GET /api/agents HTTP/1.1\r\nHost: {host}\r\n\r\n")
        attack.expect("426 close")


# Frames


BROKEN: dict[str, tuple[bytes, int]] = {
    "unmasked": (frame(0x81, b"{}", masked=False), 1002),
    "reserved bit 1, which is compression": (frame(0xC1, raw_deflate(b"{}")), 1002),
    "reserved bit 2": (frame(0xA1, b"{}"), 1002),
    "reserved bit 3": (frame(0x91, b"{}"), 1002),
    "a bomb that nobody agreed to inflate": (frame(0xC1, BOMB), 1002),
    **{f"opcode {code}": (frame(0x80 | code), 1002) for code in (3, 7, 11, 15)},
    "fragmented ping": (frame(0x09), 1002),
    "fragmented close": (frame(0x08), 1002),
    "long ping": (frame(0x89, bytes(126)), 1002),
    "long close": (close(1000, b"x" * 124), 1002),
    "ping that claims to be huge": (frame(0x89, says=2**62), 1002),
    "continuation of nothing": (frame(0x80, b"{}"), 1002),
    "continuation after the end": (text(b"{}") + frame(0x80, b"{}"), 1002),
    "message within a message": (frame(0x01, b"{") + text(b"{}"), 1002),
    "length in too many bytes": (b"\x81\xfe\x00\x02" + bytes(4) + b"{}", 1002),
    "length in far too many bytes": (b"\x81\xff" + bytes(7) + b"\x02" + bytes(4) + b"{}", 1002),
    "length with the top bit": (frame(0x81, b"{}", says=2**63), 1002),
    "length of all ones": (frame(0x81, b"{}", says=2**64 - 1), 1002),
    **{f"close with {code}": (close(code), 1002) for code in (0, 999, 1005, 1006, 5000)},
    "close of one byte": (frame(0x88, b"\x03"), 1002),
    "close with bad text": (close(1000, b"\xff"), 1007),
    "close with half a character": (close(1000, b"\xe2\x82"), 1007),
    "bad text": (text(b'"\xff"'), 1007),
    "overlong text": (text(b'"\xc0\xaf"'), 1007),
    "text with a surrogate": (text(b'"\xed\xa0\x80"'), 1007),
    "bad text in a message that goes on": (frame(0x01, b'"\xf4\x90'), 1007),
    "bad text over two frames": (frame(0x01, b'"\xe2') + frame(0x80, b'\x28"'), 1007),
    "half a character at the end": (frame(0x01, b'"\xe2') + frame(0x80, b"\x82"), 1007),
    "bytes": (frame(0x82, b"{}"), 1003),
    "one message of 17 KiB": (text(b'"' + b"x" * 17 * 1024 + b'"'), 1009),
    "a message that claims 2**63-1 bytes": (
        frame(0x81, b'"' + b"x" * 17 * 1024, says=2**63 - 1),
        1009,
    ),
    "a message that claims 2**62 bytes": (frame(0x81, b"x" * 17 * 1024, says=2**62), 1009),
    "bytes that claim 2**62": (frame(0x82, bytes(17 * 1024), says=2**62), 1009),
    "a message of many pieces": (frame(0x01, b"[") + frame(0x00, b"1,") * 40, 1008),
    "a message of pieces over the bound": (frame(0x01, b'"') + frame(0x00, b"x" * 2000) * 9, 1009),
    "empty pieces without end": (frame(0x01) + frame(0x00) * 40, 1008),
    "empty pieces with pings between": (frame(0x01) + (frame(0x8A) + frame(0x00)) * 40, 1008),
    **{
        f"the message {message[:16].decode('latin-1')}": (text(message), 1008)
        for message in (
            b"",
            b"hello",
            b"NaN",
            b"1e999",
            b"9" * 5000,
            b"[" * 8000,
            b'{"a":' * 2000,
            b'"\\ud800"',
            b'{"a":1,"a":2}',
            b'{"__proto__":{"x":1}}',
            b'{"a":[{"__proto__":1}]}',
            b'{"constructor":1}',
            b'{"\\u005f_proto__":1}',
            b"\xef\xbb\xbf{}",
            b"{}{}",
        )
    },
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_frame_that_breaks_a_rule_ends_the_feed_with_its_code(siege: Any, case: str) -> None:
    data, code = BROKEN[case]
    with siege() as attack:
        subscriber = Subscriber(attack)
        subscriber.say(data)
        assert subscriber.end() == code


EARLY = ("unmasked", "bytes", "the message NaN", "empty pieces without end")


@pytest.mark.parametrize("case", EARLY)
def test_a_frame_that_was_early_is_held_to_the_same_rules(siege: Any, case: str) -> None:
    data, code = BROKEN[case]
    with siege() as attack:
        assert Subscriber(attack, early=data).end() == code


@pytest.mark.parametrize("case", ["unmasked", "length of all ones", "the message NaN"])
def test_a_frame_that_comes_byte_by_byte_is_held_to_the_same_rules(siege: Any, case: str) -> None:
    data, code = BROKEN[case]
    with siege() as attack:
        subscriber = Subscriber(attack)
        subscriber.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(len(data)):
            subscriber.say(data[start : start + 1])
        assert subscriber.end() == code


@pytest.mark.parametrize(
    ("said", "end"),
    [
        (close(1000), 1000),
        (close(1001, b"bye"), 1001),
        (close(4999), 4999),
        (frame(0x88), "no code"),
        (close(1000) + text(b"{}"), 1000),
        (close(1000) + b"\xff" * 100, 1000),
        (close(1000) + bytes(20 << 10), 1000),
        (text(b"NaN") + frame(0x89), 1008),
    ],
)
def test_nothing_follows_a_close(siege: Any, said: bytes, end: int | str) -> None:
    with siege() as attack:
        subscriber = Subscriber(attack)
        subscriber.say(said)
        assert subscriber.end() == end


# Offers


@pytest.mark.parametrize(
    "fields",
    [
        {"Sec-WebSocket-Extensions": b"permessage-deflate"},
        {"Sec-WebSocket-Extensions": b"permessage-deflate; server_max_window_bits=8"},
        {"Sec-WebSocket-Extensions": b"permessage-deflate; client_max_window_bits=99, x"},
        {"Sec-WebSocket-Extensions": b"x-webkit-deflate-frame, x;y=z" * 200},
        {"Sec-WebSocket-Protocol": b"chat, superchat"},
    ],
)
def test_what_is_offered_is_declined_and_a_bomb_is_not_inflated(siege: Any, fields: Fields) -> None:
    with siege() as attack:
        subscriber = Subscriber(attack, fields=fields)
        assert b"sec-websocket-extensions" not in subscriber.head.lower()
        assert b"sec-websocket-protocol" not in subscriber.head.lower()
        subscriber.say(frame(0xC1, BOMB))
        assert subscriber.end() == 1002


# Floods


def pour(attack: Any, subscriber: Subscriber, data: bytes, seconds: float = 5.0) -> bool:
    """Sends without reading, as long as the daemon takes it; whether it took all."""
    end = time.monotonic() + seconds
    subscriber.socket.settimeout(0.3)
    view = memoryview(data)
    try:
        while view and time.monotonic() < end:
            view = view[subscriber.socket.send(view) :]
            attack.struck()
    except (TimeoutError, ConnectionError):
        pass
    subscriber.socket.settimeout(20)
    return not view


PINGS = 50_000


@pytest.mark.parametrize("payload", [b"", bytes(125)], ids=["empty", "full"])
@pytest.mark.parametrize("reads", [True, False], ids=["reads", "does not read"])
def test_a_flood_of_pings_is_ended(siege: Any, payload: bytes, reads: bool) -> None:
    with siege() as attack:
        subscriber = Subscriber(attack)
        if reads:
            ends: list[int | str] = []
            reader = threading.Thread(target=lambda: ends.append(subscriber.end()))
            reader.start()
        pour(attack, subscriber, frame(0x89, payload) * PINGS)
        if reads:
            reader.join()
        else:
            ends = [subscriber.end()]
        assert ends[0] in (1008, "dropped")


FLOODS = {
    "pongs": frame(0x8A, b"x"),
    "messages": text(b"{}"),
    "large messages": text(b'"' + b"x" * 16_000 + b'"'),
    "messages of pieces": frame(0x01, b"{") + frame(0x80, b"}"),
}


@pytest.mark.parametrize("case", FLOODS)
@pytest.mark.parametrize("floods", [1, 4])
def test_a_flood_costs_the_others_nothing(siege: Any, case: str, floods: int) -> None:
    with siege() as attack:
        data = FLOODS[case] * (300_000 // len(FLOODS[case]))
        subscribers = [Subscriber(attack) for _ in range(floods)]
        for each in subscribers:
            pour(attack, each, data)
        for each in subscribers:
            each.say(close(1000))
            assert each.end() in (1000, 1008, "dropped")


def test_an_endless_message_is_ended(siege: Any) -> None:
    with siege() as attack:
        subscriber = Subscriber(attack)
        subscriber.say(frame(0x01, b'"'))
        took_all = pour(attack, subscriber, frame(0x00, b"x" * 125) * 100_000)
        assert not took_all
        assert subscriber.end() in (1008, 1009, "dropped")


# Those who do not read, do not go on, or go


def knock(attack: Any, times: int) -> None:
    """Makes events, of some kilobytes each, on one connection of the owner's."""
    agent = attack.daemon.agents[0]
    body = json.dumps({"agent": agent, "operation": "write", "path": "one/" + "d/" * 1900}).encode()
    asked = attack.fill(
        b"POST /api/knock HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    )
    owner = attack.connect()
    for _ in range(times):
        owner.sendall(asked + body)
        answer, rest = attack.answer(owner)
        assert (answer.status, rest) == (200, b"")


KNOCKS = frozenset({"access.refuse", "knock.granted", "knock.denied"})


def test_subscribers_that_never_read_cost_no_memory(siege: Any) -> None:
    with siege(records=KNOCKS) as attack:
        deaf = [Subscriber(attack) for _ in range(20)]
        for each in deaf:
            each.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        hears = Subscriber(attack)
        before = attack.daemon.memory("VmRSS")
        knock(attack, 400)
        assert attack.daemon.memory("VmRSS") - before < 16 << 20
        for _ in range(400):
            opcode, event = hears.next()
            assert (opcode, json.loads(event)["event"]["type"]) == (1, "knockDecided")


def test_a_crowd_of_subscribers_that_never_read(siege: Any) -> None:
    with siege() as attack:
        for _ in range(150):
            attack.strike(upgrade())


def test_half_open_handshakes(siege: Any) -> None:
    with siege() as attack:
        for number in range(200):
            attack.strike(upgrade()[: -1 - number % 100])


def test_a_handshake_byte_by_byte(siege: Any) -> None:
    with siege() as attack:
        client = attack.connect()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = attack.fill(upgrade())
        for start in range(len(data)):
            attack.strike(data[start : start + 1], on=client)
        assert client.recv(13) == b"HTTP/1.1 101 "


def test_half_a_handshake_and_an_end(siege: Any) -> None:
    with siege() as attack:
        client = attack.strike(upgrade()[:-10])
        client.shutdown(socket.SHUT_WR)
        attack.expect("400 close")


LEAVINGS: dict[str, bytes] = {
    "at once": b"",
    "in a frame's head": b"\x81",
    "in a frame": frame(0x81, b'"x', says=100),
    "in a huge frame": frame(0x81, b'"x', says=2**63 - 1),
    "in a message": frame(0x01, b'"x'),
    "after a ping": frame(0x89, b"x"),
    "in a close": frame(0x88, b"\x03", says=2),
}


@pytest.mark.parametrize("case", LEAVINGS)
@pytest.mark.parametrize("how", ["half-closes", "closes", "resets"])
def test_a_subscriber_that_leaves(siege: Any, how: str, case: str) -> None:
    with siege() as attack:
        subscriber = Subscriber(attack)
        subscriber.say(LEAVINGS[case])
        if how == "half-closes":
            subscriber.socket.shutdown(socket.SHUT_WR)
            assert subscriber.end() == "dropped"
            return
        if how == "resets":
            subscriber.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        subscriber.socket.close()
        attack.struck()


def test_a_hundred_subscribers_that_reset(siege: Any) -> None:
    with siege() as attack:
        for _ in range(100):
            client = attack.strike(upgrade())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()
