"""A groove on a project of its own, and requests to it as bytes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from groove_trio import Config, Groove, open_groove
from groove_trio.client.find import parse_url
from groove_trio.client.link import Link

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
