"""A held call: who makes it, what it asks for, and what comes of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from groove_trio.rules.calls import Deed
from groove_trio.shell.caller import Caller, Remembered
from groove_trio.shell.reach import Opened, Spot, reach_name, reach_object
from groove_trio.words.knocks import Operation


@dataclass(slots=True)
class Plan:
    """What is to be asked, and what is to be done when all of it is granted.

    Attributes:
        questions: Operations and where they are done.
        act: Performs it; the descriptor of an open, else None. None: the caller makes the call
            itself.
        waits: Whether it may wait for somebody else: in a thread, where it does not give up
            with `perform.NOT_YET`.
        itself: Whether the caller may make the call itself where the wall lets it: an open in
            its own temporary directory, say.
        flags: Of an open.
    """

    questions: list[tuple[Operation, Spot]]
    act: Callable[[], int | None] | None
    waits: bool = False
    itself: bool = False
    flags: int = 0


PROCEED: Final = Plan([], None)
"""The caller makes the call itself."""


@dataclass(slots=True)
class Held:
    """A caller, what it asks for, and what is open for it while it waits.

    `names` are the abstract addresses that its agent has bound, each with its socket's inode;
    `masks` the file creation masks that are known of its agent's threads.
    """

    caller: Caller
    deed: Deed
    names: dict[bytes, int]
    masks: Remembered[int]
    opened: Opened = field(default_factory=Opened)

    def object(self, *, follow: bool = True) -> Spot:
        """What is where the call's first path leads."""
        where = self.deed.paths[0]
        if not where.address and self.caller.flags(where.directory) & os.O_PATH:
            raise failure(errno.EBADF)  # which only stands for a name
        return reach_object(self.caller, where, self.opened, follow=follow and where.follow)

    def name(self, index: int = 0) -> Spot:
        """The name that one of the call's paths is."""
        return reach_name(self.caller, self.deed.paths[index], self.opened)

    def number(self, index: int) -> int:
        """One of the deed's values."""
        value = self.deed.values[index]
        assert isinstance(value, int)
        return value

    def mask(self) -> int:
        """The caller's file creation mask."""
        return self.masks.of(self.caller)

    def copy(self) -> int:
        """A copy of the descriptor that the call is about."""
        return self.opened.keep(self.caller.descriptor(self.deed.paths[0].directory))


def existing(spot: Spot) -> Spot:
    """The spot, if something is there.

    Raises:
        OSError: ENOENT; or ENOTDIR, it is no directory and the caller wrote a slash behind it.
    """
    if spot.mode is None:
        raise failure(errno.ENOENT)
    if spot.slash and not spot.is_directory:
        raise failure(errno.ENOTDIR)
    return spot


def missing(spot: Spot) -> Spot:
    """The spot, if nothing is there.

    Raises:
        OSError: EEXIST.
    """
    if spot.mode is not None:
        raise failure(errno.EEXIST)
    return spot


def failure(number: int) -> OSError:
    """What the call fails with."""
    return OSError(number, os.strerror(number))
