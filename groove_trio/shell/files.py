"""Files that only their owner may see: made with their mode, checked before they are trusted.

A mode given at creation leaves no moment in which another user could open the file, which a
later chmod would. What already exists is used only if it is what we would have made: a
regular file or a directory, ours, closed to group and others, and no symbolic link, which
could lead a write anywhere.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from pathlib import Path

from groove_trio.words.errors import UnsafeState, shown

PRIVATE_FILE = 0o600
PRIVATE_DIR = 0o700
_OTHERS = 0o077
# What open(2) says about something that is not a plain file we may use.
_NOT_OURS = {errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.EACCES, errno.ENOTDIR, errno.ENODEV}


def write_atomic(path: Path, data: bytes, mode: int = PRIVATE_FILE) -> None:
    """Replaces a file's content at once and for good: a reader sees the old or the new whole.

    Temporary file beside it, fsync, rename, fsync of the directory. Blocks for the disk: call
    it in a thread. A symbolic link at `path` is replaced, not followed.

    Raises:
        OSError: The old content still stands, and the temporary file is gone.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode
    )
    try:
        try:
            fix_mode(descriptor, mode)
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def clear_torn(path: Path) -> None:
    """Removes what replacements of a file left beside it when a crash cut them short.

    For whoever alone may write `path` now: what another is about to rename would be lost.

    Raises:
        OSError: Something of it can't be removed.
    """
    for torn in path.parent.glob(f".{path.name}.*.tmp"):
        torn.unlink(missing_ok=True)


def write_all(descriptor: int, data: bytes) -> None:
    """Writes every byte, however many calls it takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_directory(path: Path) -> None:
    """Makes a creation or a rename in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_private(path: Path, flags: int) -> int:
    """Opens, or with ``O_CREAT`` makes, a file that only we may read; the caller closes it.

    Never blocks on a FIFO and never follows a symbolic link at the end of `path`.

    Raises:
        UnsafeState: What is there has the wrong type, owner or mode.
        OSError: It can't be opened for a reason of the disk, or is not there (``ENOENT``).
    """
    try:
        descriptor = os.open(
            path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, PRIVATE_FILE
        )
    except OSError as error:
        if error.errno in _NOT_OURS:
            check_private(path)
            raise _unsafe(path, f"it cannot be opened: {error.strerror}") from error
        raise
    try:
        _accept(path, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def ensure_private_dir(path: Path) -> None:
    """Makes a directory that only we may enter, durably, or checks the one that is there.

    Raises:
        UnsafeState: What is there has the wrong type, owner or mode.
        OSError: It can't be made.
    """
    try:
        make_private_dir(path)
    except FileExistsError:
        if reason := _objection(path.lstat(), stat.S_IFDIR):
            raise _unsafe(path, reason) from None
    else:
        # fsync(2) of what comes to be in it says nothing about its own entry above.
        sync_directory(path.parent)


def make_private_dir(path: Path) -> None:
    """Makes a directory that only we may enter, whatever the umask.

    Raises:
        FileExistsError: Something is there.
        OSError: It can't be made.
    """
    path.mkdir(PRIVATE_DIR)
    if stat.S_IMODE(path.lstat().st_mode) != PRIVATE_DIR:  # a umask that takes from the owner
        path.chmod(PRIVATE_DIR)


def check_private(path: Path) -> None:
    """Checks a file that should be ours alone, without opening it.

    Raises:
        UnsafeState: It has the wrong type, owner or mode.
        FileNotFoundError: It is not there.
    """
    if reason := _objection(path.lstat(), stat.S_IFREG):
        raise _unsafe(path, reason)


def _accept(path: Path, descriptor: int) -> None:
    status = os.fstat(descriptor)
    if reason := _objection(status, stat.S_IFREG):
        raise _unsafe(path, reason)
    if not status.st_size:
        fix_mode(descriptor, PRIVATE_FILE)


def _objection(status: os.stat_result, kind: int) -> str | None:
    wanted = "a directory" if kind == stat.S_IFDIR else "a regular file"
    if stat.S_IFMT(status.st_mode) != kind:
        found = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "something else"
        return f"it is {found}, not {wanted}"
    if status.st_uid != os.geteuid():
        return f"it belongs to user {status.st_uid}, not to user {os.geteuid()}"
    if status.st_mode & _OTHERS:
        return f"others may use it: its mode is {stat.S_IMODE(status.st_mode):04o}"
    return None


def fix_mode(descriptor: int, mode: int) -> None:
    """Gives a file just made the mode that it was to be made with."""
    # The mode at creation was never wider than `mode`; a umask can only have made it narrower.
    if stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
        os.fchmod(descriptor, mode)


def _unsafe(path: Path, reason: str) -> UnsafeState:
    return UnsafeState(
        f"{shown(str(path))} is not safe to use: {reason}. Remove it or set it right.",
        path=str(path),
        reason=reason,
    )
