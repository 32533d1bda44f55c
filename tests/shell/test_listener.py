"""The conversation on one connection, over memory streams and a virtual clock."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
import trio.testing

from groove_trio.rules.admission import Admission
from groove_trio.shell.door import HOUSE_FIELDS, Door, Limits
from groove_trio.shell.linger import READ_BYTES
from groove_trio.shell.listener import accept_connections, serve_connection
from groove_trio.wire.http import Request, Response, Upgrade
from groove_trio.words.actors import OWNER, Actor
from groove_trio.words.errors import (
    GrooveError,
    NoSuchRoute,
    NotAdmitted,
    OutOfResources,
    UpgradeRequired,
)

HOST = b"Host: 127.0.0.1:31415\r\n"
JSON = b"Content-Type: application/json\r\n"
HELLO = b"GET /hello HTTP/1.1\r\n" + HOST + b"\r\n"
UPGRADE = (
    b"GET /ws HTTP/1.1\r\n"
    + HOST
    + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
BODY_S = Limits().body_s
HEAD_S = Limits().head_s
IDLE_S = Limits().idle_s
WRITE_S = Limits().write_s
LINGER_S = Limits().linger_s


def refuse(error: GrooveError) -> Response:
    return Response(error.status, ((b"content-type", b"text/plain"),), error.slug.encode())


async def owner(stream: object) -> Actor:
    return Actor(kind="owner")


@dataclass
class House:
    """A door, what came through it, and what the handler is told to do."""

    limits: Limits = field(default_factory=Limits)
    seen: list[Request] = field(default_factory=list)
    upgraded: list[Upgrade] = field(default_factory=list)
    answer: Response | Exception = Response(200, ((b"content-type", b"text/plain"),), b"hello")  # noqa: RUF009
    gate: trio.Event | None = None
    identify: Callable[[Any], Awaitable[Actor]] = owner
    check: Callable[[Any], None] = lambda stream: None
    strangers: list[GrooveError] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.door = Door(
            admission=Admission([("127.0.0.1", 31415)]),
            handler=self.handle,
            upgrade=self.upgrade,
            refuse=refuse,
            identify=self.identify,
            check=self.check,
            record=self.record,
            limits=self.limits,
        )

    async def record(self, refusal: GrooveError) -> None:
        self.strangers.append(refusal)
        await trio.lowlevel.checkpoint()

    async def handle(self, request: Request, actor: Actor) -> Response:
        assert actor.kind in {"owner", "agent"}
        self.seen.append(request)
        await trio.lowlevel.checkpoint()
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def upgrade(self, upgrade: Upgrade, stream: trio.abc.Stream, actor: Actor) -> None:
        self.upgraded.append(upgrade)
        if isinstance(self.answer, Exception):
            raise self.answer
        await stream.send_all(b"switched")


class Peer:
    """The other end of a connection, reading answers one at a time."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self._ahead = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def answer(self) -> tuple[int, dict[bytes, bytes], bytes]:
        while b"\r\n\r\n" not in self._ahead:
            data = await self.stream.receive_some()
            assert data, f"ended after {self._ahead!r}"
            self._ahead += data
        head, _, self._ahead = self._ahead.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        headers = {name.lower(): value for name, _, value in (x.partition(b": ") for x in lines)}
        size = int(headers.get(b"content-length", b"0"))
        while len(self._ahead) < size:
            self._ahead += await self.stream.receive_some()
        body, self._ahead = self._ahead[:size], self._ahead[size:]
        return int(first.split()[1]), headers, body

    async def status(self) -> int:
        return (await self.answer())[0]

    async def rest(self) -> bytes:
        """All that still comes before the end."""
        while data := await self.stream.receive_some():
            self._ahead += data
        return self._ahead


class Counted(trio.abc.ReceiveStream):
    """Counts what is read of a stream."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self.stream = stream
        self.size = 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self.stream.receive_some(max_bytes)
        self.size += len(data)
        return data

    async def aclose(self) -> None:
        await self.stream.aclose()


async def swallow(send: Callable[[bytes], Awaitable[None]], data: bytes) -> None:
    """Sends to a peer that may hang up."""
    with contextlib.suppress(trio.BrokenResourceError):
        await send(data)


@contextlib.asynccontextmanager
async def calling(house: House) -> AsyncIterator[Peer]:
    async with trio.open_nursery() as nursery:
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(serve_connection, theirs, house.door)
        yield Peer(ours)
        await ours.aclose()
    assert house.door.connections == 0


async def ask(house: House, data: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    """One request on a connection of its own."""
    async with calling(house) as peer:
        await peer.send(data)
        return await peer.answer()


def post(body: bytes, *fields: bytes) -> bytes:
    length = b"Content-Length: %d\r\n" % len(body)
    return b"POST /knock HTTP/1.1\r\n" + HOST + JSON + length + b"".join(fields) + b"\r\n" + body


# Requests and answers


async def test_a_connection_serves_one_request_after_another() -> None:
    house = House()
    async with calling(house) as peer:
        for _ in range(3):
            await peer.send(HELLO)
            status, headers, body = await peer.answer()
            assert (status, body) == (200, b"hello")
            assert b"connection" not in headers
    assert len(house.seen) == 3


async def test_pipelined_requests_are_answered_in_order() -> None:
    house = House()
    async with calling(house) as peer:
        await peer.send(HELLO + post(b"{}") + HELLO)
        assert [await peer.status() for _ in range(3)] == [200, 200, 200]
    assert [request.method for request in house.seen] == ["GET", "POST", "GET"]


async def test_a_request_may_come_byte_by_byte() -> None:
    house = House()
    async with calling(house) as peer:
        for byte in post(b'{"a":1}'):
            await peer.send(bytes([byte]))
        assert await peer.status() == 200
    assert house.seen[0].body == b'{"a":1}'


async def test_a_peer_that_ends_its_direction_still_gets_its_answer() -> None:
    async with calling(House()) as peer:
        await peer.send(HELLO)
        await peer.stream.send_eof()
        assert (await peer.rest()).endswith(b"hello")


async def test_a_peer_that_asks_to_close_is_closed() -> None:
    async with calling(House()) as peer:
        await peer.send(HELLO.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert b"connection: close" in (await peer.rest()).lower()


async def test_head_gets_the_head_alone() -> None:
    async with calling(House()) as peer:
        await peer.send(
            HELLO.replace(b"GET", b"HEAD")
            + HELLO.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        )
        rest = await peer.rest()
    assert rest.count(b"Content-Length: 5") == 2
    assert rest.count(b"hello") == 1


async def test_a_waiting_client_is_told_to_continue() -> None:
    house = House()
    async with calling(house) as peer:
        request = post(b"{}", b"Expect: 100-continue\r\n")
        await peer.send(request[:-2])
        assert await peer.status() == 100
        await peer.send(b"{}")
        assert await peer.status() == 200
    assert house.seen[0].body == b"{}"


async def test_a_refusal_of_the_handler_is_an_answer_and_the_connection_goes_on() -> None:
    house = House(answer=NoSuchRoute())
    async with calling(house) as peer:
        for _ in range(2):
            await peer.send(HELLO)
            status, headers, body = await peer.answer()
            assert (status, body) == (404, b"no-such-route")
            assert b"connection" not in headers


async def test_a_fault_of_the_handler_ends_that_connection_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    house = House(answer=ZeroDivisionError("secret"))
    async with calling(house) as other:
        async with calling_beside(house) as peer:
            await peer.send(HELLO)
            status, headers, body = await peer.answer()
            assert (status, headers[b"connection"], body) == (500, b"close", b"internal")
            assert await peer.rest() == b""
        house.answer = Response(200, (), b"fine")
        await other.send(HELLO)
        assert (await other.answer())[2] == b"fine"
    [record] = caplog.records
    assert record.name == "groove_trio"
    assert record.getMessage() == "answering GET /hello failed"
    assert record.exc_info is not None


@contextlib.asynccontextmanager
async def calling_beside(house: House) -> AsyncIterator[Peer]:
    """A further connection of the same house, accepted after those before it."""
    async with trio.open_nursery() as nursery:
        await trio.testing.wait_all_tasks_blocked()
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(serve_connection, theirs, house.door)
        yield Peer(ours)
        await ours.aclose()


async def test_an_answer_that_cannot_be_written_is_a_fault() -> None:
    status, _, body = await ask(House(answer=Response(200, ((b"x", b"a\r\nb"),), b"")), HELLO)
    assert (status, body) == (500, b"internal")


@pytest.mark.parametrize("error", [trio.BrokenResourceError(), trio.ClosedResourceError()])
async def test_a_resource_that_breaks_within_the_handler_is_a_fault_too(error: Exception) -> None:
    assert (await ask(House(answer=error), HELLO))[0] == 500


async def test_a_peer_that_vanishes_is_not_worth_a_line(caplog: pytest.LogCaptureFixture) -> None:
    house = House(gate=trio.Event())
    async with calling(house) as peer:
        await peer.send(HELLO)
        await trio.testing.wait_all_tasks_blocked()
        await peer.stream.aclose()
        assert house.gate is not None
        house.gate.set()
    assert caplog.records == []


# Admission


FOREIGN = {
    "host": b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "port": b"GET / HTTP/1.1\r\nHost: 127.0.0.1:80\r\n\r\n",
    "origin": b"GET / HTTP/1.1\r\n" + HOST + b"Origin: http://evil.example\r\n\r\n",
    "null": b"GET / HTTP/1.1\r\n" + HOST + b"Origin: null\r\n\r\n",
    "site": b"GET / HTTP/1.1\r\n" + HOST + b"Sec-Fetch-Site: cross-site\r\n\r\n",
    "preflight": b"OPTIONS /api HTTP/1.1\r\n" + HOST + b"Origin: http://evil.example\r\n"
    b"Access-Control-Request-Method: POST\r\n\r\n",
    "no such path": b"GET /no/such HTTP/1.1\r\nHost: evil.example\r\n\r\n",
}


@pytest.mark.parametrize("what", FOREIGN)
async def test_a_foreign_request_reaches_no_handler(what: str) -> None:
    house = House()
    async with calling(house) as peer:
        await peer.send(FOREIGN[what] + HELLO)
        status, headers, _ = await peer.answer()
        assert status == 403
        assert headers[b"connection"] == b"close"
        assert not [name for name in headers if name.startswith(b"access-control")]
        assert await peer.rest() == b""
    assert house.seen == []


@pytest.mark.parametrize(
    ("status", "request_bytes"),
    [
        (400, b"GET / HTTP/1.1\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n"),
        (400, b"GET / HTTP/1.1\r\n" + HOST + b"X-Forwarded-For: 1.2.3.4\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\n" + HOST + b"X-HTTP-Method-Override: DELETE\r\n\r\n"),
        (400, b"GET http://127.0.0.1:31415/ HTTP/1.1\r\n" + HOST + b"\r\n"),
        (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
        (415, b"DELETE /x HTTP/1.1\r\n" + HOST + b"\r\n"),
        (415, b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n"),
        (413, b"POST /x HTTP/1.1\r\n" + HOST + JSON + b"Content-Length: 1048577\r\n\r\n"),
        (417, b"GET / HTTP/1.1\r\n" + HOST + b"Expect: more\r\n\r\n"),
        (414, b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n"),
        (431, b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 9000 + b"\r\n\r\n"),
        (501, b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n"),
    ],
)
async def test_a_bad_request_is_answered_and_ends_the_connection(
    status: int, request_bytes: bytes
) -> None:
    house = House()
    async with calling(house) as peer:
        await peer.send(request_bytes)
        found, headers, _ = await peer.answer()
        assert found == status
        assert headers[b"connection"] == b"close"
        assert await peer.rest() == b""
    assert house.seen == []


async def test_a_foreign_upload_is_refused_before_its_body() -> None:
    house = House()
    async with calling(house) as peer:
        fields = b"Origin: http://evil.example\r\nExpect: 100-continue\r\n"
        await peer.send(post(b"x" * 1000, fields)[:-1000])
        assert await peer.status() == 403
    assert house.seen == []


@pytest.mark.parametrize(
    "field_line",
    [
        b"Origin: http://evil.example\r\n",
        b"Origin: null\r\n",
        b"Origin: http://localhost:31415\r\n",  # which another user may serve, on ::1
        b"Sec-Fetch-Site: same-site\r\n",
        b"X-Forwarded-For: 1.2.3.4\r\n",
        b"Origin: http://evil.example\r\nContent-Length: 5\r\n",
    ],
)
async def test_a_foreign_websocket_gets_no_byte(field_line: bytes) -> None:
    house = House()
    async with calling(house) as peer:
        await peer.send(UPGRADE + field_line + b"\r\n")
        assert await peer.rest() == b""
    assert house.upgraded == []


async def test_a_caller_who_is_not_known_is_told_so() -> None:
    async def nobody(stream: object) -> Actor:
        raise NotAdmitted

    house = House(identify=nobody)
    assert (await ask(house, HELLO))[0] == 403
    assert house.seen == []


async def test_nothing_is_read_of_a_caller_before_it_is_known() -> None:
    known = trio.Event()

    async def later(stream: trio.testing.MemoryReceiveStream) -> Actor:
        await known.wait()
        return Actor(kind="owner")

    house = House(identify=later)
    async with calling(house) as peer:
        await peer.send(HELLO)
        await trio.testing.wait_all_tasks_blocked()
        assert house.seen == []
        known.set()
        assert await peer.status() == 200


async def test_a_caller_who_cannot_be_told_in_time_is_let_go(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def never(stream: object) -> Actor:
        await trio.sleep_forever()
        raise AssertionError

    began = trio.current_time()
    house = House(identify=never)
    async with calling(house) as peer:
        await peer.send(HELLO)
        assert await peer.rest() == b""
    assert trio.current_time() - began == HEAD_S
    assert house.seen == []


async def test_a_caller_who_is_not_known_does_not_hear_that_there_is_no_room() -> None:
    def nobody(stream: object) -> None:
        raise NotAdmitted

    house = House(limits=Limits(connections=0), check=nobody)
    assert (await ask(house, HELLO))[0] == 403


async def test_a_caller_who_has_left_is_told_nothing() -> None:
    async def gone(stream: object) -> Actor:
        raise trio.BrokenResourceError

    async with calling(House(identify=gone)) as peer:
        assert await peer.rest() == b""


@pytest.mark.parametrize(
    "request_bytes", [HELLO, FOREIGN["origin"], b"nonsense\r\n\r\n", HELLO.replace(b"GET", b"HEAD")]
)
async def test_every_answer_has_the_fields_of_the_house(request_bytes: bytes) -> None:
    async with calling(House()) as peer:
        await peer.send(request_bytes)
        await peer.stream.send_eof()
        rest = (await peer.rest()).lower()
    for name, value in HOUSE_FIELDS:
        assert rest.count(b"\r\n" + name + b": " + value.lower() + b"\r\n") == 1
    assert rest.count(b"\r\ndate: ") == 1
    assert b"access-control" not in rest
    assert b"set-cookie" not in rest


async def test_a_handler_may_say_otherwise() -> None:
    own = ((b"content-security-policy", b"default-src 'self'"),)
    _, headers, _ = await ask(House(answer=Response(200, own, b"")), HELLO)
    assert headers[b"content-security-policy"] == b"default-src 'self'"
    assert headers[b"x-frame-options"] == b"DENY"


# WebSocket


async def test_an_upgrade_is_handed_over_with_what_followed() -> None:
    house = House()
    async with calling(house) as peer:
        await peer.send(UPGRADE + b"Origin: http://127.0.0.1:31415\r\n\r\nearly")
        assert await peer.rest() == b"switched"
    assert house.upgraded[0].trailing == b"early"
    assert house.seen == []


async def test_a_refused_upgrade_is_answered() -> None:
    house = House(answer=UpgradeRequired())
    status, headers, _ = await ask(house, UPGRADE + b"\r\n")
    assert (status, headers[b"connection"]) == (426, b"close")


async def test_a_fault_of_an_upgrade_ends_that_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with calling(House(answer=ZeroDivisionError())) as peer:
        await peer.send(UPGRADE + b"\r\n")
        assert await peer.rest() == b""
    assert [record.getMessage() for record in caplog.records] == ["a connection failed"]


async def test_an_upgrade_while_draining_is_refused() -> None:
    house = House()
    async with calling(house) as peer:
        await peer.send(UPGRADE)
        await trio.testing.wait_all_tasks_blocked()
        house.door.drain()
        await peer.send(b"\r\n")
        assert await peer.status() == 503


# Deadlines


@contextlib.asynccontextmanager
async def lasting(seconds: float) -> AsyncIterator[None]:
    start = trio.current_time()
    yield
    assert trio.current_time() - start == pytest.approx(seconds, abs=0.01)


@pytest.mark.usefixtures("autojump_clock")
class TestDeadlines:
    """What a peer that takes its time gets."""

    async def test_silence_is_closed_without_a_word(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with calling(House()) as peer, lasting(HEAD_S):
            assert await peer.rest() == b""

    async def test_a_head_that_does_not_end_is_a_408(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with calling(House()) as peer, lasting(HEAD_S):
            await peer.send(b"GET / HT")
            assert await peer.status() == 408

    async def test_a_dribbled_head_gains_no_time(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with calling(House()) as peer, lasting(1 + HEAD_S):
            await trio.sleep(1)
            await peer.send(b"GET / HTTP/1.1\r\n")
            for _ in range(3):
                await trio.sleep(3)
                await peer.send(b"X: y\r\n")
            assert await peer.status() == 408

    async def test_a_dribbled_body_gains_no_time(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        request = post(b"x" * 100)
        async with calling(House()) as peer, lasting(BODY_S):
            await peer.send(request[:-100])
            for _ in range(9):
                await trio.sleep(3)
                await peer.send(b"x")
            assert await peer.status() == 408

    async def test_an_idle_connection_is_closed_without_a_word(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with calling(House()) as peer:
            await peer.send(HELLO)
            await peer.answer()
            async with lasting(IDLE_S):
                assert await peer.rest() == b""

    async def test_empty_lines_do_not_keep_a_connection(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with calling(House()) as peer:
            await peer.send(HELLO)
            await peer.answer()
            start = trio.current_time()
            with contextlib.suppress(trio.BrokenResourceError):
                while True:
                    await trio.sleep(1)
                    await peer.send(b"\r\n")
            assert trio.current_time() - start <= IDLE_S + HEAD_S + LINGER_S + 1

    async def test_a_handler_has_all_the_time_it_needs(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        house = House(gate=trio.Event())
        assert house.gate is not None
        async with calling(house) as peer:
            await peer.send(HELLO)
            await trio.sleep(1800)
            house.gate.set()
            assert await peer.status() == 200
            await peer.send(HELLO)
            assert await peer.status() == 200

    async def test_a_peer_that_does_not_read_is_dropped(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        house = House()
        ours, theirs = trio.testing.lockstep_stream_pair()
        async with lasting(WRITE_S), trio.open_nursery() as nursery:
            nursery.start_soon(serve_connection, theirs, house.door)
            await ours.send_all(HELLO)
        assert house.door.connections == 0
        with pytest.raises(trio.BrokenResourceError):
            await ours.send_all(b"x")

    async def test_a_peer_that_sends_ahead_and_does_not_read_stops_itself_alone(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        house = House()
        ours, theirs = trio.testing.lockstep_stream_pair()
        taken = Counted(theirs.receive_stream)
        stapled = trio.StapledStream(theirs.send_stream, taken)
        async with lasting(WRITE_S), trio.open_nursery() as nursery:
            nursery.start_soon(serve_connection, stapled, house.door)
            await swallow(ours.send_all, HELLO * 20_000)
        assert (len(house.seen), taken.size) == (1, READ_BYTES)

    async def test_a_peer_that_does_not_read_does_not_hold_others_up(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        house = House()
        ours, theirs = trio.testing.lockstep_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_connection, theirs, house.door)
            nursery.start_soon(swallow, ours.send_all, HELLO * 20_000)
            await trio.testing.wait_all_tasks_blocked()
            async with calling_beside(house) as other, lasting(0):
                for _ in range(100):
                    await other.send(HELLO)
                    assert await other.status() == 200

    async def test_a_peer_that_does_not_read_its_refusal_is_dropped(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        ours, theirs = trio.testing.lockstep_stream_pair()
        async with lasting(WRITE_S), trio.open_nursery() as nursery:
            nursery.start_soon(serve_connection, theirs, House().door)
            await ours.send_all(FOREIGN["host"])

    async def test_a_large_answer_has_time_for_each_piece(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        size = 1_000_000
        house = House(answer=Response(200, (), b"x" * size))
        ours, theirs = trio.testing.lockstep_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_connection, theirs, house.door)
            await ours.send_all(HELLO)
            got = 0
            while got < size:
                await trio.sleep(WRITE_S - 1)
                got += len(await ours.receive_some(262_144))
            nursery.cancel_scope.cancel()

    async def test_the_rest_of_a_refused_upload_is_read_away_for_a_moment(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with calling(House()) as peer:
            await peer.send(b"POST /x HTTP/1.1\r\n" + HOST + JSON)
            await peer.send(b"Content-Length: 99999999\r\n\r\n")
            async with lasting(LINGER_S):
                assert await peer.status() == 413
                with contextlib.suppress(trio.BrokenResourceError):
                    while True:
                        await peer.send(b"x" * 10)
                        await trio.sleep(0.1)

    async def test_only_so_much_is_read_away(self, autojump_clock: trio.testing.MockClock) -> None:
        limits = Limits(linger_bytes=1_000_000)
        async with calling(House(limits=limits)) as peer:
            await peer.send(b"POST /x HTTP/1.1\r\n" + HOST + JSON)
            await peer.send(b"Content-Length: 99999999\r\n\r\n")
            assert await peer.status() == 413
            sent = 0
            async with lasting(0):
                with contextlib.suppress(trio.BrokenResourceError):
                    while True:
                        await peer.send(b"x" * 10_000)
                        sent += 10_000
                        await trio.testing.wait_all_tasks_blocked()
            assert 990_000 <= sent <= 1_100_000


# Many connections; tests/shell/test_places.py has the counting


FEW = Limits(connections=3, reserve=1, turned_away=1)
HURRY_S = FEW.hurry_s


@contextlib.asynccontextmanager
async def full(
    house: House, how: bytes = HELLO[:20], count: int = FEW.connections - FEW.reserve
) -> AsyncIterator[list[Peer]]:
    """All general places taken, by peers who are in the middle of something."""
    async with contextlib.AsyncExitStack() as stack:
        calls = [calling_beside(house) for _ in range(count)]
        peers = [await stack.enter_async_context(call) for call in calls]
        for peer in peers:
            await peer.send(how)
        await trio.testing.wait_all_tasks_blocked()
        yield peers


async def test_a_full_house_says_so() -> None:
    house = House(limits=FEW)
    async with full(house) as inside, calling_beside(house) as last:
        await last.send(HELLO[:20])
        async with calling_beside(house) as third:
            status, headers, _ = await third.answer()
            assert (status, headers[b"connection"]) == (503, b"close")
            async with calling_beside(house) as fourth:
                assert await fourth.rest() == b""
            assert house.door.connections == FEW.connections
        await trio.testing.wait_all_tasks_blocked()
        for peer in [*inside, last]:
            await peer.send(HELLO[20:])
            assert await peer.status() == 200


async def test_the_longest_idle_goes_when_a_caller_needs_its_place(
    autojump_clock: trio.testing.MockClock,
) -> None:
    house = House(limits=FEW)
    async with calling(house) as first, calling_beside(house) as second:
        for peer in (second, first):
            await trio.sleep(1)
            await peer.send(HELLO)
            assert await peer.status() == 200
        async with calling_beside(house) as third, lasting(0):
            await third.send(HELLO)
            _, headers, _ = await third.answer()
            assert b"connection" not in headers
            assert await second.rest() == b""
            await first.send(HELLO)
            assert await first.status() == 200
    assert len(house.seen) == 4


async def test_who_said_nothing_yet_goes_before_a_caller_is_refused() -> None:
    house = House(limits=Limits(connections=1, reserve=0))
    async with calling(house) as silent, calling_beside(house) as other:
        await other.send(HELLO)
        assert await other.status() == 200
        assert await silent.rest() == b""


@pytest.mark.parametrize(
    "said", [HELLO[:10], post(b"xx")[:-1], HELLO], ids=["head", "body", "handler"]
)
async def test_nobody_goes_in_the_middle_of_something(
    said: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    house = House(limits=Limits(connections=1, reserve=0), gate=trio.Event())
    assert house.gate is not None
    async with calling(house) as busy:
        await busy.send(said)
        await trio.sleep(HEAD_S - 1)
        async with calling_beside(house) as other:
            assert await other.status() == 503
        house.gate.set()
        await busy.send(next(each[len(said) :] for each in (HELLO, post(b"xx")) if said in each))
        assert await busy.status() == 200


async def test_bytes_that_race_with_being_evicted_reach_no_handler() -> None:
    house = House(limits=Limits(connections=1, reserve=0))
    async with calling(house) as peer:
        await trio.testing.wait_all_tasks_blocked()
        await peer.send(HELLO)  # the connection is awake, and has not run yet
        await house.door.make_room()
        assert await peer.rest() == b""
    assert house.seen == []


class TestReserve:
    """The last places, when all others are busy."""

    async def test_a_caller_is_served_one_request(self) -> None:
        house = House(limits=FEW)
        async with full(house), calling_beside(house) as owner:
            await owner.send(HELLO + HELLO)
            status, headers, body = await owner.answer()
            assert (status, headers[b"connection"], body) == (200, b"close", b"hello")
            assert await owner.rest() == b""
        assert len(house.seen) == 1

    async def test_it_is_free_again_for_the_next(self) -> None:
        house = House(limits=FEW)
        async with full(house, UPGRADE):
            for _ in range(5):
                async with calling_beside(house) as owner:
                    await owner.send(HELLO)
                    assert await owner.status() == 200

    @pytest.mark.parametrize(
        ("said", "status"),
        [(b"", 0), (b"G", 408), (post(b"xx")[:-1], 408)],
        ids=["silence", "head", "body"],
    )
    async def test_who_is_slow_is_let_go_soon(
        self, said: bytes, status: int, autojump_clock: trio.testing.MockClock
    ) -> None:
        house = House(limits=FEW)
        async with (
            full(house, post(b"x" * 9)[:-1]),
            calling_beside(house) as slow,
            lasting(HURRY_S),
        ):
            await slow.send(said)
            assert (await slow.status() if status else len(await slow.rest())) == status

    async def test_who_does_not_read_is_let_go_soon(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        house = House(limits=FEW)
        async with full(house, post(b"x" * 9)[:-1]):
            ours, theirs = trio.testing.lockstep_stream_pair()
            async with lasting(HURRY_S), trio.open_nursery() as nursery:
                nursery.start_soon(serve_connection, theirs, house.door)
                await ours.send_all(HELLO)

    async def test_a_handler_has_all_the_time_it_needs(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        house = House(limits=FEW, gate=trio.Event())
        assert house.gate is not None
        async with full(house, HELLO), calling_beside(house) as owner:
            await owner.send(HELLO)
            await trio.sleep(1800)
            house.gate.set()
            assert await owner.status() == 200

    async def test_it_is_for_no_websocket(self) -> None:
        house = House(limits=FEW)
        async with full(house), calling_beside(house) as owner:
            await owner.send(UPGRADE + b"\r\n")
            status, headers, _ = await owner.answer()
            assert (status, headers[b"connection"]) == (503, b"close")
        assert house.upgraded == []

    async def test_it_is_for_no_agent(self) -> None:
        async def newest(_: object) -> Actor:
            return Actor(kind="agent", name="a") if house.door.connections > 1 else OWNER

        house = House(limits=FEW, identify=newest)
        async with full(house), calling_beside(house) as agent:
            await agent.send(HELLO)
            assert await agent.status() == 503
            assert house.door.connections == 2


# Callers on their way in


async def test_a_stranger_takes_no_place_and_is_recorded() -> None:
    def nobody(stream: object) -> None:
        raise NotAdmitted

    house = House(limits=Limits(turned_away=2), check=nobody)
    async with calling(house) as first, calling_beside(house) as second:
        for peer in (first, second):
            assert await peer.status() == 403
            assert house.door.connections == 0
        async with calling_beside(house) as third:
            assert await third.rest() == b""
    assert len(house.strangers) == 2


async def test_a_stranger_who_cannot_be_recorded_in_time_is_let_go(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def never(_: object) -> None:
        await trio.sleep_forever()

    def nobody(stream: object) -> None:
        raise NotAdmitted

    house = House(check=nobody)
    house.door = dataclasses.replace(house.door, record=never)
    async with calling(house) as peer, lasting(WRITE_S):
        assert await peer.rest() == b""


async def test_a_caller_takes_no_place_before_it_is_known() -> None:
    known = trio.Event()

    async def later(_: object) -> Actor:
        await known.wait()
        return OWNER

    house = House(identify=later)
    async with calling(house) as peer:
        await trio.testing.wait_all_tasks_blocked()
        assert house.door.connections == 0
        known.set()
        await peer.send(HELLO)
        assert await peer.status() == 200
        assert house.door.connections == 1


async def test_idle_connections_make_room_for_a_look_that_lacks_descriptors() -> None:
    async def look(_: object) -> Actor:
        await trio.lowlevel.checkpoint()
        if house.door.connections > 2:
            raise OutOfResources
        return OWNER

    house = House(identify=look)
    async with calling(house) as idle, full(house, HELLO[:20], 2):
        async with calling_beside(house) as peer:
            await peer.send(HELLO)
            assert await peer.status() == 200
        assert await idle.rest() == b""


async def test_nobody_more_is_accepted_while_too_many_are_told_apart() -> None:
    known = trio.Event()
    asked = 0

    async def later(_: object) -> Actor:
        nonlocal asked
        asked += 1
        await known.wait()
        return OWNER

    pairs = [trio.testing.memory_stream_pair() for _ in range(9)]
    listener = ScriptedListener(*(theirs for _, theirs in pairs))
    house = House(limits=Limits(unknown=3), identify=later)
    async with trio.open_nursery() as nursery:
        await nursery.start(accept_connections, [listener], house.door, nursery)
        await trio.testing.wait_all_tasks_blocked()
        assert 3 <= asked <= 5  # two may be on their way
        known.set()
        for ours, _ in pairs:
            peer = Peer(ours)
            await peer.send(HELLO)
            assert await peer.status() == 200
        nursery.cancel_scope.cancel()


# Draining


async def test_draining_closes_an_idle_connection_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    house = House()
    async with calling(house) as used, calling_beside(house) as fresh, lasting(0):
        await used.send(HELLO)
        await used.answer()
        await trio.testing.wait_all_tasks_blocked()
        house.door.drain()
        assert await used.rest() == b""
        assert await fresh.rest() == b""


async def test_draining_lets_a_busy_connection_finish() -> None:
    house = House(gate=trio.Event())
    assert house.gate is not None
    async with calling(house) as peer:
        await peer.send(HELLO)
        await trio.testing.wait_all_tasks_blocked()
        house.door.drain()
        await trio.testing.wait_all_tasks_blocked()
        house.gate.set()
        status, headers, _ = await peer.answer()
        assert (status, headers[b"connection"]) == (200, b"close")
        assert await peer.rest() == b""


async def test_draining_lets_a_half_said_request_finish() -> None:
    house = House()
    async with calling(house) as peer:
        await peer.send(HELLO[:20])
        await trio.testing.wait_all_tasks_blocked()
        house.door.drain()
        await peer.send(HELLO[20:])
        assert (await peer.answer())[1][b"connection"] == b"close"


async def test_a_connection_that_comes_while_draining_is_closed() -> None:
    house = House()
    house.door.drain()
    async with calling(house) as peer:
        assert await peer.rest() == b""


async def test_bytes_that_race_with_draining_reach_no_handler() -> None:
    house = House()
    async with calling(house) as peer:
        await trio.testing.wait_all_tasks_blocked()
        await peer.send(HELLO)  # the connection is awake, and has not run yet
        house.door.drain()
        assert await peer.rest() == b""
    assert house.seen == []


# Cancellation


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET /",
        post(b"xx")[:-1],
        HELLO,
        FOREIGN["origin"],
        b"GET /" + b"a" * 9000,
    ],
    ids=["idle", "head", "body", "handler", "linger", "refusal"],
)
async def test_cancelling_closes_the_stream_and_frees_the_place(data: bytes) -> None:
    house = House(gate=trio.Event())
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_connection, theirs, house.door)
        await ours.send_all(data or b"")
        await trio.testing.wait_all_tasks_blocked()
        assert house.door.connections == 1
        nursery.cancel_scope.cancel()
    assert house.door.connections == 0
    with pytest.raises(trio.ClosedResourceError):
        await theirs.send_all(b"x")


async def test_cancelling_while_an_answer_is_written() -> None:
    house = House()
    ours, theirs = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_connection, theirs, house.door)
        await ours.send_all(HELLO)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert house.door.connections == 0


# Accepting


class ScriptedListener(trio.abc.Listener[trio.StapledStream[Any, Any]]):
    """Hands out what it was given, then waits."""

    def __init__(self, *script: trio.StapledStream[Any, Any] | OSError) -> None:
        self.script = list(script)
        self.closed = False

    async def accept(self) -> trio.StapledStream[Any, Any]:
        await trio.lowlevel.checkpoint()
        if not self.script:
            await trio.sleep_forever()
        step = self.script.pop(0)
        if isinstance(step, OSError):
            raise step
        return step

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
async def test_running_out_of_descriptors_is_survived(
    code: int, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    listener = ScriptedListener(OSError(code, "out"), OSError(code, "out"), theirs)
    house = House()
    async with trio.open_nursery() as nursery:
        await nursery.start(accept_connections, [listener], house.door, nursery)
        peer = Peer(ours)
        await peer.send(HELLO)
        assert await peer.status() == 200
        nursery.cancel_scope.cancel()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert listener.closed


async def test_a_broken_listener_is_a_crash() -> None:
    listener = ScriptedListener(OSError(errno.EINVAL, "broken"))
    with pytest.RaisesGroup(pytest.RaisesGroup(OSError)):
        async with trio.open_nursery() as nursery:
            await nursery.start(accept_connections, [listener], House().door, nursery)


async def test_the_doors_close_before_the_conversations_end() -> None:
    house = House()
    ours, theirs = trio.testing.memory_stream_pair()
    listener = ScriptedListener(theirs)
    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as doors:
            await doors.start(accept_connections, [listener], house.door, connections)
            await trio.testing.wait_all_tasks_blocked()
            doors.cancel_scope.cancel()
        assert listener.closed
        peer = Peer(ours)
        await peer.send(HELLO)
        assert await peer.status() == 200
        house.door.drain()
