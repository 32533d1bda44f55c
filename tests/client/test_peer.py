"""Whom a client speaks to: this user's daemon, and nobody who has taken its port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from groove_trio.client import connect_groove, peer
from groove_trio.client.feed import Feed
from groove_trio.client.find import Address
from groove_trio.client.peer import check_peer
from groove_trio.words.errors import Unreachable

NOBODY = 65534
SQUATTER = f"""
import os, socket, sys
os.setgroups([])
os.setresgid({NOBODY}, {NOBODY}, {NOBODY})  # here, since another user may not run this Python
os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
if sys.argv[1] == "accept":
    caller, _ = server.accept()
    print(repr(caller.recv(4096)), flush=True)
sys.stdin.read()
"""


def connected(listener: socket.socket) -> socket.socket:
    client = socket.socket(listener.family)
    client.connect(listener.getsockname()[:2])
    return client


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_our_own_listener_is_spoken_to_accepted_or_not(
    family: socket.AddressFamily, host: str
) -> None:
    if family is socket.AF_INET6 and not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    with socket.create_server((host, 0), family=family) as listener, connected(listener) as client:
        check_peer(client, "http://x")
        accepted, _ = listener.accept()
        with accepted:
            check_peer(client, "http://x")


def test_a_socket_that_speaks_ipv4_in_ipv6_is_understood() -> None:
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_INET6) as client,
    ):
        client.connect(("::ffff:127.0.0.1", listener.getsockname()[1]))
        check_peer(client, "http://x")


def test_a_listener_that_is_gone_is_nobodys() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = connected(listener)
        accepted, _ = listener.accept()
        accepted.close()
    with client, pytest.raises(Unreachable):
        check_peer(client, "http://x")


def test_a_connection_that_is_accepted_while_we_ask_is_our_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, connected(listener) as client:
        taken: list[socket.socket] = []
        ask = peer._ask  # noqa: SLF001 - the moment between two questions has no other handle

        def take_after(*asked: Any) -> Any:
            told = ask(*asked)
            if not taken:
                taken.append(listener.accept()[0])
                listener.close()
            return told

        monkeypatch.setattr(peer, "_ask", take_after)
        try:
            check_peer(client, "http://x")
        finally:
            taken[0].close()


@contextmanager
def squatter(how: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    if os.geteuid() != 0:
        pytest.skip("only root can play another user")
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", SQUATTER, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
        process.kill()


@pytest.mark.parametrize("how", ["listen", "accept"])
def test_another_users_listener_hears_nothing(how: str) -> None:
    async def call(port: int) -> None:
        async with connect_groove(url=f"http://127.0.0.1:{port}") as groove:
            await groove.status()

    with squatter(how) as (process, port):
        with pytest.raises(Unreachable, match=f"another user \\(uid {NOBODY}\\)"):
            anyio.run(call, port)
        if how == "accept":
            assert process.stdout is not None
            assert process.stdout.readline() == "b''\n"


def test_the_feed_asks_too() -> None:
    async def follow(port: int) -> None:
        async with Feed(lambda: Address("127.0.0.1", port)):
            pass

    with squatter("accept") as (_, port), pytest.raises(Unreachable, match="another user"):
        anyio.run(follow, port)


def test_asking_does_not_disturb_a_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        heard: list[bytes] = []

        def serve() -> None:
            accepted, _ = listener.accept()
            with accepted:
                heard.append(accepted.recv(10))

        server = threading.Thread(target=serve)
        server.start()
        with connected(listener) as client:
            for _ in range(100):
                check_peer(client, "http://x")
            client.sendall(b"hello")
            server.join()
    assert heard == [b"hello"]
