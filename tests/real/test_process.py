"""Process trees of real processes: every test ends with a look that nothing of its own lives."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from groove_trio.shell.census import Census
from groove_trio.shell.ending import end_leftovers
from groove_trio.shell.opening import open_tree
from groove_trio.shell.process import Tree, signal_name
from groove_trio.shell.procfs import Process, read_children, read_process, send
from groove_trio.shell.spawning import raise_descriptor_limit
from groove_trio.shell.subreaper import subreaper
from groove_trio.words.base import AgentId
from groove_trio.words.errors import OutOfResources, SpawnFailed

Marked = Callable[[], list[Process]]
AGENT = AgentId("0badcafe")
PROJECT = "/nowhere/in/particular"
PYTHON = [sys.executable, "-I", "-S", "-c"]
IGNORE_TERM = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def zombies() -> list[Process]:
    children = [read_process(pid) for pid in read_children(os.getpid())]
    return [child for child in children if child is not None and child.dead]


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    """Leaves neither a zombie nor a descriptor behind."""
    before, dead_before = descriptors(), set(zombies())
    yield
    assert set(zombies()) == dead_before
    assert descriptors() == before


@asynccontextmanager
async def opened(*argv: str, census: Census | None = None) -> AsyncIterator[Tree]:
    """A tree under a subreaper, told apart by the usual variables."""
    census = Census(project=PROJECT) if census is None else census
    dead_before = set(zombies())
    env = {
        "PATH": os.environ["PATH"],
        "GROOVE_AGENT": AGENT,
        "GROOVE_PROJECT": PROJECT,
    }
    with subreaper():
        async with await open_tree(argv=argv, cwd="/", env=env, agent=AGENT, census=census) as tree:
            yield tree
        # What was adopted and ended meanwhile is reaped by looks.
        with trio.fail_after(5):
            while set(zombies()) != dead_before:
                await census.refresh()


async def lines(tree: Tree, count: int) -> list[str]:
    told = b""
    while told.count(b"\n") < count:
        data = await tree.receive("out")
        assert data, told
        told += data
    return told.decode().splitlines()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not condition():
            await trio.sleep(0.005)


# Running


async def test_output_input_and_exit_code_go_through() -> None:
    async with opened("sh", "-c", "read line; echo got $line; echo bad >&2; exit 3") as tree:
        await tree.write(b"hello\n")
        assert await lines(tree, 1) == ["got hello"]
        assert await tree.receive("err") == b"bad\n"
        ended = await tree.wait()
        assert (ended.code, ended.signal, ended.ok) == (3, None, False)
        assert ended.ended_s >= ended.started_s
        assert await tree.receive("out") == b""
        assert await tree.survivors() == []


async def test_a_signal_that_ended_it_is_named() -> None:
    async with opened("sh", "-c", "kill -USR1 $$") as tree:
        ended = await tree.wait()
        assert (ended.code, ended.signal) == (None, "SIGUSR1")


async def test_the_root_leads_a_session_of_its_own_and_inherits_three_descriptors() -> None:
    code = "import os; print(os.getsid(0) == os.getpid(), sorted(os.listdir('/proc/self/fd')))"
    inheritable, other = os.pipe()
    os.set_inheritable(inheritable, True)
    try:
        async with opened(*PYTHON, code) as tree:
            told = await lines(tree, 1)
    finally:
        os.close(inheritable)
        os.close(other)
    assert told == ["True ['0', '1', '2', '3']"]  # the fourth is the listing itself


async def test_arguments_reach_the_program_as_they_are() -> None:
    argv = ["", "$(id)", "a b", "*", "; true", "-x", "é\udcff"]
    code = "import sys; sys.stdout.buffer.write(ascii(sys.argv[1:]).encode() + b'\\n')"
    async with opened(*PYTHON, code, *argv) as tree:
        assert await lines(tree, 1) == [ascii(argv)]


async def test_a_megabyte_goes_in_and_out() -> None:
    sent = os.urandom(1 << 20)
    got = bytearray()
    async with opened("cat") as tree, trio.open_nursery() as nursery:

        async def feed() -> None:
            await tree.write(sent)
            await tree.close_stdin()
            await tree.close_stdin()

        nursery.start_soon(feed)
        while data := await tree.receive("out"):
            assert len(data) <= 65536
            got += data
    assert bytes(got) == sent


async def test_writing_to_who_does_not_read_says_so(marker: str) -> None:
    async with opened("sh", "-c", f"exec <&-; echo closed; exec sleep {marker}") as tree:
        await lines(tree, 1)
        with pytest.raises(trio.BrokenResourceError):
            await tree.write(b"hello")
        await tree.close_stdin()
        with pytest.raises(trio.ClosedResourceError):
            await tree.write(b"hello")


async def test_closing_ends_receiving_and_writing(marker: str) -> None:
    async with trio.open_nursery() as nursery:
        async with opened("sleep", marker) as tree:

            async def receive() -> None:
                assert await tree.receive("out") == b""

            async def write() -> None:
                with pytest.raises((trio.ClosedResourceError, trio.BrokenResourceError)):
                    await tree.write(bytes(1 << 20))

            nursery.start_soon(receive)
            nursery.start_soon(write)
            await trio.testing.wait_all_tasks_blocked()
        await tree.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await tree.receive("err")


async def test_the_pipe_outlives_the_root_in_a_grandchild() -> None:
    async with opened("sh", "-c", "(sleep 0.2; echo late) & echo early; exit 5") as tree:
        assert (await tree.wait()).code == 5
        assert len(await tree.survivors()) >= 1
        assert await lines(tree, 2) == ["early", "late"]
        assert await tree.receive("out") == b""


async def test_any_number_may_wait() -> None:
    async with opened("sh", "-c", "read line; exit 4") as tree, trio.open_nursery() as nursery:

        async def wait() -> None:
            assert (await tree.wait()).code == 4

        for _ in range(5):
            nursery.start_soon(wait)
        with trio.move_on_after(0.01):
            await tree.wait()
        await tree.close_stdin()


async def test_the_directory_can_be_a_descriptor(tmp_path: Path) -> None:
    place = os.open(tmp_path, os.O_PATH)
    try:
        tmp_path.rename(tmp_path.with_name("moved"))
        env = {"PATH": os.environ["PATH"]}
        census = Census()
        async with await open_tree(
            argv=["pwd", "-P"], cwd=place, env=env, agent=AGENT, census=census
        ) as tree:
            assert await lines(tree, 1) == [str(tmp_path.with_name("moved"))]
    finally:
        os.close(place)


async def test_the_descriptor_limit_is_the_one_asked_for(marker: str) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        assert raise_descriptor_limit() == before[0]
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
        async with await open_tree(
            argv=["sleep", marker],
            cwd="/",
            env={"PATH": os.environ["PATH"]},
            agent=AGENT,
            census=Census(),
            descriptor_limit=300,
        ) as tree:
            assert resource.prlimit(tree.pid, resource.RLIMIT_NOFILE) == (300, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_signals_without_a_name_have_a_number() -> None:
    assert signal_name(9) == "SIGKILL"
    assert signal_name(40) == "SIG40"


# Ending


async def test_stop_asks_first_and_waits_for_the_farewell(marker: str) -> None:
    script = f"trap 'echo bye; exit 6' TERM; echo up; sleep {marker} & wait"
    async with opened("sh", "-c", script) as tree:
        await lines(tree, 1)
        assert await tree.stop(grace_s=5) == []
        assert await tree.receive("out") == b"bye\n"
        assert (await tree.wait()).code == 6
        assert await tree.stop(grace_s=5) == []


async def test_stop_wakes_the_suspended_to_be_asked(marker: str) -> None:
    async with opened("sleep", marker) as tree:
        os.kill(tree.pid, signal.SIGSTOP)
        await until(lambda: (now := read_process(tree.pid)) is not None and now.state == "T")
        with trio.fail_after(2):
            await tree.stop(grace_s=5)
        assert (await tree.wait()).signal == "SIGTERM"


async def test_stop_kills_who_ignores_it_with_a_grandchild_in_another_session(
    marker: str, marked: Marked
) -> None:
    code = IGNORE_TERM + textwrap.dedent("""
        import os, sys, time
        if os.fork() == 0:
            os.setsid()
            os.execvp("sleep", ["sleep", sys.argv[1]])
        print("up", flush=True)
        time.sleep(3600)
    """)
    async with opened(*PYTHON, code, marker) as tree:
        await lines(tree, 1)
        assert len(await tree.survivors()) == 2
        assert await tree.stop(grace_s=0.05) == []
        assert (await tree.wait()).signal == "SIGKILL"
        assert marked() == []


async def test_sigterm_goes_to_each_process_once(marker: str) -> None:
    code = textwrap.dedent("""
        import os, signal, sys, time
        told = 0
        def count(*_):
            global told
            told += 1
        signal.signal(signal.SIGTERM, count)
        print("up", flush=True)
        while not told: time.sleep(0.01)
        time.sleep(0.4)
        print(told, flush=True)
    """)
    async with opened(*PYTHON, code, marker) as tree, trio.open_nursery() as nursery:
        await lines(tree, 1)
        nursery.start_soon(tree.stop, 5)
        nursery.start_soon(tree.stop, 5)
        assert await lines(tree, 1) == ["1"]


async def test_a_second_stop_with_less_grace_does_not_wait_for_the_first(marker: str) -> None:
    script = f"trap '' TERM; echo up; sleep {marker}"
    async with opened("sh", "-c", script) as tree:
        await lines(tree, 1)
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(tree.stop, 300)
                await trio.testing.wait_all_tasks_blocked(0.01)
                await tree.stop(0)


async def test_cancelling_a_stop_cuts_the_grace_and_not_the_killing(
    marker: str, marked: Marked
) -> None:
    script = f"trap '' TERM; echo up; sleep {marker} & sleep {marker}"
    async with opened("sh", "-c", script) as tree:
        await lines(tree, 1)
        with trio.move_on_after(0.05) as scope:
            await tree.stop(grace_s=300)
        assert scope.cancelled_caught
        assert marked() == []


async def test_closing_in_a_cancelled_task_kills_all_the_same(marker: str, marked: Marked) -> None:
    with trio.CancelScope() as scope:
        async with opened("sh", "-c", f"(sleep {marker} &); exec sleep {marker}"):
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert marked() == []


async def test_a_double_fork_is_found(marker: str, marked: Marked) -> None:
    script = f"(setsid sleep {marker} & sleep {marker} &); echo up"
    async with opened("sh", "-c", script) as tree:
        await lines(tree, 1)
        assert (await tree.wait()).code == 0
        await until(lambda: len(marked()) == 2)
        assert len(await tree.survivors()) == 2
        assert await tree.stop(grace_s=5) == []
        assert marked() == []


async def test_who_was_seen_once_is_found_in_another_session_with_an_empty_environment(
    marker: str,
    marked: Marked,
) -> None:
    code = textwrap.dedent("""
        import os, sys, time
        root = os.getpid()
        if os.fork() == 0:
            os.setsid()
            while os.getppid() == root:
                time.sleep(0.005)
            os.execve(sys.argv[2], ["sleep", sys.argv[1]], {})
        print("up", flush=True)
        sys.stdin.readline()
    """)
    sleep = next(
        path for place in os.environ["PATH"].split(":") if (path := Path(place, "sleep")).exists()
    )
    async with opened(*PYTHON, code, marker, str(sleep)) as tree:
        await lines(tree, 1)
        assert len(await tree.survivors()) == 2
        await tree.write(b"\n")
        await tree.wait()
        await until(lambda: [one.parent for one in marked()] == [os.getpid()])
        await until(lambda: Path(f"/proc/{marked()[0].pid}/environ").read_bytes() == b"")
        assert await tree.survivors() == [one.pid for one in marked()]
        assert await tree.stop(grace_s=5) == []


async def test_a_process_whose_first_thread_ended_still_lives(marker: str) -> None:
    code = textwrap.dedent("""
        import ctypes, os, threading, time
        threading.Thread(target=time.sleep, args=(3600,)).start()
        print("up", flush=True)
        exit_thread = {"x86_64": 60, "aarch64": 93}[os.uname().machine]
        ctypes.CDLL(None).syscall(exit_thread, 0)
    """)
    if os.uname().machine not in ("x86_64", "aarch64"):
        pytest.skip("the number of exit(2) is known for x86_64 and aarch64 only")
    async with opened(*PYTHON, code, marker) as tree:
        await lines(tree, 1)
        await until(lambda: (now := read_process(tree.pid)) is not None and now.state == "Z")
        assert await tree.survivors() == [tree.pid]
        with trio.move_on_after(0.05) as scope:
            await tree.wait()
        assert scope.cancelled_caught
        assert await tree.stop(grace_s=0) == []


async def test_a_pid_that_means_another_by_now_is_not_signalled(marker: str) -> None:
    with subprocess.Popen(["sleep", marker], start_new_session=True) as stranger:
        try:
            now = read_process(stranger.pid)
            assert now is not None
            stale = now._replace(start=now.start - 1)
            assert not send(stale, signal.SIGKILL)
            assert not send(stale, signal.SIGKILL, to_group=True)
            assert not send(now._replace(pid=2**22 + 1), signal.SIGKILL)
            assert stranger.poll() is None
        finally:
            assert send(now, signal.SIGKILL)
        assert stranger.wait() == -signal.SIGKILL


async def test_leftovers_of_an_earlier_run_are_found_by_their_environment(
    marker: str, marked: Marked
) -> None:
    script = f"(setsid sleep {marker} &) ; sleep {marker} & exec sleep {marker}"
    env = {"PATH": os.environ["PATH"], "GROOVE_AGENT": AGENT, "GROOVE_PROJECT": PROJECT}

    def start(**changed: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["sh", "-c", script], env=env | changed, start_new_session=True)

    with subreaper(), start() as ours, start(GROOVE_PROJECT="/elsewhere") as theirs:
        try:
            await until(lambda: len(marked()) == 6)
            census = Census(project=PROJECT)
            found = await census.find([AGENT, AgentId("00000000")])
            assert len(found[AGENT]) == 3
            assert found[AgentId("00000000")] == []
            assert await end_leftovers(AGENT, census, grace_s=5) == []
            assert len(marked()) == 3
        finally:
            for process in marked():
                send(process, signal.SIGKILL)
        theirs.wait()
        ours.wait()
        await until(lambda: marked() == [])
        for zombie in zombies():
            os.waitpid(zombie.pid, 0)


# What can be wrong


async def failing(*argv: str, cwd: int | str = "/", **env: str) -> SpawnFailed | OutOfResources:
    """The error of a start that must fail; nothing may be left of it."""
    before, dead_before = descriptors(), set(zombies())
    census = Census()
    with pytest.raises((SpawnFailed, OutOfResources)) as caught:
        await open_tree(
            argv=argv,
            cwd=cwd,
            env={"PATH": os.environ["PATH"], **env},
            agent=AGENT,
            census=census,
        )
    assert descriptors() == before
    assert set(zombies()) == dead_before
    assert census.roots(AGENT) == []
    error = caught.value
    assert isinstance(error, SpawnFailed | OutOfResources)
    return error


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["no-such-program-anywhere"], "ENOENT"),
        (["/no/such/program"], "ENOENT"),
        ([], "ENOENT"),
        ([""], "ENOENT"),
        (["/dev/null"], "EACCES"),
        (["/"], "EACCES"),
        (["/dev/null/x"], "ENOTDIR"),
        (["x" * 300], "ENAMETOOLONG"),
        (["true", "x" * 140_000], "E2BIG"),
        (["true", *["x" * 100_000] * 200], "E2BIG"),
        (["true", "a\0b"], "EINVAL"),
        (["true", "\ud800"], "EINVAL"),
    ],
)
async def test_a_program_that_cannot_be_started_is_told_with_its_reason(
    argv: list[str], name: str
) -> None:
    error = await failing(*argv)
    assert isinstance(error, SpawnFailed)
    assert error.fields["errno"] == name
    assert error.fields["what"] == "program"


async def test_an_environment_that_cannot_be_handed_over_is_told() -> None:
    assert (await failing("true", **{"A=B": "c"})).fields["errno"] == "EINVAL"
    assert (await failing("true", A="x" * 140_000)).fields["errno"] == "E2BIG"


async def test_a_file_that_is_no_program_is_told(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x01\x02\x03")
    program.chmod(0o644)
    assert (await failing(str(program))).fields["errno"] == "EACCES"
    program.chmod(0o755)
    error = await failing(str(program))
    assert error.fields["errno"] == "ENOEXEC"
    assert "not a program" in error.detail
    program.write_bytes(b"#!/no/such/interpreter\n")
    error = await failing(str(program))
    assert error.fields["errno"] == "ENOENT"
    assert "interpreter" in error.detail
    with program.open("rb+"):
        program.write_bytes(b"#!/bin/sh\n")


async def test_a_directory_that_cannot_be_entered_is_told(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    error = await failing("true", cwd=str(gone))
    assert (error.fields["errno"], error.fields["what"]) == ("ENOENT", "cwd")
    gone.mkdir()
    place = os.open(gone, os.O_PATH)
    try:
        gone.rmdir()
        error = await failing("true", cwd=place)
        assert (error.fields["errno"], error.fields["what"]) == ("ENOENT", "cwd")
    finally:
        os.close(place)
    gone.touch()
    error = await failing("true", cwd=str(gone))
    assert (error.fields["errno"], error.fields["what"]) == ("ENOTDIR", "cwd")


@pytest.mark.parametrize("left", [0, 1, 3, 5, 7, 20])
@pytest.mark.usefixtures("marker")
async def test_running_out_of_descriptors_is_told(left: int) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The kernel gives the lowest free number: with the gaps filled, `left` are left.
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    taken = [os.dup(2)]
    while taken[-1] < highest:
        taken.append(os.dup(2))
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[-1] + 1 + left, before[1]))
    try:
        with pytest.raises(OutOfResources) as caught:
            await open_tree(argv=["true"], cwd="/", env={}, agent=AGENT, census=Census())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for number in taken:
            os.close(number)
    assert caught.value.fields["errno"] == "EMFILE"


async def test_many_failures_leak_nothing() -> None:
    before = descriptors()
    for _ in range(100):
        await failing("/no/such/program")
        await failing("true", cwd="/no/such/directory")
    assert descriptors() == before


# Storms and strangers: each in a program of its own, which adopts what they leave

PROGRAM = """
import json, os, signal, subprocess, sys, time, trio
from groove_trio.shell.census import Census
from groove_trio.shell.procfs import read_children, read_process
from groove_trio.shell.opening import open_tree
from groove_trio.shell.subreaper import subreaper

marker, kill, case, code = sys.argv[1], sys.argv[2] == "kill", *sys.argv[3:]
python = [os.path.realpath(sys.executable), "-I", "-S", "-c"]

def children(dead):
    seen = [read_process(pid) for pid in read_children(os.getpid())]
    return [one.pid for one in seen if one is not None and one.dead is dead]

async def open_agent(census, *argv):
    env = {"PATH": os.environ["PATH"], "GROOVE_AGENT": "0badcafe", "GROOVE_PROJECT": "/p"}
    return await open_tree(argv=[*python, code, marker, *argv], cwd="/", env=env,
                           agent="0badcafe", census=census)

async def storm(census):
    "Stops an agent that forks without end; says what it took and what was left."
    async with await open_agent(census) as tree:
        await tree.receive("out")
        await trio.sleep(0.1)
        began = time.monotonic()
        survivors = await tree.stop(0.02)
        took_s = time.monotonic() - began
        await tree.wait()
    return {"survivors": survivors, "took_s": took_s}

async def strangers(census):
    "Lets an agent and an own child leave somebody behind who cannot be told from the other."
    own = subprocess.Popen(["sleep", marker])
    tree = await open_agent(census)
    left = subprocess.Popen([*python, code, marker])
    left.wait()
    await tree.wait()
    await tree.aclose()
    with trio.move_on_after(5 if kill else 0.3):
        while children(dead=False) != [own.pid]:
            await trio.sleep(0.01)
    told = {"own": own.poll() is None, "others": len(children(dead=False)) - 1}
    own.kill()
    own.wait()
    return told

async def main():
    census = Census(project="/p", kill_strangers=kill, sweep_s=0.02)
    with subreaper():
        async with trio.open_nursery() as nursery:
            await nursery.start(census.run)
            told = await globals()[case](census)
            with trio.move_on_after(2):
                while children(dead=True):
                    await trio.sleep(0.01)
            told["zombies"] = len(children(dead=True))
            nursery.cancel_scope.cancel()
    for pid in children(dead=False):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    print(json.dumps(told))

trio.run(main)
"""

CHAIN = (
    IGNORE_TERM
    + """
import os, sys, time
print("up", flush=True)
for _ in range(3000):
    if os.fork():
        os._exit(0)
    time.sleep(0.002)
"""
)

CHAIN_OF_SESSIONS = CHAIN.replace("    time", "    os.setsid()\n    time")

STORM = (
    IGNORE_TERM
    + """
import os, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("up", flush=True)
for depth in range(6):
    if os.fork() == 0 and depth % 2:
        os.setsid()
    time.sleep(0.01)
for _ in range(100):
    if os.fork() == 0:
        time.sleep(0.02)
        os._exit(0)
    time.sleep(0.05)
"""
)

HIDE = """
import os, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve("/proc/self/exe", ["python", "-I", "-S", "-c",
            "import time; time.sleep(3600)", sys.argv[1]], {})
    os._exit(0)
os.wait()
"""


def run_program(marker: str, policy: str, case: str, code: str) -> dict[str, Any]:
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, marker, policy, case, code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([root, *sys.path])},
        capture_output=True,
        check=True,
        timeout=30,
    )
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize(
    ("policy", "code"),
    [
        ("leave", CHAIN),
        ("kill", CHAIN),
        ("kill", CHAIN_OF_SESSIONS),
        ("leave", STORM),
        ("kill", STORM),
    ],
)
def test_who_forks_without_end_is_caught(
    marker: str, marked: Marked, policy: str, code: str
) -> None:
    told = run_program(marker, policy, "storm", code)
    assert marked() == []
    assert told["survivors"] == []
    assert told["zombies"] == 0
    assert told["took_s"] < 4  # the chain would end by itself after six seconds


def test_the_daemon_ends_strangers_and_leaves_its_own_children(marker: str) -> None:
    told = run_program(marker, "kill", "strangers", HIDE)
    assert told == {"own": True, "others": 0, "zombies": 0}


def test_an_embedding_program_keeps_what_it_started(marker: str) -> None:
    told = run_program(marker, "leave", "strangers", HIDE)
    assert told["own"]
    assert told["others"] >= 1
