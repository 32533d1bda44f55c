"""Group commit: one task makes changes durable for everyone who waits.

A disk takes as long to sync one change as a thousand. So nobody syncs for himself: a change
gets a number, and who needs it durable waits until the task has committed that number or a
later one. While one commit runs, the next group gathers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

RETRY_S = 0.2
"""How long after a failed commit the next is tried."""


class GroupCommit:
    """Commits numbered changes; owned by whoever runs `run`, used from the trio thread only.

    Args:
        prepare: Called in the trio thread, returns the blocking job that makes all changes so
            far durable; the job runs in a thread of its own. Either may raise `OSError`.
        lag_s: How long changes nobody waits for may gather.
        before: Waits, once a job is prepared, until it may run; may raise `OSError` as well.

    Attributes:
        done: Number of the last change that is durable.
        error: Why the last commit failed; None if it did not.
        failures: How many commits failed.
    """

    def __init__(
        self,
        prepare: Callable[[], Callable[[], None]],
        lag_s: float,
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.done = 0
        self.error: OSError | None = None
        self.failures = 0
        self._prepare = prepare
        self._before = before
        self._lag_s = lag_s
        self._version = 0
        self._dirty = False
        self._closed = False
        self._idle = trio.lowlevel.ParkingLot()
        self._progress = trio.lowlevel.ParkingLot()
        self._hurry = trio.lowlevel.ParkingLot()
        self._running = _Group()
        self._next = _Group()
        # Of its own, so that no crowd in the common limiter can hold up the log.
        self._limiter = trio.CapacityLimiter(1)

    def changed(self, version: int) -> None:
        """Tells of changes up to `version`; the same number again asks for another commit."""
        self._version = version
        self._dirty = True
        if self._idle:
            self._idle.unpark_all()

    async def reached(self, version: int) -> None:
        """Waits until change `version` is durable. Always checkpoints; safe to cancel.

        Raises:
            OSError: The commit that should have made it durable failed, or the task has ended.
        """
        if self.done >= version:
            await trio.lowlevel.checkpoint()
            return
        if self._closed:
            raise self.error or OSError("the log is closed")
        group = self._running if self._running.version >= version else self._next
        if self._hurry:
            self._hurry.unpark_all()
        await group.waiting.park()
        if group.error is not None:
            raise group.error

    async def beyond(self, version: int) -> None:
        """Waits until a change after `version` is durable, and hurries nobody."""
        while self.done <= version:
            await self._progress.park()

    async def run(self) -> None:
        """Commits whenever there is something to commit, until cancelled."""
        try:
            while True:
                while not self._dirty:
                    await self._idle.park()
                if not self._next.waiting:
                    with trio.move_on_after(self._lag_s):
                        await self._hurry.park()
                await self._commit()
                if self.error is not None:
                    await trio.sleep(RETRY_S)
        finally:
            self._closed = True
            for group in (self._running, self._next):
                group.end(OSError("the log is closed"))

    async def _commit(self) -> None:
        group, self._next = self._next, _Group()
        self._running = group
        self._dirty = False
        group.version = version = self._version
        try:
            job = self._prepare()
            if self._before is not None:
                await self._before()
            await trio.to_thread.run_sync(job, limiter=self._limiter)
        except OSError as error:
            self.error = error
            self.failures += 1
            self._dirty = True
        else:
            self._dirty |= self.error is not None  # once more, so that the owner can tell of it
            self.error = None
            self.done = version
            self._progress.unpark_all()
        self._running = _Group()
        group.end(self.error)


class _Group:
    """Those who wait for one commit, which makes changes up to `version` durable."""

    __slots__ = ("error", "version", "waiting")

    def __init__(self) -> None:
        self.version = -1
        self.error: OSError | None = None
        self.waiting = trio.lowlevel.ParkingLot()

    def end(self, error: OSError | None) -> None:
        self.error = error
        self.waiting.unpark_all()
