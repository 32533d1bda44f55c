"""The echo server of the examples, met by another library's client."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import websockets.asyncio.client
import websockets.exceptions
import websockets.typing

EVIL = websockets.typing.Origin("http://evil.example")
EXAMPLE = Path(__file__).parents[2] / "examples" / "echo_server.py"


@pytest.fixture
def address() -> Iterator[str]:
    command = [sys.executable, str(EXAMPLE), "127.0.0.1", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ}) as server:
        assert server.stdout is not None
        yield server.stdout.readline().decode().split()[-1]
        server.kill()


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_everything_comes_back(address: str, compression: str | None) -> None:
    async def talk() -> None:
        async with websockets.asyncio.client.connect(
            f"ws://{address}/", compression=compression, max_size=None
        ) as socket:
            for message in ("", "hello", "ö" * 70_000, b"", b"\x00\xff", b"x" * 3_000_000):
                await socket.send(message)
                assert await socket.recv() == message
            await socket.send(["in ", "three ", "pieces"])
            assert await socket.recv() == "in three pieces"
            await (await socket.ping())
            assert bool(socket.protocol.extensions) == bool(compression)
        assert socket.close_code == 1000

    asyncio.run(asyncio.wait_for(talk(), 30))


def test_a_foreign_page_hears_nothing(address: str) -> None:
    async def talk() -> None:
        with pytest.raises(websockets.exceptions.InvalidMessage):
            await websockets.asyncio.client.connect(f"ws://{address}/", origin=EVIL)

    asyncio.run(asyncio.wait_for(talk(), 30))


def test_it_says_hello(address: str) -> None:
    with urllib.request.urlopen(f"http://{address}/", timeout=10) as answer:
        assert answer.read().startswith(b"hello")
        assert answer.headers["x-content-type-options"] == "nosniff"
