"""The machine's clock, set to and fro by a day: leases last as long as they were to."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from groove_trio.rules.scopes import Scope
from groove_trio.shell.audit import open_audit, verify_log
from groove_trio.shell.broker import Broker
from groove_trio.shell.segments import list_segments
from groove_trio.shell.steady import SteadyClock
from groove_trio.words.actors import OWNER, agent_actor
from groove_trio.words.base import AgentId
from groove_trio.words.clock import NS, rfc3339
from groove_trio.words.events import AnyEvent, LeaseDeclared
from groove_trio.words.knocks import Granted, Knock

NOW = 1_795_367_880 * NS
DAY = 86_400 * NS
A, B = AgentId("aaaaaaaa"), AgentId("bbbbbbbb")


@dataclass
class Clocks:
    """A machine's two clocks: one that anybody may set, one that only runs."""

    wall: int = NOW
    elapsed: int = 5 * NS

    def run(self, seconds: float) -> None:
        self.wall += int(seconds * NS)
        self.elapsed += int(seconds * NS)

    def steady(self) -> SteadyClock:
        return SteadyClock(lambda: self.wall, lambda: self.elapsed)


@dataclass
class House:
    root: Path
    broker: Broker
    clocks: Clocks
    events: list[AnyEvent] = field(default_factory=list)

    async def may(self, path: str, agent: AgentId = A) -> bool:
        knock = Knock(
            agent=agent, operation="write", path=path, actor=agent_actor(agent), source="library"
        )
        return isinstance(await self.broker.knock(knock), Granted)

    def records(self, action: str) -> list[dict[str, Any]]:
        lines = b"".join(path.read_bytes() for path in list_segments(self.root / ".groove/audit"))
        found = [json.loads(line) for line in lines.splitlines() if line.endswith(b"}")]
        return [each for each in found if each["action"] == action]

    def saved(self) -> list[str]:
        return [
            each["until"] for each in json.loads((self.root / ".groove/leases.json").read_text())
        ]


@asynccontextmanager
async def living(root: Path, clocks: Clocks) -> AsyncIterator[House]:
    state = root / ".groove"
    state.mkdir(mode=0o700, exist_ok=True)
    async with (
        open_audit(state / "audit", clock=lambda: clocks.wall) as audit,
        trio.open_nursery() as nursery,
    ):
        events: list[AnyEvent] = []
        broker = Broker(root, audit, events.append, state / "leases.json", clock=clocks.steady())
        await nursery.start(broker.run)
        for agent in (A, B):
            await broker.reserve(agent, agent[0], Scope([]), ".", OWNER)
        yield House(root, broker, clocks, events)
        broker.close()
    assert verify_log(state / "audit").ok


async def until(true: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not true():
            await trio.sleep(0.002)


@pytest.mark.parametrize("day", [-DAY, DAY])
async def test_a_lease_lasts_as_long_as_it_was_to_whatever_the_clock_is_set_to(
    tmp_path: Path, day: int
) -> None:
    clocks = Clocks()
    async with living(tmp_path, clocks) as house:
        long = await house.broker.declare(A, ["x"], 600)
        await house.broker.declare(B, ["y"], 60)
        clocks.run(30)
        clocks.wall += day
        assert await house.may("x")
        assert await house.may("y", B)
        await until(lambda: house.broker.view().leases[0].until == rfc3339(NOW + 600 * NS + day))
        moved = house.broker.view().leases
        assert [each.since for each in moved] == [rfc3339(NOW + day)] * 2
        declared = [each for each in house.events if isinstance(each, LeaseDeclared)]
        assert declared[2:] == [LeaseDeclared(lease=each) for each in moved]
        told = house.records("lease.move")
        assert [each["detail"]["until"] for each in told] == [each.until for each in moved]
        await until(lambda: house.saved() == [each.until for each in moved])

        clocks.run(30)
        assert await house.may("x")
        assert not await house.may("y", B)
        await until(lambda: [each.id for each in house.broker.view().leases] == [long.id])
        clocks.run(540)
        assert not await house.may("x")
        await until(lambda: house.broker.view().leases == [])
        assert len(house.records("lease.expire")) == 2
        assert len(house.records("lease.move")) == 2


async def test_a_lease_declared_after_the_clock_was_set_is_told_in_its_time(tmp_path: Path) -> None:
    clocks = Clocks()
    async with living(tmp_path, clocks) as house:
        clocks.wall -= DAY
        lease = await house.broker.declare(A, ["x"], 60)
        assert (lease.since, lease.until) == (rfc3339(NOW - DAY), rfc3339(NOW - DAY + 60 * NS))
        assert house.records("lease.move") == []
        assert len(house.records("audit.clock")) == 1
        clocks.run(60)
        assert not await house.may("x")


async def test_a_clock_that_is_corrected_smoothly_moves_nothing(tmp_path: Path) -> None:
    clocks = Clocks()
    async with living(tmp_path, clocks) as house:
        await house.broker.declare(A, ["x"], 60)
        for _ in range(3):
            clocks.wall += NS // 4
            assert await house.may("x")
        assert house.records("lease.move") == []


async def test_leases_run_on_while_it_cannot_be_recorded_that_the_clock_was_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    clocks = Clocks()
    async with living(tmp_path, clocks) as house:
        lease = await house.broker.declare(A, ["x"], 60)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            clocks.wall += DAY
            assert not await house.may("x")
            assert house.broker.view().leases == [lease]
        assert await house.may("x")
        await until(lambda: len(house.records("lease.move")) == 1)
        clocks.run(60)
        assert not await house.may("x")


@pytest.mark.parametrize(("day", "left"), [(-DAY, 1), (DAY, 0)])
async def test_between_two_daemons_a_clock_set_back_prolongs_no_lease_beyond_its_length(
    tmp_path: Path, day: int, left: int
) -> None:
    clocks = Clocks()
    async with living(tmp_path, clocks) as house:
        await house.broker.declare(A, ["x"], 600)
        clocks.run(300)
    clocks.wall += day
    async with living(tmp_path, clocks) as house:
        await house.broker.restore_leases()
        assert len(house.broker.view().leases) == left
        assert len(house.records("lease.move")) == left
        assert len(house.records("lease.drop")) == 1 - left
        assert await house.may("x") is bool(left)
        clocks.run(600)
        assert not await house.may("x")


def test_by_itself_it_is_the_machines_time() -> None:
    clock = SteadyClock()
    before, told, after = time.time_ns(), clock.now(), time.time_ns()
    assert before - NS < told < after + NS
    assert clock.set_by() == 0
