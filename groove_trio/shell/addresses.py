"""Deeds on sockets: connecting them, and giving them a name."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from functools import partial
from typing import Final

from groove_trio.rules.calls import CWD
from groove_trio.shell import perform
from groove_trio.shell.held import PROCEED, Held, Plan, existing, failure
from groove_trio.shell.reach import reach_path

MAX_ADDRESS: Final = 128  # struct sockaddr_storage


def connect(held: Held) -> Plan:
    """Connects a socket, in the caller's place."""
    address = _address(held)
    descriptor = held.copy()
    waits = os.get_blocking(descriptor)
    if _domain(descriptor) != socket.AF_UNIX or not _is_unix(address):
        return Plan([], partial(perform.connect, descriptor, address), waits=waits)
    if address[2:3] == b"\0":
        if not _is_bound(held.names.get(address[2:])):
            raise failure(errno.ECONNREFUSED)  # nobody of this agent's listens there
        return Plan([], partial(perform.connect, descriptor, address), waits=waits)
    path = os.fsdecode(address[2:].split(b"\0", 1)[0])
    spot = existing(reach_path(held.caller, CWD, path, held.opened, follow=True))
    if spot.mode is None or not stat.S_ISSOCK(spot.mode):
        raise failure(errno.ECONNREFUSED)
    return Plan([("write", spot)], partial(perform.connect_path, descriptor, spot), waits=waits)


def bind(held: Held) -> Plan:
    """Gives a socket an address."""
    address = _address(held)
    descriptor = held.copy()
    if _domain(descriptor) != socket.AF_UNIX or not _is_unix(address):
        return PROCEED  # should it become a UNIX socket's meanwhile, the wall is in its way
    if address[2:3] in {b"", b"\0"}:
        return Plan([], partial(_bind_abstract, held, descriptor, address))
    path = os.fsdecode(address[2:].split(b"\0", 1)[0])
    spot = reach_path(held.caller, CWD, path, held.opened, follow=False)
    if spot.mode is not None:
        raise failure(errno.EADDRINUSE)
    act = partial(perform.bind_path, descriptor, spot, held.mask())
    return Plan([("create", spot)], act, itself=True)


def _bind_abstract(held: Held, descriptor: int, address: bytes) -> None:
    perform.bind(descriptor, address)
    if len(address) > 2:  # noqa: PLR2004 - the family; alone, it asks for any free name
        held.names[address[2:]] = os.fstat(descriptor).st_ino


def _is_bound(inode: int | None) -> bool:
    """Whether a socket is there still: as long as it is, its name is nobody else's."""
    if inode is None:
        return False
    with open("/proc/net/unix", "rb") as file:  # its columns: proc_net(5)
        return any(line.split()[6:7] == [b"%d" % inode] for line in file)


def _address(held: Held) -> bytes:
    address, size = held.number(0), held.number(1)
    if size > MAX_ADDRESS:
        raise failure(errno.EINVAL)
    return held.caller.data(address, size)


def _is_unix(address: bytes) -> bool:
    return address[:2] == struct.pack("=H", socket.AF_UNIX)


def _domain(descriptor: int) -> int:
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        raise failure(errno.ENOTSOCK)
    copy = socket.socket(socket.AF_UNIX, fileno=descriptor)  # told one, it asks for none
    try:
        return copy.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN)
    finally:
        copy.detach()
