"""What the gate reads of a thread that the kernel holds for it: memory, directories, names.

Everything is the caller's own word or the kernel's, read once and never again: what was read is
what is decided on, and what is performed. Whether it was read of the caller itself, and not of
a stranger who got its number after it was killed, the notification's id tells; ask
`Notifications.holds` when all has been read.

Every failure is the error number that the call gets, raised as `OSError`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from groove_trio.rules.calls import CWD, GROUP, PROCESS
from groove_trio.words.base import MAX_PATH

PAGE = 4096
"""Bytes read at a time: memory is there or not by pages, so a read never crosses into the next."""

REMEMBER_S: Final = 0.1
"""How long a thread's file creation mask, and the name of its program, are taken to be the same:
the kernel takes 20 µs to write the first down, and the second is for the record."""

ENCODING = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
"""Between the bytes that the kernel has for a name and ours, as `os.fsdecode`."""

_libc = ctypes.CDLL(None, use_errno=True)


T = TypeVar("T")


class _Piece(ctypes.Structure):  # struct iovec
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


_read_memory = _libc.process_vm_readv
_read_memory.argtypes = (
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_ulong,
)
_read_memory.restype = ctypes.c_ssize_t


class _Reader(threading.local):
    """A page to read into, and how the kernel is told of it: a thread's own, made once."""

    def __init__(self) -> None:
        self.page = bytearray(PAGE)
        self._kept = (ctypes.c_char * PAGE).from_buffer(self.page)
        self._here = _Piece(ctypes.addressof(self._kept), PAGE)
        self._there = _Piece()
        self._told = ctypes.addressof(self._here), ctypes.addressof(self._there)

    def fill(self, pid: int, address: int, size: int) -> int:
        """Reads up to `size` bytes, a page at most; how many there were.

        Raises:
            OSError: EFAULT, there are none; EPERM, they are not to be looked at; ESRCH.
        """
        self._there.base, self._there.length = address, size
        here, there = self._told
        got: int = _read_memory(pid, here, 1, there, 1, 0)
        if got < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return got


_reader = _Reader()

BORROWED: dict[int, int] = {}
"""Our descriptors that are copies of callers', each with its inode. Whoever asks which process
holds a socket must leave them out: a caller may have closed its own. One table, as a process has
one of descriptors."""

_PIDFD_GETFD = 438  # the same on all architectures
_PIDFD_THREAD = os.O_EXCL  # of pidfd_open, Linux 6.9


class Caller:
    """A held thread. `pid` is its own number, not its process's.

    Whoever is `patient` may wait for a disk where its paths lead; on the event loop nobody is.
    """

    __slots__ = ("patient", "pid")

    def __init__(self, pid: int, *, patient: bool = False) -> None:
        self.pid = pid
        self.patient = patient

    def data(self, address: int, size: int) -> bytes:
        """Exactly `size` bytes of its memory.

        Raises:
            OSError: EFAULT, they are not there; EPERM, it is not to be looked into.
        """
        if not address:
            raise OSError(errno.EFAULT, "address 0")
        read = bytearray()
        while len(read) < size:
            at = address + len(read)
            got = _reader.fill(self.pid, at, min(PAGE - at % PAGE, size - len(read)))
            if got <= 0:
                raise OSError(errno.EFAULT, "memory that is not there")
            read += _reader.page[:got]
        return bytes(read)

    def text(self, address: int, most: int = MAX_PATH) -> str:
        """A text that ends with a null byte, as Python names files.

        Raises:
            OSError: EFAULT, as `data`; ENAMETOOLONG, it has `most` bytes or more.
        """
        if not address:
            raise OSError(errno.EFAULT, "address 0")
        page = _reader.page
        read = b""
        while len(read) < most:
            got = _reader.fill(self.pid, address, PAGE - address % PAGE)
            if got <= 0:
                raise OSError(errno.EFAULT, "memory that is not there")
            end = page.find(0, 0, got)
            if end >= 0:
                read += page[:end]
                break
            read += page[:got]
            address += got
        if len(read) >= most:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        return read.decode(*ENCODING)

    def directory(self, descriptor: int) -> int:
        """What one of its descriptors, or `CWD`, means; a new O_PATH descriptor of ours.

        Raises:
            OSError: EBADF, it has no such descriptor.
        """
        place = "cwd" if descriptor == CWD else f"fd/{descriptor}"
        try:
            return os.open(f"/proc/{self.pid}/{place}", os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None

    def descriptor(self, number: int) -> int:
        """A copy of one of its descriptors, which shares its file's state and flags.

        It is in `BORROWED`, and whoever closes it takes it out.

        Raises:
            OSError: EBADF, it has no such descriptor.
        """
        try:
            pidfd = os.pidfd_open(self.pid, _PIDFD_THREAD)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            pidfd = os.pidfd_open(self.process())
        try:
            copy: int = _libc.syscall(_PIDFD_GETFD, pidfd, number, 0)
        finally:
            os.close(pidfd)
        if copy < 0:
            fault = ctypes.get_errno()
            raise OSError(fault, os.strerror(fault))
        BORROWED[copy] = os.fstat(copy).st_ino
        return copy

    def flags(self, number: int) -> int:
        """The flags that one of its descriptors was opened with, as F_GETFL tells them.

        Raises:
            OSError: EBADF, it has no such descriptor.
        """
        try:
            with open(f"/proc/{self.pid}/fdinfo/{number}", "rb") as file:
                for line in file:
                    if line.startswith(b"flags:"):
                        return int(line[6:], 8)
        except FileNotFoundError:
            pass
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def umask(self) -> int:
        """Its file mode creation mask."""
        return int(self._status("Umask"), 8)

    def process(self) -> int:
        """The number of the process that the thread is of."""
        return int(self._status("Tgid"))

    def steers(self, kind: int, number: int) -> bool:
        """Whether a number is its own process's or group's, or that of a thread of its own."""
        if kind == PROCESS:
            return os.path.exists(f"/proc/{self.pid}/task/{number}")
        return kind == GROUP and number == os.getpgid(self.pid)

    def command(self) -> str:
        """The name that its program goes by; a text of its own choice."""
        try:
            file = os.open(f"/proc/{self.pid}/comm", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return ""
        try:
            return os.read(file, 64).decode(errors="replace").strip()
        except OSError:
            return ""
        finally:
            os.close(file)

    def _status(self, name: str) -> str:
        file = os.open(f"/proc/{self.pid}/status", os.O_RDONLY | os.O_CLOEXEC)
        try:
            told = os.read(file, PAGE)
        finally:
            os.close(file)
        # The name of the program comes first, its newlines escaped.
        found = told.find(b"\n%s:\t" % name.encode())
        if found < 0:
            raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
        return told[found:].split(None, 2)[1].decode()


class Remembered(Generic[T]):
    """Something of callers that takes long to read: read once in `REMEMBER_S`.

    Who changes it says so before (`changes`). It is done only after he was let go on, and another
    thread of his may be read meanwhile: until then nothing is remembered.

    Args:
        read: Reads it.
    """

    def __init__(self, read: Callable[[Caller], T]) -> None:
        self._read = read
        self._known: dict[int, T] = {}
        self._forget_at = 0.0
        self._settled_at = 0.0

    def of(self, caller: Caller) -> T:
        """What it is for a caller."""
        now = time.monotonic()
        if now > self._forget_at:
            self._known.clear()
            self._forget_at = now + REMEMBER_S
        found = self._known.get(caller.pid)
        if found is None:
            found = self._read(caller)
            if now > self._settled_at:
                self._known[caller.pid] = found
        return found

    def changes(self) -> None:
        """Somebody is about to change it."""
        self._known.clear()
        self._settled_at = time.monotonic() + REMEMBER_S
