"""From a held system call to what is to be asked and what is to be done.

Each deed is planned by one function: it walks to what the caller means, gives the errors that
the kernel would give before it changes anything (they need no decision), and says which
operations on which paths the broker is to be asked about, and what performs them.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from functools import partial
from typing import Final

from groove_trio.rules.calls import REMOVE_DIR, DeedName
from groove_trio.shell import addresses, metadata, perform
from groove_trio.shell.held import PROCEED, Held, Plan, existing, failure, missing
from groove_trio.shell.reach import Absent, Spot

RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
_NO_NAME: Final = {".": errno.EINVAL, "..": errno.ENOTEMPTY, "/": errno.EBUSY}  # as rmdir(2)


def plan(held: Held) -> Plan:
    """Plans what a caller asks for.

    Raises:
        OSError: The error that it gets without being decided on.
    """
    return _PLANS[held.deed.name](held)


def _open(held: Held) -> Plan:
    flags = held.number(0)
    if flags & os.O_PATH:
        return PROCEED
    if flags & os.O_TMPFILE == os.O_TMPFILE:
        raise failure(errno.EOPNOTSUPP)  # as some file systems do; programs then use a name
    creates = bool(flags & os.O_CREAT)
    if creates and flags & os.O_DIRECTORY:
        raise failure(errno.EINVAL)
    if creates and flags & os.O_EXCL:
        return _create(held, held.name())
    try:
        spot = held.object(follow=not flags & os.O_NOFOLLOW)
    except Absent as absent:
        if not creates:
            raise
        return _create(held, absent.spot)
    except OSError as error:
        fault = error
    else:
        return _of_existing(spot, flags)
    if creates and held.name().slash:
        raise failure(errno.EISDIR) from fault  # whatever the slash is behind
    raise fault


def _of_existing(spot: Spot, flags: int) -> Plan:
    """An open of what is there."""
    _check_open(spot, flags)
    if not flags & (os.O_ACCMODE | os.O_TRUNC):
        return PROCEED  # there is nothing to create, so it is a read
    act = partial(perform.open_existing, spot, flags)
    return Plan([("write", spot)], act, itself=True, flags=flags)


def _create(held: Held, spot: Spot) -> Plan:
    """An open of what is not there: the last name is new, or a link to what is new."""
    flags, mode = held.number(0), held.number(1)
    if spot.slash:
        raise failure(errno.EISDIR)
    missing(spot)
    act = partial(perform.open_new, spot, flags, mode, held.mask())
    return Plan([("create", spot)], act, itself=True, flags=flags)


def _check_open(spot: Spot, flags: int) -> None:
    """The errors of opening what is there, in the kernel's order."""
    assert spot.mode is not None
    kind = stat.S_IFMT(spot.mode)
    if flags & os.O_CREAT:
        if spot.slash:
            raise failure(errno.EISDIR)
    elif kind != stat.S_IFDIR and (spot.slash or flags & os.O_DIRECTORY):
        raise failure(errno.ENOTDIR)
    if kind == stat.S_IFREG:
        return
    if kind == stat.S_IFLNK:
        raise failure(errno.ELOOP)
    if kind == stat.S_IFDIR:
        raise failure(errno.EISDIR)
    if kind == stat.S_IFSOCK and not spot.nameless:
        raise failure(errno.ENXIO)


def _truncate(held: Held) -> Plan:
    length = held.number(0)
    if length >= 1 << 63:
        raise failure(errno.EINVAL)
    spot = held.object()
    if spot.is_directory:
        raise failure(errno.EISDIR)
    if spot.mode is None or not stat.S_ISREG(spot.mode):
        raise failure(errno.EINVAL)
    return Plan([("write", spot)], partial(perform.truncate, spot, length))


def _mkdir(held: Held) -> Plan:
    spot = missing(held.name())
    mask = held.mask()
    return Plan([("create", spot)], partial(perform.make_directory, spot, held.number(0), mask))


def _mknod(held: Held) -> Plan:
    spot = missing(held.name())
    if spot.slash:
        raise failure(errno.ENOENT)
    mask = held.mask()
    act = partial(perform.make_node, spot, held.number(0), held.number(1), mask)
    return Plan([("create", spot)], act)


def _symlink(held: Held) -> Plan:
    target = held.caller.text(held.number(0))
    if not target:
        raise failure(errno.ENOENT)
    spot = missing(held.name())
    if spot.slash:
        raise failure(errno.ENOENT)
    return Plan([("create", spot)], partial(perform.symlink, target, spot))


def _unlink(held: Held) -> Plan:
    spot = held.name()
    directory = bool(held.number(0) & REMOVE_DIR)
    if not spot.is_name:
        raise failure(_NO_NAME[spot.name] if directory else errno.EISDIR)
    existing(spot)
    if directory and not spot.is_directory:
        raise failure(errno.ENOTDIR)
    if not directory and spot.is_directory:
        raise failure(errno.EISDIR)
    return Plan([("delete", spot)], partial(perform.remove, spot, directory=directory))


def _rename(held: Held) -> Plan:
    flags = held.number(0)
    exclusive = flags & RENAME_EXCHANGE and flags & (RENAME_NOREPLACE | RENAME_WHITEOUT)
    if exclusive or flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT):
        raise failure(errno.EINVAL)
    old, new = held.name(0), held.name(1)
    _check_rename(old, new, flags)
    return Plan([("rename", old), ("rename", new)], partial(perform.rename, old, new, flags))


def _check_rename(old: Spot, new: Spot, flags: int) -> None:
    """The errors before a rename, in the kernel's order."""
    if old.device != new.device:
        raise failure(errno.EXDEV)
    if not old.is_name:
        raise failure(errno.EBUSY)
    if not new.is_name:
        raise failure(errno.EEXIST if flags & RENAME_NOREPLACE else errno.EBUSY)
    if old.mode is None:
        raise failure(errno.ENOENT)
    if flags & RENAME_NOREPLACE and new.mode is not None:
        raise failure(errno.EEXIST)
    exchange = flags & RENAME_EXCHANGE
    if exchange:
        existing(new)
    if not old.is_directory and (old.slash or (new.slash and not exchange)):
        raise failure(errno.ENOTDIR)
    if new.path.startswith(f"{old.path}/"):
        raise failure(errno.EINVAL)
    if old.path.startswith(f"{new.path}/"):
        raise failure(errno.EINVAL if exchange else errno.ENOTEMPTY)


def _link(held: Held) -> Plan:
    old = held.object()
    new = missing(held.name(1))
    if old.nameless or new.slash:
        raise failure(errno.ENOENT)
    if old.device != new.device:
        raise failure(errno.EXDEV)
    # Whoever can write the new name can write the file, under all of its names.
    return Plan([("write", old), ("create", new)], partial(perform.link, old, new))


def _leave(_: Held) -> Plan:
    return PROCEED


def _mask(held: Held) -> Plan:
    held.masks.changes()
    return PROCEED


def _steer(held: Held) -> Plan:
    if not held.caller.steers(held.number(0), held.number(1)):
        raise failure(errno.EPERM)
    return PROCEED


_PLANS: Final[dict[DeedName, Callable[[Held], Plan]]] = {
    "open": _open,
    "truncate": _truncate,
    "mkdir": _mkdir,
    "mknod": _mknod,
    "unlink": _unlink,
    "rename": _rename,
    "link": _link,
    "symlink": _symlink,
    "chmod": metadata.chmod,
    "chown": metadata.chown,
    "utime": metadata.utime,
    "setxattr": metadata.setxattr,
    "removexattr": metadata.removexattr,
    "ioctl": metadata.ioctl,
    "connect": addresses.connect,
    "bind": addresses.bind,
    "leave": _leave,
    "mask": _mask,
    "steer": _steer,
}
