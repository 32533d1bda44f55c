"""What is shipped for others' tests: real agents, a real groove, a client without a socket."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
import trio

from groove_trio import Groove, errors
from groove_trio.testing import (
    RawClient,
    connect_memory,
    lines_of,
    open_test_groove,
    scripted,
    wait_for_line,
    wait_for_state,
)
from groove_trio.words.events import AgentAdded, Snapshot

WAITS = [{"do": "print", "text": "ready"}, {"do": "read"}]


async def test_a_scripted_agent_works_on_real_files() -> None:
    async with open_test_groove() as groove:
        steps = [
            {"do": "write", "path": "src/a.py", "text": "x = 1\n"},
            {"do": "write", "path": "docs/a.md"},
        ]
        agent = await groove.spawn(scripted(steps, scope=["src/**"], name="writer"))
        assert (await groove.wait("writer")).state == "completed"
        granted, denied = await lines_of(groove, agent.id)
        assert granted == "granted: wrote src/a.py"
        assert denied.startswith("denied: docs/a.md: ")
        assert (groove.project / "src/a.py").read_text() == "x = 1\n"
        assert not (groove.project / "docs").exists()


async def test_a_project_made_for_a_test_is_gone_after_it() -> None:
    async with open_test_groove() as groove:
        project = groove.project
        assert os.listdir(project) == [".groove"]
    assert not project.exists()


async def test_a_project_of_ones_own_stays(tmp_path: Path) -> None:
    async with open_test_groove(tmp_path, drain_s=1.0) as groove:
        assert groove.project == tmp_path.resolve()
    assert (tmp_path / ".groove").is_dir()


async def test_waiting_for_a_line_finds_it_before_and_after_it_is_written() -> None:
    async with open_test_groove() as groove:
        agent = await groove.spawn(scripted(WAITS, scope=[], interactive=True))
        assert await wait_for_line(groove, agent.id, "ready") == "ready"
        assert await wait_for_line(groove, agent.name, "rea") == "ready"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_line, groove, agent.id, "read: go")
            await groove.instruct(agent.id, "go")


async def test_waiting_for_a_state_sees_it_now_and_later() -> None:
    async with open_test_groove() as groove:
        agent = await groove.spawn(scripted(WAITS, scope=[], interactive=True))
        assert (await wait_for_state(groove, agent.id, "running")).id == agent.id
        await groove.instruct(agent.id, "go")
        view = await wait_for_state(groove, agent.id, "completed", "failed")
        assert view.state == "completed"


async def test_waiting_for_nobody_is_an_error() -> None:
    async with open_test_groove() as groove:
        with pytest.raises(errors.UnknownAgent):
            await wait_for_line(groove, "nobody", "x")
        with pytest.raises(errors.UnknownAgent):
            await wait_for_state(groove, "nobody", "running")


@pytest.mark.parametrize("wait", [wait_for_line, wait_for_state])
async def test_waiting_ends_with_the_groove(wait: object) -> None:
    failures: list[BaseException] = []

    async def wait_in_vain(groove: Groove, agent: str) -> None:
        with pytest.raises(errors.Draining) as caught:
            await wait(groove, agent, "parked")  # type: ignore[operator]
        failures.append(caught.value)

    async with trio.open_nursery() as nursery, open_test_groove() as groove:
        agent = await groove.spawn(scripted(WAITS, scope=[], interactive=True))
        nursery.start_soon(wait_in_vain, groove, agent.id)
        await trio.testing.wait_all_tasks_blocked()
    assert len(failures) == 1


async def test_the_memory_client_speaks_to_the_real_door() -> None:
    async with open_test_groove() as groove, connect_memory(groove) as client:
        health = await client.request("GET", "/api/health")
        assert (health.status, health.json) == (200, {"ok": True})
        assert health.headers["content-type"] == "application/json"
        refused = await client.request("POST", "/api/agents", {"role": ""})
        assert (refused.status, refused.slug) == (400, "bad-request")
        foreign = await client.request("GET", "/api/health", headers=[(b"origin", b"http://x")])
        assert (foreign.status, foreign.slug) == (403, "not-admitted")
        assert (await client.request("GET", "/api/health")).status == 200  # over a new connection


async def test_the_memory_client_sends_bytes_as_they_are() -> None:
    async with open_test_groove() as groove, connect_memory(groove) as client:
        answer = await client.request("POST", "/api/knock", b"{" * 10)
        assert (answer.status, answer.slug) == (400, "bad-request")


async def test_the_memory_client_follows_events_to_their_end() -> None:
    async with (
        open_test_groove() as groove,
        connect_memory(groove) as client,
        client.feed() as feed,
    ):
        assert isinstance((await anext(feed)).event, Snapshot)
        await groove.spawn(scripted([], scope=[]))
        assert isinstance((await anext(feed)).event, AgentAdded)
        await feed.aclose()
        async for _ in feed:
            pass
        assert feed.code == 1000


async def test_a_refused_upgrade_says_with_which_status() -> None:
    async with open_test_groove() as groove, connect_memory(groove) as client:
        with pytest.raises(errors.BadAnswer) as refused:
            async with client.feed(after=-1):
                pass
        assert refused.value.fields["status"] == 400


async def test_the_client_takes_any_stream() -> None:
    async with open_test_groove() as groove:
        connect = partial(trio.open_tcp_stream, "127.0.0.1", groove.port)
        client = RawClient(connect, groove.url.removeprefix("http://"))
        assert (await client.request("GET", "/api/health")).json == {"ok": True}
        await client.aclose()
