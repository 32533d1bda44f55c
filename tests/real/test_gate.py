"""The gate among real processes that are killed, wait, hide, are full, or ask too much."""

from __future__ import annotations

import json
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from groove_trio import AgentSpec, Config, Groove, open_groove
from groove_trio.shell.audit import AuditLog
from groove_trio.shell.broker import Broker
from groove_trio.shell.kernel import architecture, landlock_version
from groove_trio.shell.mounts import Mounts
from groove_trio.shell.procfs import Process
from groove_trio.testing import lines_of, wait_for_line
from groove_trio.words.errors import AuditUnavailable
from groove_trio.words.events import CallRefused, KnockDecided
from groove_trio.words.knocks import Denied

ACTIONS = Path("/proc/sys/kernel/seccomp/actions_avail")
SHORT_AGENTS = int(os.environ.get("GATE_SHORT_AGENTS", "40"))

pytestmark = [
    pytest.mark.skipif(
        not ACTIONS.exists() or "user_notif" not in ACTIONS.read_text(),
        reason="NO USER NOTIFICATION: not tested",
    ),
    pytest.mark.skipif(landlock_version() == 0, reason="NO LANDLOCK: not tested"),
    pytest.mark.skipif(architecture() is None, reason="NO FILTER for this machine: not tested"),
]

PRELUDE = """
    import errno, fcntl, os, resource, signal, sys, time

    def attempt(call, *arguments):
        try:
            call(*arguments)
        except OSError as fault:
            return errno.errorcode[fault.errno]
        return "done"

    def write(name, text="new"):
        with open(name, "w") as file:
            file.write(text)

    def told(*words):
        print(*words, flush=True)

    def until(condition):
        while not condition():
            time.sleep(0.005)
"""


@asynccontextmanager
async def opened(project: Path) -> AsyncIterator[Groove]:
    for name in ("src", "docs"):
        (project / name).mkdir(parents=True)
    async with open_groove(Config(project=project, port=0)) as groove:
        assert groove.status().containment[0] == "gate"
        yield groove


async def start(groove: Groove, code: str, scope: tuple[str, ...] = ("src/**",)) -> str:
    """Starts a Python program behind a gate; its id."""
    code = textwrap.dedent(PRELUDE) + textwrap.dedent(code)
    argv = [sys.executable, "-I", "-S", "-B", "-c", code]
    return (await groove.spawn(AgentSpec(role="r", argv=argv, scope=list(scope)))).id


async def ended(groove: Groove, agent: str) -> list[str]:
    """Its lines, when it has ended by itself."""
    view = await groove.wait(agent)
    lines = await lines_of(groove, agent)
    assert view.state == "completed", (view.reason, lines)
    return lines


async def until(true: Callable[[], Any]) -> Any:
    with trio.fail_after(20):
        while not (found := true()):
            await trio.sleep(0.01)
    return found


async def records(groove: Groove, action: str) -> list[dict[str, Any]]:
    page = await groove.audit(limit=1000)
    found = [json.loads(bytes(each)) for each in page.records]
    return [each for each in found if each["action"] == action]


async def test_who_waits_for_a_fifo_holds_nobody_up_and_may_be_killed(tmp_path: Path) -> None:
    async with opened(tmp_path / "p") as groove:
        os.mkfifo(groove.project / "src/fifo")
        agent = await start(
            groove,
            """
            child = os.fork()
            if not child:
                os.open("src/fifo", os.O_WRONLY)
            for number in range(50):
                write(f"src/{number}")
            told("meanwhile", os.waitpid(child, os.WNOHANG)[0])
            os.kill(child, signal.SIGKILL)
            told("killed", os.waitpid(child, 0)[1])
            told("afterwards", attempt(write, "src/after"))
            """,
        )
        lines = await ended(groove, agent)
        assert lines == ["meanwhile 0", f"killed {int(signal.SIGKILL)}", "afterwards done"]


async def test_who_waits_for_a_fifo_goes_on_when_its_reader_comes(tmp_path: Path) -> None:
    async with opened(tmp_path / "p") as groove:
        fifo = groove.project / "src/fifo"
        os.mkfifo(fifo)
        agent = await start(groove, "told('opens'); write('src/fifo', 'hello')")
        await wait_for_line(groove, agent, "opens")
        assert await trio.to_thread.run_sync(fifo.read_text) == "hello"
        await ended(groove, agent)


async def test_threads_that_are_killed_in_the_middle_leave_the_gate_as_it_was(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path / "p") as groove:
        agent = await start(
            groove,
            """
            for number in range(40):
                child = os.fork()
                if not child:
                    while True:
                        write("src/x"); attempt(write, "docs/x"); os.rename("src/x", "src/y")
                time.sleep(number / 4000)
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            told("alive", attempt(write, "src/x"), attempt(write, "docs/x"))
            """,
        )
        assert (await ended(groove, agent))[-1] == "alive done EACCES"


async def test_a_call_that_no_agent_may_make_is_refused_told_and_on_record(tmp_path: Path) -> None:
    async with opened(tmp_path / "p") as groove:
        with groove.events() as events:
            agent = await start(
                groove,
                """
                with open("src/x", "w") as file:
                    told(os.getpid(), attempt(fcntl.fcntl, file, fcntl.F_SETLEASE, fcntl.F_WRLCK))
                """,
            )
            (line,) = await ended(groove, agent)
            pid, result = line.split()
            assert result == "EPERM"
            async for published in events:
                if isinstance(event := published.event, CallRefused):
                    break
        assert (event.id, event.call, event.pid) == (agent, "fcntl", int(pid))
        (record,) = await records(groove, "gate.refuse")
        assert record["detail"]["call"] == "fcntl"
        assert record["detail"]["pid"] == int(pid)


async def test_a_denial_is_told_with_its_call_its_process_and_its_program(tmp_path: Path) -> None:
    async with opened(tmp_path / "p") as groove:
        with groove.events() as events:
            agent = await start(
                groove,
                """
                child = os.fork()
                if not child:
                    told(os.getpid(), attempt(os.mkdir, "docs/new"), attempt(write, ".groove/x"))
                    os._exit(0)
                os.waitpid(child, 0)
                """,
            )
            (line,) = await ended(groove, agent)
            pid, *results = line.split()
            assert results == ["EACCES", "EROFS"]
            found: list[KnockDecided] = []
            async for published in events:
                if isinstance(event := published.event, KnockDecided):
                    found.append(event)
                    if len(found) == 2:
                        break
        assert [(event.id, event.pid, event.source) for event in found] == [
            (agent, int(pid), "gate")
        ] * 2
        assert [event.decision.path for event in found] == ["docs/new", ".groove/x"]
        assert [event.call for event in found] == ["mkdir", "openat"]
        assert all(isinstance(event.decision, Denied) for event in found)
        assert all(event.tool.startswith("python") for event in found)
        logged = await records(groove, "knock.denied")
        assert [each["detail"]["pid"] for each in logged] == [int(pid)] * 2


async def test_on_a_file_system_that_may_take_long_all_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    run_sync = trio.to_thread.run_sync

    async def noted(function: Any, *arguments: Any, **of: Any) -> Any:
        threads.append(getattr(function, "__name__", ""))
        return await run_sync(function, *arguments, **of)

    monkeypatch.setattr(Mounts, "quick", lambda *_: False)
    monkeypatch.setattr(trio.to_thread, "run_sync", noted)
    async with opened(tmp_path / "p") as groove:
        agent = await start(
            groove,
            """
            os.mkdir("src/d", 0o750)
            write("src/d/x", "text")
            os.rename("src/d/x", "src/d/y")
            os.symlink("y", "src/d/l")
            os.chmod("src/d/y", 0o600)
            told(attempt(write, "docs/x"), attempt(os.mkdir, "src/d"), attempt(os.rmdir, "src/d"))
            told(attempt(write, "src/none/x"), open("src/d/l").read())
            told(oct(os.stat("src/d").st_mode))
            os.close(os.open("src/d/y", os.O_RDWR | os.O_TRUNC))
            """,
        )
        lines = await ended(groove, agent)
        assert lines == ["EACCES EEXIST ENOTEMPTY", "ENOENT text", "0o40750"]
        assert threads.count("_act_aside") == 7  # what was denied or failed before is not performed
        y = groove.project / "src/d/y"
        assert (y.read_text(), y.stat().st_mode & 0o777) == ("", 0o600)


async def test_who_has_no_descriptor_left_is_told_so(tmp_path: Path) -> None:
    async with opened(tmp_path / "p") as groove:
        agent = await start(
            groove,
            """
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            free = os.dup(1)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
            flags = os.O_WRONLY | os.O_CREAT
            told(attempt(os.open, "src/x", flags), attempt(os.open, "docs/x", flags))
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            told(attempt(write, "src/x"))
            """,
        )
        assert await ended(groove, agent) == ["EMFILE EACCES", "done"]


async def test_without_a_log_nothing_is_written_and_the_agent_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> int:
        raise AuditUnavailable("the disk is full")

    async with opened(tmp_path / "p") as groove:
        agent = await start(
            groove,
            """
            told("before", attempt(write, "src/a"))
            until(lambda: os.path.exists("src/broken"))
            told("broken", attempt(write, "src/b"), attempt(write, "docs/b"), attempt(os.setsid))
            until(lambda: os.path.exists("src/mended"))
            told("mended", attempt(write, "src/c"))
            """,
        )
        await wait_for_line(groove, agent, "before done")
        with monkeypatch.context() as patch:
            patch.setattr(AuditLog, "append", broken)
            (groove.project / "src/broken").touch()
            line = await wait_for_line(groove, agent, "broken")
            assert line.split()[1:3] == ["EACCES", "EACCES"]
            assert not (groove.project / "src/b").exists()
        (groove.project / "src/mended").touch()
        assert (await ended(groove, agent))[-1] == "mended done"


async def test_a_broker_that_takes_no_more_denies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brokers: list[Broker] = []
    run = Broker.run

    async def noted(self: Broker, **of: Any) -> None:
        brokers.append(self)
        await run(self, **of)

    monkeypatch.setattr(Broker, "run", noted)
    async with opened(tmp_path / "p") as groove:
        agent = await start(
            groove,
            """
            told("before", attempt(write, "src/a"))
            until(lambda: os.path.exists("src/closed"))
            results = attempt(write, "src/b"), attempt(os.mkdir, "src/c"), attempt(open, "src/a")
            told("closed", *results)
            time.sleep(3600)
            """,
        )
        await wait_for_line(groove, agent, "before done")
        brokers[0].close()
        (groove.project / "src/closed").touch()
        assert await wait_for_line(groove, agent, "closed") == "closed EACCES EACCES done"
        assert not (groove.project / "src/b").exists()


async def test_a_gate_ends_with_the_last_process_and_leaves_nothing_open(tmp_path: Path) -> None:
    async with opened(tmp_path / "p") as groove:

        def told() -> tuple[int, int]:
            tasks = trio.lowlevel.current_statistics().tasks_living
            return len(os.listdir("/proc/self/fd")), tasks

        async def one() -> None:
            spec = AgentSpec(
                role="r", argv=["sh", "-c", "echo > src/x; echo > docs/x"], scope=["src/**"]
            )
            view = await groove.spawn(spec)
            await groove.wait(view.id)
            await groove.remove(view.id)

        await one()
        before = await settled(told)
        for _ in range(SHORT_AGENTS):
            await one()
        with trio.fail_after(20):
            while told() > before:
                await trio.sleep(0.01)


async def settled(told: Callable[[], Any]) -> Any:
    """What is told once it stays the same for a while."""
    last = told()
    for _ in range(100):
        await trio.sleep(0.05)
        now = told()
        if now == last:
            return now
        last = now
    raise AssertionError("it never settles")


HIDES = """
    def hide(argv):
        if os.fork():
            return
        os.setsid()
        if os.fork():
            os._exit(0)
        os.setpgid(0, 0)
        os.chdir("/")
        for descriptor in range(3):
            os.close(descriptor)
            os.open("/dev/null", os.O_RDWR)
        os.execve("/bin/sleep", argv, {{}})

    hide(["sleep", "{marker}"])
    until(lambda: any(b"{marker}" in open(f"/proc/{{pid}}/cmdline", "rb").read()
        for pid in os.listdir("/proc") if pid.isdecimal() and int(pid) != os.getpid()))
    told("hidden")
    {then}
"""


@pytest.mark.parametrize("then", ["time.sleep(3600)", "sys.exit(0)"])
async def test_who_hides_in_a_session_of_its_own_is_killed_at_the_agents_end(
    then: str, tmp_path: Path, marker: str, marked: Callable[[], list[Process]]
) -> None:
    async with opened(tmp_path / "p") as groove:
        agent = await start(groove, HIDES.format(marker=marker, then=then))
        await wait_for_line(groove, agent, "hidden")
        if "sleep" in then:
            assert marked()
            await groove.stop(agent)
        else:
            await groove.wait(agent)
        await until(lambda: not [p for p in marked() if b"sleep" in _arguments(p.pid)[:6]])


def _arguments(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


ASKS = """
    last = None
    while True:
        results = [attempt(write, f"docs/{name}") for name in ("x", "y")]
        if results != last:
            told("now", *results)
            last = results
        time.sleep(0.02)
"""


async def now(groove: Groove, agent: str, count: int) -> str:
    """The answer after so many changes."""
    found: list[str] = []
    with trio.fail_after(20):
        while len(found) < count:
            await trio.sleep(0.01)
            found = await lines_of(groove, agent)
    return found[count - 1]


async def test_a_lease_opens_the_gate_for_its_paths_and_closes_with_it(tmp_path: Path) -> None:
    async with opened(tmp_path / "p") as groove:
        agent = await start(groove, ASKS)
        assert await now(groove, agent, 1) == "now EACCES EACCES"
        await groove.declare(agent, ["docs/x"])
        assert await now(groove, agent, 2) == "now done EACCES"
        await groove.declare(agent, ["docs/y"])
        assert await now(groove, agent, 3) == "now done done"
        await groove.complete(agent)
        # Between the two they may have been asked for one by one.
        with trio.fail_after(20):
            while (await lines_of(groove, agent))[-1] != "now EACCES EACCES":
                await trio.sleep(0.01)
        count = len(await lines_of(groove, agent))
        await groove.declare(agent, ["docs/"], ttl_s=1)
        with trio.fail_after(20):
            while (await lines_of(groove, agent))[count:][-1:] != ["now done done"]:
                await trio.sleep(0.01)
            while (await lines_of(groove, agent))[-1] != "now EACCES EACCES":
                await trio.sleep(0.05)
        await groove.stop(agent)


async def test_what_was_opened_under_a_lease_stays_open(tmp_path: Path) -> None:
    """As documented: a lease that ended takes no descriptor back."""
    async with opened(tmp_path / "p") as groove:
        (groove.project / "docs/x").touch()
        agent = await start(
            groove,
            """
            told("asks")
            until(lambda: attempt(os.truncate, "docs/x", 0) == "done")
            file = open("docs/x", "r+")
            told("open")
            until(lambda: attempt(os.truncate, "docs/x", 0) == "EACCES")
            file.write("late"); file.flush(); os.ftruncate(file.fileno(), 3)
            told(attempt(os.fchmod, file.fileno(), 0o777))
            """,
        )
        await wait_for_line(groove, agent, "asks")
        await groove.declare(agent, ["docs/x"])
        await wait_for_line(groove, agent, "open")
        await groove.complete(agent)
        assert (await ended(groove, agent))[-1] == "EACCES"
        assert (groove.project / "docs/x").read_text() == "lat"


@pytest.mark.parametrize("name", ["CLAUDE.md", ".envrc", ".mcp.json"])
async def test_what_packages_ship_is_not_carried_to_where_it_would_steer(
    name: str, tmp_path: Path
) -> None:
    async with opened(tmp_path / "p") as groove:
        agent = await start(
            groove,
            f"""
            os.makedirs("src/node_modules/package")
            told(attempt(write, "src/node_modules/package/{name}"))
            told(attempt(os.rename, "src/node_modules/package", "src/node_modules/.package-x1"))
            told(attempt(os.rename, "src/node_modules/.package-x1", "src/node_modules/package"))
            told(attempt(os.rename, "src/node_modules/package", "src/package"))
            told(attempt(os.rename, "src/node_modules", "src/modules"))
            """,
        )
        assert await ended(groove, agent) == ["done"] * 3 + ["EACCES"] * 2
        assert not (groove.project / "src/package").exists()
