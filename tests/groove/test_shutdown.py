"""The shutdown order: doors, agents, connections, broker, log; asked first, killed if cancelled."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from groove_trio import AgentSpec, Groove, errors
from groove_trio.shell.heads import verify_log
from groove_trio.testing import (
    RawClient,
    open_test_groove,
    scripted,
    wait_for_line,
    wait_for_state,
)
from groove_trio.words.events import (
    AgentStateChanged,
    Draining,
    Envelope,
    OutputAppended,
    Snapshot,
)

Dial = Callable[[Groove], RawClient]
Living = Callable[[], list[int]]
Records = Callable[[], list[dict[str, Any]]]

LINGERS = """
import os, signal, subprocess, sys, time

def say(text):
    os.write(1, text.encode() + b"\\n")  # print() is not for signal handlers

def leave(number, frame):
    say("farewell")
    while not os.path.exists("leave"):
        time.sleep(0.005)
    for number in range(3):
        say(f"last {number}")
    os._exit(0)

signal.signal(signal.SIGTERM, leave)
subprocess.Popen(["sleep", "3600"], start_new_session=True)
say("ready")
while True:
    signal.pause()
"""
LINGERER = AgentSpec(role="lingerer", argv=[sys.executable, "-c", LINGERS], scope=["src/**"])
DEAF = [{"do": "ignore-sigterm"}, {"do": "grandchild"}, {"do": "sleep", "seconds": 3600}]


class Follower:
    """Follows a groove from outside to the end, and says what it saw."""

    def __init__(self, client: RawClient) -> None:
        self.client = client
        self.envelopes: list[Envelope] = []
        self.code: int | None = None
        self.met: dict[str, int] = {}

    async def follow(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with self.client.feed() as feed:
            async for envelope in feed:
                self.envelopes.append(envelope)
                if isinstance(envelope.event, Snapshot):
                    task_status.started()
            self.code = feed.code

    @property
    def events(self) -> list[Any]:
        return [envelope.event for envelope in self.envelopes]

    @property
    def lines(self) -> list[str]:
        told = [event.lines for event in self.events if isinstance(event, OutputAppended)]
        return [line.text for lines in told for line in lines]

    def position(self, kind: type, **fields: object) -> int:
        """Where the first event of a kind with these fields stands."""
        return next(
            number
            for number, event in enumerate(self.events)
            if isinstance(event, kind)
            and all(getattr(event, name) == value for name, value in fields.items())
        )


def on_disk(project: Path, agent: str, name: str) -> Any:
    text = (project / ".groove/agents" / agent / name).read_text()
    return [json.loads(line) for line in text.splitlines()]


async def test_leaving_asks_agents_then_tells_followers_and_closes_the_log_last(
    project: Path, dial: Dial, living: Living, records: Records
) -> None:
    refusals: list[tuple[int, str]] = []

    async def meddle(groove: Groove, client: RawClient, agent: str) -> None:
        await wait_for_line(groove, agent, "farewell")
        answer = await client.request("POST", "/api/agents", {"role": "late", "argv": ["true"]})
        refusals.append((answer.status, answer.slug))
        assert (await client.request("GET", "/api/status")).json["draining"] is True
        (project / "leave").touch()

    async with trio.open_nursery() as nursery:
        async with open_test_groove(project) as groove:
            client = dial(groove)
            await client.request("GET", "/api/health")
            follower = Follower(dial(groove))
            await nursery.start(follower.follow)
            agent = await groove.spawn(LINGERER)
            await wait_for_line(groove, agent.id, "ready")
            while len(living()) < 2:  # a program in the middle of exec shows no environment
                await trio.lowlevel.checkpoint()
            nursery.start_soon(meddle, groove, client, agent.id)
        assert refusals == [(503, "draining")]
        assert living() == []
    with pytest.raises(OSError, match="all attempts to connect"):
        await trio.open_tcp_stream("127.0.0.1", groove.port)
    await client.aclose()

    farewells = ["farewell", "last 0", "last 1", "last 2"]
    assert [line["text"] for line in on_disk(project, agent.id, "output.jsonl")][-4:] == farewells
    assert follower.lines[-4:] == farewells
    assert follower.code == 1001
    order = [
        follower.position(AgentStateChanged, after="running"),
        follower.position(Draining),
        follower.position(AgentStateChanged, after="stopping"),
        follower.position(AgentStateChanged, after="stopped"),
    ]
    assert order == sorted(order)
    assert on_disk(project, agent.id, "status.json")[0]["state"] == "stopped"

    actions = [record["action"] for record in records()]
    assert actions[0] == "audit.open"
    assert actions[-1] == "audit.close"
    assert actions.index("agent.stop") < actions.index("agent.stopped")
    assert actions.index("agent.stopped") < actions.index("agent.release")
    verification = verify_log(project / ".groove/audit")
    assert (verification.ok, verification.records) == (True, len(actions))
    assert not (project / ".groove/daemon.json").exists()


async def test_a_request_under_way_is_answered_before_the_connection_closes(
    project: Path, dial: Dial
) -> None:
    answers: list[tuple[int, str]] = []

    async def stop(groove: Groove, agent: str) -> None:
        client = dial(groove)
        answer = await client.request("POST", f"/api/agents/{agent}/stop", {})
        answers.append((answer.status, answer.json["state"]))
        await client.aclose()

    async with trio.open_nursery() as nursery, open_test_groove(project) as groove:
        agent = await groove.spawn(LINGERER)
        await wait_for_line(groove, agent.id, "ready")
        nursery.start_soon(stop, groove, agent.id)
        await wait_for_line(groove, agent.id, "farewell")
        await nursery.start(_touch_when_draining, groove, project / "leave")
    assert answers == [(200, "stopped")]


async def _touch_when_draining(
    groove: Groove, path: Path, *, task_status: trio.TaskStatus[None]
) -> None:
    with groove.events() as events:
        task_status.started()
        async for published in events:
            if isinstance(published.event, Draining):
                path.touch()


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, errors.WrongState])
async def test_an_error_in_the_block_comes_out_as_itself_after_a_tidy_end(
    project: Path, dial: Dial, living: Living, records: Records, kind: type[BaseException]
) -> None:
    (project / "leave").touch()
    failure = kind("out of the block")
    async with trio.open_nursery() as nursery:
        with pytest.raises(kind) as caught:  # noqa: PT012 - the block is what is tested
            async with open_test_groove(project) as groove:
                follower = Follower(dial(groove))
                await nursery.start(follower.follow)
                agent = await groove.spawn(LINGERER)
                await wait_for_line(groove, agent.id, "ready")
                raise failure
        assert living() == []
    assert caught.value is failure
    assert follower.lines[-1] == "last 2"
    assert follower.code == 1001
    assert on_disk(project, agent.id, "status.json")[0]["state"] == "stopped"
    assert records()[-1]["action"] == "audit.close"


async def test_errors_of_a_nursery_in_the_block_stay_together(project: Path) -> None:
    async def fail(kind: type[Exception]) -> None:
        raise kind

    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - the block is what is tested
        async with open_test_groove(project), trio.open_nursery() as nursery:
            nursery.start_soon(fail, ValueError)
            nursery.start_soon(fail, KeyError)
    assert {type(each) for each in caught.value.exceptions} == {ValueError, KeyError}


@pytest.mark.parametrize("when", ["inside", "while draining"])
async def test_cancelling_kills_at_once_and_the_next_groove_says_interrupted(
    project: Path, living: Living, records: Records, when: str
) -> None:
    with trio.CancelScope() as scope:
        async with open_test_groove(project) as groove:
            agent = await groove.spawn(scripted(DEAF, scope=["src/**"], grace_s=300))
            await wait_for_line(groove, agent.id, "left behind")
            while len(living()) < 2:  # a program in the middle of exec shows no environment
                await trio.lowlevel.checkpoint()
            if when == "while draining":
                scope.deadline = trio.current_time() + 0.3
            else:
                scope.cancel()
                await trio.sleep_forever()
    assert scope.cancelled_caught
    assert living() == []
    assert records()[-1]["action"] == "audit.close"
    assert verify_log(project / ".groove/audit").ok
    async with open_test_groove(project) as groove:
        view = groove.agent(agent.id)
        assert view.state == "interrupted"
        assert [holding.agent for holding in groove.locks().holdings] == [agent.id]
        with pytest.raises(errors.ScopeOverlap) as refused:
            await groove.spawn(scripted([], scope=["src/a.py"]))
        assert refused.value.fields["owner"] == agent.id


async def test_cancelling_while_an_agent_starts_leaves_nothing(
    project: Path, living: Living
) -> None:
    async def spawn(groove: Groove) -> None:
        await groove.spawn(scripted(DEAF, scope=[]))

    with trio.CancelScope() as scope:
        async with open_test_groove(project) as groove, trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(spawn, groove)
            with groove.events() as events:
                async for published in events:
                    if isinstance(published.event, AgentStateChanged):
                        scope.cancel()
    assert living() == []


async def test_agents_that_ended_are_as_they_were(project: Path) -> None:
    async with open_test_groove(project) as groove:
        agent = await groove.spawn(scripted([{"do": "exit", "code": 3}], scope=["src/**"]))
        before = await wait_for_state(groove, agent.id, "failed")
        await groove.wait(agent.id)
    async with open_test_groove(project) as groove:
        assert groove.agent(agent.id) == before
        assert groove.locks().holdings == []


async def test_what_is_not_safe_to_use_leaves_nothing_open(project: Path) -> None:
    async with open_test_groove(project):
        pass
    audit = project / ".groove/audit"
    audit.chmod(0o755)
    with pytest.raises(errors.UnsafeState):
        async with open_test_groove(project):
            pass
    audit.chmod(0o700)
    async with open_test_groove(project) as groove:
        assert groove.status().audit_ok
