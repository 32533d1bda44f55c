"""One form for the many system calls that do the same thing.

`mkdir` is `mkdirat` in the working directory, `rmdir` is `unlinkat` with a flag, `fchmod` is a
`chmod` of what a descriptor means: half a hundred calls become nineteen deeds. Registers are
taken as they are, so what a signed one holds is made signed here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal, NamedTuple

CWD: Final = -100  # AT_FDCWD, include/uapi/linux/fcntl.h
NO_FOLLOW: Final = 0x100  # AT_SYMLINK_NOFOLLOW
REMOVE_DIR: Final = 0x200  # AT_REMOVEDIR, of unlinkat
FOLLOW: Final = 0x400  # AT_SYMLINK_FOLLOW, of linkat
EMPTY_PATH: Final = 0x1000  # AT_EMPTY_PATH: the descriptor itself is meant

PROCESS: Final = 0  # or a thread: PRIO_PROCESS
GROUP: Final = 1  # PRIO_PGRP

CREATES: Final = 0o100 | 0o1 | 0o1000  # O_CREAT | O_WRONLY | O_TRUNC

DeedName = Literal[
    "open",
    "truncate",
    "mkdir",
    "mknod",
    "unlink",
    "rename",
    "link",
    "symlink",
    "chmod",
    "chown",
    "utime",
    "setxattr",
    "removexattr",
    "ioctl",
    "connect",
    "bind",
    "leave",
    "mask",
    "steer",
]

Clock = Literal["utimbuf", "timeval", "timespec"]
"""How the times are laid out: two seconds, two of seconds and microseconds, or of nanoseconds."""


class Where(NamedTuple):
    """A path as a call gives it: a directory's descriptor and the address of the text.

    Address 0 and `EMPTY_PATH` mean what the descriptor itself is.
    """

    directory: int
    address: int
    flags: int = 0

    @property
    def follow(self) -> bool:
        """Whether a link that is the last name is followed."""
        return not self.flags & NO_FOLLOW


class Deed(NamedTuple):
    """What a caller asks for. `values` holds, by deed, what no path tells.

    ========== ======= ====================================================================
    deed       paths   values
    ========== ======= ====================================================================
    open       1       flags, mode
    truncate   1       length
    mkdir      1       mode
    mknod      1       mode, device
    unlink     1       flags: `REMOVE_DIR` or 0
    rename     2       flags of renameat2
    link       2       (the flags are the first path's)
    symlink    1       address of the target's text
    chmod      1       mode
    chown      1       user, group (-1: as it is)
    utime      1       address of the times, their layout
    setxattr   1       addresses of name and value, size, flags
    removexattr 1      address of the name
    ioctl      1       command, address
    connect    1       address of the sockaddr, its length
    bind       1       the same
    leave      0       (setsid and setpgid)
    mask       0       (umask)
    steer      0       kind (`PROCESS` or `GROUP`), its number
    ========== ======= ====================================================================
    """

    name: DeedName
    paths: tuple[Where, ...]
    values: tuple[int | Clock, ...] = ()


_Registers = Sequence[int]
_Form = Callable[[_Registers], Deed]


def _int(register: int) -> int:
    """The C int that a register holds."""
    low = register & 0xFFFFFFFF
    return low - 0x100000000 if low & 0x80000000 else low


def _at(directory: int, address: int, flags: int = 0) -> tuple[Where]:
    return (Where(_int(directory), address, flags & 0xFFFFFFFF),)


def _of(descriptor: int) -> tuple[Where]:
    return (Where(_int(descriptor), 0, EMPTY_PATH),)


def _open(where: tuple[Where], flags: int, mode: int) -> Deed:
    return Deed("open", where, (flags & 0x7FFFFFFF, mode & 0o7777))


def _rename(a: _Registers, flags: int) -> Deed:
    return Deed("rename", (*_at(a[0], a[1]), *_at(a[2], a[3])), (flags & 0xFFFFFFFF,))


def _owner(where: tuple[Where], user: int, group: int) -> Deed:
    return Deed("chown", where, (_int(user), _int(group)))


def _times(where: tuple[Where], address: int, clock: Clock) -> Deed:
    return Deed("utime", where, (address, clock))


def _steer(kind: int, number: int) -> Deed:
    return Deed("steer", (), (kind, _int(number)))


def _attribute(where: tuple[Where], a: _Registers) -> Deed:
    return Deed("setxattr", where, (a[1], a[2], a[3], _int(a[4])))


FORMS: Final[dict[str, _Form]] = {
    "open": lambda a: _open(_at(CWD, a[0]), a[1], a[2]),
    "openat": lambda a: _open(_at(a[0], a[1]), a[2], a[3]),
    "creat": lambda a: _open(_at(CWD, a[0]), CREATES, a[1]),
    "truncate": lambda a: Deed("truncate", _at(CWD, a[0]), (a[1],)),
    "mkdir": lambda a: Deed("mkdir", _at(CWD, a[0]), (a[1] & 0o7777,)),
    "mkdirat": lambda a: Deed("mkdir", _at(a[0], a[1]), (a[2] & 0o7777,)),
    "mknod": lambda a: Deed("mknod", _at(CWD, a[0]), (a[1] & 0xFFFF, a[2] & 0xFFFFFFFF)),
    "mknodat": lambda a: Deed("mknod", _at(a[0], a[1]), (a[2] & 0xFFFF, a[3] & 0xFFFFFFFF)),
    "rmdir": lambda a: Deed("unlink", _at(CWD, a[0]), (REMOVE_DIR,)),
    "unlink": lambda a: Deed("unlink", _at(CWD, a[0]), (0,)),
    "unlinkat": lambda a: Deed("unlink", _at(a[0], a[1]), (a[2] & 0xFFFFFFFF,)),
    "rename": lambda a: _rename((CWD, a[0], CWD, a[1]), 0),
    "renameat": lambda a: _rename(a, 0),
    "renameat2": lambda a: _rename(a, a[4]),
    "link": lambda a: Deed("link", (*_at(CWD, a[0], NO_FOLLOW), *_at(CWD, a[1]))),
    "linkat": lambda a: Deed("link", (*_at(a[0], a[1], _link_flags(a[4])), *_at(a[2], a[3]))),
    "symlink": lambda a: Deed("symlink", _at(CWD, a[1]), (a[0],)),
    "symlinkat": lambda a: Deed("symlink", _at(a[1], a[2]), (a[0],)),
    "chmod": lambda a: Deed("chmod", _at(CWD, a[0]), (a[1] & 0o7777,)),
    "fchmod": lambda a: Deed("chmod", _of(a[0]), (a[1] & 0o7777,)),
    "fchmodat": lambda a: Deed("chmod", _at(a[0], a[1]), (a[2] & 0o7777,)),
    "fchmodat2": lambda a: Deed("chmod", _at(a[0], a[1], a[3]), (a[2] & 0o7777,)),
    "chown": lambda a: _owner(_at(CWD, a[0]), a[1], a[2]),
    "lchown": lambda a: _owner(_at(CWD, a[0], NO_FOLLOW), a[1], a[2]),
    "fchown": lambda a: _owner(_of(a[0]), a[1], a[2]),
    "fchownat": lambda a: _owner(_at(a[0], a[1], a[4]), a[2], a[3]),
    "utime": lambda a: _times(_at(CWD, a[0]), a[1], "utimbuf"),
    "utimes": lambda a: _times(_at(CWD, a[0]), a[1], "timeval"),
    "futimesat": lambda a: _times(_at_or_of(a[0], a[1]), a[2], "timeval"),
    "utimensat": lambda a: _times(_at_or_of(a[0], a[1], a[3]), a[2], "timespec"),
    "setxattr": lambda a: _attribute(_at(CWD, a[0]), a),
    "lsetxattr": lambda a: _attribute(_at(CWD, a[0], NO_FOLLOW), a),
    "fsetxattr": lambda a: _attribute(_of(a[0]), a),
    "removexattr": lambda a: Deed("removexattr", _at(CWD, a[0]), (a[1],)),
    "lremovexattr": lambda a: Deed("removexattr", _at(CWD, a[0], NO_FOLLOW), (a[1],)),
    "fremovexattr": lambda a: Deed("removexattr", _of(a[0]), (a[1],)),
    "ioctl": lambda a: Deed("ioctl", _of(a[0]), (a[1] & 0xFFFFFFFF, a[2])),
    "connect": lambda a: Deed("connect", _of(a[0]), (a[1], a[2] & 0xFFFFFFFF)),
    "bind": lambda a: Deed("bind", _of(a[0]), (a[1], a[2] & 0xFFFFFFFF)),
    "setsid": lambda _: Deed("leave", ()),
    "setpgid": lambda _: Deed("leave", ()),
    "umask": lambda _: Deed("mask", ()),
    "sched_setparam": lambda a: _steer(PROCESS, a[0]),
    "sched_setscheduler": lambda a: _steer(PROCESS, a[0]),
    "sched_setaffinity": lambda a: _steer(PROCESS, a[0]),
    "sched_setattr": lambda a: _steer(PROCESS, a[0]),
    "setpriority": lambda a: _steer(_int(a[0]), a[1]),
    "ioprio_set": lambda a: _steer(_int(a[0]) - 1, a[1]),  # IOPRIO_WHO_PROCESS is 1
}
"""Every call of `syscalls` that knocks, as a deed."""


def _at_or_of(directory: int, address: int, flags: int = 0) -> tuple[Where]:
    """The two time calls that mean the descriptor itself when they are given no path."""
    return _at(directory, address, flags) if address else _of(directory)


def _link_flags(flags: int) -> int:
    """The flags as all others have them: linkat follows only if told so."""
    return (flags & EMPTY_PATH) | (0 if flags & FOLLOW else NO_FOLLOW)
