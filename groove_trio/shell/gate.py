"""The kernel's end of the knock: one gate for each agent that is held to level ``gate``.

The kernel holds every thread of the agent's tree that makes a call of `rules.syscalls`, and
tells of it here. The gate reads what the call means, knocks for it, and, when that is granted,
performs it and lets the thread go on with the result. A thread that is denied gets EACCES, or
EROFS for the daemon's own state. One that is killed meanwhile is let go of.

What the gate cannot make out is refused. What goes wrong in one call stays in that call.

Three kinds of place are told apart: what is no file of anybody's (a pipe, ``/dev/null``, a
terminal that the agent has made) is not asked about; in the agent's own temporary directory and
its provider's state directories the caller may open what it was granted by itself, because the
wall lets it write there and nowhere else; everywhere else the daemon performs.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import trio

from groove_trio.rules.calls import FORMS
from groove_trio.rules.syscalls import REFUSED_WITH, Architecture, Call, by_number
from groove_trio.shell.aside import unprivileged
from groove_trio.shell.caller import Caller, Remembered
from groove_trio.shell.deeds import plan
from groove_trio.shell.held import PROCEED, Held, Plan
from groove_trio.shell.mounts import Mounts
from groove_trio.shell.reach import Later, Opened, Spot
from groove_trio.shell.seccomp import Notification, Notifications
from groove_trio.shell.shared import Shared
from groove_trio.shell.terminals import MULTIPLEXERS, TERMINALS, Terminals
from groove_trio.shell.wall import DEVICES
from groove_trio.words.actors import Actor, agent_actor
from groove_trio.words.base import AgentId
from groove_trio.words.knocks import Decision, Denied, Knock, Operation

LOOK_AGAIN_S: Final = 0.02
"""Between two looks whether a FIFO has a reader by now, or a lease was given up."""

DENIALS_S: Final = 0.005
"""Between two denials of one agent, once `DENIALS_AT_ONCE` are used up. Whoever asks faster waits
longer for an answer: every denial is on record, and the record grows by 200 a second at most."""

DENIALS_AT_ONCE: Final = 200

THREADS: Final = 8
"""Calls of one agent that may wait at a time for a network or a slow disk; others queue."""

IN_A_ROW: Final = 4
"""Calls of one agent that are answered before all others have their turn: about half a
millisecond. With four agents that write flat out, a request waits for some turns of 2 ms."""

_NOT_YET = frozenset({errno.ENXIO, errno.EWOULDBLOCK})

_log = logging.getLogger("groove_trio")


class Answers(Protocol):
    """The broker, as far as a gate is concerned."""

    @property
    def at_leisure(self) -> bool:
        """Whether nobody waits whose turn would be before the gate's."""
        ...

    @property
    def again(self) -> Callable[[AgentId, Operation, str, str, int], bool]:
        """Whether a thread was just granted the very same; see `Folds.again`."""
        ...

    def decide_now(self, knock: Knock) -> tuple[Decision, int]:
        """Decides at once, if `at_leisure`; gives the number of the record, 0 if there is none."""
        ...

    async def decide(self, knock: Knock) -> tuple[Decision, int]:
        """As `decide_now`, when it is the gate's turn."""
        ...

    async def recorded(self, denied: Denied, seq: int) -> Denied:
        """Waits until a denial is on disk."""
        ...

    async def refused(self, agent: AgentId, call: str, pid: int, command: str) -> None:
        """Records a call that no agent may make."""
        ...


@dataclass(slots=True, kw_only=True)
class Gate:
    """Answers the held calls of one agent's tree.

    Attributes:
        agent: Whose gate it is.
        notifications: Where calls are told of. Owned: closed when `run` ends.
        broker: Whom it asks.
        own: Absolute directories that the wall lets the agent's processes write by themselves.
        state: The daemon's own directory in the project, which is not there for agents.
        architecture: Whose numbers the calls have.
        left: Told of each process that leaves its session or group.
        testing: Whether the launcher still tries the sandbox out; see `confine.launch`.
    """

    agent: AgentId
    notifications: Notifications
    broker: Answers
    own: Sequence[str]
    state: str
    architecture: Architecture
    left: Callable[[int], None] = lambda _: None
    testing: bool = True
    _names: dict[bytes, int] = field(default_factory=dict[bytes, int])
    _terminals: Terminals = field(default_factory=Terminals)
    _mounts: Mounts = field(default_factory=Mounts)
    _shared: Shared = field(default_factory=Shared)
    _threads: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(THREADS))
    _next_denial: float = -math.inf
    _masks: Remembered[int] = field(default_factory=lambda: Remembered(Caller.umask))
    _commands: Remembered[str] = field(default_factory=lambda: Remembered(Caller.command))
    _actor: Actor = field(init=False)
    _places: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self._actor = agent_actor(self.agent)
        self._places = tuple(f"{place}/" for place in self.own)

    async def run(self) -> None:
        """Answers until no process of the tree is left, or until cancelled."""
        calls = by_number(self.architecture)
        answered = 0
        try:
            async with trio.open_nursery() as nursery:
                while (note := await self.notifications.receive()) is not None:
                    call = meant(calls[note.number], note.arguments)
                    if call.answer == "knock":
                        self._answer(note, call.name, nursery)
                    else:
                        nursery.start_soon(self._refuse, note, call.name)
                    answered += 1
                    if answered % IN_A_ROW == 0:
                        await trio.lowlevel.checkpoint()
        finally:
            self.notifications.close()
            self._terminals.close()
            self._shared.clear()

    def _answer(self, note: Notification, name: str, nursery: trio.Nursery) -> None:
        """Answers one call on the spot; a task of its own does, if somebody has to be waited for.

        Until it is clear that nobody has to be, nothing is asked and nothing is done.
        """
        if not self.broker.at_leisure:
            nursery.start_soon(self._answer_patiently, note, name)
            return
        held = Held(Caller(note.pid), FORMS[name](note.arguments), self._names, self._masks)
        asked = PROCEED
        try:
            asked = _plan_aside(held)
            if not self._is_held(note, held):
                return
            for knock in self._knocks(held, asked, name):
                decision, seq = self._tried(knock) or self.broker.decide_now(knock)
                if type(decision) is Denied:
                    nursery.start_soon(self._deny, note, decision, seq)
                    return
            if self._may_wait(asked):
                nursery.start_soon(self._perform_patiently, note, asked, hand_on(held.opened))
            else:
                self._perform(note, asked)
        except Later:
            nursery.start_soon(self._answer_patiently, note, name)
        except Exception as error:  # noqa: BLE001 - one call's fault; the gate goes on
            if _is_early(error, asked):
                nursery.start_soon(self._perform_patiently, note, asked, hand_on(held.opened))
            else:
                self._fail(note, name, error)
        finally:
            held.opened.close()

    async def _answer_patiently(self, note: Notification, name: str) -> None:
        """As `_answer`, by a task that can wait: for a disk, for its turn, for a peer."""
        caller = Caller(note.pid, patient=True)
        held = Held(caller, FORMS[name](note.arguments), self._names, self._masks)
        try:
            asked = await trio.to_thread.run_sync(_plan_aside, held, limiter=self._threads)
            if not self._is_held(note, held):
                return
            for knock in self._knocks(held, asked, name):
                decision, seq = self._tried(knock) or await self.broker.decide(knock)
                if type(decision) is Denied:
                    await self._deny(note, decision, seq)
                    return
            await self._perform_patiently(note, asked, hand_on(held.opened))
        except Exception as error:  # noqa: BLE001 - as in `_answer`
            self._fail(note, name, error)
        finally:
            held.opened.close()

    def _is_held(self, note: Notification, held: Held) -> bool:
        """Whether all that was read was the caller's own, and nobody's who got its number."""
        if not self.notifications.holds(note.id):
            return False
        if held.deed.name == "leave":
            self.left(held.caller.process())
        return True

    def _fail(self, note: Notification, name: str, error: Exception) -> None:
        """Lets the call fail as the kernel would have it, or as what can't be made out."""
        if isinstance(error, OSError):
            self.notifications.fail(note.id, error.errno or errno.EACCES)
            return
        _log.error("a held %s could not be made out", name, exc_info=error)
        self.notifications.fail(note.id, errno.EACCES)

    # Asking

    def _knocks(self, held: Held, asked: Plan, name: str) -> Iterator[Knock]:
        """What the broker is to be asked; when all is granted, the plan is ready."""
        itself = asked.itself
        for operation, spot in asked.questions:
            path = spot.path
            if spot.nameless or path.startswith("/dev/"):
                if self._is_nobodys(operation, spot):
                    itself = itself and not (_is_file(spot) or _is_terminal(spot))
                    continue
                if self._shared.permits(held.deed.name, operation, spot, asked.questions[0][1]):
                    itself = False
                    continue
            itself = itself and path.startswith(self._places)
            if self.broker.again(self.agent, operation, path, name, held.caller.pid):
                continue
            yield Knock(
                agent=self.agent,
                operation=operation,
                path=path,
                actor=self._actor,
                source="gate",
                tool=self._commands.of(held.caller),
                call=name,
                pid=held.caller.pid,
                other=_other_end(asked, spot) if operation == "rename" else "",
            )
        if itself:
            asked.act = None

    def _tried(self, knock: Knock) -> tuple[Decision, int] | None:
        """What the launcher's own attempts get: they are on nobody's record but its own."""
        if self.testing and knock.path.startswith(f"{self.state}/canary-{self.agent}-"):
            return Denied(path=knock.path, rule="canary", reason="", way_out=""), 0
        return None

    def _is_nobodys(self, operation: Operation, spot: Spot) -> bool:
        """Whether it is no file that anybody could hold: it has no name, or is a plain device."""
        if spot.nameless:
            return True
        # To write into a device is one thing; to remove its name, or to give it away, is another.
        if operation != "write" or spot.mode is None or not stat.S_ISCHR(spot.mode):
            return False
        return spot.path in MULTIPLEXERS or spot.path in DEVICES or self._terminals.own(spot.path)

    async def _deny(self, note: Notification, denied: Denied, seq: int) -> None:
        """Lets the call fail, when that is on record, and not faster than is good."""
        await self._pace()
        if seq:
            await self.broker.recorded(denied, seq)
        hidden = f"{self.state.rpartition('/')[2]}/"
        number = errno.EROFS if denied.path.startswith(hidden) else errno.EACCES
        self.notifications.fail(note.id, number)

    async def _refuse(self, note: Notification, name: str) -> None:
        await self._pace()
        await self.broker.refused(self.agent, name, note.pid, Caller(note.pid).command())
        self.notifications.fail(note.id, REFUSED_WITH)

    async def _pace(self) -> None:
        now = trio.current_time()
        self._next_denial = max(self._next_denial, now - DENIALS_AT_ONCE * DENIALS_S) + DENIALS_S
        await trio.sleep(max(0.0, self._next_denial - now))

    # Performing

    def _may_wait(self, asked: Plan) -> bool:
        """Whether performing it may wait: for a socket's peer, a file server, a slow disk."""
        if asked.waits or asked.act is None:
            return asked.waits
        return not all(self._mounts.quick(spot.device) for _, spot in asked.questions)

    def _perform(self, note: Notification, asked: Plan) -> None:
        """Performs what waits for nobody."""
        if asked.act is None:
            self.notifications.proceed(note.id)
        else:
            began = time.perf_counter()
            try:
                result = _act_aside(asked.act)
            finally:
                for _, spot in asked.questions[:1]:
                    self._mounts.took(spot.device, time.perf_counter() - began)
            self._give(note, asked, result)

    def _give(self, note: Notification, asked: Plan, result: int | None) -> None:
        if result is None:
            self.notifications.answer(note.id)
            return
        try:
            path = asked.questions[0][1].path
            if path.startswith("/dev/"):
                self._note_device(path, result)
            close_on_exec = bool(asked.flags & os.O_CLOEXEC)
            self.notifications.hand_over(note.id, result, close_on_exec=close_on_exec)
        finally:
            os.close(result)

    def _note_device(self, path: str, descriptor: int) -> None:
        if path in MULTIPLEXERS:
            self._terminals.made(descriptor)
        elif self._shared.holds(path):
            self._shared.made(descriptor)

    async def _perform_patiently(self, note: Notification, asked: Plan, opened: Opened) -> None:
        """Performs what may take long, as long as the caller waits for it."""
        try:
            while self.notifications.holds(note.id):
                if asked.act is None:
                    self.notifications.proceed(note.id)
                    return
                try:
                    result = await trio.to_thread.run_sync(
                        _act_aside, asked.act, abandon_on_cancel=True, limiter=self._threads
                    )
                except OSError as error:
                    if not _is_early(error, asked):
                        raise
                    await trio.sleep(LOOK_AGAIN_S)
                else:
                    self._give(note, asked, result)
                    return
        except Exception as error:  # noqa: BLE001 - as in `_answer`
            self._fail(note, "call", error)
        finally:
            opened.close()


def meant(calls: Sequence[Call], arguments: Sequence[int]) -> Call:
    """Which of the calls of a number it is; the filter has held it for one of them."""
    if len(calls) == 1:
        return calls[0]
    return next(call for call in calls if call.holds(arguments))


def hand_on(opened: Opened) -> Opened:
    """Takes descriptors over from who would close them."""
    taken = Opened(opened)
    opened.clear()
    return taken


def _is_early(error: Exception, asked: Plan) -> bool:
    """Whether an open that may wait would have to: for a FIFO's reader, for a lease's holder."""
    waits = asked.flags and not asked.flags & os.O_NONBLOCK
    return bool(waits) and isinstance(error, OSError) and error.errno in _NOT_YET


def _other_end(asked: Plan, spot: Spot) -> str:
    (_, old), (_, new) = asked.questions
    return new.path if spot is old else old.path


def _is_file(spot: Spot) -> bool:
    return spot.mode is not None and stat.S_ISREG(spot.mode)


def _is_terminal(spot: Spot) -> bool:
    return spot.path in MULTIPLEXERS or spot.path.startswith(TERMINALS)


def _plan_aside(held: Held) -> Plan:
    with unprivileged():
        return plan(held)


def _act_aside(act: Callable[[], int | None]) -> int | None:
    with unprivileged():
        return act()
