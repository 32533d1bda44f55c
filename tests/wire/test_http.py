"""The server's side of HTTP: what is taken, what is refused and how, and in what order."""

from __future__ import annotations

import itertools

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groove_trio.wire import http
from groove_trio.wire.body import MAX_CHUNK_LINE, MAX_CHUNK_SPARE, MAX_CHUNKS, MAX_TRAILER
from groove_trio.wire.head import MAX_FIELDS, MAX_HEAD, MAX_LINE
from groove_trio.wire.http import (
    CLOSED,
    CONTINUE,
    MAX_AHEAD,
    NEED_DATA,
    Request,
    Response,
    ServerConnection,
    Upgrade,
)
from groove_trio.words.errors import ExpectationFailed, GrooveError

OK = Response(200, ((b"content-type", b"text/plain"),), b"yes")
OK_BYTES = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nContent-Length: 3\r\n\r\nyes"


def get(target: str = "/", *fields: str) -> bytes:
    lines = [f"GET {target} HTTP/1.1", "Host: a", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def post(body: bytes, *fields: str) -> bytes:
    lines = ["POST / HTTP/1.1", "Host: a", f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def chunked(coded: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + coded


def received(*pieces: bytes, max_body: int = http.MAX_BODY) -> ServerConnection:
    connection = ServerConnection(max_body=max_body)
    for piece in pieces:
        connection.receive(piece)
    return connection


def outcome(pieces: list[bytes], max_body: int = http.MAX_BODY) -> list[object]:
    """All that comes of a stream whose every request is answered; ends with a status or CLOSED."""
    connection = ServerConnection(max_body=max_body)
    told: list[object] = []
    try:
        for piece in [*pieces, b""]:
            connection.receive(piece)
            while (event := connection.next_event()) is not NEED_DATA:
                told.append(event)
                if event is CLOSED or isinstance(event, Upgrade):
                    return told
                connection.send(OK)
    except GrooveError as error:
        told.append(error.status)
        assert connection.next_event() is CLOSED
        assert b"Connection: close" in connection.send(OK)
    return told


def one(data: bytes, **limits: int) -> Request:
    event = received(data, **limits).next_event()
    assert isinstance(event, Request)
    return event


def serve(connection: ServerConnection, pieces: list[bytes]) -> None:
    for piece in pieces:
        connection.receive(piece)
        while isinstance(connection.next_event(), Request):
            connection.send(OK)


def status_of(data: bytes, **limits: int) -> int:
    """The status that a stream is refused with, the same whole and byte by byte."""
    statuses = []
    for pieces in ([data], [data[i : i + 1] for i in range(len(data))]):
        connection = ServerConnection(**limits)
        with pytest.raises(GrooveError) as caught:
            serve(connection, pieces)
        statuses.append(caught.value.status)
        assert len(str(caught.value)) < 400
        answer = connection.send(Response(caught.value.status, ()))
        assert b"\r\nConnection: close\r\n" in answer
        assert connection.must_close
        assert connection.next_event() is CLOSED
    assert statuses[0] == statuses[1]
    return statuses[0]


def test_a_request_comes_whole() -> None:
    data = post(b"hello", "X-One: 1 ", "x-two:\t2", "Accept:")
    assert one(data) == Request(
        "POST",
        "/",
        [
            (b"host", b"a"),
            (b"content-length", b"5"),
            (b"x-one", b"1"),
            (b"x-two", b"2"),
            (b"accept", b""),
        ],
        b"hello",
    )


def test_nothing_comes_of_part_of_a_request() -> None:
    data = post(b"hello")
    connection = ServerConnection()
    assert connection.idle
    for place in range(len(data)):
        assert connection.next_event() is NEED_DATA
        connection.receive(data[place : place + 1])
    assert not connection.idle
    assert connection.next_event() == one(data)


def test_headers_are_found_by_name() -> None:
    request = one(get("/", "X: 1", "x: 2"))
    assert request.header(b"x") == b"1"
    assert request.header(b"y") is None


def test_bytearrays_are_taken_as_some_streams_give_them() -> None:
    connection = ServerConnection()
    connection.receive(bytearray(get()[:10]))
    connection.receive(bytearray(get()[10:]))
    assert isinstance(connection.next_event(), Request)


BAD = {
    "length with coding": (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
    ),
    "coding with length": (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
        400,
    ),
    "two equal lengths": (post(b"abc", "Content-Length: 3"), 400),
    "two lengths": (post(b"abc", "Content-Length: 4"), 400),
    "list of lengths": (get("/", "Content-Length: 3, 3"), 400),
    "signed length": (get("/", "Content-Length: +3"), 400),
    "negative length": (get("/", "Content-Length: -3"), 400),
    "hexadecimal length": (get("/", "Content-Length: 0x3"), 400),
    "length with underscore": (get("/", "Content-Length: 1_0"), 400),
    "fractional length": (get("/", "Content-Length: 3.0"), 400),
    "empty length": (get("/", "Content-Length:"), 400),
    "unicode digits": (get("/", "Content-Length: \xb2"), 400),
    "endless length": (get("/", "Content-Length: " + "9" * 20), 400),
    "large length": (get("/", "Content-Length: " + "9" * 19), 413),
    "gzip coding": (get("/", "Transfer-Encoding: gzip, chunked"), 501),
    "unknown coding in a list": (get("/", "Transfer-Encoding: x;a=b , Chunked"), 501),
    "identity coding": (get("/", "Transfer-Encoding: identity"), 400),
    "gzip alone": (get("/", "Transfer-Encoding: gzip"), 400),
    "chunks within gzip": (get("/", "Transfer-Encoding: chunked, gzip"), 400),
    "chunks within chunks": (get("/", "Transfer-Encoding: chunked, Chunked"), 400),
    "chunks with a parameter": (get("/", "Transfer-Encoding: chunked;a=b"), 400),
    "coding and comma": (get("/", "Transfer-Encoding: chunked,"), 400),
    "obfuscated coding": (get("/", "Transfer-Encoding: xchunked"), 400),
    "quoted coding": (get("/", 'Transfer-Encoding: "chunked"'), 400),
    "empty coding": (get("/", "Transfer-Encoding:"), 400),
    "two codings": (get("/", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 400),
    "coding in 1.0": (
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "coding with vertical tab": (get("/", "Transfer-Encoding:\x0bchunked"), 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (get("/", "Host: a"), 400),
    "two origins": (get("/", "Origin: http://a", "Origin: http://b"), 400),
    "two content types": (get("/", "Content-Type: a/b", "content-type: c/d"), 400),
    "bare line feeds": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "one bare line feed": (b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400),
    "bare line feed at the end": (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
    "bare carriage return": (get("/", "X: a\rY: b"), 400),
    "bare carriage return in line": (b"GET / HTTP/1.1\rHost: a\r\n\r\n", 400),
    "folded line": (get("/", "X: a", " b"), 400),
    "folded line with tab": (get("/", "X: a", "\tb"), 400),
    "folded first line": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    "space before colon": (get("/", "X : a"), 400),
    "tab before colon": (get("/", "X\t: a"), 400),
    "space in name": (get("/", "X Y: a"), 400),
    "no colon": (get("/", "X"), 400),
    "empty name": (get("/", ": a"), 400),
    "name with parenthesis": (get("/", "X(: a"), 400),
    "name not ascii": (get("/", "\xe9: a"), 400),
    **{
        f"control {code:02x} in value": (get("/", f"X: a{chr(code)}b"), 400)
        for code in [*range(9), 11, 12, *range(14, 32), 127]
    },
    "null in target": (get("/\x00"), 400),
    "null in method": (b"G\x00T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "null in name": (get("/", "X\x00: a"), 400),
    "lower-case method": (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "unknown method": (b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "CONNECT": (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "TRACE": (b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "odd method": (b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "no method": (b" / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "HTTP/9.9": (b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", 505),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
    "HTTP/0.9": (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "short version": (b"GET / HTTP/1\r\nHost: a\r\n\r\n", 400),
    "long version": (b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400),
    "lower-case version": (b"GET / http/1.1\r\nHost: a\r\n\r\n", 400),
    "another protocol": (b"GET / RTSP/1.1\r\nHost: a\r\n\r\n", 400),
    "no version": (b"GET /\r\n\r\n", 400),
    "two spaces": (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "tab for space": (b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "space at the end": (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
    "space in target": (get("/a b"), 400),
    "absolute target": (get("http://a/"), 400),
    "target with user": (get("http://u:p@a/"), 400),
    "authority target": (get("a:80"), 400),
    "relative target": (get("x"), 400),
    "asterisk target": (get("*"), 400),
    "target with fragment": (get("/#x"), 400),
    "target not ascii": (get("/\xe9"), 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "two empty lines": (b"\r\n\r\n" + get(), 400),
    "empty line feed": (b"\n" + get(), 400),
    "chunk size not hex": (chunked(b"x\r\n"), 400),
    "chunk size empty": (chunked(b"\r\n\r\n"), 400),
    "chunk size signed": (chunked(b"+3\r\nabc\r\n0\r\n\r\n"), 400),
    "chunk size with 0x": (chunked(b"0x3\r\nabc\r\n0\r\n\r\n"), 400),
    "chunk size with underscore": (chunked(b"1_0\r\n"), 400),
    "chunk size with space": (chunked(b"3 \r\nabc\r\n0\r\n\r\n"), 400),
    "chunk size with space before": (chunked(b" 3\r\nabc\r\n0\r\n\r\n"), 400),
    "chunk size of 17 digits": (chunked(b"00000000000000003\r\nabc\r\n0\r\n\r\n"), 400),
    "chunk size over all": (chunked(b"ffffffffffffffff\r\n"), 413),
    "chunk line feed": (chunked(b"3\nabc\r\n0\r\n\r\n"), 400),
    "chunk too long": (chunked(b"3\r\nabcd\r\n0\r\n\r\n"), 400),
    "chunk ends with line feed": (chunked(b"3\r\nabc\n0\r\n\r\n"), 400),
    "chunk extension after space": (chunked(b"3 ;a\r\nabc\r\n0\r\n\r\n"), 400),
    "chunk extension with null": (chunked(b"3;\x00\r\nabc\r\n0\r\n\r\n"), 400),
    "chunk extension with carriage return": (chunked(b"3;a\rb\r\nabc\r\n0\r\n\r\n"), 400),
    "chunk extension with line feed": (chunked(b"3;a\nb\r\nabc\r\n0\r\n\r\n"), 400),
    "trailer without colon": (chunked(b"0\r\nX\r\n\r\n"), 400),
    "trailer folded": (chunked(b"0\r\nX: a\r\n b\r\n\r\n"), 400),
    "trailer with line feed": (chunked(b"0\r\nX: a\n\r\n\r\n"), 400),
    "trailer with null": (chunked(b"0\r\nX: \x00\r\n\r\n"), 400),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_refused(case: str) -> None:
    data, status = BAD[case]
    assert status_of(data) == status


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_after_a_good_one_is_refused_after_its_answer(case: str) -> None:
    data, status = BAD[case]
    if case in {"two empty lines", "empty line feed"}:
        return
    told = outcome([get() + data])
    assert told[1:] == [status]


GOOD = {
    "an empty line before": b"\r\n" + get(),
    "query": get("/a?b=c&d=%20|^{}\"'<>\\`"),
    "two slashes": get("//a"),
    "obs-text in a value": get("/", "X: \xe9"),
    "tab in a value": get("/", "X: a\tb"),
    "odd names": get("/", "!#$%&'*+-.^_`|~09: a"),
    "empty value": get("/", "X:"),
    "repeated harmless field": get("/", "Accept: a", "Accept: b"),
    "length of zero": post(b""),
    "leading zeros": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 003\r\n\r\nabc",
    "asterisk for options": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "body with a GET": get("/", "Content-Length: 3") + b"abc",
    "1.0 without host": b"GET / HTTP/1.0\r\n\r\n",
    "1.0 with a body": b"POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc",
    "close": get("/", "Connection: close"),
    "close among others": get("/", "Connection: x, Close"),
    "close and keep-alive": get("/", "Connection: close", "Connection: keep-alive"),
    "keep-alive and close": get("/", "Connection: keep-alive", "Connection: close"),
    "keep-alive": get("/", "Connection: Keep-Alive"),
    "keep-alive with upgrade to nothing": get("/", "Connection: upgrade", "Upgrade: h2c"),
    "expect": post(b"abc", "Expect: 100-continue"),
    "chunks": chunked(b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n"),
    "no chunks": chunked(b"0\r\n\r\n"),
    "zeros before a chunk size": chunked(b"0003\r\nabc\r\n000\r\n\r\n"),
    "chunk extension": chunked(b'3;a="b c";d\r\nabc\r\n0;e\r\n\r\n'),
    "trailers": chunked(b"3\r\nabc\r\n0\r\nX: a\r\nHost: evil\r\n\r\n"),
    "almost a coding": get("/", "^ransfer-Encoding: CHUNKED"),
    "chunks in upper case": chunked(b"").replace(b"chunked", b"CHUNKED") + b"0\r\n\r\n",
    "chunks and close": chunked(b"0\r\n\r\n").replace(b"Host: a", b"Host: a\r\nConnection: close"),
}


def as_h11_reads(data: bytes) -> tuple[Request, bool, bytes]:
    """The oracle: the first request as a bare h11 reads it, whether it keeps alive, the rest."""
    machine = h11.Connection(h11.SERVER, max_incomplete_event_size=10**9)
    machine.receive_data(data)
    head = machine.next_event()
    assert isinstance(head, h11.Request)
    body = b""
    while isinstance(event := machine.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    keeps = machine.their_state is not h11.MUST_CLOSE
    request = Request(
        head.method.decode(),
        head.target.decode(),
        [(bytes(name), bytes(value)) for name, value in head.headers],
        body,
        head.http_version.decode(),
    )
    return request, keeps, machine.trailing_data[0]


def assert_read_as_h11_does(data: bytes) -> None:
    connection = received(data)
    event = connection.next_event()
    request = event.request if isinstance(event, Upgrade) else event
    theirs, keeps, rest = as_h11_reads(data.removeprefix(b"\r\n"))
    # h11 gives the value of this field alone in lower case
    ours = [(n, v.lower() if n == b"transfer-encoding" else v) for n, v in request.headers]
    assert ours == theirs.headers
    assert (request.method, request.target, request.version, request.body) == (
        theirs.method,
        theirs.target,
        theirs.version,
        theirs.body,
    )
    if isinstance(event, Upgrade):
        assert event.trailing == rest
    else:
        connection.send(OK)
        assert connection.must_close is not keeps


@pytest.mark.parametrize("case", GOOD)
def test_a_good_request_is_taken_and_h11_reads_it_the_same_way(case: str) -> None:
    assert_read_as_h11_does(GOOD[case] + b"GET /next")


@pytest.mark.parametrize("case", GOOD)
def test_a_good_request_is_the_same_byte_by_byte(case: str) -> None:
    data = GOOD[case]
    assert outcome([data[i : i + 1] for i in range(len(data))]) == outcome([data])


# Streams of requests, good and bad, chopped anywhere.

PIECES = st.one_of(
    st.sampled_from([*GOOD.values(), *(data for data, _ in BAD.values())]),
    st.sampled_from([b"\r\n", b"\n", b"\r", b" ", b"GET / HTTP/1.1\r\n", b"Host: a\r\n", b"0"]),
    st.binary(max_size=8),
)
STREAMS = st.lists(PIECES, max_size=5).map(b"".join)


@given(STREAMS, st.lists(st.integers(0, 2000), max_size=12))
def test_chopping_makes_no_difference(stream: bytes, cuts: list[int]) -> None:
    places = sorted({0, *(cut % (len(stream) + 1) for cut in cuts), len(stream)})
    pieces = [stream[a:b] for a, b in itertools.pairwise(places)]
    whole = outcome([stream] if stream else [])
    assert outcome(pieces) == whole
    assert isinstance(whole[-1], int | Upgrade) or whole[-1] is CLOSED


@given(st.sampled_from([*GOOD.values()]), st.integers(0, 300), st.binary(max_size=3), st.booleans())
def test_damage_is_refused_or_read_as_h11_does(
    data: bytes, place: int, damage: bytes, inserted: bool
) -> None:
    place %= len(data)
    data = data[:place] + damage + data[place + (0 if inserted else len(damage)) :]
    connection = received(data)
    try:
        event = connection.next_event()
    except GrooveError:
        return
    if event is not NEED_DATA:
        assert_read_as_h11_does(data)


# Limits


def test_the_request_line_is_bounded() -> None:
    longest = MAX_LINE - len("GET / HTTP/1.1")
    assert len(one(get("/" + "a" * longest)).target) == longest + 1
    assert status_of(get("/" + "a" * (longest + 1))) == 414
    assert status_of(b"G" * (MAX_LINE + 1)) == 414


def test_a_header_line_is_bounded() -> None:
    assert one(get("/", "X:" + "a" * (MAX_LINE - 2))).header(b"x") == b"a" * (MAX_LINE - 2)
    assert status_of(get("/", "X:" + "a" * (MAX_LINE - 1))) == 431


def test_the_header_is_bounded() -> None:
    room = MAX_HEAD - len(get("/", *["X:" + "a" * 8000] * 4, "Y:"))
    assert one(get("/", *["X:" + "a" * 8000] * 4, "Y:" + "b" * room)).method == "GET"
    assert status_of(get("/", *["X:" + "a" * 8000] * 4, "Y:" + "b" * (room + 1))) == 431
    assert status_of(get("/", *["X:" + "a" * 8000] * 5)[:-2]) == 431


def test_the_number_of_fields_is_bounded() -> None:
    assert len(one(get("/", *["X: a"] * (MAX_FIELDS - 1))).headers) == MAX_FIELDS
    assert status_of(get("/", *["X: a"] * MAX_FIELDS)) == 431


def test_a_body_is_bounded_before_it_comes() -> None:
    assert one(post(b"a" * 10), max_body=10).body == b"a" * 10
    assert status_of(post(b"a" * 11)[:-11], max_body=10) == 413


def test_a_chunked_body_is_bounded() -> None:
    assert one(chunked(b"5\r\naaaaa\r\n5\r\naaaaa\r\n0\r\n\r\n"), max_body=10).body == b"a" * 10
    assert status_of(chunked(b"5\r\naaaaa\r\n6\r\n"), max_body=10) == 413


def test_chunk_extensions_are_bounded() -> None:
    line = b"1;" + b"x" * (MAX_CHUNK_LINE - 2) + b"\r\n"
    assert one(chunked(line + b"a\r\n0\r\n\r\n")).body == b"a"
    assert status_of(chunked(b"1;x" + line[2:] + b"a\r\n0\r\n\r\n")) == 400
    fitting = MAX_CHUNK_SPARE // (MAX_CHUNK_LINE - 16)
    assert one(chunked((line + b"a\r\n") * fitting + b"0\r\n\r\n")).body == b"a" * fitting
    assert status_of(chunked((line + b"a\r\n") * (fitting + 1) + b"0\r\n\r\n")) == 400


def test_the_number_of_chunks_is_bounded() -> None:
    coded = b"1\r\na\r\n" * (MAX_CHUNKS - 1)
    assert one(chunked(coded + b"0\r\n\r\n")).body == b"a" * (MAX_CHUNKS - 1)
    assert status_of(chunked(coded + b"1\r\na\r\n0\r\n\r\n")) == 400


def test_trailers_are_bounded() -> None:
    trailer = b"X:" + b"a" * (MAX_TRAILER - 4) + b"\r\n"
    assert one(chunked(b"0\r\n" + trailer + b"\r\n")).body == b""
    assert status_of(chunked(b"0\r\n" + b"X: a\r\n" * (MAX_TRAILER // 6 + 1) + b"\r\n")) == 431
    assert status_of(chunked(b"0\r\nX:" + b"a" * MAX_TRAILER)) == 431


def test_what_is_sent_ahead_is_bounded() -> None:
    connection = received(get())
    assert isinstance(connection.next_event(), Request)
    connection.receive(b"G" * MAX_AHEAD)
    with pytest.raises(GrooveError):
        connection.receive(b"G")
    assert connection.must_close


# The exchange


def test_pipelined_requests_come_in_order_and_one_at_a_time() -> None:
    connection = received(get("/1") + post(b"2") + get("/3"))
    for target in ("/1", "/", "/3"):
        event = connection.next_event()
        assert isinstance(event, Request)
        assert event.target == target
        assert connection.next_event() is NEED_DATA
        assert connection.send(OK) == OK_BYTES
    assert connection.next_event() is NEED_DATA
    assert connection.idle
    assert not connection.must_close


def test_a_body_that_looks_like_a_request_is_a_body() -> None:
    connection = received(post(get()))
    event = connection.next_event()
    assert isinstance(event, Request)
    assert event.body == get()
    connection.send(OK)
    assert connection.next_event() is NEED_DATA


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("said", ["close", "keep-alive, close", "CLOSE"])
def test_close_is_honoured_and_what_follows_is_not_read(version: str, said: str) -> None:
    data = f"GET / HTTP/{version}\r\nHost: a\r\nConnection: {said}\r\n\r\n".encode()
    connection = received(data + get("/again"))
    assert isinstance(connection.next_event(), Request)
    assert not connection.must_close
    assert connection.send(OK) == OK_BYTES.replace(b"3\r\n", b"3\r\nConnection: close\r\n")
    assert connection.must_close
    assert connection.next_event() is CLOSED


def test_http_1_0_is_closed_even_when_it_asks_to_stay() -> None:
    connection = received(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    connection.next_event()
    connection.send(OK)
    assert connection.must_close


def test_an_answer_can_end_the_connection() -> None:
    connection = received(get())
    connection.next_event()
    answer = connection.send(Response(200, ((b"Connection", b"Close"),), b""))
    assert answer.lower().count(b"connection: close") == 1
    assert connection.must_close


def test_other_connection_options_of_an_answer_are_kept() -> None:
    connection = received(get())
    connection.next_event()
    answer = connection.send(Response(426, ((b"connection", b"upgrade"), (b"upgrade", b"x"))))
    assert b"connection: upgrade\r\n" in answer
    assert not connection.must_close


def test_half_close_is_answered_and_then_the_connection_ends() -> None:
    connection = received(get("/1") + get("/2"), b"")
    assert isinstance(connection.next_event(), Request)
    assert b"Connection: close" in connection.send(OK)
    assert connection.next_event() is CLOSED


@pytest.mark.parametrize("data", [b"", b"\r\n"])
def test_an_end_between_requests_is_an_end(data: bytes) -> None:
    connection = ServerConnection()
    if data:
        connection.receive(data)
    connection.receive(b"")
    assert connection.next_event() is CLOSED
    assert connection.must_close


@pytest.mark.parametrize(
    "data", [b"G", get()[:-1], post(b"abc")[:-1], chunked(b"3\r\nab"), chunked(b"0\r\n")]
)
def test_an_end_within_a_request_is_an_error(data: bytes) -> None:
    assert outcome([data]) == [400]


@pytest.mark.parametrize("answer", [OK, Response(200, [(b"content-length", b"99")], b"yes")])
def test_head_has_the_length_and_no_body(answer: Response) -> None:
    connection = received(get().replace(b"GET", b"HEAD") + get())
    connection.next_event()
    sent = connection.send(answer)
    assert sent.endswith(b"Content-Length: 3\r\n\r\n")
    assert b"99" not in sent
    connection.next_event()
    assert connection.send(OK) == OK_BYTES


@pytest.mark.parametrize("status", [204, 304])
def test_some_statuses_have_no_body(status: int) -> None:
    connection = received(get())
    connection.next_event()
    sent = connection.send(Response(status, (), b"never"))
    assert b"never" not in sent
    assert b"ontent-" not in sent
    assert not connection.must_close


@pytest.mark.parametrize(
    "field",
    [
        (b"x", b"a\r\nset-cookie: b"),
        (b"x", b"a\n"),
        (b"x", b"\x00"),
        (b"x\r\ny", b"a"),
        (b"x y", b"a"),
        (b"x: y", b"a"),
        (b"", b"a"),
    ],
)
def test_an_answer_cannot_be_split(field: tuple[bytes, bytes]) -> None:
    connection = received(get())
    connection.next_event()
    with pytest.raises(GrooveError):
        connection.send(Response(200, (field,), b""))
    assert connection.send(OK) == OK_BYTES


def test_a_client_that_waits_is_told_to_continue_once() -> None:
    connection = received(post(b"abc", "Expect: 100-continue")[:-3])
    assert connection.next_event() is NEED_DATA
    assert connection.unfinished is not None
    assert connection.unfinished.target == "/"
    assert connection.wants_continue() == CONTINUE
    assert connection.wants_continue() is None
    connection.receive(b"abc")
    assert isinstance(connection.next_event(), Request)
    assert connection.unfinished is None
    assert connection.wants_continue() is None


@pytest.mark.parametrize(
    "data",
    [
        post(b"abc", "Expect: 100-continue")[:-1],
        post(b"abc")[:-3],
        post(b"abc", "Expect: 100-continue").replace(b"1.1", b"1.0")[:-3],
    ],
)
def test_a_client_that_does_not_wait_is_not_told(data: bytes) -> None:
    connection = received(data)
    assert connection.next_event() is NEED_DATA
    assert connection.wants_continue() is None


@pytest.mark.parametrize(
    "expected", ["", "200-maybe", "100-continue, more", "100-continue;q=1", "x" * 5000]
)
@pytest.mark.parametrize("body", [b"", b"abc"])
def test_another_expectation_is_refused_before_the_body(expected: str, body: bytes) -> None:
    connection = received(post(b"abc", f"Expect: {expected}")[:-3] + body)
    with pytest.raises(ExpectationFailed) as caught:
        connection.next_event()
    assert caught.value.status == 417
    assert len(caught.value.detail) < 300
    assert connection.wants_continue() is None
    assert connection.next_event() is CLOSED


def test_what_http_1_0_expects_is_ignored() -> None:
    data = post(b"abc", "Expect: more").replace(b"1.1", b"1.0")
    assert isinstance(received(data).next_event(), Request)


def test_a_body_too_large_is_refused_before_it_is_asked_for() -> None:
    connection = received(post(b"a" * 11, "Expect: 100-continue")[:-11], max_body=10)
    with pytest.raises(GrooveError):
        connection.next_event()
    assert connection.wants_continue() is None


def test_an_answer_before_any_request_closes() -> None:
    connection = received(b"GET / HT")
    assert connection.next_event() is NEED_DATA
    assert b"408 Request Timeout\r\nContent-Length: 0\r\nConnection: close" in connection.send(
        Response(408, ())
    )
    assert connection.next_event() is CLOSED
    connection.receive(b"more")
    assert connection.next_event() is CLOSED


def test_an_answer_before_the_body_closes() -> None:
    connection = received(post(b"abc")[:-1])
    assert connection.next_event() is NEED_DATA
    assert b"Connection: close" in connection.send(OK)
    assert connection.next_event() is CLOSED


UPGRADE = ("Connection: keep-alive, Upgrade", "Upgrade: WebSocket")


def test_an_upgrade_comes_with_what_follows_it() -> None:
    event = received(get("/ws", *UPGRADE) + b"\x81\x00").next_event()
    assert isinstance(event, Upgrade)
    assert event.request.target == "/ws"
    assert event.trailing == b"\x81\x00"


def test_a_refused_upgrade_ends_the_connection() -> None:
    connection = received(get("/ws", *UPGRADE) + get())
    connection.next_event()
    assert b"Connection: close" in connection.send(OK)
    assert connection.next_event() is CLOSED


def test_an_upgrade_in_http_1_0_is_a_request() -> None:
    event = received(get("/ws", *UPGRADE).replace(b"1.1", b"1.0")).next_event()
    assert isinstance(event, Request)
