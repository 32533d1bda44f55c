"""Every verb of the client against a real daemon, under both event loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from groove_trio.cli.launch import start_detached, stop_daemon
from groove_trio.client import Client, connect_groove
from groove_trio.words import errors
from groove_trio.words.agents import AgentPatch, AgentSpec, AgentView, Restart
from groove_trio.words.events import AgentAdded, AgentRemoved, Draining, OutputAppended, Snapshot
from groove_trio.words.knocks import Denied, Granted

Run = Callable[[Callable[[], Any]], Any]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with a daemon; tests forget their agents, so that both loops can name the same."""
    root = tmp_path_factory.mktemp("project").resolve()
    (root / "src").mkdir()
    start_detached(root, port=0)
    yield root
    stop_daemon(root)


@pytest.fixture
def within(project: Path, run: Run) -> Callable[..., None]:
    """Runs a test's body with a client; afterwards every agent is stopped and forgotten."""

    def runner(body: Callable[[Client], Any]) -> None:
        async def main() -> None:
            async with connect_groove(project=project) as groove:
                try:
                    await body(groove)
                finally:
                    with anyio.move_on_after(20, shield=True):
                        await forget_all(groove)

        run(main)

    return runner


async def forget_all(groove: Client) -> None:
    for view in await groove.agents():
        if view.pid is not None or view.state in {"backing-off", "starting"}:
            await groove.stop(view.id, 0)
        await groove.remove(view.id)


def spec(name: str, *argv: str, scope: list[str] | None = None, **more: Any) -> AgentSpec:
    return AgentSpec(role="tester", name=name, argv=list(argv), scope=scope or [], **more)


async def until_state(groove: Client, agent: str, *states: str) -> AgentView:
    while (view := await groove.agent(agent)).state not in states:
        await anyio.sleep(0.01)
    return view


def test_daemon_is_told(within: Any, project: Path) -> None:
    async def body(groove: Client) -> None:
        assert (await groove.health()).ok
        status = await groove.status()
        assert (status.project, status.url) == (str(project), groove.url)
        assert {"command", "demo"} <= {each.name for each in await groove.providers()}

    within(body)


def test_agent_from_spawn_to_remove(within: Any) -> None:
    async def body(groove: Client) -> None:
        view = await groove.spawn(spec("one", "sleep", "60", scope=["src/one/**"]))
        assert view.state == "running"
        assert await groove.agent(view.id) == await groove.agent("one")
        assert [each.id for each in await groove.agents()] == [view.id]
        changed = await groove.patch("one", AgentPatch(name="uno", restart=Restart(mode="always")))
        assert (changed.name, changed.restart_mode) == ("uno", "always")
        with pytest.raises(errors.WrongState):
            await groove.remove(view.id)
        assert (await groove.stop(view.id, 1.0)).state == "stopped"
        again = await groove.restart(view.id)
        assert again.state == "running"
        assert again.pid != view.pid
        with pytest.raises(errors.WrongState):
            await groove.resume(view.id)
        await groove.stop(view.id, 0)
        assert (await groove.remove(view.id)).id == view.id
        with pytest.raises(errors.UnknownAgent):
            await groove.agent(view.id)

    within(body)


def test_refusals_come_as_what_they_are(within: Any) -> None:
    async def body(groove: Client) -> None:
        await groove.spawn(spec("one", "sleep", "60", scope=["src/one/**"]))
        with pytest.raises(errors.ScopeOverlap) as overlap:
            await groove.spawn(spec("two", "true", scope=["src/*/x"]))
        assert overlap.value.fields["witness"] == "src/one/x"
        for wrong, kind in (
            (spec("one", "true"), errors.NameTaken),
            (spec("two", "true", scope=["/x"]), errors.InvalidScope),
            (spec("two", "true", provider="none"), errors.UnknownProvider),
            (spec("two", "true", cwd=".."), errors.OutsideProject),
            (spec("two", "/no/such"), errors.SpawnFailed),
            (spec("t w o", "true"), errors.BadRequest),
            (spec("two", "true", prompt="\ud800"), errors.BadRequest),
        ):
            with pytest.raises(kind):
                await groove.spawn(wrong)
        for key in ("absent", "", "a b", "../agents", "é", "x" * 65):
            with pytest.raises((errors.UnknownAgent, errors.NoSuchRoute)):
                await groove.agent(key)

    within(body)


def test_output_comes_in_pages(within: Any) -> None:
    async def body(groove: Client) -> None:
        await groove.spawn(spec("writer", "seq", "250"))
        await until_state(groove, "writer", "completed")
        page = await groove.output("writer", 0, 100)
        assert (len(page.lines), page.next, page.more) == (100, 100, True)
        page = await groove.output("writer", page.next, 1000)
        assert ([page.lines[0].text, page.lines[-1].text], page.more) == (["101", "250"], False)
        assert [line.text for line in (await groove.output("writer", -2)).lines] == ["249", "250"]

    within(body)


def test_output_is_followed_to_its_end(within: Any) -> None:
    async def body(groove: Client) -> None:
        script = "seq 1 1500; sleep 0.1; seq 1501 3000; sleep 0.1; echo end"
        await groove.spawn(spec("writer", "sh", "-c", script))
        texts = [line.text async for line in groove.follow_output("writer")]
        assert texts == [*map(str, range(1, 3001)), "end"]
        after = [line.seq async for line in groove.follow_output("writer", 2999)]
        assert after == [3000, 3001]

    within(body)


def test_output_is_followed_over_a_restart(within: Any) -> None:
    async def body(groove: Client) -> None:
        again = Restart(mode="always", first_s=0.05, max_restarts=2)
        await groove.spawn(spec("phoenix", "echo", "again", restart=again))
        texts = [line.text async for line in groove.follow_output("phoenix")]
        assert texts == ["again"] * 3
        assert (await groove.agent("phoenix")).state == "parked"

    within(body)


def test_following_can_be_left(within: Any) -> None:
    async def body(groove: Client) -> None:
        await groove.spawn(spec("writer", "sh", "-c", "echo one; echo two; sleep 60"))
        async with groove.follow_output("writer") as lines:
            async for line in lines:
                if line.text == "two":
                    break
        with anyio.move_on_after(0.1) as scope:
            async with groove.follow_output("writer", 2) as lines:
                await anext(lines)
        assert scope.cancelled_caught
        with pytest.raises(errors.UnknownAgent):
            await anext(groove.follow_output("absent"))

    within(body)


def test_following_ends_when_the_agent_is_forgotten(within: Any) -> None:
    async def body(groove: Client) -> None:
        await groove.spawn(spec("writer", "sh", "-c", "echo one; sleep 60"))
        async with groove.follow_output("writer") as lines:
            assert (await anext(lines)).text == "one"
            await groove.stop("writer", 0)
            await groove.remove("writer")
            assert [line async for line in lines] == []

    within(body)


def test_instruct_reaches_the_agent(within: Any) -> None:
    async def body(groove: Client) -> None:
        await groove.spawn(spec("listener", "head", "-n", "1", interactive=True))
        await groove.instruct("listener", "hello there")
        texts = [line.text async for line in groove.follow_output("listener")]
        assert texts == ["hello there"]
        with pytest.raises(errors.WrongState):
            await groove.instruct("listener", "too late")

    within(body)


def test_knocks_and_leases(within: Any) -> None:
    async def body(groove: Client) -> None:
        one = await groove.spawn(spec("one", "sleep", "60", scope=["src/one/**"]))
        two = await groove.spawn(spec("two", "sleep", "60"))
        assert isinstance(await groove.knock("one", "write", "src/one/a"), Granted)
        denied = await groove.knock("two", "write", "src/one/a")
        assert isinstance(denied, Denied)
        assert denied.owner == one.id
        lease = await groove.declare("one", ["shared.txt"], 60, reason="a line")
        assert (lease.agent, lease.paths, lease.reason) == (one.id, ["shared.txt"], "a line")
        with pytest.raises(errors.Locked) as locked:
            await groove.declare(two.id, ["shared.txt"])
        assert locked.value.fields["owner"] == one.id
        assert await groove.coordination() == [lease]
        assert (await groove.locks()).leases == [lease]
        told = await groove.explain("src/one/ä b?&#")
        assert (told.path, told.owner) == ("src/one/ä b?&#", one.id)
        with pytest.raises(errors.UnknownLease):
            await groove.complete("two", lease.id)
        assert await groove.complete("one") == [lease]
        assert await groove.complete("one") == []

    within(body)


def test_audit_is_read_and_verified(within: Any) -> None:
    async def body(groove: Client) -> None:
        view = await groove.spawn(spec("one", "true"))
        await until_state(groove, "one", "completed")
        page = await groove.audit(agent=view.id)
        assert page.records
        assert all(view.id.encode() in bytes(record) for record in page.records)
        assert (await groove.verify_audit()).ok

    within(body)


def test_events_begin_with_all_there_is_and_go_on(within: Any) -> None:
    async def body(groove: Client) -> None:
        async with groove.events() as events:
            first = await anext(events)
            assert first.event == Snapshot(agents=[], locks=await groove.locks(), draining=False)
            view = await groove.spawn(spec("one", "echo", "hello"))
            await until_state(groove, "one", "completed")
            await groove.remove("one")
            seen = []
            async for envelope in events:
                seen.append(envelope)
                if isinstance(envelope.event, AgentRemoved):
                    break
        assert isinstance(seen[0].event, AgentAdded)
        assert [line.text for each in seen if isinstance(each.event, OutputAppended)
                for line in each.event.lines] == ["hello"]  # fmt: skip
        assert seen[-1].event == AgentRemoved(id=view.id)
        assert [each.seq for each in seen] == list(range(seen[0].seq, seen[0].seq + len(seen)))
        async with groove.events(seen[0].seq) as events:
            again = [await anext(events) for _ in seen[1:]]
        assert again == seen[1:]

    within(body)


def test_events_end_with_the_daemon(tmp_path: Path, run: Run) -> None:
    start_detached(tmp_path, port=0)

    async def main() -> None:
        async with (
            connect_groove(project=tmp_path) as groove,
            groove.events() as events,
            anyio.create_task_group() as tasks,
        ):
            assert isinstance((await anext(events)).event, Snapshot)
            tasks.start_soon(anyio.to_thread.run_sync, stop_daemon, tmp_path)
            last = [envelope.event async for envelope in events][-1]
            assert last == Draining()
            with pytest.raises(StopAsyncIteration):
                await anext(events)

    run(main)
