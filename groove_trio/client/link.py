"""One keep-alive connection to the daemon; callers take turns.

What happens when a kept connection turns out to be gone: a request that was not sent yet goes
over a new one; a GET is sent again, once; anything else may have been performed already, so the
caller is told and decides.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from contextlib import suppress

import anyio
import anyio.abc

from groove_trio.client.find import Address
from groove_trio.client.peer import check_peer
from groove_trio.wire.http import CLOSED, NEED_DATA, ClientConnection, Response, Switched
from groove_trio.words.errors import Unreachable

CHUNK = 65_536
START_ONE = "start one: groove-trio start"
BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError)
JSON = ((b"content-type", b"application/json"),)


async def open_stream(address: Address) -> anyio.abc.SocketStream:
    """Connects, and makes sure that it is this user's daemon that listens.

    Raises:
        Unreachable: Nobody listens there, or somebody else.
    """
    try:
        stream = await anyio.connect_tcp(address.host, address.port)
    except OSError as error:
        raise Unreachable(
            f"no daemon answers at {address.url}; {START_ONE}", url=address.url
        ) from error
    try:
        check_peer(stream.extra(anyio.abc.SocketAttribute.raw_socket), address.url)  # noqa: S610 - not Django's
    except Unreachable:
        await anyio.aclose_forcefully(stream)
        raise
    return stream


async def receive(stream: anyio.abc.SocketStream) -> bytes:
    """Reads what there is; ``b""`` at the end, however it came about."""
    try:
        return await stream.receive(CHUNK)
    except (anyio.EndOfStream, *BROKEN):
        return b""


class Link:
    """Sends requests over one connection, opened when first needed.

    Args:
        locate: Tells where the daemon is; asked for each new connection, since a daemon that
            was started again may listen elsewhere.
    """

    def __init__(self, locate: Callable[[], Address]) -> None:
        self._locate = locate
        self._turn = anyio.Lock()
        self._connection: _Connection | None = None

    async def open(self) -> None:
        """Connects, if there is no connection.

        Raises:
            Unreachable: Nobody listens there.
        """
        async with self._turn:
            await self._fresh_or_kept()

    async def aclose(self) -> None:
        """Closes the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose()

    async def call(self, method: str, target: str, body: bytes = b"") -> Response:
        """Sends a request and waits for the whole answer.

        Cancelling closes the connection, for the answer would be taken for the next one's.

        Args:
            method: Such as ``GET``.
            target: Path and query.
            body: JSON, or nothing.

        Raises:
            Unreachable: Nobody listens there, or the connection broke before the answer came.
            BadAnswer: What answers does not speak HTTP.
        """
        async with self._turn:
            connection = await self._fresh_or_kept()
            try:
                return await self._exchange(connection, method, target, body)
            except _Dropped:
                if method != "GET" or connection.exchanges == 0:
                    raise _broken(connection.address, method) from None
            connection = await self._fresh_or_kept()  # a GET over a kept connection: once more
            try:
                return await self._exchange(connection, method, target, body)
            except _Dropped:
                raise _broken(connection.address, method) from None

    async def _fresh_or_kept(self) -> _Connection:
        kept = self._connection
        if kept is not None:
            if not kept.readable:  # an answer nobody asked for, or the end: not to be used
                return kept
            await self.aclose()
        address = self._locate()
        self._connection = _Connection(address, await open_stream(address))
        return self._connection

    async def _exchange(
        self, connection: _Connection, method: str, target: str, body: bytes
    ) -> Response:
        whole = False
        try:
            response = await connection.exchange(method, target, body)
            whole = True
        finally:
            if not whole or connection.must_close:
                self._connection = None
                await connection.aclose()
        return response


class _Dropped(Exception):
    """The connection ended before an answer began."""


class _Connection:
    """One connection and its protocol state."""

    def __init__(self, address: Address, stream: anyio.abc.SocketStream) -> None:
        self.address = address
        self.exchanges = 0
        self._stream = stream
        self._socket = stream.extra(anyio.abc.SocketAttribute.raw_socket)  # noqa: S610 - not Django's
        self._http = ClientConnection(address.authority)

    @property
    def must_close(self) -> bool:
        return self._http.must_close

    @property
    def readable(self) -> bool:
        """Whether something arrived unasked; asked of the kernel, for anyio has no such question.

        The end of a stream stays readable, whatever the event loop has taken of it.
        """
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    async def aclose(self) -> None:
        await anyio.aclose_forcefully(self._stream)

    async def exchange(self, method: str, target: str, body: bytes) -> Response:
        headers = () if method == "GET" else JSON
        data = self._http.request(method, target, headers, body)
        with suppress(*BROKEN):  # a refusal may have come before all was sent: worth reading
            await self._stream.send(data)
        while True:
            event = self._http.next_event()
            if event is CLOSED or isinstance(event, Switched):
                raise _Dropped
            if event is not NEED_DATA:
                self.exchanges += 1
                return event
            self._http.receive(await receive(self._stream))


def _broken(address: Address, method: str) -> Unreachable:
    doubt = "" if method == "GET" else "; what was asked for may have happened: look before asking"
    return Unreachable(f"the connection to {address.url} broke{doubt}", url=address.url)
