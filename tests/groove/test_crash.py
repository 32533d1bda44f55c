"""What a crash takes with it: an agent's task that agent, a connection itself, the core all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from groove_trio import AgentSpec, Groove, errors
from groove_trio.providers.base import Launch, Place
from groove_trio.shell.audit import AuditLog
from groove_trio.shell.census import Census
from groove_trio.shell.clerk import Clerk
from groove_trio.shell.commit import GroupCommit
from groove_trio.shell.feed import _Feed
from groove_trio.shell.heads import verify_log
from groove_trio.shell.output import OutputLog
from groove_trio.testing import (
    RawClient,
    connect_memory,
    open_test_groove,
    scripted,
    wait_for_line,
    wait_for_state,
)

Living = Callable[[], list[int]]
Records = Callable[[], list[dict[str, Any]]]
WAITS = [{"do": "print", "text": "ready"}, {"do": "read"}]
SLEEPER = AgentSpec(role="sleeper", argv=["sleep", "3600"], scope=[])


class Kaboom(Exception):
    pass


class Broken:
    """A provider of an embedding program that breaks."""

    name = "broken"
    summary = "raises"
    containment = ("hooks",)

    def launch(self, spec: AgentSpec, place: Place) -> Launch:
        if spec.prompt != "works":
            raise Kaboom("in launch")
        return Launch(argv=("sleep", "3600"), keep_open=True)

    def instruct(self, text: str) -> bytes:
        raise Kaboom("in instruct")


async def test_a_provider_that_breaks_fails_its_agent_alone(living: Living, project: Path) -> None:
    async with open_test_groove(project, providers=[Broken()]) as groove:
        other = await groove.spawn(SLEEPER)
        with pytest.raises(errors.SpawnFailed, match="Kaboom"):
            await groove.spawn(AgentSpec(role="r", provider="broken", scope=["src/**"]))
        assert groove.locks().holdings[1:] == []
        assert [view.id for view in groove.agents()] == [other.id]
        assert groove.agent(other.id).state == "running"


async def test_a_provider_that_breaks_over_a_follow_up_costs_an_answer(project: Path) -> None:
    async with (
        open_test_groove(project, providers=[Broken()]) as groove,
        connect_memory(groove) as client,
    ):
        agent = await groove.spawn(
            AgentSpec(role="r", provider="broken", prompt="works", interactive=True)
        )
        answer = await client.request("POST", f"/api/agents/{agent.id}/instruct", {"text": "x"})
        assert (answer.status, answer.slug) == (500, "internal")
        assert "Kaboom" not in answer.body.decode()
        assert groove.agent(agent.id).state == "running"
        assert (await client.request("GET", "/api/health")).status == 200


async def test_a_crash_in_an_agents_pump_ends_that_agent_alone(
    project: Path,
    living: Living,
    monkeypatch: pytest.MonkeyPatch,
    records: Records,
    caplog: pytest.LogCaptureFixture,
) -> None:
    append = OutputLog.append
    victims: list[OutputLog] = []

    async def fail(self: OutputLog, stream: Any, texts: Any) -> Any:
        if any(text == "now" for text, _ in texts):
            victims.append(self)
            raise Kaboom
        return await append(self, stream, texts)

    monkeypatch.setattr(OutputLog, "append", fail)
    steps = [*WAITS, {"do": "grandchild"}, {"do": "print", "text": "now"}, {"do": "read"}]
    async with open_test_groove(project) as groove:
        other = await groove.spawn(scripted(WAITS, scope=["docs/**"], interactive=True))
        agent = await groove.spawn(scripted(steps, scope=["src/**"], interactive=True))
        await wait_for_line(groove, agent.id, "ready")
        await groove.instruct(agent.id, "go")
        view = await wait_for_state(groove, agent.id, "failed")
        assert victims
        assert view.reason == "its task broke: Kaboom"
        assert "Kaboom" in caplog.text
        await groove.stop(agent.id)  # returns when its task has ended
        assert len(living()) == 1
        assert [holding.agent for holding in groove.locks().holdings] == [other.id]
        await groove.spawn(scripted([], scope=["src/**"]))
        await groove.instruct(other.id, "still there?")
        await wait_for_line(groove, other.id, "read: still there?")
    assert "agent.crashed" in {record["action"] for record in records()}


async def test_a_crash_in_a_handler_ends_that_connection_alone(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Groove) -> Any:
        raise Kaboom("a secret in a message")

    async with (
        open_test_groove(project) as groove,
        connect_memory(groove) as client,
        connect_memory(groove) as other,
    ):
        assert (await other.request("GET", "/api/health")).status == 200
        monkeypatch.setattr(Groove, "status", fail)
        answer = await client.request("GET", "/api/status")
        assert (answer.status, answer.slug) == (500, "internal")
        assert "secret" not in answer.body.decode()
        assert answer.headers["connection"] == "close"
        assert "Kaboom" in caplog.text
        assert (await other.request("GET", "/api/health")).status == 200
        assert (await client.request("GET", "/api/health")).status == 200


async def test_a_crash_in_a_feed_ends_that_feed_alone(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken: list[_Feed] = []
    write = _Feed._write_events  # noqa: SLF001 - a fault where no fault should be

    async def fail(self: _Feed) -> None:
        if not broken:
            broken.append(self)
            raise Kaboom
        await write(self)

    monkeypatch.setattr(_Feed, "_write_events", fail)
    async with open_test_groove(project) as groove, connect_memory(groove) as client:
        async with client.feed() as feed:
            assert [envelope async for envelope in feed] == []
            assert feed.code == 1006
        async with client.feed() as feed:
            await anext(feed)
        assert "a connection failed" in caplog.text
        while groove.status().subscribers:
            await trio.lowlevel.checkpoint()


def _crash_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Clerk, batch: Any) -> None:
        raise Kaboom

    monkeypatch.setattr(Clerk, "_handle", fail)


def _crash_log(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(self: GroupCommit) -> None:
        raise Kaboom

    monkeypatch.setattr(GroupCommit, "_commit", fail)


def _crash_census(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(self: Census) -> None:
        monkeypatch.undo()
        raise Kaboom

    monkeypatch.setattr(Census, "_scan", fail)


@pytest.mark.parametrize("crash", [_crash_broker, _crash_log, _crash_census])
async def test_a_crash_of_the_core_ends_everything(
    project: Path, living: Living, monkeypatch: pytest.MonkeyPatch, crash: Any
) -> None:
    ended = False
    steps = [{"do": "ignore-sigterm"}, {"do": "grandchild"}, {"do": "sleep", "seconds": 3600}]
    with pytest.raises(Kaboom):  # noqa: PT012 - the block is what is tested
        async with open_test_groove(project) as groove:
            agent = await groove.spawn(scripted(steps, scope=["src/**"], grace_s=300))
            await wait_for_line(groove, agent.id, "left behind")
            while len(living()) < 2:  # a program in the middle of exec shows no environment
                await trio.lowlevel.checkpoint()
            crash(monkeypatch)
            try:
                await groove.knock(agent.id, "write", "docs/x")
                await trio.sleep_forever()
            finally:
                ended = True
    assert ended
    assert living() == []
    monkeypatch.undo()
    assert verify_log(project / ".groove/audit").ok
    async with open_test_groove(project) as groove:
        assert groove.agent(agent.id).state == "interrupted"


async def test_a_log_that_cannot_be_written_stops_changes_and_nothing_else(
    project: Path, monkeypatch: pytest.MonkeyPatch, living: Living
) -> None:
    def full(self: AuditLog, entries: Any) -> int:
        raise errors.AuditUnavailable("No space left on device.")

    async with open_test_groove(project) as groove, connect_memory(groove) as client:
        agent = await groove.spawn(scripted(WAITS, scope=["src/**"], interactive=True))
        await wait_for_line(groove, agent.id, "ready")
        monkeypatch.setattr(AuditLog, "append", full)
        assert (await _statuses(client, agent.id)) == [503, 503, 503, 503, 503, 503]
        knock = {"agent": agent.id, "operation": "write", "path": "src/a"}
        answer = await client.request("POST", "/api/knock", knock)
        assert (answer.status, answer.json["allow"]) == (200, False)
        assert groove.agent(agent.id).state == "running"
        assert len(living()) == 1
        monkeypatch.undo()
        assert (await client.request("POST", "/api/knock", knock)).json["allow"] is True
        await groove.instruct(agent.id, "go")
        await wait_for_line(groove, agent.id, "read: go")


async def _statuses(client: RawClient, agent: str) -> list[int]:
    here = f"/api/agents/{agent}"
    asked: list[tuple[str, str, object]] = [
        ("POST", "/api/agents", {"role": "r", "argv": ["true"], "scope": []}),
        ("PATCH", here, {"name": "other"}),
        ("POST", here + "/stop", {}),
        ("POST", here + "/restart", None),
        ("POST", here + "/instruct", {"text": "x"}),
        ("POST", "/api/coordination/declare", {"agent": agent, "paths": ["x"]}),
    ]
    return [(await client.request(*each)).status for each in asked]
