"""What is on disk before it is anyone's: so a crash leaves nothing that two would hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from groove_trio.shell import leasefile
from groove_trio.shell.files import write_atomic
from groove_trio.shell.store import Store
from groove_trio.words.actors import OWNER
from groove_trio.words.agents import AgentPatch
from groove_trio.words.errors import GrooveError, NameTaken, OutOfResources, UnknownAgent

Open = Callable[..., Any]


async def left_behind(open_house: Open) -> None:
    async with open_house(drain=False) as house:
        await house.spawn(["src/**"], name="a")


async def test_a_scope_is_free_only_when_the_stop_is_saved(
    open_house: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    await left_behind(open_house)
    holders: list[set[str]] = []
    save = Store.save_status
    async with open_house() as house:

        def look(*arguments: Any) -> None:
            holders.append(house.holders())
            save(*arguments)

        monkeypatch.setattr(Store, "save_status", look)
        await house.supervisor.stop("a", OWNER)
        assert holders == [{"a"}]
        assert house.holders() == set()


async def test_scope_and_name_are_free_only_when_the_agent_is_erased(
    open_house: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    await left_behind(open_house)
    seen: list[tuple[set[str], str, str]] = []
    remove = Store.remove
    async with open_house() as house:

        def look(store: Store, agent: Any) -> None:
            log = max((store.state_dir / "audit").iterdir()).read_text().splitlines()
            last = json.loads(log[-1])["action"]
            seen.append((house.holders(), house.supervisor.view("a").state, last))
            remove(store, agent)

        monkeypatch.setattr(Store, "remove", look)
        await house.supervisor.remove("a", OWNER)
        assert seen == [({"a"}, "interrupted", "agent.remove")]
        assert house.holders() == set()


async def test_a_name_is_free_only_when_the_new_one_is_saved(
    open_house: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[bool] = []
    save = Store.save_spec
    async with open_house() as house:
        await house.spawn(name="a")

        def look(*arguments: Any) -> None:
            try:
                house.supervisor.view("a")
            except UnknownAgent:
                taken.append(False)
            else:
                taken.append(True)
            save(*arguments)

        monkeypatch.setattr(Store, "save_spec", look)
        await house.supervisor.patch("a", AgentPatch(name="b"), OWNER)
        await house.spawn(name="a")
        with pytest.raises(NameTaken):
            await house.spawn(name="b")
        assert taken == [True]


async def test_a_lease_leaves_its_file_only_when_that_is_on_record(
    open_house: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[tuple[int, bool]] = []
    async with open_house() as house:
        await house.spawn(["src/**"], name="a")
        agent = house.supervisor.view("a").id
        lease = await house.broker.declare(agent, ["docs/x"])
        log, run = house.audit, trio.to_thread.run_sync

        async def slowly(job: Callable[..., Any], *arguments: Any, **how: Any) -> Any:
            if "sync_job" in job.__qualname__:
                await trio.sleep(1)
            return await run(job, *arguments, **how)

        def look(path: Path, data: bytes) -> None:
            on_disk = log._commit.done >= log.seq  # noqa: SLF001 - what a power cut would leave
            saved.append((len(json.loads(data)), on_disk))
            write_atomic(path, data)

        monkeypatch.setattr(trio.to_thread, "run_sync", slowly)
        monkeypatch.setattr(leasefile, "write_atomic", look)
        await house.broker.complete(agent, lease.id)
        assert saved == [(0, True)]


async def test_a_name_that_is_given_back_meanwhile_stays_taken(open_house: Open) -> None:
    async with open_house() as house:
        await house.spawn(name="a")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.supervisor.patch, "a", AgentPatch(name="b"), OWNER)
            nursery.start_soon(house.supervisor.patch, "a", AgentPatch(name="a"), OWNER)
        (view,) = house.supervisor.views()
        assert house.supervisor.view(view.name) == view
        with pytest.raises(NameTaken):
            await house.spawn(name=view.name)


@pytest.mark.parametrize("verb", ["restart", "resume"])
@pytest.mark.parametrize("steps", [0, 2, 4, 6])
async def test_who_starts_an_agent_that_is_being_removed_hears_that_it_is_gone(
    open_house: Open, verb: str, steps: int
) -> None:
    await left_behind(open_house)
    async with open_house() as house, trio.open_nursery() as nursery:
        nursery.start_soon(_quietly, house.supervisor.remove, "a", OWNER)
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        await _quietly(getattr(house.supervisor, verb), "a", OWNER)
        there = house.supervisor.views()
        assert len(house.trees) == len(there)  # nothing runs that nobody can see
        assert house.holders() == ({"a"} if there else set())


async def _quietly(verb: Callable[..., Any], *arguments: Any) -> None:
    with suppress(GrooveError):
        await verb(*arguments)


async def test_a_lease_given_back_stays_so_after_a_crash(open_house: Open, tmp_path: Path) -> None:
    file = tmp_path / ".groove/leases.json"
    async with open_house() as house:
        agent = (await house.spawn(name="a")).id
        one = await house.broker.declare(agent, ["x"])
        await house.broker.declare(agent, ["y"])
        await house.broker.complete(agent, one.id)
        assert [lease["paths"] for lease in json.loads(file.read_bytes())] == [["y"]]
        await house.supervisor.stop("a", OWNER)
        assert json.loads(file.read_bytes()) == []


async def test_a_lease_given_back_that_cannot_be_saved_is_told_so(
    open_house: Open, tmp_path: Path
) -> None:
    file = tmp_path / ".groove/leases.json"
    async with open_house() as house:
        agent = (await house.spawn(name="a")).id
        lease = await house.broker.declare(agent, ["x"])
        file.unlink()
        file.mkdir()
        with pytest.raises(OutOfResources, match="given back"):
            await house.broker.complete(agent, lease.id)
        assert house.broker.view().leases == []
        file.rmdir()
