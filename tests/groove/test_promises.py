"""Promises that only the whole can keep: who gets the scope, what an agent is given and leaves."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from groove_trio import AgentSpec, Groove, errors
from groove_trio.providers.base import INHERITED, SET_BY_US
from groove_trio.shell.confining import caches
from groove_trio.shell.launching import Launcher
from groove_trio.testing import connect_memory, lines_of, open_test_groove, scripted, wait_for_line

Living = Callable[[], list[int]]
WAITS = [{"do": "print", "text": "ready"}, {"do": "read"}]
TELL = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]))"


def teller(*arguments: str, **spec: Any) -> AgentSpec:
    """An agent that tells with what it was started."""
    argv = [sys.executable, "-c", TELL, *arguments]
    return AgentSpec(role="teller", argv=argv, scope=[], **spec)


async def told(groove: Groove, agent: str) -> tuple[list[str], dict[str, str], str]:
    await groove.wait(agent)
    (line,) = await lines_of(groove, agent)
    arguments, environment, cwd = json.loads(line)
    return arguments, environment, cwd


# One winner


async def test_of_fifty_overlapping_spawns_at_once_one_wins(project: Path, living: Living) -> None:
    won: list[str] = []
    lost: list[dict[str, Any]] = []

    async with open_test_groove(project) as groove, connect_memory(groove) as client:

        async def spawn(number: int) -> None:
            spec = {
                "role": "r",
                "argv": ["sleep", "3600"],
                "scope": [f"src/**/*{number}*", "src/a"],
            }
            answer = await client.request("POST", "/api/agents", spec)
            if answer.status == 201:
                won.append(answer.json["id"])
            else:
                assert (answer.status, answer.slug) == (409, "scope-overlap")
                lost.append(answer.json)

        async def spawn_here(number: int) -> None:
            try:
                view = await groove.spawn(
                    AgentSpec(role="r", argv=["sleep", "3600"], scope=["src/[a-z]", f"{number}/"])
                )
            except errors.ScopeOverlap as refusal:
                lost.append(refusal.fields)
            else:
                won.append(view.id)

        async with trio.open_nursery() as nursery:
            for number in range(25):
                nursery.start_soon(spawn, number)
                nursery.start_soon(spawn_here, number)
        assert len(won) == 1
        assert len(lost) == 49
        assert {each["owner"] for each in lost} == set(won)
        for each in lost:
            decision = await groove.knock(won[0], "write", each["witness"])
            assert decision.path == each["witness"]
            assert type(decision).__name__ == "Granted"
        assert len(living()) == 1
        assert [view.id for view in groove.agents()] == won
        assert len(list((project / ".groove/agents").iterdir())) == 1


async def test_of_twenty_spawns_by_one_name_one_wins(project: Path) -> None:
    outcomes: list[str] = []

    async def spawn(groove: Groove) -> None:
        try:
            await groove.spawn(AgentSpec(role="r", name="one", argv=["sleep", "99"], scope=[]))
        except errors.NameTaken:
            outcomes.append("taken")
        else:
            outcomes.append("won")

    async with open_test_groove(project) as groove, trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(spawn, groove)
    assert sorted(outcomes) == ["taken"] * 19 + ["won"]


# What an agent is given

HOSTILE = [
    "$(touch pwned)", "`touch pwned`", "; touch pwned", "&& touch pwned", "| touch pwned",
    "> pwned", "'", '"', "\\", "a b", "", "line\nbreak", "*", "~", "$HOME", "%s", "--", "-c",
    "ünïcödé", "\x01\x7f", "\t",
]  # fmt: skip


async def test_arguments_arrive_as_they_were_given(project: Path) -> None:
    async with open_test_groove(project) as groove:
        agent = await groove.spawn(teller(*HOSTILE))
        arguments, _, _ = await told(groove, agent.id)
    assert arguments == HOSTILE
    assert sorted(each.name for each in project.iterdir()) == [".groove", "README.md", "src"]


async def test_the_prompt_is_no_argument(project: Path) -> None:
    async with open_test_groove(project) as groove:
        agent = await groove.spawn(
            AgentSpec(
                role="r",
                argv=["sh", "-c", "tr '\\0' ' ' < /proc/$$/cmdline; cat"],
                prompt="a secret",
                scope=[],
            )
        )
        await groove.wait(agent.id)
        command, prompt = "\n".join(await lines_of(groove, agent.id)).rsplit("a secret", 1)
        assert "secret" not in command
        assert prompt == ""
        assert "secret" not in json.dumps([str(each) for each in groove.agents()])


async def test_the_environment_is_what_was_allowed(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = ("AWS_SECRET_ACCESS_KEY", "ANTHROPIC_API_KEY", "SSH_AUTH_SOCK", "LD_PRELOAD_X")
    for name in (*secrets, "GROOVE_GUARD", "PYTHONSTARTUP", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("LC_TIME", "C.UTF-8")
    async with open_test_groove(project) as groove:
        agent = await groove.spawn(teller(env={"MINE": "given", "LANG": "de_DE"}))
        _, environment, _ = await told(groove, agent.id)
    assert "secret" not in environment.values()
    # Python itself puts LC_CTYPE into its environment.
    ours = INHERITED | SET_BY_US | set(caches(""))
    assert set(environment) <= ours | {"MINE", "LC_TIME", "LC_CTYPE", "LC_ALL"}
    assert environment["LC_TIME"] == "C.UTF-8"
    assert (environment["MINE"], environment["LANG"]) == ("given", "de_DE")
    assert environment["GROOVE_AGENT"] == agent.id
    assert environment["GROOVE_URL"] == groove.url
    assert environment["GROOVE_PROJECT"] == str(project)
    assert environment["TMPDIR"] == str(project / ".groove/agents" / agent.id / "tmp")


@pytest.mark.parametrize("name", sorted(SET_BY_US))
async def test_what_the_daemon_sets_cannot_be_set_by_another(project: Path, name: str) -> None:
    async with open_test_groove(project) as groove:
        with pytest.raises(errors.BadRequest, match=name):
            await groove.spawn(teller(env={name: "x"}))


async def test_an_agent_inherits_no_descriptor_and_no_controlling_terminal(project: Path) -> None:
    code = "ls -l /proc/self/fd; cut -d' ' -f6,7 /proc/self/stat; echo $$"
    with (project / "README.md").open() as leak:
        os.set_inheritable(leak.fileno(), True)
        async with open_test_groove(project) as groove:
            agent = await groove.spawn(AgentSpec(role="r", argv=["sh", "-c", code], scope=[]))
            await groove.wait(agent.id)
            *listing, session, pid = await lines_of(groove, agent.id)
    shown = [line for line in listing if "->" in line]
    assert len(shown) == 4  # the three pipes and the directory that ls reads
    assert not [line for line in shown if "README" in line or "socket:" in line]
    assert session == f"{pid} 0"


# Where an agent stands


async def test_the_directory_is_the_one_that_was_asked_for(project: Path) -> None:
    (project / "link").symlink_to("src")
    async with open_test_groove(project) as groove:
        for cwd in ("src", "link", "src/../src", "./src/"):
            agent = await groove.spawn(teller(cwd=cwd))
            _, _, stands = await told(groove, agent.id)
            assert stands == str(project / "src")
            assert groove.agent(agent.id).cwd == "src"


@pytest.mark.parametrize("cwd", ["out", "out/deeper", "src/../..", "/", "/etc", "loop", "up"])
async def test_a_directory_outside_is_refused(project: Path, tmp_path: Path, cwd: str) -> None:
    (tmp_path / "elsewhere/deeper").mkdir(parents=True)
    (project / "out").symlink_to(tmp_path / "elsewhere")
    (project / "loop").symlink_to("loop")
    (project / "up").symlink_to("..")
    async with open_test_groove(project) as groove:
        with pytest.raises(errors.BadRequest):
            await groove.spawn(teller(cwd=cwd))
        assert groove.agents() == []
        assert groove.locks().holdings == []


@pytest.mark.parametrize("swapped", ["for a link", "for nothing", "above"])
async def test_a_directory_that_is_swapped_before_exec_is_refused(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swapped: str, living: Living
) -> None:
    (tmp_path / "elsewhere/here").mkdir(parents=True)
    (project / "src/here").mkdir()
    check = Launcher.check_cwd
    checks: list[str] = []

    def swap(self: Launcher, cwd: str) -> str:
        resolved = check(self, cwd)
        checks.append(resolved)
        if len(checks) == 2:  # the last look, right before the program starts
            if swapped == "above":
                (project / "src").rename(project / "was")
                (project / "src").symlink_to(tmp_path / "elsewhere")
            else:
                (project / "src/here").rename(project / "was")
                if swapped == "for a link":
                    (project / "src/here").symlink_to(tmp_path / "elsewhere")
        return resolved

    monkeypatch.setattr(Launcher, "check_cwd", swap)
    async with open_test_groove(project) as groove:
        with pytest.raises((errors.OutsideProject, errors.SpawnFailed)):
            await groove.spawn(teller(cwd="src/here"))
        assert len(checks) == 2
        assert living() == []
        assert groove.locks().holdings == []


async def test_a_directory_that_is_swapped_before_a_restart_is_refused(
    project: Path, tmp_path: Path
) -> None:
    (project / "src/here").mkdir()
    async with open_test_groove(project) as groove:
        agent = await groove.spawn(teller(cwd="src/here"))
        await told(groove, agent.id)
        (project / "src/here").rmdir()
        (project / "src/here").symlink_to(tmp_path)
        with pytest.raises(errors.OutsideProject):
            await groove.restart(agent.id)
        assert groove.agent(agent.id).state == "failed"
        assert groove.locks().holdings == []


# What is left on disk


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o277])
def under_umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


async def test_what_the_daemon_makes_is_its_owners_alone(project: Path, under_umask: int) -> None:
    async with open_test_groove(project) as groove:
        agent = await groove.spawn(scripted(WAITS, scope=["src/**"], interactive=True))
        await wait_for_line(groove, agent.id, "ready")
        await groove.declare(agent.id, ["notes.md"])
        await groove.knock(agent.id, "write", "elsewhere")
        modes = modes_of(project / ".groove")
    modes |= modes_of(project / ".groove")
    found = {path.name for path in modes}
    assert found >= {
        ".groove", ".gitignore", "daemon.json", "daemon.lock", "leases.json", "audit", "agents",
        agent.id, "spec.json", "status.json", "output.jsonl", "tmp",
    }  # fmt: skip
    for path, mode in modes.items():
        wanted = 0o700 if stat.S_ISDIR(mode) else 0o600
        assert stat.S_IMODE(mode) == wanted, f"{path} has {stat.S_IMODE(mode):o}"


def modes_of(top: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mode for path in (top, *top.rglob("*"))}


async def test_git_sees_nothing_of_it(project: Path) -> None:
    async with open_test_groove(project):
        assert (project / ".groove/.gitignore").read_text().strip() == "*"


# What stays behind


async def test_what_an_agent_left_goes_when_it_is_removed(project: Path) -> None:
    async with open_test_groove(project) as groove:
        agent = await groove.spawn(teller())
        await groove.wait(agent.id)
        await groove.stop(agent.id)
        await groove.remove(agent.id)
        assert list((project / ".groove/agents").iterdir()) == []
        page = await groove.audit(agent=agent.id)
        actions = [json.loads(bytes(record))["action"] for record in page.records]
        assert actions[0] == "agent.spawn"
        assert actions[-1] == "agent.remove"
