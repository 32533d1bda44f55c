"""How looks are shared; the machine's own /proc is what they look at."""

from __future__ import annotations

import os
import subprocess

import pytest
import trio
import trio.testing

from groove_trio.shell.census import Census
from groove_trio.shell.procfs import read_process
from groove_trio.shell.subreaper import is_subreaper, subreaper
from groove_trio.words.base import AgentId


async def test_callers_that_wait_together_share_one_look() -> None:
    census = Census()
    async with trio.open_nursery() as nursery:
        for _ in range(500):
            nursery.start_soon(census.refresh)
    assert census.looks <= 2


async def test_a_caller_is_never_answered_by_a_look_begun_before_it_asked() -> None:
    census = Census(slice_size=1)
    seen: list[int] = []

    async def ask() -> None:
        await census.refresh()
        seen.append(census.looks)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(census.refresh)
        while not census.busy:
            await trio.lowlevel.checkpoint()
        nursery.start_soon(ask)
    assert seen == [2]


async def test_cancelling_the_one_who_looks_leaves_the_others_served() -> None:
    census = Census(slice_size=1)
    first = trio.CancelScope()

    async def looks() -> None:
        with first:
            await census.refresh()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(looks)
        while not census.busy:
            await trio.lowlevel.checkpoint()
        nursery.start_soon(census.refresh)
        await trio.lowlevel.checkpoint()
        first.cancel()
    assert first.cancelled_caught
    assert census.looks == 2  # the first was never finished


async def test_refresh_checkpoints() -> None:
    with trio.testing.assert_checkpoints():
        await Census().refresh()


async def test_a_look_leaves_no_descriptor_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    census = Census()
    for _ in range(5):
        await census.refresh()
    with trio.move_on_after(0) as scope:
        scope.cancel()
        await census.refresh()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_members_of_an_unknown_agent_are_none() -> None:
    assert await Census().members(AgentId("00000000")) == []


async def test_what_the_program_spawned_itself_is_left_for_it_to_reap() -> None:
    with subreaper(), subprocess.Popen(["false"], start_new_session=True) as child:
        census = Census()
        while (seen := read_process(child.pid)) is not None and not seen.dead:
            await trio.sleep(0.001)
        await census.refresh()
        await census.refresh()
        assert child.wait() == 1


async def test_enrolling_nobody_raises() -> None:
    with subprocess.Popen(["true"]) as child:
        child.wait()
        with pytest.raises(ProcessLookupError):
            Census().enroll(AgentId("00000000"), child.pid)


def test_a_subreaper_is_one_within_its_block_only() -> None:
    before = is_subreaper()
    with subreaper():
        assert is_subreaper()
        with subreaper():
            assert is_subreaper()
        assert is_subreaper()
    assert is_subreaper() is before
