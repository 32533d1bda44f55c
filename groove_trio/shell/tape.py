"""The segments of one log, written: always at the end, one file after another.

Nothing is ever cut, deleted or renamed, and no segment is begun before the one before it is
on disk, so no power cut leaves a gap. One process writes a log; a lock on its directory, which
the kernel drops with the process, sees to that. What no lock prevents, another program removing
or changing the file, is looked for before each write: what nobody can read later is not written.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from groove_trio.shell.files import check_private, ensure_private_dir, open_private, sync_directory
from groove_trio.shell.segments import list_segments, segment_path
from groove_trio.words.errors import AlreadyRunning, UnsafeState


class Tape:
    """The end of a log; locked from the start, open for writing after `open`.

    Args:
        directory: Made, private, if it is not there; its parent must be.
        segment_bytes: The size from which a segment is `full`.

    Attributes:
        segments: Those there are, each checked to be a private file.

    Raises:
        AlreadyRunning: Another process writes this log.
        UnsafeState: A file has the wrong owner, mode or type.
        OSError: A file can't be made or read.
    """

    def __init__(self, directory: Path, segment_bytes: int) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._done_with: list[int] = []  # descriptors of segments before this one
        self._fd = -1
        ensure_private_dir(directory)
        sync_directory(directory.parent)  # who made it may have died before that
        self._above = directory.parent.parent
        self._directory_fd = _lock(directory)
        self._above_fd = os.open(self._above, os.O_PATH | os.O_CLOEXEC)
        try:
            self._way = self._directories()
            self.segments = list_segments(directory)
            for path in self.segments:
                check_private(path)
        except BaseException:
            os.close(self._above_fd)
            os.close(self._directory_fd)
            raise

    def _directories(self) -> list[tuple[str, tuple[int, int]]]:
        """The directories on the way to the segments, each with what it is now."""
        way: list[tuple[str, tuple[int, int]]] = []
        for each in (self._directory.parent, self._directory):
            name = str(each.relative_to(self._above))
            found = os.stat(name, dir_fd=self._above_fd)
            way.append((name, (found.st_dev, found.st_ino)))
        return way

    def open(self) -> None:
        """Opens the last segment that holds anything, the first of a new log, at its end.

        An empty one after it was begun, and the log grew on without it: what is torn there must
        be ended there.

        Raises:
            UnsafeState: It has the wrong owner, mode or type.
            OSError: It can't be made or opened.
        """
        last = len(self.segments)
        while last > 1 and not self.segments[last - 1].stat().st_size:
            last -= 1
        self._open(max(last, 1))

    def _open(self, number: int) -> None:
        path = segment_path(self._directory, number)
        descriptor = open_private(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            sync_directory(self._directory)
            status = os.fstat(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._fd, self._number = descriptor, number
        self._name = str(path.relative_to(self._above))
        self._file, self._size = (status.st_dev, status.st_ino), status.st_size

    @property
    def full(self) -> bool:
        """Whether it is time for the next segment."""
        return self._size >= self._segment_bytes

    @property
    def fresh(self) -> bool:
        """Whether nothing was written into this segment."""
        return not self._size

    def write(self, data: bytes) -> tuple[int, OSError | None]:
        """One call in all but the rarest case; returns how much was written, what stopped it."""
        written = 0
        try:
            self._check()
            while written < len(data):
                count = os.write(self._fd, data[written:] if written else data)
                if not count:
                    return written, OSError(errno.EIO, "nothing was written")
                written += count
                self._size += count
        except OSError as error:
            return written, error
        return written, None

    def _check(self) -> None:
        """Raises where the file is not, or not only, what was written here; takes about 5 µs.

        A directory on the way that became a link is caught though the link leads here: what is
        behind it may be another's, and is not where the next daemon looks.
        """
        try:
            for name, known in self._way:
                passed = os.lstat(name, dir_fd=self._above_fd)
                if (passed.st_dev, passed.st_ino) != known:
                    raise OSError(errno.ESTALE, "the log's directory was changed")
            found = os.lstat(self._name, dir_fd=self._above_fd)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise OSError(errno.ESTALE, "the log's file was removed") from error
        if (found.st_dev, found.st_ino) != self._file or found.st_size != self._size:
            raise OSError(errno.ESTALE, "the log's file was changed")

    def sync(self) -> None:
        """Blocks until all that was written is on disk.

        Raises:
            OSError: Some of it may be lost.
        """
        os.fdatasync(self._fd)

    def sync_job(self) -> Callable[[], None]:
        """`sync` of what is written by now, for a thread; the one got before must have ended."""
        while self._done_with:
            os.close(self._done_with.pop())
        descriptor = self._fd
        return lambda: os.fdatasync(descriptor)

    def roll(self) -> bool:
        """Begins the next segment; `sync` before. Where it can't be made, this one grows on."""
        full = self._fd
        try:
            if _is_written(segment_path(self._directory, self._number + 1)):
                return False
            self._open(self._number + 1)
        except (OSError, UnsafeState):
            return False
        self._done_with.append(full)  # a sync may still be at work on it
        return True

    def close(self) -> None:
        """Syncs if the disk lets it, and lets another process write."""
        if self._fd >= 0:
            with suppress(OSError):
                self.sync()
        for descriptor in (*self._done_with, self._fd, self._above_fd, self._directory_fd):
            with suppress(OSError):
                os.close(descriptor)


def _is_written(path: Path) -> bool:
    """Whether another program wrote what is to be our next segment."""
    try:
        return path.lstat().st_size > 0
    except FileNotFoundError:
        return False


def _lock(directory: Path) -> int:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise AlreadyRunning(f"Another process writes the audit log in {directory}.") from error
    return descriptor
