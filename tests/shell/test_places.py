"""Who gets a place, and who has to go for it: the counting, without connections."""

from __future__ import annotations

from math import inf

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from groove_trio.shell.limits import Limits
from groove_trio.shell.places import Place, Places
from groove_trio.words.actors import OWNER, Actor, agent_actor
from groove_trio.words.base import AgentId

SMALL = Limits(connections=10, reserve=2, agents=4, agent=2, turned_away=2)
GENERAL = SMALL.connections - SMALL.reserve
ONE, TWO, THREE = (agent_actor(AgentId(name)) for name in ("1", "2", "3"))


class Guest:
    """An open connection: busy, or idle from some time on."""

    def __init__(self, idle_since: float = inf) -> None:
        self.idle_since = idle_since
        self.left = False

    def leave(self) -> None:
        self.left = True


def fill(places: Places, count: int, actor: Actor = OWNER, idle_since: float = inf) -> list[Guest]:
    guests = [Guest(idle_since) for _ in range(count)]
    for guest in guests:
        assert places.take(guest, actor) is Place.GENERAL
    return guests


async def test_the_owner_gets_general_places_then_the_reserve_then_none() -> None:
    places = Places(SMALL)
    fill(places, GENERAL)
    assert [places.take(Guest(), OWNER) for _ in range(3)] == [
        Place.RESERVE,
        Place.RESERVE,
        Place.NONE,
    ]
    assert len(places) == SMALL.connections


async def test_a_place_that_is_freed_is_given_again() -> None:
    places = Places(SMALL)
    first, *_ = fill(places, GENERAL)
    hurried = Guest()
    assert places.take(hurried, OWNER) is Place.RESERVE
    places.free(first)
    places.free(first)
    assert places.take(Guest(), OWNER) is Place.GENERAL
    places.free(hurried)
    assert places.take(Guest(), OWNER) is Place.RESERVE


async def test_an_agent_gets_its_share_and_no_more() -> None:
    places = Places(SMALL)
    first, _ = fill(places, SMALL.agent, ONE, idle_since=-inf)
    assert places.take(Guest(), ONE) is Place.NONE
    assert not first.left  # idle as it is: what an agent asks beyond its share is refused
    fill(places, SMALL.agent, TWO)
    places.free(first)
    fill(places, 1, ONE)


async def test_agents_get_their_share_together_and_no_more() -> None:
    places = Places(SMALL)
    first, *_ = fill(places, 2, ONE)
    fill(places, 2, TWO)
    assert places.take(Guest(), THREE) is Place.NONE
    assert fill(places, GENERAL - SMALL.agents)
    places.free(first)
    assert places.take(Guest(), THREE) is Place.GENERAL


async def test_an_agent_gets_nothing_of_the_reserve() -> None:
    places = Places(SMALL)
    fill(places, GENERAL)
    assert places.take(Guest(), ONE) is Place.NONE
    assert places.take(Guest(), OWNER) is Place.RESERVE


async def test_the_longest_idle_goes_first() -> None:
    places = Places(SMALL)
    busy = fill(places, GENERAL - 3)
    idle = [*fill(places, 1, idle_since=-2), *fill(places, 1, ONE, -3), *fill(places, 1, OWNER, -1)]
    gone = [idle[1], idle[0], idle[2]]
    for count in range(1, 4):
        assert places.take(Guest(), OWNER) is Place.GENERAL
        assert [guest.left for guest in gone] == [True] * count + [False] * (3 - count)
    assert places.take(Guest(), OWNER) is Place.RESERVE
    assert not any(guest.left for guest in busy)


async def test_whoever_came_or_was_answered_just_now_goes_before_anybody_is_refused() -> None:
    places = Places(SMALL)
    later = trio.current_time() + 60
    busy = fill(places, GENERAL - 2)
    first, second = (fill(places, 1, idle_since=at)[0] for at in (later, later + 1))
    for gone in (first, second):
        assert not gone.left
        assert places.take(Guest(), OWNER) is Place.GENERAL
        assert gone.left
    assert places.take(Guest(), OWNER) is Place.RESERVE
    assert not any(guest.left for guest in busy)


async def test_a_crowd_that_says_nothing_drives_itself_out() -> None:
    places = Places(SMALL)
    [worker] = fill(places, 1)
    for moment in range(5 * GENERAL):
        if moment % (GENERAL - 1) == 0:
            worker.idle_since = moment  # answered
        assert places.take(Guest(moment), OWNER) is Place.GENERAL
        assert not worker.left


async def test_an_agent_makes_agents_go_and_never_the_owner() -> None:
    places = Places(SMALL)
    owners = fill(places, GENERAL - 1, idle_since=-9)
    [agents] = fill(places, 1, ONE)
    assert places.take(Guest(), TWO) is Place.NONE
    agents.idle_since = -1
    assert places.take(Guest(), TWO) is Place.GENERAL
    assert agents.left
    assert not any(guest.left for guest in owners)


async def test_who_idles_in_the_reserve_makes_room_there() -> None:
    places = Places(SMALL)
    fill(places, GENERAL)
    slow = [Guest(-1), Guest(-2)]
    assert [places.take(guest, OWNER) for guest in slow] == [Place.RESERVE] * 2
    assert places.take(Guest(), OWNER) is Place.RESERVE
    assert [guest.left for guest in slow] == [False, True]


async def test_room_is_made_among_all_when_descriptors_run_out() -> None:
    places = Places(SMALL)
    fill(places, GENERAL)
    hurried = Guest(-1)
    assert places.take(hurried, OWNER) is Place.RESERVE
    assert places.evict()
    assert hurried.left
    assert not places.evict()


async def test_only_so_many_are_told_why_they_are_not_let_in() -> None:
    places = Places(SMALL)
    guests = [Guest() for _ in range(3)]
    assert [places.turn_away(guest) for guest in guests] == [True, True, False]
    assert len(places) == 0
    places.free(guests[0])
    assert places.turn_away(guests[2])


@given(
    st.lists(
        st.tuples(st.sampled_from([OWNER, ONE, TWO, THREE]), st.sampled_from([inf, -1.0, -2.0]))
        | st.integers(0, 30),
        max_size=40,
    )
)
def test_no_order_of_coming_and_going_breaks_a_bound(
    steps: list[tuple[Actor, float] | int],
) -> None:
    places = Places(SMALL)
    inside: dict[Guest, tuple[Actor, Place]] = {}

    async def act() -> None:
        for step in steps:
            if isinstance(step, int):
                if step < len(inside):
                    places.free(gone := list(inside)[step])
                    del inside[gone]
                continue
            actor, idle_since = step
            guest = Guest(idle_since)
            place = places.take(guest, actor)
            for each in [each for each in inside if each.left]:
                assert actor == OWNER or inside[each][0] != OWNER
                del inside[each]
            if place is not Place.NONE:
                inside[guest] = (actor, place)
            agents = [each.name for each, _ in inside.values() if each != OWNER]
            reserve = [each for each, place in inside.values() if place is Place.RESERVE]
            assert len(places) == len(inside)
            assert len(inside) - len(reserve) <= GENERAL
            assert len(reserve) <= SMALL.reserve
            assert len(agents) <= SMALL.agents
            assert all(agents.count(name) <= SMALL.agent for name in agents)
            assert all(each == OWNER for each in reserve)
        await trio.lowlevel.checkpoint()

    trio.run(act)


@pytest.mark.parametrize("kind", ["owner", "agent"])
async def test_nobody_gets_in_where_there_are_no_places(kind: str) -> None:
    actor = OWNER if kind == "owner" else ONE
    assert Places(Limits(connections=0, reserve=0)).take(Guest(), actor) is Place.NONE
