"""The event feed across drops: nothing twice, nothing left out, and an end."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from groove_trio.client import connect_groove
from groove_trio.wire.http import Response, Upgrade
from groove_trio.wire.ws import GOING_AWAY, INTERNAL_ERROR, TRY_AGAIN_LATER, Closed, ServerSocket
from groove_trio.words.errors import BadRequest, RemoteError, Unreachable

Run = Callable[[Callable[[], Any]], Any]


def _event(seq: int) -> bytes:
    return (
        b'{"seq":%d,"time":"2026-11-22T17:18:00.000000000Z",'
        b'"event":{"type":"agentRemoved","id":"%08x"}}' % (seq, seq)
    )


class Subscriber:
    """The server's side of one subscription."""

    def __init__(self, talk: Any, connection: socket.socket) -> None:
        self.connection = connection
        upgrade = talk(connection).hear()
        assert isinstance(upgrade, Upgrade)
        self.target = upgrade.request.target
        self.ws = ServerSocket(upgrade.request, upgrade.trailing)
        connection.sendall(self.ws.accept())

    def tell(self, *seqs: int) -> None:
        for seq in seqs:
            self.connection.sendall(self.ws.send_text(_event(seq)))

    def close(self, code: int) -> None:
        self.connection.sendall(self.ws.close(code))
        self.drain()

    def drain(self) -> list[object]:
        heard: list[object] = []
        while data := self.connection.recv(65_536):
            self.ws.receive(data)
            heard += self.ws.events()
        return heard


Told = Callable[[Subscriber], None]


@pytest.fixture
def feeding(peer: Any, talk: Any) -> Callable[..., Any]:
    """Makes a peer: its first connection is idle, each further one is told events by a function."""

    def make(*tellers: Told) -> Any:
        def behaviour(teller: Told) -> Callable[[socket.socket], None]:
            return lambda connection: teller(Subscriber(talk, connection))

        def idle(connection: socket.socket) -> None:
            connection.recv(1)

        return peer(idle, *map(behaviour, tellers))

    return make


async def _collect(url: str, count: int, after: int | None = None) -> list[int]:
    seqs: list[int] = []
    async with connect_groove(url) as groove, groove.events(after) as events:
        async for envelope in events:
            seqs.append(envelope.seq)
            if len(seqs) == count:
                break
    return seqs


def test_feed_gives_events_in_order(feeding: Any, run: Run) -> None:
    server = feeding(lambda to: (to.tell(5, 6, 7), to.drain()))
    assert run(lambda: _collect(server.url, 3)) == [5, 6, 7]


def test_feed_reads_events_byte_by_byte(feeding: Any, run: Run) -> None:
    def slowly(to: Subscriber) -> None:
        to.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in to.ws.send_text(_event(1)) + to.ws.send_text(_event(2)):
            to.connection.sendall(bytes([byte]))
        to.drain()

    server = feeding(slowly)
    assert run(lambda: _collect(server.url, 2)) == [1, 2]


def test_feed_takes_events_that_come_with_the_handshake(peer: Any, talk: Any, run: Run) -> None:
    def at_once(connection: socket.socket) -> None:
        upgrade = talk(connection).hear()
        ws = ServerSocket(upgrade.request, upgrade.trailing)
        connection.sendall(ws.accept() + ws.send_text(_event(1)) + ws.send_text(_event(2)))
        connection.recv(1)

    server = peer(lambda connection: connection.recv(1), at_once)
    assert run(lambda: _collect(server.url, 2)) == [1, 2]


def test_feed_asks_for_what_came_after(feeding: Any, run: Run) -> None:
    targets: list[str] = []

    def teller(to: Subscriber) -> None:
        targets.append(to.target)
        to.tell(43)
        to.drain()

    server = feeding(teller)
    run(lambda: _collect(server.url, 1, 42))
    assert targets == ["/ws?after=42"]


@pytest.mark.parametrize("code", [None, INTERNAL_ERROR, TRY_AGAIN_LATER])
def test_feed_goes_on_after_a_drop(feeding: Any, run: Run, code: int | None) -> None:
    targets: list[str] = []

    def teller(*seqs: int) -> Told:
        def tell(to: Subscriber) -> None:
            targets.append(to.target)
            to.tell(*seqs)
            if code is not None:
                to.close(code)

        return tell

    server = feeding(teller(1, 2), teller(3), teller(4, 5))
    assert run(lambda: _collect(server.url, 5)) == [1, 2, 3, 4, 5]
    assert targets == ["/ws", "/ws?after=2", "/ws?after=3"]


def test_feed_asks_again_for_what_it_got_in_part(feeding: Any, run: Run) -> None:
    def torn(to: Subscriber) -> None:
        to.tell(1)
        to.connection.sendall(to.ws.send_text(_event(2))[:-3])

    server = feeding(torn, lambda to: (to.tell(2, 3), to.drain()))
    assert run(lambda: _collect(server.url, 3)) == [1, 2, 3]


def test_feed_ends_when_the_daemon_shuts_down(feeding: Any, run: Run) -> None:
    server = feeding(lambda to: (to.tell(1), to.close(GOING_AWAY)))
    assert run(lambda: _collect(server.url, 99)) == [1]


def test_feed_gives_up_after_so_many_tries(feeding: Any, run: Run) -> None:
    server = feeding(lambda to: to.tell(1))

    async def main() -> None:
        async with connect_groove(server.url) as groove, groove.events(tries=2) as events:
            assert (await anext(events)).seq == 1
            with pytest.raises(Unreachable):
                await anext(events)

    run(main)


def test_feed_answers_pings(feeding: Any, run: Run) -> None:
    heard: list[object] = []

    def teller(to: Subscriber) -> None:
        to.connection.sendall(to.ws.ping(b"well?"))
        to.tell(1)
        heard.extend(to.drain())

    server = feeding(teller)
    run(lambda: _collect(server.url, 1))
    server.close()
    assert [each.payload for each in heard if not isinstance(each, Closed)] == [b"well?"]  # type: ignore[attr-defined]


def test_feed_loses_nothing_when_a_wait_is_cancelled(feeding: Any, run: Run) -> None:
    def teller(to: Subscriber) -> None:
        frame = to.ws.send_text(_event(1))
        to.connection.sendall(frame[:10])
        to.connection.recv(1)  # a pong: the client has waited, and waits again
        to.connection.sendall(frame[10:])
        to.drain()

    server = feeding(teller)

    async def main() -> None:
        async with connect_groove(server.url) as groove, groove.events() as events:
            with anyio.move_on_after(0.05):
                await anext(events)
            await events._wire.say(b"\x8a\x80abcd")  # noqa: SLF001 - an unasked pong, masked
            assert (await anext(events)).seq == 1

    run(main)


def test_feed_refuses_an_event_it_cannot_read(feeding: Any, run: Run) -> None:
    def teller(to: Subscriber) -> None:
        to.connection.sendall(to.ws.send_text(b'{"seq":1,"time":"","event":{"type":"news"}}'))
        to.drain()

    server = feeding(teller)

    async def main() -> None:
        async with connect_groove(server.url) as groove:
            with pytest.raises(RemoteError, match="can't be read"):
                async with groove.events() as events:
                    await anext(events)

    run(main)


def test_feed_raises_what_it_was_refused_with(peer: Any, talk: Any, run: Run) -> None:
    def refuse(connection: socket.socket) -> None:
        server = talk(connection)
        server.hear()
        problem = b'{"type":"urn:groove-trio:problem:bad-request","detail":"no such number"}'
        connection.sendall(server.http.send(Response(400, (), problem)))

    server = peer(lambda connection: connection.recv(1), refuse)

    async def main() -> None:
        async with connect_groove(server.url) as groove:
            with pytest.raises(BadRequest, match="no such number"):
                async with groove.events(-1):
                    pass

    run(main)
