"""Where a path leads: the name, inside the project, of what an operation would touch.

The kernel's rules, not a text's: ``..`` is taken after the symbolic link before it, the last
link is followed (also one that dangles: what counts is where the new file would come to be),
and names that do not exist yet are kept as they stand. What can't be said for sure is refused:
``..`` through something missing, too many links, and links under ``/proc``, which mean one
thing to the agent and another to us (``/proc/self/cwd``).

Most paths hold no link at all, and for them there is a shortcut: one ``openat2(2)`` that fails
where it meets a link. If it does not, the path names what it says, and so does one of which
the rest does not exist; else the path is walked name by name. About 5 µs for the shortcut,
2 µs more per name for the walk, which also serves kernels before 5.6.

The answer is true at the moment it is given. That nothing is swapped between the answer and
the operation is the gate's business, which performs the operation on descriptors.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from pathlib import Path

from groove_trio.words.base import MAX_PATH
from groove_trio.words.errors import BadRequest, OutsideProject, shown

MAX_LINKS = 40  # as the kernel: path_resolution(7)
MAX_LOOKS = 256  # names walked one by one; the targets of links could make them 80,000
_PROC = "/proc"

# openat2(2), for which Python has no name; the number is the same on all architectures.
_OPENAT2 = 437
_AT_FDCWD = -100
_NO_SYMLINKS = 0x04  # RESOLVE_NO_SYMLINKS
_HOW_SIZE = 24  # struct open_how: flags, mode, resolve, 64 bits each
_FOLLOWING = struct.pack("=QQQ", os.O_PATH | os.O_CLOEXEC, 0, _NO_SYMLINKS)
_NOT_FOLLOWING = struct.pack("=QQQ", os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW, 0, _NO_SYMLINKS)
_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.argtypes = (
    ctypes.c_long,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_size_t,
)
_syscall.restype = ctypes.c_long


def resolve_root(project: Path) -> Path:
    """The project root, with every symbolic link resolved. Blocks for the file system.

    Raises:
        OutsideProject: It is not a directory that exists.
    """
    try:
        root = project.expanduser().resolve(strict=True)
    except OSError as error:
        detail = f"the project {shown(str(project))} is not there: {error.strerror}"
        raise OutsideProject(detail) from error
    if not root.is_dir():
        raise OutsideProject(f"the project {shown(str(project))} is not a directory")
    return root


def resolve(root: str, cwd: str, path: str, *, follow: bool = True) -> str:
    """Names what `path` leads to, relative to the project: ``src/app.py``, ``""`` for the root.

    Args:
        root: The project root: absolute, without links, without a slash at the end.
        cwd: Absolute directory against which a relative `path` is taken.
        path: As the agent wrote it. Bytes that are not UTF-8 come as surrogate escapes.
        follow: Whether a link that is the last name is followed. An operation on the name
            itself (delete, rename) does not follow it.

    Blocks for the file system, as any lookup does; does not checkpoint.

    Raises:
        OutsideProject: It leads outside the root; the field ``resolved`` says where.
        BadRequest: It can't be decided where it leads.
    """
    absolute = locate(cwd, path, follow=follow)
    if absolute.startswith(root) and absolute[len(root) : len(root) + 1] == "/":
        return absolute[len(root) + 1 :]
    if absolute == root:
        return ""
    if root == "/":
        return absolute[1:]
    raise OutsideProject(
        f"{shown(path)} leads to {shown(absolute)}, which is outside the project.",
        path=path,
        resolved=absolute,
    )


def locate(cwd: str, path: str, *, follow: bool = True) -> str:
    """Names what `path` leads to, anywhere: absolute and without links. See `resolve`.

    Raises:
        BadRequest: It can't be decided where it leads.
    """
    if not path or len(path) > MAX_PATH:
        raise _undecided(path, "it is empty" if not path else f"it is over {MAX_PATH} characters")
    if "\0" in path:  # what is behind it, some programs would not see
        raise _undecided(path, "it has a null byte")
    full = path if path.startswith("/") else f"{cwd}/{path}"
    if full.endswith(("/", "/.", "/..")):
        follow = True  # a directory is meant, so the kernel follows: path_resolution(7)
    try:
        if "/.." not in full:
            plain = os.path.normpath(full)
            if plain.startswith("//"):
                plain = plain[1:]  # which POSIX leaves open, and Linux does not
            if _is_plain(plain, follow):
                return plain
        return _walk(path, full, follow)
    except OSError as error:
        raise _undecided(path, error.strerror or str(error)) from error
    except ValueError as error:  # a text that no file name can be
        raise _undecided(path, str(error)) from error


def _is_plain(path: str, follow: bool) -> bool:
    """Whether no link is met on the way; `path` is absolute, normal and without ``..``."""
    how = _FOLLOWING if follow else _NOT_FOLLOWING
    descriptor = _syscall(_OPENAT2, _AT_FDCWD, os.fsencode(path), how, _HOW_SIZE)
    if descriptor >= 0:
        os.close(descriptor)
        return True
    # What is missing holds no link, and a link that dangles is met before it is missed.
    return ctypes.get_errno() == errno.ENOENT


def _walk(asked: str, full: str, follow: bool) -> str:
    """Name by name, as the kernel does: path_resolution(7)."""
    todo = [name for name in reversed(full.split("/")) if name not in ("", ".")]
    here = ""  # what is resolved so far; "" is the root directory
    links = looks = 0
    missing = False
    while todo:
        name = todo.pop()
        looks += not missing
        if looks > MAX_LOOKS or len(todo) > MAX_PATH:
            raise _undecided(asked, f"more than {MAX_LOOKS} names are on the way")
        if name == "..":
            if missing:
                raise _undecided(asked, "it goes up from a directory that does not exist")
            here = here.rpartition("/")[0]
            continue
        step = f"{here}/{name}"
        mode = None if missing else _mode_of(step)
        if mode is None:
            missing = True
        elif stat.S_ISLNK(mode) and (todo or follow):
            links += 1
            if links > MAX_LINKS:
                raise _undecided(asked, f"it holds more than {MAX_LINKS} symbolic links")
            here = _enter_link(asked, here, step, todo)
            continue
        elif todo and not stat.S_ISDIR(mode):
            raise _undecided(asked, f"{shown(step)} is not a directory")
        here = step
    return here or "/"


def _mode_of(path: str) -> int | None:
    try:
        return os.lstat(path).st_mode
    except FileNotFoundError:
        return None


def _enter_link(asked: str, here: str, link: str, todo: list[str]) -> str:
    """Puts the link's target on the stack; returns the directory to go on from."""
    if link.startswith(f"{_PROC}/"):
        raise _undecided(asked, f"{shown(link)} means something else to each process")
    target = os.readlink(link)
    todo.extend(name for name in reversed(target.split("/")) if name not in ("", "."))
    return "" if target.startswith("/") else here


def _undecided(path: str, reason: str) -> BadRequest:
    return BadRequest(
        f"It cannot be decided where {shown(path)} leads: {reason}.", field="path", reason=reason
    )
