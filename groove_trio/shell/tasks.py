"""The tasks behind the agents, and the work on them that is carried to its end.

The nursery is opened and closed in `Supervisor.run` alone. Whoever starts a task in it goes
through `Tasks`, which knows whether there is a nursery and whether anything new may begin.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVarTuple

import trio

from groove_trio.shell.agent import Settling, as_told
from groove_trio.shell.table import AgentTable
from groove_trio.words.errors import Draining

Args = TypeVarTuple("Args")


class Tasks:
    """What starts tasks for the supervisor's parts.

    Attributes:
        nursery: Where they live; None before the supervisor runs and after it has ended.
    """

    __slots__ = ("_table", "nursery")

    def __init__(self, table: AgentTable) -> None:
        self.nursery: trio.Nursery | None = None
        self._table = table

    def check_open(self) -> None:
        """Makes sure that agents may be started.

        Raises:
            Draining: They may not, or no longer.
        """
        if self.nursery is None or self._table.closing:
            raise Draining

    def begin(self, task: Callable[[*Args], Awaitable[object]], *args: *Args) -> None:
        """Starts a task that raises nothing but cancellation; none once all has ended."""
        if self.nursery is not None:
            self.nursery.start_soon(task, *args)

    async def carry(self, work: Callable[[*Args], Awaitable[None]], *args: *Args) -> None:
        """Does work to its end, whatever becomes of the caller who waits for it.

        Raises:
            GrooveError: As the work raised it.
            Draining: Nothing can be done any more.
        """
        if self.nursery is None:
            raise Draining
        settling = Settling()

        async def carried() -> None:
            try:
                await work(*args)
            except Exception as error:  # noqa: BLE001 - it is told to the caller
                settling.settle(as_told(error))
            else:
                settling.settle()

        self.nursery.start_soon(carried)
        await settling.wait()
