"""A request to a task, with room for one answer: parks the caller, wakes it when answered.

The alternative, a `trio.Event` or a one-slot channel for each request, costs three times as
much per knock, and can't tell the task that the caller has gone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import trio

from groove_trio.shell.changes import Outcome
from groove_trio.words.knocks import Decision, Knock

T = TypeVar("T")


class Request:
    """One caller's request; used once.

    Attributes:
        answered: Whether the task has dealt with it.
        gone: Whether the caller was cancelled before that; such a request is passed over.
    """

    __slots__ = ("_task", "answered", "gone")

    def __init__(self) -> None:
        self.answered = False
        self.gone = False
        self._task: trio.lowlevel.Task | None = None

    async def wait(self) -> None:
        """Parks until answered; does not checkpoint if that has happened already."""
        if not self.answered:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._leave)

    def _leave(self, _: Any) -> trio.lowlevel.Abort:
        self._task = None
        self.gone = True
        return trio.lowlevel.Abort.SUCCEEDED

    def wake(self) -> None:
        """Marks it answered and lets its caller go on."""
        self.answered = True
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None


class KnockRequest(Request):
    """A knock; `seq` is the number of its record, 0 while there is none."""

    __slots__ = ("decision", "knock", "seq")

    def __init__(self, knock: Knock) -> None:
        super().__init__()
        self.knock = knock
        self.decision: Decision | None = None
        self.seq = 0


class ChangeRequest(Request, Generic[T]):
    """A change that the task performs; then either `outcome` or `fault` is set."""

    __slots__ = ("act", "fault", "outcome")

    def __init__(self, act: Callable[[], Outcome[T]]) -> None:
        super().__init__()
        self.act = act
        self.outcome: Outcome[T] | None = None
        self.fault: Exception | None = None
