"""The client's side of HTTP, against our own server's side, h11's, and servers that misbehave."""

from __future__ import annotations

import itertools

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groove_trio.wire.client import MAX_INTERIM
from groove_trio.wire.head import MAX_HEAD
from groove_trio.wire.http import (
    CLOSED,
    NEED_DATA,
    ClientConnection,
    Request,
    Response,
    ServerConnection,
    Signal,
    Switched,
)
from groove_trio.words.errors import BadAnswer, BadRequest, GrooveError, PayloadTooLarge


def asked(method: str = "GET", max_body: int = 100) -> ClientConnection:
    connection = ClientConnection("a:1", max_body=max_body)
    connection.request(method, "/")
    return connection


def answers(pieces: list[bytes], method: str = "GET") -> list[object]:
    """What comes of an answer in pieces; ends with an error's class or CLOSED or NEED_DATA."""
    connection = asked(method)
    told: list[object] = []
    try:
        for piece in pieces:
            connection.receive(piece)
            while not isinstance(event := connection.next_event(), Signal):
                told.append(event)
            if event is CLOSED:
                break
        told.append(event)
    except GrooveError as error:
        told.append(type(error))
        assert connection.must_close
        assert connection.next_event() is CLOSED
    return told


def one(data: bytes, method: str = "GET") -> Response:
    connection = asked(method)
    connection.receive(data)
    event = connection.next_event()
    assert isinstance(event, Response)
    return event


def test_requests_and_answers_pass_between_both_roles() -> None:
    client, server = ClientConnection("127.0.0.1:4242"), ServerConnection()
    for index in range(3):
        body = b"x" * index
        server.receive(client.request("POST", f"/{index}", [(b"X", b"y")], body))
        request = server.next_event()
        assert isinstance(request, Request)
        assert request.target == f"/{index}"
        assert request.body == body
        assert request.header(b"host") == b"127.0.0.1:4242"
        assert request.header(b"x") == b"y"
        assert client.next_event() is NEED_DATA
        client.receive(server.send(Response(200 + index, ((b"a", b"b"),), body * 2)))
        answer = client.next_event()
        assert isinstance(answer, Response)
        assert (answer.status, answer.body) == (200 + index, body * 2)
        assert answer.header(b"a") == b"b"
    assert not client.must_close


def test_a_request_says_what_h11_understands() -> None:
    machine = h11.Connection(h11.SERVER)
    machine.receive_data(ClientConnection("a").request("PATCH", "/x?y", [], b""))
    head = machine.next_event()
    assert isinstance(head, h11.Request)
    assert (head.method, head.target) == (b"PATCH", b"/x?y")
    assert (b"content-length", b"0") in list(head.headers)


@pytest.mark.parametrize("target", ["/a b", "/é", "", "/\r\nX: y"])
def test_a_request_that_is_none_is_not_sent(target: str) -> None:
    connection = ClientConnection("a")
    with pytest.raises(BadRequest):
        connection.request("GET", target)
    assert connection.must_close


def test_only_one_request_at_a_time() -> None:
    with pytest.raises(BadRequest):
        asked().request("GET", "/")


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", b"abc"),
        (b"HTTP/1.1 200\r\nContent-Length: 3\r\n\r\nabc", b"abc"),
        (b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", b"a"),
        (b"HTTP/1.1 103 Early\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
    ],
)
def test_an_answer_comes_whole_and_the_connection_lives_on(data: bytes, body: bytes) -> None:
    assert one(data).body == body
    connection = asked()
    for place in range(len(data)):
        assert connection.next_event() is NEED_DATA
        connection.receive(data[place : place + 1])
    assert connection.next_event() == one(data)
    assert not connection.must_close
    assert connection.next_event() is NEED_DATA
    connection.request("GET", "/")


def test_the_answer_to_a_head_has_no_body() -> None:
    assert one(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "HEAD").body == b""


def test_a_body_can_last_until_the_connection_ends() -> None:
    data = b"HTTP/1.1 200 OK\r\n\r\nabc"
    (answer, end) = answers([data, b"def", b""])
    assert isinstance(answer, Response)
    assert answer.body == b"abcdef"
    assert end is CLOSED


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\na",
        b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na",
    ],
)
def test_an_answer_can_end_the_connection(data: bytes) -> None:
    connection = asked()
    connection.receive(data)
    assert isinstance(connection.next_event(), Response)
    assert connection.must_close
    assert connection.next_event() is CLOSED


def test_a_server_that_left_before_answering_is_told_from_one_that_left_within() -> None:
    assert answers([b""]) == [CLOSED]
    for data in (
        b"H",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ):
        assert answers([data, b""]) == [BadAnswer]


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"\x00",
        b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_INTERIM + 1),
        b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 101 + b"\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X:" + b"a" * MAX_HEAD,
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nmore",
    ],
    ids=lambda data: repr(data[:60]),
)
def test_a_misbehaving_server_is_named_so(data: bytes) -> None:
    assert answers([data])[-1] is BadAnswer
    assert answers([data[i : i + 1] for i in range(len(data))])[-1] is BadAnswer


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 101,
    ],
)
def test_a_body_over_the_limit_is_refused(data: bytes) -> None:
    assert answers([data]) == [PayloadTooLarge]


def test_a_switch_comes_with_what_follows_it() -> None:
    connection = ClientConnection("a")
    connection.request("GET", "/", [(b"Upgrade", b"websocket"), (b"Connection", b"upgrade")])
    connection.receive(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n\x81"
    )
    event = connection.next_event()
    assert isinstance(event, Switched)
    assert event.response.status == 101
    assert event.trailing == b"\x81"
    assert connection.must_close


PIECES = st.one_of(
    st.sampled_from(
        [
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"Content-Length: 3\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Connection: close\r\n",
            b"\r\n",
            b"3\r\nabc\r\n",
            b"0\r\n\r\n",
            b"abc",
            b"\n",
        ]
    ),
    st.binary(max_size=4),
)


@given(st.lists(PIECES, max_size=10).map(b"".join), st.lists(st.integers(0, 400), max_size=8))
def test_chopping_makes_no_difference(stream: bytes, cuts: list[int]) -> None:
    places = sorted({0, *(cut % (len(stream) + 1) for cut in cuts), len(stream)})
    pieces = [stream[a:b] for a, b in itertools.pairwise(places)]
    assert answers([*pieces, b""]) == answers([*([stream] if stream else []), b""])
