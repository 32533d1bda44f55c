"""How a process tree comes to be: pipes, the program, its pidfd, its enrolment; all or nothing."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Mapping, Sequence

import trio

from groove_trio.shell.census import Census
from groove_trio.shell.process import Tree
from groove_trio.shell.spawning import Command, Pipes, check_headroom, explained, spawn
from groove_trio.words.base import AgentId
from groove_trio.words.errors import SpawnFailed


async def open_tree(
    *,
    argv: Sequence[str],
    cwd: int | str,
    env: Mapping[str, str],
    agent: AgentId,
    census: Census,
    descriptor_limit: int | None = None,
    pass_fds: Sequence[int] = (),
) -> Tree:
    """Starts a program as the root of a new tree; returns when exec has succeeded.

    Never a shell: `argv` is handed to the kernel as it is, and a name without ``/`` is
    looked up in the ``PATH`` of `env`. A `cwd` given as a descriptor of a directory cannot
    be swapped for another before it is entered. Nothing of the daemon's is inherited but
    the three pipes and what is named. A cancellation is noticed before the start only, so no
    process is lost.

    Args:
        argv: Program and arguments.
        cwd: Working directory: a path, or a descriptor that stays the caller's.
        env: The whole environment; the caller puts ``GROOVE_AGENT`` and ``GROOVE_PROJECT`` in.
        agent: Whose tree it is.
        census: Where it is enrolled.
        descriptor_limit: Soft limit of descriptors for the tree, if not the daemon's own.
        pass_fds: Descriptors that the root inherits beside the pipes, under the same numbers.

    Raises:
        SpawnFailed: The program or the directory is at fault; `errno` names how.
        OutOfResources: The machine is at fault.
    """
    place, path = (cwd, f"/proc/self/fd/{cwd}") if isinstance(cwd, int) else (None, cwd)
    command = Command(list(argv), path, place, dict(env), descriptor_limit, tuple(pass_fds))
    await trio.lowlevel.checkpoint()
    # From here on no checkpoint: a census never sees a child that is not enrolled.
    try:
        return _open(command, agent, census)
    except OSError as fault:
        raise explained(fault, command) from fault
    except ValueError as fault:  # a NUL somewhere, or "=" in the name of a variable
        raise SpawnFailed(
            f"The program or its environment cannot be handed to the kernel: {fault}.",
            errno="EINVAL",
            what="program",
        ) from fault


def _open(command: Command, agent: AgentId, census: Census) -> Tree:
    if not command.argv or not command.argv[0]:
        raise FileNotFoundError(errno.ENOENT, "no program is named")
    if command.place is not None and os.fstat(command.place).st_nlink == 0:
        raise FileNotFoundError(errno.ENOENT, "it was removed", command.cwd)
    pipes = Pipes()
    try:
        check_headroom(pipes)
        pid = spawn(command, pipes)
    except BaseException:
        pipes.close_ours()
        raise
    finally:
        pipes.close_theirs()
    pidfd = -1
    try:
        pidfd = os.pidfd_open(pid)
        census.enroll(agent, pid)
        return Tree(agent, pid, pidfd, pipes, census)
    except BaseException:
        os.killpg(pid, signal.SIGKILL)  # safe: an unreaped child of ours leads this group
        os.waitpid(pid, 0)
        census.dismiss(agent, pid)
        pipes.close_ours()
        if pidfd >= 0:
            os.close(pidfd)
        raise
