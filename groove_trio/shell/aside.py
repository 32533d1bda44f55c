"""The capabilities of a daemon that root runs, laid aside where it acts for a caller.

No caller has any, so none may serve it: neither for what is performed, nor for the way there.
A directory that its owner may not search is closed to the daemon as well, as long as it walks
for somebody. The one that is kept opens no file: it lets the daemon read its callers. To a daemon
that a user runs, all of this is nothing.
"""

from __future__ import annotations

import ctypes
import struct
from functools import cache
from typing import Final

_libc = ctypes.CDLL(None, use_errno=True)
_libc.capget.argtypes = _libc.capset.argtypes = (ctypes.c_char_p, ctypes.c_char_p)

_CAPABILITIES: Final = struct.pack("=II", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
_KEPT: Final = 1 << 19  # CAP_SYS_PTRACE: callers are read meanwhile, whatever they hide from others


class Unprivileged:
    """Lays this thread's capabilities aside, for a block without a checkpoint.

    Every thread that may enter has those of the thread that this was made in. Costs two short
    system calls, or none where there is nothing to lay aside.
    """

    __slots__ = ("_all", "_any", "_none")

    def __init__(self) -> None:
        before = _capabilities()
        self._any = any(before[0::3])
        self._all = struct.pack("=6I", *before)
        self._none = struct.pack("=6I", before[0] & _KEPT, *before[1:3], 0, *before[4:6])

    def __enter__(self) -> None:
        if self._any:
            _set(self._none)

    def __exit__(self, *_: object) -> None:
        if self._any:
            _set(self._all)


@cache
def unprivileged() -> Unprivileged:
    """The one for this process, whose threads all have the same capabilities."""
    return Unprivileged()


def _capabilities() -> tuple[int, ...]:
    data = ctypes.create_string_buffer(24)
    if _libc.capget(_CAPABILITIES, data):
        raise OSError(ctypes.get_errno(), "capget")
    return struct.unpack("=6I", data.raw)  # effective, permitted, inheritable, twice


def _set(sets: bytes) -> None:
    if _libc.capset(_CAPABILITIES, sets):
        raise OSError(ctypes.get_errno(), "capset")
