"""The gates of all agents that run behind one: a task each, as long as the agent's tree lives.

They stand beside the broker, not beside their agents: an agent that is asked to stop goes on
writing until it has ended, and is answered until then. A gate that breaks ends the daemon, as a
broker that breaks does, because no agent may run unsupervised.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import trio

from groove_trio.shell.broker import Broker
from groove_trio.shell.census import Census
from groove_trio.shell.gate import Gate
from groove_trio.shell.kernel import architecture
from groove_trio.shell.procfs import read_process
from groove_trio.shell.seccomp import Notifications
from groove_trio.words.base import AgentId


class Gates:
    """Opens gates.

    Args:
        broker: Whom they ask.
        census: Who is told which process is whose.
        state: The daemon's own directory in the project, absolute.
    """

    def __init__(self, broker: Broker, census: Census, state: str) -> None:
        self._broker = broker
        self._census = census
        self._state = state
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keeps the gates until cancelled; then held calls fail."""
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    def open(self, agent: AgentId, listener: int, tmp: str, state: Sequence[str]) -> Gate:
        """Opens a gate on a filter's listener, which is its own from now on.

        Args:
            agent: Whose tree the filter holds.
            listener: The descriptor.
            tmp: The agent's own temporary directory.
            state: Absolute directories where its provider keeps state.

        Raises:
            trio.ClosedResourceError: `run` has ended.
        """
        kind = architecture()
        if self._nursery is None or kind is None:
            os.close(listener)
            raise trio.ClosedResourceError("no gate can be opened")

        self._broker.grant_state(agent, state)

        def left(pid: int) -> None:
            process = read_process(pid)
            if process is not None:
                self._census.kinship.claim(process, agent)

        gate = Gate(
            agent=agent,
            notifications=Notifications(listener),
            broker=self._broker,
            own=(tmp, *state),
            state=self._state,
            architecture=kind,
            left=left,
        )
        self._nursery.start_soon(gate.run, name=f"gate of {agent}")
        return gate
