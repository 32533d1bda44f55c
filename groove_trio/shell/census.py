"""One shared look at ``/proc`` that tells everybody which processes are whose.

A thousand agents that stop at once ask together and are answered by one scan: `refresh`
hands everyone who waits a scan that began after they asked. Scans run in slices on the loop,
not in a thread: a scan is thousands of very short system calls, each of which gives up the
interpreter lock, and a busy loop would make a thread wait up to 5 ms for each. And between
two checkpoints nothing can be spawned, so no scan ever takes a half-made agent for a
stranger. How a process is attributed is `kinship`'s matter.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection

import trio

from groove_trio.shell.kinship import Kinship, Roll
from groove_trio.shell.marks import Marks
from groove_trio.shell.procfs import (
    PROC,
    Process,
    read_children,
    read_process,
    read_variables,
    send,
)
from groove_trio.shell.subreaper import subreaper
from groove_trio.words.base import AgentId

__all__ = ["AGENT_VARIABLE", "PROJECT_VARIABLE", "SWEEP_S", "Census", "subreaper"]

AGENT_VARIABLE = "GROOVE_AGENT"
PROJECT_VARIABLE = "GROOVE_PROJECT"

SWEEP_S = 1.0
_HASTE_S = 0.05  # between sweeps while the dead come in hundreds: pids run out at 32,768
_MANY_DEAD = 100
_CHASE_S = 1.0

SLICE = 100  # about 2 ms
_GLANCES = 20  # between two checkpoints
_QUIET_GLANCES = 40  # without anybody new: what was chased is gone


class Census:
    """Knows the processes of all agents of one daemon; shared by all their trees.

    Args:
        project: The project root; a process counts as tagged only if its environment names
            this project beside the agent.
        kill_strangers: Whether adopted processes that belong to no agent are ended. True
            for the daemon, whose children are all agents; false for an embedding program.
        sweep_s: Seconds between two looks while anything is to be looked after.
        slice_size: Processes looked at between two checkpoints.

    Attributes:
        scan_cost_s: What the last scan took of the loop's time.
        looks: The number of the last scan that was finished.
        me: Our own pid.
        kinship: Who belongs to whom, as far as is remembered.
        marks: What agents' processes bear.
    """

    def __init__(
        self,
        *,
        project: str = "",
        kill_strangers: bool = False,
        sweep_s: float = SWEEP_S,
        slice_size: int = SLICE,
    ) -> None:
        self.project = project
        self.kill_strangers = kill_strangers
        self.sweep_s = sweep_s
        self.slice_size = slice_size
        self.scan_cost_s = 0.0
        self.me = os.getpid()
        self.kinship = Kinship(self.me, os.getsid(0), self._tag)
        self.marks = Marks()
        self.looks = 0
        self._roots: dict[int, Process] = {}
        self._roots_of: dict[AgentId, list[Process]] = {}
        self._processes: dict[int, Process] = {}
        self._roll = Roll()
        self._reaped = 0
        self._begun = 0
        self._scanning: trio.Event | None = None
        self._not_before = 0.0

    # What a tree tells

    def enroll(self, agent: AgentId, pid: int) -> Process:
        """Makes a child just spawned the root of an agent's tree. Call it before any checkpoint.

        A root is reaped by its tree, never by a sweep, so until `dismiss` its pid, its
        process group and its session cannot be given out again.

        Raises:
            OSError: The process could not be looked at.
        """
        root = read_process(pid)
        if root is None:
            raise ProcessLookupError(pid)
        self._roots[pid] = root
        self._roots_of.setdefault(agent, []).append(root)
        self._processes[pid] = root
        self.kinship.claim(root, agent)
        self.marks.put(pid, agent)
        return root

    def dismiss(self, agent: AgentId, pid: int) -> None:
        """Forgets a root that was reaped, or leaves it to the sweeps if it was not."""
        root = self._roots.pop(pid, None)
        left = [other for other in self._roots_of.pop(agent, ()) if other is not root]
        if left:
            self._roots_of[agent] = left

    # What anyone may ask

    async def refresh(self) -> None:
        """Looks at all processes; what is then known is never older than this call.

        Callers that wait together share one scan. Cancelling one does not cost the others
        theirs. Always checkpoints.

        Raises:
            OSError: ``/proc`` could not be read: descriptors ran out.
        """
        wanted = self._begun + 1
        while self.looks < wanted:
            if self._scanning is not None:
                await self._scanning.wait()
                continue
            done = self._scanning = trio.Event()
            try:
                await self._scan()
            finally:
                self._scanning = None
                done.set()

    async def members(self, agent: AgentId) -> list[Process]:
        """The processes of an agent, now: the living, and the dead never seen alive.

        Roots and others that ended and wait to be reaped do not count.

        Raises:
            OSError: As `refresh`.
        """
        await self.refresh()
        return self.last_members(agent)

    def last_members(self, agent: AgentId) -> list[Process]:
        """As `members`, as of the last look."""
        return list(self._roll.members.get(agent, ()))

    def everyone(self) -> list[Process]:
        """The processes of all agents as of the last look, and the roots enrolled since."""
        known = {process.key: process for each in self._roll.members.values() for process in each}
        return [*known.values(), *(root for root in self._roots.values() if root.key not in known)]

    def seen(self, pid: int) -> bool:
        """Whether there was a process of this number at the last look."""
        return pid in self._processes

    def remembered(self, process: Process) -> AgentId | None:
        """Whose a process is by what is known of it and of its session; takes no look."""
        agent = self.kinship.remembered(process)
        if agent is None and (leader := self._roots.get(process.session)) is not None:
            agent = self.kinship.owner(leader)  # enrolled after the last look
        return agent

    def roots(self, agent: AgentId) -> list[Process]:
        """The root processes of an agent that were not reaped yet, living or dead."""
        return list(self._roots_of.get(agent, ()))

    @property
    def busy(self) -> bool:
        """Whether a look is being taken."""
        return self._scanning is not None and self._begun > self.looks

    @property
    def elusive(self) -> bool:
        """Whether the last look saw dead strangers: a tree may be running away beneath it."""
        return self._roll.elusive

    async def find(self, agents: Collection[AgentId]) -> dict[AgentId, list[Process]]:
        """The processes of agents of an earlier run, known by their environment; as `members`.

        What is found is remembered, so `members` knows it from here on. Looks into every
        process of the machine that may be looked into: for the start of a daemon, and for
        ending what an earlier one left behind.

        Raises:
            OSError: As `refresh`.
        """
        self.kinship.know(agents)
        await self.refresh()
        above = self.kinship.ancestors(self._processes)
        for count, process in enumerate(list(self._processes.values())):
            if count % self.slice_size == 0:
                await trio.lowlevel.checkpoint()
            if process.pid not in above and self.kinship.owner(process) is None:
                self.kinship.claim_tagged(process)
        await self.refresh()
        return {agent: self.last_members(agent) for agent in agents}

    async def chase(self, agent: AgentId | None) -> None:
        """Hunts a chain that forks and ends faster than a look: its newest link is our child.

        The links that ended are struck as well, and only then reaped: the group that such a
        link led holds the link that it forked, until that one opens a session of its own.
        Where strangers are ended anyway, they are hunted too, whoever they came from. Goes
        on until nobody new turns up; the caller bounds it.

        Raises:
            OSError: As `refresh`.
        """
        quiet = 0
        while quiet < _QUIET_GLANCES:
            await trio.lowlevel.checkpoint()
            for _ in range(_GLANCES):
                quiet = 0 if self._glance(agent) else quiet + 1

    def _glance(self, agent: AgentId | None) -> bool:
        """Ends whom `chase` is after among our newest children; says if any may be of them."""
        seen = False
        for process in self._newborn():
            owner, stranger = self.kinship.owner(process), self.kinship.stranger(process)
            seen |= stranger or (owner is not None and owner == agent)
            if (stranger and self.kill_strangers) or (owner is not None and owner == agent):
                send(process, signal.SIGKILL, to_group=process.session == process.pid)
                self._reap(process)
        return seen

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Sweeps for ever: remembers who belongs where, reaps the adopted, ends strangers."""
        task_status.started()
        while True:
            await trio.sleep(_HASTE_S if self._reaped > _MANY_DEAD else self.sweep_s)
            self._reaped = 0
            # Out of descriptors: the next sweep may do better.
            with contextlib.suppress(OSError):
                if self.kinship or self._roll.strangers or read_children(self.me):
                    await self.refresh()
                    await self._end_strangers()

    # How it is done

    async def _scan(self) -> None:
        # At most half of the loop's time goes to scans, however many ask.
        await trio.sleep(max(0.0, self._not_before - trio.current_time()))
        self._begun += 1
        cost = 0.0
        processes: dict[int, Process] = {}
        directory = os.open(PROC, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            names = [name for name in os.listdir(directory) if name.isdecimal()]
            for first in range(0, len(names), self.slice_size):
                await trio.lowlevel.checkpoint()
                began = time.perf_counter()
                for name in names[first : first + self.slice_size]:
                    process = read_process(name, directory)
                    if process is not None:
                        processes[process.pid] = process
                cost += time.perf_counter() - began
        finally:
            os.close(directory)
        began = time.perf_counter()
        self._settle(processes)
        self.scan_cost_s = cost + time.perf_counter() - began
        self._not_before = trio.current_time() + self.scan_cost_s
        self.looks = self._begun

    def _settle(self, processes: dict[int, Process]) -> None:
        """Takes a new look for the truth, completed by what it may have missed."""
        self._processes = processes
        for root in self._roots.values():
            # Spawned after the listing: its tree must not look empty.
            if root.pid not in processes:
                now = read_process(root.pid)
                if now is not None and now.key == root.key:
                    processes[root.pid] = now
        # Whoever lost its parent while /proc was being listed is our child by now.
        self._add_children()
        self._roll = self.kinship.settle(processes)
        for process in list(processes.values()):
            self._reap(process)

    def _newborn(self) -> list[Process]:
        """Children of ours that the look at hand does not hold yet, attributed."""
        new = self._add_children()
        for process in new:
            self.kinship.place(process, self._processes, {self.me: None})
        return new

    def _add_children(self) -> list[Process]:
        new: list[Process] = []
        for pid in read_children(self.me):
            known = self._processes.get(pid)
            if known is None or (known.parent != self.me and pid not in self._roots):
                process = read_process(pid)
                if process is not None:
                    self._processes[pid] = process
                    new.append(process)
        return new

    def _reap(self, process: Process) -> None:
        """Reaps an ended child if it was adopted; never a root, never what the host spawned."""
        if process.parent != self.me or process.pid in self._roots:
            return
        stranger = self.kill_strangers and self.kinship.stranger(process)
        if stranger or self.kinship.adopted(process):
            with contextlib.suppress(ChildProcessError):
                if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG) is not None:
                    self._reaped += 1
                    self._processes.pop(process.pid, None)

    async def _end_strangers(self) -> None:
        if self.kill_strangers and self._roll.strangers:
            for stranger in self._roll.strangers:
                send(stranger, signal.SIGKILL, to_group=stranger.session == stranger.pid)
            with trio.move_on_after(_CHASE_S):
                await self.chase(None)

    def _tag(self, process: Process) -> AgentId | None:
        try:
            mark = self.marks.read(process.pid)
        except OSError:  # gone, or dead: those have no environment either
            mark = False
        if mark is not False:  # what the environment says then is nobody's word
            return None if mark is True else mark
        tags = read_variables(process.pid, (AGENT_VARIABLE, PROJECT_VARIABLE))
        if tags.get(PROJECT_VARIABLE, "") != self.project or AGENT_VARIABLE not in tags:
            return None
        return AgentId(tags[AGENT_VARIABLE])
