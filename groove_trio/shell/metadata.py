"""Deeds that change what is told of a file, not what is in it: mode, owner, times, attributes."""

from __future__ import annotations

import errno
import os
import struct
from functools import partial
from typing import Final

from groove_trio.rules.syscalls import FILE_IOCTLS
from groove_trio.shell import perform
from groove_trio.shell.held import Held, Plan, failure
from groove_trio.shell.reach import of_copy

MAX_VALUE: Final = 65_536  # of an extended attribute: XATTR_SIZE_MAX
MAX_NAME: Final = 256  # of its name: XATTR_NAME_MAX and a null byte
MICRO: Final = 1_000_000

_SETFLAGS, _SETFLAGS_32, _FSSETXATTR = FILE_IOCTLS[:3]
_IOCTL_SIZES: Final = {_SETFLAGS: 4, _SETFLAGS_32: 4, _FSSETXATTR: 28}


def chmod(held: Held) -> Plan:
    """Sets the permission bits."""
    spot = held.object()
    return Plan([("metadata", spot)], partial(perform.change_mode, spot, held.number(0)))


def chown(held: Held) -> Plan:
    """Sets user and group."""
    spot = held.object()
    act = partial(perform.change_owner, spot, held.number(0), held.number(1))
    return Plan([("metadata", spot)], act)


def utime(held: Held) -> Plan:
    """Sets the times."""
    times = _times(held)
    spot = held.object()
    return Plan([("metadata", spot)], partial(perform.change_times, spot, times))


def _times(held: Held) -> bytes | None:
    """What the caller's times come to as two ``struct timespec``."""
    address, layout = held.number(0), held.deed.values[1]
    if not address:
        return None
    if layout == "timespec":
        return held.caller.data(address, 32)
    if layout == "utimbuf":
        access, change = struct.unpack("=qq", held.caller.data(address, 16))
        return struct.pack("=qqqq", access, 0, change, 0)
    a, a_micro, c, c_micro = struct.unpack("=qqqq", held.caller.data(address, 32))
    if not (0 <= a_micro < MICRO and 0 <= c_micro < MICRO):
        raise failure(errno.EINVAL)
    return struct.pack("=qqqq", a, a_micro * 1000, c, c_micro * 1000)


def setxattr(held: Held) -> Plan:
    """Sets an extended attribute."""
    name_at, value_at, size, flags = (held.number(index) for index in range(4))
    if size > MAX_VALUE:
        raise failure(errno.E2BIG)
    name = os.fsencode(held.caller.text(name_at, MAX_NAME))
    value = held.caller.data(value_at, size) if size else b""
    spot = held.object()
    return Plan([("metadata", spot)], partial(perform.set_attribute, spot, name, value, flags))


def removexattr(held: Held) -> Plan:
    """Removes an extended attribute."""
    name = os.fsencode(held.caller.text(held.number(0), MAX_NAME))
    spot = held.object()
    return Plan([("metadata", spot)], partial(perform.remove_attribute, spot, name))


def ioctl(held: Held) -> Plan:
    """Sets a file's flags."""
    command, address = held.number(0), held.number(1)
    size = _IOCTL_SIZES.get(command)
    if size is None:
        raise failure(errno.EPERM)
    value = held.caller.data(address, size)
    # Asked about is the copy: what the caller's number means may change while we look.
    descriptor = held.copy()
    act = partial(perform.control, descriptor, command, value)
    return Plan([("metadata", of_copy(descriptor))], act)
