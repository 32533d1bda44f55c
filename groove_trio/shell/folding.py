"""Granted knocks that come again: counted, and recorded once a second instead of each time.

A process that opens the same file a thousand times a second knocks a thousand times, and is
granted the same by the same rule. The first is on record before it is answered, as any is. What
follows within `FOLD_S` is answered from here and counted; then one further record tells how
often. A denial is never folded, and neither is what a look at the disk decides (what goes along
with a directory), nor anything while the log can't be written.

What was granted holds only as long as the books do: when anybody takes or gives back a scope or
a lease, or a lease runs out, all is asked anew. A daemon that dies loses the last counts, and no
record that there was a knock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import trio

from groove_trio.rules.locks import LockTable
from groove_trio.shell.audit import AuditLog
from groove_trio.words.base import AgentId
from groove_trio.words.clock import NS
from groove_trio.words.errors import AuditUnavailable
from groove_trio.words.knocks import Granted, Knock, Operation

FOLD_S: Final = 1.0
"""How long one record stands for what comes again."""

MAX_FOLDS: Final = 10_000
"""Knocks remembered at a time, about 5 MB; what is over that is recorded each time."""

_FOLDED: Final[frozenset[Operation]] = frozenset({"write", "create", "metadata"})

_Key = tuple[int, str, str, str, AgentId]


class Fold:
    """A granted knock, and how often it came `again` since it was recorded."""

    __slots__ = ("again", "granted", "knock")

    def __init__(self, knock: Knock, granted: Granted) -> None:
        self.knock = knock
        self.granted = granted
        self.again = 0


class Folds:
    """Remembers what was granted of late. Owned by the clerk, used from the trio thread.

    Args:
        table: Who holds what.
        audit: The open log.
        record: Records the folds that came again, all or none.
        clock: Nanoseconds since the epoch.
    """

    def __init__(
        self,
        table: LockTable,
        audit: AuditLog,
        record: Callable[[Sequence[Fold]], None],
        clock: Callable[[], int],
    ) -> None:
        self._table = table
        self._audit = audit
        self._record = record
        self._clock = clock
        self._folds: dict[_Key, Fold] = {}
        self._version = 0
        self._until = 0
        self._begun = trio.lowlevel.ParkingLot()

    def again(self, agent: AgentId, operation: Operation, path: str, call: str, pid: int) -> bool:
        """Whether a thread was just granted the very same; then it is counted."""
        fold = self._folds.get((pid, path, call, operation, agent))
        if (
            fold is None
            or self._version != self._table.version
            or not 0 < self._until - self._clock() <= FOLD_S * NS
            or not self._audit.ok
        ):
            return False
        fold.again += 1
        return True

    def begin(self, knock: Knock, granted: Granted) -> None:
        """Takes note of a knock of the gate's that was granted, and is on record."""
        if knock.operation not in _FOLDED or len(self._folds) >= MAX_FOLDS:
            return
        if self._version != self._table.version or self._clock() >= self._until:
            self.end()
        if not self._folds:
            self._open()
        key = (knock.pid, knock.path, knock.call, knock.operation, knock.agent)
        self._folds.setdefault(key, Fold(knock, granted))

    def _open(self) -> None:
        self._version = self._table.version
        self._until = self._clock() + int(FOLD_S * NS)
        expiry = self._table.leases.next_expiry()
        if expiry is not None:
            self._until = min(self._until, expiry)
        self._begun.unpark_all()

    def end(self) -> None:
        """Records what came again and forgets all; what can't be recorded is kept for later."""
        more = [fold for fold in self._folds.values() if fold.again]
        self._until = 0
        if more:
            try:
                self._record(more)
            except AuditUnavailable:
                return
        self._folds.clear()

    async def run(self) -> None:
        """Ends the folds of each second, until cancelled; then the last."""
        try:
            while True:
                if not self._folds:
                    await self._begun.park()
                await trio.sleep(FOLD_S)
                self.end()
        finally:
            self.end()
