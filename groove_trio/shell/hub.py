"""The fan-out of events: one shared history, and a place in it for each subscriber.

A subscriber owns no queue. The hub keeps the latest events in one ring, bounded by count and by
size, and a subscription is the number of the event it has seen last. So publishing costs the same
with any number of subscribers, a slow one costs no memory, replaying after a number and catching
up after a pause are one mechanism, and the only thing that can overflow is a subscriber's place:
when the ring has moved past it, that subscriber alone gets a `Gap` with exact numbers and goes on
live. The alternative, a queue for each, holds references once for every subscriber and loses
events that the history still has.

An event is encoded once, when the first subscriber takes it, and never if nobody does.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

import trio

from groove_trio.shell.history import HISTORY_BYTES, HISTORY_EVENTS, History, Published
from groove_trio.words.events import AnyEvent, Gap, Snapshot

AT_ONCE = 8
"""Subscribers that get theirs in one turn of the loop: about half a millisecond of work. Were it
all of some hundreds, whoever asks for something meanwhile would wait for as many writes."""

BATCH_BYTES = 65_536  # the size of a pipe and about that of a socket's buffer: one send's worth


class Hub:
    """Takes events in, hands them out in order; never waits for anyone.

    Args:
        first_seq: The number before the first event's; by default the time in microseconds, so
            that no number of an earlier run comes again.
        clock: Nanoseconds since the epoch.
        max_events: Bound of the history, by count.
        max_bytes: Bound of the history, by size.

    Attributes:
        history: The events held.
        subscribers: How many subscriptions are open.
        closed: Whether `close` was called.
    """

    def __init__(
        self,
        *,
        first_seq: int | None = None,
        clock: Callable[[], int] = time.time_ns,
        max_events: int = HISTORY_EVENTS,
        max_bytes: int = HISTORY_BYTES,
    ) -> None:
        start = clock() // 1000 if first_seq is None else first_seq
        self.history = History(start, max_events, max_bytes)
        self.subscribers = 0
        self.closed = False
        self._clock = clock
        self._idle = trio.lowlevel.ParkingLot()  # those who have seen all there is
        self._due = trio.lowlevel.ParkingLot()  # those who have not; there is one that is awake
        self._awake = 0

    @property
    def seq(self) -> int:
        """The number of the latest event."""
        return self.history.seq

    def publish(self, event: AnyEvent) -> None:
        """Gives the event the next number and hands it to whoever listens. Does not checkpoint."""
        self.history.append(self._clock(), event)
        if self._idle:
            self._stir()

    def _stir(self) -> None:
        self._idle.repark_all(self._due)
        self._wake()

    def _wake(self) -> None:
        self._awake += len(self._due.unpark(count=AT_ONCE - self._awake))

    def _leave(self) -> None:
        self._awake -= 1
        if not self._awake and self._due:  # all at once: one by one takes as long as their writes
            self._wake()

    async def turn(self, *, due: bool) -> None:
        """Waits for a subscription's turn: until something is published if it is not due.

        At most `AT_ONCE` get theirs in one turn of the loop. Always checkpoints.
        """
        if due and not self._due and self._awake < AT_ONCE:
            self._awake += 1
            try:
                await trio.lowlevel.checkpoint()
            finally:
                self._leave()
        else:
            await (self._due if due else self._idle).park()
            # Whoever was woken gets here, also if it was cancelled meanwhile.
            self._leave()

    @contextmanager
    def subscribe(
        self, after: int | None, snapshot: Callable[[], Snapshot]
    ) -> Generator[Subscription]:
        """Opens a place in the stream of events.

        Args:
            after: The number of the event seen last. Where the history still holds all that
                followed, those come first and nothing else; where it does not, a `Gap` and a
                `Snapshot` come first. None asks for a `Snapshot` first.
            snapshot: Tells all there is; called at once, or not at all.
        """
        seq, opening = self.seq, list[Published]()
        if after is None:
            opening = [self.aside(snapshot())]
        elif self.history.oldest - 1 <= after <= seq:
            seq = after
        else:
            opening = [self.gap(after), self.aside(snapshot())]
        self.subscribers += 1
        try:
            yield Subscription(self, seq, opening)
        finally:
            self.subscribers -= 1

    def gap(self, after: int) -> Published:
        """What a subscriber misses that saw `after` last and goes on live."""
        history = self.history
        if history.start <= after <= history.seq:
            event = Gap(missed=history.seq - after, first=after + 1, last=history.seq)
        else:  # a number of another run; or of none
            first = min(after + 1, history.seq)
            event = Gap(missed=None, first=first, last=history.seq)
        return self.aside(event)

    def aside(self, event: AnyEvent) -> Published:
        """An event for one subscriber: numbered like the latest, not part of the history."""
        return Published(self.seq, self._clock(), event)

    def close(self) -> None:
        """Ends every subscription once it has handed out what was published. May be repeated."""
        self.closed = True
        self._stir()


class Subscription:
    """One subscriber's place: iterate over it, or take what is ready in batches.

    It ends when the hub is closed and everything published has been taken. For one task at a
    time. Cancelling a wait loses nothing.

    Attributes:
        seq: The number of the event taken last.
    """

    def __init__(self, hub: Hub, seq: int, opening: list[Published]) -> None:
        self.seq = seq
        self._hub = hub
        self._opening = opening

    def __aiter__(self) -> Subscription:
        """Iterates over events until the hub is closed."""
        return self

    async def __anext__(self) -> Published:
        """The next event. Always checkpoints."""
        await self._wait_ready()
        published = self._next()
        if published is None:
            raise StopAsyncIteration
        return published

    async def frames(self, max_bytes: int = BATCH_BYTES) -> bytes:
        """Waits for events and takes what is ready, up to `max_bytes` of frames and one more.

        Always checkpoints.

        Returns:
            Ready frames, the same object for all who are at the same place; ``b""`` at the end.
        """
        await self._wait_ready()
        history = self._hub.history
        if self._opening or self.seq == history.seq or self.seq + 1 < history.oldest:
            published = self._next()
            return b"" if published is None else published.frame
        self.seq, frames = history.frames(self.seq, max_bytes)
        return frames

    def _wait_ready(self) -> Awaitable[None]:
        """To be awaited: for a turn, and until there is something.

        Not a coroutine itself: of those there would be one more for each event and subscriber.
        """
        hub = self._hub
        return hub.turn(due=bool(self._opening) or self.seq != hub.history.seq or hub.closed)

    def _next(self) -> Published | None:
        if self._opening:
            return self._opening.pop(0)
        history = self._hub.history
        if self.seq == history.seq:
            return None
        if self.seq + 1 < history.oldest:
            gap = self._hub.gap(self.seq)
            self.seq = history.seq
            return gap
        self.seq += 1
        return history[self.seq]
