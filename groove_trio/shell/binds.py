"""Where the daemon listens: the bind policy, the default port and what follows when it is taken."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Sequence

import trio
import trio.socket

from groove_trio.rules.admission import DEFAULT_PORT, FALLBACK_PORTS, LOCALHOST, check_bind
from groove_trio.shell.holders import port_holder
from groove_trio.words.errors import BadRequest, BindRefused, PortTaken, shown

MAX_PORT = 65535  # sixteen bits; RFC 9293, section 3.1

ANY_PORT_DRAWS = 8  # a port that is free on one address may be taken on the other

BACKLOG = 1024  # well over the connection cap; the kernel's own limit (somaxconn) is 4096

_NOT_ON_THIS_MACHINE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})

_PLAIN = re.compile(r"\A[A-Za-z0-9._:%-]+\Z")


async def open_listeners(host: str, port: int | None) -> list[trio.SocketListener]:
    """Opens the daemon's listening sockets: one port, on loopback addresses only.

    Nothing is bound before the policy has seen every address that `host` resolves to, and
    what each socket says of itself after binding is checked once more.

    Args:
        host: A loopback address or a name for one.
        port: None tries 31415 and then 31416 to 31425; 0 takes any free port; another number
            takes that port or fails.

    Returns:
        One listener for each address of `host`, usually one, all with the same port number.

    Raises:
        BindRefused: `host` is not loopback, or names nothing.
        PortTaken: No port asked for is free; ``holder`` says who has it, where that is known.
        BadRequest: `port` is not a port number.
    """
    addresses = await permitted(host, port)
    for candidate in _candidates(port):
        try:
            return await _open_all(host, addresses, candidate)
        except PermissionError as error:
            raise PortTaken(f"The system keeps port {candidate} for privileged users.") from error
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise await _port_taken(_candidates(port))


async def permitted(host: str, port: int | None) -> list[str]:
    """The addresses that `host` stands for, if the daemon may listen there. Opens nothing.

    Raises:
        BindRefused: `host` is not loopback, or names nothing.
        BadRequest: `port` is not a port number.
    """
    if port is not None and not 0 <= port <= MAX_PORT:
        raise BadRequest(f"{port} is not a port; the largest is {MAX_PORT}.", field="port")
    addresses = await resolve(host)
    check_bind(host, addresses)
    return addresses


def _candidates(port: int | None) -> Sequence[int]:
    if port is None:
        return (DEFAULT_PORT, *FALLBACK_PORTS)
    # Any free port of the first address may be taken on the second: then another draw.
    return (port,) if port else (0,) * ANY_PORT_DRAWS


async def resolve(host: str) -> list[str]:
    """All numeric addresses of `host`, each once; none for what is no name and no address.

    ``localhost`` is both loopback addresses, also where a hosts file knows of one alone: only who
    holds both is asked for by that name. The C library reads some spellings in ways of its own
    (``*`` is every interface, an empty name is whatever the caller's flags say), so only plain
    names and addresses reach it.
    """
    if not _PLAIN.match(host):
        return []
    if host == "localhost":
        return list(LOCALHOST)
    numeric = trio.socket.AI_NUMERICHOST if ":" in host else 0
    try:
        found = await trio.socket.getaddrinfo(host, 0, type=trio.socket.SOCK_STREAM, flags=numeric)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


async def _open_all(host: str, addresses: Sequence[str], port: int) -> list[trio.SocketListener]:
    """Binds `port` on every address, or on none.

    A name may stand for an address that this machine lacks (``::1`` without IPv6); that one
    is left out as long as another remains.
    """
    listeners: list[trio.SocketListener] = []
    missing: OSError | None = None
    try:
        for address in addresses:
            try:
                listeners.append(await _open_one(host, address, port))
            except OSError as error:
                if error.errno not in _NOT_ON_THIS_MACHINE:
                    raise
                missing = error
            else:
                port = port or listeners[0].socket.getsockname()[1]
    except BaseException:
        _close(listeners)
        raise
    if not listeners:
        raise BindRefused(f"{shown(host)} is not an address of this machine.") from missing
    return listeners


async def _open_one(host: str, address: str, port: int) -> trio.SocketListener:
    family = trio.socket.AF_INET6 if ":" in address else trio.socket.AF_INET
    sock = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    try:
        # Lets a restarted daemon have its port back while old connections linger. On Linux two
        # listening sockets never share a port by it: the second gets EADDRINUSE. SO_REUSEPORT
        # would let two daemons, or a squatter of the same user, share one; it is not set.
        sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
        if family == trio.socket.AF_INET6:
            sock.setsockopt(trio.socket.IPPROTO_IPV6, trio.socket.IPV6_V6ONLY, 1)
        await sock.bind((address, port))
        check_bind(host, [sock.getsockname()[0]])
        sock.listen(BACKLOG)
        return trio.SocketListener(sock)
    except BaseException:
        sock.close()
        raise


def binds_of(listeners: Iterable[trio.SocketListener]) -> list[tuple[str, int]]:
    """Address and port of each listener, as the kernel has them."""
    return [listener.socket.getsockname()[:2] for listener in listeners]


def _close(listeners: Iterable[trio.SocketListener]) -> None:
    for listener in listeners:
        listener.socket.close()


async def _port_taken(ports: Sequence[int]) -> PortTaken:
    if ports[0] == 0:
        return PortTaken("There is no free port.")
    holder = await trio.to_thread.run_sync(port_holder, ports[0])
    held = f"Port {ports[0]} is held by {holder}" if holder else f"Port {ports[0]} is taken"
    tried = f", and so is every port up to {ports[-1]} taken" if len(ports) > 1 else ""
    return PortTaken(
        f"{held}{tried}. Stop that program, or choose another port.",
        port=ports[0],
        holder=holder,
    )
