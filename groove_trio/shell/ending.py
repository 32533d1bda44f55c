"""How a process tree is ended: asked first, then frozen and killed until nothing is left.

SIGTERM goes to each process once. What is still there after the grace period is frozen with
SIGSTOP first, all of it, until a look shows nobody new: frozen processes neither fork nor
see each other die. Then comes SIGKILL. Rounds repeat until a look finds no living process,
because a fork can slip between look and signal; the group of each session leader is
signalled as a whole, which the kernel does at once and no fork slips through.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Awaitable, Callable

import trio

from groove_trio.shell.census import Census
from groove_trio.shell.procfs import Process, now_ticks, send
from groove_trio.words.base import AgentId

KILL_S = 10.0
"""How long, in seconds, killing may take. What survives it is uninterruptible or not ours."""

_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.2
_FREEZE_ROUNDS = 20

Look = Callable[[], Awaitable[list[Process]]]
"""Gives the living processes of one agent, as of now."""


class Ending:
    """The end of one agent's processes; several calls at a time work towards the same end.

    Args:
        agent: Whose processes.
        census: Who knows them.
        look: How to find them, instead of asking the census for its members.
    """

    __slots__ = ("_agent", "_census", "_look", "_told")

    def __init__(self, agent: AgentId, census: Census, look: Look | None = None) -> None:
        self._agent = agent
        self._census = census
        self._look = look
        self._told: set[tuple[int, int]] = set()

    async def look(self) -> list[Process]:
        """The living processes, as of now.

        Raises:
            OSError: They could not be looked at.
        """
        if self._look is not None:
            return await self._look()
        return await self._census.members(self._agent)

    async def end(self, grace_s: float) -> list[int]:
        """Asks, waits up to `grace_s` seconds for all to go, then kills; tells what survived.

        A cancellation cuts the grace short and not the killing, which is shielded and takes
        at most `KILL_S`.
        """
        gone = False
        survivors: list[int] = []
        try:
            with trio.move_on_after(grace_s):
                await self._ask()
                gone = True
        finally:
            if not gone:
                with trio.move_on_after(KILL_S + 1, shield=True):
                    survivors = await self.kill()
        return survivors

    async def kill(self) -> list[int]:
        """Freezes and kills in rounds for at most `KILL_S`; tells what survived.

        If nobody could look, the root counts as a survivor: not seen is not gone.
        """
        members: list[Process] = []
        pause_s = _FIRST_PAUSE_S
        with trio.move_on_after(KILL_S):
            while True:
                try:
                    members = await self._freeze()
                    if not members and not self._census.elusive:
                        return []
                    self._strike(members, signal.SIGKILL)
                    await self._census.chase(self._agent)
                except OSError:  # out of descriptors: they may come back
                    self._strike_blindly(signal.SIGKILL)
                await trio.sleep(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        return [process.pid for process in members or self._census.roots(self._agent)]

    async def _ask(self) -> None:
        """Sends SIGTERM once to each process of this moment, and waits for the end of all.

        Processes that are born later, to clean up say, are not asked.
        """
        asked_at = now_ticks()
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                members = await self.look()
                if not members and not self._census.elusive:
                    return
                for process in members:
                    if process.key not in self._told and process.start <= asked_at:
                        if send(process, signal.SIGTERM):
                            self._told.add(process.key)
                        if process.state in "Tt":
                            send(process, signal.SIGCONT)
            except OSError:
                self._strike_blindly(signal.SIGTERM)
            await trio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def _freeze(self) -> list[Process]:
        """Stops all members, until a look shows none that was not stopped; gives all it saw."""
        frozen: set[tuple[int, int]] = set()
        members: list[Process] = []
        for _ in range(_FREEZE_ROUNDS):
            members = await self.look()
            new = [process for process in members if process.key not in frozen]
            if not new:
                break
            self._strike(new, signal.SIGSTOP)
            frozen.update(process.key for process in new)
        return members

    def _strike(self, processes: list[Process], number: int) -> None:
        """Signals processes and the groups that can only be the agent's.

        The root's group is always among them, also when the root has ended: as long as it
        is not reaped, the group cannot be another's.
        """
        for process in (*self._census.roots(self._agent), *processes):
            send(process, number, to_group=process.session == process.pid)

    def _strike_blindly(self, number: int) -> None:
        """Signals the groups of roots where descriptors ran out: no look, no pidfd.

        A root that is still a child of ours to be waited for leads the group of its pid.
        """
        for root in self._census.roots(self._agent):
            asked_before = number == signal.SIGTERM and root.key in self._told
            with contextlib.suppress(OSError):  # ChildProcessError: it was reaped by another
                if not asked_before:
                    os.waitid(os.P_PID, root.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                    os.killpg(root.pid, number)
                    self._told.add(root.key)


async def end_leftovers(agent: AgentId, census: Census, grace_s: float) -> list[int]:
    """Ends what an earlier run left of an agent, found by environment; tells what survived.

    Raises:
        OSError: The processes could not be looked at.
    """

    async def look() -> list[Process]:
        return (await census.find([agent]))[agent]

    left = await Ending(agent, census, look).end(grace_s)
    return left or [process.pid for process in await look()]
