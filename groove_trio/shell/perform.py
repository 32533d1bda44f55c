"""Performs what was granted, on descriptors, as the caller could have done it itself.

Nothing here looks a path up: a directory is a descriptor and a name is one name, opened without
following a link. So what was decided on is what is worked on, whatever is renamed meanwhile.

A daemon that root runs performs without its capabilities, which the caller does not have
either (`aside.Unprivileged`); all other credentials are the same. What a file creation mask takes
away is the caller's, not the daemon's.

Every failure is the error number that the call gets, raised as `OSError`. Each function blocks
for the file system, and for nothing else: opens do not wait for a FIFO's reader or for somebody
to give up a lease.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Generator
from contextlib import contextmanager

from groove_trio.rules.calls import CWD, EMPTY_PATH, FOLLOW
from groove_trio.shell.reach import Spot

_libc = ctypes.CDLL(None, use_errno=True)
_libc.renameat2.argtypes = (
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint,
)
_libc.utimensat.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int)
_libc.fchownat.argtypes = (
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint,
    ctypes.c_uint,
    ctypes.c_int,
)
_libc.linkat.argtypes = (
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
)

_libc.connect.argtypes = _libc.bind.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)

_SET_FLAGS = os.O_APPEND | os.O_DIRECT | os.O_NOATIME | os.O_ASYNC
_UNIX_PATH = 108  # unix(7)
_NEVER = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_ALWAYS = os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


def umask() -> int:
    """Our own file creation mask, read without changing it."""
    with open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"Umask:"):
                return int(line[6:], 8)
    return 0o777  # not told: everything created is then given its mode explicitly


OUR_UMASK = umask()


def open_existing(spot: Spot, flags: int) -> int:
    """Opens what is there. EWOULDBLOCK: somebody has a lease on it; ENXIO: a FIFO nobody reads."""
    wanted = (flags & ~_NEVER) | _ALWAYS
    descriptor = os.open(f"/proc/self/fd/{spot.itself}", wanted)
    return _opened(descriptor, flags)


def open_new(spot: Spot, flags: int, mode: int, mask: int) -> int:
    """Creates a file and opens it. EEXIST: there is something by now."""
    wanted = flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | _ALWAYS
    mode &= ~mask
    descriptor = os.open(spot.name, wanted, mode, dir_fd=spot.parent)
    if mode & OUR_UMASK:
        os.fchmod(descriptor, mode)
    return _opened(descriptor, flags)


def _opened(descriptor: int, flags: int) -> int:
    if not flags & os.O_NONBLOCK:
        try:
            fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & _SET_FLAGS)
        except OSError:
            os.close(descriptor)
            raise
    return descriptor


def truncate(spot: Spot, length: int) -> None:
    """Sets the length of a file."""
    descriptor = open_existing(spot, os.O_WRONLY)
    try:
        os.ftruncate(descriptor, length)
    finally:
        os.close(descriptor)


def make_directory(spot: Spot, mode: int, mask: int) -> None:
    """Creates a directory."""
    mode &= ~mask & 0o1777  # as mkdir(2): the set-user and set-group bits are ignored
    os.mkdir(spot.name, mode, dir_fd=spot.parent)
    _complete(spot, mode)


def make_node(spot: Spot, mode: int, device: int, mask: int) -> None:
    """Creates a file, FIFO or socket; a device, which takes a capability, fails."""
    mode = stat.S_IFMT(mode) | (stat.S_IMODE(mode) & ~mask)
    os.mknod(spot.name, mode, device, dir_fd=spot.parent)
    _complete(spot, stat.S_IMODE(mode))


def _complete(spot: Spot, mode: int) -> None:
    """Gives what was just created what our own mask took away."""
    if mode & OUR_UMASK:
        with _object(spot) as path:
            os.chmod(path, mode | (os.stat(path).st_mode & 0o7000))  # a group that it inherited


def remove(spot: Spot, *, directory: bool) -> None:
    """Removes a name, or an empty directory."""
    (os.rmdir if directory else os.unlink)(spot.name, dir_fd=spot.parent)


def rename(old: Spot, new: Spot, flags: int) -> None:
    """Renames, replaces, or exchanges two names, by the flags of renameat2(2)."""
    _check(_libc.renameat2(old.parent, _name(old), new.parent, _name(new), flags))


def link(old: Spot, new: Spot) -> None:
    """Gives a file a further name; a link that was not followed is itself linked."""
    path = f"/proc/self/fd/{old.itself}".encode()
    _check(_libc.linkat(CWD, path, new.parent, _name(new), FOLLOW))


def symlink(target: str, spot: Spot) -> None:
    """Creates a link; where it leads is looked at when somebody goes there."""
    os.symlink(target, spot.name, dir_fd=spot.parent)


def change_mode(spot: Spot, mode: int) -> None:
    """Sets the permission bits. EOPNOTSUPP: of a link, which has none."""
    if spot.is_link:
        raise _error(errno.EOPNOTSUPP)
    with _object(spot) as path:
        os.chmod(path, mode)


def change_owner(spot: Spot, user: int, group: int) -> None:
    """Sets user and group; -1 leaves one as it is."""
    low = 0xFFFFFFFF
    with _opened_object(spot) as descriptor:
        _check(_libc.fchownat(descriptor, b"", user & low, group & low, EMPTY_PATH))


def change_times(spot: Spot, times: bytes | None) -> None:
    """Sets both times, given as two ``struct timespec``; None is now."""
    with _opened_object(spot) as descriptor:
        _check(_libc.utimensat(descriptor, b"", times, EMPTY_PATH))


def set_attribute(spot: Spot, name: bytes, value: bytes, flags: int) -> None:
    """Sets an extended attribute."""
    with _object(spot) as path:
        os.setxattr(path, name, value, flags)


def remove_attribute(spot: Spot, name: bytes) -> None:
    """Removes an extended attribute."""
    with _object(spot) as path:
        os.removexattr(path, name)


def control(descriptor: int, command: int, value: bytes) -> None:
    """Performs an ioctl that takes a value and gives none back."""
    fcntl.ioctl(descriptor, command, value)


def connect(descriptor: int, address: bytes) -> None:
    """Connects a socket to an address as the kernel takes it. May wait if the socket does."""
    _check(_libc.connect(descriptor, address, len(address)))


def connect_path(descriptor: int, spot: Spot) -> None:
    """Connects a UNIX socket to the one that stands at a name. May wait if the socket does."""
    with _object(spot) as path:
        connect(descriptor, _unix(path))


def bind(descriptor: int, address: bytes) -> None:
    """Binds a socket to an address as the kernel takes it."""
    _check(_libc.bind(descriptor, address, len(address)))


def bind_path(descriptor: int, spot: Spot, mask: int) -> None:
    """Creates a name for a UNIX socket; getsockname(2) will tell of our way to it."""
    bind(descriptor, _unix(f"/proc/self/fd/{spot.parent}/{spot.name}"))
    with _object(spot) as path:
        os.chmod(path, 0o777 & ~mask)


def _unix(path: str) -> bytes:
    name = os.fsencode(path)
    if len(name) >= _UNIX_PATH:
        raise _error(errno.ENAMETOOLONG)
    return struct.pack("=H", socket.AF_UNIX) + name + b"\0"


@contextmanager
def _opened_object(spot: Spot) -> Generator[int]:
    """An O_PATH descriptor of the very thing."""
    if spot.itself >= 0:
        yield spot.itself
        return
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(spot.name, flags, dir_fd=spot.parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _object(spot: Spot) -> Generator[str]:
    """A path that leads to the very thing, for calls that take no descriptor."""
    with _opened_object(spot) as descriptor:
        told = os.fstat(descriptor).st_mode
        if spot.mode is not None and stat.S_IFMT(told) != stat.S_IFMT(spot.mode):
            raise _error(errno.EACCES)  # it was swapped for something of another kind
        yield f"/proc/self/fd/{descriptor}"


def _name(spot: Spot) -> bytes:
    return os.fsencode(spot.name)


def _check(result: int) -> None:
    if result < 0:
        raise _error(ctypes.get_errno())


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
