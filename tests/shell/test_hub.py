"""The fan-out of events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from groove_trio.rules import denials
from groove_trio.shell.history import EVENT_WEIGHT, Published, weigh
from groove_trio.shell.hub import Hub, Subscription
from groove_trio.words.base import AgentId
from groove_trio.words.events import (
    AgentRemoved,
    AnyEvent,
    Envelope,
    Gap,
    KnockDecided,
    LeaseDeclared,
    OutputAppended,
    Snapshot,
)
from groove_trio.words.leases import Lease, LeaseId, LocksView
from groove_trio.words.output import OutputLine

START = 1000


def event(number: int = 0) -> AgentRemoved:
    return AgentRemoved(id=AgentId(f"{number:08x}"))


def lines(size: int) -> OutputAppended:
    line = OutputLine(seq=1, time="", stream="out", text="x" * size)
    return OutputAppended(id=AgentId("0" * 8), lines=[line])


def snapshot() -> Snapshot:
    return Snapshot(agents=[], locks=LocksView(holdings=[], leases=[]), draining=False)


def no_snapshot() -> Snapshot:
    raise AssertionError("nothing asks for a snapshot here")


LONG = "x" * 4096
AGENT = AgentId("0" * 8)


@pytest.mark.parametrize(
    "long",
    [
        lines(65_536),
        KnockDecided(
            id=AGENT, operation="write", source="api", tool="", decision=denials.unowned(LONG)
        ),
        LeaseDeclared(
            lease=Lease(id=LeaseId("l"), agent=AGENT, paths=[LONG] * 64, since="", until="")
        ),
    ],
    ids=lambda long: type(long).__name__,
)
def test_an_event_weighs_no_less_than_its_text(long: AnyEvent) -> None:
    assert weigh(long) >= len(Published(1, 0, long).json)


@pytest.fixture
def make() -> Callable[..., Hub]:
    def make(**bounds: int) -> Hub:
        return Hub(first_seq=START, clock=lambda: 5, **bounds)

    return make


@pytest.fixture
def hub(make: Callable[..., Hub]) -> Hub:
    return make(max_events=8)


async def take_all(subscription: Subscription) -> list[Published]:
    """All that can be had until every other task waits."""
    found: list[Published] = []
    async with trio.open_nursery() as nursery:

        async def collect() -> None:
            async for published in subscription:
                found.append(published)  # noqa: PERF401 - kept when the rest is cancelled
            nursery.cancel_scope.cancel()

        nursery.start_soon(collect)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return found


def seqs(found: list[Published]) -> list[int]:
    return [published.seq for published in found]


def kinds(found: list[Published]) -> list[type[AnyEvent]]:
    return [type(published.event) for published in found]


async def test_numbers_grow_by_one(hub: Hub) -> None:
    with hub.subscribe(START, no_snapshot) as subscription:
        for number in range(5):
            hub.publish(event(number))
        found = await take_all(subscription)
    assert seqs(found) == [1001, 1002, 1003, 1004, 1005]
    assert [published.event for published in found] == [event(number) for number in range(5)]


async def test_the_first_number_is_the_time_in_microseconds() -> None:
    hub = Hub(clock=lambda: 1_700_000_000_123_456_789)
    assert hub.seq == 1_700_000_000_123_456


async def test_a_subscription_begins_with_a_snapshot(hub: Hub) -> None:
    hub.publish(event())
    with hub.subscribe(None, snapshot) as subscription:
        hub.publish(event(1))
        found = await take_all(subscription)
    assert kinds(found) == [Snapshot, AgentRemoved]
    assert seqs(found) == [1001, 1002]


async def test_what_followed_a_number_comes_without_a_snapshot(hub: Hub) -> None:
    for number in range(6):
        hub.publish(event(number))
    with hub.subscribe(1003, no_snapshot) as subscription:
        hub.publish(event(6))
        assert seqs(await take_all(subscription)) == [1004, 1005, 1006, 1007]


async def test_the_latest_number_resumes_with_nothing(hub: Hub) -> None:
    hub.publish(event())
    with hub.subscribe(hub.seq, no_snapshot) as subscription:
        assert await take_all(subscription) == []


@pytest.mark.parametrize("after", [1001, 1000])
async def test_events_no_longer_held_are_a_gap_and_a_snapshot(hub: Hub, after: int) -> None:
    for number in range(12):
        hub.publish(event(number))
    with hub.subscribe(after, snapshot) as subscription:
        hub.publish(event(12))
        found = await take_all(subscription)
    assert kinds(found) == [Gap, Snapshot, AgentRemoved]
    assert seqs(found) == [1012, 1012, 1013]
    assert found[0].event == Gap(missed=1012 - after, first=after + 1, last=1012)


async def test_the_oldest_number_that_can_be_resumed_from(hub: Hub) -> None:
    for number in range(12):
        hub.publish(event(number))
    with hub.subscribe(1004, no_snapshot) as subscription:
        assert seqs(await take_all(subscription)) == list(range(1005, 1013))


@pytest.mark.parametrize(("after", "first"), [(999, 1000), (0, 1), (1002, 1001), (10**18, 1001)])
async def test_a_number_of_another_run_is_an_uncounted_gap(
    hub: Hub, after: int, first: int
) -> None:
    hub.publish(event())
    with hub.subscribe(after, snapshot) as subscription:
        found = await take_all(subscription)
    assert kinds(found) == [Gap, Snapshot]
    assert found[0].event == Gap(missed=None, first=first, last=1001)


async def test_a_slow_subscriber_alone_gets_an_exact_gap(hub: Hub) -> None:
    quick_found: list[Published] = []
    with (
        hub.subscribe(START, no_snapshot) as slow,
        hub.subscribe(START, no_snapshot) as quick,
    ):
        for number in range(20):
            hub.publish(event(number))
            quick_found.append(await quick.__anext__())
        slow_found = [await slow.__anext__()]
        hub.publish(event(20))
        slow_found.append(await slow.__anext__())
    assert seqs(quick_found) == list(range(1001, 1021))
    assert Gap not in kinds(quick_found)
    assert slow_found[0].event == Gap(missed=20, first=1001, last=1020)
    assert slow_found[0].seq == 1020
    assert slow_found[1].seq == 1021


async def test_a_full_history_loses_nothing_of_a_subscriber_that_keeps_within_it(hub: Hub) -> None:
    with hub.subscribe(START, no_snapshot) as subscription:
        for number in range(8):
            hub.publish(event(number))
        assert seqs(await take_all(subscription)) == list(range(1001, 1009))


async def test_the_history_is_bounded_by_count(make: Callable[..., Hub]) -> None:
    hub = make(max_events=100)
    for number in range(1000):
        hub.publish(event(number))
    assert len(hub.history) == 100
    assert hub.history.oldest == hub.seq - 99


async def test_the_history_is_bounded_by_size(make: Callable[..., Hub]) -> None:
    hub = make(max_bytes=100_000)
    for _ in range(1000):
        hub.publish(lines(9000))
    assert 80_000 < hub.history.size <= 100_000
    for _ in range(1000):
        hub.publish(event())
    assert hub.history.size <= 100_000
    assert len(hub.history) == 100_000 // EVENT_WEIGHT


async def test_an_event_larger_than_the_history_still_arrives(make: Callable[..., Hub]) -> None:
    hub = make(max_bytes=1000)
    with hub.subscribe(START, no_snapshot) as subscription:
        hub.publish(lines(50_000))
        [found] = await take_all(subscription)
    assert found.event == lines(50_000)
    assert len(hub.history) == 1


async def test_a_batch_is_what_is_ready_up_to_a_size(make: Callable[..., Hub]) -> None:
    hub = make()
    with hub.subscribe(START, no_snapshot) as subscription:
        for _ in range(30):
            hub.publish(lines(10_000))
        batches = [await subscription.frames(65_536) for _ in range(5)]
    size = len(hub.history[hub.seq].frame)
    assert [len(batch) / size for batch in batches] == [7, 7, 7, 7, 2]
    ready = [hub.history[seq].frame for seq in range(START + 1, START + 31)]
    assert b"".join(batches) == b"".join(ready)


async def test_who_is_at_the_same_place_shares_one_batch(make: Callable[..., Hub]) -> None:
    hub = make()
    with (
        hub.subscribe(START, no_snapshot) as one,
        hub.subscribe(START, no_snapshot) as other,
        hub.subscribe(START, no_snapshot) as late,
    ):
        for number in range(10):
            hub.publish(event(number))
        first, second = await one.frames(), await other.frames()
        assert first is second
        hub.publish(event(10))
        rest = await one.frames()
        assert await late.frames() == first + rest
        assert await other.frames() == rest == hub.history[hub.seq].frame


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 400)), max_size=60))
def test_any_course_of_batches_hands_out_every_frame_once(course: list[tuple[int, int]]) -> None:
    async def follow() -> None:
        hub = Hub(first_seq=START, clock=lambda: 5)
        got = [b"", b""]
        with hub.subscribe(START, no_snapshot) as one, hub.subscribe(START, no_snapshot) as other:
            hub.publish(event())
            for who, size in course:
                if who == 2:
                    hub.publish(lines(size))
                elif (place := (one, other)[who]).seq != hub.seq:
                    got[who] += await place.frames(size)
            hub.close()
            for who, place in enumerate((one, other)):
                while frames := await place.frames():
                    got[who] += frames
        ready = [hub.history[seq].frame for seq in range(START + 1, hub.seq + 1)]
        assert got == [b"".join(ready)] * 2

    trio.run(follow)


async def test_batches_tell_of_a_snapshot_and_of_a_gap(hub: Hub) -> None:
    with hub.subscribe(None, snapshot) as subscription:
        hub.publish(event())
        opening = await subscription.frames()
        for number in range(20):
            hub.publish(event(number))
        gap, live = await subscription.frames(), b""
        hub.publish(event(20))
        live = await subscription.frames()
    assert b'"type":"snapshot"' in opening
    assert b'"missed":21' in gap
    assert live == hub.history[hub.seq].frame


async def test_an_event_is_encoded_once_for_all(hub: Hub) -> None:
    with (
        hub.subscribe(START, no_snapshot) as one,
        hub.subscribe(START, no_snapshot) as other,
    ):
        hub.publish(event())
        first, second = await one.__anext__(), await other.__anext__()
    assert first.frame is second.frame
    assert first.json is second.json


async def test_the_encoded_form_is_the_envelope(hub: Hub) -> None:
    with hub.subscribe(None, snapshot) as subscription:
        published = await subscription.__anext__()
    assert msgspec.json.decode(published.json, type=Envelope) == published.envelope
    assert published.envelope.time == "1970-01-01T00:00:00.000000005Z"
    assert published.frame.endswith(published.json)


async def test_closing_hands_out_the_backlog_and_then_ends(hub: Hub) -> None:
    with hub.subscribe(None, snapshot) as subscription:
        for number in range(3):
            hub.publish(event(number))
        hub.close()
        hub.close()
        found = [published async for published in subscription]
        assert kinds(found) == [Snapshot, AgentRemoved, AgentRemoved, AgentRemoved]
        assert await subscription.frames() == b""


async def test_closing_wakes_who_waits(hub: Hub) -> None:
    ended = trio.Event()

    async def listen(subscription: Subscription) -> None:
        assert [published async for published in subscription] == []
        ended.set()

    with hub.subscribe(START, no_snapshot) as subscription:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen, subscription)
            await trio.testing.wait_all_tasks_blocked()
            assert not ended.is_set()
            hub.close()
    assert ended.is_set()


async def test_publishing_wakes_every_subscriber(hub: Hub) -> None:
    found: list[int] = []

    async def listen() -> None:
        with hub.subscribe(START, no_snapshot) as subscription:
            found.append((await subscription.__anext__()).seq)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(listen)
        await trio.testing.wait_all_tasks_blocked()
        assert hub.subscribers == 5
        hub.publish(event())
    assert found == [1001] * 5
    assert hub.subscribers == 0


async def test_a_cancelled_wait_loses_nothing(hub: Hub) -> None:
    with hub.subscribe(START, no_snapshot) as subscription:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(subscription.frames)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        hub.publish(event())
        with trio.CancelScope() as scope:
            scope.cancel()
            await subscription.frames()
        assert scope.cancelled_caught
        assert seqs([await subscription.__anext__()]) == [1001]


async def test_taking_always_checkpoints(hub: Hub) -> None:
    with hub.subscribe(None, snapshot) as subscription:
        with trio.testing.assert_checkpoints():
            await subscription.__anext__()
        hub.publish(event())
        with trio.testing.assert_checkpoints():
            await subscription.frames()
        hub.close()
        with trio.testing.assert_checkpoints():
            await subscription.frames()


async def test_publishing_never_checkpoints(hub: Hub) -> None:
    with hub.subscribe(None, snapshot), trio.testing.assert_no_checkpoints():
        for number in range(100):
            hub.publish(event(number))


async def test_leaving_early_gives_the_place_back(hub: Hub) -> None:
    with pytest.raises(KeyError), hub.subscribe(None, snapshot):
        raise KeyError
    assert hub.subscribers == 0


class Turns(trio.abc.Instrument):
    """Numbers the turns of the loop."""

    def __init__(self) -> None:
        self.number = 0

    def before_io_wait(self, timeout: float) -> None:
        self.number += 1


async def test_a_crowd_of_subscribers_is_served_a_few_in_each_turn() -> None:
    hub = Hub(first_seq=0)
    turns = Turns()
    served: list[tuple[int, int]] = []

    async def listen(number: int) -> None:
        with hub.subscribe(0, snapshot) as subscription:
            while await subscription.frames():
                served.append((turns.number, number))

    trio.lowlevel.add_instrument(turns)
    try:
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(listen, number)
            await trio.testing.wait_all_tasks_blocked()
            for round_ in range(3):
                hub.publish(event())
                hub.publish(event())
                await trio.testing.wait_all_tasks_blocked()
                assert sorted(number for _, number in served) == list(range(100)), round_
                assert max(Counter(turn for turn, _ in served).values()) <= 8
                served.clear()
            hub.close()
    finally:
        trio.lowlevel.remove_instrument(turns)


async def test_those_who_always_have_more_take_turns_too() -> None:
    hub = Hub(first_seq=0)
    turns = Turns()
    served: list[tuple[int, int]] = []

    async def listen(number: int) -> None:
        with hub.subscribe(0, snapshot) as subscription:
            while await subscription.frames(max_bytes=0):
                served.append((turns.number, number))

    for _ in range(20):
        hub.publish(event())
    trio.lowlevel.add_instrument(turns)
    try:
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(listen, number)
            await trio.testing.wait_all_tasks_blocked()
            hub.close()
    finally:
        trio.lowlevel.remove_instrument(turns)
    assert Counter(number for _, number in served) == dict.fromkeys(range(50), 20)
    assert max(Counter(turn for turn, _ in served).values()) <= 8


async def test_a_subscriber_that_is_cancelled_in_its_turn_holds_up_nobody() -> None:
    hub = Hub(first_seq=0)
    served: list[int] = []

    async def listen(number: int, scope: trio.CancelScope) -> None:
        with scope, hub.subscribe(None if number % 2 else 0, snapshot) as subscription:
            while await subscription.frames():
                served.append(number)

    scopes = [trio.CancelScope() for _ in range(100)]
    async with trio.open_nursery() as nursery:
        for number, scope in enumerate(scopes):
            nursery.start_soon(listen, number, scope)
        for _ in range(7):
            hub.publish(event())
            await trio.lowlevel.checkpoint()
            for scope in scopes[:10]:
                scope.cancel()
            del scopes[:10]
        await trio.testing.wait_all_tasks_blocked()
        served.clear()
        hub.publish(event())
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(served) == list(range(70, 100))
        hub.close()
