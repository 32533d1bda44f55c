"""Whose a process is, asked now and not of the last look: the owner's, an agent's, or nobody's.

By its mark, which it inherited and can't take off (`marks`). Where it has none, by its line of
parents, read afresh: a known process of an agent, or a known session, decides. What hangs beneath
the daemon and is nobody's known is nobody's at all: it may have come of any agent, so it is not
taken for the owner. All else is the owner's.
"""

from __future__ import annotations

from collections.abc import Iterator

from groove_trio.shell.census import Census
from groove_trio.shell.procfs import Process, read_process
from groove_trio.words.base import AgentId
from groove_trio.words.errors import NotAdmitted

_TRIES = 8  # a line is torn when one of it ends while it is read


def attribute(process: Process, census: Census) -> AgentId | None:
    """Tells which agent a living process belongs to; None for the owner's.

    Raises:
        NotAdmitted: It is an agent's, and nobody can say which one's; or another daemon's.
        ProcessLookupError: It is gone.
        OSError: It can't be looked at.
    """
    mark = census.marks.read(process.pid)
    if mark is True or (mark and not census.kinship.knows(mark)):
        raise NotAdmitted(
            f"The caller, process {process.pid}, belongs to an agent of another daemon, "
            "or to one that changed its limits of locks and memory.",
            pid=process.pid,
        )
    if mark:
        return mark
    for _ in range(_TRIES):
        try:
            return _by_line(process, census)
        except _Torn:
            again = read_process(process.pid)
            if again is None or again.key != process.key:
                break
            process = again
    raise ProcessLookupError(process.pid)


class _Torn(Exception):
    """Somebody in the line of parents ended while it was read."""


def _by_line(process: Process, census: Census) -> AgentId | None:
    if process.pid == census.me:
        return None
    for step in _upwards(process):
        agent = census.remembered(step)
        if agent is not None:
            return agent
        if step.parent == census.me:
            return _child(step, census)
    # Where orphans are not adopted by us, and could not be marked, a tag is all there is.
    return None if census.marks.whole else census.kinship.claim_tagged(process)


def _upwards(process: Process) -> Iterator[Process]:
    while True:
        yield process
        if process.parent == 0:  # init, or the first of a container
            return
        parent = read_process(process.parent)
        if parent is None or parent.start > process.start:
            raise _Torn
        process = parent


def _child(process: Process, census: Census) -> AgentId | None:
    """Whose a child of ours is that is not remembered: adopted just now, or the host's own."""
    agent = census.kinship.claim_tagged(process)
    if agent is not None or not census.kinship.stranger(process):
        return agent
    # An embedding program forks processes of its own, and those bear no mark.
    if not census.kill_strangers and census.marks.whole:
        return None
    raise NotAdmitted(
        f"The caller, process {process.pid} or one beneath it, was left behind by an agent, "
        "and nobody can say by which.",
        pid=process.pid,
    )
