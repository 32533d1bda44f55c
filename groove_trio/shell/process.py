"""One process tree: opened with pipes, read, written to, waited for, and ended without survivors.

The root leads a session of its own, so that the whole tree can be told from all else. It is
reaped only when its tree is closed: until then its pid, its process group and its session
number cannot mean anybody else. Its end is seen through a pidfd, in which the loop waits
like in any descriptor.

A tree costs the daemon four descriptors: three pipes and the pidfd.
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from typing import Literal

import trio

from groove_trio.shell.census import Census
from groove_trio.shell.ending import KILL_S, Ending
from groove_trio.shell.spawning import Pipes
from groove_trio.words.base import AgentId

READ_BYTES = 65_536
"""The most that one `Tree.receive` gives: what a pipe of Linux holds."""


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

    def __init__(self, agent: AgentId, pid: int, pidfd: int, pipes: Pipes, census: Census) -> None:
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


def signal_name(number: int) -> str:
    """The name of a signal, such as ``SIGKILL``; ``SIG42`` for those without one."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def _close(descriptor: int) -> int:
    """Closes a descriptor, wakes who waits for it, and gives what stands for a closed one."""
    if descriptor >= 0:
        trio.lowlevel.notify_closing(descriptor)
        os.close(descriptor)
    return -1
