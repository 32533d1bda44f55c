"""The listener and the identity of callers, on real sockets."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
import trio
import trio.testing

from groove_trio.rules.admission import Admission
from groove_trio.shell.binds import binds_of, open_listeners
from groove_trio.shell.door import Door
from groove_trio.shell.holders import port_holder
from groove_trio.shell.identity import check
from groove_trio.shell.listener import accept_connections
from groove_trio.wire.http import Request, Response, Upgrade
from groove_trio.words.actors import Actor
from groove_trio.words.errors import GrooveError, NotAdmitted


async def hello(request: Request, actor: Actor) -> Response:
    await trio.lowlevel.checkpoint()
    return Response(200, (), b"hello")


async def no_upgrade(upgrade: Upgrade, stream: trio.abc.Stream, actor: Actor) -> None:
    raise AssertionError("no upgrade is let through here")


def refuse(error: GrooveError) -> Response:
    return Response(error.status, (), error.slug.encode())


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[int]:
    listeners = await open_listeners("127.0.0.1", 0)
    binds = binds_of(listeners)
    door = Door(admission=Admission(binds), handler=hello, upgrade=no_upgrade, refuse=refuse)
    async with trio.open_nursery() as connections:
        await connections.start(accept_connections, listeners, door, connections)
        yield binds[0][1]
        connections.cancel_scope.cancel()


async def rest(stream: trio.SocketStream) -> bytes:
    received = b""
    with trio.fail_after(10):
        while data := await stream.receive_some():
            received += data
    return received


def host(port: int) -> bytes:
    return b"Host: 127.0.0.1:%d\r\n" % port


async def test_a_client_that_sends_too_much_still_reads_why() -> None:
    async with serving() as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        size = 8 * 1024 * 1024
        await stream.send_all(
            b"POST / HTTP/1.1\r\n" + host(port) + b"Content-Length: %d\r\n\r\n" % size
        )
        await stream.send_all(b"x" * size)
        assert (await rest(stream)).startswith(b"HTTP/1.1 413 ")


async def test_a_foreign_websocket_is_closed_without_a_byte() -> None:
    async with serving() as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(
            b"GET /ws HTTP/1.1\r\n" + host(port) + b"Origin: http://evil.example\r\n"
            b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert await rest(stream) == b""


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Lowers the limit so far that this process can open nothing more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = os.dup(0)
    os.close(spare)
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_running_out_of_descriptors_is_survived(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as port:
        with socket.socket() as early:
            early.setblocking(False)
            with no_descriptor_left():
                with contextlib.suppress(BlockingIOError):
                    early.connect(("127.0.0.1", port))
                await trio.sleep(0.05)  # what comes meanwhile waits in the kernel's queue
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(
                    b"GET / HTTP/1.1\r\n" + host(port) + b"Connection: close\r\n\r\n"
                )
                assert (await rest(stream)).endswith(b"hello")
    assert "cannot accept connections" in caplog.text


# Who is calling


async def test_an_embedding_programs_own_stream_is_no_socket() -> None:
    ours, _ = trio.testing.memory_stream_pair()
    assert check(ours) is None


@contextlib.contextmanager
def connected(source: str) -> Iterator[trio.SocketStream]:
    """The server's end of a connection that comes from `source`."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.bind((source, 0))
        client.connect(server.getsockname())
        accepted, _ = server.accept()
        with accepted:
            yield trio.SocketStream(trio.socket.from_stdlib_socket(accepted))


async def test_a_caller_from_loopback_is_this_users() -> None:
    with connected("127.0.0.1") as stream:
        assert check(stream)


async def test_another_address_of_this_machine_is_not_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a datagram socket sends nothing by this
        except OSError:
            pytest.skip("this machine has no address beside loopback")
        address = probe.getsockname()[0]
    with connected(address) as stream, pytest.raises(NotAdmitted, match="not loopback"):
        check(stream)


async def test_a_caller_on_a_socket_of_ours_that_is_closed_is_gone() -> None:
    with connected("127.0.0.1") as stream:
        stream.socket.close()
        with pytest.raises(trio.BrokenResourceError):
            check(stream)


def test_a_port_that_nobody_holds_has_no_holder() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # bound, and not listening
        assert port_holder(sock.getsockname()[1]) is None
