"""What is granted again within a second: counted, told once, and never longer than it holds."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from groove_trio.rules.scopes import Scope
from groove_trio.shell import folding
from groove_trio.shell.audit import AuditLog, open_audit, verify_log
from groove_trio.shell.broker import Broker
from groove_trio.shell.folding import FOLD_S
from groove_trio.shell.segments import list_segments
from groove_trio.shell.steady import SteadyClock
from groove_trio.words.actors import OWNER, agent_actor
from groove_trio.words.base import AgentId
from groove_trio.words.clock import NS
from groove_trio.words.events import AnyEvent, KnockDecided
from groove_trio.words.knocks import Granted, Knock, Operation

NOW = 1_795_367_880 * NS
A, B = AgentId("aaaaaaaa"), AgentId("bbbbbbbb")


@dataclass
class Held:
    """A broker as a gate knows it, on a virtual clock."""

    root: Path
    audit: AuditLog
    events: list[AnyEvent] = field(default_factory=list)
    ahead: int = 0
    broker: Broker = field(init=False)

    def __post_init__(self) -> None:
        leases = self.root / ".groove/leases.json"
        clock = SteadyClock(self.clock, self.clock)
        self.broker = Broker(self.root, self.audit, self.events.append, leases, clock=clock)

    def clock(self) -> int:
        return NOW + int(trio.current_time() * NS) + self.ahead

    def asks(
        self, path: str, operation: Operation = "write", pid: int = 7, agent: AgentId = A
    ) -> str:
        """Knocks as the gate does; whether it was granted, and whether that was a new decision."""
        full = f"{self.root}/{path}"
        if self.broker.again(agent, operation, full, "openat", pid):
            return "again"
        decision, seq = self.broker.decide_now(
            Knock(
                agent=agent, operation=operation, path=full, actor=agent_actor(agent),
                source="gate", tool="sh", call="openat", pid=pid,
            )
        )  # fmt: skip
        assert seq or not isinstance(decision, Granted)
        return "granted" if isinstance(decision, Granted) else "denied"

    def knocks(self) -> list[tuple[str, int]]:
        """The paths of the knocks on record, each with how often it came again."""
        return [
            (record["detail"]["path"], record["detail"].get("again", 0))
            for record in self.records()
            if record["action"].startswith("knock.")
        ]

    def records(self) -> list[dict[str, Any]]:
        lines = b"".join(path.read_bytes() for path in list_segments(self.root / ".groove/audit"))
        return [json.loads(line) for line in lines.splitlines()]


@asynccontextmanager
async def held(root: Path) -> AsyncIterator[Held]:
    (root / ".groove").mkdir(mode=0o700)
    async with open_audit(root / ".groove/audit") as audit, trio.open_nursery() as nursery:
        house = Held(root, audit)
        await nursery.start(house.broker.run)
        await house.broker.reserve(A, "a", Scope(["src/**"]), ".", OWNER)
        await house.broker.reserve(B, "b", Scope(["docs/**"]), ".", OWNER)
        yield house
        house.broker.close()
    assert verify_log(root / ".groove/audit").ok


pytestmark = pytest.mark.usefixtures("autojump_clock", "inline_threads")


async def test_what_comes_again_is_counted_and_told_once(tmp_path: Path) -> None:
    async with held(tmp_path) as house:
        assert [house.asks("src/x") for _ in range(4)] == ["granted", "again", "again", "again"]
        assert house.asks("src/y") == "granted"
        assert house.knocks() == [("src/x", 0), ("src/y", 0)]
        await trio.sleep(FOLD_S * 1.1)
        assert house.knocks() == [("src/x", 0), ("src/y", 0), ("src/x", 3)]
        told = [event for event in house.events if isinstance(event, KnockDecided)]
        assert [(event.decision.path, event.again) for event in told] == house.knocks()
        assert house.asks("src/x") == "granted"  # in another second, there is another record
    assert house.knocks()[3:] == [("src/x", 0)]


async def test_another_thread_path_or_operation_is_another_knock(tmp_path: Path) -> None:
    async with held(tmp_path) as house:
        assert house.asks("src/x") == "granted"
        assert house.asks("src/x", pid=8) == "granted"
        assert house.asks("src/x", operation="metadata") == "granted"
        assert house.asks("src/x", agent=B) == "denied"
        assert house.asks("src/x") == "again"


@pytest.mark.parametrize("operation", ["delete", "rename"])
async def test_what_the_disk_decides_is_asked_each_time(
    tmp_path: Path, operation: Operation
) -> None:
    async with held(tmp_path) as house:
        assert [house.asks("src/x", operation) for _ in range(2)] == ["granted"] * 2


async def test_a_denial_is_recorded_each_time(tmp_path: Path) -> None:
    async with held(tmp_path) as house:
        assert [house.asks("docs/x") for _ in range(3)] == ["denied"] * 3
        assert house.knocks() == [("docs/x", 0)] * 3


async def test_a_change_of_the_books_has_all_asked_anew_and_told_before(tmp_path: Path) -> None:
    async with held(tmp_path) as house:
        lease = await house.broker.declare(A, [f"{tmp_path}/free"])
        assert [house.asks("free") for _ in range(2)] == ["granted", "again"]
        await house.broker.complete(A, lease.id)
        assert house.asks("free") == "denied"
        actions = [record["action"] for record in house.records()]
        assert actions[-5:] == [
            "lease.declare", "knock.granted", "knock.granted", "lease.complete", "knock.denied",
        ]  # fmt: skip


async def test_a_lease_that_runs_out_grants_no_further(tmp_path: Path) -> None:
    async with held(tmp_path) as house:
        await house.broker.declare(A, [f"{tmp_path}/free"], ttl_s=1)
        await trio.sleep(0.5)
        assert [house.asks("free") for _ in range(2)] == ["granted", "again"]
        house.ahead = NS * 4 // 10
        assert house.asks("free") == "again"
        house.ahead = NS * 6 // 10  # and nobody was awake to notice
        assert house.asks("free") == "denied"


async def test_whoever_changes_the_books_is_noticed(tmp_path: Path) -> None:
    async with held(tmp_path) as house:
        await house.broker.declare(A, [f"{tmp_path}/free"])
        assert [house.asks("free") for _ in range(2)] == ["granted", "again"]
        table = house.broker._table  # noqa: SLF001 - as a declaration that is taken back does it
        table.drop(table.leases_of(A))
        assert house.asks("free") == "denied"


async def test_nothing_is_answered_from_memory_while_the_log_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, full = os.write, True

    def stopped(descriptor: int, data: bytes) -> int:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    async with held(tmp_path) as house:
        assert [house.asks("src/x") for _ in range(2)] == ["granted", "again"]
        monkeypatch.setattr(os, "write", stopped)
        assert house.asks("src/y") == "denied"
        assert house.asks("src/x") == "denied"
        await trio.sleep(FOLD_S * 1.1)  # nor is the count lost
        full = False
        await trio.sleep(FOLD_S * 2)
        assert house.knocks() == [("src/x", 0), ("src/x", 1)]
        assert house.asks("src/x") == "granted"


async def test_a_clock_that_is_set_back_prolongs_nothing(tmp_path: Path) -> None:
    async with held(tmp_path) as house:
        assert [house.asks("src/x") for _ in range(2)] == ["granted", "again"]
        house.ahead = -86_400 * NS
        assert house.asks("src/x") == "granted"


async def test_only_so_many_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "MAX_FOLDS", 2)
    async with held(tmp_path) as house:
        for name in "xyz":
            assert house.asks(f"src/{name}") == "granted"
        assert [house.asks(f"src/{name}") for name in "xyz"] == ["again", "again", "granted"]


async def test_the_last_counts_are_recorded_at_the_end(tmp_path: Path) -> None:
    async with held(tmp_path) as house:
        assert [house.asks("src/x") for _ in range(3)] == ["granted", "again", "again"]
    assert house.knocks() == [("src/x", 0), ("src/x", 2)]
