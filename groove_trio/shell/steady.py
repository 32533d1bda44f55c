"""The time that leases are measured by: it runs evenly, whatever the machine's clock is set to.

Between two settings it is the wall clock. When that is set, by hand or by a time server that
found it wrong, this one runs on as before until it is told to `follow`; whoever measures by it
then moves what he has written down by as much. So what was to last ten minutes lasts ten
minutes, and the times told are still those that a clock on the wall shows.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from groove_trio.words.clock import NS

STEP_NS = NS
"""How far the wall clock may be off before it counts as set: time servers correct less, smoothly
and within minutes (ntpd steps from 0.128 s on), and a lease is at least this long."""


def since_boot() -> int:
    """Nanoseconds since the machine was started, those asleep included; nobody can set it."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def wall() -> int:
    """Nanoseconds since the epoch, as the machine has it now."""
    return time.time_ns()


class SteadyClock:
    """Nanoseconds since the epoch, without jumps.

    Args:
        wall: The clock that may be set.
        elapsed: The clock that may not; only differences count.
    """

    __slots__ = ("_elapsed", "_offset", "_wall")

    def __init__(
        self, wall: Callable[[], int] = wall, elapsed: Callable[[], int] = since_boot
    ) -> None:
        self._wall = wall
        self._elapsed = elapsed
        self._offset = wall() - elapsed()

    def now(self) -> int:
        """The time."""
        return self._elapsed() + self._offset

    def set_by(self) -> int:
        """By how much the wall clock was set since it was last followed; 0 if it was not."""
        moved = self._wall() - self._elapsed() - self._offset
        return moved if abs(moved) >= STEP_NS else 0

    def follow(self, moved: int) -> None:
        """Goes on from what the wall clock was set to, as `set_by` told."""
        self._offset += moved
