"""Where a caller's path leads, held by descriptors: the directory, the last name, and its path.

The walk is the kernel's own: one `openat2(2)` from the directory that the caller meant. What
comes back is a descriptor, so whatever becomes of the names on the way, what was looked at is
what is worked on. The last name is looked at by itself; a link there is read and its target
walked to in the same way. Only then is the path asked of the kernel, for the decision.

What the walk refuses are magic links, those under ``/proc`` that are doors rather than texts
(``/proc/self/root``): they mean one thing to the caller and another to us. The two that
programs do use are taken for what they mean to the caller: ``/proc/self/fd/1``, which is where
``/dev/stdout`` and ``/dev/fd/1`` lead.

The walk is told to use only what the kernel has at hand (RESOLVE_CACHED), so it never waits for
a disk or a network on the event loop; where that does not do, it is repeated in a thread.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import stat
import struct
from contextlib import ExitStack

import trio

from groove_trio.rules.calls import EMPTY_PATH, Where
from groove_trio.shell.caller import Caller

MAX_LINKS = 40  # as the kernel: path_resolution(7)

_OPENAT2 = 437
_NO_MAGIC = 0x02  # RESOLVE_NO_MAGICLINKS
_CACHED = 0x20  # RESOLVE_CACHED, Linux 5.12
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_CACHED_WALK = struct.pack("=QQQ", _DIRECTORY, 0, _NO_MAGIC | _CACHED)
_WALK = struct.pack("=QQQ", _DIRECTORY, 0, _NO_MAGIC)
_SIZE = 24  # struct open_how
_OWN = re.compile(r"\A/proc/(\d+)(?:/task/\d+)?/fd\Z")

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.argtypes = (
    ctypes.c_long,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_size_t,
)
_syscall.restype = ctypes.c_long


class Spot:
    """Where a path leads.

    Attributes:
        parent: O_PATH descriptor of the directory that the last name is in.
        name: The last name; ``.`` where the directory itself is meant.
        path: Absolute and without links, for the decision.
        mode: Of what is there now; None where nothing is. As lstat(2) tells it.
        itself: O_PATH descriptor of what is meant, where no name leads to it: a descriptor of
            the caller's. `parent` is -1 then.
        nameless: Whether it has no name anywhere: a pipe, or a file that was removed.
        slash: Whether the caller wrote a slash at the end, so that only a directory will do.
    """

    __slots__ = ("itself", "mode", "name", "nameless", "parent", "path", "slash")

    def __init__(self, parent: int, name: str, path: str, mode: int | None) -> None:
        self.parent = parent
        self.name = name
        self.path = path
        self.mode = mode
        self.itself = -1
        self.nameless = False
        self.slash = False

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link that was not to be followed."""
        return self.mode is not None and stat.S_ISLNK(self.mode)

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return self.mode is not None and stat.S_ISDIR(self.mode)


async def reach(caller: Caller, where: Where, held: ExitStack, *, follow: bool = True) -> Spot:
    """Walks to what a call means. Checkpoints only where the walk has to wait.

    Args:
        caller: Who means it.
        where: What it said.
        held: Closes the descriptors of the spot.
        follow: Whether a link that is the last name is followed, unless a slash follows it.

    Raises:
        OSError: With the error number that the call gets.
    """
    if not where.address:
        return _of_descriptor(caller, where.directory, held)
    path = caller.text(where.address)
    if not path and where.flags & EMPTY_PATH:
        return _of_descriptor(caller, where.directory, held)
    return await reach_path(caller, where.directory, path, held, follow=follow)


async def reach_path(
    caller: Caller, directory: int, path: str, held: ExitStack, *, follow: bool = True
) -> Spot:
    """As `reach`, for a path that was read already; relative ones are taken from `directory`."""
    if not path:
        raise _error(errno.ENOENT)
    start = -1
    for _ in range(MAX_LINKS):
        if start < 0 and not path.startswith("/"):
            start = caller.directory(directory)
            held.callback(os.close, start)
        above, name, slash = _split(path)
        parent = await _walk(start, above)
        held.callback(os.close, parent)
        place = os.readlink(f"/proc/self/fd/{parent}")
        if place.startswith("/proc/") and (own := _OWN.match(place)) is not None:
            return _own_descriptor(caller, int(own[1]), name, held)
        mode = _mode_of(parent, name)
        if mode is not None and stat.S_ISLNK(mode) and (follow or slash):
            start, path = parent, os.readlink(name, dir_fd=parent) + "/" * slash
            continue
        spot = Spot(parent, name, place if name == "." else f"{place.rstrip('/')}/{name}", mode)
        spot.slash = slash
        if name == "." and os.fstat(parent).st_nlink == 0:
            raise _error(errno.ENOENT)
        return spot
    raise _error(errno.ELOOP)


def _split(path: str) -> tuple[str, str, bool]:
    """The directory above, the last name, and whether a slash follows it."""
    plain = path.rstrip("/")
    above, _, name = plain.rpartition("/")
    if name in {"", ".", ".."}:  # the directory itself
        return path, ".", False
    return (above or "/") if "/" in plain else ".", name, plain != path


async def _walk(start: int, path: str) -> int:
    name = os.fsencode(path)
    found: int = _syscall(_OPENAT2, start, name, _CACHED_WALK, _SIZE)
    if found < 0 and ctypes.get_errno() == errno.EAGAIN:
        return await trio.to_thread.run_sync(_walk_slowly, start, name)
    if found < 0:
        raise _error(ctypes.get_errno())
    return found


def _walk_slowly(start: int, name: bytes) -> int:
    found: int = _syscall(_OPENAT2, start, name, _WALK, _SIZE)
    if found < 0:
        raise _error(ctypes.get_errno())
    return found


def _mode_of(parent: int, name: str) -> int | None:
    try:
        return os.lstat(name, dir_fd=parent).st_mode
    except FileNotFoundError:
        return None


def _own_descriptor(caller: Caller, process: int, name: str, held: ExitStack) -> Spot:
    """``/proc/self/fd/N``; our own self was met on the way, and the caller's is meant."""
    if process not in {os.getpid(), caller.process()} or not name.isdecimal():
        raise _error(errno.EACCES)
    return _of_descriptor(caller, int(name), held)


def _of_descriptor(caller: Caller, number: int, held: ExitStack) -> Spot:
    itself = caller.directory(number)
    held.callback(os.close, itself)
    told = os.fstat(itself)
    path = os.readlink(f"/proc/self/fd/{itself}")
    spot = Spot(-1, "", path, told.st_mode)
    spot.itself = itself
    spot.nameless = not path.startswith("/") or told.st_nlink == 0
    return spot


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
