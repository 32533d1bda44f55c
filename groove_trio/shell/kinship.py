"""Whose a process is: decided from one look at all processes and the memory of earlier ones.

A process belongs to an agent if it is the agent's root process, or its parent belongs, or it
is in a session that a member opened, or it belonged when it was last seen, or it was adopted
by us and its environment names the agent. Memberships are remembered by pid and start time,
so a process that was seen once stays attributed, whatever it does later: leave the session,
clear its environment, lose its parent. No process can enter a session that exists; so what
is in our own session is never claimed, and an embedding program's own children are safe.

A look takes milliseconds, and a chain of processes that fork and end at once can run through
beneath it. What gives it away are its dead: each is adopted by us and waits to be reaped. So
a process that is dead when it is first seen counts as a member in that one look; only a look
without newly dead says that a tree is gone.

A look is torn: processes come and go while it is taken. A parent younger than its child is
another process with the parent's old pid; a circle of parents is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from groove_trio.shell.procfs import Process
from groove_trio.words.base import AgentId

Key = tuple[int, int]
"""Pid and start time: names one process for ever."""

ReadTag = Callable[[Process], AgentId | None]
"""Reads which agent the environment of a process names."""


@dataclass
class Roll:
    """What one look came to.

    Attributes:
        members: The processes of each agent: the living, and the newly dead.
        strangers: Adopted by us, in a session of their own, and nobody's.
        elusive: Whether some of the strangers were dead when first seen: something may be
            running away beneath our looks.
    """

    members: dict[AgentId, list[Process]] = field(default_factory=dict[AgentId, list[Process]])
    strangers: list[Process] = field(default_factory=list[Process])
    elusive: bool = False


class Kinship:
    """Remembers who belongs to whom, from look to look.

    Args:
        me: Our own pid: whoever is our child without being a root was adopted.
        own_session: Our own session.
        read_tag: Looks into the environment of one process.
    """

    def __init__(self, me: int, own_session: int, read_tag: ReadTag) -> None:
        self._me = me
        self._own_session = own_session
        self._read_tag = read_tag
        self._belongs: dict[Key, AgentId] = {}
        self._sessions: dict[int, AgentId] = {}
        self._known: set[AgentId] = set()
        self._untagged: set[Key] = set()
        self._seen_strangers: set[Key] = set()

    def __bool__(self) -> bool:
        """Whether anybody belongs to anyone."""
        return bool(self._belongs)

    def know(self, agents: Collection[AgentId]) -> None:
        """Tells which agents there are; the environment of a process may then name them."""
        if not self._known.issuperset(agents):
            self._known.update(agents)
            self._untagged.clear()  # one of them may have been passed over as unknown

    def claim(self, process: Process, agent: AgentId) -> None:
        """Makes a process an agent's, whatever it looks like."""
        self.know([agent])
        self._belongs[process.key] = agent

    def claim_tagged(self, process: Process) -> AgentId | None:
        """Makes a process the agent's that its environment names, if it names a known one."""
        if process.key in self._untagged or process.session == self._own_session:
            return None
        agent = self._read_tag(process)
        if agent is not None and agent in self._known:
            self._belongs[process.key] = agent
            return agent
        self._untagged.add(process.key)
        return None

    def owner(self, process: Process) -> AgentId | None:
        """Whose a process is, as far as is remembered."""
        return self._belongs.get(process.key)

    def knows(self, agent: AgentId) -> bool:
        """Whether there is or was such an agent."""
        return agent in self._known

    @property
    def populated(self) -> bool:
        """Whether there is or was any agent."""
        return bool(self._known)

    def remembered(self, process: Process) -> AgentId | None:
        """Whose a process is, by itself or by its session, as far as is remembered."""
        agent = self._belongs.get(process.key)
        if agent is None and process.session != self._own_session:
            agent = self._sessions.get(process.session)
        return agent

    def adopted(self, process: Process) -> bool:
        """Whether a child of ours was surely adopted and not made by this very program.

        What a program forks itself is in the program's session, or leads one of its own.
        """
        return process.key in self._belongs or process.session not in (
            self._own_session,
            process.pid,
        )

    def stranger(self, process: Process) -> bool:
        """Whether a child of ours is nobody's, and not of our session."""
        return process.key not in self._belongs and process.session != self._own_session

    def ancestors(self, processes: Mapping[int, Process]) -> set[int]:
        """Ourselves and those above, who are nobody's, though a tag may have come down from them.

        An agent that starts a daemon of its own leaves its tag in that daemon's environment.
        """
        line: set[int] = set()
        pid = self._me
        while pid not in line:
            line.add(pid)
            process = processes.get(pid)
            pid = pid if process is None else process.parent
        return line

    def settle(self, processes: Mapping[int, Process]) -> Roll:
        """Attributes everybody in a new look, and forgets who is gone."""
        here = {process.key for process in processes.values()}
        before = self._belongs.keys() & here
        self._belongs = {key: self._belongs[key] for key in before}
        self._untagged &= here
        self._sessions = self._live_sessions(processes)
        roll = Roll()
        decided: dict[int, AgentId | None] = dict.fromkeys(self.ancestors(processes))
        for process in processes.values():
            agent = self.place(process, processes, decided)
            if agent is not None:
                if not process.dead or process.key not in before:
                    roll.members.setdefault(agent, []).append(process)
            elif process.parent == self._me and self.stranger(process):
                roll.strangers.append(process)
                roll.elusive |= process.dead and process.key not in self._seen_strangers
        self._seen_strangers = {stranger.key for stranger in roll.strangers}
        return roll

    def place(
        self,
        process: Process,
        processes: Mapping[int, Process],
        decided: dict[int, AgentId | None],
    ) -> AgentId | None:
        """Whose a process is: by memory, session, tag and parents, in this order.

        Remembers the answer, in `decided` for this look, for the whole line up to where it
        was found.
        """
        line: list[Process] = []
        agent: AgentId | None = None
        step: Process | None = process
        while step is not None and agent is None:
            if step.pid in decided:
                agent = decided[step.pid]
                break
            decided[step.pid] = None
            line.append(step)
            agent = self._own_mark(step)
            parent = processes.get(step.parent)
            step = None if parent is None or parent.start > step.start else parent
        for link in line:
            decided[link.pid] = agent
            if agent is not None:
                self._belongs[link.key] = agent
        return agent

    def _own_mark(self, process: Process) -> AgentId | None:
        agent = self._belongs.get(process.key) or self._sessions.get(process.session)
        if agent is None and process.parent == self._me:
            agent = self.claim_tagged(process)
        return agent

    def _live_sessions(self, processes: Mapping[int, Process]) -> dict[int, AgentId]:
        """The sessions that members opened, as long as anybody is in them.

        The number of a session can be given out again once nobody is left in it: then its
        leader is somebody who is not remembered.
        """
        sessions = dict(self._sessions)
        used: set[int] = set()
        for process in processes.values():
            used.add(process.session)
            agent = self._belongs.get(process.key)
            if agent is not None:
                sessions[process.session] = agent
        sessions.pop(self._own_session, None)
        return {
            number: agent
            for number, agent in sessions.items()
            if number in used
            and ((leader := processes.get(number)) is None or leader.key in self._belongs)
        }
