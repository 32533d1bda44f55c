"""For the tests of programs that embed a groove: scripted agents, throw-away projects, a client.

Nothing here is a mock. `open_test_groove` is a real groove on a project of its own,
`scripted` agents are real processes with real files and real knocks, and `connect_memory` talks
to the real door, only over a pair of memory streams instead of a socket. What is virtual is
nothing but the wire, so what a test sees is what a user gets:

``` python
async def test_a_writer_stays_in_its_scope() -> None:
    async with open_test_groove() as groove:
        writer = await groove.spawn(
            scripted([{"do": "write", "path": "docs/a.md"}], scope=["src/**"])
        )
        await groove.wait(writer.id)
        assert "denied: docs/a.md" in (await lines_of(groove, writer.id))[0]
```

Real processes and trio's virtual clock do not mix: a test that uses this runs in real time, and
waits for events (`wait_for_line`, `wait_for_state`, `Groove.wait`) instead of sleeping.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import msgspec
import trio
import trio.testing

from groove_trio.config import Config
from groove_trio.groove import open_groove
from groove_trio.shell.listener import serve_connection
from groove_trio.verbs import Groove
from groove_trio.wire.http import CLOSED, NEED_DATA, ClientConnection, Response, Switched
from groove_trio.wire.ws import NORMAL, ClientSocket, Closed, Ping, TextMessage
from groove_trio.words.agents import AgentSpec, AgentState, AgentView
from groove_trio.words.base import MAX_PAGE
from groove_trio.words.errors import BadAnswer, Draining, Unreachable, shown
from groove_trio.words.events import Envelope, OutputAppended

__all__ = [
    "Answer",
    "RawClient",
    "RawFeed",
    "connect_memory",
    "lines_of",
    "open_test_groove",
    "scripted",
    "wait_for_line",
    "wait_for_state",
]

CHUNK = 65_536
ASIDE = "/var/tmp" if os.path.isdir("/var/tmp") else None  # noqa: S108 - each is made anew, 0700
MAX_EVENT = 64 * 1024 * 1024  # a snapshot tells all agents at once

OpenStream = Callable[[], Awaitable[trio.abc.HalfCloseableStream]]

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_JSON = (b"content-type", b"application/json")
_decode_envelope = msgspec.json.Decoder(Envelope).decode


# Agents


def scripted(
    steps: Sequence[Mapping[str, Any]], *, role: str = "scripted", **spec: Any
) -> AgentSpec:
    """What to spawn for a real process that follows `steps`.

    It knocks before it changes anything, does what is granted, and tells each outcome in a line,
    such as ``granted: wrote src/a.py`` or ``denied: docs/x.md: <reason>``.

    Args:
        steps: Such as ``[{"do": "write", "path": "src/a.py", "text": "x"}, {"do": "read"}]``;
            `groove_trio.providers.scripted` lists them all.
        role: Its role.
        **spec: Other fields of `AgentSpec`, such as ``scope=["src/**"]``.
    """
    return AgentSpec(
        role=role, provider="demo", prompt=msgspec.json.encode(list(steps)).decode(), **spec
    )


async def lines_of(groove: Groove, key: str) -> list[str]:
    """All that an agent has written so far, both streams, in the order of its log."""
    texts: list[str] = []
    after, more = 0, True
    while more:
        page = await groove.output(key, after, MAX_PAGE)
        texts += [line.text for line in page.lines]
        after, more = page.next, page.more
    return texts


async def wait_for_line(groove: Groove, key: str, start: str) -> str:
    """Waits until an agent has written a line that begins with `start`, and gives it.

    Whole lines only; always checkpoints.

    Raises:
        UnknownAgent: There is no such agent.
        Draining: The groove closed before that.
    """
    agent = groove.agent(key).id
    with groove.events() as events:
        for text in await lines_of(groove, agent):
            if text.startswith(start):
                return text
        async for published in events:
            match published.event:
                case OutputAppended(id=id, lines=lines) if id == agent:
                    for line in lines:
                        if line.text.startswith(start):
                            return line.text
                case _:
                    pass
    raise Draining


async def wait_for_state(groove: Groove, key: str, *states: AgentState) -> AgentView:
    """Waits until an agent is in one of `states`; a state passed through in one step may be missed.

    Always checkpoints.

    Raises:
        UnknownAgent: There is no such agent, or not any more.
        Draining: The groove closed before that.
    """
    agent = groove.agent(key).id
    with groove.events() as events:
        async for _ in events:  # the first is the snapshot
            view = groove.agent(agent)
            if view.state in states:
                return view
    raise Draining


# The groove


@asynccontextmanager
async def open_test_groove(project: Path | None = None, **config: Any) -> AsyncGenerator[Groove]:
    """Opens a groove for a test: on any free port, and on an empty project that is deleted after.

    So is its configuration directory: no test on such a project touches your stored keys.

    Args:
        project: A project of the test's own, which stays. So must its configuration directory,
            with the head of its audit log: give `config_dir` too, or it is yours.
        **config: Other settings, as in `Config`.
    """
    settings: dict[str, Any] = {"port": 0, **config}
    if project is not None:
        async with open_groove(Config(project=project, **settings)) as groove:
            yield groove
        return
    with (
        tempfile.TemporaryDirectory(prefix="groove-test-") as scratch,
        # Agents can't read what is new beside a hidden path, and tests' files are in /tmp.
        tempfile.TemporaryDirectory(prefix="groove-test-", dir=ASIDE) as private,
    ):
        own: dict[str, Any] = {"project": Path(scratch), "config_dir": Path(private)}
        async with open_groove(Config(**(own | settings))) as groove:
            yield groove


@asynccontextmanager
async def connect_memory(groove: Groove) -> AsyncGenerator[RawClient]:
    """Talks HTTP and WebSocket to a groove without a socket.

    Each connection is served as one that came in through the listener would be, its caller taken
    for the owner. It ends with the block, which belongs inside the groove's.
    """
    async with trio.open_nursery() as nursery:

        async def connect() -> trio.abc.HalfCloseableStream:
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(serve_connection, theirs, groove.door)
            await trio.lowlevel.checkpoint()
            return ours

        client = RawClient(connect, groove.url.removeprefix("http://"))
        yield client
        nursery.cancel_scope.cancel()


# The client


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: nothing is interpreted, a refusal is an answer like any other.

    Attributes:
        status: Such as 200.
        headers: By lower-case name; of a repeated one the last.
        body: As it came.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return msgspec.json.decode(self.body)

    @property
    def slug(self) -> str:
        """The kind of a refusal, such as ``scope-overlap``."""
        return str(self.json["type"]).rpartition(":")[2]


class RawClient:
    """Sends requests as they are, well formed or not, and gives the answers as they come.

    One connection, kept alive; requests take turns. For the typed verbs use `Groove` itself, or
    `connect_groove` over its socket.

    Args:
        open_stream: Connects; called for the first request and whenever the last answer ended
            the connection, and for each feed.
        authority: What the Host field says, such as ``127.0.0.1:31415``.
    """

    def __init__(self, open_stream: OpenStream, authority: str) -> None:
        self._open_stream = open_stream
        self._authority = authority
        self._turn = trio.Lock()
        self._stream: trio.abc.HalfCloseableStream | None = None
        self._http = ClientConnection(authority)

    async def request(
        self,
        method: str,
        target: str,
        body: object = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> Answer:
        """Sends one request and waits for its answer.

        Args:
            method: Such as ``GET``.
            target: Path and query.
            body: Bytes go as they are; anything else but None goes as JSON.
            headers: Beside Host, Content-Length, and Content-Type, which says JSON where the
                method is one that changes something.

        Raises:
            Unreachable: The connection ended without an answer.
        """
        fields = list(headers)
        if method not in _SAFE and all(name.lower() != _JSON[0] for name, _ in fields):
            fields.append(_JSON)
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        async with self._turn:
            if self._stream is None:
                self._stream = await self._open_stream()
                self._http = ClientConnection(self._authority)
            whole = False
            try:
                await self._stream.send_all(
                    self._http.request(method, target, fields, b"" if body is None else data)
                )
                response = await _response(self._stream, self._http)
                whole = True
            finally:
                if not whole or self._http.must_close:
                    await self.aclose()
        return _answer(response)

    @asynccontextmanager
    async def feed(
        self, after: int | None = None, headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> AsyncGenerator[RawFeed]:
        """Follows the events over a WebSocket, as `Feed` of the client does but without its care.

        Raises:
            Unreachable: The connection ended without an answer.
            BadAnswer: The upgrade was refused; ``status`` says how.
        """
        stream = await self._open_stream()
        try:
            http = ClientConnection(self._authority)
            socket = ClientSocket(max_message=MAX_EVENT)
            target = "/ws" if after is None else f"/ws?after={after}"
            await stream.send_all(http.request("GET", target, [*socket.headers, *headers]))
            response = await _response(stream, http)
            if not isinstance(response, Switched):
                detail = f"the upgrade was refused: {shown(response.body.decode())}"
                raise BadAnswer(detail, status=response.status)
            socket.accept(response.response, response.trailing)
            yield RawFeed(stream, socket)
        finally:
            await trio.aclose_forcefully(stream)

    async def aclose(self) -> None:
        """Closes the connection without a word; the next request opens another."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await trio.aclose_forcefully(stream)


class RawFeed:
    """Events as they come: iterate over it until the daemon closes.

    Attributes:
        code: The close code, once it is over: 1001 says that the daemon went away in good order.
    """

    def __init__(self, stream: trio.abc.HalfCloseableStream, socket: ClientSocket) -> None:
        self.code: int | None = None
        self._stream = stream
        self._socket = socket
        self._ready: list[Envelope] = []

    def __aiter__(self) -> Self:
        """Iterates over envelopes."""
        return self

    async def __anext__(self) -> Envelope:
        """The next event. Always checkpoints."""
        await trio.lowlevel.checkpoint()
        while not self._ready:
            if self.code is not None:
                raise StopAsyncIteration
            await self._hear()
        return self._ready.pop(0)

    async def _hear(self) -> None:
        for event in self._socket.events():
            match event:
                case TextMessage(text=text):
                    self._ready.append(_decode_envelope(text))
                case Ping(reply=reply):
                    await self._say(reply)
                case Closed(code=code, reply=reply):
                    self.code = code
                    await self._say(reply)
                case _:
                    pass
        if not self._ready and self.code is None:
            try:
                self._socket.receive(await self._stream.receive_some(CHUNK))
            except trio.BrokenResourceError:
                self._socket.receive(b"")

    async def _say(self, data: bytes) -> None:
        with suppress(trio.BrokenResourceError):  # it left first
            await self._stream.send_all(data)

    async def send_text(self, text: str) -> None:
        """Sends a message, which means nothing to the daemon as long as it is JSON."""
        await self._stream.send_all(self._socket.send_text(text))

    async def aclose(self) -> None:
        """Says goodbye in good order; iterate on to read what the daemon answers."""
        await self._stream.send_all(self._socket.close(NORMAL))


async def _response(
    stream: trio.abc.HalfCloseableStream, http: ClientConnection
) -> Response | Switched:
    while True:
        event = http.next_event()
        if event is CLOSED:
            raise Unreachable("the connection ended without an answer")
        if event is not NEED_DATA:
            return event
        try:
            http.receive(await stream.receive_some(CHUNK))
        except trio.BrokenResourceError:
            http.receive(b"")


def _answer(response: Response | Switched) -> Answer:
    plain = response.response if isinstance(response, Switched) else response
    fields = {name.decode().lower(): value.decode("latin-1") for name, value in plain.headers}
    return Answer(plain.status, fields, plain.body)
