"""Verbs that meet on one agent, and agents whose world is not what it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from groove_trio.words.actors import OWNER
from groove_trio.words.agents import AgentPatch, Restart
from groove_trio.words.base import AgentId
from groove_trio.words.errors import UnknownAgent, UnknownProvider, WrongState
from groove_trio.words.events import AgentRemoved

Open = Callable[..., Any]


async def parked(house: Any) -> None:
    await house.spawn(["src/**"], name="a", restart=Restart(mode="always", max_restarts=0))
    house.trees[0].exit(1)
    await house.until("a", "parked")


async def interrupted(open_house: Open, **fields: Any) -> AgentId:
    async with open_house(drain=False) as house:
        return AgentId((await house.spawn(["src/**"], name="a", **fields)).id)


@pytest.mark.parametrize("how", ["parked", "interrupted"])
async def test_all_who_stop_an_agent_at_once_are_told_that_it_is_stopped(
    open_house: Open, how: str
) -> None:
    if how == "interrupted":
        await interrupted(open_house)
    states: list[str] = []
    async with open_house() as house:
        if how == "parked":
            await parked(house)

        async def stop() -> None:
            states.append((await house.supervisor.stop("a", OWNER)).state)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(stop)
        assert states == ["stopped"] * 5
        assert (await house.actions()).count("agent.stop") == 1
        assert house.holders() == set()


async def test_whoever_waits_for_a_stop_is_let_go_when_several_stop_at_once(
    open_house: Open,
) -> None:
    for first in range(3):  # whichever task the scheduler prefers
        async with open_house() as house:
            await house.spawn(name="a", restart=Restart(mode="always", max_restarts=0))
            house.trees[0].exit(1)
            await house.until("a", "parked")
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_quietly, house.supervisor.stop, "a", OWNER)
                    for _ in range(first):
                        await trio.lowlevel.checkpoint()
                    nursery.start_soon(_quietly, house.supervisor.remove, "a", OWNER)
                    nursery.start_soon(_quietly, house.supervisor.stop, "a", OWNER)
            await _quietly(house.supervisor.remove, "a", OWNER)
            assert house.supervisor.views() == []


async def _quietly(verb: Any, *arguments: Any) -> None:
    with suppress(WrongState, UnknownAgent):
        await verb(*arguments)


@pytest.mark.parametrize("verb", ["stop", "patch", "remove"])
@pytest.mark.parametrize("steps", range(8))
async def test_nothing_is_done_to_an_agent_that_was_removed_meanwhile(
    open_house: Open, verb: str, steps: int
) -> None:
    await interrupted(open_house)
    async with open_house() as house:
        supervisor = house.supervisor
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_quietly, supervisor.remove, "a", OWNER)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            if verb == "stop":
                nursery.start_soon(_quietly, supervisor.stop, "a", OWNER)
            elif verb == "patch":
                patch = AgentPatch(name="b")
                nursery.start_soon(_quietly, supervisor.patch, "a", patch, OWNER)
            else:
                nursery.start_soon(_quietly, supervisor.remove, "a", OWNER)
        removed = [isinstance(event, AgentRemoved) for event in house.events]
        assert removed.count(True) == 1
        told = [event for event in house.events[removed.index(True) + 1 :] if hasattr(event, "id")]
        assert told == []
        assert house.holders() == set()
        for name in ("a", "b"):  # nobody has them any more
            await house.spawn([f"{name}/**"], name=name)


async def test_a_follow_up_to_a_program_that_has_just_ended_is_refused(open_house: Open) -> None:
    async with open_house() as house:
        await house.spawn(name="a", interactive=True)
        house.trees[0].ended.set()
        house.trees[0].code = 0
        house.trees[0].gone.set()  # while a stranger still holds its output open
        await trio.sleep(0.1)
        assert house.supervisor.view("a").state == "running"
        with pytest.raises(WrongState):
            await house.supervisor.instruct("a", "more", OWNER)
        house.trees[0].vanish()
        assert "agent.instruct" not in await house.actions()


async def test_resuming_an_agent_whose_provider_is_gone_says_so(
    open_house: Open, tmp_path: Path
) -> None:
    agent = await interrupted(open_house)
    spec = tmp_path / ".groove/agents" / agent / "spec.json"
    spec.write_text(json.dumps({**json.loads(spec.read_text()), "provider": "gone"}))
    async with open_house() as house:
        with pytest.raises(UnknownProvider, match="gone"):
            await house.supervisor.resume("a", OWNER)
        assert house.holders() == set()
