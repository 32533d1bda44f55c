"""Whatever bytes come in, however they are cut: well-formed answers or none, and a sound daemon.

A daemon in a process of its own is talked to over real sockets: requests made of a dictionary and
then damaged, chunked bodies, WebSocket handshakes with frames, noise; in pieces, ended by a
half-close or a reset at any moment. Two references say what may come of it: h11 reads the same
bytes as a server would, and what is answered with success must have passed there and by the
stricter list of `is_sound` below; wsproto reads the same frames.

``GROOVE_FUZZ_EXAMPLES`` sets how many examples each test tries.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h11
import pytest
import wsproto.events
from hypothesis import HealthCheck, event, example, given, note, settings
from hypothesis import strategies as st
from wsproto.connection import SERVER, Connection

from groove_trio.cli.launch import LOG, start_detached, stop_daemon

EXAMPLES = int(os.environ.get("GROOVE_FUZZ_EXAMPLES", "80"))
DEADLINE_S = 20

fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

DOCUMENTED = {
    *(200, 201, 204),
    *(400, 403, 404, 405, 408, 409, 413, 414, 415, 417, 422, 423, 426, 431),
    *(501, 503, 505),
}
CLOSE_CODES = {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1013}
HOST = b"@HOST@"  # stands for the daemon's own address, which is known only when it runs

# The daemon


class Target:
    """The daemon, its log, and a connection that is never part of the fuzzing."""

    def __init__(self, url: str, project: Path) -> None:
        self.host = url.removeprefix("http://")
        self.port = int(self.host.rpartition(":")[2])
        self.log = project / ".groove" / LOG
        self._read = 0
        self._asker = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        self.agents: Any = None

    def ask(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        self._asker.request(method, path, data, {"content-type": "application/json"})
        with self._asker.getresponse() as answer:
            told = json.load(answer)
        assert answer.status < 300, told
        return told

    def close(self) -> None:
        self._asker.close()

    def check(self) -> None:
        """It lives, every connection but this one is over, no agent was touched, and no fault."""
        end = time.monotonic() + DEADLINE_S
        while self.ask("GET", "/api/status")["connections"] != 1:
            assert time.monotonic() < end, "a connection outlives its peer"
        assert self.ask("GET", "/api/health") == {"ok": True}
        assert self.ask("GET", "/api/agents") == self.agents
        assert self.complaints() == ""

    def complaints(self) -> str:
        """What the daemon wrote to its standard error since the last call."""
        with self.log.open("rb") as log:
            log.seek(self._read)
            said = log.read()
        self._read += len(said)
        return said.decode()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    project = tmp_path_factory.mktemp("project").resolve()
    started = start_detached(project, port=0)
    made = Target(started.url, project)
    try:
        spec = {"role": "keeper", "name": "keeper", "argv": ["sleep", "3600"], "scope": ["src/**"]}
        made.ask("POST", "/api/agents", spec)
        made.agents = made.ask("GET", "/api/agents")
        made.complaints()
        yield made
    finally:
        made.close()
        stop_daemon(project)


# What is sent

CHANGING = [b"POST", b"PUT", b"PATCH", b"DELETE"]
METHODS = [b"GET", b"HEAD", b"OPTIONS", *CHANGING]
BAD_METHODS = [b"TRACE", b"CONNECT", b"get", b"", b"G ET", b"PRI", b"GET\0", b"\xffET", b"M" * 9000]
ASKING = [
    b"/api/health",
    b"/api/status",
    b"/api/openapi.json",
    b"/api/providers",
    b"/api/agents",
    b"/api/agents/keeper",
    b"/api/agents/nobody",
    b"/api/agents/keeper/output",
    b"/api/locks",
    b"/api/explain?path=src/a.py",
    b"/api/coordination",
    b"/api/audit?limit=2",
    b"/api/audit/verify",
]
TELLING = [
    *[b"/api/knock"] * 4,
    *[b"/api/coordination/declare", b"/api/coordination/complete"] * 2,
    b"/api/agents",
    b"/api/agents/nobody/stop",
    b"/api/agents/nobody/restart",
    b"/api/agents/nobody/resume",
    b"/api/agents/nobody/instruct",
]
BAD_TARGETS = [
    *(b"*", b"", b"//", b"/", b"/ws", b"/../etc/passwd", b"/api/agents/%2e%2e", b"/api//health"),
    *(b"http://127.0.0.1/api/health", b"http://evil.example/", b"evil.example:80", b"/#f"),
    *(b"/api/health\0", b"/api/\xff", b"/" + b"a" * 9000, b"/api/agents/" + b"a" * 65),
    *(b"/api/agents/{id}", b"/api/health/", b"/API/health", b"/api/health;x", b"/%"),
]
QUERIES = [
    *(b"?after=0", b"?after=-1", b"?after=1e3", b"?after=%30", b"?after=0&after=0", b"?limit=1"),
    *(b"?limit=999999999999999999999999", b"?path=src/a.py", b"?path=%00", b"?path=..%2f..", b"?"),
    *(b"?path=" + b"%ff" * 9, b"?" + b"&".join([b"a=1"] * 40), b"?agent=keeper&action=x"),
]
FIELDS = [
    *(b"Accept: */*", b"Accept-Encoding: gzip, br", b"User-Agent: x", b"Cookie: a=b; c=d"),
    *(b"Connection: keep-alive", b"Connection: close", b"Accept-Language: x"),
    *(b"Origin: http://" + HOST, b"Sec-Fetch-Site: same-origin", b"Expect: 100-continue"),
    *(b"Connection: TE, close", b"TE: trailers", b"X-" + b"a" * 60 + b": " + b"b" * 500),
    b"If-None-Match: *",
]
BAD_FIELDS = [
    *(b"Host: evil.example", b"Host: " + HOST, b"Host:", b"host : " + HOST, b"Origin: null"),
    *(b"Origin: http://evil.example", b"Sec-Fetch-Site: cross-site", b"X-Forwarded-For: 1.2.3.4"),
    *(b"Content-Length: 5, 5", b"Content-Length: +3", b"Content-Length: 0x10", b"Upgrade: h2c"),
    *(b"Content-Length: 99999999999999999999999", b"Content-Length: 1048577", b"Content-Length: 3"),
    *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: x"),
    *(b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding: chunked, chunked", b"Expect: x"),
    *(b" folded: line", b"\tfolded", b"no colon", b": no name", b"na me: v", b"v: \0", b"v: \x7f"),
    *(b"Content-Type: text/plain", b"Content-Type: application/json; charset=utf-16", b"v: \xe9"),
    *(
        b"X-HTTP-Method-Override: DELETE",
        b"Upgrade: websocket",
        b"Connection: upgrade",
        b"a:b\rc:d",
    ),
    *(b"X: " + b"y" * 9000, b"\r\n".join([b"f: v"] * 101), b"HTTP2-Settings: AAMAAABkAAQ"),
]
BODIES = [
    *(b"", b"{}", b"[]", b"null", b'{"role": "r", "argv": ["true"]}', b'{"__proto__": {}}'),
    b'{"agent": "keeper", "operation": "write", "path": "src/a.py"}',
    b'{"agent": "keeper", "operation": "write", "path": "/etc/passwd"}',
    b'{"agent": "keeper", "operation": "eat", "path": "\\ud800"}',
    b'{"agent": "keeper", "paths": ["b.md"], "ttlS": 1}',
    b'{"agent": "keeper"}',
    b'{"hook_event_name": "PreToolUse", "tool_name": "Write", "tool_input": {"file_path": "a"}}',
    *(b'{"a": NaN}', b'{"a": 1e999}', b'{"a": 1, "a": 2}', b"\xef\xbb\xbf{}", b"\xff\xfe{\0}\0"),
    *(b"[" * 5000, b'{"a":' * 200, b"9" * 5000, b'"' + b"a" * 70_000 + b'"', b'{"path": "\xff"}'),
]
VERSIONS = [b"HTTP/1.1"] * 12 + [b"HTTP/1.0"]
BAD_VERSIONS = [b"HTTP/1.2", b"HTTP/2.0", b"HTTP/9.9", b"HTTP/1.10", b"http/1.1", b"", b"HTTP/1.1 "]
BAD_ENDS = [b"\n", b"\n", b"\n", b"\r", b"\r\r\n", b" \r\n", b"\n\r\n"]
# No key that could make a spawn or a patch succeed: the agents must stay as they are.
KEYS = ["role", "path", "paths", "agent", "operation", "tool", "ttlS", "lease", "text", "", "é"]
ODDS = 14  # one in so many parts of a request is a bad one


def mostly(good: Sequence[bytes], bad: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    return st.integers(0, ODDS).flatmap(lambda dice: st.sampled_from(bad if dice == ODDS else good))


def seldom(odds: int = ODDS) -> st.SearchStrategy[bool]:
    return st.integers(0, odds).map(lambda dice: dice == odds)


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
documents = st.dictionaries(
    st.sampled_from(KEYS), leaves | st.lists(leaves, max_size=3), max_size=4
).map(lambda value: json.dumps(value).encode())


SIZES = st.sampled_from([b"%x", b"%X", b"0%x", b"%x;ext=1", b'%x;a="b"', b" %x", b"+%x", b"0x%x"])
chunk_size = seldom(12).flatmap(lambda odd: SIZES if odd else st.just(b"%x"))


@st.composite
def chunked(draw: st.DrawFn, body: bytes) -> bytes:
    """A body in the chunked coding, sometimes badly."""
    pieces = []
    while body:
        size = draw(st.integers(1, len(body)))
        pieces.append(draw(chunk_size) % size + b"\r\n" + body[:size] + b"\r\n")
        body = body[size:]
        if len(pieces) > 6:
            pieces.append(b"%x\r\n%b\r\n" % (len(body), body) if body else b"")
            break
    last = draw(mostly([b"0\r\n\r\n"], [b"", b"0\r\n", b"00\r\nX: y\r\n\r\n", b"0\r\nbad\r\n\r\n"]))
    return b"".join(pieces) + last


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request that is valid, or wrong in a way or two."""
    method, paths = draw(st.sampled_from([(b"GET", ASKING), (b"HEAD", ASKING), (b"POST", TELLING)]))
    if draw(seldom(12)):
        method = draw(st.sampled_from([*METHODS, *BAD_METHODS]))
    target = draw(mostly(paths, BAD_TARGETS)) + draw(mostly([b""], QUERIES))
    lines = [b"%b %b %b" % (method, target, draw(mostly(VERSIONS, BAD_VERSIONS)))]
    fields = draw(st.lists(mostly(FIELDS, BAD_FIELDS), max_size=4, unique=True))
    if not draw(seldom()):
        fields.append(b"Host: " + HOST)
    body = b""
    if method in CHANGING or draw(seldom()):
        fields.append(b"Content-Type: application/json")
        body = draw(st.sampled_from(BODIES) | documents | st.binary(max_size=50))
        framing = draw(st.integers(0, 15))
        if framing < 8:
            fields.append(b"Content-Length: %d" % len(body))
        elif framing < 14:
            fields.append(b"Transfer-Encoding: chunked")
            body = draw(chunked(body))
        elif framing == 14:
            fields.append(b"Content-Length: %d" % draw(st.integers(0, 2 * len(body) + 1)))
    lines += draw(st.permutations(fields))
    ends = [b"\r\n"] * (len(lines) + 1)
    if draw(seldom(4)):
        ends[draw(st.integers(0, len(lines)))] = draw(st.sampled_from(BAD_ENDS))
    return b"".join(map(bytes.__add__, [*lines, b""], ends)) + body


SCRAPS = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b":",
    b"\r\n\r\n",
    b"\xff",
    b"0",
    b"GET / HTTP/1.1\r\n",
]
damage = st.tuples(
    st.sampled_from(["insert", "delete", "replace", "double", "cut"]),
    st.integers(0, 2**16),
    st.sampled_from([*SCRAPS, *FIELDS, *BAD_FIELDS]) | st.binary(min_size=1, max_size=4),
)


def damaged(data: bytes, wounds: Sequence[tuple[str, int, bytes]]) -> bytes:
    for kind, where, scrap in wounds:
        at = where % (len(data) + 1)
        before, after = data[:at], data[at:]
        data = {
            "insert": before + scrap + after,
            "delete": before + after[len(scrap) :],
            "replace": before + scrap + after[len(scrap) :],
            "double": before + after[:40] + after,
            "cut": before,
        }[kind]
    return data


wounds = seldom(2).flatmap(lambda hurt: st.lists(damage, max_size=2 if hurt else 0))
streams = st.builds(
    lambda parts, hurt: damaged(b"".join(parts), hurt),
    st.lists(requests(), min_size=1, max_size=3),
    wounds,
)
noise = st.binary(max_size=300) | st.lists(
    st.sampled_from([*SCRAPS, *FIELDS, *BAD_FIELDS, *METHODS, *ASKING, *VERSIONS, *BODIES]),
    max_size=20,
).map(b"".join)

HANDSHAKE = [
    *(b"Host: " + HOST, b"Upgrade: websocket", b"Connection: Upgrade"),
    *(b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
]
ASIDE = [
    *(b"Origin: http://" + HOST, b"Sec-WebSocket-Protocol: a, b", b"Connection: keep-alive"),
    *(b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits", b"Accept: */*"),
]
AMISS = [
    *(b"Origin: http://evil.example", b"Sec-WebSocket-Version: 12", b"Sec-WebSocket-Key: eA=="),
    *(b"Content-Length: 3", b"Transfer-Encoding: chunked", b"Sec-WebSocket-Extensions: ;;=,"),
]
TEXTS = [
    b"{}",
    b'{"a": 1}',
    b"[" * 100,
    b'{"__proto__": 1}',
    b"x" * 20_000,
    "é€😀".encode(),
    b"\xf0",
]
CLOSES = [
    b"",
    b"\x03",
    b"\x03\xe8",
    b"\x03\xe8bye",
    b"\x03\xed",
    b"\x13\x88",
    b"\x03\xe8\xff",
    b"\0\0",
]


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """One frame of a client, sometimes badly made."""
    opcode = draw(st.sampled_from([1, 1, 1, 0, 2, 8, 9, 9, 9, 10, 3, 11]))
    payload = draw(
        {8: st.sampled_from(CLOSES), 1: st.sampled_from(TEXTS) | documents}.get(
            opcode, st.binary(max_size=130)
        )
    )
    final = draw(st.integers(0, 4)) > 0
    odd = draw(st.integers(0, 19))
    first = opcode | (0x80 if final else 0) | (0x40 if odd == 0 else 0x20 if odd == 1 else 0)
    length = len(payload) + (7 if odd == 2 else 0)
    mask = b"" if odd == 3 else draw(st.binary(min_size=4, max_size=4))
    masked = 0x80 if mask else 0
    if length > 65_535 or odd == 4:
        size = struct.pack("!BQ", 127 | masked, length | (2**63 if odd == 5 else 0))
    elif length > 125 or odd == 6:
        size = struct.pack("!BH", 126 | masked, length)
    else:
        size = bytes([length | masked])
    data = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload)) if mask else payload
    return bytes([first]) + size + mask + data


@st.composite
def subscriptions(draw: st.DrawFn) -> bytes:
    """A WebSocket handshake and frames right behind it."""
    fields = [*HANDSHAKE, *draw(st.lists(mostly(ASIDE, AMISS), max_size=2))]
    if draw(seldom(12)):
        fields.remove(draw(st.sampled_from(HANDSHAKE)))
    targets = [b"/ws", b"/ws?after=0"], [b"/ws?after=-1", b"/ws?after=x", b"/api/health", b"/ws/"]
    method = draw(mostly([b"GET"], [b"POST", b"HEAD", b"OPTIONS"]))
    line = b"%b %b HTTP/1.1" % (method, draw(mostly(*targets)))
    head = b"\r\n".join([line, *fields, b"", b""])
    return head + damaged(b"".join(draw(st.lists(frames(), max_size=6))), draw(wounds))


class Manner(NamedTuple):
    """How a stream of bytes is sent: where it is cut, where one waits, and how it ends."""

    cuts: list[int]
    waits: bool
    stop: int | None  # after which piece; None for all
    reset: bool


manners = st.builds(
    Manner,
    st.lists(st.integers(0, 2**16), max_size=5),
    st.booleans(),
    st.none() | st.none() | st.integers(0, 5),
    seldom(6),
)


class Heard(NamedTuple):
    """A conversation: what was sent, what came back, and whether both are known to be whole."""

    sent: bytes
    back: bytes
    whole: bool


def converse(target: Target, data: bytes, manner: Manner) -> Heard:
    """Sends bytes in a manner and reads until the daemon closes; a reset waits for nothing."""
    data = data.replace(HOST, target.host.encode())
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in manner.cuts)})
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)][: manner.stop]
    sent, back = b"", b""
    with socket.create_connection(("127.0.0.1", target.port), DEADLINE_S) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for piece in pieces:
                sock.sendall(piece)
                sent += piece
                if manner.waits and select.select([sock], [], [], 0.002)[0]:
                    back += sock.recv(65_536)
            if manner.reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return Heard(sent, back, whole=False)
            sock.shutdown(socket.SHUT_WR)
            while some := sock.recv(65_536):
                back += some
        except TimeoutError:
            raise  # the daemon does not end the conversation
        except OSError:  # a reset, in one of its guises
            return Heard(sent, back, whole=False)
    return Heard(sent, back, whole=True)


# What may come back

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
HEAD = re.compile(
    rb"HTTP/1\.1 ([1-5][0-9][0-9]) [A-Z][A-Za-z' -]*\r\n"
    rb"((?:" + TOKEN + rb": [\x20-\x7e]*\r\n)+|)\r\n"
)


class Answer(NamedTuple):
    """An answer, read strictly."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def last(self) -> bool:
        return "close" in self.headers.get("connection", "") or self.status == 101


def read_answers(back: bytes, methods: Sequence[str], *, whole: bool) -> tuple[list[Answer], bytes]:
    """All answers, and what followed a 101. Methods are those asked with, as far as known."""
    answers: list[Answer] = []
    finals = 0
    while back:
        match = HEAD.match(back)
        if match is None and not whole and b"\r\n\r\n" not in back:
            return answers, b""  # the rest was lost with the connection
        assert match is not None, back
        pairs = [line.split(": ", 1) for line in match[2].decode().splitlines()]
        headers: dict[str, str] = {}
        for name, value in pairs:
            assert name.lower() == "connection" or name.lower() not in headers, back
            headers[name.lower()] = f"{headers.get(name.lower(), '')} {value}".strip()
        status, back = int(match[1]), back[match.end() :]
        if status in {100, 101}:
            answers.append(Answer(status, headers, b""))
            if status == 101:
                return answers, back
            continue
        length = 0 if status == 204 else int(headers["content-length"])
        # A refused head may have been a HEAD's, and then this is the last answer.
        bodiless = methods[finals : finals + 1] == ["HEAD"] and not (back and "close" in headers)
        body, back = (b"", back) if bodiless and not back.startswith(b"{") else (
            back[:length], back[length:]
        )  # fmt: skip
        assert len(body) == length or bodiless or not whole, (headers, body)
        answers.append(Answer(status, headers, body))
        finals += 1
    return answers, b""


def check_answer(answer: Answer) -> None:
    """What holds for every answer but an interim one and a 101."""
    assert answer.status in DOCUMENTED, answer
    for name in ("content-security-policy", "x-content-type-options", "date", "cache-control"):
        assert name in answer.headers, answer
    assert not any(name.startswith("access-control") for name in answer.headers), answer
    if answer.body and answer.status >= 400:
        assert answer.headers["content-type"] == "application/problem+json", answer
        if len(answer.body) == int(answer.headers["content-length"]):
            assert json.loads(answer.body)["status"] == answer.status, answer


class Asked(NamedTuple):
    """A request as h11 reads it."""

    head: bytes
    request: h11.Request
    body: bytes | None  # None: not all of it came

    def values(self, name: bytes) -> list[bytes]:
        return [value for found, value in self.request.headers if found == name]

    @property
    def method(self) -> str:
        return self.request.method.decode()


def read_requests(sent: bytes) -> list[Asked]:
    """What h11, whose leniency bounds what can be a request at all, finds in the bytes."""
    found: list[Asked] = []
    while sent:
        sent = sent.removeprefix(b"\r\n")
        machine = h11.Connection(h11.SERVER, max_incomplete_event_size=2**20)
        machine.receive_data(sent)
        try:
            request = machine.next_event()
            if not isinstance(request, h11.Request):
                break
            head = sent[: len(sent) - len(machine.trailing_data[0])]
            found.append(Asked(head, request, None))
            body = b""
            while isinstance(data := machine.next_event(), h11.Data):
                body += bytes(data.data)
        except h11.RemoteProtocolError:
            break
        if not isinstance(data, h11.EndOfMessage):
            break
        found[-1] = found[-1]._replace(body=body)
        if machine.their_state is h11.MUST_CLOSE:
            break
        sent = machine.trailing_data[0]
    return found


SOUND_HEAD = re.compile(
    rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/[!\"$-~]*|\*) HTTP/1\.[01]\r\n"
    rb"(" + TOKEN + rb":[\t\x20-\x7e\x80-\xff]*\r\n)*\r\n"
)
ONCE = (b"host", b"origin", b"content-length", b"transfer-encoding", b"content-type", b"expect")


def is_sound(asked: Asked, host: bytes) -> bool:
    """Whether a request may be answered with success at all; the route decides the rest."""
    method, values = asked.method, asked.values
    lengths, codings = values(b"content-length"), values(b"transfer-encoding")
    return (
        asked.body is not None
        and SOUND_HEAD.fullmatch(asked.head) is not None
        and len(asked.head) <= 32 * 1024
        and max(map(len, asked.head.split(b"\r\n"))) <= 8190
        and len(asked.request.headers) <= 100
        and all(len(values(name)) <= 1 for name in ONCE)
        and values(b"host")[:1] == [host]
        and {*values(b"origin")} <= {b"http://" + host}
        and {*values(b"sec-fetch-site")} <= {b"same-origin", b"none"}
        and not (lengths and codings)
        and all(re.fullmatch(rb"[0-9]{1,19}", each) for each in lengths)
        and all(each.lower() == b"chunked" for each in codings)
        and not any(name.startswith(b"x-forwarded") for name, _ in asked.request.headers)
        and not values(b"x-http-method-override")
        and (method in {"GET", "HEAD", "OPTIONS"} or is_json(asked, values(b"content-type")))
    )


def is_json(asked: Asked, kinds: list[bytes]) -> bool:
    """Whether a body is declared as JSON and, if there is one, is JSON of one meaning."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    if not kinds or kinds[0].split(b";")[0].strip().lower() != b"application/json":
        return False
    try:
        text = (asked.body or b"{}").decode()
        json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, AssertionError, RecursionError):
        return False
    return True


def check_conversation(target: Target, heard: Heard) -> tuple[list[Answer], bytes]:
    """Holds the answers against the references; gives them, and what followed a 101."""
    asked = read_requests(heard.sent)
    note(f"asked {asked}\nback {heard.back!r}")
    answers, rest = read_answers(heard.back, [each.method for each in asked], whole=heard.whole)
    finals = [answer for answer in answers if answer.status != 100]
    assert len(finals) <= len(asked) + 1, "an answer that nobody asked for"
    assert len(answers) - len(finals) <= sum(bool(each.values(b"expect")) for each in asked)
    assert not any(answer.last for answer in finals[:-1]), "an answer after the last"
    for number, answer in enumerate(finals):
        event(f"status {answer.status}")
        if answer.status != 101:
            check_answer(answer)
        if answer.status < 300:
            assert number < len(asked), "success for what is no request"
            assert is_sound(asked[number], target.host.encode()), asked[number]
        elif number >= len(asked):
            assert answer.last, "the conversation goes on after what is no request"
    return finals, rest


# What may come back after a 101


class Frame(NamedTuple):
    """A frame of the daemon's, read strictly."""

    opcode: int
    payload: bytes


def read_frames(data: bytes) -> list[Frame]:
    """All frames; each is final, unmasked, and as short as it can be."""
    found = []
    while data:
        first, size = data[0], data[1]
        start = {126: 4, 127: 10}.get(size, 2)
        length = size if start == 2 else int.from_bytes(data[2:start], "big")
        assert first & 0xF0 == 0x80, f"neither fragments nor extensions: {data!r}"
        assert size < 128, "masked"
        assert start == (2 if length < 126 else 4 if length < 65_536 else 10), data
        assert len(data) >= start + length, f"half a frame: {data!r}"
        found.append(Frame(first & 0x0F, data[start : start + length]))
        data = data[start + length :]
    return found


def read_client_frames(data: bytes) -> tuple[list[bytes], bool]:
    """What wsproto finds in the bytes of a client: pings, and whether it ends in a close."""
    pings: list[bytes] = []
    machine = Connection(SERVER)
    machine.receive_data(data)
    for each in machine.events():
        if isinstance(each, wsproto.events.Ping):
            pings.append(bytes(each.payload))
        elif isinstance(each, wsproto.events.CloseConnection):
            return pings, True
    return pings, False


def check_frames(sent: bytes, back: bytes, *, whole: bool) -> None:
    """Holds the daemon's frames against RFC 6455 and against wsproto's reading of ours."""
    got = read_frames(back)
    pings, ends = read_client_frames(sent)
    for opcode, payload in got:
        if opcode == 1:
            assert {"seq", "time", "event"} <= json.loads(payload).keys()
        else:
            assert opcode in {8, 9, 10}
            assert len(payload) <= 125
    closes = [payload for opcode, payload in got if opcode == 8]
    assert all(opcode != 8 for opcode, _ in got[:-1]), "something follows the close frame"
    if closes and closes[0]:
        assert int.from_bytes(closes[0][:2], "big") in CLOSE_CODES | set(range(3000, 5000))
        closes[0][2:].decode()
    left = iter(pings)
    pongs = [payload for opcode, payload in got if opcode == 10]
    assert all(pong in left for pong in pongs), "a pong without its ping"
    assert closes or not (whole and ends), "a close or a broken rule went unanswered"


# The tests

BINARY_THEN_BROKEN = (  # found by this test: the second frame took the answer to the first along
    b"\r\n".join([b"GET /ws HTTP/1.1", *HANDSHAKE, b"", b""])
    + b"\x82\x80\0\0\0\0"
    + b"\x41\x80\0\0\0\0"
)


def attack(target: Target, data: bytes, manner: Manner) -> None:
    heard = converse(target, data, manner)
    finals, rest = check_conversation(target, heard)
    if finals and finals[-1].status == 101:
        assert "sec-websocket-extensions" not in finals[-1].headers
        sent = heard.sent.partition(b"\r\n\r\n")[2]
        check_frames(sent, rest, whole=heard.whole)
    else:
        assert rest == b""
    target.check()


@fuzzed
@given(data=streams, manner=manners)
def test_damaged_requests_get_sound_answers(target: Target, data: bytes, manner: Manner) -> None:
    attack(target, data, manner)


@fuzzed
@given(data=noise, manner=manners)
def test_noise_gets_sound_answers_or_none(target: Target, data: bytes, manner: Manner) -> None:
    attack(target, data, manner)


@fuzzed
@example(data=BINARY_THEN_BROKEN, manner=Manner([], waits=False, stop=None, reset=False))
@given(data=subscriptions(), manner=manners)
def test_any_frames_get_sound_frames_or_none(target: Target, data: bytes, manner: Manner) -> None:
    attack(target, data, manner)
