"""One subscriber over one WebSocket, over memory streams and a virtual clock."""

from __future__ import annotations

import contextlib
import itertools
import resource
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from groove_trio.shell.feed import (
    CLOSE_S,
    FRAME_BURST,
    FRAME_RATE,
    FRAMES_AT_ONCE,
    LINGER_S,
    MAX_FRAGMENTS,
    MAX_MESSAGE,
    PING_S,
    WRITE_S,
    feed_socket,
    run_feed,
)
from groove_trio.shell.hub import Hub
from groove_trio.wire.http import ClientConnection, Request, Switched, Upgrade
from groove_trio.wire.ws import ClientSocket, Closed, Event, Ping, Pong, TextMessage
from groove_trio.words.base import AgentId
from groove_trio.words.errors import BadRequest, UpgradeRequired
from groove_trio.words.events import AgentRemoved, Gap, OutputAppended, Snapshot
from groove_trio.words.leases import LocksView
from groove_trio.words.output import OutputLine

START = 1000
Pair = Callable[[], tuple[Any, Any]]


def removed(number: int) -> AgentRemoved:
    return AgentRemoved(id=AgentId(f"{number:08x}"))


def lines(size: int) -> OutputAppended:
    line = OutputLine(seq=1, time="", stream="out", text="x" * size)
    return OutputAppended(id=AgentId("0" * 8), lines=[line])


def snapshot() -> Snapshot:
    return Snapshot(agents=[], locks=LocksView(holdings=[], leases=[]), draining=False)


def memory() -> int:
    """Bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Subscriber:
    """The other end of a feed."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, *, deflate: bool = False) -> None:
        self.stream = stream
        self.socket = ClientSocket(deflate=deflate)
        self._ahead: list[Event] = []
        self.headers: dict[bytes, bytes] = {}

    def upgrade(self, trailing: bytes = b"") -> Upgrade:
        headers = [(name.lower(), value) for name, value in self.socket.headers]
        return Upgrade(Request("GET", "/ws", headers, b""), trailing)

    async def accept(self) -> None:
        http = ClientConnection()
        http.request("GET", "/ws", self.socket.headers)
        while not isinstance(answer := http.next_event(), Switched):
            http.receive(await self.stream.receive_some())
        self.headers = dict(answer.response.headers)
        self.socket.accept(answer.response, answer.trailing)

    async def next(self) -> Event:
        """The next thing that came; every ping is answered."""
        while not self._ahead:
            self._ahead = list(self.socket.events())
            if not self._ahead:
                self.socket.receive(await self.stream.receive_some())
        event = self._ahead.pop(0)
        if isinstance(event, Ping):
            with contextlib.suppress(trio.BrokenResourceError):
                await self.stream.send_all(event.reply)
        return event

    async def envelope(self) -> dict[str, Any]:
        while isinstance(event := await self.next(), Ping):
            pass
        assert isinstance(event, TextMessage)
        return msgspec.json.decode(event.text, type=dict[str, Any])

    async def read_whole(self, size: int) -> None:
        """Reads so many bytes of frames, neither more nor fewer, and looks at none."""
        while size > 0:
            size -= len(await self.stream.receive_some())
        assert size == 0

    async def end(self) -> Closed:
        """Reads on to the end, and agrees to it."""
        while not isinstance(event := await self.next(), Closed):
            pass
        with contextlib.suppress(trio.BrokenResourceError):
            await self.stream.send_all(event.reply)
        return event


@pytest.fixture
def hub() -> Hub:
    return Hub(first_seq=START, clock=lambda: 5)


@contextlib.asynccontextmanager
async def feeding(
    hub: Hub,
    after: int | None = START,
    pair: Pair = trio.testing.memory_stream_pair,
    trailing: bytes = b"",
) -> AsyncIterator[Subscriber]:
    """A feed that serves; it must have ended by itself when the block is left."""
    ours, theirs = pair()
    subscriber = Subscriber(ours)
    others = hub.subscribers

    async def serve() -> None:
        with hub.subscribe(after, snapshot) as subscription:
            await run_feed(theirs, feed_socket(subscriber.upgrade(trailing)), subscription)
        await theirs.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await subscriber.accept()
        yield subscriber
        await ours.aclose()
    assert hub.subscribers == others


# Events


async def test_a_feed_begins_with_a_snapshot_and_goes_on_live(hub: Hub) -> None:
    async with feeding(hub, after=None) as subscriber:
        first = await subscriber.envelope()
        assert (first["seq"], first["event"]["type"]) == (START, "snapshot")
        for number in range(3):
            hub.publish(removed(number))
            envelope = await subscriber.envelope()
            assert envelope["seq"] == START + 1 + number
            assert envelope["event"] == {"type": "agentRemoved", "id": f"{number:08x}"}


async def test_many_ready_events_leave_in_one_write(hub: Hub) -> None:
    writes = 0

    def pair() -> tuple[Any, Any]:
        ours, theirs = trio.testing.memory_stream_pair()
        pump = theirs.send_stream.send_all_hook
        assert pump is not None

        async def count() -> None:
            nonlocal writes
            writes += 1
            await pump()

        theirs.send_stream.send_all_hook = count
        return ours, theirs

    async with feeding(hub, pair=pair) as subscriber:
        await trio.testing.wait_all_tasks_blocked()
        before = writes
        for number in range(100):
            hub.publish(removed(number))
        seqs = [(await subscriber.envelope())["seq"] for _ in range(100)]
        assert writes - before == 1
    assert seqs == list(range(START + 1, START + 101))


async def test_two_subscribers_are_sent_the_same_bytes(hub: Hub) -> None:
    async with feeding(hub) as one, feeding(hub) as other:
        hub.publish(removed(1))
        assert await one.envelope() == await other.envelope()


async def test_a_subscriber_that_reads_too_late_gets_a_gap() -> None:
    hub = Hub(first_seq=START, clock=lambda: 5, max_events=4)
    async with feeding(hub, pair=trio.testing.lockstep_stream_pair) as subscriber:
        await trio.testing.wait_all_tasks_blocked()
        for number in range(2):
            hub.publish(removed(number))
        await trio.testing.wait_all_tasks_blocked()  # the writer holds both and can't write
        for number in range(2, 12):
            hub.publish(removed(number))
        assert [(await subscriber.envelope())["seq"] for _ in range(2)] == [1001, 1002]
        gap = (await subscriber.envelope())["event"]
        assert gap == msgspec.to_builtins(Gap(missed=10, first=1003, last=1012))
        await trio.testing.wait_all_tasks_blocked()
        hub.publish(removed(12))
        assert (await subscriber.envelope())["seq"] == 1013


# The end


async def test_closing_the_hub_delivers_the_backlog_and_1001(hub: Hub) -> None:
    async with feeding(hub) as subscriber:
        for number in range(5):
            hub.publish(removed(number))
        hub.close()
        seqs = [(await subscriber.envelope())["seq"] for _ in range(5)]
        assert seqs == list(range(START + 1, START + 6))
        end = await subscriber.end()
        assert (end.code, end.reason) == (1001, "the daemon is shutting down")
        assert await subscriber.stream.receive_some() == b""


async def test_a_peer_that_closes_is_agreed_with(hub: Hub) -> None:
    async with feeding(hub) as subscriber:
        await subscriber.stream.send_all(subscriber.socket.close(1000, "done"))
        assert (await subscriber.end()).code == 1000
        assert await subscriber.stream.receive_some() == b""


async def test_a_peer_that_vanishes_is_no_error(hub: Hub) -> None:
    async with feeding(hub) as subscriber:
        await subscriber.stream.aclose()


async def test_a_peer_that_vanishes_before_it_is_answered_is_no_error(hub: Hub) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await ours.aclose()
    with hub.subscribe(START, snapshot) as subscription:
        await run_feed(theirs, feed_socket(Subscriber(ours).upgrade()), subscription)


async def test_a_peer_that_does_not_agree_is_dropped(
    hub: Hub, autojump_clock: trio.testing.MockClock
) -> None:
    async with feeding(hub) as subscriber:
        hub.close()
        await trio.sleep(CLOSE_S + LINGER_S + 0.01)
        assert hub.subscribers == 0
        assert (await subscriber.end()).code == 1001


async def test_cancelling_ends_it_at_once(hub: Hub) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    subscriber = Subscriber(ours)
    with hub.subscribe(None, snapshot) as subscription:
        async with trio.open_nursery() as nursery:
            socket = feed_socket(subscriber.upgrade())
            nursery.start_soon(run_feed, theirs, socket, subscription)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("published", [0, 1])
async def test_cancelling_a_write_ends_it_at_once(hub: Hub, published: int) -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()
    subscriber = Subscriber(ours)
    with hub.subscribe(START, snapshot) as subscription:
        async with trio.open_nursery() as nursery:
            socket = feed_socket(subscriber.upgrade())
            nursery.start_soon(run_feed, theirs, socket, subscription)
            if published:
                await subscriber.accept()
                hub.publish(lines(1000))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()


# Slow and silent peers


async def test_a_subscriber_that_never_reads_is_dropped_by_deadline(
    hub: Hub, autojump_clock: trio.testing.MockClock
) -> None:
    async with feeding(hub, pair=trio.testing.lockstep_stream_pair) as subscriber:
        start = trio.current_time()
        hub.publish(removed(1))
        await trio.sleep(WRITE_S + CLOSE_S - 0.01)
        assert hub.subscribers == 1
        await trio.sleep(0.02)
        assert hub.subscribers == 0
        assert trio.current_time() - start < WRITE_S + CLOSE_S + 0.1
        with pytest.raises(trio.BrokenResourceError):
            await subscriber.stream.send_all(b"x")


async def test_a_subscriber_that_reads_again_is_told_why_it_is_closed(
    hub: Hub, autojump_clock: trio.testing.MockClock
) -> None:
    async with feeding(hub, pair=trio.testing.lockstep_stream_pair) as subscriber:
        hub.publish(removed(1))
        await trio.sleep(WRITE_S + 1)
        hub.publish(removed(2))
        assert (await subscriber.envelope())["seq"] == START + 1
        end = await subscriber.end()
        assert (end.code, end.reason) == (1013, "too slow")


async def test_a_slow_subscriber_holds_up_no_other(
    hub: Hub, autojump_clock: trio.testing.MockClock
) -> None:
    async with (
        feeding(hub, pair=trio.testing.lockstep_stream_pair),
        feeding(hub) as quick,
    ):
        for number in range(1000):
            hub.publish(removed(number))
            assert (await quick.envelope())["seq"] == START + 1 + number
        assert trio.current_time() < 1


async def test_a_subscriber_is_pinged_and_one_that_answers_stays(
    hub: Hub, autojump_clock: trio.testing.MockClock
) -> None:
    async with feeding(hub) as subscriber:
        start = trio.current_time()
        for _ in range(5):
            assert isinstance(await subscriber.next(), Ping)
        assert trio.current_time() - start == pytest.approx(5 * PING_S, abs=0.1)
        hub.publish(removed(1))
        assert (await subscriber.envelope())["seq"] == START + 1


async def test_a_subscriber_that_answers_no_ping_is_dropped(
    hub: Hub, autojump_clock: trio.testing.MockClock
) -> None:
    async with feeding(hub) as subscriber:
        await trio.sleep(2 * PING_S - 0.01)
        assert hub.subscribers == 1
        await trio.sleep(CLOSE_S + LINGER_S + 0.1)
        assert hub.subscribers == 0
        assert (await subscriber.end()).code == 1011


# What a subscriber sends


async def test_of_pings_that_come_together_the_latest_is_answered(hub: Hub) -> None:
    async with feeding(hub) as subscriber:
        for number in range(3):
            pings = [subscriber.socket.ping(b"%d %d" % (number, each)) for each in range(50)]
            await subscriber.stream.send_all(b"".join(pings))
            assert await subscriber.next() == Pong(b"%d 49" % number)
        hub.publish(removed(1))
        assert (await subscriber.envelope())["seq"] == START + 1


@pytest.mark.parametrize("text", ["{}", '{"type": "hello"}', "[1, 2]", '"x"', "null"])
async def test_a_message_of_good_json_is_let_go(hub: Hub, text: str) -> None:
    async with feeding(hub) as subscriber:
        await subscriber.stream.send_all(subscriber.socket.send_text(text))
        hub.publish(removed(1))
        assert (await subscriber.envelope())["seq"] == START + 1


@pytest.mark.parametrize(
    "text",
    [
        '{"__proto__": {}}',
        '{"a": [{"constructor": 1}]}',
        '{"prototype": 1}',
        '{"__class__": 1}',
        '{"\\u005f_proto__": 1}',
        '{"a": 1, "a": 2}',
        "[" * 1000,
        "NaN",
        "not json",
        "",
    ],
)
async def test_a_message_that_a_strict_reader_refuses_ends_it(hub: Hub, text: str) -> None:
    async with feeding(hub) as subscriber:
        await subscriber.stream.send_all(subscriber.socket.send_text(text))
        assert (await subscriber.end()).code == 1008
        hub.publish(removed(1))
        assert await subscriber.stream.receive_some() == b""


@pytest.mark.parametrize(
    ("code", "data"),
    [
        (1002, b"\x81\x05hello"),  # not masked
        (1002, b"\xf1\x80\x00\x00\x00\x00"),  # a reserved bit
        (1002, b"\x83\x80\x00\x00\x00\x00"),  # a reserved opcode
        (1007, b"\x81\x81\x00\x00\x00\x00\xff"),  # not UTF-8
        (1003, b"\x82\x81\x00\x00\x00\x00x"),  # binary
        (1009, b"\x81\xfe\xff\xff\x00\x00\x00\x00" + b"x" * (MAX_MESSAGE + 1)),
        (
            1008,
            b"\x01\x80\x00\x00\x00\x00" + b"\x00\x80\x00\x00\x00\x00" * (MAX_FRAGMENTS + 1),
        ),
    ],
)
async def test_a_broken_rule_ends_it_with_its_code(hub: Hub, code: int, data: bytes) -> None:
    async with feeding(hub) as subscriber:
        await subscriber.stream.send_all(data)
        assert (await subscriber.end()).code == code
    async with feeding(hub, trailing=data) as subscriber:
        assert (await subscriber.end()).code == code


async def test_nothing_follows_a_close_frame(hub: Hub) -> None:
    async with feeding(hub, pair=trio.testing.lockstep_stream_pair) as subscriber:
        await subscriber.stream.send_all(subscriber.socket.send_text("bad"))
        await trio.testing.wait_all_tasks_blocked()  # the close frame waits to be read
        hub.publish(removed(1))
        await trio.testing.wait_all_tasks_blocked()
        assert (await subscriber.end()).code == 1008
        assert await subscriber.stream.receive_some() == b""


async def test_compression_is_not_agreed_to(hub: Hub) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    subscriber = Subscriber(ours, deflate=True)
    with hub.subscribe(START, snapshot) as subscription:
        async with trio.open_nursery() as nursery:
            socket = feed_socket(subscriber.upgrade())
            nursery.start_soon(run_feed, theirs, socket, subscription)
            await subscriber.accept()
            nursery.cancel_scope.cancel()
    assert b"sec-websocket-extensions" not in {name.lower() for name in subscriber.headers}


def test_a_wrong_handshake_is_refused_before_anything_is_written() -> None:
    headers = [(name.lower(), value) for name, value in ClientSocket().headers]
    old = [(name, b"8" if name.endswith(b"version") else value) for name, value in headers]
    with pytest.raises(UpgradeRequired):
        feed_socket(Upgrade(Request("GET", "/ws", old, b""), b""))
    keyless = [pair for pair in headers if not pair[0].endswith(b"key")]
    with pytest.raises(BadRequest):
        feed_socket(Upgrade(Request("GET", "/ws", keyless, b""), b""))


# Floods


MASK = b"\x80\x00\x00\x00\x00"  # of an empty payload
FLOODS = {
    "pings": b"\x89" + MASK,
    "pings of a size": b"\x89\xfd\x00\x00\x00\x00" + b"x" * 125,
    "pongs that nobody asked for": b"\x8a" + MASK,
    "messages": b"\x81\x82\x00\x00\x00\x00{}",
    "messages in pieces": b"\x01\x81\x00\x00\x00\x000" + (b"\x00" + MASK) * 2 + b"\x80" + MASK,
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
@pytest.mark.parametrize("early", [False, True])
async def test_a_flood_ends_it(
    hub: Hub, autojump_clock: trio.testing.MockClock, flood: bytes, early: bool
) -> None:
    frames = 4 if len(flood) == 25 else 1
    data = flood * (2 * FRAME_BURST // frames)
    async with feeding(hub, trailing=data if early else b"") as subscriber:
        if not early:
            await subscriber.stream.send_all(data)
        end = await subscriber.end()
        assert (end.code, end.reason) == (1008, "over 33 frames a second")
        hub.publish(removed(1))
        assert await subscriber.stream.receive_some() == b""
    assert trio.current_time() < 1


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
async def test_a_burst_is_let_go_and_comes_back_with_time(
    hub: Hub, autojump_clock: trio.testing.MockClock, flood: bytes
) -> None:
    burst = flood * ((FRAME_BURST - 100) // (4 if len(flood) == 25 else 1))
    async with feeding(hub) as subscriber:
        for number in range(3):
            await subscriber.stream.send_all(burst)
            hub.publish(removed(number))
            while isinstance(event := await subscriber.next(), Pong | Ping):
                pass
            assert isinstance(event, TextMessage)
            with trio.move_on_after(FRAME_BURST / FRAME_RATE):
                while True:
                    await subscriber.next()
        await subscriber.stream.send_all(burst * 2)
        assert (await subscriber.end()).code == 1008


async def test_a_named_rate_may_be_kept_up(
    hub: Hub, autojump_clock: trio.testing.MockClock
) -> None:
    async with feeding(hub) as subscriber:
        for second in range(100):
            for _ in range(FRAME_RATE - 1):
                await subscriber.stream.send_all(FLOODS["pings"])
                while not isinstance(await subscriber.next(), Pong):
                    pass
            await trio.sleep(1)
            hub.publish(removed(second))
            assert (await subscriber.envelope())["seq"] == START + 1 + second


async def test_a_frame_that_comes_byte_by_byte_is_a_flood_too(
    hub: Hub, autojump_clock: trio.testing.MockClock
) -> None:
    whole = b"\x81\xfe\x3f\xff\x00\x00\x00\x00" + b"0" * 0x3FFF
    async with feeding(hub, pair=trio.testing.lockstep_stream_pair) as subscriber:
        for byte in whole[: FRAME_BURST - 1]:
            await subscriber.stream.send_all(bytes([byte]))
        hub.publish(removed(1))
        assert (await subscriber.envelope())["seq"] == START + 1
        await subscriber.stream.send_all(whole[FRAME_BURST - 1 : FRAME_BURST])
        assert (await subscriber.end()).code == 1008


async def test_a_flood_after_our_goodbye_ends_the_wait(
    hub: Hub, autojump_clock: trio.testing.MockClock
) -> None:
    async with feeding(hub) as subscriber:
        hub.close()
        await trio.testing.wait_all_tasks_blocked()
        await subscriber.stream.send_all(FLOODS["messages"] * 2 * FRAME_BURST)
        assert LINGER_S + 0.1 < CLOSE_S
        await trio.sleep(LINGER_S + 0.1)
        assert hub.subscribers == 0
        assert (await subscriber.end()).code == 1001


async def test_others_get_their_turn_within_a_flood(hub: Hub) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    upgrade = Subscriber(ours).upgrade(FLOODS["pings"] * (FRAME_BURST - 100))
    socket = feed_socket(upgrade)
    heard: list[int] = []
    with hub.subscribe(START, snapshot) as subscription:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_feed, theirs, socket, subscription)
            while socket.heard < FRAME_BURST - 100:
                await trio.lowlevel.checkpoint()
                heard.append(socket.heard)
            nursery.cancel_scope.cancel()
    assert max(b - a for a, b in itertools.pairwise(heard)) <= FRAMES_AT_ONCE


async def test_a_flood_of_pings_that_never_reads_is_not_read_either(
    hub: Hub, autojump_clock: trio.testing.MockClock
) -> None:
    async with feeding(hub, pair=trio.testing.lockstep_stream_pair) as subscriber:
        start = trio.current_time()
        await subscriber.stream.send_all(FLOODS["pings of a size"])
        with pytest.raises(trio.BrokenResourceError):
            await subscriber.stream.send_all(FLOODS["pings of a size"])
        assert trio.current_time() - start == pytest.approx(WRITE_S + CLOSE_S, abs=0.1)


async def test_a_subscriber_that_never_reads_costs_no_memory_and_the_others_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    hub = Hub(first_seq=1_000_000, clock=lambda: 5, max_events=256)
    bursts, burst = 1000, 100
    lockstep = trio.testing.lockstep_stream_pair
    async with feeding(hub, hub.seq) as quick, feeding(hub, hub.seq, lockstep):
        early = 0
        for number in range(bursts):
            for each in range(burst):
                hub.publish(removed(each))
            await quick.read_whole(burst * len(hub.history[hub.seq].frame))
            await trio.sleep(0.9 * (WRITE_S + CLOSE_S) / bursts)
            if number == bursts // 10:
                early = memory()
        assert memory() - early < 4 << 20  # the frames take 13 MiB
        assert hub.subscribers == 2
        await trio.sleep(0.2 * (WRITE_S + CLOSE_S))
        assert hub.subscribers == 1
        hub.publish(removed(1))
        assert (await quick.envelope())["seq"] == hub.seq
