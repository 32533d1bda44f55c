"""Peers that behave as told, and both event loops for every test of the client."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest

from groove_trio.wire.http import NEED_DATA, Request, Response, ServerConnection, Upgrade

Behaviour = Callable[[socket.socket], None]
DEADLINE_S = 30.0


class Peer:
    """Listens on loopback; the n-th connection is handled by the n-th behaviour, in a thread."""

    def __init__(self, behaviours: list[Behaviour]) -> None:
        self.failures: list[BaseException] = []
        self.connections = 0
        self._behaviours = behaviours
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads[0].start()

    def _accept(self) -> None:
        for behaviour in self._behaviours:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._run, args=(behaviour, connection), daemon=True)
            self._threads.append(thread)
            thread.start()
        self._listener.close()

    def _run(self, behaviour: Behaviour, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(DEADLINE_S)
            try:
                behaviour(connection)
            except (ConnectionError, OSError):
                pass  # the client left; what it makes of that is the test's matter
            except BaseException as failure:  # noqa: BLE001 - told by close()
                self.failures.append(failure)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(DEADLINE_S)
        assert not self.failures, self.failures


@pytest.fixture
def peer() -> Iterator[Callable[..., Peer]]:
    """Makes peers: ``peer(behaviour, behaviour)``."""
    peers: list[Peer] = []

    def make(*behaviours: Behaviour) -> Peer:
        peers.append(Peer(list(behaviours)))
        return peers[-1]

    yield make
    for each in peers:
        each.close()


Run = Callable[[Callable[[], Awaitable[Any]]], Any]


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine function to its end under either event loop."""

    def runner(main: Callable[[], Awaitable[Any]]) -> Any:
        async def bounded() -> Any:
            with anyio.fail_after(DEADLINE_S):
                return await main()

        return anyio.run(bounded, backend=request.param)

    return runner


class Talk:
    """The server's side of one connection, for behaviours."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.http = ServerConnection()

    def hear(self) -> Request | Upgrade:
        while True:
            event = self.http.next_event()
            if isinstance(event, (Request, Upgrade)):
                return event
            assert event is NEED_DATA
            data = self.connection.recv(65_536)
            if not data:
                raise ConnectionError
            self.http.receive(data)

    def answer(self, body: object, status: int = 200, *, close: bool = False) -> None:
        headers = [(b"content-type", b"application/json")]
        if close:
            headers.append((b"connection", b"close"))
        response = Response(status, headers, json.dumps(body).encode())
        self.connection.sendall(self.http.send(response))


@pytest.fixture
def talk() -> type[Talk]:
    """The class `Talk`; a fixture, since test files import nothing from each other."""
    return Talk
