"""The descriptor through which the kernel tells of held system calls, and takes the answers.

See seccomp_unotify(2). The layouts are those of ``include/uapi/linux/seccomp.h``; they are the
same on all 64-bit architectures.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import struct
from contextlib import suppress
from typing import NamedTuple

import trio

RECEIVE = 0xC0502100  # SECCOMP_IOCTL_NOTIF_RECV
SEND = 0xC0182101  # SECCOMP_IOCTL_NOTIF_SEND
IS_VALID = 0x40082102  # SECCOMP_IOCTL_NOTIF_ID_VALID
ADD_FD = 0x40182103  # SECCOMP_IOCTL_NOTIF_ADDFD
SET_FLAGS = 0x40082104  # SECCOMP_IOCTL_NOTIF_SET_FLAGS, Linux 6.6

_WAKE_HERE = 1  # SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")  # id, pid, flags; number, architecture, ip, arguments
_ANSWER = struct.Struct("=QqiI")  # id, value, error, flags
_DESCRIPTOR = struct.Struct("=QIIII")  # id, flags, source, target, its flags
_ID = struct.Struct("=Q")
_BLANK = bytes(_NOTIFICATION.size)

_CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE
_ADD_AND_SEND = 2  # SECCOMP_ADDFD_FLAG_SEND


LINGER_NS = 30_000
"""How long the loop waits for the next call of whom it just answered, in nanoseconds: about as
long as one of its own turns takes."""

_libc = ctypes.CDLL(None, use_errno=True)


class _Awaited(ctypes.Structure):  # struct pollfd
    _fields_ = (("fd", ctypes.c_int), ("asked", ctypes.c_short), ("returned", ctypes.c_short))


class _Span(ctypes.Structure):  # struct timespec
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


_SPANS = _Span(0, 0), _Span(0, LINGER_NS)
_AT_ONCE, _LINGER = map(ctypes.addressof, _SPANS)
_ppoll = _libc.ppoll
_ppoll.argtypes = (ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_void_p)


class Notification(NamedTuple):
    """A thread that is held in a system call. `pid` is the thread's; `id` is the hold's."""

    id: int
    pid: int
    number: int
    arguments: tuple[int, ...]


class Notifications:
    """The receiving end. Owns the descriptor; close it, and held calls fail with ENOSYS."""

    __slots__ = ("_answered", "_awaited", "_buffer", "_descriptor", "_where")

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._awaited = _Awaited(descriptor, select.POLLIN, 0)
        self._where = ctypes.addressof(self._awaited)
        self._buffer = bytearray(_NOTIFICATION.size)
        self._answered = False
        # The caller goes on where we run, which spares waking another processor: both take turns.
        with suppress(OSError):
            fcntl.ioctl(descriptor, SET_FLAGS, _WAKE_HERE)

    def close(self) -> None:
        """Closes the descriptor and wakes who waits for it."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            trio.lowlevel.notify_closing(descriptor)
            os.close(descriptor)

    async def receive(self) -> Notification | None:
        """The next held call; None when no process is left that could make one.

        Checkpoints only if it has to wait.

        Raises:
            trio.ClosedResourceError: `close` was called.
        """
        while True:
            if self._descriptor < 0:
                raise trio.ClosedResourceError("the gate was closed")
            # The ioctl would wait for a call, and on kernels before 6.11 also for one that
            # can't come any more.
            if not self._look():
                await trio.lowlevel.wait_readable(self._descriptor)
            elif not self._awaited.returned & select.POLLIN:
                return None
            elif (notification := self._take()) is not None:
                return notification

    def _look(self) -> bool:
        """Whether there is something, now or within `LINGER_NS` of an answer.

        Who was just answered runs where we ran, as soon as we wait, and mostly has its next
        call a few microseconds later: to wait for that here is shorter than a turn of the loop.
        """
        wait = _LINGER if self._answered else _AT_ONCE
        self._answered = False
        return bool(_ppoll(self._where, 1, wait, None) > 0)

    def _take(self) -> Notification | None:
        buffer = self._buffer
        buffer[:] = _BLANK  # the kernel insists
        try:
            fcntl.ioctl(self._descriptor, RECEIVE, buffer)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.EINTR}:  # the caller was killed meanwhile
                return None
            raise
        told = _NOTIFICATION.unpack(buffer)
        return Notification(told[0], told[1], told[3], told[6:])

    def holds(self, hold: int) -> bool:
        """Whether the caller is still held: what was read of its pid was its own then."""
        try:
            fcntl.ioctl(self._descriptor, IS_VALID, _ID.pack(hold))
        except OSError:
            return False
        return True

    def answer(self, hold: int, value: int = 0) -> bool:
        """Lets the call return a value; False if the caller is gone."""
        return self._send(SEND, _ANSWER.pack(hold, value, 0, 0))

    def fail(self, hold: int, number: int) -> bool:
        """Lets the call fail with an error number; False if the caller is gone."""
        return self._send(SEND, _ANSWER.pack(hold, 0, -number, 0))

    def proceed(self, hold: int) -> bool:
        """Lets the caller make the call itself, with whatever its pointers mean by then."""
        return self._send(SEND, _ANSWER.pack(hold, 0, 0, _CONTINUE))

    def hand_over(self, hold: int, descriptor: int, *, close_on_exec: bool) -> bool:
        """Gives the caller a copy of a descriptor and lets the call return its number there.

        The copy is put in place and the call answered in one step (Linux 5.14).
        """
        flags = os.O_CLOEXEC if close_on_exec else 0
        message = _DESCRIPTOR.pack(hold, _ADD_AND_SEND, descriptor, 0, flags)
        return self._send(ADD_FD, message)

    def _send(self, request: int, message: bytes) -> bool:
        try:
            fcntl.ioctl(self._descriptor, request, message)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.EINPROGRESS, errno.EBADF}:
                return False
            raise
        self._answered = True
        return True
