"""Everything outside the daemon, played: disk, clock, threads, processes, and chance itself.

One `World` lasts for one seed and for several daemons, one after the other. All chance comes
from the seed: which task runs next, which call fails, when the daemon dies, and what the power
cut leaves. What happens is noted in `trace`, and the same seed gives the same trace.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from disk import Disk
from house import FakeCensus, FakeTree
from trio._core import _run as scheduler

from groove_trio.shell import ending
from groove_trio.shell.output import OutputLog
from groove_trio.shell.procfs import Process
from groove_trio.words.base import AgentId
from groove_trio.words.clock import NS

EPOCH_NS = 1_795_367_880 * NS
PID = 4242  # of every daemon
ROOT_CHARACTERS = 160
TRACE_SHOWN = 60  # lines


class Violation(AssertionError):
    """Something happened that must never happen."""


class World:
    """What one seed makes of it all.

    Args:
        seed: Decides everything.
        directory: An empty one.

    Attributes:
        chance: Decides; asked in the same order whenever the seed is the same.
        trace: What happened, a line each.
        violation: What must not have happened, the first of it.
        look: Called between any two steps of tasks.
    """

    def __init__(self, seed: int, directory: Path) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.trace: list[str] = []
        self.violation: str | None = None
        # As long wherever it is: the path is written into files, whose sizes are in the trace.
        self.root = directory / ("w" * (ROOT_CHARACTERS - len(str(directory)) - 1))
        self.root.mkdir()
        self.project = self.root / "project"
        self.config = self.root / "config"
        self.disk = Disk(self.root, self.chance, self.note)
        self.kernel = Kernel(self)
        self.look: Callable[[], None] = lambda: None
        self.steps = 0
        self.crash_at: int | None = None  # a step
        self.crash_on_answer: int | None = None
        self.doomed: dict[trio.lowlevel.Task, tuple[int, trio.CancelScope]] = {}
        self._past_ns = EPOCH_NS

    # Time

    def now(self) -> int:
        """Nanoseconds since the epoch: trio's clock, which begins anew with every daemon."""
        try:
            return self._past_ns + int(trio.current_time() * NS)
        except RuntimeError:
            return self._past_ns

    # Telling

    def note(self, what: str) -> None:
        """Adds a line to the trace."""
        self.trace.append(f"{(self.now() - EPOCH_NS) / NS:9.3f} {self.steps:6d} {what}")

    def fail(self, what: str) -> None:
        """Notes what must not happen, and ends the daemon; raises nothing where it is called."""
        if self.violation is None and not self.disk.dead:
            self.violation = what
            self.note(f"VIOLATION {what}")
            self.disk.die()

    def check(self) -> None:
        """Raises what went wrong, with all it takes to see it again."""
        if self.violation is not None:
            tail = "\n".join(self.trace[-TRACE_SHOWN:])
            raise Violation(
                f"seed {self.seed}: {self.violation}\n{tail}\n"
                f"again: GROOVE_SIMULATION_SEED={self.seed} pytest tests/simulation"
            )

    def answered(self) -> None:
        """Somebody has an answer; the moment for a power cut that shows what it was worth."""
        if self.crash_on_answer is not None:
            self.crash_on_answer -= 1
            if self.crash_on_answer == 0:
                self.note("died on an answer")
                self.disk.die()

    # Running

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Puts all that is played in the place of what is real."""
        alert = Alert(self)
        logger = logging.getLogger("groove_trio")
        ids = random.Random(~self.seed)
        with pytest.MonkeyPatch.context() as patch:
            self.disk.install(patch)
            install_order(patch, self.seed)
            patch.setattr(trio.to_thread, "run_sync", self._run_sync)
            patch.setattr(time, "time_ns", self.now)
            patch.setattr(os, "getpid", lambda: PID)
            patch.setattr(secrets, "token_hex", lambda size: ids.randbytes(size).hex())
            patch.setattr(secrets, "token_bytes", ids.randbytes)
            patch.setitem(OutputLog.__init__.__kwdefaults__, "clock", self.now)
            patch.setattr(ending, "send", self.kernel.send)
            patch.setattr(logger, "handlers", [alert])
            patch.setattr(logger, "propagate", False)
            yield

    def run(self, daemon: Callable[[], Any]) -> None:
        """Runs one daemon until it ends or dies; a violation is in `violation`."""
        clock = trio.testing.MockClock(autojump_threshold=0)

        async def main() -> None:
            with trio.CancelScope() as scope:
                self.disk.died = scope.cancel
                await daemon()
            self._past_ns = self.now() + int(self.chance.random() * 20 * NS)

        try:
            trio.run(main, clock=clock, instruments=[Steps(self)], strict_exception_groups=True)
        except BaseException as fault:
            if isinstance(fault, KeyboardInterrupt):
                raise
            if not self.disk.dead:  # what a dying daemon says, nobody hears
                self.fail(f"the daemon broke: {_told(fault)}")
            self._past_ns += 60 * NS
        self.doomed.clear()
        _close_all(self.root)

    async def _run_sync(
        self,
        function: Any,
        *arguments: Any,
        abandon_on_cancel: bool = False,
        limiter: trio.CapacityLimiter | None = None,
    ) -> Any:
        """As `trio.to_thread.run_sync`, in the loop: a job waits, works at once, waits again."""
        await trio.lowlevel.checkpoint()
        async with limiter or trio.CapacityLimiter(1):
            with trio.CancelScope(shield=not abandon_on_cancel):
                await trio.sleep(self.disk.delay_s())
                try:
                    return function(*arguments)
                finally:
                    await trio.sleep(self.disk.delay_s())

    async def cut_short(self, work: Callable[[], Any], steps: int) -> None:
        """Does some work in this task, and cancels it when it has run for so many steps."""
        task = trio.lowlevel.current_task()
        with trio.CancelScope() as scope:
            self.doomed[task] = (steps, scope)
            await work()
        self.doomed.pop(task, None)


def install_order(patch: pytest.MonkeyPatch, seed: int) -> None:
    """Has trio take tasks in an order that the seed decides; its own tests do the same."""
    order = random.Random(seed)
    patch.setattr(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    patch.setattr(scheduler, "_r", order)


class Steps(trio.abc.Instrument):
    """Counts the steps of tasks: to look between them, to cancel at one, to die at one."""

    def __init__(self, world: World) -> None:
        self._world = world

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        world = self._world
        world.steps += 1
        if world.disk.dead:
            return
        if (doomed := world.doomed.get(task)) is not None:
            left, scope = doomed
            world.doomed[task] = (left - 1, scope)
            if left == 0:
                world.note("cancelled")
                scope.cancel()
        if world.steps == world.crash_at:
            world.note("died between two steps")
            world.disk.die()
            return
        try:
            world.look()
        except Exception as fault:  # noqa: BLE001 - trio would only log it
            world.fail(f"the look at it all broke: {fault!r}")


class Alert(logging.Handler):
    """No fault of the daemon's own may pass as a line in its log."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self._world.fail(f"{record.getMessage()}: {_told(record.exc_info[1])}")


# Processes


class Tree(FakeTree):
    """A process tree that does not end because its daemon does."""

    kernel: Kernel

    async def aclose(self) -> None:
        if not self.kernel.world.disk.dead:
            await super().aclose()

    async def stop(self, grace_s: float) -> list[int]:
        if self.kernel.world.disk.dead:
            await trio.sleep_forever()
        return await super().stop(grace_s)


class Kernel:
    """Which processes live.

    Attributes:
        trees: Those of the daemon that runs.
        left: Those that outlived theirs: how often each survives a SIGKILL.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.trees: list[Tree] = []
        self.left: dict[AgentId, dict[Process, int]] = {}

    def alive(self) -> set[AgentId]:
        """Agents of which something lives."""
        trees = {tree.agent for tree in self.trees if not tree.gone.is_set()}
        return trees | {agent for agent, left in self.left.items() if left}

    def orphan(self, *, power: bool) -> None:
        """The daemon is gone: some of what it ran lives on, unless the machine is gone too."""
        chance, trees, self.trees = self.world.chance, self.trees, []
        if power:
            self.left.clear()
            return
        for tree in trees:
            if not tree.gone.is_set() and chance.random() < 0.7:
                process = Process(tree.pid, 1, tree.pid, tree.pid, 1, "S", 1)
                self.left.setdefault(tree.agent, {})[process] = chance.choice((0, 0, 0, 1, 3))

    def send(self, process: Process, number: int, *, to_group: bool = False) -> bool:
        """A signal to what was left over; SIGKILL may need more than one try."""
        for left in self.left.values():
            if process in left and number == 9:
                left[process] -= 1
                if left[process] < 0:
                    del left[process]
                return True
            if process in left and number == 15 and self.world.chance.random() < 0.5:
                del left[process]
                return True
        return False


class Census(FakeCensus):
    """Sees what the kernel knows."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self._kernel = kernel

    async def find(self, agents: list[AgentId]) -> dict[AgentId, list[Any]]:
        await trio.lowlevel.checkpoint()
        return {agent: list(self._kernel.left.get(agent, ())) for agent in agents}

    async def chase(self, agent: AgentId) -> None:
        await trio.lowlevel.checkpoint()

    def roots(self, agent: AgentId) -> list[Any]:
        return []


def _told(fault: BaseException | None) -> str:
    if isinstance(fault, BaseExceptionGroup):
        return "; ".join(map(_told, fault.exceptions))
    trail = []
    trace = fault.__traceback__ if fault is not None else None
    while trace is not None:
        trail.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{fault!r} at {' '.join(trail[-4:])}"


def _close_all(root: Path) -> None:
    """Closes what a daemon that died had open, as the system does: its lock among it."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith(str(root)):
                os.close(int(name))
        except OSError:  # the descriptor of the listing itself
            continue
