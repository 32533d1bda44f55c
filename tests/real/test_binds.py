"""The bind policy on real sockets."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
import trio

from groove_trio.rules.admission import DEFAULT_PORT, FALLBACK_PORTS
from groove_trio.shell import binds
from groove_trio.shell.binds import binds_of, open_listeners, resolve
from groove_trio.words.errors import BadRequest, BindRefused, PortTaken


def own_sockets() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if target.startswith("socket:"):
                found.add(target)
    return found


def machine_addresses() -> list[str]:
    """This machine's own network address, if it has one: connecting a datagram sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return []
        return [probe.getsockname()[0]]


@contextlib.contextmanager
def taken(port: int = 0, address: str = "127.0.0.1") -> Iterator[int]:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        sock.listen()
        yield sock.getsockname()[1]


@contextlib.asynccontextmanager
async def listening(host: str, port: int | None) -> AsyncIterator[list[trio.SocketListener]]:
    listeners = await open_listeners(host, port)
    try:
        yield listeners
    finally:
        for listener in listeners:
            await listener.aclose()


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",
        "::",
        "0",
        "0x0",
        "00",
        "0.0",
        "000.000.000.000",
        "::ffff:0.0.0.0",
        "::ffff:127.0.0.1",
        "::0",
        "[::]",
        "",
        "*",
        " ",
        "255.255.255.255",
        "127.0.0.1\0",
        "127.0.0.1:31415",
        "é",
        "x" * 300,
        *machine_addresses(),
    ],
)
async def test_a_network_facing_bind_is_refused_before_anything_listens(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    monkeypatch.setattr(binds, "_open_one", lambda *arguments: opened.append(arguments))
    with pytest.raises(BindRefused) as caught:
        await open_listeners(host, 0)
    assert opened == []
    assert "127.0.0.1" in caught.value.detail


async def test_a_name_for_a_foreign_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolver(host: str) -> list[str]:
        assert host == "twofaced"
        await trio.lowlevel.checkpoint()
        return ["127.0.0.1", "192.0.2.7"]

    monkeypatch.setattr(binds, "resolve", resolver)
    before = own_sockets()
    with pytest.raises(BindRefused):
        await open_listeners("twofaced", 0)
    assert own_sockets() == before


async def test_a_socket_that_is_not_where_it_should_be_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter([None, BindRefused("elsewhere")])

    def check(host: str, addresses: list[str]) -> None:
        error = next(answers)
        if error is not None:
            raise error

    monkeypatch.setattr(binds, "check_bind", check)
    before = own_sockets()
    with pytest.raises(BindRefused, match="elsewhere"):
        await open_listeners("127.0.0.1", 0)
    assert own_sockets() == before


async def test_port_zero_takes_any_free_port() -> None:
    async with listening("127.0.0.1", 0) as first, listening("127.0.0.1", 0) as second:
        [(address, one)], [(_, other)] = binds_of(first), binds_of(second)
    assert address == "127.0.0.1"
    assert one != other
    assert min(one, other) > 0


async def test_one_socket_is_opened_and_no_other() -> None:
    before = own_sockets()
    async with listening("127.0.0.1", 0):
        assert len(own_sockets() - before) == 1
    assert own_sockets() == before


def has_six() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


async def test_localhost_means_one_port_on_loopback_addresses() -> None:
    async with listening("localhost", 0) as listeners:
        found = binds_of(listeners)
    assert {address for address, _ in found} == {"127.0.0.1"} | ({"::1"} if has_six() else set())
    assert len({port for _, port in found}) == 1


async def test_a_given_port_is_taken_or_nothing() -> None:
    with taken() as port:
        before = own_sockets()
        with pytest.raises(PortTaken):
            await open_listeners("127.0.0.1", port)
        assert own_sockets() == before


async def test_who_holds_the_port_is_named() -> None:
    with taken() as port, pytest.raises(PortTaken) as caught:
        await open_listeners("127.0.0.1", port)
    assert f"process {os.getpid()} (" in caught.value.detail
    assert caught.value.fields["port"] == port


async def test_two_daemons_never_share_a_port() -> None:
    async with listening("127.0.0.1", 0) as first:
        [(_, port)] = binds_of(first)
        with pytest.raises(PortTaken):
            await open_listeners("127.0.0.1", port)


async def test_a_port_held_on_every_address_is_not_shared() -> None:
    with taken(address="0.0.0.0") as port, pytest.raises(PortTaken):
        await open_listeners("127.0.0.1", port)


async def test_a_daemon_gets_its_port_back_at_once() -> None:
    async with listening("127.0.0.1", 0) as listeners:
        [(_, port)] = binds_of(listeners)
        async with await trio.open_tcp_stream("127.0.0.1", port):
            await (await listeners[0].accept()).aclose()
    async with listening("127.0.0.1", port) as listeners:
        assert binds_of(listeners) == [("127.0.0.1", port)]


async def test_the_next_port_of_the_range_follows_a_taken_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with taken() as first, taken() as second:
        async with listening("127.0.0.1", 0) as found:
            [(_, free)] = binds_of(found)
        monkeypatch.setattr(binds, "DEFAULT_PORT", first)
        monkeypatch.setattr(binds, "FALLBACK_PORTS", (second, free))
        async with listening("127.0.0.1", None) as listeners:
            assert binds_of(listeners) == [("127.0.0.1", free)]


async def test_a_range_without_a_free_port_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with taken() as first, taken() as second:
        monkeypatch.setattr(binds, "DEFAULT_PORT", first)
        monkeypatch.setattr(binds, "FALLBACK_PORTS", (second,))
        with pytest.raises(PortTaken, match=f"held by process .* every port up to {second}"):
            await open_listeners("127.0.0.1", None)


def test_the_promised_ports() -> None:
    assert DEFAULT_PORT == 31415
    assert list(FALLBACK_PORTS) == list(range(31416, 31426))


@pytest.mark.parametrize("port", [-1, 65536, 10**9])
async def test_what_is_no_port_is_refused(port: int) -> None:
    with pytest.raises(BadRequest):
        await open_listeners("127.0.0.1", port)


async def test_an_address_that_this_machine_lacks_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(binds, "check_bind", lambda host, addresses: None)
    with pytest.raises(BindRefused, match="not an address of this machine"):
        await open_listeners("198.51.100.9", 0)


async def test_resolving_an_impossible_name_is_no_error() -> None:
    assert await resolve("a" * 64 + ".example") == []
    assert await resolve("") == []


async def test_cancelling_leaves_no_socket() -> None:
    before = own_sockets()
    with trio.CancelScope() as scope:
        scope.cancel()
        await open_listeners("127.0.0.1", 0)
    assert scope.cancelled_caught
    assert own_sockets() == before


async def test_a_port_that_this_user_may_not_have_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def forbid(*arguments: object) -> trio.SocketListener:
        await trio.lowlevel.checkpoint()
        raise PermissionError

    monkeypatch.setattr(binds, "_open_one", forbid)
    with pytest.raises(PortTaken, match="port 80 for privileged users"):
        await open_listeners("127.0.0.1", 80)
