"""Who belongs to which agent: one shared look at ``/proc`` that answers everybody.

A process belongs to an agent if it is the agent's root process, or its parent belongs, or it
is in a session that a member opened, or it belonged when it was last seen, or it was adopted
by this process and its environment names the agent. Memberships are remembered by pid and
start time, so a process that was seen once stays attributed, whatever it does later: leave
the session, clear its environment, lose its parent. Only the daemon itself is in the
daemon's own session (no other can enter it), so what is in it is never claimed and never
signalled: an embedding program's own children are safe.

A thousand agents that stop at once ask together and are answered by one scan: `refresh`
hands everyone who waits a scan that began after they asked. Scans run in slices on the loop,
not in a thread: a scan is thousands of very short system calls, each of which gives up the
interpreter lock, and a busy loop would make a thread wait up to 5 ms for each. And between
two checkpoints nothing can be spawned, so no scan ever takes a half-made agent for a
stranger.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Collection, Iterator

import trio

from groove_trio.shell.procfs import (
    PROC,
    Process,
    read_children,
    read_process,
    read_variables,
    send,
)
from groove_trio.words.schemas import AgentId

AGENT_VARIABLE = "GROOVE_AGENT"
PROJECT_VARIABLE = "GROOVE_PROJECT"

SWEEP_S = 1.0
_SLICE = 100  # processes between two checkpoints: about 2 ms

_SET_CHILD_SUBREAPER = 36  # prctl(2)
_GET_CHILD_SUBREAPER = 37


class Census:
    """Attributes processes to agents; shared by all trees of one daemon.

    Args:
        project: The project root; of processes of an earlier run only those whose
            environment names this project are claimed.
        kill_strangers: Whether adopted processes that belong to no agent are ended. True
            for the daemon, whose children are all agents; false for an embedding program.
        sweep_s: Seconds between two looks while anything is to be looked after.
    """

    def __init__(
        self, *, project: str = "", kill_strangers: bool = False, sweep_s: float = SWEEP_S
    ) -> None:
        self.project = project
        self.kill_strangers = kill_strangers
        self.sweep_s = sweep_s
        self.scan_cost_s = 0.0
        self._roots: dict[int, tuple[int, AgentId]] = {}
        self._belongs: dict[tuple[int, int], AgentId] = {}
        self._sessions: dict[int, AgentId] = {}
        self._untagged: set[tuple[int, int]] = set()
        self._strangers: list[Process] = []
        self._processes: dict[int, Process] = {}
        self._members: dict[AgentId, list[Process]] = {}
        self._known: set[AgentId] = set()
        self._begun = 0
        self._finished = 0
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
        self._roots[pid] = (root.start, agent)
        self._belongs[root.key] = agent
        self._know([agent])
        return root

    def dismiss(self, pid: int) -> None:
        """Forgets a root that was reaped, or leaves it to the sweeps if it was not."""
        self._roots.pop(pid, None)

    # What anyone may ask

    async def refresh(self) -> None:
        """Looks at all processes; what is then known is never older than this call.

        Callers that wait together share one scan. Cancelling one does not cost the others
        theirs. Always checkpoints.

        Raises:
            OSError: ``/proc`` could not be read: descriptors ran out.
        """
        wanted = self._begun + 1
        while self._finished < wanted:
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
        """The living processes of an agent, now; ended ones that wait to be reaped do not count.

        Raises:
            OSError: As `refresh`.
        """
        await self.refresh()
        return self.last_members(agent)

    def last_members(self, agent: AgentId) -> list[Process]:
        """The living processes of an agent as of the last look."""
        return list(self._members.get(agent, ()))

    async def find(self, agents: Collection[AgentId]) -> dict[AgentId, list[Process]]:
        """The living processes of agents of an earlier run, known by their environment.

        What is found is remembered, so `members` knows it from here on. Looks into every
        process of the machine that may be looked into: for the start of a daemon, and for
        ending what it left behind.

        Raises:
            OSError: As `refresh`.
        """
        self._know(agents)
        await self.refresh()
        above = self._ancestors()
        for count, process in enumerate(list(self._processes.values())):
            if count % _SLICE == 0:
                await trio.lowlevel.checkpoint()
            if process.key not in self._belongs and process.pid not in above:
                self._claim_by_tag(process)
        await self.refresh()
        return {agent: self.last_members(agent) for agent in agents}

    def glance(self, agent: AgentId) -> list[Process]:
        """Members among our own children that the last look missed: quick, without a checkpoint.

        A process whose parent ends becomes our child, so the newest link of a chain that
        forks and ends faster than all of ``/proc`` can be read is found here.

        Raises:
            OSError: As `refresh`.
        """
        return [new for new in self._newborn() if self._belongs.get(new.key) == agent]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Sweeps for ever: remembers who belongs where, reaps the adopted, ends strangers."""
        task_status.started()
        while True:
            await trio.sleep(self.sweep_s)
            if not (self._belongs or self._strangers or read_children(os.getpid())):
                continue
            with contextlib.suppress(OSError):  # out of descriptors: the next sweep may do
                await self.refresh()
            if self.kill_strangers:
                for stranger in self._strangers:
                    send(stranger, signal.SIGKILL, to_group=True)

    # How it is found out

    async def _scan(self) -> None:
        # At most half of the loop's time goes to scans, however many ask.
        await trio.sleep(max(0.0, self._not_before - trio.current_time()))
        self._begun += 1
        cost = 0.0
        processes: dict[int, Process] = {}
        directory = os.open(PROC, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            names = [name for name in os.listdir(directory) if name.isdecimal()]
            for first in range(0, len(names), _SLICE):
                await trio.lowlevel.checkpoint()
                began = time.perf_counter()
                for name in names[first : first + _SLICE]:
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
        self._finished = self._begun

    def _settle(self, processes: dict[int, Process]) -> None:
        """Takes a new look for the truth: attributes, reaps, forgets what is gone."""
        self._processes = processes
        for pid, (start, agent) in self._roots.items():
            # A root spawned after the listing: its tree must not look empty.
            if pid not in processes:
                root = read_process(pid)
                if root is not None and root.start == start:
                    processes[pid] = root
                    self._belongs[root.key] = agent
        self._newborn()
        here = {process.key for process in processes.values()}
        self._belongs = {key: agent for key, agent in self._belongs.items() if key in here}
        self._untagged &= here
        self._attribute()
        self._reap()

    def _newborn(self) -> list[Process]:
        """Children of ours that the look at hand does not hold yet, attributed.

        Whoever lost its parent while ``/proc`` was being listed may not be in the listing,
        but is our child by now.
        """
        new = []
        for pid in read_children(os.getpid()):
            known = self._processes.get(pid)
            if known is not None and (pid in self._roots or known.parent == os.getpid()):
                continue
            process = read_process(pid)
            if process is not None:
                self._processes[pid] = process
                new.append(process)
        for process in new:
            self._owner(process, {})
        return new

    def _attribute(self) -> None:
        me, session = os.getpid(), os.getsid(0)
        self._sessions = self._live_sessions(session)
        decided: dict[int, AgentId | None] = dict.fromkeys(self._ancestors())
        members: dict[AgentId, list[Process]] = {}
        self._strangers = []
        for process in self._processes.values():
            agent = self._owner(process, decided)
            if agent is not None:
                if not process.dead:
                    members.setdefault(agent, []).append(process)
            elif process.parent == me and process.session != session:
                self._strangers.append(process)
        self._members = members

    def _ancestors(self) -> set[int]:
        """Ourselves and those above: never anybody's, though a tag may have come down from them.

        An agent that starts a daemon of its own leaves its tag in that daemon's environment.
        """
        line: set[int] = set()
        pid = os.getpid()
        while pid not in line:
            line.add(pid)
            process = self._processes.get(pid)
            pid = pid if process is None else process.parent
        return line

    def _live_sessions(self, own: int) -> dict[int, AgentId]:
        """Sessions that members opened: theirs alone, for none can be entered from outside."""
        sessions = dict(self._sessions)
        used = set()
        for process in self._processes.values():
            used.add(process.session)
            agent = self._belongs.get(process.key)
            if agent is not None:
                sessions[process.session] = agent
        sessions.pop(own, None)
        return {
            number: agent
            for number, agent in sessions.items()
            if number in used and self._opened_by_member(number)
        }

    def _opened_by_member(self, session: int) -> bool:
        """Whether its leader, if it lives, is a member: else the number was given out again."""
        leader = self._processes.get(session)
        return leader is None or leader.key in self._belongs

    def _owner(self, process: Process, decided: dict[int, AgentId | None]) -> AgentId | None:
        """Whose a process is, by memory, session, tag and parents, in this order."""
        line: list[Process] = []
        agent: AgentId | None = None
        while process.pid not in decided:
            decided[process.pid] = None  # ends a circle, which a torn look could show
            line.append(process)
            agent = self._belongs.get(process.key) or self._sessions.get(process.session)
            if agent is None and process.parent == os.getpid():
                agent = self._claim_by_tag(process)
            if agent is not None:
                break
            parent = self._processes.get(process.parent)
            # A parent younger than its child is another process with the parent's old pid.
            if parent is None or parent.start > process.start:
                break
            process = parent
        else:
            agent = decided[process.pid]
        for link in line:
            decided[link.pid] = agent
            if agent is not None:
                self._belongs[link.key] = agent
        return agent

    def _know(self, agents: Collection[AgentId]) -> None:
        if not self._known.issuperset(agents):
            self._known.update(agents)
            self._untagged.clear()  # one of them may have been passed over as unknown

    def _claim_by_tag(self, process: Process) -> AgentId | None:
        if process.key in self._untagged or process.session == os.getsid(0):
            return None
        tags = read_variables(process.pid, (AGENT_VARIABLE, PROJECT_VARIABLE))
        agent = AgentId(tags.get(AGENT_VARIABLE, ""))
        if agent in self._known and tags.get(PROJECT_VARIABLE, "") == self.project:
            self._belongs[process.key] = agent
            return agent
        self._untagged.add(process.key)
        return None

    def _reap(self) -> None:
        """Reaps ended children that were adopted; never a root, never what the host spawned."""
        me, session = os.getpid(), os.getsid(0)
        for process in self._processes.values():
            if process.parent != me or not process.dead or process.pid in self._roots:
                continue
            # A child that the host made itself is in the host's session or leads its own.
            adopted = process.session not in (session, process.pid)
            stranger = self.kill_strangers and process.session != session
            if process.key in self._belongs or adopted or stranger:
                with contextlib.suppress(ChildProcessError):
                    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG)


@contextlib.contextmanager
def subreaper() -> Iterator[None]:
    """Makes this process the one that adopts its orphaned descendants, while the block runs.

    Without it an orphan is adopted by init and leaves the process tree. What was set before
    is set again at the end.

    Raises:
        OSError: The kernel refused, or did not do what it said.
    """
    before = _is_subreaper()
    _set_subreaper(on=True)
    try:
        yield
    finally:
        _set_subreaper(on=before)


def _set_subreaper(*, on: bool) -> None:
    _prctl(_SET_CHILD_SUBREAPER, ctypes.c_ulong(on))
    if _is_subreaper() is not on:
        raise OSError("PR_SET_CHILD_SUBREAPER did not take effect")


def _is_subreaper() -> bool:
    answer = ctypes.c_int(0)
    _prctl(_GET_CHILD_SUBREAPER, ctypes.byref(answer))
    return bool(answer.value)


def _prctl(option: int, argument: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, argument, ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
