"""A groove inside another program takes nothing that is the program's own."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import trio

from groove_trio import AgentSpec, Config, Groove, errors, open_groove
from groove_trio.shell.subreaper import is_subreaper, subreaper
from groove_trio.testing import RawClient, open_test_groove, scripted, wait_for_line

Dial = Callable[[Groove], RawClient]
Living = Callable[[], list[int]]
WAITS = [{"do": "print", "text": "ready"}, {"do": "read"}]


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def surroundings() -> dict[str, Any]:
    """What belongs to the process and not to any part of it."""
    root, ours = logging.getLogger(), logging.getLogger("groove_trio")
    return {
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "umask": umask(),
        "cwd": os.getcwd(),
        "environment": dict(os.environ),
        "logging": [(each.level, list(each.handlers), each.propagate) for each in (root, ours)],
        "descriptors": len(os.listdir("/proc/self/fd")),
        "session": (os.getsid(0), os.getpgrp()),
    }


@pytest.mark.parametrize("before", [False, True])
async def test_what_is_the_programs_own_stays_as_it_was(project: Path, before: bool) -> None:
    await trio.to_thread.run_sync(threading.active_count)  # trio keeps its first thread
    async with open_test_groove(project):
        pass  # what is loaded and cached by the first is no matter
    with subreaper() if before else nullcontext():
        outside = surroundings()
        async with open_test_groove(project) as groove:
            agent = await groove.spawn(scripted(WAITS, scope=[], interactive=True))
            await wait_for_line(groove, agent.id, "ready")
            inside = surroundings()
            assert is_subreaper()
        assert is_subreaper() is before
        assert surroundings() == outside
    assert inside.keys() == outside.keys()
    for name in inside.keys() - {"descriptors"}:
        assert inside[name] == outside[name], name


async def test_orphans_are_left_to_others_where_asked(project: Path) -> None:
    async with open_test_groove(project, adopt_orphans=False):
        assert not is_subreaper()


async def test_children_of_the_programs_own_are_left_alone(project: Path) -> None:
    own = await trio.lowlevel.open_process(["sleep", "3600"])
    try:
        async with open_test_groove(project) as groove:
            agent = await groove.spawn(scripted([{"do": "grandchild"}], scope=[], grace_s=0))
            await groove.wait(agent.id)
        assert own.poll() is None
    finally:
        own.kill()
        assert await own.wait() == -signal.SIGKILL


async def test_two_grooves_on_two_projects_keep_to_themselves(tmp_path: Path, dial: Dial) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    async with open_test_groove(here) as one, open_test_groove(there) as other:
        assert one.port != other.port
        first = await one.spawn(scripted(WAITS, scope=["src/**"], interactive=True))
        second = await other.spawn(scripted(WAITS, scope=["src/**"], interactive=True))
        assert [view.id for view in one.agents()] == [first.id]
        assert [view.id for view in other.agents()] == [second.id]
        with pytest.raises(errors.UnknownAgent):
            one.agent(second.id)
        assert (await one.stop(first.id)).state == "stopped"
        await wait_for_line(other, second.id, "ready")
        assert other.agent(second.id).state == "running"
        foreign = await RawClient(
            lambda: trio.open_tcp_stream("127.0.0.1", one.port),  # noqa: ASYNC105 - it is awaited
            other.url.removeprefix("http://"),
        ).request("GET", "/api/health")
        assert foreign.slug == "not-admitted"


async def test_grooves_may_close_in_any_order(
    tmp_path: Path, project: Path, living: Living
) -> None:
    (tmp_path / "a").mkdir()
    opened = trio.Event()
    close = trio.Event()
    closed = trio.Event()

    async def hold() -> None:
        async with open_test_groove(tmp_path / "a") as groove:
            agent = await groove.spawn(scripted(WAITS, scope=[], interactive=True))
            opened.set()
            await close.wait()
            assert groove.agent(agent.id).state == "running"
        closed.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold)
        await opened.wait()
        async with open_test_groove(project) as later:
            close.set()
            await closed.wait()
            assert is_subreaper()
            agent = await later.spawn(scripted([{"do": "grandchild"}], scope=[], grace_s=0))
            assert (await later.wait(agent.id)).state == "completed"
            assert living() == []
    assert not is_subreaper()


async def test_one_project_has_one_groove(project: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(project)
    async with open_test_groove(project) as groove:
        for same in (project, link, project / "src" / ".."):
            with pytest.raises(errors.AlreadyRunning) as refused:
                async with open_test_groove(same):
                    pass
            assert refused.value.fields["url"] == groove.url
        assert groove.status().audit_ok
    async with open_test_groove(link) as groove:
        assert groove.project == project


def lan_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a datagram socket sends nothing by this
        except OSError:
            return "192.168.1.10"  # refused all the same, whoever has it
        return str(probe.getsockname()[0])


NETWORK_FACING = [
    "0.0.0.0", "::", "0", "0x0", "00.00.00.00", "::ffff:0.0.0.0", "::ffff:127.0.0.1", "*", "",
    "[::]", "example.invalid", "169.254.0.1", "LAN",
]  # fmt: skip


@pytest.mark.parametrize("host", NETWORK_FACING)
async def test_no_setting_faces_a_network(project: Path, host: str) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(errors.BindRefused) as refused:
        async with open_groove(
            Config(project=project, host=lan_address() if host == "LAN" else host, port=0)
        ):
            pass
    assert refused.value.detail
    assert not (project / ".groove").exists()
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize("port", [-1, 65_536, 10**9])
async def test_a_port_that_is_none_is_refused(project: Path, port: int) -> None:
    with pytest.raises(errors.BadRequest, match="not a port"):
        async with open_groove(Config(project=project, port=port)):
            pass
    assert not (project / ".groove").exists()


async def test_a_project_that_is_none_is_refused(project: Path) -> None:
    for place in (project / "absent", project / "README.md"):
        with pytest.raises(errors.OutsideProject, match=place.name):
            async with open_test_groove(place):
                pass


async def test_the_environment_cannot_move_the_listener(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOST", "BIND", "ADDRESS", "GROOVE_HOST", "GROOVE_BIND", "GROOVE_TRIO_HOST"):
        monkeypatch.setenv(name, "0.0.0.0")
    async with open_test_groove(project) as groove:
        assert groove.url == f"http://127.0.0.1:{groove.port}"


async def test_a_groove_does_what_a_program_needs(project: Path) -> None:
    async with open_test_groove(project) as groove:
        agent = await groove.spawn(
            AgentSpec(role="writer", argv=["sh", "-c", "echo out; echo err >&2"], scope=["src/**"])
        )
        assert (await groove.wait(agent.id)).exit_code == 0
        page = await groove.output(agent.id)
        assert {(line.stream, line.text) for line in page.lines} == {("out", "out"), ("err", "err")}
        last = await groove.audit(-1)
        assert len(last.records) == 1
        assert (await groove.verify_audit()).ok
        assert {each.name for each in groove.providers()} == {"command", "demo"}
        await groove.remove(agent.id)
        assert groove.agents() == []


async def test_waiting_for_an_end_waits_for_the_scope(project: Path) -> None:
    async with open_test_groove(project) as groove:
        for _ in range(10):
            agent = await groove.spawn(scripted([], scope=["src/**"]))
            assert (await groove.wait(agent.id)).state == "completed"
            assert groove.locks().holdings == []


async def test_a_restart_is_no_end_to_wait_for(project: Path) -> None:
    ended: list[str] = []

    async def wait(groove: Groove, agent: str) -> None:
        ended.append((await groove.wait(agent)).state)

    async with open_test_groove(project) as groove, trio.open_nursery() as nursery:
        agent = await groove.spawn(scripted(WAITS, scope=[], interactive=True))
        await wait_for_line(groove, agent.id, "ready")
        nursery.start_soon(wait, groove, agent.id)
        await trio.testing.wait_all_tasks_blocked()
        await groove.restart(agent.id)
        assert ended == []
        await groove.instruct(agent.id, "go")
        await groove.wait(agent.id)
    assert ended == ["completed"]
