"""How many requests are begun in one turn of the loop, so that no turn gets long.

Trio runs all tasks that can run before it looks at the sockets again. When thirty clients have
asked meanwhile, all thirty are answered in one turn, and whoever asks at its beginning is not even
noticed before its end. So a turn takes in `AT_ONCE` requests and the others wait for theirs, in
order; what they wait in is counted by the connections that are open. What takes no time, such as
the question whether the daemon lives, is not made to wait.
"""

from __future__ import annotations

import trio

AT_ONCE = 2
"""Requests begun in a turn: about a millisecond of work. nginx takes up to 512 events in one turn
(``epoll_events``), and does so within about that time."""


class Pace:
    """Counts the requests of a turn. For one loop."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._at_once = at_once
        self._left = at_once
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

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Counts turns until cancelled; then nobody waits any more."""
        self._running = True
        task_status.started()
        try:
            while True:
                if self._left == self._at_once:
                    await self._taken.park()
                await trio.lowlevel.checkpoint()
                # Those who are let go here run in the next turn, together with this task.
                self._left = self._at_once - len(self._waiting.unpark(count=self._at_once))
        finally:
            self._running = False
            self._waiting.unpark_all()
