"""The wall alone, around real processes: what Landlock holds without any gate."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from groove_trio.rules import bpf
from groove_trio.shell.census import Census
from groove_trio.shell.judge import HIDDEN_AT_HOME
from groove_trio.shell.kernel import architecture, landlock_version
from groove_trio.shell.sandbox import Confined, Confinement, open_confined
from groove_trio.shell.wall import build_wall
from groove_trio.words.base import AgentId

AGENT = AgentId("0badcafe")
PYTHON = [sys.executable, "-I", "-S", "-c"]

pytestmark = [
    pytest.mark.skipif(landlock_version() == 0, reason="NO LANDLOCK: not tested"),
    pytest.mark.skipif(architecture() is None, reason="NO FILTER for this machine: not tested"),
]
needs_scopes = pytest.mark.skipif(landlock_version() < 6, reason="NO SCOPES: not tested")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    for name in HIDDEN_AT_HOME:
        place = home / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if "." in Path(name).suffix or name.endswith(("rc", "credentials")):
            place.write_text("secret")
        else:
            place.mkdir()
            (place / "key").write_text("secret")
    (home / ".profile").write_text("open")
    (home / ".config/editor").write_text("open")
    (home / "link").symlink_to(".ssh/key")
    project = home / "project"
    for name in ("src", "docs", ".git/hooks", ".groove/agents/0badcafe/tmp"):
        (project / name).mkdir(parents=True)
    for name in ("README.md", "src/a.py", "docs/b.md", ".groove/seed", ".git/config"):
        (project / name).write_text("old")
    return home


@asynccontextmanager
async def behind(
    home: Path,
    *argv: str,
    patterns: tuple[str, ...] = (),
    level: Literal["gate", "wall"] = "wall",
    states: tuple[str, ...] = (),
) -> AsyncIterator[Confined]:
    """A program behind its wall, with a filter that refuses by itself."""
    project = home / "project"
    wall = build_wall(
        level=level,
        project=str(project),
        tmp=str(project / ".groove/agents/0badcafe/tmp"),
        patterns=patterns,
        hidden=[str(home / name) for name in HIDDEN_AT_HOME],
        version=landlock_version(),
        states=states,
    )
    machine = architecture()
    assert machine is not None
    opened = await open_confined(
        argv=argv,
        cwd=str(project),
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
        agent=AGENT,
        census=Census(project="/nowhere"),
        confinement=Confinement(
            wall.ruleset, bpf.program(machine, notify=False), canary=str(project / ".groove")
        ),
    )
    async with opened.tree:
        yield opened
    assert not list((project / ".groove").glob("canary*"))


async def run(home: Path, code: str, **of: Any) -> Any:
    """Runs Python behind the wall, which prints JSON, and gives what that says."""
    helper = """
        import json, os, sys
        def attempt(call, *arguments):
            try:
                call(*arguments)
            except OSError as fault:
                import errno
                return errno.errorcode[fault.errno]
            return "done"
        def write(name):
            with open(name, "w") as file:
                file.write("new")
        def read(name):
            with open(name) as file:
                file.read()
    """
    code = textwrap.dedent(helper) + textwrap.dedent(code)
    async with behind(home, *PYTHON, code, **of) as opened:
        data = b""
        while more := await opened.tree.receive("out"):
            data += more
        assert data, await opened.tree.receive("err")
        return json.loads(data)


async def test_hidden_paths_cannot_be_read_and_all_else_can(home: Path) -> None:
    files = [str(path) for name in HIDDEN_AT_HOME for path in (home / name, home / name / "key")]
    files = [*filter(os.path.isfile, files), str(home / "link")]
    assert len(files) == len(HIDDEN_AT_HOME) + 1
    open_ = [home / ".profile", home / ".config/editor", home / "project/src/a.py", "/etc/passwd"]
    open_ += ["/proc/self/status", "/usr/lib/os-release"]
    said = await run(
        home,
        f"""
        hidden, public = {files!r}, {[*map(str, open_)]!r}
        told = [[attempt(read, name) for name in names] for names in (hidden, public)]
        told += [attempt(os.listdir, name) for name in ("/", os.environ["HOME"])]
        print(json.dumps(told))
        """,
    )
    assert said == [["EACCES"] * len(files), ["done"] * len(open_), "done", "done"]


async def test_a_secret_reached_by_another_name_stays_hidden(home: Path) -> None:
    said = await run(
        home,
        """
        home = os.environ["HOME"]
        os.chdir(home + "/.ssh")
        root = os.open("/", os.O_PATH)
        print(json.dumps([
            attempt(read, "key"),
            attempt(read, "/proc/self/cwd/key"),
            attempt(read, "/proc/self/root" + home + "/.netrc"),
            attempt(os.open, home[1:] + "/.ssh/key", os.O_RDONLY, 0o777, ),
            attempt(lambda: os.open(home[1:] + "/.ssh/key", os.O_RDONLY, dir_fd=root)),
            attempt(os.link, home + "/.ssh/key", home + "/project/src/stolen"),
            attempt(os.rename, home + "/.ssh/key", home + "/project/src/stolen"),
        ]))
        """,
        patterns=("src/**",),
    )
    assert said[3] == "ENOENT"
    assert set(said[:3] + said[4:]) <= {"EACCES", "EXDEV"}
    assert (home / ".ssh/key").read_text() == "secret"


@pytest.mark.parametrize("level", ["gate", "wall"])
async def test_what_is_new_in_the_root_of_the_project_can_be_read(
    home: Path, level: Literal["gate", "wall"]
) -> None:
    """Why the root is granted whole: granted name by name, ``.groove`` could be left out of it."""
    project = home / "project"
    line = "echo ready; read line; cat README.md new deep/file"
    async with behind(home, "sh", "-c", line, level=level) as opened:
        assert await opened.tree.receive("out") == b"ready\n"
        (project / "README.new").write_text("saved as editors do ")
        (project / "README.new").replace(project / "README.md")
        (project / "new").write_text("made ")
        (project / "deep").mkdir()
        (project / "deep/file").write_text("beneath")
        await opened.tree.write(b"go\n")
        said = b""
        while more := await opened.tree.receive("out"):
            said += more
    assert said == b"saved as editors do made beneath"


async def test_writes_go_where_the_patterns_point_and_nowhere_else(home: Path) -> None:
    said = await run(
        home,
        """
        inside = ["src/a.py", "src/new", ".groove/agents/0badcafe/tmp/x", "/dev/null", "README.md"]
        outside = ["docs/b.md", "docs/new", "new", "../new", "/tmp/groove-new", ".git/config",
            ".git/hooks/pre-commit", ".groove/seed", ".groove/new", "/etc/passwd",
            "/proc/self/oom_score_adj", "/dev/shm/groove-new"]
        print(json.dumps([[attempt(write, n) for n in names] for names in (inside, outside)] + [[
            attempt(os.mkdir, "src/deep"), attempt(os.rename, "src/new", "src/deep/new"),
            attempt(os.symlink, "x", "src/link"), attempt(os.unlink, "src/deep/new"),
            attempt(os.mkfifo, "src/fifo"), attempt(os.truncate, "src/a.py", 1),
        ], [
            attempt(os.mkdir, "deep"), attempt(os.rename, "src/a.py", "docs/a.py"),
            attempt(os.rename, "docs/b.md", "src/b.md"), attempt(os.link, "docs/b.md", "src/b.md"),
            attempt(os.symlink, "x", "link"), attempt(os.unlink, "docs/b.md"),
            attempt(os.rmdir, "docs"), attempt(os.truncate, "docs/b.md", 0),
            attempt(os.unlink, "README.md"), attempt(os.rename, "src/a.py", "README.md"),
        ]]))
        """,
        patterns=("src/**", "README.md"),
    )
    inside, outside, made, unmade = said
    assert inside == ["done"] * len(inside)
    assert set(outside) == {"EACCES"}
    assert made == ["done"] * len(made)
    assert set(unmade) <= {"EACCES", "EXDEV"}
    assert (home / "project/docs/b.md").read_text() == "old"
    assert (home / "project/README.md").read_text() == "new"


async def test_a_pattern_for_everything_still_shields_the_daemons_own(home: Path) -> None:
    said = await run(
        home,
        """
        names = ["docs/b.md", "docs/new", ".groove/seed", ".groove/new", ".git/config",
            ".git/hooks/pre-commit", "CLAUDE.md", "new", "/etc/new"]
        print(json.dumps([attempt(write, name) for name in names]))
        """,
        patterns=("**",),
    )
    assert said == ["done", "done", *["EACCES"] * 7]


async def test_at_level_gate_the_process_itself_writes_nowhere_but_at_its_own(home: Path) -> None:
    state = home / "state"
    state.mkdir()
    said = await run(
        home,
        f"""
        names = ["src/a.py", "docs/new", {str(state / "x")!r}, ".groove/agents/0badcafe/tmp/x"]
        print(json.dumps([attempt(write, name) for name in names]))
        """,
        patterns=("**",),
        level="gate",
        states=(str(state),),
    )
    assert said == ["EACCES", "EACCES", "done", "done"]


async def test_what_it_starts_is_behind_the_wall_too(home: Path) -> None:
    line = "setsid sh -c '(echo no > docs/b.md; cat ~/.netrc) 2>&1'; echo done"
    async with behind(home, "sh", "-c", line, patterns=("src/**",)) as opened:
        said = b""
        while more := await opened.tree.receive("out"):
            said += more
    assert b"secret" not in said
    assert said.lower().count(b"permission denied") == 2
    assert said.endswith(b"done\n")


@needs_scopes
async def test_signals_reach_its_own_processes_and_no_others(home: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as outside:
        try:
            said = await run(
                home,
                f"""
                import subprocess
                child = subprocess.Popen(["sleep", "60"])
                pids = [{outside.pid}, {os.getpid()}, child.pid]
                told = [attempt(os.kill, pid, 0) for pid in pids]
                told.append(attempt(os.kill, {outside.pid}, 9))
                told.append(attempt(os.killpg, {os.getpgid(0)}, 0))
                child.kill()
                print(json.dumps(told))
                """,
            )
            assert said == ["EPERM", "EPERM", "done", "EPERM", "EPERM"]
            assert outside.poll() is None
        finally:
            outside.kill()


async def test_other_processes_cannot_be_traced_or_looked_into(home: Path) -> None:
    with subprocess.Popen(["sleep", "60"], env={"SECRET": "x"}) as outside:
        try:
            said = await run(
                home,
                f"""
                import ctypes
                libc = ctypes.CDLL(None, use_errno=True)
                def ptrace():
                    if libc.ptrace(16, {outside.pid}, None, None) < 0:  # PTRACE_ATTACH
                        raise OSError(ctypes.get_errno(), "")
                def peek():
                    libc.process_vm_readv.restype = ctypes.c_ssize_t
                    buffer = ctypes.create_string_buffer(8)
                    here = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
                    if libc.process_vm_readv({outside.pid}, here, 1, here, 1, 0) < 0:
                        raise OSError(ctypes.get_errno(), "")
                told = [attempt(ptrace), attempt(peek)]
                for name in ("environ", "mem", "maps"):
                    told.append(attempt(read, f"/proc/{outside.pid}/{{name}}"))
                for name in ("fd/0", "cwd", "root", "exe"):
                    told.append(attempt(os.readlink, f"/proc/{outside.pid}/{{name}}"))
                told.append(attempt(read, "/proc/{outside.pid}/root/etc/passwd"))
                told.append(attempt(write, "/proc/{outside.pid}/fd/1"))
                told.append(attempt(read, "/proc/{os.getpid()}/environ"))
                print(json.dumps(told))
                """,
            )
            assert [name for name in said if name not in {"EPERM", "EACCES"}] == [], said
        finally:
            outside.kill()


async def test_a_link_put_in_the_way_of_a_rule_is_not_followed(home: Path) -> None:
    project = home / "project"
    wall = build_wall(
        level="wall",
        project=str(project),
        tmp=str(project / ".groove/agents/0badcafe/tmp"),
        patterns=("src/**",),
        hidden=(),
        version=landlock_version(),
    )
    (project / "src").rename(project / "gone")
    (project / "src").symlink_to(project / "docs")
    opened = await open_confined(
        argv=["sh", "-c", "echo no > docs/b.md"],
        cwd=str(project),
        env={"PATH": os.environ["PATH"]},
        agent=AGENT,
        census=Census(),
        confinement=Confinement(wall.ruleset),
    )
    async with opened.tree:
        assert not (await opened.tree.wait()).ok
    assert opened.skipped == {str(project / "src"): "ELOOP"}
    assert (project / "docs/b.md").read_text() == "old"


async def test_the_canary_fails_behind_the_wall_alone(home: Path) -> None:
    async with behind(home, "true", patterns=("**",)) as opened:
        held = dict.fromkeys(("write", "rename", "symlink"), "EACCES")
        signal = {"signal": "EPERM"} if landlock_version() >= 6 else {}
        assert opened.canary == {**held, **signal}


def test_the_kernels_version_is_what_it_says() -> None:
    syscall = ctypes.CDLL(None).syscall
    assert syscall(444, None, ctypes.c_size_t(0), 1) == landlock_version()
