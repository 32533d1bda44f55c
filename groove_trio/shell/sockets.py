"""Who holds a socket: the descriptors of living processes, looked through for those asked about.

The kernel tells a socket's inode and not its processes; those are found in ``/proc/<pid>/fd``, at
about 2 µs a descriptor. Who connects has mostly just been started, so processes newer than the
census's last look come first, then the agents' known ones, then all others. One process of an
agent that holds the socket settles it. Nobody is taken for the owner but by a process that was
seen to hold the socket, was found not to be an agent's, and still held it after that; and only
when no process of an agent holds it too. So passing a socket around while we look, keeping it
where we can't look (in flight, in an io_uring, in a process that can't be traced) or ending in
time gains nothing but a refusal.

Once somebody was seen to hold a socket who is not an agent's, the agents' processes have all been
looked at, as far as the census knows them, and of all others those are looked at that bear a mark.
So it pays to look first where owners' callers were last found. Where marks can't be put, nobody is
passed over.

Callers that come together share one sweep, which gives way to all other tasks every millisecond.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

import trio

from groove_trio.shell.caller import BORROWED
from groove_trio.shell.census import Census
from groove_trio.shell.lineage import attribute
from groove_trio.shell.procfs import PROC, read_process
from groove_trio.words.base import AgentId
from groove_trio.words.errors import GrooveError, NotAdmitted, OutOfResources

SLICE_S = 0.001  # of looking before others get their turn: some 500 descriptors
SWEEPS = 3  # a holder may fork and end between the listing and the look

REMEMBERED = 64
"""Processes in which the owner's callers were last found. A command line is a new one each time; a
browser, an editor and a few watchers are what comes again."""

_LINKS = 100  # read between two looks at the clock
_GONE = (FileNotFoundError, ProcessLookupError)


@dataclass(slots=True, eq=False)
class _Search:
    """One socket asked about."""

    link: str
    sweeps: int = 0
    outside: bool = False  # somebody holds it who is no agent's
    settled: bool = False
    agent: AgentId | None = None
    refusal: GrooveError | None = None

    def settle(self, agent: AgentId | None = None, refusal: GrooveError | None = None) -> None:
        self.settled, self.agent, self.refusal = True, agent, refusal


class Seeker:
    """Finds out which agent holds a socket; shared by all connections."""

    def __init__(self, census: Census) -> None:
        self._census = census
        self._waiting: list[_Search] = []
        self._sweeping: trio.Event | None = None
        self._until = 0.0
        self._owners: dict[int, None] = {}  # the last found comes last

    async def whose(self, inode: int) -> AgentId | None:
        """The agent that holds a socket; None if only others do, so that it is the owner's.

        Always checkpoints.

        Raises:
            NotAdmitted: Nobody was found to hold it, or a process that can't be attributed.
            OutOfResources: No descriptor was free to look with.
        """
        search = _Search(f"socket:[{inode}]")
        self._waiting.append(search)
        try:
            while not search.settled:
                if self._sweeping is None:
                    await self._lead()
                else:
                    await self._sweeping.wait()
        finally:
            self._waiting.remove(search)
        await trio.lowlevel.checkpoint()
        if search.refusal is not None:
            raise search.refusal
        return search.agent

    async def _lead(self) -> None:
        done = self._sweeping = trio.Event()
        batch = list(self._waiting)
        try:
            await self._sweep(batch)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "EIO")
            for search in batch:
                search.settle(refusal=OutOfResources("The caller can't be told.", errno=name))
        finally:
            self._sweeping = None
            done.set()

    async def _sweep(self, batch: list[_Search]) -> None:
        wanted = {search.link: search for search in batch if not search.settled}
        self._until = time.perf_counter() + SLICE_S
        pids = {int(name) for name in os.listdir(PROC) if name.isdecimal()}
        await self._look_at(self._unseen(pids), wanted)
        members = self._members() if wanted else []
        if wanted:
            await self._look_at(members, wanted)
            self._let_pass(wanted)
        if wanted:
            await self._look_at(self._others(pids.difference(members)), wanted, others=True)
            self._let_pass(wanted)
        for search in wanted.values():
            search.sweeps += 1
            if search.sweeps == SWEEPS:
                search.settle(refusal=NotAdmitted("Nobody was seen to hold the caller's socket."))

    def _unseen(self, pids: set[int]) -> list[int]:
        """Those that the census does not know yet, the newest first as far as numbers tell."""
        return sorted((pid for pid in pids if not self._census.seen(pid)), reverse=True)

    def _members(self) -> list[int]:
        everyone = sorted(self._census.everyone(), key=lambda each: each.start, reverse=True)
        return [process.pid for process in everyone]

    def _others(self, pids: set[int]) -> list[int]:
        known = [pid for pid in reversed(self._owners) if pid in pids]
        return [*known, *sorted(pids.difference(known), reverse=True)]

    @staticmethod
    def _let_pass(wanted: dict[str, _Search]) -> None:
        """Settles what others hold, once no agent was found that holds it as well."""
        for search in [each for each in wanted.values() if each.outside]:
            search.settle()
            del wanted[search.link]

    async def _look_at(
        self, pids: Iterable[int], wanted: dict[str, _Search], *, others: bool = False
    ) -> None:
        for pid in pids:
            if not wanted:
                return
            if others and all(search.outside for search in wanted.values()):
                await self._give_way()
                if self._bears_no_mark(pid):
                    continue
            await self._look(pid, wanted)

    def _bears_no_mark(self, pid: int) -> bool:
        """Whether a process the census took for nobody's is no agent's; a tenth of a look."""
        try:
            return self._census.marks.whole and self._census.marks.read(pid) is False
        except OSError:
            return False

    async def _look(self, pid: int, wanted: dict[str, _Search]) -> None:
        await self._give_way()
        try:
            directory = os.open(f"{PROC}/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (*_GONE, PermissionError):  # another user's, or one that may not be traced
            return
        lent = BORROWED if pid == os.getpid() else {}
        try:
            with os.scandir(directory) as entries:
                for count, entry in enumerate(entries):
                    if count % _LINKS == 0:
                        await self._give_way()
                    link = _target(entry.name, directory)
                    search = wanted.get(link)
                    if search is None:
                        continue
                    # The gate's copy says nothing: the caller may hold its own no more.
                    if link != f"socket:[{lent.get(int(entry.name))}]":
                        self._found(search, pid, entry.name, directory)
                        if search.settled:
                            del wanted[search.link]
        except (*_GONE, PermissionError):
            pass
        finally:
            os.close(directory)

    async def _give_way(self) -> None:
        if time.perf_counter() > self._until:
            await trio.lowlevel.checkpoint()
            self._until = time.perf_counter() + SLICE_S

    def _found(self, search: _Search, pid: int, name: str, directory: int) -> None:
        process = read_process(pid)
        if process is None:
            return
        try:
            agent = attribute(process, self._census)
        except _GONE:
            return
        except NotAdmitted as refusal:
            search.settle(refusal=refusal)
            return
        # The directory is this very process's, whatever becomes of its pid: if the link is still
        # there, all that was read in between was read of the one who holds the socket.
        if _target(name, directory) != search.link:
            return
        if agent is None:
            search.outside = True
            self._owners.pop(pid, None)
            self._owners[pid] = None
            if len(self._owners) > REMEMBERED:
                del self._owners[next(iter(self._owners))]
        else:
            search.settle(agent)


def _target(name: str, directory: int) -> str:
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError:
        return ""
