"""``/ws`` over a whole groove: snapshot, live, replay without loss, gaps that say what is gone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from groove_trio import AgentPatch, AgentSpec, Groove, Restart, errors
from groove_trio.shell.history import HISTORY_EVENTS
from groove_trio.testing import (
    RawClient,
    RawFeed,
    connect_memory,
    lines_of,
    open_test_groove,
    scripted,
    wait_for_line,
    wait_for_state,
)
from groove_trio.words.events import (
    AgentAdded,
    AgentRemoved,
    AgentStateChanged,
    Envelope,
    Gap,
    KnockDecided,
    LeaseDeclared,
    LeaseEnded,
    OutputAppended,
    Snapshot,
)

Dial = Callable[[Groove], RawClient]
Records = Callable[[], list[dict[str, Any]]]
WAITS = [{"do": "print", "text": "ready"}, {"do": "read"}]


async def until(feed: RawFeed, kind: type, **fields: object) -> list[Envelope]:
    """Reads up to the first event of a kind with these fields."""
    read: list[Envelope] = []
    async for envelope in feed:
        read.append(envelope)
        event = envelope.event
        if isinstance(event, kind) and all(getattr(event, f) == v for f, v in fields.items()):
            return read
    raise AssertionError(f"no {kind.__name__} among {[type(each.event) for each in read]}")


async def test_a_snapshot_comes_first_and_then_what_happens(project: Path) -> None:
    async with open_test_groove(project) as groove, connect_memory(groove) as client:
        known = await groove.spawn(scripted(WAITS, scope=["src/**"], interactive=True))
        await wait_for_line(groove, known.id, "ready")
        async with client.feed() as feed:
            first = await anext(feed)
            assert isinstance(first.event, Snapshot)
            assert [view.id for view in first.event.agents] == [known.id]
            assert [each.agent for each in first.event.locks.holdings] == [known.id]
            await groove.declare(known.id, ["x"])
            await groove.knock(known.id, "write", "src/a")
            await groove.stop(known.id)
            rest = await until(feed, AgentStateChanged, after="stopped")
        assert [envelope.seq for envelope in rest] == list(
            range(first.seq + 1, first.seq + 1 + len(rest))
        )
        kinds = [type(envelope.event) for envelope in rest]
        assert kinds[:3] == [LeaseDeclared, KnockDecided, AgentStateChanged]


async def test_a_subscriber_that_comes_back_misses_nothing(project: Path, dial: Dial) -> None:
    lines: list[int] = []
    seqs: list[int] = []
    async with open_test_groove(project) as groove:
        client = dial(groove)
        async with client.feed() as feed:
            after = (await anext(feed)).seq
        steps = [{"do": "read"}, {"do": "print", "text": "n", "count": 5000}]
        agent = await groove.spawn(scripted(steps, scope=[], interactive=True))
        await groove.instruct(agent.id, "go")
        done = False
        while not done:
            async with client.feed(after=after) as feed:  # and hangs up every few events
                for _ in range(3):
                    envelope = await anext(feed)
                    after = envelope.seq
                    seqs.append(after)
                    match envelope.event:
                        case OutputAppended(lines=told):
                            lines += [line.seq for line in told]
                        case AgentStateChanged(after="completed"):
                            done = True
                            break
                        case Gap() | Snapshot():
                            raise AssertionError("something was missed")
                        case _:
                            pass
        assert lines == list(range(1, 5002))
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
        assert len(await lines_of(groove, agent.id)) == 5001


@pytest.mark.parametrize("which", ["of an earlier run", "of no run", "long gone"])
async def test_a_number_that_is_not_held_any_more_gets_a_gap(project: Path, which: str) -> None:
    async with open_test_groove(project) as groove, connect_memory(groove) as client:
        async with client.feed() as feed:
            start = (await anext(feed)).seq
        after = {"of an earlier run": 1, "of no run": 2**61, "long gone": start}[which]
        if which == "long gone":
            agent = await groove.spawn(scripted(WAITS, scope=["s/"], interactive=True))
            async with trio.open_nursery() as nursery:  # a batch of them costs little more than one
                for _ in range(HISTORY_EVENTS + 1):
                    nursery.start_soon(groove.knock, agent.id, "write", "s/a")
        async with client.feed(after=after) as feed:
            gap, snapshot = await anext(feed), await anext(feed)
            assert isinstance(gap.event, Gap)
            assert isinstance(snapshot.event, Snapshot)
            assert gap.seq == snapshot.seq
            if which == "long gone":
                assert gap.event.missed == gap.event.last - start
                assert gap.event.first == start + 1
            else:
                assert gap.event.missed is None
            agent = await groove.spawn(AgentSpec(role="late", argv=["true"], scope=[]))
            following = await anext(feed)
            assert following.seq == snapshot.seq + 1
            assert isinstance(following.event, AgentAdded)


FOREIGN = [
    [(b"origin", b"http://evil.example")],
    [(b"origin", b"null")],
    [(b"origin", b"http://127.0.0.1:1")],
    [(b"host", b"evil.example")],
    [(b"sec-fetch-site", b"same-site")],
]


@pytest.mark.parametrize("headers", FOREIGN)
async def test_a_foreign_page_gets_no_byte(
    project: Path, dial: Dial, headers: list[tuple[bytes, bytes]]
) -> None:
    async with open_test_groove(project) as groove:
        with pytest.raises(errors.Unreachable, match="without an answer"):
            async with dial(groove).feed(headers=headers):
                pass
        assert groove.status().subscribers == 0


async def test_our_own_page_is_let_in(project: Path, dial: Dial) -> None:
    async with open_test_groove(project) as groove:
        own = [(b"origin", groove.url.encode()), (b"sec-fetch-site", b"same-origin")]
        async with dial(groove).feed(headers=own) as feed:
            assert isinstance((await anext(feed)).event, Snapshot)


async def test_a_plain_request_is_told_to_upgrade(project: Path) -> None:
    async with open_test_groove(project) as groove, connect_memory(groove) as client:
        answer = await client.request("GET", "/ws")
        assert (answer.status, answer.slug) == (426, "upgrade-required")
        assert answer.headers["upgrade"] == "websocket"


@pytest.mark.parametrize(
    ("text", "code"), [('{"hello": 1}', 1000), ('{"__proto__": 1}', 1008), ("no json", 1008)]
)
async def test_what_a_subscriber_says_is_checked(project: Path, text: str, code: int) -> None:
    async with (
        open_test_groove(project) as groove,
        connect_memory(groove) as client,
        client.feed() as feed,
    ):
        await feed.send_text(text)
        if code == 1000:
            await feed.aclose()
        async for _ in feed:
            pass
        assert feed.code == code


# Every change of state is told and recorded


async def test_every_change_is_told_to_subscribers_and_stands_in_the_log(
    project: Path, records: Records
) -> None:
    restart = Restart(mode="on-failure", first_s=0.01, cap_s=0.01, jitter=0, max_restarts=2)
    async with (
        open_test_groove(project) as groove,
        connect_memory(groove) as client,
        client.feed() as feed,
    ):
        crashes = await groove.spawn(scripted([{"do": "crash"}], scope=["a/"], restart=restart))
        await wait_for_state(groove, crashes.id, "parked")
        waits = await groove.spawn(scripted(WAITS, scope=["b/"], interactive=True, name="waits"))
        await wait_for_line(groove, waits.id, "ready")
        await groove.patch(waits.id, AgentPatch(name="again"))
        await groove.instruct(waits.id, "text")
        await wait_for_state(groove, waits.id, "completed")
        await groove.restart(waits.id)
        with pytest.raises(errors.ScopeOverlap):
            await groove.spawn(scripted([], scope=["b/x"]))
        await groove.knock(waits.id, "write", "b/x")
        await groove.knock(waits.id, "write", "c/x")
        lease = await groove.declare(waits.id, ["shared"])
        other = await groove.spawn(scripted(WAITS, scope=[], interactive=True))
        with pytest.raises(errors.Locked):
            await groove.declare(other.id, ["shared"])
        await groove.complete(waits.id, lease.id)
        await groove.declare(waits.id, ["brief"], 1)
        read = await until(feed, LeaseEnded, why="ran out")
        await groove.stop(waits.id)
        await groove.remove(waits.id)
        read += await until(feed, AgentRemoved)

    log = records()
    moves = [
        (each["agent"], each["detail"]["before"], each["detail"]["after"])
        for each in log
        if "after" in each["detail"]
    ]
    events = [envelope.event for envelope in read]
    seen = [
        (each.id, each.before, each.after) for each in events if type(each) is AgentStateChanged
    ]
    assert len(seen) >= 14
    assert [move for move in moves if move in seen] == moves[: len(seen)] == seen

    actions = [each["action"] for each in log]
    for kind, action in [
        (AgentAdded, "agent.spawn"),
        (AgentRemoved, "agent.remove"),
        (LeaseDeclared, "lease.declare"),
    ]:
        assert sum(isinstance(each, kind) for each in events) == actions.count(action), action
    assert {
        "audit.open", "agent.spawn", "agent.refuse", "agent.started", "agent.backed-off",
        "agent.retried", "agent.parked", "agent.release", "agent.patch", "agent.rename",
        "agent.instruct", "agent.completed", "agent.restore", "agent.restart", "knock.granted",
        "knock.denied", "lease.declare", "lease.refuse", "lease.complete", "lease.expire",
        "agent.stop", "agent.stopped", "agent.remove", "audit.close",
    } == set(actions)  # fmt: skip
    instructed = next(each for each in log if each["action"] == "agent.instruct")
    assert "text" not in json.dumps(instructed["detail"])  # how long it was, not what it said


async def test_a_slow_subscriber_costs_the_others_nothing(project: Path, dial: Dial) -> None:
    async with open_test_groove(project) as groove:
        slow, quick = dial(groove), dial(groove)
        async with slow.feed() as still, quick.feed() as feed:
            await anext(still)  # and reads no more
            steps = [{"do": "print", "text": "x" * 500, "count": 20_000}, {"do": "read"}]
            agent = await groove.spawn(scripted(steps, scope=[], interactive=True))
            lines = 0
            with trio.fail_after(30):
                async for envelope in feed:
                    if isinstance(envelope.event, OutputAppended):
                        lines += len(envelope.event.lines)
                        if lines == 20_000:
                            break
            assert (await groove.stop(agent.id)).state == "stopped"
