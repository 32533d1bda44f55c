"""From a held system call to what is to be asked and what is to be done.

Each deed is planned by one function: it walks to what the caller means, gives the errors that
the kernel would give before it changes anything (they need no decision), and says which
operations on which paths the broker is to be asked about, and what performs them.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from groove_trio.rules.calls import CWD, REMOVE_DIR, Deed, DeedName
from groove_trio.rules.syscalls import FILE_IOCTLS
from groove_trio.shell import perform
from groove_trio.shell.caller import Caller
from groove_trio.shell.reach import (
    Absent,
    Opened,
    Spot,
    of_copy,
    reach_name,
    reach_object,
    reach_path,
)
from groove_trio.words.knocks import Operation

MAX_VALUE: Final = 65_536  # of an extended attribute: XATTR_SIZE_MAX
MAX_NAME: Final = 256  # of its name: XATTR_NAME_MAX and a null byte
MAX_ADDRESS: Final = 128  # struct sockaddr_storage
MICRO: Final = 1_000_000

_SETFLAGS, _SETFLAGS_32, _FSSETXATTR = FILE_IOCTLS[:3]
_IOCTL_SIZES: Final = {_SETFLAGS: 4, _SETFLAGS_32: 4, _FSSETXATTR: 28}

RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
_NO_NAME: Final = {".": errno.EINVAL, "..": errno.ENOTEMPTY, "/": errno.EBUSY}  # as rmdir(2)


@dataclass(slots=True)
class Plan:
    """What is to be asked, and what is to be done when all of it is granted.

    Attributes:
        questions: Operations and where they are done.
        act: Performs it; the descriptor of an open, else None. None: the caller makes the call
            itself.
        waits: Whether it may wait for somebody else: in a thread, where it does not give up
            with `perform.NOT_YET`.
        itself: Whether the caller may make the call itself where the wall lets it: an open in
            its own temporary directory, say.
        flags: Of an open.
    """

    questions: list[tuple[Operation, Spot]]
    act: Callable[[], int | None] | None
    waits: bool = False
    itself: bool = False
    flags: int = 0


PROCEED: Final = Plan([], None)
"""The caller makes the call itself."""


@dataclass(slots=True)
class Held:
    """A caller, what it asks for, and what is open for it while it waits.

    `names` are the abstract addresses that its agent has bound, each with its socket's inode.
    """

    caller: Caller
    deed: Deed
    names: dict[bytes, int]
    opened: Opened = field(default_factory=Opened)

    async def object(self, *, follow: bool = True) -> Spot:
        """What is where the call's first path leads."""
        where = self.deed.paths[0]
        if not where.address and self.caller.flags(where.directory) & os.O_PATH:
            raise _error(errno.EBADF)  # which only stands for a name
        return await reach_object(self.caller, where, self.opened, follow=follow and where.follow)

    async def name(self, index: int = 0) -> Spot:
        """The name that one of the call's paths is."""
        return await reach_name(self.caller, self.deed.paths[index], self.opened)

    def number(self, index: int) -> int:
        """One of the deed's values."""
        value = self.deed.values[index]
        assert isinstance(value, int)
        return value

    def copy(self) -> int:
        """A copy of the descriptor that the call is about."""
        return self.opened.keep(self.caller.descriptor(self.deed.paths[0].directory))


async def plan(held: Held) -> Plan:
    """Plans what a caller asks for.

    Raises:
        OSError: The error that it gets without being decided on.
    """
    return await _PLANS[held.deed.name](held)


async def _open(held: Held) -> Plan:
    flags = held.number(0)
    if flags & os.O_PATH:
        return PROCEED
    if flags & os.O_TMPFILE == os.O_TMPFILE:
        raise _error(errno.EOPNOTSUPP)  # as some file systems do; programs then use a name
    creates = bool(flags & os.O_CREAT)
    if creates and flags & os.O_DIRECTORY:
        raise _error(errno.EINVAL)
    follow = not (flags & os.O_NOFOLLOW or (creates and flags & os.O_EXCL))
    try:
        spot = await held.object(follow=follow)
    except Absent as absent:
        if not creates:
            raise
        return _create(held, absent.spot)
    except OSError as error:
        if creates and (await held.name()).slash:
            raise _error(errno.EISDIR) from error  # whatever the slash is behind
        raise
    _check_open(spot, flags)
    if not flags & (os.O_ACCMODE | os.O_TRUNC):
        return PROCEED  # there is nothing to create, so it is a read
    act = partial(perform.open_existing, spot, flags)
    return Plan([("write", spot)], act, itself=True, flags=flags)


def _create(held: Held, spot: Spot) -> Plan:
    """An open of what is not there: the last name is new, or a link to what is new."""
    flags, mode = held.number(0), held.number(1)
    if spot.slash:
        raise _error(errno.EISDIR)
    _missing(spot)
    act = partial(perform.open_new, spot, flags, mode, held.caller.umask())
    return Plan([("create", spot)], act, itself=True, flags=flags)


def _check_open(spot: Spot, flags: int) -> None:
    """The errors of opening what is there, in the kernel's order."""
    if flags & os.O_CREAT:
        if spot.slash:
            raise _error(errno.EISDIR)
        if flags & os.O_EXCL:
            raise _error(errno.EEXIST)
        if spot.is_directory:
            raise _error(errno.EISDIR)
    if not spot.is_directory and (spot.slash or flags & os.O_DIRECTORY):
        raise _error(errno.ENOTDIR)
    if spot.is_link:
        raise _error(errno.ELOOP)
    if spot.is_directory:
        raise _error(errno.EISDIR)
    if spot.mode is not None and stat.S_ISSOCK(spot.mode) and not spot.nameless:
        raise _error(errno.ENXIO)


async def _truncate(held: Held) -> Plan:
    length = held.number(0)
    if length >= 1 << 63:
        raise _error(errno.EINVAL)
    spot = await held.object()
    if spot.is_directory:
        raise _error(errno.EISDIR)
    if spot.mode is None or not stat.S_ISREG(spot.mode):
        raise _error(errno.EINVAL)
    return Plan([("write", spot)], partial(perform.truncate, spot, length))


async def _mkdir(held: Held) -> Plan:
    spot = _missing(await held.name())
    mask = held.caller.umask()
    return Plan([("create", spot)], partial(perform.make_directory, spot, held.number(0), mask))


async def _mknod(held: Held) -> Plan:
    spot = _missing(await held.name())
    if spot.slash:
        raise _error(errno.ENOENT)
    mask = held.caller.umask()
    act = partial(perform.make_node, spot, held.number(0), held.number(1), mask)
    return Plan([("create", spot)], act)


async def _symlink(held: Held) -> Plan:
    target = held.caller.text(held.number(0))
    if not target:
        raise _error(errno.ENOENT)
    spot = _missing(await held.name())
    if spot.slash:
        raise _error(errno.ENOENT)
    return Plan([("create", spot)], partial(perform.symlink, target, spot))


async def _unlink(held: Held) -> Plan:
    spot = await held.name()
    directory = bool(held.number(0) & REMOVE_DIR)
    if not spot.is_name:
        raise _error(_NO_NAME[spot.name] if directory else errno.EISDIR)
    _existing(spot)
    if directory and not spot.is_directory:
        raise _error(errno.ENOTDIR)
    if not directory and spot.is_directory:
        raise _error(errno.EISDIR)
    return Plan([("delete", spot)], partial(perform.remove, spot, directory=directory))


async def _rename(held: Held) -> Plan:
    flags = held.number(0)
    exclusive = flags & RENAME_EXCHANGE and flags & (RENAME_NOREPLACE | RENAME_WHITEOUT)
    if exclusive or flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT):
        raise _error(errno.EINVAL)
    old, new = await held.name(0), await held.name(1)
    _check_rename(old, new, flags)
    return Plan([("rename", old), ("rename", new)], partial(perform.rename, old, new, flags))


def _check_rename(old: Spot, new: Spot, flags: int) -> None:
    """The errors before a rename, in the kernel's order."""
    if old.device != new.device:
        raise _error(errno.EXDEV)
    if not old.is_name:
        raise _error(errno.EBUSY)
    if not new.is_name:
        raise _error(errno.EEXIST if flags & RENAME_NOREPLACE else errno.EBUSY)
    if old.mode is None:
        raise _error(errno.ENOENT)
    if flags & RENAME_NOREPLACE and new.mode is not None:
        raise _error(errno.EEXIST)
    exchange = flags & RENAME_EXCHANGE
    if exchange:
        _existing(new)
    if not old.is_directory and (old.slash or (new.slash and not exchange)):
        raise _error(errno.ENOTDIR)
    if new.path.startswith(f"{old.path}/"):
        raise _error(errno.EINVAL)
    if old.path.startswith(f"{new.path}/"):
        raise _error(errno.EINVAL if exchange else errno.ENOTEMPTY)


async def _link(held: Held) -> Plan:
    old = await held.object()
    new = _missing(await held.name(1))
    if old.nameless or new.slash:
        raise _error(errno.ENOENT)
    if old.device != new.device:
        raise _error(errno.EXDEV)
    # Whoever can write the new name can write the file, under all of its names.
    return Plan([("write", old), ("create", new)], partial(perform.link, old, new))


async def _chmod(held: Held) -> Plan:
    spot = await held.object()
    return Plan([("metadata", spot)], partial(perform.change_mode, spot, held.number(0)))


async def _chown(held: Held) -> Plan:
    spot = await held.object()
    act = partial(perform.change_owner, spot, held.number(0), held.number(1))
    return Plan([("metadata", spot)], act)


async def _utime(held: Held) -> Plan:
    times = _times(held)
    spot = await held.object()
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
        raise _error(errno.EINVAL)
    return struct.pack("=qqqq", a, a_micro * 1000, c, c_micro * 1000)


async def _setxattr(held: Held) -> Plan:
    name_at, value_at, size, flags = (held.number(index) for index in range(4))
    if size > MAX_VALUE:
        raise _error(errno.E2BIG)
    name = os.fsencode(held.caller.text(name_at, MAX_NAME))
    value = held.caller.data(value_at, size) if size else b""
    spot = await held.object()
    return Plan([("metadata", spot)], partial(perform.set_attribute, spot, name, value, flags))


async def _removexattr(held: Held) -> Plan:
    name = os.fsencode(held.caller.text(held.number(0), MAX_NAME))
    spot = await held.object()
    return Plan([("metadata", spot)], partial(perform.remove_attribute, spot, name))


async def _ioctl(held: Held) -> Plan:
    command, address = held.number(0), held.number(1)
    size = _IOCTL_SIZES.get(command)
    if size is None:
        raise _error(errno.EPERM)
    value = held.caller.data(address, size)
    # Asked about is the copy: what the caller's number means may change while we look.
    descriptor = held.copy()
    act = partial(perform.control, descriptor, command, value)
    return Plan([("metadata", of_copy(descriptor))], act)


async def _connect(held: Held) -> Plan:
    address = _address(held)
    descriptor = held.copy()
    waits = os.get_blocking(descriptor)
    if _domain(descriptor) != socket.AF_UNIX or not _is_unix(address):
        return Plan([], partial(perform.connect, descriptor, address), waits=waits)
    if address[2:3] == b"\0":
        if not _is_bound(held.names.get(address[2:])):
            raise _error(errno.ECONNREFUSED)  # nobody of this agent's listens there
        return Plan([], partial(perform.connect, descriptor, address), waits=waits)
    path = os.fsdecode(address[2:].split(b"\0", 1)[0])
    spot = _existing(await reach_path(held.caller, CWD, path, held.opened, follow=True))
    if spot.mode is None or not stat.S_ISSOCK(spot.mode):
        raise _error(errno.ECONNREFUSED)
    return Plan([("write", spot)], partial(perform.connect_path, descriptor, spot), waits=waits)


async def _bind(held: Held) -> Plan:
    address = _address(held)
    descriptor = held.copy()
    if _domain(descriptor) != socket.AF_UNIX or not _is_unix(address):
        return PROCEED  # should it become a UNIX socket's meanwhile, the wall is in its way
    if address[2:3] in {b"", b"\0"}:
        return Plan([], partial(_bind_abstract, held, descriptor, address))
    path = os.fsdecode(address[2:].split(b"\0", 1)[0])
    spot = await reach_path(held.caller, CWD, path, held.opened, follow=False)
    if spot.mode is not None:
        raise _error(errno.EADDRINUSE)
    act = partial(perform.bind_path, descriptor, spot, held.caller.umask())
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
        raise _error(errno.EINVAL)
    return held.caller.data(address, size)


def _is_unix(address: bytes) -> bool:
    return address[:2] == struct.pack("=H", socket.AF_UNIX)


def _domain(descriptor: int) -> int:
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        raise _error(errno.ENOTSOCK)
    copy = socket.socket(socket.AF_UNIX, fileno=descriptor)  # told one, it asks for none
    try:
        return copy.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN)
    finally:
        copy.detach()


async def _leave(_: Held) -> Plan:
    return PROCEED


async def _steer(held: Held) -> Plan:
    if not held.caller.steers(held.number(0), held.number(1)):
        raise _error(errno.EPERM)
    return PROCEED


def _existing(spot: Spot) -> Spot:
    if spot.mode is None:
        raise _error(errno.ENOENT)
    if spot.slash and not spot.is_directory:
        raise _error(errno.ENOTDIR)
    return spot


def _missing(spot: Spot) -> Spot:
    if spot.mode is not None:
        raise _error(errno.EEXIST)
    return spot


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


_PLANS: Final[dict[DeedName, Callable[[Held], Awaitable[Plan]]]] = {
    "open": _open,
    "truncate": _truncate,
    "mkdir": _mkdir,
    "mknod": _mknod,
    "unlink": _unlink,
    "rename": _rename,
    "link": _link,
    "symlink": _symlink,
    "chmod": _chmod,
    "chown": _chown,
    "utime": _utime,
    "setxattr": _setxattr,
    "removexattr": _removexattr,
    "ioctl": _ioctl,
    "connect": _connect,
    "bind": _bind,
    "leave": _leave,
    "steer": _steer,
}
