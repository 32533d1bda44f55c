"""The latest events, in one ring that every subscriber reads from."""

from __future__ import annotations

import msgspec

from groove_trio.wire.ws import text_frame
from groove_trio.words.clock import rfc3339
from groove_trio.words.events import (
    AgentAdded,
    AgentChanged,
    AgentStateChanged,
    AnyEvent,
    Envelope,
    KnockDecided,
    LeaseDeclared,
    LeaseEnded,
    OutputAppended,
)
from groove_trio.words.knocks import Denied

HISTORY_EVENTS = 4096
"""Events held: some seconds of a busy daemon, an afternoon of a quiet one."""

HISTORY_BYTES = 16 * 1024 * 1024
"""Size of the events held, as `weigh` estimates it: 4 KiB an event on average."""

EVENT_WEIGHT = 1024  # what an event with one agent's view takes in memory, roughly
LINE_WEIGHT = 200  # an output line without its text
COPIES = 3  # of a text: in the event, in its JSON, in its frame

_encode = msgspec.json.Encoder().encode


def weigh(event: AnyEvent) -> int:
    """How much of the history's size an event takes, without encoding it."""
    if type(event) is OutputAppended:
        return EVENT_WEIGHT + sum([LINE_WEIGHT + len(line.text) for line in event.lines])
    if type(event) is KnockDecided:
        told = event.decision
        more = len(told.way_out) if type(told) is Denied else 0
        return EVENT_WEIGHT + COPIES * (len(told.path) + more)
    if isinstance(event, LeaseDeclared | LeaseEnded):
        return EVENT_WEIGHT + COPIES * sum(map(len, event.lease.paths))
    if isinstance(event, AgentAdded | AgentStateChanged | AgentChanged):
        return EVENT_WEIGHT + COPIES * sum(map(len, event.agent.scope))
    return EVENT_WEIGHT


class Published:
    """An event with its number; its encoded forms are made when first asked for, once.

    Attributes:
        seq: The event's number; of a `Snapshot`, the number of the last event it includes.
        time_ns: When, in nanoseconds since the epoch.
        event: What happened.
        weight: What `weigh` says of it.
    """

    __slots__ = ("_frame", "_json", "event", "seq", "time_ns", "weight")

    def __init__(self, seq: int, time_ns: int, event: AnyEvent, weight: int = 0) -> None:
        self.seq = seq
        self.time_ns = time_ns
        self.event = event
        self.weight = weight
        self._json: bytes | None = None
        self._frame: bytes | None = None

    @property
    def envelope(self) -> Envelope:
        """The event as it is told."""
        return Envelope(seq=self.seq, time=rfc3339(self.time_ns), event=self.event)

    @property
    def json(self) -> bytes:
        """The envelope in JSON."""
        if self._json is None:
            self._json = _encode(self.envelope)
        return self._json

    @property
    def frame(self) -> bytes:
        """The envelope as a ready WebSocket frame."""
        if self._frame is None:
            self._frame = text_frame(self.json)
        return self._frame


class History:
    """Consecutive events, the latest ones, bounded by count and by size.

    Attributes:
        start: The number before the very first event's.
        seq: The number of the latest event.
        oldest: The number of the oldest event held; ``seq + 1`` when there is none.
        size: What the events held weigh together.
    """

    __slots__ = ("_joined", "_max_bytes", "_slots", "oldest", "seq", "size", "start")

    def __init__(self, start: int, max_events: int, max_bytes: int) -> None:
        self.start = start
        self.seq = start
        self.oldest = start + 1
        self.size = 0
        self._max_bytes = max_bytes
        self._slots: list[Published | None] = [None] * max_events  # event `seq` at seq % max
        self._joined = (start, start, -1, b"")  # after, up to, max_bytes, the frames between

    def __len__(self) -> int:
        return self.seq + 1 - self.oldest

    def __getitem__(self, seq: int) -> Published:
        found = self._slots[seq % len(self._slots)] if self.oldest <= seq <= self.seq else None
        if found is None:
            raise IndexError(seq)
        return found

    def frames(self, after: int, max_bytes: int) -> tuple[int, bytes]:
        """Ready frames of the events that followed `after`, up to `max_bytes` and one more.

        The last answer is kept: subscribers that keep up ask for the same, and share one object
        however many they are and however slowly it leaves.

        Returns:
            The number of the last event, and the frames; at least one.

        Raises:
            IndexError: The next event is not held, or has not happened yet.
        """
        begun, upto, bound, data = self._joined
        full = len(data) >= max_bytes
        if begun == after and bound == max_bytes and (upto == self.seq or full):
            return upto, data
        ready = [self[after + 1].frame]
        upto, room = after + 1, max_bytes - len(ready[0])
        while room > 0 and upto < self.seq:
            upto += 1
            ready.append(self[upto].frame)
            room -= len(ready[-1])
        data = b"".join(ready)
        self._joined = (after, upto, max_bytes, data)
        return upto, data

    def append(self, time_ns: int, event: AnyEvent) -> None:
        """Adds the next event; the newest is held whatever it weighs."""
        weight = weigh(event)
        if len(self) == len(self._slots):
            self._drop_oldest()
        self.seq = seq = self.seq + 1
        self._slots[seq % len(self._slots)] = Published(seq, time_ns, event, weight)
        self.size += weight
        while self.size > self._max_bytes and self.oldest < seq:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        self.size -= self[self.oldest].weight
        self._slots[self.oldest % len(self._slots)] = None
        self.oldest += 1
