"""Agents that are real processes, from spawn to the last byte; no virtual clock."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from groove_trio.config import Config
from groove_trio.groove import Groove, open_groove
from groove_trio.shell.procfs import read_children, read_process
from groove_trio.words.agents import AgentSpec, AgentView, Restart
from groove_trio.words.errors import GrooveError, OutOfResources, OutsideProject, SpawnFailed
from groove_trio.words.output import OutputLine

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

PYTHON = [sys.executable, "-I", "-S", "-c"]


@asynccontextmanager
async def groove_on(project: Path) -> AsyncIterator[Groove]:
    async with open_groove(Config(project=project, port=0)) as groove:
        yield groove


async def spawn(groove: Groove, argv: list[str], **fields: Any) -> AgentView:
    return await groove.spawn(AgentSpec(**{"role": "worker", "scope": [], "argv": argv, **fields}))


async def scripted(groove: Groove, *steps: dict[str, Any], **fields: Any) -> AgentView:
    fields = {"role": "demo", "provider": "demo", "scope": [], **fields}
    return await groove.spawn(AgentSpec(prompt=json.dumps(steps), **fields))


async def until(groove: Groove, key: str, *states: str) -> AgentView:
    with trio.fail_after(30):
        while (view := groove.agent(key)).state not in states:
            await trio.sleep(0.01)
    return view


async def lines_of(groove: Groove, key: str) -> list[OutputLine]:
    lines: list[OutputLine] = []
    more = True
    while more:
        page = await groove.output(key, lines[-1].seq if lines else 0, 1000)
        lines += page.lines
        more = page.more
    return lines


async def line_with(groove: Groove, key: str, start: str) -> str:
    with trio.fail_after(20):
        while True:
            for line in await lines_of(groove, key):
                if line.text.startswith(start):
                    return line.text
            await trio.sleep(0.01)


def lives(pid: int) -> bool:
    process = read_process(pid)
    return process is not None and not process.dead


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def zombies() -> list[int]:
    children = [read_process(pid) for pid in read_children(os.getpid())]
    return [child.pid for child in children if child is not None and child.dead]


# Lives


async def test_it_crashes_is_restarted_and_recovers(tmp_path: Path) -> None:
    async with groove_on(tmp_path) as groove:
        policy = Restart(mode="on-failure", first_s=0.02)
        await scripted(
            groove,
            {"do": "crash", "code": 7, "first": 2},
            {"do": "print", "text": "well"},
            restart=policy,
        )
        view = await until(groove, "demo-1", "completed")
        assert (view.restarts, view.exit_code, view.last_seq) == (2, 0, 3)
        texts = [line.text for line in await lines_of(groove, "demo-1")]
        assert texts == ["crashing on run 1", "crashing on run 2", "well"]


async def test_it_crashes_too_often_and_is_parked(tmp_path: Path) -> None:
    async with groove_on(tmp_path) as groove:
        policy = Restart(mode="always", first_s=0.01, cap_s=0.02, max_restarts=3)
        await scripted(groove, {"do": "crash", "code": 7}, restart=policy, scope=["src/**"])
        view = await until(groove, "demo-1", "parked")
        assert (view.restarts, view.exit_code) == (3, 7)
        assert view.reason is not None
        assert view.reason.startswith("ended with exit code 7; ended again after 3 restarts")


async def test_nothing_survives_a_stop(tmp_path: Path) -> None:
    async with groove_on(tmp_path) as groove:
        view = await scripted(
            groove,
            {"do": "ignore-sigterm"},
            {"do": "grandchild", "hold": True},
            {"do": "grandchild"},
            {"do": "print", "text": "ready"},
            {"do": "sleep", "seconds": 600},
            grace_s=0.3,
            scope=["src/**"],
        )
        await line_with(groove, view.id, "ready")
        left = [
            int(line.text.removeprefix("left behind: "))
            for line in await lines_of(groove, view.id)
            if line.text.startswith("left behind: ")
        ]
        assert len(left) == 2
        assert view.pid is not None
        assert all(map(lives, [view.pid, *left]))
        view = await groove.stop(view.id)
        assert (view.state, view.exit_signal) == ("stopped", "SIGKILL")
        assert not any(map(lives, left))
        assert groove.locks().holdings == []
    assert zombies() == []


async def test_a_finished_agent_leaves_nobody_behind(tmp_path: Path) -> None:
    async with groove_on(tmp_path) as groove:
        view = await scripted(
            groove,
            {"do": "grandchild", "hold": True},
            {"do": "print", "text": "last words"},
            {"do": "exit", "code": 3},
            grace_s=0.2,
        )
        view = await until(groove, view.id, "failed")
        texts = [line.text for line in await lines_of(groove, view.id)]
        assert texts[-1] == "last words"
        assert not lives(int(texts[0].removeprefix("left behind: ")))
        assert view.exit_code == 3


async def test_a_child_that_minds_sigterm_gets_to_say_farewell(tmp_path: Path) -> None:
    program = (
        "import signal, sys, time\n"
        "def bye(*_):\n"
        "    print('farewell', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, bye)\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)"
    )
    async with groove_on(tmp_path) as groove:
        await spawn(groove, [*PYTHON, program])
        await line_with(groove, "worker-1", "ready")
    async with groove_on(tmp_path) as groove:  # it was drained, its words were kept
        assert [line.text for line in await lines_of(groove, "worker-1")] == ["ready", "farewell"]
        assert groove.agent("worker-1").state == "stopped"


# What it is given


async def test_argv_is_never_a_shell_line(tmp_path: Path) -> None:
    words = ["$HOME", "*", "; touch pwned", "`id`", "a b", "", "ä\n"]
    async with groove_on(tmp_path) as groove:
        program = "import json, sys; print(json.dumps(sys.argv[1:]))"
        await spawn(groove, [*PYTHON, program, *words])
        await until(groove, "worker-1", "completed")
        [line] = await lines_of(groove, "worker-1")
        assert json.loads(line.text) == words
    assert not (tmp_path / "pwned").exists()


async def test_the_environment_and_the_directory_are_as_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    async with groove_on(tmp_path) as groove:
        program = "import json, os; print(json.dumps([os.getcwd(), dict(os.environ)]))"
        view = await spawn(groove, [*PYTHON, program], cwd="link", env={"MINE": "1"})
        await until(groove, "worker-1", "completed")
        [line] = await lines_of(groove, "worker-1")
        cwd, env = json.loads(line.text)
        assert cwd == str(tmp_path / "real")
        assert view.cwd == "real"
        assert "AWS_SECRET_ACCESS_KEY" not in env
        assert (env["MINE"], env["GROOVE_URL"]) == ("1", groove.url)
        assert Path(env["TMPDIR"]).stat().st_mode & 0o777 == 0o700


async def test_a_directory_swapped_for_a_link_outside_is_not_entered(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "work").mkdir(parents=True)
    async with groove_on(project) as groove:
        policy = Restart(mode="always", first_s=0.3, cap_s=0.3, jitter=0, max_restarts=1)
        await spawn(groove, [*PYTHON, "import os; print(os.getcwd())"], cwd="work", restart=policy)
        await until(groove, "worker-1", "backing-off")
        (project / "work").rmdir()
        (project / "work").symlink_to("/usr")
        view = await until(groove, "worker-1", "parked")
        assert view.reason is not None
        assert "outside the project" in view.reason
        with pytest.raises(OutsideProject):
            await groove.restart("worker-1")
        assert [line.text for line in await lines_of(groove, "worker-1")] == [str(project / "work")]


async def test_a_long_prompt_and_much_output_do_not_wait_for_each_other(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "sys.stdout.write('x' * 99 + '\\n'); sys.stdout.write(('y' * 99 + '\\n') * 20_000)\n"
        "sys.stdout.flush()\n"
        "print(len(sys.stdin.read()))"
    )
    async with groove_on(tmp_path) as groove:
        await spawn(groove, [*PYTHON, program], prompt="ä" * 50_000)
        await until(groove, "worker-1", "completed")
        lines = await lines_of(groove, "worker-1")
        assert len(lines) == 20_002
        assert int(lines[-1].text) == 50_001


async def test_follow_ups_are_read_as_they_come(tmp_path: Path) -> None:
    async with groove_on(tmp_path) as groove:
        await scripted(groove, {"do": "read"}, {"do": "read"}, interactive=True)
        for text in ("one", "two"):
            await groove.instruct("demo-1", text)
            await line_with(groove, "demo-1", f"read: {text}")
        assert (await until(groove, "demo-1", "completed")).exit_code == 0


# Output


async def test_output_without_a_newline_takes_bounded_memory_and_is_kept(tmp_path: Path) -> None:
    size = 64 << 20
    program = f"import os\nfor _ in range({size >> 16}): os.write(1, b'x' * 65536)"
    async with groove_on(tmp_path) as groove:
        before = memory()
        await spawn(groove, [*PYTHON, program])
        peak = 0
        with trio.fail_after(50):
            while groove.agent("worker-1").state == "running":
                peak = max(peak, memory() - before)
                await trio.sleep(0.01)
        assert groove.agent("worker-1").state == "completed"
        assert peak < 48 << 20  # of which the history of events may take 16
        total, after, more, partial = 0, 0, True, True
        while more:
            page = await groove.output("worker-1", after, 1000)
            total += sum(len(line.text) for line in page.lines)
            partial = page.lines[-1].partial
            after, more = page.next, page.more
        assert total == size
        assert not partial


async def test_no_line_of_many_is_lost(tmp_path: Path) -> None:
    count = 200_000
    async with groove_on(tmp_path) as groove:
        program = (
            "import sys\n"
            f"for n in range({count}):\n"
            "    (sys.stdout if n % 3 else sys.stderr).write(f'{n}\\n')"
        )
        await spawn(groove, [*PYTHON, program])
        await until(groove, "worker-1", "completed")
        path = tmp_path / ".groove/agents" / groove.agent("worker-1").id / "output.jsonl"
        seen: dict[str, list[int]] = {"out": [], "err": []}
        with path.open("rb") as file:
            for number, line in enumerate(map(json.loads, file), 1):
                assert line["seq"] == number
                seen[line["stream"]].append(int(line["text"]))
        assert seen["out"] == [n for n in range(count) if n % 3]
        assert seen["err"] == [n for n in range(count) if not n % 3]


async def test_bytes_that_are_no_text_are_replaced(tmp_path: Path) -> None:
    async with groove_on(tmp_path) as groove:
        program = r"import os; os.write(1, b'a\xff\xfeb\n\x00\xc3\n\xed\xa0\x80\nlast\xc3')"
        await spawn(groove, [*PYTHON, program])
        await until(groove, "worker-1", "completed")
        texts = [line.text for line in await lines_of(groove, "worker-1")]
        assert texts == ["a\ufffd\ufffdb", "\x00\ufffd", "\ufffd\ufffd\ufffd", "last\ufffd"]


# What can't be started


def bad_specs(project: Path) -> list[tuple[dict[str, Any], str]]:
    (project / "plain").write_text("not a program")
    (project / "plain").chmod(0o600)
    (project / "garbage").write_bytes(b"\x01\x02")
    (project / "garbage").chmod(0o700)
    (project / "orphan").write_text("#!/nowhere/sh\n")
    (project / "orphan").chmod(0o700)
    return [
        ({"argv": ["/nowhere/at/all"]}, "ENOENT"),
        ({"argv": ["no-such-program-anywhere"]}, "ENOENT"),
        ({"argv": ["./plain"]}, "EACCES"),
        ({"argv": ["./garbage"]}, "ENOEXEC"),
        ({"argv": ["./orphan"]}, "ENOENT"),
        ({"argv": [str(project)]}, "EACCES"),
        ({"argv": ["true", *["x" * 100_000] * 400]}, "E2BIG"),
        ({"argv": ["true"], "cwd": "gone"}, "ENOENT"),
        ({"argv": ["true"], "cwd": "plain"}, "ENOTDIR"),
    ]


async def test_what_cannot_be_started_leaks_nothing(tmp_path: Path) -> None:
    async with groove_on(tmp_path) as groove:
        await spawn(groove, ["true"])
        await until(groove, "worker-1", "completed")
        await groove.remove("worker-1")
        before = descriptors()
        for fields, name in bad_specs(tmp_path) * 3:
            with pytest.raises(SpawnFailed) as caught:
                await spawn(groove, **{"scope": ["src/**"], **fields})
            assert caught.value.fields["errno"] == name, fields["argv"][0][:40]
            assert groove.agents() == []
            assert groove.locks().holdings == []
        assert descriptors() == before
        assert zombies() == []
        assert os.listdir(tmp_path / ".groove/agents") == []
        await spawn(groove, ["true"], scope=["src/**"])


async def test_running_out_of_descriptors_is_told_and_recovered_from(tmp_path: Path) -> None:
    async with groove_on(tmp_path) as groove:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        before = descriptors()
        resource.setrlimit(resource.RLIMIT_NOFILE, (before + 60, hard))
        started = 0
        refusal: GrooveError | None = None
        try:
            for _ in range(60):
                try:
                    await spawn(groove, ["sleep", "600"])
                    started += 1
                except GrooveError as error:
                    refusal = error
                    break
            assert isinstance(refusal, OutOfResources)
            assert refusal.fields["errno"] == "EMFILE"
            assert 0 < started == len(groove.agents()) == len(groove.locks().holdings)
            await groove.stop("worker-1")
            assert groove.agent("worker-1").state == "stopped"
            await spawn(groove, ["true"])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        async with trio.open_nursery() as nursery:
            for view in groove.agents():
                nursery.start_soon(groove.stop, view.id)
        assert descriptors() <= before + 1


# Daemons that come and go

DOOMED = """
import sys, trio
from pathlib import Path
from groove_trio.config import Config
from groove_trio.groove import open_groove
from groove_trio.words.agents import AgentSpec

async def main():
    async with open_groove(Config(project=Path(sys.argv[1]), port=0)) as groove:
        spec = AgentSpec(
            role="worker", argv=["sleep", "600"], scope=["src/**"], containment="hooks"
        )
        view = await groove.spawn(spec)
        await groove.declare(view.id, ["shared.md"])
        print(view.pid, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


async def test_a_killed_daemon_leaves_an_interrupted_agent_and_no_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DOOMED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as doomed:
        assert doomed.stdout is not None
        pid = int(doomed.stdout.readline())
        doomed.send_signal(signal.SIGKILL)
    assert lives(pid)  # there was no guard
    try:
        async with groove_on(tmp_path) as groove:
            assert not lives(pid)
            view = groove.agent("worker-1")
            assert (view.state, view.pid) == ("interrupted", None)
            assert [holding.name for holding in groove.locks().holdings] == ["worker-1"]
            assert [lease.paths for lease in groove.locks().leases] == [["shared.md"]]
            view = await groove.resume("worker-1")
            assert view.state == "running"
            assert view.pid is not None
            assert lives(view.pid)
        assert not lives(view.pid)
    finally:
        if lives(pid):
            os.kill(pid, signal.SIGKILL)


async def test_spawning_is_fast_enough_to_be_tested(tmp_path: Path) -> None:
    async with groove_on(tmp_path) as groove:
        began = time.monotonic()
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(spawn, groove, ["sleep", "600"])
        pids = [view.pid for view in groove.agents() if view.pid is not None]
        assert len(pids) == 20
        assert time.monotonic() - began < 20
    assert not any(map(lives, pids))
    assert zombies() == []


async def test_cancelling_the_daemon_kills_what_runs(tmp_path: Path) -> None:
    pids: list[int] = []
    with trio.CancelScope() as scope:
        async with groove_on(tmp_path) as groove:
            view = await scripted(
                groove,
                {"do": "ignore-sigterm"},
                {"do": "grandchild"},
                {"do": "print", "text": "ready"},
                {"do": "sleep", "seconds": 600},
                grace_s=300,
            )
            await line_with(groove, view.id, "ready")
            left = await line_with(groove, view.id, "left behind: ")
            assert view.pid is not None
            pids = [view.pid, int(left.removeprefix("left behind: "))]
            scope.cancel()
    assert len(pids) == 2
    assert not any(map(lives, pids))
    assert zombies() == []
