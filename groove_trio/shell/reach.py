"""Where a caller's path leads, held by descriptors: the directory, the last name, and its path.

The walk is the kernel's own: one `openat2(2)` from the directory that the caller meant. What
comes back is a descriptor, so whatever becomes of the names on the way, what was looked at is
what is worked on; and its path is then asked of the kernel, for the decision. A deed that works
on what is there walks to the thing itself (`reach_object`). One that works on a name walks to
the directory, and looks at the last name by itself (`reach_name`).

What the walk refuses are magic links, those under ``/proc`` that are doors rather than texts
(``/proc/self/root``): they mean one thing to the caller and another to us. The ones that
programs do use are taken for what they mean to the caller: ``/proc/self/fd/1``, which is where
``/dev/stdout`` and ``/dev/fd/1`` lead.

On the event loop a walk uses only what the kernel has at hand (RESOLVE_CACHED), so it never waits
for a disk or a network; where that does not do, it ends with `Later`, and is to be repeated in a
thread by a `Caller` that is patient. It is made without the daemon's capabilities (`aside`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import stat
import struct

from groove_trio.rules.calls import EMPTY_PATH, Where
from groove_trio.shell.caller import BORROWED, ENCODING, Caller

MAX_LINKS = 40  # as the kernel: path_resolution(7)

_OPENAT2 = 437
_NO_MAGIC = 0x02  # RESOLVE_NO_MAGICLINKS
_CACHED = 0x20  # RESOLVE_CACHED, Linux 5.12
_PATH = os.O_PATH | os.O_CLOEXEC
_SIZE = 24  # struct open_how
_OWN = re.compile(r"\A/proc/(\d+)(?:/task/\d+)?/fd\Z")
_REMOVED = " (deleted)"
_SELF = frozenset({".", "..", "/"})

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.argtypes = (
    ctypes.c_long,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_size_t,
)
_syscall.restype = ctypes.c_long


class _How:
    """One way to walk: with what is at hand, and with all it takes."""

    __slots__ = ("cached", "patient")

    def __init__(self, flags: int) -> None:
        self.cached = struct.pack("=QQQ", _PATH | flags, 0, _NO_MAGIC | _CACHED)
        self.patient = struct.pack("=QQQ", _PATH | flags, 0, _NO_MAGIC)


_TO_DIRECTORY = _How(os.O_DIRECTORY)
_TO_OBJECT = _How(0)
_TO_LINK = _How(os.O_NOFOLLOW)


class Spot:
    """Where a path leads.

    Attributes:
        parent: O_PATH descriptor of the directory that the last name is in; -1 where `itself`
            is known.
        itself: O_PATH descriptor of what is meant; -1 where a name is.
        name: The last name; ``.``, ``..`` or ``/`` where `parent` itself is meant.
        path: Absolute and without links, for the decision.
        mode: Of what is there now; None where nothing is. As lstat(2) tells it.
        device: What it is on.
        is_name: Whether `name` is one, and not a way to say what `parent` or `itself` is.
        nameless: Whether it has no name anywhere: a pipe, or a file that was removed.
        slash: Whether the caller wrote a slash at the end, so that only a directory will do.
    """

    __slots__ = (
        "device",
        "is_name",
        "itself",
        "mode",
        "name",
        "nameless",
        "parent",
        "path",
        "slash",
    )

    def __init__(self, path: str, mode: int | None, device: int) -> None:
        self.path = path
        self.mode = mode
        self.device = device
        self.parent = self.itself = -1
        self.name = "."
        self.nameless = self.slash = self.is_name = False

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link that was not to be followed."""
        return self.mode is not None and stat.S_ISLNK(self.mode)

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return self.mode is not None and stat.S_ISDIR(self.mode)


class Later(Exception):
    """The walk has to wait, so it is not for the event loop."""


class Absent(FileNotFoundError):
    """Nothing is there; `spot` is where it would be."""

    def __init__(self, spot: Spot) -> None:
        super().__init__(errno.ENOENT, os.strerror(errno.ENOENT))
        self.spot = spot


class Opened(list[int]):
    """Descriptors that are open while a caller is held; closed together."""

    def keep(self, descriptor: int) -> int:
        """Adds one, and gives it back."""
        self.append(descriptor)
        return descriptor

    def close(self) -> None:
        """Closes all."""
        while self:
            descriptor = self.pop()
            BORROWED.pop(descriptor, None)
            os.close(descriptor)


def reach_object(caller: Caller, where: Where, opened: Opened, *, follow: bool) -> Spot:
    """Walks to what is there.

    Args:
        caller: Who means it.
        where: What it said.
        opened: Where the descriptors of the spot go.
        follow: Whether a link that is the last name is followed.

    Raises:
        Absent: Nothing is there, and could be.
        Later: It would have to wait.
        OSError: With the error number that the call gets.
    """
    path = _text(caller, where)
    if not path:
        return of_descriptor(caller, where.directory, opened)
    start = -1 if path[0] == "/" else opened.keep(caller.directory(where.directory))
    how = _TO_OBJECT if follow else _TO_LINK
    itself = _step(start, path, how.patient if caller.patient else how.cached)
    if itself < 0:
        return _by_another_way(caller, start, path, opened, follow=follow)
    opened.append(itself)
    spot = _of(itself)
    if spot.path.startswith("/proc/"):  # of whose process, that is the question
        return _through_links(caller, start, path, opened, follow=follow)
    if spot.nameless:
        raise _error(errno.ENOENT)  # it was removed while we walked
    spot.slash = path[-1] == "/" and _split(path)[2]
    return spot


def reach_name(caller: Caller, where: Where, opened: Opened) -> Spot:
    """Walks to a name, whether there is something or not; a link there is not followed.

    As `reach_object` otherwise.
    """
    path = _text(caller, where)
    if not path:
        return of_descriptor(caller, where.directory, opened)
    start = -1 if path[0] == "/" else opened.keep(caller.directory(where.directory))
    return _through_links(caller, start, path, opened, follow=False)


def reach_path(caller: Caller, directory: int, path: str, opened: Opened, *, follow: bool) -> Spot:
    """Walks to a name that was read already, as `reach_name`; `follow` goes on through links."""
    if not path:
        raise _error(errno.ENOENT)
    start = -1 if path[0] == "/" else opened.keep(caller.directory(directory))
    return _through_links(caller, start, path, opened, follow=follow)


def _by_another_way(caller: Caller, start: int, path: str, opened: Opened, *, follow: bool) -> Spot:
    """Where the kernel's walk ended: at nothing, a magic link, or what is not at hand."""
    number = ctypes.get_errno()
    if number == errno.ELOOP:
        follow = follow or path.endswith("/")
        return _through_links(caller, start, path, opened, follow=follow)
    if number not in {errno.ENOENT, errno.EAGAIN}:
        raise _error(number)
    # What is not there for us, as ``/dev/fd/63``, may be there for the caller. And what is not at
    # hand is mostly a new name, of which its directory knows.
    spot = _through_links(caller, start, path, opened, follow=follow)
    if spot.mode is None or (number == errno.ENOENT and spot.itself < 0 <= spot.parent):
        raise Absent(spot)
    if number == errno.EAGAIN:
        raise Later
    return spot


def of_descriptor(caller: Caller, number: int, opened: Opened) -> Spot:
    """What one of the caller's descriptors means.

    Raises:
        OSError: EBADF, it has no such descriptor.
    """
    return _of(opened.keep(caller.directory(number)))


def of_copy(descriptor: int) -> Spot:
    """What a descriptor of our own means; it stays the caller's of this function."""
    return _of(descriptor)


def _text(caller: Caller, where: Where) -> str:
    """The path; empty where the descriptor itself is meant."""
    if not where.address and where.flags & EMPTY_PATH:
        return ""
    path = caller.text(where.address)
    if not path and not where.flags & EMPTY_PATH:
        raise _error(errno.ENOENT)
    return path


def _of(itself: int) -> Spot:
    told = os.fstat(itself)
    path = os.readlink(f"/proc/self/fd/{itself}")
    spot = Spot(path, told.st_mode, told.st_dev)
    spot.itself = itself
    spot.nameless = not path.startswith("/") or told.st_nlink == 0
    if path.endswith(_REMOVED) and not spot.nameless and not _is_at(path, told):
        spot.path = path.removesuffix(_REMOVED)  # it goes by another name, which nobody tells
    return spot


def _is_at(path: str, told: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.lstat(path), told)
    except OSError:
        return False


def _through_links(caller: Caller, start: int, path: str, opened: Opened, *, follow: bool) -> Spot:
    """Walks to the directory and looks at the last name, from link to link."""
    for _ in range(MAX_LINKS):
        above, name, slash = _split(path)
        is_name = name not in _SELF
        parent = opened.keep(_walk(caller, start, above))
        place = os.readlink(f"/proc/self/fd/{parent}")
        if place.startswith("/proc/") and (own := _OWN.match(place)) is not None:
            spot = _own_descriptor(caller, int(own[1]), name, opened)
            return spot if follow else _link_in_proc(f"{place}/{name}", parent)
        mode = _mode_of(parent, name if is_name else ".")
        if mode is not None and stat.S_ISLNK(mode) and follow:
            start, path = parent, os.readlink(name, dir_fd=parent) + "/" * slash
            continue
        told = os.fstat(parent)
        if told.st_nlink == 0:
            raise _error(errno.ENOENT)  # in a directory that was removed
        full = f"{place.rstrip('/')}/{name}" if is_name else place
        spot = Spot(full, mode, told.st_dev)
        spot.parent, spot.name, spot.slash, spot.is_name = parent, name, slash, is_name
        return spot
    raise _error(errno.ELOOP)


def _split(path: str) -> tuple[str, str, bool]:
    """The directory above, the last name, and whether a slash follows it."""
    plain = path.rstrip("/")
    above, _, name = plain.rpartition("/")
    if not name:
        return path, "/", False
    if name in _SELF:  # the directory itself
        return path, name, False
    return (above or "/") if "/" in plain else ".", name, plain != path


def _walk(caller: Caller, start: int, path: str) -> int:
    """Walks to a directory."""
    how = _TO_DIRECTORY
    found = _step(start, path, how.patient if caller.patient else how.cached)
    if found < 0:
        number = ctypes.get_errno()
        raise Later if number == errno.EAGAIN else _error(number)
    return found


def _step(start: int, path: str, how: bytes) -> int:
    """One walk of the kernel's; negative, and the error in `ctypes.get_errno`, where it ends."""
    found: int = _syscall(_OPENAT2, start, path.encode(*ENCODING), how, _SIZE)
    return found


def _mode_of(parent: int, name: str) -> int | None:
    try:
        return os.lstat(name, dir_fd=parent).st_mode
    except FileNotFoundError:
        return None


def _own_descriptor(caller: Caller, process: int, name: str, opened: Opened) -> Spot:
    """``/proc/self/fd/N``; our own self was met on the way, and the caller's is meant."""
    if process not in {os.getpid(), caller.process()} or not name.isdecimal():
        raise _error(errno.EACCES)
    try:
        return of_descriptor(caller, int(name), opened)
    except OSError as error:
        raise _error(errno.ENOENT) from error  # no such name there


def _link_in_proc(path: str, parent: int) -> Spot:
    """The very link of a descriptor; nothing can be done to it, whoever grants that."""
    spot = Spot(path, stat.S_IFLNK, os.fstat(parent).st_dev)
    spot.is_name = True
    return spot


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
