"""How a program is started, and what is said when it cannot be.

Through `subprocess.Popen`, for the sake of its ``vfork`` and of its way of telling why exec
failed, and with nothing else of it: the pipes, the waiting and the reaping are the tree's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from groove_trio.words.errors import GrooveError, OutOfResources, SpawnFailed, shown

HEADROOM = 32
"""Descriptors that spawning leaves free, so that what runs can still be watched and stopped."""

NO_CORE = 1
"""The limit under which Linux writes no core dump: one byte holds none, and of a pipe to a program,
for which a limit counts for nothing else, the kernel takes 1 to mean "not at all" (coredump.c)."""

_SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOSPC}

_REASONS = {
    errno.ENOENT: "there is no such program",
    errno.EACCES: "it is not executable, or a directory above it may not be entered",
    errno.ENOEXEC: "it is not a program: neither a binary of this machine nor a #! script",
    errno.E2BIG: "the arguments and the environment together are longer than the kernel takes",
    errno.ENOTDIR: "a part of the path is not a directory",
    errno.ELOOP: "the path has too many symbolic links",
    errno.ENAMETOOLONG: "the path is too long",
    errno.ETXTBSY: "the program is being written to",
    errno.EPERM: "the kernel does not permit it",
    errno.EMFILE: "the daemon has no file descriptor left",
    errno.ENFILE: "the machine has no file descriptor left",
    errno.ENOMEM: "the machine has no memory left",
    errno.EAGAIN: "the machine or the user has too many processes",
}


@dataclass(frozen=True, slots=True)
class Command:
    """What to start. `place` is the descriptor that `cwd` was given as, if it was."""

    argv: list[str]
    cwd: str
    place: int | None
    env: dict[str, str] = field(repr=False)  # it may hold a key
    descriptor_limit: int | None
    pass_fds: tuple[int, ...] = ()


class Pipes:
    """The three pipes of a tree: our ends non-blocking, the child's ends as it expects them."""

    __slots__ = ("ours", "theirs")

    def __init__(self) -> None:
        self.ours: list[int] = []
        self.theirs: list[int] = []
        try:
            for _ in range(3):
                reader, writer = os.pipe2(os.O_CLOEXEC)
                to_child = not self.ours
                self.ours.append(writer if to_child else reader)
                self.theirs.append(reader if to_child else writer)
            for descriptor in self.ours:
                os.set_blocking(descriptor, False)
        except OSError:
            self.close_ours()
            self.close_theirs()
            raise

    def close_ours(self) -> None:
        """Closes the daemon's ends."""
        for descriptor in self.ours:
            os.close(descriptor)

    def close_theirs(self) -> None:
        """Closes the child's ends in this process."""
        for descriptor in self.theirs:
            os.close(descriptor)


def spawn(command: Command, pipes: Pipes) -> int:
    """Starts the program in a session of its own; gives its pid when exec has succeeded.

    Blocks for as long as that takes: about a millisecond.

    Raises:
        OSError: As exec, chdir or fork said it.
        ValueError: Something cannot be handed to the kernel at all.
    """
    # Not in a thread: the interpreter holds its lock from vfork to exec in any case, and here
    # nothing can come between the fork and the enrolment.
    child = subprocess.Popen(
        command.argv,
        stdin=pipes.theirs[0],
        stdout=pipes.theirs[1],
        stderr=pipes.theirs[2],
        cwd=command.cwd,
        env=command.env,
        start_new_session=True,
        close_fds=True,
        pass_fds=command.pass_fds,
    )
    # From here on the child is ours alone: Popen would warn about it, poll it and reap it.
    child.returncode = 0
    if command.descriptor_limit is not None:
        _limit_descriptors(child.pid, command.descriptor_limit)
    return child.pid


def check_headroom(pipes: Pipes) -> None:
    """Makes sure that `HEADROOM` descriptors are left beside the pipes just made.

    Raises:
        OSError: EMFILE, fewer are.
    """
    # The kernel gives the lowest free number, so a high one means that few are left.
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and max(pipes.ours) + HEADROOM >= soft:
        raise OSError(errno.EMFILE, "too few descriptors are left")


def _limit_descriptors(pid: int, soft: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError):  # a set-user-id program, say: it keeps the daemon's
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(soft, hard), hard))


def explained(fault: OSError, command: Command) -> GrooveError:
    """Turns what exec, fork or pipe said into the error that tells whose fault it was."""
    number = fault.errno or errno.EIO
    name = errno.errorcode.get(number, str(number))
    reason = _REASONS.get(number, os.strerror(number).lower())
    if number in _SHORTAGES:
        return OutOfResources(f"No process could be started: {reason} ({name}).", errno=name)
    program = command.argv[0] if command.argv else ""
    # Popen names the directory in its error if entering that was what failed.
    if fault.filename == command.cwd != program:
        return SpawnFailed(
            f"The working directory cannot be entered: {os.strerror(number).lower()} ({name}).",
            errno=name,
            what="cwd",
        )
    if number == errno.ENOENT and "/" in program and Path(command.cwd, program).is_file():
        reason = "the interpreter that it names does not exist"
    return SpawnFailed(
        f"The program {shown(program)} could not be started: {reason} ({name}).",
        errno=name,
        what="program",
    )


def raise_descriptor_limit() -> int:
    """Raises this process's soft limit of descriptors to the hard one; gives what it was.

    A thousand agents take over four thousand descriptors, and 1,024 is the usual limit. Hand
    the old limit to `open_tree`: programs that use select(2) break above it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft


def forbid_core_dumps() -> None:
    """Has this process, and all that it starts, leave no image of its memory when it crashes.

    The daemon's memory holds the key to stored keys, an agent's environment one of them. The limit
    is inherited and can't be raised again by whoever is not root.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (NO_CORE, NO_CORE))
