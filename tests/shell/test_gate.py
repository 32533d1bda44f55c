"""One gate with calls that are made up, on a virtual clock: order, pace, and faults.

The caller is this process: what a call points to lies in its own memory.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from groove_trio.rules.calls import CWD
from groove_trio.rules.syscalls import REFUSED_WITH, by_number
from groove_trio.shell import gate
from groove_trio.shell.audit import open_audit
from groove_trio.shell.broker import Broker
from groove_trio.shell.gate import DENIALS_AT_ONCE, DENIALS_S, Gate
from groove_trio.shell.reach import Opened
from groove_trio.shell.seccomp import Notification
from groove_trio.words.base import AgentId
from groove_trio.words.knocks import Decision, Denied, Granted, Knock

A = AgentId("aaaaaaaa")
NUMBERS = {calls[0].name: number for number, calls in by_number("x86_64").items()}


class Calls:
    """The notifications of calls that a test makes up, and what each was answered."""

    def __init__(self) -> None:
        self.answers: dict[int, tuple[str, int, float]] = {}
        self.gone: set[int] = set()
        self.closed = False
        self._count = 0
        self._kept: list[object] = []
        self._send, self._receive = trio.open_memory_channel[Notification | None](1000)

    def make(self, name: str, *arguments: int | str) -> int:
        """Makes a call; texts are put into memory."""
        registers: list[int] = []
        for argument in arguments:
            if isinstance(argument, str):
                self._kept.append(text := ctypes.create_string_buffer(os.fsencode(argument)))
                registers.append(ctypes.addressof(text))
            else:
                registers.append(argument & (1 << 64) - 1)
        registers += [0] * (6 - len(registers))
        self._count += 1
        note = Notification(self._count, os.getpid(), NUMBERS[name], tuple(registers))
        self._send.send_nowait(note)
        return self._count

    def end(self) -> None:
        self._send.send_nowait(None)

    # What the gate sees

    async def receive(self) -> Notification | None:
        return await self._receive.receive()

    def holds(self, hold: int) -> bool:
        return hold not in self.gone

    def answer(self, hold: int, value: int = 0) -> bool:
        return self._note(hold, "done", value)

    def fail(self, hold: int, number: int) -> bool:
        return self._note(hold, "failed", number)

    def proceed(self, hold: int) -> bool:
        return self._note(hold, "proceeded", 0)

    def hand_over(self, hold: int, descriptor: int, *, close_on_exec: bool) -> bool:
        return self._note(hold, "given", os.fstat(descriptor).st_ino)

    def close(self) -> None:
        self.closed = True

    def _note(self, hold: int, what: str, value: int) -> bool:
        assert hold not in self.answers, "answered twice"
        self.answers[hold] = (what, value, trio.current_time())
        return hold not in self.gone


class Oracle:
    """Grants what lies beneath ``src``; remembers what it was asked, and what came again."""

    def __init__(self, root: Path, *, at_leisure: bool = True) -> None:
        self.root = root
        self.at_leisure = at_leisure
        self.asked: list[Knock] = []
        self.refusals: list[str] = []
        self.on_disk = trio.Event()
        self.on_disk.set()

    def again(self, *_: object) -> bool:
        return False

    async def decide(self, knock: Knock) -> tuple[Decision, int]:
        await trio.lowlevel.checkpoint()
        return self.decide_now(knock)

    def decide_now(self, knock: Knock) -> tuple[Decision, int]:
        self.asked.append(knock)
        path = os.path.relpath(knock.path, self.root)
        if path.startswith("src/"):
            return Granted(path=path, rule="src/**"), 1
        return Denied(path=path, rule="", reason="", way_out=""), 2

    async def recorded(self, denied: Denied, seq: int) -> Denied:
        await self.on_disk.wait()
        return denied

    async def refused(self, agent: AgentId, call: str, pid: int, command: str) -> None:
        await self.on_disk.wait()
        self.refusals.append(call)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("src", "docs", ".groove"):
        (tmp_path / name).mkdir()
    return tmp_path


def gate_of(root: Path, calls: Calls, broker: Any, **more: Any) -> Gate:
    return Gate(
        agent=A,
        notifications=cast("Any", calls),
        broker=broker,
        own=(f"{root}/.groove/tmp",),
        state=f"{root}/.groove",
        architecture="x86_64",
        testing=False,
        **more,
    )


async def answered(
    root: Path, fill: Callable[[Calls], object], broker: Any = None
) -> tuple[Calls, Oracle]:
    """Has a gate answer some calls to the end."""
    calls, oracle = Calls(), broker or Oracle(root)
    before = set(os.listdir("/proc/self/fd"))
    fill(calls)
    calls.end()
    await gate_of(root, calls, oracle).run()
    assert calls.closed
    assert set(os.listdir("/proc/self/fd")) == before
    return calls, oracle


@pytest.mark.parametrize("at_leisure", [True, False])
async def test_each_call_is_answered_once(
    root: Path, autojump_clock: object, inline_threads: None, at_leisure: bool
) -> None:
    def fill(calls: Calls) -> None:
        calls.make("mkdir", f"{root}/src/d", 0o755)
        calls.make("mkdir", f"{root}/src/d", 0o755)
        calls.make("mkdir", f"{root}/docs/d", 0o755)
        calls.make("mkdir", f"{root}/.groove/d", 0o755)
        calls.make("openat", CWD, f"{root}/src/x", os.O_CREAT | os.O_WRONLY, 0o600)
        calls.make("mkdir", 0)
        calls.make("setsid")

    calls, oracle = await answered(root, fill, Oracle(root, at_leisure=at_leisure))
    told = [calls.answers[hold][:2] for hold in range(1, 8)]
    assert told == [
        ("done", 0),
        ("failed", errno.EEXIST),
        ("failed", errno.EACCES),
        ("failed", errno.EROFS),
        ("given", os.stat(root / "src/x").st_ino),
        ("failed", errno.EFAULT),
        ("proceeded", 0),
    ]
    asked = [(knock.operation, knock.call) for knock in oracle.asked]
    assert set(asked) == {("create", "mkdir"), ("create", "openat")}
    if at_leisure:  # else the second knows nothing of the first yet
        assert len(asked) == len(told) - 3


async def test_denials_are_paced_and_grants_are_not(root: Path, autojump_clock: object) -> None:
    more = 100

    def fill(calls: Calls) -> None:
        for _ in range(DENIALS_AT_ONCE + more):
            calls.make("mkdir", f"{root}/docs/d", 0o755)
        calls.make("mkdir", f"{root}/src/d", 0o755)

    calls, _ = await answered(root, fill)
    start = calls.answers[DENIALS_AT_ONCE + more + 1][2]
    times = sorted(at - start for what, _, at in calls.answers.values() if what == "failed")
    assert times[DENIALS_AT_ONCE - 1] == pytest.approx(0, abs=1e-9)
    assert times[-1] == pytest.approx(more * DENIALS_S)
    late = times[DENIALS_AT_ONCE:]
    steps = [after - before for before, after in itertools.pairwise(late)]
    assert steps == pytest.approx([DENIALS_S] * len(steps))


async def test_who_waited_long_enough_is_not_paced_again(
    root: Path, autojump_clock: object
) -> None:
    calls, oracle = Calls(), Oracle(root)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate_of(root, calls, oracle).run)
        for _ in range(3):
            first = calls.make("mkdir", f"{root}/docs/d", 0o755)
            for _ in range(DENIALS_AT_ONCE - 1):
                last = calls.make("mkdir", f"{root}/docs/d", 0o755)
            await trio.sleep(DENIALS_AT_ONCE * DENIALS_S)
            assert calls.answers[last][2] - calls.answers[first][2] < DENIALS_S
        calls.end()


async def test_refused_calls_are_paced_with_the_denials(root: Path, autojump_clock: object) -> None:
    def fill(calls: Calls) -> None:
        for _ in range(DENIALS_AT_ONCE + 10):
            calls.make("mount")

    calls, oracle = await answered(root, fill)
    assert oracle.refusals == ["mount"] * (DENIALS_AT_ONCE + 10)
    assert {each[:2] for each in calls.answers.values()} == {("failed", REFUSED_WITH)}
    assert max(at for *_, at in calls.answers.values()) == pytest.approx(10 * DENIALS_S)


async def test_a_denial_waits_for_its_record_and_nobody_else_does(
    root: Path, autojump_clock: object
) -> None:
    calls, oracle = Calls(), Oracle(root)
    oracle.on_disk = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate_of(root, calls, oracle).run)
        denied = calls.make("mkdir", f"{root}/docs/d", 0o755)
        refused = calls.make("mount")
        granted = calls.make("mkdir", f"{root}/src/d", 0o755)
        await trio.sleep(1)
        assert set(calls.answers) == {granted}
        oracle.on_disk.set()
        await trio.sleep(1)
        assert set(calls.answers) == {denied, refused, granted}
        calls.end()


async def test_for_a_caller_that_is_gone_nothing_is_asked_or_done(
    root: Path, autojump_clock: object
) -> None:
    def fill(calls: Calls) -> None:
        calls.gone.add(calls.make("mkdir", f"{root}/src/d", 0o755))

    calls, oracle = await answered(root, fill)
    assert calls.answers == {}
    assert oracle.asked == []
    assert not (root / "src/d").exists()


async def test_what_breaks_in_one_call_stays_in_it(
    root: Path, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = gate.plan

    def broken(held: Any) -> Any:
        if held.deed.name == "mkdir":
            held.opened.keep(os.open("/", os.O_PATH))
            raise ZeroDivisionError
        return plan(held)

    monkeypatch.setattr(gate, "plan", broken)

    def fill(calls: Calls) -> None:
        calls.make("mkdir", f"{root}/src/d", 0o755)
        calls.make("symlink", "x", f"{root}/src/l")

    calls, _ = await answered(root, fill)
    assert [each[:2] for each in calls.answers.values()] == [("failed", errno.EACCES), ("done", 0)]


async def test_a_fifo_is_looked_at_again_until_its_caller_is_gone(
    root: Path, autojump_clock: object, inline_threads: None
) -> None:
    os.mkfifo(root / "src/fifo")
    calls, oracle = Calls(), Oracle(root)
    before = set(os.listdir("/proc/self/fd"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate_of(root, calls, oracle).run)
        first = calls.make("openat", CWD, f"{root}/src/fifo", os.O_WRONLY)
        second = calls.make("openat", CWD, f"{root}/src/fifo", os.O_WRONLY)
        hasty = calls.make("openat", CWD, f"{root}/src/fifo", os.O_WRONLY | os.O_NONBLOCK)
        await trio.sleep(10)
        assert {hold: each[:2] for hold, each in calls.answers.items()} == {
            hasty: ("failed", errno.ENXIO)
        }
        calls.gone.add(first)
        await trio.sleep(1)
        reading = os.open(root / "src/fifo", os.O_RDONLY | os.O_NONBLOCK)
        await trio.sleep(1)
        os.close(reading)
        assert set(calls.answers) == {second, hasty}
        assert calls.answers[second][0] == "given"
        calls.end()
    assert len(oracle.asked) == 3  # not again for each look
    assert set(os.listdir("/proc/self/fd")) == before


async def test_a_broker_that_takes_no_more_requests_denies(root: Path) -> None:
    async with open_audit(root / ".groove/audit") as log, trio.open_nursery() as nursery:
        broker = Broker(root, log, lambda _: None, root / ".groove/leases")
        await nursery.start(broker.run)
        broker.close()
        calls = Calls()
        hold = calls.make("mkdir", f"{root}/src/d", 0o755)
        calls.end()
        await gate_of(root, calls, broker).run()
        nursery.cancel_scope.cancel()
    assert calls.answers[hold][:2] == ("failed", errno.EACCES)
    assert not (root / "src/d").exists()


async def test_a_gate_that_is_cancelled_leaves_nothing_open(
    root: Path, autojump_clock: object, inline_threads: None
) -> None:
    os.mkfifo(root / "src/fifo")
    calls, oracle = Calls(), Oracle(root)
    oracle.on_disk = trio.Event()
    before = set(os.listdir("/proc/self/fd"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate_of(root, calls, oracle).run)
        calls.make("openat", CWD, f"{root}/src/fifo", os.O_WRONLY)
        calls.make("mkdir", f"{root}/docs/d", 0o755)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert calls.closed
    assert calls.answers == {}
    assert set(os.listdir("/proc/self/fd")) == before


async def test_who_leaves_its_session_is_told_of(root: Path, autojump_clock: object) -> None:
    left: list[int] = []
    calls = Calls()
    calls.make("setsid")
    calls.make("setpgid", 0, 0)
    calls.end()
    await gate_of(root, calls, Oracle(root), left=left.append).run()
    assert left == [os.getpid()] * 2


def test_descriptors_that_are_handed_on_are_closed_once() -> None:
    first = Opened([os.open("/", os.O_PATH)])
    second = gate.hand_on(first)
    assert first == []
    assert len(second) == 1
    first.close()
    os.fstat(second[0])
    second.close()
