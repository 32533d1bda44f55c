"""One kept connection: what is sent again, and what never is."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from groove_trio.client import connect_groove
from groove_trio.words.agents import AgentSpec
from groove_trio.words.errors import BadAnswer, BadRequest, Unreachable

SPEC = AgentSpec(role="tester", argv=["true"])
ALIVE = {"ok": True}
Run = Callable[[Callable[[], Any]], Any]


def _serving(talk: Any, seen: list[str], *answers: object, close: bool = False) -> Any:
    def behaviour(connection: socket.socket) -> None:
        server = talk(connection)
        for answer in answers:
            seen.append(server.hear().method)
            server.answer(answer, close=close)

    return behaviour


def _hangs_up_on_request(talk: Any, seen: list[str]) -> Any:
    def behaviour(connection: socket.socket) -> None:
        seen.append(talk(connection).hear().method)

    return behaviour


def test_link_keeps_one_connection(peer: Any, talk: Any, run: Run) -> None:
    seen: list[str] = []
    server = peer(_serving(talk, seen, ALIVE, ALIVE, ALIVE))

    async def main() -> None:
        async with connect_groove(server.url) as groove:
            for _ in range(3):
                assert (await groove.health()).ok

    run(main)
    assert seen == ["GET"] * 3
    assert server.connections == 1


def test_link_makes_callers_take_turns(peer: Any, talk: Any, run: Run) -> None:
    seen: list[str] = []
    server = peer(_serving(talk, seen, *[ALIVE] * 20))

    async def main() -> None:
        async with connect_groove(server.url) as groove, anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(groove.health)

    run(main)
    assert len(seen) == 20


def test_link_leaves_a_connection_that_the_server_closed_while_idle(
    peer: Any, talk: Any, run: Run
) -> None:
    seen: list[str] = []
    server = peer(_serving(talk, seen, ALIVE), _serving(talk, seen, []))

    async def main() -> None:
        async with connect_groove(server.url) as groove:
            await groove.health()
            await _until_closed(groove)
            assert await groove.complete("tester") == []  # not sent before: a new connection

    run(main)
    assert seen == ["GET", "POST"]


async def _until_closed(groove: Any) -> None:
    while not groove._link._connection.readable:  # noqa: SLF001 - the very question under test
        await anyio.sleep(0.001)


def test_link_honours_connection_close(peer: Any, talk: Any, run: Run) -> None:
    seen: list[str] = []
    server = peer(_serving(talk, seen, ALIVE, close=True), _serving(talk, seen, ALIVE))

    async def main() -> None:
        async with connect_groove(server.url) as groove:
            await groove.health()
            await groove.health()

    run(main)
    assert server.connections == 2


def test_link_never_sends_a_change_twice(peer: Any, talk: Any, run: Run) -> None:
    seen: list[str] = []

    def behaviour(connection: socket.socket) -> None:
        _serving(talk, seen, ALIVE)(connection)
        _hangs_up_on_request(talk, seen)(connection)

    server = peer(behaviour, _serving(talk, seen, ALIVE))

    async def main() -> None:
        async with connect_groove(server.url) as groove:
            await groove.health()
            with pytest.raises(Unreachable, match="may have happened"):
                await groove.spawn(SPEC)

    run(main)
    assert seen == ["GET", "POST"]


def test_link_sends_a_get_again_once(peer: Any, talk: Any, run: Run) -> None:
    seen: list[str] = []

    def behaviour(connection: socket.socket) -> None:
        _serving(talk, seen, ALIVE)(connection)
        _hangs_up_on_request(talk, seen)(connection)

    server = peer(behaviour, _serving(talk, seen, ALIVE))

    async def main() -> None:
        async with connect_groove(server.url) as groove:
            await groove.health()
            assert (await groove.health()).ok

    run(main)
    assert seen == ["GET", "GET", "GET"]


def test_link_does_not_retry_on_a_fresh_connection(peer: Any, talk: Any, run: Run) -> None:
    seen: list[str] = []
    server = peer(_hangs_up_on_request(talk, seen), _serving(talk, seen, ALIVE))

    async def main() -> None:
        async with connect_groove(server.url) as groove:
            with pytest.raises(Unreachable, match="broke"):
                await groove.health()

    run(main)
    assert seen == ["GET"]


def test_link_drops_the_answer_of_a_cancelled_call(peer: Any, talk: Any, run: Run) -> None:
    def late(connection: socket.socket) -> None:
        server = talk(connection)
        server.hear()
        connection.recv(1)  # until the client has left
        server.answer({"ok": False})

    server = peer(late, _serving(talk, [], ALIVE))

    async def main() -> None:
        async with connect_groove(server.url) as groove:
            with anyio.move_on_after(0.05):
                await groove.health()
            assert (await groove.health()).ok

    run(main)
    assert server.connections == 2


@pytest.mark.parametrize(
    "noise",
    [b"SSH-2.0-x\r\n\r\n", b"\x00" * 100, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"],
)
def test_link_refuses_what_is_not_an_answer(peer: Any, talk: Any, run: Run, noise: bytes) -> None:
    def behaviour(connection: socket.socket) -> None:
        talk(connection).hear()
        connection.sendall(noise)

    server = peer(behaviour)

    async def main() -> None:
        async with connect_groove(server.url) as groove:
            with pytest.raises(BadAnswer):
                await groove.health()

    run(main)


def test_connect_says_what_to_do_where_nobody_listens(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    async def main() -> None:
        with pytest.raises(Unreachable, match="start one: groove-trio start"):
            async with connect_groove(f"http://127.0.0.1:{port}"):
                pass

    run(main)


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:1", "https://127.0.0.1:1", "http://", "http://h:0", "http://h:99999",
            "http://h/path", "http://h/?q", "http://u:p@h", "http://[::1", "ftp://h"]
)  # fmt: skip
def test_connect_refuses_what_is_no_address(run: Run, url: str) -> None:
    async def main() -> None:
        with pytest.raises(BadRequest, match="is not like"):
            async with connect_groove(url):
                pass

    run(main)
