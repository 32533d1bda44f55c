"""The one task that owns the lock table, and the bounded channel that feeds it.

It drains up to `BATCH` requests, decides each, writes one batch into the audit log, and only
then wakes the callers. So a granted knock is in the log before it is known, two requests never
see half of each other, and 200 callers cost one write. It never waits for a disk: who needs
his record durable before he may know the answer waits for the log in his own task.

A caller who is gone when his request comes up is passed over. Whatever breaks, nobody stays
parked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import cast

import trio

from groove_trio.rules import denials
from groove_trio.rules.chain import KNOCK_DENIED, KNOCK_GRANTED
from groove_trio.rules.locks import LockTable
from groove_trio.shell.audit import AuditLog
from groove_trio.shell.changes import Changes
from groove_trio.shell.folding import Fold, Folds
from groove_trio.shell.judge import Judge
from groove_trio.shell.slots import ChangeRequest, KnockRequest, Request
from groove_trio.words.audit import AuditEntry
from groove_trio.words.clock import NS
from groove_trio.words.errors import AuditUnavailable, Draining
from groove_trio.words.events import AnyEvent, KnockDecided
from groove_trio.words.knocks import Decision, Granted, Knock

CAPACITY = 64  # callers that wait in the channel; one batch
BATCH = 64  # `receive_nowait` takes from blocked senders too, so draining needs its own bound
_RETRY_S = 1.0  # between attempts to record that leases ran out
_LOOK_S = 60.0  # the wall clock may be set while we wait for a lease to run out


class Clerk:
    """Takes requests and answers them in their order.

    Args:
        judge: Decides the knocks.
        changes: Told when leases run out.
        table: Who holds what.
        audit: The open log.
        publish: Takes the events; does not wait.
        clock: Nanoseconds since the epoch.
        wanted: Whether anyone wants the event of a knock; if not, it is not built.

    Attributes:
        folds: What was granted of late, and is counted when it comes again.
    """

    def __init__(
        self,
        *,
        judge: Judge,
        changes: Changes,
        table: LockTable,
        audit: AuditLog,
        publish: Callable[[AnyEvent], None],
        clock: Callable[[], int],
        wanted: Callable[[], bool],
    ) -> None:
        self._judge = judge
        self._changes = changes
        self._leases = table.leases
        self._audit = audit
        self._publish = publish
        self._clock = clock
        self._wanted = wanted
        self.folds = Folds(table, audit, self._record_again, clock)
        self._full = False
        self._waiting = 0  # requests made and not yet taken up
        self._closed = False
        self._send, self._receive = trio.open_memory_channel[Request](CAPACITY)

    # What callers use

    @property
    def full(self) -> bool:
        """Whether the next caller has to wait for room."""
        return self._full

    async def put(self, request: Request) -> None:
        """Hands a request in; waits for room. Where there is some, this does not checkpoint.

        Raises:
            Draining: No more requests are taken.
        """
        self._waiting += 1
        try:
            if not self._full:
                try:
                    self._send.send_nowait(request)
                except trio.WouldBlock:
                    self._full = True  # spares the next callers the attempt, until it is drained
                else:
                    return
            await self._send.send(request)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            self._waiting -= 1
            raise Draining from None
        except BaseException:
            self._waiting -= 1
            raise

    def put_nowait(self, request: Request) -> None:
        """Hands a request in.

        Raises:
            trio.WouldBlock: There is no room.
            Draining: No more requests are taken.
        """
        try:
            self._send.send_nowait(request)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            raise Draining from None
        self._waiting += 1

    @property
    def at_leisure(self) -> bool:
        """Whether nobody waits whose turn would be before that of the next caller."""
        return not self._waiting and not self._closed

    def decide_now(self, knock: Knock) -> tuple[Decision, int]:
        """Decides on the spot, and gives the record's number as well; only when `at_leisure`.

        What the task would do in its next turn is done in this one: the same steps in the same
        order, without two turns of the loop between question and answer. Does not checkpoint.
        """
        return self._decided([knock])[0]

    def close(self) -> None:
        """Takes no more requests; those already made are answered. May be repeated."""
        self._closed = True
        self._send.close()

    # The task

    async def serve(self) -> None:
        """Answers requests until `close` was called and all that were made are answered.

        However it ends, nobody stays parked: what is not answered is refused.
        """
        try:
            while (batch := await self._gather()) is not None:
                self._full = False
                self._handle(batch)
        finally:
            self.close()
            self._refuse_rest()

    async def _gather(self) -> list[Request] | None:
        """The next requests, none if leases ran out before one came; None at the end."""
        recorded = self._changes.expire()
        wait_s = self._until_expiry(recorded=recorded)
        batch: list[Request] = []
        try:
            if wait_s is None:
                batch.append(await self._receive.receive())
            else:
                with trio.move_on_after(wait_s):
                    batch.append(await self._receive.receive())
        except trio.EndOfChannel:
            return None
        with suppress(trio.WouldBlock, trio.EndOfChannel):
            while batch and len(batch) < BATCH:
                batch.append(self._receive.receive_nowait())
        self._waiting -= len(batch)
        return batch

    def _until_expiry(self, *, recorded: bool) -> float | None:
        expiry = self._leases.next_expiry()
        if expiry is None:
            return None
        wait_s = (expiry - self._clock()) / NS
        return min(max(wait_s, 0.0 if recorded else _RETRY_S), _LOOK_S)

    def _refuse_rest(self) -> None:
        with suppress(trio.WouldBlock, trio.EndOfChannel):
            while True:
                request = self._receive.receive_nowait()
                if isinstance(request, KnockRequest):
                    request.decision = denials.closing(request.knock.path)
                elif isinstance(request, ChangeRequest):
                    request.fault = Draining()
                request.wake()
        self._receive.close()

    def _handle(self, batch: list[Request]) -> None:
        """Handles requests in their order; knocks between two changes share a write."""
        knocks: list[KnockRequest] = []
        try:
            for request in batch:
                if request.gone:
                    continue
                if isinstance(request, KnockRequest):
                    knocks.append(request)
                elif isinstance(request, ChangeRequest):
                    self._answer(knocks)
                    knocks = []
                    self._perform(cast("ChangeRequest[object]", request))
            self._answer(knocks)
        finally:
            for request in batch:  # if this broke, its callers must not stay parked
                if not request.answered:
                    request.wake()

    def _perform(self, request: ChangeRequest[object]) -> None:
        self.folds.end()  # so that the record of what was granted comes before the change
        try:
            request.outcome = request.act()
        except Exception as fault:  # noqa: BLE001 - it is the caller's, and raised there
            request.fault = fault
        request.wake()

    def _answer(self, requests: list[KnockRequest]) -> None:
        if not requests:
            return
        decided = self._decided([request.knock for request in requests])
        for request, (decision, seq) in zip(requests, decided, strict=True):
            request.decision, request.seq = decision, seq
            request.wake()

    def _decided(self, knocks: list[Knock]) -> list[tuple[Decision, int]]:
        """Decides and records; of what can't be recorded the number is 0, and it is denied."""
        now = self._clock()
        decisions = [self._judge.decide(knock, now) for knock in knocks]
        try:
            last = self._audit.append(list(map(entry_of, knocks, decisions)))
        except AuditUnavailable as error:
            return [
                (denials.unrecorded(self._judge.told(knock.path), error.detail), 0)
                for knock in knocks
            ]
        for knock, decision in zip(knocks, decisions, strict=True):
            if knock.source == "gate" and type(decision) is Granted:
                self.folds.begin(knock, decision)
        if self._wanted():
            for event in map(_event_of, knocks, decisions):
                self._publish(event)
        return list(zip(decisions, range(last - len(knocks) + 1, last + 1), strict=True))

    def _record_again(self, folds: Sequence[Fold]) -> None:
        self._audit.append([entry_of(fold.knock, fold.granted, fold.again) for fold in folds])
        if self._wanted():
            for fold in folds:
                self._publish(_event_of(fold.knock, fold.granted, fold.again))


def entry_of(knock: Knock, decision: Decision, again: int = 0) -> AuditEntry:
    """The record of a knock and its answer; it says so where somebody knocked for an agent."""
    detail: dict[str, object] = {
        "operation": knock.operation,
        "path": decision.path,
        "rule": decision.rule,
        "source": knock.source,
        "tool": knock.tool,
    }
    if knock.call:
        detail["call"], detail["pid"] = knock.call, knock.pid
    if knock.actor.kind != "agent":
        detail["onBehalf"] = True
    if again:
        detail["again"] = again
    return AuditEntry(
        actor=knock.actor,
        action=KNOCK_GRANTED if type(decision) is Granted else KNOCK_DENIED,
        agent=knock.agent,
        detail=detail,
    )


def _event_of(knock: Knock, decision: Decision, again: int = 0) -> KnockDecided:
    return KnockDecided(
        id=knock.agent,
        operation=knock.operation,
        source=knock.source,
        tool=knock.tool,
        decision=decision,
        call=knock.call,
        pid=knock.pid,
        again=again,
    )
