"""How many begin in one turn of the loop."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
import trio.testing

from groove_trio.shell.pace import Pace


class Turns(trio.abc.Instrument):
    """Numbers the turns of the loop."""

    def __init__(self) -> None:
        self.number = 0

    def before_io_wait(self, timeout: float) -> None:
        self.number += 1


async def crowd(pace: Pace, count: int) -> list[int]:
    """In which turn each of a crowd began that came at once, in the order in which they came."""
    turns = Turns()
    began: dict[int, int] = {}

    async def come(number: int) -> None:
        await pace.turn()
        began[number] = turns.number

    trio.lowlevel.add_instrument(turns)
    try:
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(come, number)
    finally:
        trio.lowlevel.remove_instrument(turns)
    return [began[number] for number in sorted(began)]


@pytest.mark.parametrize("again", [1, 3])
async def test_a_turn_takes_in_so_many_and_no_more(again: int) -> None:
    pace = Pace(3)
    async with trio.open_nursery() as nursery:
        await nursery.start(pace.run)
        for _ in range(again):
            began = Counter(await crowd(pace, 20))
            assert max(began.values()) <= 3
            assert max(began) - min(began) <= 20 // 3 + 3
            assert len(pace) == 0
        nursery.cancel_scope.cancel()


async def test_whoever_comes_alone_does_not_wait() -> None:
    pace = Pace(1)
    async with trio.open_nursery() as nursery:
        await nursery.start(pace.run)
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked()
            with trio.testing.assert_no_checkpoints():
                await pace.turn()
        nursery.cancel_scope.cancel()


async def test_nobody_waits_where_turns_are_not_counted() -> None:
    pace = Pace(1)
    with trio.testing.assert_no_checkpoints():
        for _ in range(3):
            await pace.turn()


async def test_whoever_waits_goes_on_when_the_counting_ends() -> None:
    pace = Pace(0)
    async with trio.open_nursery() as nursery, trio.open_nursery() as counting:
        await counting.start(pace.run)
        for _ in range(3):
            nursery.start_soon(pace.turn)
        await trio.testing.wait_all_tasks_blocked()
        assert len(pace) == 3
        counting.cancel_scope.cancel()
    with trio.testing.assert_no_checkpoints():
        await pace.turn()


async def test_whoever_gives_up_waiting_takes_nobodys_room() -> None:
    pace = Pace(1)
    async with trio.open_nursery() as nursery:
        await nursery.start(pace.run)
        await pace.turn()
        with trio.CancelScope() as scope:
            scope.cancel()
            await pace.turn()
        assert scope.cancelled_caught
        assert len(pace) == 0
        await pace.turn()
        nursery.cancel_scope.cancel()
