"""One agent as the table holds it: what was asked, how it stands, and what its task is reached by.

Its record (`spec`, `status`) is changed by the table alone, in steps without a checkpoint. What
others see is `told`, which lags behind an end until the scope is free: whoever is told of the
end may take the scope. The rest is how verbs and the agent's task meet: `nudge` ends whatever
wait the task is in, `settling` tells whoever asked for a start how it went, `done` is set when
the task has ended and the scope is free. All of it is small, because there may be a thousand.
"""

from __future__ import annotations

import logging

import msgspec
import trio

from groove_trio.rules.lifecycle import LIVE, Backoff
from groove_trio.shell.output import OutputLog
from groove_trio.shell.process import Exit, Tree
from groove_trio.shell.store import AgentStatus
from groove_trio.words.agents import AgentSpec, AgentState, AgentView, Hold
from groove_trio.words.base import AgentId
from groove_trio.words.errors import GrooveError

MAX_FOLLOW_UPS = 16  # of 50,000 characters each, waiting for an agent that reads nothing

_log = logging.getLogger("groove_trio")


class Settling:
    """The outcome of a start, for those who wait for it."""

    __slots__ = ("_done", "_error")

    def __init__(self) -> None:
        self._done = trio.Event()
        self._error: GrooveError | None = None

    def settle(self, error: GrooveError | None = None) -> None:
        """Tells the outcome: started, or the reason why not."""
        self._error = error
        self._done.set()

    async def wait(self) -> None:
        """Waits for the outcome. Always checkpoints.

        Raises:
            GrooveError: It was not started.
        """
        await self._done.wait()
        if self._error is not None:
            raise self._error


class Agent:
    """One agent.

    Attributes:
        spec: What was asked for, its name filled in.
        status: How it stands, as it is saved.
        told: How it stands, as events and views have it.
        saved: The status that is on disk.
        saving: Held while the status is being saved.
        output: Its lines.
        backoff: What its restart policy remembers.
        tree: Its processes, while they run.
        input: Takes follow-ups, while the program reads them.
        waiting: The scope of the wait its task is in, if any.
        grace_s: How long the stop under way lets it live.
        again: Whether it is to be started again once it has stopped.
        settling: Set while somebody waits for a start.
        promised: Whether the task that stands behind it now will bring that start about; a
            task that is just ending won't, another comes after it.
        newborn: Whether its program has never run.
        landlock: The version of Landlock that its wall is made with; None without a wall.
        failure: Why the start that somebody waits for failed.
        done: Set while no task stands behind it.
    """

    __slots__ = (
        "again",
        "backoff",
        "done",
        "failure",
        "grace_s",
        "input",
        "landlock",
        "newborn",
        "output",
        "promised",
        "saved",
        "saving",
        "settling",
        "spec",
        "status",
        "told",
        "tree",
        "waiting",
    )

    def __init__(self, spec: AgentSpec, status: AgentStatus, output: OutputLog) -> None:
        self.spec = spec
        self.status = self.told = status
        self.saved: AgentStatus | None = None
        self.saving = trio.Lock()
        self.output = output
        self.backoff = Backoff(spec.restart)
        self.tree: Tree | None = None
        self.input: trio.MemorySendChannel[bytes] | None = None
        self.waiting: trio.CancelScope | None = None
        self.grace_s = spec.grace_s
        self.again = False
        self.settling: Settling | None = None
        self.promised = False
        self.newborn = False
        self.landlock: int | None = None
        self.failure: GrooveError | None = None
        self.done = trio.Event()
        self.done.set()

    @property
    def id(self) -> AgentId:
        """Its id."""
        return self.status.id

    @property
    def name(self) -> str:
        """Its name."""
        return self.spec.name or self.status.id

    @property
    def state(self) -> AgentState:
        """Its state."""
        return self.status.state

    @property
    def live(self) -> bool:
        """Whether a task stands behind it."""
        return self.status.state in LIVE

    def nudge(self) -> None:
        """Ends the wait that the agent's task is in, so that it looks at the state again."""
        if self.waiting is not None:
            self.waiting.cancel()

    def settle(self, error: GrooveError | None = None) -> None:
        """Tells whoever was promised a start how it went."""
        if self.promised:
            self.call_off(error)

    def call_off(self, error: GrooveError | None) -> None:
        """Tells whoever waits for a start, promised or not."""
        settling, self.settling, self.promised = self.settling, None, False
        if settling is not None:
            settling.settle(error)

    def found(self, held: list[Hold], canary: dict[str, str], landlock: int) -> None:
        """Takes down what a start found; the record of the start has it saved and told."""
        self.landlock = landlock
        before = self.status
        self.status = msgspec.structs.replace(before, held=held, canary=canary)
        if self.told is before:
            self.told = self.status

    def view(self) -> AgentView:
        """What anyone may see of it."""
        spec, status = self.spec, self.told
        return AgentView(
            id=status.id,
            role=spec.role,
            name=self.name,
            provider=spec.provider,
            state=status.state,
            reason=status.reason,
            scope=list(spec.patterns),
            permission=spec.permission,
            cwd=spec.cwd,
            containment=status.containment,
            interactive=spec.interactive,
            restart_mode=spec.restart.mode,
            restarts=status.restarts,
            pid=status.pid,
            exit_code=status.exit_code,
            exit_signal=status.exit_signal,
            created=status.created,
            started=status.started,
            ended=status.ended,
            last_seq=self.output.last_seq,
            held=status.held,
            canary=status.canary,
        )


def as_told(error: Exception) -> GrooveError:
    """What a caller is told of a fault: a refusal as it is, a fault of ours only that it was."""
    if isinstance(error, GrooveError):
        return error
    _log.error("a verb broke", exc_info=error)
    return GrooveError()


def tell_exit(ended: Exit) -> str:
    """How a program ended, in words."""
    if ended.signal is not None:
        return f"killed by {ended.signal}"
    if ended.code is None:
        return "ended, and nobody can say how"
    return "ended well" if ended.code == 0 else f"ended with exit code {ended.code}"
