"""A groove on a project of its own, and requests to it as bytes."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from groove_trio import Config, Groove, open_groove
from groove_trio.client.find import parse_url
from groove_trio.client.link import Link
from groove_trio.testing import RawClient

Ask = Callable[..., Any]


class Caller:
    """An open groove and one connection to it."""

    def __init__(self, groove: Groove, link: Link) -> None:
        self.groove = groove
        self._link = link

    async def send(self, method: str, target: str, body: bytes = b"") -> tuple[int, Any]:
        """Sends raw bytes; gives the status and the decoded answer."""
        answer = await self._link.call(method, target, body)
        return answer.status, json.loads(answer.body) if answer.body else None

    async def ask(self, method: str, target: str, body: object = None) -> tuple[int, Any]:
        """Sends JSON."""
        return await self.send(method, target, b"" if body is None else json.dumps(body).encode())


@asynccontextmanager
async def _open(project: Path, **settings: Any) -> AsyncIterator[Caller]:
    async with open_groove(Config(project=project, port=0, **settings)) as groove:
        link = Link(lambda: parse_url(groove.url))
        try:
            yield Caller(groove, link)
        finally:
            await link.aclose()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "src").mkdir(parents=True)
    (root / "README.md").write_text("hello\n")
    return root.resolve()


@pytest.fixture
def calling(project: Path) -> Callable[..., AbstractAsyncContextManager[Caller]]:
    return lambda **settings: _open(project, **settings)


@pytest.fixture
def dial() -> Callable[[Groove], RawClient]:
    """A client over a real socket, which sees what anyone would see."""

    def make(groove: Groove) -> RawClient:
        connect = partial(trio.open_tcp_stream, "127.0.0.1", groove.port)
        return RawClient(connect, groove.url.removeprefix("http://"))

    return make


@pytest.fixture
def living(project: Path) -> Callable[[], list[int]]:
    """Tells the living processes of a project's agents, whoever their parents are."""
    mark = f"GROOVE_PROJECT={project}".encode()

    def look() -> list[int]:
        found = []
        for name in filter(str.isdecimal, os.listdir("/proc")):
            try:
                marked = mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
                state = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if marked and state not in "ZX":
                found.append(int(name))
        return found

    return look


Record = dict[str, Any]


@pytest.fixture
def records(project: Path) -> Callable[[], list[Record]]:
    """Tells the records of a project's audit log, read from the disk."""

    def read() -> list[Record]:
        segments = sorted((project / ".groove/audit").iterdir())
        return [json.loads(line) for each in segments for line in each.read_bytes().splitlines()]

    return read
