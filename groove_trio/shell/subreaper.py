"""Adoption of orphans: the daemon takes the place of init for its own descendants."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Generator
from contextlib import contextmanager

_SET_CHILD_SUBREAPER = 36  # prctl(2)
_GET_CHILD_SUBREAPER = 37

_before: list[bool] = []  # of each block that runs: the flag belongs to the process, not to one


@contextmanager
def subreaper() -> Generator[None]:
    """Makes this process the one that adopts its orphaned descendants, while the block runs.

    Without it an orphan is adopted by init and leaves the process tree. Blocks may overlap, as
    of two grooves in one program; what was set before the first is set again after the last.

    Raises:
        OSError: The kernel refused, or did not do what it said.
    """
    _before.append(is_subreaper())
    try:
        _set(on=True)
        yield
    finally:
        first = _before[0]
        _before.pop()
        if not _before:
            _set(on=first)


def is_subreaper() -> bool:
    """Whether this process adopts its orphaned descendants now.

    Raises:
        OSError: The kernel does not say.
    """
    answer = ctypes.c_int(0)
    _prctl(_GET_CHILD_SUBREAPER, ctypes.byref(answer))
    return bool(answer.value)


def _set(*, on: bool) -> None:
    _prctl(_SET_CHILD_SUBREAPER, ctypes.c_ulong(on))
    if is_subreaper() is not on:
        raise OSError("PR_SET_CHILD_SUBREAPER did not take effect")


def _prctl(option: int, argument: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, argument, ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
