"""The broker: whatever happens, a knock gets an answer, and nothing is held for nobody."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from groove_trio.rules.chain import ACTIONS
from groove_trio.rules.scopes import Scope
from groove_trio.shell import broker
from groove_trio.shell.audit import AuditLog, open_audit, verify_log
from groove_trio.shell.broker import Broker
from groove_trio.shell.clerk import BATCH, CAPACITY
from groove_trio.shell.segments import list_segments
from groove_trio.shell.steady import SteadyClock
from groove_trio.words.actors import OWNER, SYSTEM, agent_actor
from groove_trio.words.base import AgentId
from groove_trio.words.clock import NS
from groove_trio.words.errors import (
    AuditUnavailable,
    BadRequest,
    Draining,
    GrooveError,
    Locked,
    NotAllowed,
    OutOfResources,
    OutsideProject,
    ScopeOverlap,
    UnknownAgent,
    UnknownLease,
    UnsafeState,
)
from groove_trio.words.events import AnyEvent, KnockDecided, LeaseDeclared, LeaseEnded
from groove_trio.words.knocks import Decision, Denied, Granted, Knock, Operation

NOW = 1_795_367_880 * NS
A, B = AgentId("aaaaaaaa"), AgentId("bbbbbbbb")


def knock_on(path: str, agent: AgentId = A, operation: Operation = "write") -> Knock:
    return Knock(
        agent=agent, operation=operation, path=path, actor=agent_actor(agent), source="library"
    )


@dataclass
class House:
    """A broker with its log, and everything a test wants to look at or break."""

    root: Path
    audit: AuditLog
    now: int = NOW
    ticking: bool = False
    events: list[AnyEvent] = field(default_factory=list)
    broker: Broker = field(init=False)

    def __post_init__(self) -> None:
        self.broker = Broker(
            self.root,
            self.audit,
            self.events.append,
            self.root / ".groove/leases.json",
            clock=SteadyClock(self.clock, self.clock),
        )

    def clock(self) -> int:
        return self.now + (int(trio.current_time() * NS) if self.ticking else 0)

    async def add(self, agent: AgentId, *patterns: str, cwd: str = ".") -> None:
        await self.broker.reserve(agent, agent[0], Scope(patterns), cwd, OWNER, {"role": "r"})

    async def may(self, path: str, agent: AgentId = A, operation: Operation = "write") -> bool:
        return isinstance(await self.broker.knock(knock_on(path, agent, operation)), Granted)

    async def denied(self, path: str, agent: AgentId = A, operation: Operation = "write") -> Denied:
        decision = await self.broker.knock(knock_on(path, agent, operation))
        assert isinstance(decision, Denied)
        assert decision.rule
        assert decision.reason
        assert decision.way_out
        return decision

    def records(self) -> list[dict[str, Any]]:
        paths = list_segments(self.root / ".groove/audit")
        lines = b"".join(path.read_bytes() for path in paths).split(b"\n")
        return [json.loads(line) for line in lines if line.endswith(b"}")]

    def actions(self) -> list[str]:
        """What was recorded since the log was opened."""
        return [record["action"] for record in self.records()][1:]

    def saved(self) -> list[dict[str, Any]]:
        return json.loads((self.root / ".groove/leases.json").read_bytes())  # type: ignore[no-any-return]


Opened = Callable[[], Any]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "src").mkdir(parents=True)
    (root / "docs").mkdir()
    (root / ".groove").mkdir(mode=0o700)
    (root / "src/main.py").touch()
    return root


@asynccontextmanager
async def running(root: Path, *, started: bool = True) -> AsyncIterator[House]:
    """A house whose broker runs, unless a test wants to start that itself."""
    async with open_audit(root / ".groove/audit") as audit, trio.open_nursery() as nursery:
        house = House(root, audit)
        if started:
            await nursery.start(house.broker.run)
        yield house
        house.broker.close()
    assert verify_log(root / ".groove/audit").ok


class Disk:
    """Makes the log's writes or syncs fail, as a full or dying disk does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.broken = False
        self.flows = threading.Event()  # while unset, syncs take for ever
        self.flows.set()
        self._write, self._sync, self._whole = os.write, os.fdatasync, os.fsync
        monkeypatch.setattr(os, "write", self.write)
        monkeypatch.setattr(os, "fdatasync", self.sync)
        monkeypatch.setattr(os, "fsync", self.sync_whole)

    def write(self, descriptor: int, data: bytes) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        self.flows.wait(10)
        if self.broken:
            raise OSError(errno.EIO, "Input/output error")
        self._sync(descriptor)

    def sync_whole(self, descriptor: int) -> None:
        if self.broken:
            raise OSError(errno.EIO, "Input/output error")
        self._whole(descriptor)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


async def until(true: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not true():
            await trio.sleep(0.002)


# Knocks


async def test_knock_is_granted_by_the_own_scope_and_recorded(root: Path) -> None:
    async with running(root) as house:
        await house.add(A, "src/**")
        assert await house.broker.knock(knock_on("src/main.py")) == Granted(
            path="src/main.py", rule="src/**"
        )
        record = house.records()[-1]
        assert (record["action"], record["agent"], record["actor"]) == (
            "knock.granted",
            A,
            f"agent:{A}",
        )
        assert record["detail"] == {
            "operation": "write",
            "path": "src/main.py",
            "rule": "src/**",
            "source": "library",
            "tool": "",
        }
        [event] = house.events
        assert isinstance(event, KnockDecided)
        assert event.decision == Granted(path="src/main.py", rule="src/**")


async def test_denied_knock_is_on_disk_before_it_is_answered(root: Path, disk: Disk) -> None:
    async with running(root) as house:
        await house.add(A, "src/**")
        disk.broken = True
        denied = await house.denied("README.md")
        assert denied.rule == "audit log"
        disk.broken = False
        await until(lambda: house.audit.ok)
        assert (await house.denied("README.md")).rule == "nobody's scope"


async def test_granted_knock_does_not_wait_for_the_disk(root: Path, disk: Disk) -> None:
    async with running(root) as house:
        await house.add(A, "src/**")
        disk.flows.clear()
        assert await house.may("src/main.py")
        disk.flows.set()


async def test_denied_knock_stays_one_when_the_disk_takes_too_long(
    root: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "RECORD_S", 0.05)
    async with running(root) as house:
        await house.add(A, "src/**")
        disk.flows.clear()
        denied = await house.denied("docs/x")
        assert denied.rule == "audit log"
        disk.flows.set()
        assert (await house.denied("docs/x")).rule == "nobody's scope"


async def test_denied_knock_may_be_cancelled_while_the_disk_takes_its_time(
    root: Path, disk: Disk
) -> None:
    async with running(root) as house:
        await house.add(A, "src/**")
        disk.flows.clear()
        with trio.move_on_after(0.05) as scope:
            await house.broker.knock(knock_on("docs/x"))
        assert scope.cancelled_caught
        disk.flows.set()
        await house.denied("docs/x")


async def test_path_is_relative_to_the_agents_directory(root: Path) -> None:
    async with running(root) as house:
        await house.add(A, "src/**", cwd="src")
        assert await house.may("main.py")
        assert await house.may("../src/new.py")
        assert not await house.may("src/main.py/../../../docs/x")
        assert not await house.may("../docs/x")


async def test_link_is_followed_to_what_it_writes(root: Path) -> None:
    (root / "src/out").symlink_to("../docs")
    (root / "docs/in").symlink_to("../src")
    async with running(root) as house:
        await house.add(A, "src/**")
        assert not await house.may("src/out/x")
        assert await house.may("docs/in/x")
        assert not await house.may("src/out")
        assert await house.may("src/out", operation="delete")


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("../x", "outside the project"),
        ("/etc/passwd", "outside the project"),
        ("gone/../x", "undecidable path"),
        ("/proc/self/cwd/src/x", "undecidable path"),
        ("", "undecidable path"),
        ("a\0b", "undecidable path"),
        ("x" * 100_000, "undecidable path"),
        ("CLAUDE.md", "protected CLAUDE.md"),
    ],
)
async def test_whatever_cannot_be_allowed_is_denied_and_recorded(
    root: Path, path: str, rule: str
) -> None:
    async with running(root) as house:
        await house.add(A, "**")
        denied = await house.denied(path)
        assert denied.rule == rule
        assert len(denied.path) <= 4096
        assert house.records()[-1]["detail"]["rule"] == rule


async def test_unknown_agent_and_unknown_operation_are_denied(root: Path) -> None:
    async with running(root) as house:
        await house.add(A, "**")
        assert (await house.denied("src/x", B)).rule == "unknown agent"
        assert (await house.denied("src/x", A, "frob")).rule == "unknown operation"  # type: ignore[arg-type]
        assert house.actions()[-2:] == ["knock.denied", "knock.denied"]


@pytest.mark.parametrize(
    "change",
    [
        {"path": None},
        {"path": 7},
        {"agent": None},
        {"agent": "\ud800" * 500},
        {"operation": ["write"]},
        {"operation": None},
        {"tool": None},
        {"tool": "x" * 10_000},
        {"path": b"src/x"},
    ],
)
async def test_knock_that_makes_no_sense_is_answered_all_the_same(
    root: Path, change: dict[str, Any]
) -> None:
    async with running(root) as house:
        await house.add(A, "**")
        plain: dict[str, Any] = {"agent": A, "operation": "write", "path": "src/x"}
        knock = Knock(**{**plain, "actor": OWNER, "source": "library", **change})
        decision = await house.broker.knock(knock)
        assert isinstance(decision, Granted if "tool" in change else Denied)
        assert await house.may("src/x"), "the broker lives"


async def test_name_that_is_not_utf8_is_decided_and_told_legibly(root: Path) -> None:
    name = os.fsdecode(b"src/caf\xe9.py")
    async with running(root) as house:
        await house.add(A, "src/*.py")
        decision = await house.broker.knock(knock_on(name))
        assert decision == Granted(path="src/caf\\udce9.py", rule="src/*.py")
        denied = await house.denied(os.fsdecode(b"docs/caf\xe9"))
        assert denied.way_out.isascii()


async def test_reads_are_free_but_for_secrets(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = root.parent / "home"
    (home / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    async with running(root) as house:
        await house.add(A)
        assert await house.may("docs/x", operation="read")
        assert await house.may("/usr/include/stdio.h", operation="read")
        assert await house.may(str(home / ".profile"), operation="read")
        assert (await house.denied(str(home / ".ssh/id"), A, "read")).rule.startswith("hidden")
        assert (await house.denied(".groove/leases.json", A, "read")).rule.startswith("hidden")


async def test_secrets_are_hidden_where_the_project_is_the_home_directory(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(root))
    async with running(root) as house:
        await house.add(A, "**")
        assert (await house.denied(".ssh/id", A, "read")).rule.startswith("hidden")
        assert await house.may("docs/x", operation="read")


async def test_directory_with_what_is_not_the_agents_stays(root: Path) -> None:
    (root / ".github/workflows").mkdir(parents=True)
    async with running(root) as house:
        await house.add(A, "**")
        assert not await house.may(".github", operation="rename")
        assert await house.may("docs", operation="rename")
        assert await house.may("docs", operation="delete")
        assert not await house.may(".vscode", operation="rename"), "what is moved there may be one"


async def test_own_temporary_directory_is_writable(root: Path) -> None:
    async with running(root) as house:
        await house.add(A)
        assert await house.may(f".groove/agents/{A}/tmp/x", operation="create")
        assert not await house.may(f".groove/agents/{B}/tmp/x", operation="create")


# The queue


async def test_knocks_of_a_moment_share_one_write(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(root) as house:
        await house.add(A, "**")
        sizes = []
        real = house.audit.append
        monkeypatch.setattr(house.audit, "append", lambda e: sizes.append(len(e)) or real(e))
        async with trio.open_nursery() as nursery:
            for _ in range(3 * BATCH):
                nursery.start_soon(house.may, "src/x")
        assert sum(sizes) == 3 * BATCH
        assert max(sizes) == BATCH
        assert len(sizes) <= 4


async def test_full_queue_makes_callers_wait(root: Path) -> None:
    async with running(root, started=False) as house, trio.open_nursery() as nursery:
        answers: list[Decision] = []

        async def ask() -> None:
            answers.append(await house.broker.knock(knock_on("src/x")))

        for _ in range(CAPACITY + 10):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        assert answers == []
        assert house.broker.crowded
        await nursery.start(house.broker.run)
        await until(lambda: len(answers) == CAPACITY + 10)
        assert not house.broker.crowded
        house.broker.close()


async def test_full_queue_denies_who_will_not_wait(root: Path) -> None:
    async with running(root, started=False) as house, trio.open_nursery() as nursery:
        for _ in range(CAPACITY):
            nursery.start_soon(house.may, "src/x")
        await trio.testing.wait_all_tasks_blocked()
        decision = await house.broker.knock_nowait(knock_on("src/x"))
        assert isinstance(decision, Denied)
        assert decision.rule == "full queue"
        assert house.actions() == ["knock.denied"]
        await nursery.start(house.broker.run)
        house.broker.close()


async def test_denial_of_a_full_queue_says_when_it_could_not_be_recorded(
    root: Path, disk: Disk
) -> None:
    async with running(root, started=False) as house, trio.open_nursery() as nursery:
        for _ in range(CAPACITY):
            nursery.start_soon(house.may, "src/x")
        await trio.testing.wait_all_tasks_blocked()
        disk.full = True
        decision = await house.broker.knock_nowait(knock_on("src/x"))
        assert isinstance(decision, Denied)
        assert decision.rule == "audit log"
        disk.full = False
        await nursery.start(house.broker.run)
        house.broker.close()


async def test_caller_that_left_the_queue_is_passed_over(root: Path) -> None:
    async with running(root, started=False) as house, trio.open_nursery() as nursery:
        with trio.move_on_after(0.01):
            await house.broker.knock(knock_on("src/x"))
        with trio.move_on_after(0.01):
            await house.add(A, "src/**")
        await nursery.start(house.broker.run)
        await house.add(B, "**")
        assert house.actions() == ["agent.spawn"]
        assert [each.agent for each in house.broker.view().holdings] == [B]
        house.broker.close()


async def test_knock_cancelled_while_the_queue_is_full_leaves_no_trace(root: Path) -> None:
    async with running(root, started=False) as house, trio.open_nursery() as nursery:
        for _ in range(CAPACITY):
            nursery.start_soon(house.may, "src/x")
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0.01) as scope:
            await house.broker.knock(knock_on("src/late"))
        assert scope.cancelled_caught
        await nursery.start(house.broker.run)
        house.broker.close()
    assert all(record["detail"].get("path") != "src/late" for record in house.records())


async def test_answering_always_checkpoints(root: Path) -> None:
    async with running(root) as house:
        await house.add(A, "src/**")
        for path in ("src/x", "docs/x"):
            with trio.testing.assert_checkpoints():
                await house.broker.knock(knock_on(path))
            with trio.testing.assert_checkpoints():
                await house.broker.knock_nowait(knock_on(path))
        with trio.testing.assert_checkpoints():
            await house.broker.explain("src/x")
        house.broker.close()
        with trio.testing.assert_checkpoints():
            await house.broker.knock(knock_on("src/x"))


async def test_decisions_follow_the_order_of_requests(root: Path) -> None:
    async with running(root, started=False) as house, trio.open_nursery() as nursery:
        answers: dict[str, bool] = {}

        async def ask(name: str) -> None:
            answers[name] = await house.may("src/x")

        steps: list[Callable[[], Awaitable[object]]] = [
            lambda: ask("before"),
            lambda: house.add(A, "src/**"),
            lambda: ask("held"),
            lambda: house.broker.release(A, OWNER, "over"),
            lambda: ask("after"),
        ]
        for step in steps:
            nursery.start_soon(step)
            await trio.testing.wait_all_tasks_blocked()
        await nursery.start(house.broker.run)
        await until(lambda: len(answers) == 3)
        assert answers == {"before": False, "held": True, "after": False}
        house.broker.close()


# The end


async def test_knocks_after_the_end_are_denied(root: Path) -> None:
    async with running(root) as house:
        await house.add(A, "**")
        house.broker.close()
        assert (await house.denied("src/x")).rule == "shutting down"
        decision = await house.broker.knock_nowait(knock_on("src/x"))
        assert isinstance(decision, Denied)
        with pytest.raises(Draining):
            await house.add(B, "docs/**")
        with pytest.raises(Draining):
            await house.broker.declare(A, ["x"])


async def test_requests_made_before_the_end_are_answered(root: Path) -> None:
    async with running(root, started=False) as house, trio.open_nursery() as nursery:
        answers: list[bool] = []

        async def ask() -> None:
            answers.append(await house.may("src/x"))

        nursery.start_soon(house.add, A, "src/**")
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(10):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        house.broker.close()
        nursery.start_soon(house.broker.run)
        await until(lambda: len(answers) == 10)
        assert all(answers)


async def test_cancelled_broker_leaves_nobody_waiting(root: Path) -> None:
    async with running(root, started=False) as house, trio.open_nursery() as nursery:
        answers: list[Decision] = []
        faults: list[GrooveError] = []

        async def ask() -> None:
            answers.append(await house.broker.knock(knock_on("src/x")))

        async def reserve() -> None:
            try:
                await house.add(A, "src/**")
            except GrooveError as fault:
                faults.append(fault)

        with trio.CancelScope() as scope:
            scope.cancel()
            nursery.start_soon(reserve)
            for _ in range(CAPACITY * 2):
                nursery.start_soon(ask)
            await house.broker.run()
        await until(lambda: len(answers) == CAPACITY * 2)
        assert {each.rule for each in answers} == {"shutting down"}
        assert all(isinstance(fault, Draining) for fault in faults)
        assert len(faults) == 1


async def test_broker_that_breaks_grants_nothing_unrecorded(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> int:
        raise ZeroDivisionError

    async with running(root, started=False) as house:
        answers: list[Decision] = []

        async def ask() -> None:
            answers.append(await house.broker.knock(knock_on("src/x")))

        async with trio.open_nursery() as askers:
            with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
                async with trio.open_nursery() as nursery:
                    await nursery.start(house.broker.run)
                    await house.add(A, "**")
                    monkeypatch.setattr(house.audit, "append", broken)
                    for _ in range(5):
                        askers.start_soon(ask)
                    await trio.sleep_forever()
            monkeypatch.undo()
        assert [each.decision for each in house.events if isinstance(each, KnockDecided)] == []
        assert [type(each) for each in answers] == [Denied] * 5


# Scopes


async def test_reservation_is_recorded_with_what_the_supervisor_tells(root: Path) -> None:
    async with running(root) as house:
        await house.add(A, "src/**")
        record = house.records()[-1]
        assert record["action"] == "agent.spawn"
        assert record["detail"] == {"name": "a", "role": "r", "scope": ["src/**"]}


async def test_overlapping_reservation_is_refused_with_a_witness_and_recorded(root: Path) -> None:
    async with running(root) as house:
        await house.add(A, "src/**")
        with pytest.raises(ScopeOverlap) as refusal:
            await house.add(B, "**/*.py")
        fields = refusal.value.fields
        assert fields["owner"] == A
        assert Scope(["src/**"]).matches(fields["witness"])
        assert Scope(["**/*.py"]).matches(fields["witness"])
        assert house.records()[-1]["action"] == "agent.refuse"
        assert (await house.denied("x.py", B)).rule == "unknown agent"


async def test_of_two_overlapping_reservations_at_once_one_wins(root: Path) -> None:
    async with running(root) as house:
        won: list[AgentId] = []

        async def reserve(agent: AgentId) -> None:
            try:
                await house.add(agent, "src/**", f"{agent}/**")
            except ScopeOverlap:
                return
            won.append(agent)

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(reserve, AgentId(f"{number:08x}"))
        assert len(won) == 1
        assert [each.agent for each in house.broker.view().holdings] == won


async def test_cancelled_reservation_is_given_back(root: Path) -> None:
    async with running(root) as house:
        for steps in range(6):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(house.add, A, "src/**")
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            held = house.broker.view().holdings != []
            assert held != scope.cancelled_caught
            await house.broker.release(A, OWNER, "again")
            await house.add(B, "src/**")
            await house.broker.release(B, OWNER, "again")


async def test_reservation_taken_back_is_recorded_as_such(root: Path, disk: Disk) -> None:
    async with running(root) as house:
        disk.flows.clear()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(house.add, A, "src/**")
                await until(lambda: bool(house.broker.view().holdings))
                scope.cancel()
        disk.flows.set()
        spawn, undo = house.records()[-2:]
        assert (spawn["action"], undo["action"]) == ("agent.spawn", "undo")
        assert undo["detail"] == {"of": spawn["seq"]}
        assert house.broker.view().holdings == []


async def test_release_ends_scope_and_leases_and_may_be_repeated(root: Path) -> None:
    async with running(root) as house:
        await house.add(A, "src/**")
        lease = await house.broker.declare(A, ["README.md"])
        assert await house.broker.release(A, OWNER, "removed") == [lease]
        assert house.events[-1] == LeaseEnded(lease=lease, why="removed")
        recorded = house.audit.seq
        assert await house.broker.release(A, OWNER, "removed") == []
        assert house.audit.seq == recorded
        await house.add(B, "**")


async def test_renamed_agent_goes_by_its_new_name_in_denials(root: Path) -> None:
    async with running(root) as house:
        await house.add(A, "src/**")
        await house.add(B, "docs/**")
        await house.broker.rename(A, "writer", OWNER)
        assert "writer" in (await house.denied("src/x", B)).reason
        with pytest.raises(UnknownAgent):
            await house.broker.rename(AgentId("cccccccc"), "x", OWNER)


async def test_fault_of_a_caller_is_raised_there_and_the_broker_goes_on(root: Path) -> None:
    async with running(root) as house:
        await house.add(A, "src/**")
        with pytest.raises(ValueError, match="another scope"):
            await house.add(A, "docs/**")
        with pytest.raises(TypeError):
            await house.broker.reserve(B, "b", Scope(["b/**"]), ".", OWNER, {"bad": object()})
        assert [each.agent for each in house.broker.view().holdings] == [A]
        assert await house.may("src/x")


# Leases


async def test_lease_lets_one_agent_write_and_is_given_back(root: Path) -> None:
    async with running(root) as house:
        await house.add(A, "src/**")
        await house.add(B)
        lease = await house.broker.declare(A, ["README.md", "docs"], 60, "the docs", OWNER)
        assert lease.paths == ["README.md", "docs/"], "a directory stands for all beneath"
        assert await house.may("docs/x")
        assert not await house.may("docs/x", B)
        with pytest.raises(Locked) as refusal:
            await house.broker.declare(B, ["docs/x"])
        fields = refusal.value.fields
        assert (fields["owner"], fields["resource"], fields["until"]) == (A, "docs/x", lease.until)
        with pytest.raises(UnknownLease):
            await house.broker.complete(B, lease.id)
        assert await house.broker.complete(A, lease.id) == [lease]
        assert not await house.may("docs/x")
        assert (await house.broker.declare(B, ["docs/x"])).agent == B
        assert house.actions()[2:] == [
            "lease.declare", "knock.granted", "knock.denied", "lease.refuse",
            "lease.complete", "knock.denied", "lease.declare",
        ]  # fmt: skip
        kinds = [each for each in house.events if not isinstance(each, KnockDecided)]
        assert kinds[:2] == [LeaseDeclared(lease=lease), LeaseEnded(lease=lease, why="completed")]
        assert set(house.actions()) <= set(ACTIONS)


async def test_path_of_a_scope_cannot_be_leased_by_another(root: Path) -> None:
    async with running(root) as house:
        await house.add(A, "src/**")
        await house.add(B)
        with pytest.raises(Locked) as refusal:
            await house.broker.declare(B, ["src/main.py"])
        assert refusal.value.fields["until"] is None


@pytest.mark.parametrize(
    ("paths", "ttl_s", "reason", "error"),
    [
        ([], 60, "", BadRequest),
        (["x"] * 65, 60, "", BadRequest),
        (["x"], 0.5, "", BadRequest),
        (["x"], 86_401, "", BadRequest),
        (["x"], float("nan"), "", BadRequest),
        (["x"], 60, "x" * 501, BadRequest),
        (["../x"], 60, "", OutsideProject),
        (["gone/../x"], 60, "", BadRequest),
        (["CLAUDE.md"], 60, "", NotAllowed),
        ([".groove/"], 60, "", NotAllowed),
        (["."], 60, "", NotAllowed),
        ([os.fsdecode(b"caf\xe9")], 60, "", BadRequest),
    ],
)
async def test_lease_that_cannot_be_is_refused(
    root: Path, paths: list[str], ttl_s: float, reason: str, error: type[GrooveError]
) -> None:
    async with running(root) as house:
        await house.add(A)
        with pytest.raises(error):
            await house.broker.declare(
                A, ["fine", *paths] if len(paths) == 1 else paths, ttl_s, reason
            )
        assert house.broker.view().leases == []
        assert not await house.may("fine")


async def test_leases_of_unknown_agents_are_refused(root: Path) -> None:
    async with running(root) as house:
        with pytest.raises(UnknownAgent):
            await house.broker.declare(A, ["x"])
        with pytest.raises(UnknownAgent):
            await house.broker.complete(A)


async def test_lease_runs_out(root: Path) -> None:
    async with running(root) as house:
        await house.add(A)
        lease = await house.broker.declare(A, ["x"], 1)
        assert await house.may("x")
        house.now += NS
        assert not await house.may("x"), "at once, whether recorded or not"
        await until(lambda: house.broker.view().leases == [])
        assert "lease.expire" in house.actions()
        assert house.events[-1] == LeaseEnded(lease=lease, why="ran out")
        await until(lambda: house.saved() == [])


async def test_broker_wakes_by_itself_when_a_lease_runs_out(root: Path) -> None:
    async with running(root) as house:
        house.ticking = True
        await house.add(A)
        await house.broker.declare(A, ["x"], 600)
        house.now += 600 * NS - NS // 20
        assert await house.may("x"), "which also has the broker look at its clock"
        await until(lambda: house.broker.view().leases == [])


async def test_lease_that_ran_out_is_ended_when_the_log_is_back(root: Path, disk: Disk) -> None:
    async with running(root) as house:
        await house.add(A)
        await house.add(B)
        await house.broker.declare(A, ["x"], 1)
        disk.full = True
        house.now += NS
        assert not await house.may("x")
        assert house.broker.view().leases != []
        disk.full = False
        assert (await house.broker.declare(B, ["x"])).agent == B


async def test_leases_outlive_the_daemon(root: Path) -> None:
    async with running(root) as house:
        await house.add(A)
        await house.add(B)
        kept = await house.broker.declare(A, ["x", "docs/"], 600)
        await house.broker.declare(B, ["y"], 600)
        await house.broker.declare(A, ["z"], 10)
        assert len(house.saved()) == 3
    async with running(root) as house:
        house.now += 60 * NS
        await house.broker.reserve(A, "a", Scope([]), ".", SYSTEM, action="agent.restore")
        await house.broker.restore_leases()
        assert house.broker.view().leases == [kept]
        assert await house.may("docs/x")
        assert house.actions()[-4:] == [
            "agent.restore",
            "lease.drop",
            "lease.drop",
            "knock.granted",
        ]
        await until(lambda: len(house.saved()) == 1)


async def test_no_leases_are_restored_where_there_are_none(root: Path) -> None:
    async with running(root) as house:
        await house.broker.restore_leases()
        assert house.actions() == []


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b"[" * 100_000])
async def test_damaged_lease_file_is_told(root: Path, content: bytes) -> None:
    (root / ".groove/leases.json").touch(0o600)
    (root / ".groove/leases.json").write_bytes(content)
    async with running(root) as house:
        with pytest.raises(UnsafeState):
            await house.broker.restore_leases()


async def test_lease_file_that_others_may_write_is_refused(root: Path) -> None:
    (root / ".groove/leases.json").write_bytes(b"[]")
    (root / ".groove/leases.json").chmod(0o666)
    async with running(root) as house:
        with pytest.raises(UnsafeState):
            await house.broker.restore_leases()


async def test_lease_is_saved_before_it_is_answered(root: Path) -> None:
    async with running(root) as house:
        await house.add(A)
        lease = await house.broker.declare(A, ["x"])
        assert [each["id"] for each in house.saved()] == [lease.id]


async def test_lease_that_cannot_be_saved_is_not_held(root: Path) -> None:
    async with running(root) as house:
        await house.add(A)
        (root / ".groove/leases.json").mkdir()
        with pytest.raises(OutOfResources):
            await house.broker.declare(A, ["x"])
        assert house.broker.view().leases == []
        assert house.actions()[-1] == "undo"
        (root / ".groove/leases.json").rmdir()
        await house.broker.declare(A, ["x"])


async def test_cancelled_lease_is_given_back(root: Path, disk: Disk) -> None:
    async with running(root) as house:
        await house.add(A)
        for steps in range(8):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(house.broker.declare, A, ["x"])
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            assert (house.broker.view().leases != []) != scope.cancelled_caught
            await house.broker.complete(A)
        disk.flows.clear()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(house.broker.declare, A, ["x"])
                await until(lambda: bool(house.broker.view().leases))
                scope.cancel()
        disk.flows.set()
        assert house.broker.view().leases == []
        file = root / ".groove/leases.json"  # the first save may still be under way
        await until(lambda: file.exists() and house.saved() == [])


# A log that can't be written


async def test_nothing_is_allowed_while_the_log_cannot_be_written(root: Path, disk: Disk) -> None:
    async with running(root) as house:
        await house.add(A, "src/**")
        lease = await house.broker.declare(A, ["x"])
        disk.full = True
        before = house.broker.view()
        denied = await house.denied("src/main.py")
        assert denied.rule == "audit log"
        assert "ENOSPC" in denied.reason
        for change in (
            lambda: house.add(B, "docs/**"),
            lambda: house.broker.declare(A, ["y"]),
            lambda: house.broker.declare(A, ["x", "y"]),
            lambda: house.broker.complete(A, lease.id),
            lambda: house.broker.release(A, OWNER, "x"),
            lambda: house.broker.rename(A, "x", OWNER),
        ):
            with pytest.raises(AuditUnavailable):
                await change()
        assert house.broker.view() == before
        disk.full = False
        assert await house.may("src/main.py")
        await house.add(B, "docs/**")


async def test_change_that_was_not_synced_is_taken_back(root: Path, disk: Disk) -> None:
    async with running(root) as house:
        await house.add(A)
        disk.broken = True
        with pytest.raises(AuditUnavailable):
            await house.add(B, "src/**")
        assert [each.agent for each in house.broker.view().holdings] == [A]
        disk.broken = False
        await until(lambda: house.audit.ok)
        await house.add(B, "src/**")


# Views


async def test_explanation_says_who_may(root: Path) -> None:
    async with running(root) as house:
        await house.add(A, "src/**")
        told = await house.broker.explain("src/main.py")
        assert (told.owner_name, told.pattern, told.exists, told.inside) == (
            "a",
            "src/**",
            True,
            True,
        )
        assert not (await house.broker.explain("src/new.py")).exists
        outside = await house.broker.explain("/etc/passwd")
        assert (outside.path, outside.inside, outside.owner) == ("/etc/passwd", False, None)
        with pytest.raises(BadRequest):
            await house.broker.explain("gone/../x")


async def test_event_of_a_knock_is_not_built_for_nobody(root: Path) -> None:
    async with open_audit(root / ".groove/audit") as audit, trio.open_nursery() as nursery:
        events: list[AnyEvent] = []
        broker = Broker(
            root, audit, events.append, root / ".groove/leases.json", wanted=lambda: False
        )
        await nursery.start(broker.run)
        await broker.reserve(A, "a", Scope(["**"]), ".", OWNER)
        await broker.knock(knock_on("src/x"))
        await broker.declare(A, ["x"])
        broker.close()
    assert [type(each) for each in events] == [LeaseDeclared]
