"""How many requests are begun in one turn of the loop, so that no turn gets long.

Trio runs all tasks that can run before it looks at the sockets again. When thirty clients have
asked meanwhile, all thirty are answered in one turn, and whoever asks at its beginning is not even
noticed before its end. So a turn takes in `AT_ONCE` requests, or fewer where each takes long, and
the others wait for theirs, in order; what they wait in is counted by the connections that are
open. What takes no time, such as the question whether the daemon lives, is not made to wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

AT_ONCE = 4
"""Requests begun in a turn: about a millisecond of work. nginx takes up to 512 events in one turn
(``epoll_events``), and does so within about that time."""

TURN_S = 0.0006
"""What the requests of a turn may take, in seconds, by what requests took lately; one is begun in
any case."""

RECENT = 0.1  # how much the last turn counts in that


class Pace:
    """Counts the requests of a turn. For one loop."""

    def __init__(
        self, at_once: int = AT_ONCE, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._at_once = at_once
        self._clock = clock
        self._room: int = at_once  # in this turn
        self._cost_s: float = 0.0
        self._left: int = at_once
        self._running = False
        self._waiting = trio.lowlevel.ParkingLot()
        self._taken = trio.lowlevel.ParkingLot()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    async def turn(self) -> None:
        """Waits until there is room in a turn. Checkpoints only if there is none in this one.

        Nobody waits while `run` does not.
        """
        if not self._running:
            return
        if self._left:
            self._left -= 1
            self._taken.unpark()
        else:
            await self._waiting.park()

    def _weigh(self, took_s: float) -> None:
        """Says how many requests the next turn takes in, by how long this one took."""
        begun = max(1, self._room - self._left)
        self._cost_s += RECENT * (took_s / begun - self._cost_s)
        fits = int(TURN_S / self._cost_s) if self._cost_s else self._at_once
        self._room = min(self._at_once, max(1, fits))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Counts turns until cancelled; then nobody waits any more."""
        self._running = True
        task_status.started()
        began = self._clock()
        try:
            while True:
                if self._left == self._room:
                    await self._taken.park()
                    began = self._clock()
                await trio.lowlevel.checkpoint()
                before, began = began, self._clock()
                self._weigh(began - before)
                # Those who are let go here run in the next turn, together with this task.
                self._left = self._room - len(self._waiting.unpark(count=self._room))
        finally:
            self._running = False
            self._waiting.unpark_all()
