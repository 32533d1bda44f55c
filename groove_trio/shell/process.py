"""One process tree: opened with pipes, read, written to, waited for, and ended without survivors.

The root leads a session of its own, so that the whole tree can be told from all else. It is
reaped only when its tree is closed: until then its pid, its process group and its session
number cannot mean anybody else. Its end is seen through a pidfd, in which the loop waits
like in any descriptor.

A tree costs the daemon four descriptors: three pipes and the pidfd.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import trio

from groove_trio.shell.census import Census
from groove_trio.shell.ending import KILL_S, Ending
from groove_trio.words.errors import GrooveError, OutOfResources, SpawnFailed, shown
from groove_trio.words.schemas import AgentId

READ_BYTES = 65_536
"""The most that one `Tree.receive` gives: what a pipe of Linux holds."""

HEADROOM = 32
"""Descriptors that spawning leaves free, so that what runs can still be watched and stopped."""

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
class Exit:
    """How the root process ended.

    Attributes:
        code: Its exit code; `None` if a signal ended it, or if nobody can say any more
            because someone else reaped it.
        signal: Name of the signal that ended it, such as ``SIGKILL``.
        started_s: When it was spawned, on trio's clock.
        ended_s: When its end was seen, on trio's clock.
    """

    code: int | None
    signal: str | None
    started_s: float
    ended_s: float

    @property
    def ok(self) -> bool:
        """Whether it ended by itself with code 0."""
        return self.code == 0


class Tree(trio.abc.AsyncResource):
    """A root process and all that came of it. Made by `open_tree`; close it with `aclose`."""

    __slots__ = (
        "_census",
        "_closed",
        "_ending",
        "_err",
        "_exit",
        "_in",
        "_out",
        "_pidfd",
        "_started_s",
        "_waiting",
        "agent",
        "pid",
    )

    def __init__(self, agent: AgentId, pid: int, pidfd: int, pipes: _Pipes, census: Census) -> None:
        self.agent = agent
        self.pid = pid
        self._pidfd = pidfd
        self._in, self._out, self._err = pipes.ours
        self._census = census
        self._started_s = trio.current_time()
        self._exit: Exit | None = None
        self._closed = False
        self._waiting = trio.Lock()
        self._ending = Ending(agent, census)

    async def write(self, data: bytes) -> None:
        """Writes all of `data` to the root's standard input; waits while the pipe is full.

        Raises:
            trio.BrokenResourceError: Nobody reads it any more.
            trio.ClosedResourceError: `close_stdin` or `aclose` was called.
        """
        await trio.lowlevel.checkpoint()
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._opened(self._in), left) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._in)
            except BrokenPipeError:
                raise trio.BrokenResourceError("the agent closed its standard input") from None

    async def close_stdin(self) -> None:
        """Ends the root's standard input; calling it again does nothing."""
        self._in = _close(self._in)
        await trio.lowlevel.checkpoint()

    async def receive(self, stream: Literal["out", "err"]) -> bytes:
        """What was written to standard output or error: at most `READ_BYTES`, ``b""`` at the end.

        The end comes when *no* process of the tree holds the pipe open any more, which can
        be long after the root ended. Always checkpoints before it reads, so a cancellation
        never loses data.

        Raises:
            trio.ClosedResourceError: `aclose` was called.
        """
        await trio.lowlevel.checkpoint()
        while True:
            descriptor = self._opened(self._out if stream == "out" else self._err)
            try:
                return os.read(descriptor, READ_BYTES)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(descriptor)

    async def wait(self) -> Exit:
        """Waits for the end of the root; its descendants may live on. Any number may wait."""
        if self._exit is None:
            async with self._waiting:
                if self._exit is None:
                    await trio.lowlevel.wait_readable(self._opened(self._pidfd))
                    self._exit = self._collect()
                return self._exit
        await trio.lowlevel.checkpoint()
        return self._exit

    async def survivors(self) -> list[int]:
        """The pids of this agent's living processes, now.

        Raises:
            OSError: They could not be looked at, which must not be taken for "none".
        """
        return [process.pid for process in await self._census.members(self.agent)]

    async def stop(self, grace_s: float) -> list[int]:
        """SIGTERM to the whole tree, up to `grace_s` seconds, then SIGKILL until none is left.

        Goes on until all of the tree is gone, not only the root. May be called again while
        it runs, say with a shorter grace; no process gets SIGTERM twice. A cancellation cuts
        the grace short; the killing is shielded and bounded by `ending.KILL_S`. Keep
        receiving meanwhile, or farewell lines stay in the pipe.

        Returns:
            The pids that survived SIGKILL: uninterruptible, or another user's. Mostly none.
        """
        return await self._ending.end(grace_s)

    async def aclose(self) -> None:
        """Kills whatever remains, closes every descriptor, reaps the root.

        A cancellation does not cut it short; `ending.KILL_S` and a second bound it.
        """
        if not self._closed:
            self._closed = True
            with trio.move_on_after(KILL_S + 1, shield=True):
                await self._ending.kill()
                await self.wait()
            self._release()
        await trio.lowlevel.checkpoint()

    def _release(self) -> None:
        self._in, self._out, self._err = _close(self._in), _close(self._out), _close(self._err)
        self._reap()
        self._pidfd = _close(self._pidfd)
        self._census.dismiss(self.agent, self.pid)

    def _reap(self) -> None:
        # Where the embedding program reaps everybody's children, it may have been first.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)

    def _collect(self) -> Exit:
        """Reads how the root ended and leaves it unreaped: its numbers stay taken."""
        try:
            told = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            told = None
        code: int | None = None
        name: str | None = None
        if told is not None and told.si_code == os.CLD_EXITED:
            code = told.si_status
        elif told is not None:
            name = signal_name(told.si_status)
        return Exit(code, name, self._started_s, trio.current_time())

    def _opened(self, descriptor: int) -> int:
        if descriptor < 0:
            raise trio.ClosedResourceError("the process tree was closed")
        return descriptor


@dataclass(frozen=True, slots=True)
class _Command:
    """What to start, as it was asked for."""

    argv: list[str]
    cwd: str
    place: int | None
    env: dict[str, str]
    descriptor_limit: int | None


class _Pipes:
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
        for descriptor in self.ours:
            os.close(descriptor)

    def close_theirs(self) -> None:
        for descriptor in self.theirs:
            os.close(descriptor)


async def open_tree(
    *,
    argv: Sequence[str],
    cwd: int | str,
    env: Mapping[str, str],
    agent: AgentId,
    census: Census,
    descriptor_limit: int | None = None,
) -> Tree:
    """Starts a program as the root of a new tree; returns when exec has succeeded.

    Never a shell: `argv` is handed to the kernel as it is, and a name without ``/`` is
    looked up in the ``PATH`` of `env`. A `cwd` given as a descriptor of a directory cannot
    be swapped for another before it is entered. Nothing of the daemon's is inherited but
    the three pipes. A cancellation is noticed before the start only, so no process is lost.

    Args:
        argv: Program and arguments.
        cwd: Working directory: a path, or a descriptor that stays the caller's.
        env: The whole environment; the caller puts ``GROOVE_AGENT`` and ``GROOVE_PROJECT`` in.
        agent: Whose tree it is.
        census: Where it is enrolled.
        descriptor_limit: Soft limit of descriptors for the tree, if not the daemon's own.

    Raises:
        SpawnFailed: The program or the directory is at fault; `errno` names how.
        OutOfResources: The machine is.
    """
    place, path = (cwd, f"/proc/self/fd/{cwd}") if isinstance(cwd, int) else (None, cwd)
    command = _Command(list(argv), path, place, dict(env), descriptor_limit)
    await trio.lowlevel.checkpoint()
    # From here on no checkpoint: a census never sees a child that is not enrolled.
    try:
        return _open(command, agent, census)
    except OSError as fault:
        raise _explained(fault, command) from fault
    except ValueError as fault:  # a NUL somewhere, or "=" in the name of a variable
        raise SpawnFailed(
            f"The program or its environment cannot be handed to the kernel: {fault}.",
            errno="EINVAL",
            what="program",
        ) from fault


def _open(command: _Command, agent: AgentId, census: Census) -> Tree:
    if not command.argv or not command.argv[0]:
        raise FileNotFoundError(errno.ENOENT, "no program is named")
    if command.place is not None and os.fstat(command.place).st_nlink == 0:
        raise FileNotFoundError(errno.ENOENT, "it was removed", command.cwd)
    pipes = _Pipes()
    try:
        _check_headroom(pipes)
        pid = _spawn(command, pipes)
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
        _close(pidfd)
        raise


def _spawn(command: _Command, pipes: _Pipes) -> int:
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
    )
    # From here on the child is ours alone: Popen would warn about it, poll it and reap it.
    child.returncode = 0
    if command.descriptor_limit is not None:
        _limit_descriptors(child.pid, command.descriptor_limit)
    return child.pid


def _check_headroom(pipes: _Pipes) -> None:
    # The kernel gives the lowest free number, so a high one means that few are left.
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and max(pipes.ours) + HEADROOM >= soft:
        raise OSError(errno.EMFILE, "too few descriptors are left")


def _limit_descriptors(pid: int, soft: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError):  # a set-user-id program, say: it keeps the daemon's
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(soft, hard), hard))


def _explained(fault: OSError, command: _Command) -> GrooveError:
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


def signal_name(number: int) -> str:
    """The name of a signal, such as ``SIGKILL``; ``SIG42`` for those without one."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def raise_descriptor_limit() -> int:
    """Raises this process's soft limit of descriptors to the hard one; gives what it was.

    A thousand agents take over four thousand descriptors, and 1,024 is the usual limit. Hand
    the old limit to `open_tree`: programs that use select(2) break above it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft


def _close(descriptor: int) -> int:
    """Closes a descriptor, wakes who waits for it, and gives what stands for a closed one."""
    if descriptor >= 0:
        trio.lowlevel.notify_closing(descriptor)
        os.close(descriptor)
    return -1
