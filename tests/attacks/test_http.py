"""HTTP as an attacker speaks it: each row is what is sent, and what becomes of it.

Requests that another site, another name or a proxy would make; framing that two readers could
take for two things; other protocols; too much of anything; too slow. The status and what follows
it are those of RFC 9110 and RFC 9112, the stricter where they leave a choice.
"""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

Siege = Any  # of conftest.py, which cannot be imported
Attack = Any
Row = tuple[str, bytes, str]

CROWD = 20
JSON = "Content-Type: application/json"


def ask(first: str, *fields: str, host: str | None = "Host: {host}", body: bytes = b"") -> bytes:
    """A request; ``{host}`` is filled in later. A body is announced unless a field does it."""
    lines = [f"{first} HTTP/1.1", *([] if host is None else [host]), *fields]
    told = any(word in line.lower() for line in fields for word in ("-length", "-encoding"))
    if body and not told:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def get(*fields: str, host: str | None = "Host: {host}") -> bytes:
    return ask("GET /api/agents", *fields, host=host)


def post(*fields: str, body: bytes = b"{}") -> bytes:
    """To a route where the body would have to say more: nothing changes if it is served."""
    return ask("POST /api/coordination/declare", *fields, body=body)


def framed(*fields: str, body: bytes = b"2\r\n{}\r\n0\r\n\r\n") -> bytes:
    """A request with JSON whose framing is what `fields` say."""
    return post(JSON, *fields, body=body)


def chunked(body: bytes) -> bytes:
    return framed("Transfer-Encoding: chunked", body=body)


SMUGGLED = b"DELETE /api/agents/one HTTP/1.1\r\nContent-Type: application/json\r\n\r\n"

HOST: list[Row] = [
    ("missing", get(host=None), "400 close"),
    ("empty", get(host="Host:"), "403 close"),
    ("twice", get("Host: evil.example"), "400 close"),
    ("twice the same", get("Host: {host}"), "400 close"),
    ("in a list", get(host="Host: {host}, evil.example"), "403 close"),
    ("foreign", get(host="Host: evil.example"), "403 close"),
    ("foreign, own port", get(host="Host: evil.example:{port}"), "403 close"),
    ("rebound", get(host="Host: 127.0.0.1.nip.io:{port}"), "403 close"),
    ("without port", get(host="Host: 127.0.0.1"), "403 close"),
    ("wrong port", get(host="Host: 127.0.0.1:1"), "403 close"),
    ("port with a zero", get(host="Host: 127.0.0.1:0{port}"), "403 close"),
    ("localhost, half of it not ours", get(host="Host: localhost:{port}"), "403 close"),
    ("final dot", get(host="Host: localhost.:{port}"), "403 close"),
    ("userinfo", get(host="Host: owner@{host}"), "403 close"),
    ("backslash", get(host="Host: evil.example\\@{host}"), "403 close"),
    ("short form", get(host="Host: 127.1:{port}"), "403 close"),
    ("as a number", get(host="Host: 2130706433:{port}"), "403 close"),
    ("every address", get(host="Host: 0.0.0.0:{port}"), "403 close"),
    ("another loopback", get(host="Host: 127.0.0.2:{port}"), "403 close"),
    ("IPv6 not bound", get(host="Host: [::1]:{port}"), "403 close"),
    ("IPv6 mapped", get(host="Host: [::ffff:127.0.0.1]:{port}"), "403 close"),
    ("foreign, no such route", ask("GET /no", host="Host: evil.example"), "403 close"),
    ("foreign, asked to go on", post(JSON, "Expect: 100-continue", "Host: evil"), "400 close"),
    ("absolute form, own", ask("GET http://{host}/api/agents"), "400 close"),
    ("absolute form, foreign", ask("GET http://evil.example/api/agents"), "400 close"),
    ("absolute form with userinfo", ask("GET http://a:b@{host}/api/agents"), "400 close"),
    ("authority form", ask("CONNECT {host}"), "501 close"),
    ("asterisk form", ask("GET *"), "400 close"),
    ("target without slash", ask("GET api/agents"), "400 close"),
]

ORIGIN: list[Row] = [
    ("foreign", get("Origin: http://evil.example"), "403 close"),
    ("null", get("Origin: null"), "403 close"),
    ("empty", get("Origin:"), "403 close"),
    ("own name, other port", get("Origin: http://127.0.0.1:1"), "403 close"),
    ("own name, no port", get("Origin: http://127.0.0.1"), "403 close"),
    ("https", get("Origin: https://{host}"), "403 close"),
    ("other name of the same host", get("Origin: http://localhost:{port}"), "403 close"),
    (
        "page of whoever listened on the other half of localhost",
        get(
            "Origin: http://localhost:{port}",
            "Sec-Fetch-Site: same-origin",
            host="Host: localhost:{port}",
        ),
        "403 close",
    ),
    ("begins as ours", get("Origin: http://{host}.evil.example"), "403 close"),
    ("userinfo", get("Origin: http://{host}@evil.example"), "403 close"),
    ("with a path", get("Origin: http://{host}/"), "403 close"),
    ("list", get("Origin: http://{host} http://evil.example"), "403 close"),
    ("twice", get("Origin: http://{host}", "Origin: http://evil.example"), "400 close"),
    ("foreign, no such route", ask("GET /no", "Origin: http://evil.example"), "403 close"),
    ("cross-site", get("Sec-Fetch-Site: cross-site"), "403 close"),
    ("same-site", get("Sec-Fetch-Site: same-site"), "403 close"),
    ("unknown site", get("Sec-Fetch-Site: friend"), "403 close"),
    ("two sites", get("Sec-Fetch-Site: none", "Sec-Fetch-Site: cross-site"), "400 close"),
    (
        "preflight",
        ask(
            "OPTIONS /api/agents",
            "Origin: http://evil.example",
            "Access-Control-Request-Method: POST",
        ),
        "403 close",
    ),
    (
        "preflight into the private network",
        ask(
            "OPTIONS /",
            "Origin: https://evil.example",
            "Access-Control-Request-Private-Network: true",
        ),
        "403 close",
    ),
    (
        "preflight without origin",
        ask("OPTIONS /api/agents", "Access-Control-Request-Method: DELETE"),
        "204 open",
    ),
]

TYPES: list[Row] = [
    ("none", post(), "415 close"),
    ("text", post("Content-Type: text/plain"), "415 close"),
    ("form", post("Content-Type: application/x-www-form-urlencoded"), "415 close"),
    ("multipart", post("Content-Type: multipart/form-data; boundary=x"), "415 close"),
    ("text that names JSON", post("Content-Type: text/plain; application/json"), "415 close"),
    ("list", post("Content-Type: application/json, text/plain"), "415 close"),
    ("longer", post("Content-Type: application/jsonp"), "415 close"),
    ("UTF-16", post("Content-Type: application/json; charset=utf-16"), "415 close"),
    ("twice", post(JSON, "Content-Type: text/plain"), "400 close"),
    ("nothing deleted", ask("DELETE /api/agents/one"), "415 close"),
    (
        "a page's form",
        post("Origin: http://evil.example", "Content-Type: text/plain"),
        "403 close",
    ),
]

PROXIES: list[Row] = [
    ("X-Forwarded-For", get("X-Forwarded-For: 127.0.0.1"), "400 close"),
    ("X-Forwarded-Host", get("X-Forwarded-Host: {host}"), "400 close"),
    ("X-Forwarded-Proto", get("x-forwarded-proto: https"), "400 close"),
    ("Forwarded", get("Forwarded: for=127.0.0.1;host={host}"), "400 close"),
    ("X-Real-IP", get("X-Real-IP: 127.0.0.1"), "400 close"),
    ("X-Original-URL", get("X-Original-URL: /api/credentials"), "400 close"),
    ("X-Rewrite-URL", get("X-Rewrite-URL: /api/agents/one/stop"), "400 close"),
    ("X-HTTP-Method-Override", post(JSON, "X-HTTP-Method-Override: DELETE"), "400 close"),
    ("X-HTTP-Method", post(JSON, "X-HTTP-Method: PATCH"), "400 close"),
    ("X-Method-Override", get("X-Method-Override: POST"), "400 close"),
    ("method in the query", ask("GET /api/agents/one?_method=DELETE"), "200 open"),
    ("cookie", get("Cookie: session=owner; admin=1"), "200 open"),
    ("credentials", get("Authorization: Basic b3duZXI6b3duZXI="), "200 open"),
]

FRAMING: list[Row] = [
    ("length and coding", framed("Content-Length: 5", "Transfer-Encoding: chunked"), "400 close"),
    ("coding and length", framed("Transfer-Encoding: chunked", "Content-Length: 5"), "400 close"),
    ("coding twice", framed("Transfer-Encoding: chunked", "Transfer-Encoding: x"), "400 close"),
    ("coding in HTTP/1.0", chunked(b"0\r\n\r\n").replace(b"/1.1", b"/1.0", 1), "400 close"),
    ("chunked not last", framed("Transfer-Encoding: chunked, identity"), "400 close"),
    ("chunked twice in a list", framed("Transfer-Encoding: chunked, chunked"), "400 close"),
    ("unknown before chunked", framed("Transfer-Encoding: gzip, chunked"), "501 close"),
    ("identity", framed("Transfer-Encoding: identity"), "400 close"),
    ("almost chunked", framed("Transfer-Encoding: xchunked"), "400 close"),
    ("chunked in quotes", framed('Transfer-Encoding: "chunked"'), "400 close"),
    ("chunked and a vertical tab", framed("Transfer-Encoding: chunked\x0b"), "400 close"),
    ("chunked and a no-break space", framed("Transfer-Encoding: chunked\xa0"), "400 close"),
    ("coding with a space", framed("Transfer-Encoding : chunked"), "400 close"),
    ("coding folded", framed("Transfer-Encoding:\r\n chunked"), "400 close"),
    ("coding behind a bare LF", framed("X: y\nTransfer-Encoding: chunked"), "400 close"),
    ("coding behind a bare CR", framed("X: y\rTransfer-Encoding: chunked"), "400 close"),
    ("coding behind a NUL", framed("X: y\0Transfer-Encoding: chunked"), "400 close"),
    ("lengths differ", framed("Content-Length: 2", "Content-Length: 13"), "400 close"),
    ("lengths agree", framed("Content-Length: 13", "Content-Length: 13"), "400 close"),
    ("length in a list", framed("Content-Length: 13, 13"), "400 close"),
    ("length with a plus", framed("Content-Length: +13"), "400 close"),
    ("length below zero", framed("Content-Length: -1"), "400 close"),
    ("length in hexadecimal", framed("Content-Length: 0xd"), "400 close"),
    ("length with a point", framed("Content-Length: 13.0"), "400 close"),
    ("length with an underscore", framed("Content-Length: 1_3"), "400 close"),
    ("length in other digits", framed("Content-Length: \xb2"), "400 close"),
    ("length empty", framed("Content-Length:"), "400 close"),
    ("length of 2^64 + 2", framed("Content-Length: 18446744073709551618"), "400 close"),
    ("length with zeros", framed("Content-Length: 0002", body=b"{}"), "400 open"),
    (
        "a request in the body",
        framed(f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED),
        "400 open",
    ),
    ("a request behind a refusal", get("Origin: null") + SMUGGLED, "403 close"),
    ("a request behind a bad chunk", chunked(b"z\r\n" + SMUGGLED), "400 close"),
]

CHUNKS: list[Row] = [
    ("long extension", chunked(b"2;" + b"x" * 300 + b"\r\n{}\r\n0\r\n\r\n"), "400 close"),
    ("many extensions", chunked((b"1;" + b"x" * 200 + b"\r\n \r\n") * 200), "400 close"),
    ("extension with a bare LF", chunked(b"2;x\n\r\n{}\r\n0\r\n\r\n"), "400 close"),
    ("many chunks", chunked(b"1\r\n \r\n" * 17_000), "400 close"),
    ("huge size", chunked(b"FFFFFFFFFFFFFFFF\r\n"), "413 close"),
    ("size of 17 digits", chunked(b"10000000000000002\r\n{}"), "400 close"),
    ("space before the size", chunked(b" 2\r\n{}\r\n0\r\n\r\n"), "400 close"),
    ("space behind the size", chunked(b"2 \r\n{}\r\n0\r\n\r\n"), "400 close"),
    ("size with 0x", chunked(b"0x2\r\n{}\r\n0\r\n\r\n"), "400 close"),
    ("size below zero", chunked(b"-2\r\n{}\r\n0\r\n\r\n"), "400 close"),
    ("size with an underscore", chunked(b"0_2\r\n{}\r\n0\r\n\r\n"), "400 close"),
    ("no size", chunked(b"\r\n{}\r\n0\r\n\r\n"), "400 close"),
    ("size and a bare LF", chunked(b"2\n{}\r\n0\r\n\r\n"), "400 close"),
    ("more than the size", chunked(b"2\r\n{}{}\r\n0\r\n\r\n"), "400 close"),
    ("many trailers", chunked(b"2\r\n{}\r\n0\r\n" + b"X: y\r\n" * 2000), "431 close"),
    (
        "trailer that is none",
        chunked(b"2\r\n{}\r\n0\r\nGET /api/agents HTTP/1.1\r\n\r\n"),
        "400 close",
    ),
    ("trailer that frames", chunked(b"2\r\n{}\r\n0\r\nContent-Length: 99\r\n\r\n"), "400 open"),
    ("over the limit", chunked(b"10000\r\n" + b" " * 65_536 + b"\r\n" + b"F0001\r\n"), "413 close"),
]

LINES: list[Row] = [
    ("bare line feeds", get().replace(b"\r\n", b"\n"), "400 close"),
    ("bare carriage returns", get().replace(b"\r\n", b"\r"), "400 close"),
    ("one bare line feed", get("X: y\nZ: y"), "400 close"),
    ("folded", get("X: y", " folded"), "400 close"),
    ("folded with a tab", get("X: y", "\tfolded"), "400 close"),
    ("space before the first field", get(host=" Host: {host}"), "400 close"),
    ("space before the colon", get("X : y"), "400 close"),
    ("no colon", get("nonsense"), "400 close"),
    ("no name", get(": y"), "400 close"),
    ("NUL in a value", get("X: a\0b"), "400 close"),
    ("DEL in a value", get("X: a\x7fb"), "400 close"),
    ("escape in a value", get("X: \x1b[2J"), "400 close"),
    ("high bytes in a name", get("\xff\xfe: y"), "400 close"),
    ("high bytes in a value", get("X: \xff\xfe"), "200 open"),
    ("NUL in the target", ask("GET /\0"), "400 close"),
    ("high bytes in the target", ask("GET /\xff"), "400 close"),
    ("fragment in the target", ask("GET /api/agents#x"), "400 close"),
    ("two spaces", ask("GET  /api/agents"), "400 close"),
    ("a tab for a space", ask("GET\t/api/agents"), "400 close"),
    ("space in the target", ask("GET /api/agents x"), "400 close"),
    ("method that is none", ask("G(E)T /api/agents"), "400 close"),
    ("method in small letters", ask("get /api/agents"), "501 close"),
    ("unknown method", ask("PROPFIND /api/agents"), "501 close"),
    ("TRACE", ask("TRACE /api/agents"), "501 close"),
    ("method not here", ask("PUT /api/agents", JSON), "405 open"),
    ("HEAD of nothing", ask("HEAD /no/such"), "404 open"),
    ("unknown expectation", post(JSON, "Expect: 200-ok"), "417 close"),
]

PROTOCOLS: list[Row] = [
    ("HTTP/0.9", b"GET /api/agents\r\n\r\n", "400 close"),
    ("HTTP/1.0 without Host", b"GET /api/agents HTTP/1.0\r\n\r\n", "400 close"),
    ("HTTP/1.0", b"GET /api/agents HTTP/1.0\r\nHost: {host}\r\n\r\n", "200 close"),
    ("HTTP/1.2", b"GET /api/agents HTTP/1.2\r\nHost: {host}\r\n\r\n", "505 close"),
    ("HTTP/9.9", b"GET /api/agents HTTP/9.9\r\nHost: {host}\r\n\r\n", "505 close"),
    ("HTTP/1.10", b"GET /api/agents HTTP/1.10\r\nHost: {host}\r\n\r\n", "400 close"),
    ("http in small letters", b"GET / http/1.1\r\nHost: {host}\r\n\r\n", "400 close"),
    ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505 close"),
    (
        "upgrade to HTTP/2",
        get("Connection: Upgrade", "Upgrade: h2c"),
        "200 open",
    ),
    ("upgrade to TLS", get("Connection: Upgrade", "Upgrade: TLS/1.0"), "200 open"),
    ("TLS", bytes.fromhex("16030100c8010000c40303") + bytes(200), "400 close"),
    ("SSH", b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "400 close"),
    ("Redis", b"*1\r\n$8\r\nSHUTDOWN\r\n", "waits"),
    ("SMTP", b"EHLO evil.example\r\n", "waits"),
    ("D-Bus", b"\0AUTH EXTERNAL 30\r\n", "400 close"),
    ("random bytes", random.Random(3).randbytes(4096), "400 close"),
    ("one line before", b"\r\n" + get(), "200 open"),
    ("empty lines", b"\r\n" * 1000, "400 close"),
    ("line feeds", b"\n" * 1000, "400 close"),
]

TOO_MUCH: list[Row] = [
    ("request line", ask("GET /" + "a" * 9000), "414 close"),
    ("request line without an end", b"GET /" + b"a" * 9000, "414 close"),
    ("query", ask("GET /api/agents?" + "a" * 9000), "414 close"),
    ("field", get("X: " + "a" * 9000), "431 close"),
    ("field without an end", get()[:-2] + b"X: " + b"a" * 9000, "431 close"),
    ("fields", get(*["X: y"] * 200), "431 close"),
    ("head", get(*["X: " + "y" * 1000] * 50), "431 close"),
    ("head without an end", get()[:-2] + (b"X: " + b"y" * 1000 + b"\r\n") * 50, "431 close"),
    ("body announced", framed("Content-Length: 1048577", body=b"x"), "413 close"),
    ("body of 2^62", framed("Content-Length: 4611686018427387904", body=b"x"), "413 close"),
    ("body sent", post(JSON, body=b" " * (1024 * 1024 + 1)), "413 close"),
    (
        "body of another type",
        post("Content-Type: text/plain", body=b" " * 1024 * 1024),
        "415 close",
    ),
    ("query fields", ask("GET /api/audit?" + "a=1&" * 1000), "400 open"),
]

TABLES = {
    "host": HOST,
    "origin": ORIGIN,
    "type": TYPES,
    "proxy": PROXIES,
    "framing": FRAMING,
    "chunks": CHUNKS,
    "lines": LINES,
    "protocol": PROTOCOLS,
    "too much": TOO_MUCH,
}


@pytest.mark.parametrize(
    ("sent", "outcome"),
    [
        pytest.param(sent, outcome, id=f"{table}: {name}")
        for table, rows in TABLES.items()
        for name, sent, outcome in rows
    ],
)
def test_a_request_gets_what_it_deserves(siege: Siege, sent: bytes, outcome: str) -> None:
    with siege() as attack:
        attack.strike(sent)
        attack.expect(outcome)


# What takes more than one blow


def slow_heads(attack: Attack) -> None:
    """Slowloris: many heads that grow by a byte now and then."""
    crowd = [attack.strike(get()[:-2] + b"X: ") for _ in range(CROWD)]
    for each in crowd:
        attack.strike(b"y", on=each)
    attack.expect("waits", crowd[0])


def slow_bodies(attack: Attack) -> None:
    """Bodies that are announced, and dribble."""
    crowd = [attack.strike(framed("Content-Length: 1000000", body=b"{")) for _ in range(CROWD)]
    for each in crowd:
        attack.strike(b" ", on=each)
    attack.expect("waits", crowd[0])


def slow_chunks(attack: Attack) -> None:
    crowd = [attack.strike(chunked(b"1\r\n{\r\n")) for _ in range(CROWD)]
    for each in crowd:
        attack.strike(b"1\r\n \r\n", on=each)
    attack.expect("waits", crowd[0])


def silence(attack: Attack) -> None:
    """Connections that say nothing."""
    for _ in range(100):
        attack.strike(b"")


def asks_and_does_not_read(attack: Attack) -> None:
    """Ten thousand requests at once, and not an answer read."""
    attacker = attack.connect()
    attacker.setblocking(False)
    asked = memoryview(attack.fill(get()) * 10_000)
    with suppress(BlockingIOError):
        while asked:
            asked = asked[attacker.send(asked) :]
    attack.struck()


def pipelines(attack: Attack) -> None:
    """A thousand requests at once are answered one by one."""
    attacker = attack.strike(get() * 999 + get("Connection: close"))
    assert attack.receive_all(attacker).count(b"HTTP/1.1 200 ") == 1000


def half_closes_within(attack: Attack, sent: bytes) -> None:
    attacker = attack.strike(sent)
    attacker.shutdown(socket.SHUT_WR)
    attack.expect("400 close")


def half_closes_behind(attack: Attack) -> None:
    """What was asked whole is answered, also when no more can come."""
    attacker = attack.strike(get())
    attacker.shutdown(socket.SHUT_WR)
    assert attack.receive_all(attacker).startswith(b"HTTP/1.1 200 ")


def resets(attack: Attack) -> None:
    """Whole requests whose answers nobody waits for."""
    for sent in (b"", b"GET", get(), post(JSON), chunked(b"1"), get() * 100) * 5:
        attacker = attack.strike(sent)
        attacker.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        attacker.close()
    attack.struck()


def comes_and_goes(attack: Attack) -> None:
    for _ in range(200):
        attack.connect().close()
    attack.struck()


def refused_again_and_again(attack: Attack) -> None:
    for _ in range(50):
        attack.strike(get(host="Host: evil.example"))
        attack.expect("403 close")


def byte_by_byte(attack: Attack) -> None:
    """A whole request in as many packets as it has bytes."""
    attacker = attack.connect()
    attacker.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in attack.fill(chunked(b"2\r\n{}\r\n0\r\n\r\n")):
        attack.strike(bytes([byte]), on=attacker)
    attack.expect("400 open")


def goes_on_after_a_refusal(attack: Attack) -> None:
    """Sends on, long after it was told why not, and still reads it."""
    attacker = attack.strike(framed("Content-Length: 99999999", body=b" " * 8_000_000))
    answer = attack.expect("413 close", attacker)
    assert answer.json["limit"] == 1024 * 1024


ATTACKS: dict[str, Callable[[Attack], None]] = {
    "slow heads": slow_heads,
    "slow bodies": slow_bodies,
    "slow chunks": slow_chunks,
    "silence": silence,
    "asks and does not read": asks_and_does_not_read,
    "pipelines": pipelines,
    "half-close in the head": lambda attack: half_closes_within(attack, b"GET / HTTP"),
    "half-close in the body": lambda attack: half_closes_within(
        attack, framed("Content-Length: 9", body=b"{")
    ),
    "half-close before the last chunk": lambda attack: half_closes_within(
        attack, chunked(b"2\r\n{}\r\n")
    ),
    "half-close": half_closes_behind,
    "resets": resets,
    "comes and goes": comes_and_goes,
    "refused again and again": refused_again_and_again,
    "byte by byte": byte_by_byte,
    "goes on after a refusal": goes_on_after_a_refusal,
}


@pytest.mark.parametrize("kind", ATTACKS)
def test_it_stands(siege: Siege, kind: str) -> None:
    with siege() as attack:
        ATTACKS[kind](attack)
