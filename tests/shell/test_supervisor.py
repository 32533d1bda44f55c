from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from groove_trio.rules.lifecycle import FINAL
from groove_trio.shell.output import OutputLog
from groove_trio.shell.store import AgentStatus, Store
from groove_trio.words.actors import OWNER
from groove_trio.words.agents import AgentPatch, AgentSpec, Restart
from groove_trio.words.errors import (
    AuditUnavailable,
    BadRequest,
    Busy,
    ContainmentUnavailable,
    Draining,
    GrooveError,
    InvalidScope,
    NameTaken,
    OutsideProject,
    ScopeOverlap,
    SpawnFailed,
    UnknownAgent,
    UnknownProvider,
    WrongState,
)
from groove_trio.words.events import (
    AgentAdded,
    AgentChanged,
    AgentRemoved,
    AnyEvent,
    OutputAppended,
)
from groove_trio.words.output import OutputLine

Open = Callable[..., Any]


def names(project: Path) -> set[str]:
    return {path.name for path in (project / ".groove/agents").iterdir()}


# Spawning


async def test_spawn_reserves_records_starts_and_tells(open_house: Open, tmp_path: Path) -> None:
    async with open_house() as house:
        view = await house.spawn(["src/**"], prompt="secret", env={"KEY": "hunter2"})
        assert (view.state, view.name, view.pid) == ("running", "worker-1", 1000)
        assert view.started is not None
        assert house.holders() == {"worker-1"}
        assert (await house.actions())[-2:] == ["agent.spawn", "agent.started"]
        assert names(tmp_path) == {view.id}
        assert isinstance(house.events[0], AgentAdded)
        assert house.moves(view.id) == ["running"]
        page = await house.audit.read(0, 100)
        everything = b"".join(bytes(record) for record in page.records)
        assert b"secret" not in everything
        assert b"hunter2" not in everything


async def test_the_environment_is_an_allow_list(
    open_house: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "x")
    monkeypatch.setenv("LC_TIME", "C")
    async with open_house() as house:
        view = await house.spawn(env={"MINE": "1"}, name="bob")
        env = house.trees[0].asked["env"]
        assert "SECRET_TOKEN" not in env
        assert (env["MINE"], env["LC_TIME"], env["PATH"]) == ("1", "C", os.environ["PATH"])
        assert (env["GROOVE_AGENT"], env["GROOVE_NAME"]) == (view.id, "bob")
        assert (env["GROOVE_URL"], env["GROOVE_PROJECT"]) == ("http://127.0.0.1:1", str(tmp_path))
        assert env["TMPDIR"] == str(tmp_path / ".groove/agents" / view.id / "tmp")


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"role": "a b"}, BadRequest),
        ({"role": "x" * 51}, BadRequest),
        ({"name": "a\n"}, BadRequest),
        ({"prompt": "x" * 50_001}, BadRequest),
        ({"scope": ["../x"]}, InvalidScope),
        ({"scope": ["x"] * 21}, BadRequest),
        ({"permission": "root"}, BadRequest),
        ({"grace_s": -1}, BadRequest),
        ({"argv": []}, BadRequest),
        ({"argv": ["a\0b"]}, BadRequest),
        ({"env": {"TMPDIR": "/"}}, BadRequest),
        ({"env": {"GROOVE_AGENT": "x"}}, BadRequest),
        ({"env": {"A=B": "x"}}, BadRequest),
        ({"prompt": "\udc80"}, BadRequest),
        ({"provider": "nobody"}, UnknownProvider),
        ({"containment": "gate"}, ContainmentUnavailable),
        ({"containment": "wall"}, ContainmentUnavailable),
        ({"cwd": "/"}, OutsideProject),
        ({"cwd": ".."}, OutsideProject),
        ({"cwd": "out"}, OutsideProject),
        ({"cwd": "missing"}, SpawnFailed),
        ({"cwd": "file"}, SpawnFailed),
    ],
)
async def test_bad_specs_are_refused_and_leave_nothing(
    open_house: Open, tmp_path: Path, fields: dict[str, Any], error: type[GrooveError]
) -> None:
    (tmp_path / "out").symlink_to("/usr")
    (tmp_path / "file").touch()
    async with open_house() as house:
        with pytest.raises(error):
            await house.spawn(**fields)
        assert house.supervisor.views() == []
        assert house.holders() == set()
        assert names(tmp_path) == set()
        assert house.trees == []
        await house.spawn(name="worker-1")  # no name was used up


async def test_unavailable_containment_tells_what_there_is(open_house: Open) -> None:
    async with open_house() as house:
        with pytest.raises(ContainmentUnavailable) as caught:
            await house.spawn(containment="gate")
        assert caught.value.fields["available"] == ["hooks"]
        assert (await house.spawn(containment="hooks")).containment == "hooks"


async def test_a_program_that_cannot_be_started_leaves_nothing(
    open_house: Open, tmp_path: Path
) -> None:
    async with open_house() as house:
        descriptors = len(os.listdir("/proc/self/fd"))
        house.refuse = [SpawnFailed("no such program", errno="ENOENT")]
        with pytest.raises(SpawnFailed) as caught:
            await house.spawn(["src/**"], name="bob", restart=Restart(mode="always"))
        assert caught.value.fields["errno"] == "ENOENT"
        assert house.supervisor.views() == []
        assert house.holders() == set()
        assert names(tmp_path) == set()
        assert len(os.listdir("/proc/self/fd")) == descriptors
        assert isinstance(house.events[-1], AgentRemoved)
        assert (await house.actions())[-2:] == ["agent.failed", "agent.release"]
        await house.spawn(["src/**"], name="bob")


async def test_a_full_disk_refuses_the_spawn_and_frees_the_scope(
    open_house: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_house() as house:
        (tmp_path / ".groove/agents").rename(tmp_path / "elsewhere")
        with pytest.raises(GrooveError) as caught:
            await house.spawn(["src/**"])
        assert (caught.value.status, caught.value.fields["errno"]) == (503, "ENOENT")
        assert house.holders() == set()
        (tmp_path / "elsewhere").rename(tmp_path / ".groove/agents")
        await house.spawn(["src/**"])


async def test_overlap_is_refused_with_a_witness(open_house: Open) -> None:
    async with open_house() as house:
        first = await house.spawn(["src/**"])
        with pytest.raises(ScopeOverlap) as caught:
            await house.spawn(["**/*.py"])
        assert caught.value.fields["witness"].startswith("src/")
        assert caught.value.fields["owner"] in {first.id, first.name}
        assert len(house.supervisor.views()) == 1


async def test_of_two_at_once_exactly_one_wins(open_house: Open) -> None:
    async with open_house() as house:
        outcomes: list[str] = []

        async def spawn() -> None:
            try:
                await house.spawn(["src/**"])
            except ScopeOverlap:
                outcomes.append("refused")
            else:
                outcomes.append("won")

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(spawn)
        assert sorted(outcomes) == ["refused"] * 4 + ["won"]


async def test_names_are_unique_and_given_in_order(open_house: Open) -> None:
    async with open_house() as house:
        first = await house.spawn()
        await house.spawn(name="worker-2")
        assert (await house.spawn()).name == "worker-3"
        with pytest.raises(NameTaken):
            await house.spawn(name="worker-1")
        with pytest.raises(NameTaken):
            await house.spawn(name=first.id)
        assert house.supervisor.view("worker-1").id == first.id
        assert house.supervisor.view(first.id).name == "worker-1"
        assert house.supervisor.identify("worker-1") == first.id
        assert house.supervisor.identify("nobody") == "nobody"
        with pytest.raises(UnknownAgent):
            house.supervisor.view("nobody")


async def test_a_provider_that_breaks_is_its_own_fault(
    open_house: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from groove_trio.providers.command import CommandProvider

    def launch(self: Any, spec: Any, place: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(CommandProvider, "launch", launch)
    async with open_house() as house:
        with pytest.raises(SpawnFailed, match="broke: ZeroDivisionError"):
            await house.spawn(["src/**"])
        assert house.holders() == set()
        assert names(tmp_path) == set()


@pytest.mark.parametrize("waits", range(12))
async def test_a_spawn_cancelled_at_any_step_is_taken_back(
    open_house: Open, tmp_path: Path, waits: int
) -> None:
    async with open_house() as house:
        with trio.CancelScope() as scope:

            async def cancel() -> None:
                for _ in range(waits):
                    await trio.lowlevel.checkpoint()
                scope.cancel()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel)
                await house.spawn(["src/**"])
                nursery.cancel_scope.cancel()
        await trio.sleep(1)
        if scope.cancelled_caught:
            assert house.supervisor.views() == []
            assert house.holders() == set()
            assert names(tmp_path) == set()
            assert all(tree.closed for tree in house.trees)
        else:
            assert len(house.supervisor.views()) == 1


# Ends and restarts


@pytest.mark.parametrize(
    ("code", "signal", "state", "reason"),
    [
        (0, None, "completed", "ended well"),
        (3, None, "failed", "ended with exit code 3"),
        (None, "SIGSEGV", "failed", "killed by SIGSEGV"),
        (None, None, "failed", "ended, and nobody can say how"),
    ],
)
async def test_an_end_is_told_and_frees_the_scope(
    open_house: Open, code: int | None, signal: str | None, state: str, reason: str
) -> None:
    async with open_house() as house:
        view = await house.spawn(["src/**"])
        house.trees[0].exit(code, signal)
        view = await house.until(view.id, state)
        assert (view.reason, view.exit_code, view.exit_signal) == (reason, code, signal)
        assert view.pid is None
        assert view.ended is not None
        await trio.sleep(0.1)
        assert house.holders() == set()
        assert house.trees[0].closed


async def test_what_a_finished_agent_leaves_behind_is_ended_first(open_house: Open) -> None:
    async with open_house() as house:
        view = await house.spawn(["src/**"], grace_s=7)
        tree = house.trees[0]
        tree.deaf = True
        began = trio.current_time()
        tree.exit(0, all_of_it=False)
        await trio.sleep(6)
        assert house.supervisor.view(view.id).state == "running"
        assert house.holders() == {"worker-1"}
        view = await house.until(view.id, "completed")
        assert tree.signals == ["SIGTERM", "SIGKILL"]
        assert trio.current_time() - began >= 7


async def test_it_is_restarted_with_back_off_and_parked_in_the_end(open_house: Open) -> None:
    async with open_house() as house:
        house.prepare = lambda tree: tree.exit(1)
        policy = Restart(mode="on-failure", max_restarts=3, first_s=10, cap_s=30)
        view = await house.spawn(["src/**"], restart=policy)
        view = await house.until(view.id, "parked")
        assert [tree.started_s - house.trees[0].started_s for tree in house.trees] == pytest.approx(
            [0, 10, 30, 60], abs=0.5
        )
        assert view.restarts == 3
        assert view.reason == (
            "ended with exit code 1; ended again after 3 restarts within 300 s, "
            "the most that its policy allows"
        )
        assert house.moves(view.id)[:4] == ["running", "backing-off", "starting", "running"]
        await trio.sleep(0.1)
        assert house.holders() == set()


async def test_the_scope_stays_held_while_it_backs_off(open_house: Open) -> None:
    async with open_house() as house:
        await house.spawn(["src/**"], restart=Restart(mode="always", first_s=100, cap_s=100))
        house.trees[0].exit(0)
        view = await house.until("worker-1", "backing-off")
        assert view.reason == "ended well; restart 1 in 100 s"
        with pytest.raises(ScopeOverlap):
            await house.spawn(["src/a"])
        await house.until("worker-1", "running")
        assert len(house.trees) == 2


async def test_a_restart_that_cannot_start_counts_as_a_failure(open_house: Open) -> None:
    async with open_house() as house:
        await house.spawn(restart=Restart(mode="on-failure", max_restarts=2))
        house.refuse = [SpawnFailed("gone", errno="ENOENT")]
        house.trees[0].exit(1)
        await house.until("worker-1", "backing-off")
        await house.until("worker-1", "running")
        assert house.moves(house.supervisor.view("worker-1").id) == [
            "running",
            "backing-off",
            "starting",
            "backing-off",
            "starting",
            "running",
        ]


# Stopping


async def test_stop_asks_waits_for_the_tree_and_frees_the_scope(open_house: Open) -> None:
    async with open_house() as house:
        await house.spawn(["src/**"], restart=Restart(mode="always"))
        view = await house.supervisor.stop("worker-1", OWNER)
        assert (view.state, view.exit_signal) == ("stopped", "SIGTERM")
        assert view.reason == "stopped by owner"
        assert house.holders() == set()
        assert house.trees[0].closed
        assert house.moves(view.id) == ["running", "stopping", "stopped"]
        assert "agent.stop" in await house.actions()


async def test_a_deaf_tree_is_killed_after_its_grace(open_house: Open) -> None:
    async with open_house() as house:
        await house.spawn(grace_s=30)
        house.trees[0].deaf = True
        began = trio.current_time()
        await house.supervisor.stop("worker-1", OWNER)
        assert trio.current_time() - began == pytest.approx(30, abs=1)
        assert house.trees[0].signals == ["SIGTERM", "SIGKILL"]


async def test_a_second_stop_with_less_grace_takes_over(open_house: Open) -> None:
    async with open_house() as house:
        await house.spawn()
        house.trees[0].deaf = True
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.supervisor.stop, "worker-1", OWNER, 300)
            await house.until("worker-1", "stopping")
            await house.supervisor.stop("worker-1", OWNER, 2)
        assert trio.current_time() - began == pytest.approx(2, abs=1)


async def test_whoever_stops_waiting_does_not_stop_the_stop(open_house: Open) -> None:
    async with open_house() as house:
        await house.spawn(grace_s=20)
        house.trees[0].deaf = True
        with trio.move_on_after(1):
            await house.supervisor.stop("worker-1", OWNER)
        assert house.supervisor.view("worker-1").state == "stopping"
        assert house.trees[0].signals == ["SIGTERM"]
        await house.until("worker-1", "stopped")


async def test_a_tree_that_cannot_be_killed_keeps_its_scope(open_house: Open) -> None:
    async with open_house() as house:
        await house.spawn(["src/**"], grace_s=0)
        house.trees[0].deaf = True
        house.trees[0].stuck = 50
        with trio.move_on_after(20):
            await house.supervisor.stop("worker-1", OWNER)
        assert house.supervisor.view("worker-1").state == "stopping"
        assert house.holders() == {"worker-1"}
        await house.until("worker-1", "stopped")


async def test_stopping_what_is_over_changes_nothing(open_house: Open) -> None:
    async with open_house() as house:
        await house.spawn()
        house.trees[0].exit(0)
        await house.until("worker-1", "completed")
        before = len(await house.actions())
        assert (await house.supervisor.stop("worker-1", OWNER)).state == "completed"
        assert len(await house.actions()) <= before + 1  # the release of its scope
        with pytest.raises(UnknownAgent):
            await house.supervisor.stop("nobody", OWNER)


async def test_stop_ends_the_wait_of_a_backing_off_agent(open_house: Open) -> None:
    async with open_house() as house:
        await house.spawn(["src/**"], restart=Restart(mode="always", first_s=1000, cap_s=1000))
        house.trees[0].exit(1)
        await house.until("worker-1", "backing-off")
        began = trio.current_time()
        assert (await house.supervisor.stop("worker-1", OWNER)).state == "stopped"
        assert trio.current_time() - began < 5
        assert house.holders() == set()
        assert len(house.trees) == 1


async def test_stop_lays_a_parked_agent_to_rest(open_house: Open) -> None:
    async with open_house() as house:
        await house.spawn(restart=Restart(mode="always", max_restarts=0))
        house.trees[0].exit(1)
        await house.until("worker-1", "parked")
        assert (await house.supervisor.stop("worker-1", OWNER)).state == "stopped"


async def test_stop_during_a_start_stops_what_was_started(open_house: Open) -> None:
    async with open_house() as house:
        await house.spawn(["src/**"], restart=Restart(mode="always", first_s=1))
        house.open_wait = trio.Event()
        house.trees[0].exit(1)
        await house.until("worker-1", "starting")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.supervisor.stop, "worker-1", OWNER)
            await house.until("worker-1", "stopping")
            house.open_wait.set()
        assert house.supervisor.view("worker-1").state == "stopped"
        assert house.trees[1].signals == ["SIGTERM"]


# Restart, resume


async def test_restart_of_a_running_agent_keeps_its_scope_throughout(open_house: Open) -> None:
    async with open_house() as house:
        view = await house.spawn(["src/**"])
        seen: list[set[str]] = []
        house.prepare = lambda tree: seen.append(house.holders())
        view = await house.supervisor.restart("worker-1", OWNER)
        assert (view.state, view.pid) == ("running", 1001)
        assert seen == [{"worker-1"}]
        assert house.moves(view.id) == ["running", "stopping", "stopped", "starting", "running"]
        assert house.trees[0].closed


async def test_an_agent_that_is_being_removed_is_not_started_again(
    open_house: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_house() as house, trio.open_nursery() as nursery:
        view = await house.spawn(["src/**"])
        await house.supervisor.stop(view.id, OWNER)
        refused: list[str] = []
        release = house.broker.release

        async def restart() -> None:
            with pytest.raises(UnknownAgent):
                await house.supervisor.restart(view.id, OWNER)
            refused.append("restart")

        async def slow(*arguments: Any) -> Any:
            nursery.start_soon(restart)
            await trio.sleep(1)
            return await release(*arguments)

        monkeypatch.setattr(house.broker, "release", slow)
        await house.supervisor.remove(view.id, OWNER)
        await trio.sleep(5)
        assert refused == ["restart"]
        assert len(house.trees) == 1
        assert house.holders() == set()


async def test_no_status_saved_in_a_restart_says_that_the_agent_is_over(
    open_house: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[str] = []
    save = Store.save_status

    def noted(store: Store, status: AgentStatus) -> None:
        saved.append(status.state)
        save(store, status)

    monkeypatch.setattr(Store, "save_status", noted)
    async with open_house() as house:
        await house.spawn(["src/**"])
        await house.supervisor.restart("worker-1", OWNER)
        assert saved == ["running", "starting", "running"]
        await house.supervisor.stop("worker-1", OWNER)
        assert saved[-1] == "stopped"


async def test_restart_of_an_ended_agent_takes_its_scope_anew(open_house: Open) -> None:
    async with open_house() as house:
        await house.spawn(["src/**"])
        house.trees[0].exit(3)
        await house.until("worker-1", "failed")
        view = await house.supervisor.restart("worker-1", OWNER)
        assert (view.state, view.exit_code, view.reason) == ("running", None, None)
        assert house.holders() == {"worker-1"}


async def test_restart_is_refused_when_another_has_taken_the_scope(open_house: Open) -> None:
    async with open_house() as house:
        await house.spawn(["src/**"])
        house.trees[0].exit(0)
        await house.until("worker-1", "completed")
        await trio.sleep(0.1)
        await house.spawn(["src/a/**"])
        with pytest.raises(ScopeOverlap):
            await house.supervisor.restart("worker-1", OWNER)
        assert house.supervisor.view("worker-1").state == "completed"
        await house.supervisor.stop("worker-2", OWNER)
        assert (await house.supervisor.restart("worker-1", OWNER)).state == "running"


async def test_a_restart_that_cannot_start_has_failed_and_frees_the_scope(
    open_house: Open, tmp_path: Path
) -> None:
    async with open_house() as house:
        view = await house.spawn(["src/**"], restart=Restart(mode="always"))
        await house.supervisor.stop("worker-1", OWNER)
        house.refuse = [SpawnFailed("gone", errno="ENOENT")]
        with pytest.raises(SpawnFailed):
            await house.supervisor.restart("worker-1", OWNER)
        after = house.supervisor.view("worker-1")
        assert (after.state, after.reason) == ("failed", "gone")
        assert house.holders() == set()
        assert names(tmp_path) == {view.id}


async def test_restart_forgets_what_the_policy_remembers(open_house: Open) -> None:
    async with open_house() as house:
        await house.spawn(restart=Restart(mode="always", max_restarts=1))
        house.trees[0].exit(1)
        await house.until("worker-1", "backing-off")
        await house.supervisor.restart("worker-1", OWNER)  # at once, without the wait
        assert len(house.trees) == 2
        house.trees[1].exit(1)
        await house.until("worker-1", "backing-off")
        await house.until("worker-1", "running")
        house.trees[2].exit(1)
        await house.until("worker-1", "parked")
        assert (await house.supervisor.restart("worker-1", OWNER)).state == "running"


async def test_two_restarts_at_once_are_one(open_house: Open) -> None:
    async with open_house() as house:
        await house.spawn()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(house.supervisor.restart, "worker-1", OWNER)
        assert len(house.trees) == 2


async def test_a_stop_overtakes_a_restart(open_house: Open) -> None:
    async with open_house() as house:
        await house.spawn(["src/**"], grace_s=10)
        house.trees[0].deaf = True
        errors: list[GrooveError] = []

        async def restart() -> None:
            try:
                await house.supervisor.restart("worker-1", OWNER)
            except GrooveError as error:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(restart)
            await house.until("worker-1", "stopping")
            await house.supervisor.stop("worker-1", OWNER)
        assert house.supervisor.view("worker-1").state == "stopped"
        assert [type(error) for error in errors] == [WrongState]
        assert len(house.trees) == 1
        assert house.holders() == set()


async def test_what_runs_cannot_be_resumed(open_house: Open) -> None:
    async with open_house() as house:
        await house.spawn()
        with pytest.raises(WrongState) as caught:
            await house.supervisor.resume("worker-1", OWNER)
        assert caught.value.fields["state"] == "running"


# Output and input


async def test_output_is_numbered_kept_and_told(open_house: Open) -> None:
    async with open_house() as house:
        view = await house.spawn()
        house.trees[0].say(b"one\ntwo\nthr")
        house.trees[0].say(b"ee", "out")
        house.trees[0].say(b"oops\n", "err")
        await trio.sleep(0.1)
        house.trees[0].exit(0)
        await house.until(view.id, "completed")
        page = await house.supervisor.output(view.id, 0, 100)
        assert sorted(line.text for line in page.lines) == ["one", "oops", "three", "two"]
        assert [line.seq for line in page.lines] == [1, 2, 3, 4]
        assert sorted(house.lines(view.id)) == ["one", "oops", "three", "two"]
        assert house.supervisor.view(view.id).last_seq == 4


async def test_numbers_go_on_over_restarts(open_house: Open) -> None:
    async with open_house() as house:
        house.prepare = lambda tree: tree.say(b"hello\n")
        await house.spawn()
        await house.supervisor.restart("worker-1", OWNER)
        await trio.sleep(0.1)
        page = await house.supervisor.output("worker-1", 0, 10)
        assert [(line.seq, line.text) for line in page.lines] == [(1, "hello"), (2, "hello")]


async def test_events_of_output_are_bounded(open_house: Open) -> None:
    async with open_house() as house:
        view = await house.spawn()
        house.trees[0].say(b"\n" * 65_536)
        house.trees[0].say(b"x" * 65_536 + b"\n" + b"y" * 65_536)
        await trio.sleep(1)
        events = [event for event in house.events if isinstance(event, OutputAppended)]
        assert sum(len(event.lines) for event in events) >= 65_537
        for event in events:
            size = sum(len(line.text) for line in event.lines)
            assert size <= 65_536 or len(event.lines) == 1
            assert len(event.lines) <= 700
        assert house.supervisor.view(view.id).last_seq >= 65_537


async def test_a_stranger_that_holds_the_pipe_does_not_hold_the_agent(open_house: Open) -> None:
    async with open_house() as house:
        await house.spawn(["src/**"])
        tree = house.trees[0]
        tree.say(b"last words\n")
        tree.ended.set()
        tree.code = 0
        tree.gone.set()  # but the pipes stay open
        view = await house.until("worker-1", "completed")
        assert house.lines(view.id) == ["last words"]


async def test_a_stranger_that_never_stops_writing_does_not_hold_the_agent(
    open_house: Open,
) -> None:
    async with open_house() as house:
        await house.spawn(["src/**"])
        tree = house.trees[0]
        tree.code = 0

        async def flood(stream: str) -> bytes:
            await trio.sleep(0.001)
            return b"x" * 65_535 + b"\n"

        tree.receive = flood
        tree.say(b"go\n")
        tree.ended.set()
        tree.gone.set()
        await house.until("worker-1", "completed")


async def test_a_program_that_reads_nothing_gets_the_end_of_input(open_house: Open) -> None:
    async with open_house() as house:
        await house.spawn()
        assert house.trees[0].stdin_closed
        await house.spawn(prompt="do it")
        await trio.sleep(0.1)
        assert bytes(house.trees[1].read) == b"do it\n"
        assert house.trees[1].stdin_closed


async def test_a_program_that_never_reads_still_talks_and_ends(open_house: Open) -> None:
    async with open_house() as house:

        def prepare(tree: Any) -> None:
            tree.reads = False

        house.prepare = prepare
        view = await house.spawn(prompt="x" * 50_000)
        house.trees[0].say(b"busy\n")
        await trio.sleep(0.1)
        assert house.lines(view.id) == ["busy"]
        house.trees[0].exit(0)
        await house.until(view.id, "completed")


async def test_follow_ups_reach_an_interactive_agent_in_order(open_house: Open) -> None:
    async with open_house() as house:
        await house.spawn(interactive=True, prompt="start")
        for text in ("one", "two"):
            view = await house.supervisor.instruct("worker-1", text, OWNER)
        await trio.sleep(0.1)
        assert bytes(house.trees[0].read) == b"start\none\ntwo\n"
        assert not house.trees[0].stdin_closed
        assert view.state == "running"
        assert "agent.instruct" in await house.actions()


@pytest.mark.parametrize("text", ["", "x" * 50_001])
async def test_a_follow_up_out_of_bounds_is_refused(open_house: Open, text: str) -> None:
    async with open_house() as house:
        await house.spawn(interactive=True)
        with pytest.raises(BadRequest):
            await house.supervisor.instruct("worker-1", text, OWNER)


async def test_only_running_interactive_agents_take_follow_ups(open_house: Open) -> None:
    async with open_house() as house:
        await house.spawn()
        with pytest.raises(WrongState, match="reads no follow-ups"):
            await house.supervisor.instruct("worker-1", "x", OWNER)
        await house.spawn(interactive=True)
        await house.supervisor.stop("worker-2", OWNER)
        with pytest.raises(WrongState, match="is stopped"):
            await house.supervisor.instruct("worker-2", "x", OWNER)


async def test_follow_ups_to_an_agent_that_reads_none_are_bounded(open_house: Open) -> None:
    async with open_house() as house:

        def prepare(tree: Any) -> None:
            tree.reads = False

        house.prepare = prepare
        await house.spawn(interactive=True)
        for _ in range(16):
            await house.supervisor.instruct("worker-1", "x", OWNER)
        await trio.sleep(0.1)
        await house.supervisor.instruct("worker-1", "the first is being written", OWNER)
        with pytest.raises(Busy):
            await house.supervisor.instruct("worker-1", "x", OWNER)


# Changing and removing


async def test_a_patch_changes_name_policy_and_grace(open_house: Open) -> None:
    async with open_house() as house:
        await house.spawn(["src/**"])
        patch = AgentPatch(name="bob", restart=Restart(mode="always", first_s=1), grace_s=3)
        view = await house.supervisor.patch("worker-1", patch, OWNER)
        assert (view.name, view.restart_mode) == ("bob", "always")
        assert house.holders() == {"bob"}
        assert isinstance(house.events[-1], AgentChanged)
        with pytest.raises(UnknownAgent):
            house.supervisor.view("worker-1")
        house.trees[0].exit(0)
        await house.until("bob", "backing-off")
        await house.spawn(name="worker-1")
        with pytest.raises(NameTaken):
            await house.supervisor.patch("worker-1", AgentPatch(name="bob"), OWNER)
        with pytest.raises(BadRequest):
            await house.supervisor.patch("bob", AgentPatch(name="a b"), OWNER)
        assert (await house.supervisor.patch("bob", AgentPatch(), OWNER)).name == "bob"


async def test_remove_forgets_all_but_the_record(open_house: Open, tmp_path: Path) -> None:
    async with open_house() as house:
        await house.spawn(["src/**"], name="bob")
        with pytest.raises(WrongState):
            await house.supervisor.remove("bob", OWNER)
        await house.supervisor.stop("bob", OWNER)
        assert (await house.supervisor.remove("bob", OWNER)).state == "stopped"
        assert names(tmp_path) == set()
        assert house.supervisor.views() == []
        assert isinstance(house.events[-1], AgentRemoved)
        assert "agent.remove" in await house.actions()
        await house.spawn(["src/**"], name="bob")


# Faults


async def test_a_fault_in_one_task_ends_that_agent_alone(
    open_house: Open, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_house() as house:
        await house.spawn(["a/**"])
        await house.spawn(["b/**"])

        async def broken(stream: str) -> bytes:
            raise ZeroDivisionError

        house.trees[0].receive = broken
        house.trees[0].say(b"x\n")
        view = await house.until("worker-1", "failed")
        assert view.reason == "its task broke: ZeroDivisionError"
        assert house.trees[0].signals == ["SIGKILL"]
        await trio.sleep(0.1)
        assert house.holders() == {"worker-2"}
        assert house.supervisor.view("worker-2").state == "running"
        assert "ZeroDivisionError" in caplog.text


async def test_a_fault_in_a_verb_is_told_to_its_caller_alone(
    open_house: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_house() as house:
        await house.spawn(["a/**"])

        async def broken(*arguments: Any, **more: Any) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(house.broker, "reserve", broken)
            with pytest.raises(GrooveError):
                await house.spawn(["b/**"])
        with monkeypatch.context() as patch:
            patch.setattr(house.broker, "rename", broken)
            with pytest.raises(GrooveError):
                await house.supervisor.patch("worker-1", AgentPatch(name="bob"), OWNER)
        with monkeypatch.context() as patch:
            patch.setattr(Store, "create", lambda *_: 1 / 0)
            with pytest.raises(GrooveError):
                await house.spawn(["b/**"])
        assert "ZeroDivisionError" in caplog.text
        assert len(house.holders()) == 1
        await house.spawn(["b/**"])


def break_log(house: Any) -> None:
    def append(entries: Any) -> int:
        raise AuditUnavailable

    house.audit.append = append


def mend_log(house: Any) -> None:
    del house.audit.append


async def test_without_a_log_nothing_asked_for_changes(
    open_house: Open,
) -> None:
    async with open_house() as house:
        await house.spawn(["src/**"], interactive=True)
        await house.spawn(["b/**"])
        await house.supervisor.stop("worker-2", OWNER)
        break_log(house)
        supervisor = house.supervisor
        for attempt in (
            lambda: house.spawn(["c/**"]),
            lambda: supervisor.stop("worker-1", OWNER),
            lambda: supervisor.restart("worker-1", OWNER),
            lambda: supervisor.restart("worker-2", OWNER),
            lambda: supervisor.instruct("worker-1", "x", OWNER),
            lambda: supervisor.patch("worker-1", AgentPatch(name="bob"), OWNER),
            lambda: supervisor.remove("worker-2", OWNER),
        ):
            with pytest.raises(AuditUnavailable):
                await attempt()
        assert [view.state for view in supervisor.views()] == ["running", "stopped"]
        assert house.holders() == {"worker-1"}
        assert house.trees[0].signals == []
        assert bytes(house.trees[0].read) == b""
        mend_log(house)


async def test_what_happens_without_a_log_is_recorded_when_it_is_back(
    open_house: Open,
) -> None:
    async with open_house() as house:
        await house.spawn(["src/**"])
        break_log(house)
        house.trees[0].exit(3)
        view = await house.until("worker-1", "failed")
        await trio.sleep(30)
        assert house.holders() == {"worker-1"}  # nothing follows from it yet
        mend_log(house)
        await trio.sleep(3)
        assert house.holders() == set()
        assert (await house.actions())[-2:] == ["agent.failed", "agent.release"]
        assert view.exit_code == 3


async def test_a_status_that_cannot_be_saved_does_not_stop_the_agent(
    open_house: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_house() as house:
        view = await house.spawn()
        (tmp_path / ".groove/agents" / view.id).rename(tmp_path / "elsewhere")
        assert (await house.supervisor.stop("worker-1", OWNER)).state == "stopped"
        assert "can't be saved" in caplog.text
        (tmp_path / "elsewhere").rename(tmp_path / ".groove/agents" / view.id)


# Shutdown and the next daemon


async def test_drain_asks_all_and_reads_their_last_words(open_house: Open) -> None:
    async with open_house() as house:
        ids = [(await house.spawn([f"{n}/**"], grace_s=5)).id for n in range(4)]
        house.trees[1].deaf = True
        waiting = await house.spawn(restart=Restart(mode="always", first_s=500, cap_s=500))
        house.trees[4].exit(1)
        await house.until(waiting.id, "backing-off")
        house.trees[0].say(b"farewell\n")
        supervisor, began = house.supervisor, trio.current_time()
    assert [view.state for view in supervisor.views()] == ["stopped"] * 5
    assert {view.reason for view in supervisor.views()} == {"the daemon shut down"}
    assert trio.current_time() - began < 7
    assert house.trees[1].signals == ["SIGTERM", "SIGKILL"]
    assert house.lines(ids[0]) == ["farewell"]
    assert house.broker.view().holdings == []


async def test_while_draining_nothing_is_started(open_house: Open) -> None:
    async with open_house() as house:
        await house.spawn(["a/**"], grace_s=20)
        await house.spawn(["b/**"])
        await house.supervisor.stop("worker-2", OWNER)
        house.trees[0].deaf = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.supervisor.drain)
            await house.until("worker-1", "stopping")
            assert house.supervisor.draining
            for attempt in (
                lambda: house.spawn(["c/**"]),
                lambda: house.supervisor.restart("worker-1", OWNER),
                lambda: house.supervisor.restart("worker-2", OWNER),
            ):
                with pytest.raises(Draining):
                    await attempt()


async def test_a_spawn_under_way_is_refused_by_drain(open_house: Open, tmp_path: Path) -> None:
    async with open_house() as house:
        errors: list[GrooveError] = []

        async def spawn() -> None:
            try:
                await house.spawn(["a/**"])
            except GrooveError as error:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(spawn)
            await trio.lowlevel.checkpoint()
            await house.supervisor.drain()
        assert [view.state for view in house.supervisor.views()] in ([], ["stopped"])
        assert len(errors) == 1


async def test_drain_does_not_wait_for_a_log_that_is_gone(
    open_house: Open,
) -> None:
    async with open_house() as house:
        await house.spawn(["a/**"])
        break_log(house)
        await house.supervisor.drain()
        assert house.trees[0].closed
        mend_log(house)


async def test_drain_gives_up_on_what_cannot_be_killed(open_house: Open) -> None:
    async with open_house() as house:
        await house.spawn(["a/**"], grace_s=1)
        house.trees[0].deaf = True
        house.trees[0].stuck = 10_000
        await house.supervisor.drain()
        assert house.trees[0].closed


async def test_the_next_daemon_knows_all_that_ended(open_house: Open) -> None:
    async with open_house() as house:
        first = await house.spawn(["a/**"], name="a", prompt="p", interactive=True)
        house.trees[0].say(b"one\n")
        await house.spawn(["b/**"], name="b")
        house.trees[1].exit(4)
        await house.until("b", "failed")
    async with open_house() as house:
        a, b = house.supervisor.views()
        assert (a.id, a.name, a.state, a.last_seq) == (first.id, "a", "stopped", 1)
        assert (b.state, b.exit_code) == ("failed", 4)
        assert house.holders() == set()
        house.prepare = lambda tree: tree.say(b"two\n")
        await house.supervisor.restart("a", OWNER)
        await trio.sleep(0.1)
        page = await house.supervisor.output("a", 0, 10)
        assert [(line.seq, line.text) for line in page.lines] == [(1, "one"), (2, "two")]
        assert bytes(house.trees[0].read) == b"p\n"


async def crashed(open_house: Open) -> str:
    """Leaves what a daemon leaves that died while an agent ran."""
    async with open_house(drain=False) as house:
        view = await house.spawn(["a/**"], name="a")
        return str(view.id)


async def test_what_ran_when_the_daemon_died_is_interrupted_and_holds_its_scope(
    open_house: Open,
) -> None:
    agent = await crashed(open_house)
    async with open_house() as house:
        view = house.supervisor.view("a")
        assert (view.id, view.state, view.pid) == (agent, "interrupted", None)
        assert view.reason == "the daemon ended while the agent was running"
        assert house.holders() == {"a"}
        with pytest.raises(ScopeOverlap):
            await house.spawn(["a/x"])
        assert house.census.asked == [agent]
        assert {"agent.interrupted", "agent.restore"} <= set(await house.actions())
    async with open_house() as house:  # and stays so until somebody decides
        assert house.supervisor.view("a").state == "interrupted"
        assert house.holders() == {"a"}


async def test_an_interrupted_agent_is_resumed(open_house: Open) -> None:
    await crashed(open_house)
    async with open_house() as house:
        view = await house.supervisor.resume("a", OWNER)
        assert (view.state, view.reason) == ("running", None)
        with pytest.raises(WrongState):
            await house.supervisor.resume("a", OWNER)


@pytest.mark.parametrize("verb", ["stop", "remove", "restart"])
async def test_an_interrupted_agent_is_stopped_removed_or_restarted(
    open_house: Open, verb: str
) -> None:
    await crashed(open_house)
    async with open_house() as house:
        await getattr(house.supervisor, verb)("a", OWNER)
        left = {view.name: view.state for view in house.supervisor.views()}
        assert left == {"stop": {"a": "stopped"}, "remove": {}, "restart": {"a": "running"}}[verb]
        assert house.holders() == ({"a"} if verb == "restart" else set())


async def test_a_resume_that_fails_leaves_a_failed_agent(open_house: Open) -> None:
    await crashed(open_house)
    async with open_house() as house:
        house.refuse = [SpawnFailed("gone", errno="ENOENT")]
        with pytest.raises(SpawnFailed):
            await house.supervisor.resume("a", OWNER)
        assert house.supervisor.view("a").state == "failed"
        assert house.holders() == set()


async def test_unreadable_state_is_set_aside_and_its_leftovers_looked_for(
    open_house: Open, tmp_path: Path
) -> None:
    agent = await crashed(open_house)
    (tmp_path / ".groove/agents" / agent / "spec.json").write_text("{")
    async with open_house() as house:
        assert house.supervisor.views() == []
        assert house.census.asked == [agent]


# Queries


async def test_providers_are_told(open_house: Open) -> None:
    async with open_house() as house:
        told = {view.name: view.containment for view in house.supervisor.providers()}
        assert told == {"command": ["hooks"], "demo": ["hooks"]}


def test_batches_hold_every_line_once() -> None:
    from groove_trio.shell.life import batches

    lines = [
        OutputLine(seq=n, time="", stream="out", text="x" * (n * 997 % 9000)) for n in range(500)
    ]
    cut = list(batches(lines))
    assert [line for batch in cut for line in batch] == lines
    assert all(batch for batch in cut)
    assert list(batches([])) == []


async def test_specs_may_be_built_in_python_unchecked(open_house: Open) -> None:
    async with open_house() as house:
        with pytest.raises(BadRequest):
            await house.supervisor.spawn(AgentSpec(role=5), OWNER)  # type: ignore[arg-type]


async def test_a_restart_right_at_the_end_waits_for_the_scope_to_be_free(
    open_house: Open,
) -> None:
    async with open_house() as house:
        await house.spawn(["src/**"])
        agent = house.supervisor._table.get("worker-1")  # noqa: SLF001 - it is told of later
        house.trees[0].exit(3)
        while agent.state == "running":
            await trio.lowlevel.checkpoint()
        assert house.holders() == {"worker-1"}  # its task is still giving it up
        view = await house.supervisor.restart("worker-1", OWNER)
        assert view.state == "running"
        assert house.holders() == {"worker-1"}


def holders_at_ends(house: Any) -> list[set[str]]:
    """Who holds a scope, each time that somebody is told of an end; filled as that happens."""
    found: list[set[str]] = []
    publish = house.hub.publish

    def look(event: AnyEvent) -> None:
        if isinstance(event, AgentRemoved) or getattr(event, "after", None) in FINAL:
            found.append(house.holders())
        publish(event)

    house.hub.publish = look
    return found


@pytest.mark.parametrize("end", ["completed", "failed", "parked", "stopped"])
async def test_who_is_told_of_an_end_can_have_the_scope(open_house: Open, end: str) -> None:
    async with open_house() as house:
        restart = Restart(mode="on-failure", max_restarts=0)
        await house.spawn(["src/**"], restart=restart if end == "parked" else Restart())
        held = holders_at_ends(house)
        if end == "stopped":
            await house.supervisor.stop("worker-1", OWNER)
        else:
            house.trees[0].exit(0 if end == "completed" else 3)
        while (state := house.supervisor.view("worker-1").state) == "running":
            await trio.lowlevel.checkpoint()
        assert state == end
        assert house.holders() == set()
        assert held == [set()]
        await house.spawn(["src/**"])


@pytest.mark.parametrize("verb", ["stop", "remove"])
async def test_who_is_told_that_an_interrupted_agent_is_gone_can_have_the_scope(
    open_house: Open, verb: str
) -> None:
    await crashed(open_house)
    async with open_house() as house:
        held = holders_at_ends(house)
        await getattr(house.supervisor, verb)("a", OWNER)
        assert held == [set()]


async def test_an_end_is_told_once_while_the_log_is_full(open_house: Open) -> None:
    async with open_house() as house:
        view = await house.spawn(["src/**"])
        break_log(house)
        house.trees[0].exit(3)
        await house.until(view.id, "failed")
        assert house.holders() == {"worker-1"}
        mend_log(house)
        await trio.sleep(3)
        assert house.moves(view.id) == ["running", "failed"]


async def test_of_restart_and_stop_the_latest_wish_counts(open_house: Open) -> None:
    async with open_house() as house:
        await house.spawn(["src/**"], grace_s=10)
        house.trees[0].deaf = True
        outcomes: list[str] = []

        async def ask(verb: str) -> None:
            try:
                view = await getattr(house.supervisor, verb)("worker-1", OWNER)
            except WrongState:
                outcomes.append(f"{verb} overtaken")
            else:
                outcomes.append(f"{verb} {view.state}")

        async with trio.open_nursery() as nursery:
            for verb in ("restart", "stop", "restart"):
                nursery.start_soon(ask, verb)
                await trio.sleep(0.1)
        assert house.supervisor.view("worker-1").state == "running"
        assert sorted(outcomes)[:2] == ["restart running"] * 2
        assert outcomes[0].startswith("stop ")
        assert len(house.trees) == 2


async def test_a_slow_log_makes_the_agent_wait_and_loses_nothing(
    open_house: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_house() as house:
        view = await house.spawn()
        tree, room, append = house.trees[0], trio.Event(), OutputLog.append

        async def slow(self: OutputLog, *arguments: Any) -> list[OutputLine]:
            await room.wait()
            return await append(self, *arguments)

        monkeypatch.setattr(OutputLog, "append", slow)
        for number in range(50):
            tree.say(b"line %d\n" % number)
        await trio.sleep(10)
        waiting = tree.pipes["out"][1].statistics().current_buffer_used
        assert waiting == 49  # one chunk is in hand, the rest is still the agent's
        room.set()
        await trio.sleep(1)
        assert house.lines(view.id) == [f"line {number}" for number in range(50)]


async def test_a_full_disk_does_not_hold_up_a_shutdown(open_house: Open, tmp_path: Path) -> None:
    async with open_house() as house:
        view = await house.spawn()
        (tmp_path / ".groove/agents" / view.id).rename(tmp_path / "elsewhere")
        house.trees[0].say(b"nowhere to go\n")
        await trio.sleep(60)
        assert house.lines(view.id) == []
        began = trio.current_time()
        await house.supervisor.drain()
        assert trio.current_time() - began < 5
        (tmp_path / "elsewhere").rename(tmp_path / ".groove/agents" / view.id)


async def test_cancelling_the_supervisor_kills_at_once(open_house: Open) -> None:
    async with open_house(drain=False) as house:
        await house.spawn(["a/**"], grace_s=300)
        house.trees[0].deaf = True
        began = trio.current_time()
    assert house.trees[0].signals == ["SIGKILL"]
    assert house.trees[0].closed
    assert trio.current_time() - began < 5
