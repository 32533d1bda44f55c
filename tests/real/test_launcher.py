"""The launcher with real processes in real sandboxes; a few lines of this file play the gate."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import platform
import resource
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from groove_trio.rules import bpf, landlock
from groove_trio.rules.landlock import Ruleset
from groove_trio.rules.syscalls import Architecture, by_number
from groove_trio.shell import sandbox
from groove_trio.shell.census import Census
from groove_trio.shell.opening import open_tree
from groove_trio.shell.process import Tree
from groove_trio.shell.procfs import read_process
from groove_trio.shell.sandbox import Confined, Confinement, open_confined
from groove_trio.words.base import AgentId
from groove_trio.words.errors import GrooveError, SpawnFailed

ARCHITECTURE: Architecture = "aarch64" if platform.machine() == "aarch64" else "x86_64"
AGENT = AgentId("0badcafe")
PYTHON = [sys.executable, "-I", "-S", "-c"]
KNOCKING = bpf.program(ARCHITECTURE, notify=True)
MUTE = bpf.program(ARCHITECTURE, notify=False)
CONTINUE = 0
ENV = {"PATH": os.environ["PATH"], "GROOVE_AGENT": AGENT, "GROOVE_PROJECT": "/nowhere"}
WRITES = landlock.WRITING | landlock.MAKE_CHAR | landlock.MAKE_BLOCK

RECEIVE, SEND = 0xC0502100, 0xC0182101
NAMES = {number: calls[0].name for number, calls in by_number(ARCHITECTURE).items()}

Policy = Callable[[str], int]


def version() -> int:
    """The version of Landlock that the kernel has; 0 without."""
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    return max(0, syscall(444, None, ctypes.c_size_t(0), 1))


needs_landlock = pytest.mark.skipif(version() < 6, reason="NO LANDLOCK with scopes: not tested")


def walled(*rules: tuple[str, int]) -> Ruleset:
    return Ruleset(WRITES, landlock.scoped(version()), (("/dev/null", WRITES), *rules))


def refuse(name: str) -> int:
    return errno.EROFS


async def answer(listener: int, policy: Policy) -> None:
    """Answers held calls until nobody is left who could make one."""
    try:
        while True:
            await trio.lowlevel.wait_readable(listener)
            buffer = bytearray(80)
            try:
                fcntl.ioctl(listener, RECEIVE, buffer)
            except FileNotFoundError:
                return
            held, pid, _, number = struct.unpack_from("=QIIi", buffer)
            # The gate has to read the caller's memory; root's name there would keep it out.
            assert os.stat(f"/proc/{pid}/fd").st_uid == os.geteuid()
            error = policy(NAMES[number])
            reply = struct.pack("=QqiI", held, 0, -error, int(error == CONTINUE))
            try:
                fcntl.ioctl(listener, SEND, reply)
            except FileNotFoundError:
                continue  # the caller died meanwhile
    finally:
        os.close(listener)


def gate(nursery: trio.Nursery, policy: Policy) -> Callable[[Tree, int], Awaitable[None]]:
    async def listening(tree: Tree, listener: int) -> None:
        assert tree.pid > 0
        nursery.start_soon(answer, listener, policy)
        await trio.lowlevel.checkpoint()

    return listening


@asynccontextmanager
async def confined(
    *argv: str,
    policy: Policy = refuse,
    cwd: int | str = "/",
    env: dict[str, str] | None = None,
    **of: Any,
) -> AsyncIterator[Confined]:
    before = len(os.listdir("/proc/self/fd"))
    async with trio.open_nursery() as nursery:
        try:
            opened = await open_confined(
                argv=argv,
                cwd=cwd,
                env=ENV if env is None else env,
                agent=AGENT,
                census=Census(project="/nowhere"),
                confinement=Confinement(**of),
                listening=gate(nursery, policy),
            )
        except GrooveError as error:
            opened, refusal = None, error
        if opened is not None:
            async with opened.tree:
                yield opened
        nursery.cancel_scope.cancel()
    assert len(os.listdir("/proc/self/fd")) == before
    if opened is None:
        raise refusal


async def told(tree: Tree) -> str:
    """All that it writes to standard output."""
    data = b""
    while more := await tree.receive("out"):
        data += more
    return data.decode()


async def run(code: str, **of: Any) -> Any:
    """Runs Python inside, which prints JSON, and gives what that says."""
    async with confined(*PYTHON, textwrap.dedent(code), **of) as opened:
        said = await told(opened.tree)
        assert said, await opened.tree.receive("err")
        return json.loads(said)


@pytest.fixture
def hidden() -> Iterator[str]:
    """A directory for the canary, which everybody could write to but for the sandbox."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        yield name
        assert os.listdir(name) == []


STATUS = """
    import json, os, resource
    lines = (line.split(":\\t", 1) for line in open("/proc/self/status"))
    status = {name.strip(): value.strip() for name, value in lines}
    fds = sorted(int(n) for n in os.listdir("/proc/self/fd"))
    limit = resource.getrlimit(resource.RLIMIT_CORE)
    status["own"] = [os.getpid() == os.getsid(0), limit, fds[:-1]]
    print(json.dumps(status))
"""


# What it leaves behind


async def test_nothing_of_root_is_left_in_the_program() -> None:
    before = resource.getrlimit(resource.RLIMIT_CORE)
    status = await run(STATUS, program=KNOCKING, notify=True, policy=lambda _: CONTINUE)
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status[name], 16) == 0, name
    if os.geteuid() == 0:
        assert int(status["CapBnd"], 16) == 0
    assert status["own"] == [True, [0, 0], [0, 1, 2]]
    assert resource.getrlimit(resource.RLIMIT_CORE) == before


async def test_signals_are_as_the_program_would_have_found_them() -> None:
    async with confined("cat", "/proc/self/status") as opened:
        lines = (await told(opened.tree)).splitlines()
    status = dict(line.split(":\t", 1) for line in lines)
    assert int(status["SigIgn"], 16) == 0
    assert int(status["SigBlk"], 16) == 0
    assert status["Seccomp"] == "0"


async def test_the_program_can_be_looked_at_by_us() -> None:
    async with confined("sleep", "60", program=KNOCKING, notify=True) as opened:
        # /proc of a process that may not be dumped belongs to root.
        assert os.stat(f"/proc/{opened.tree.pid}/fd").st_uid == os.geteuid()


async def test_arguments_and_environment_go_through_byte_for_byte() -> None:
    odd = "ä\udcff\n\t ="
    env = {**ENV, "ODD": odd, "EMPTY": ""}
    code = "import os, sys, json; print(json.dumps([sys.argv[1:], dict(os.environ)]))"
    async with confined(*PYTHON, code, odd, "", env=env) as opened:
        arguments, environment = json.loads(await told(opened.tree))
    assert arguments == [odd, ""]
    assert {name: environment[name] for name in env} == env


async def test_it_runs_in_the_directory_given_as_a_descriptor(tmp_path: Path) -> None:
    place = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        async with confined("pwd", cwd=place) as opened:
            assert await told(opened.tree) == f"{tmp_path}\n"
    finally:
        os.close(place)


async def test_the_program_keeps_the_pid_and_its_pipes() -> None:
    async with confined("sh", "-c", "read line; echo $$ $line; exit 7") as opened:
        await opened.tree.write(b"hello\n")
        assert await told(opened.tree) == f"{opened.tree.pid} hello\n"
        assert (await opened.tree.wait()).code == 7


async def test_descriptors_that_leaked_into_the_launcher_are_closed() -> None:
    leaked = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    reader, writer = os.pipe()
    ours, theirs = os.pipe()
    try:
        script = textwrap.dedent("""
            import os, socket, struct, sys
            from groove_trio.confine import launch
            ours, theirs = socket.socketpair()
            command = [sys.executable, "-I", "-S", launch.__file__, str(theirs.fileno())]
            child = os.fork()
            if not child:
                os.set_inheritable(theirs.fileno(), True)
                os.execv(sys.executable, command)
            def framed(*parts):
                strings = b"".join(struct.pack("<I", len(each)) + each for each in parts)
                return struct.pack("<I", len(parts)) + strings
            ours.sendall(
                framed(b"argv", b"/bin/ls", b"/proc/self/fd")
                + framed(b"parent", str(os.getpid()).encode())
                + framed(b"start")
            )
            assert b"executing" in ours.recv(100)
            os.waitpid(child, 0)
        """)
        run = subprocess.run(
            [sys.executable, "-c", script],
            pass_fds=(leaked, reader, writer, ours, theirs),
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.split() == ["0", "1", "2", "3"]  # 3 is the listing's own
    finally:
        for descriptor in (leaked, reader, writer, ours, theirs):
            os.close(descriptor)


async def test_the_limit_of_descriptors_is_as_asked() -> None:
    census = Census(project="/nowhere")
    opened = await open_confined(
        argv=["sh", "-c", "ulimit -n"],
        cwd="/",
        env=ENV,
        agent=AGENT,
        census=census,
        confinement=Confinement(),
        descriptor_limit=77,
    )
    async with opened.tree:
        assert await told(opened.tree) == "77\n"


# Parent and child


async def test_it_dies_with_the_daemon() -> None:
    script = textwrap.dedent("""
        import os, sys, trio
        from groove_trio.shell.census import Census
        from groove_trio.shell.sandbox import Confinement, open_confined
        async def main():
            opened = await open_confined(
                argv=["sleep", "3600"], cwd="/", env=dict(os.environ), agent="0badcafe",
                census=Census(project="/nowhere"), confinement=Confinement())
            print(opened.tree.pid, flush=True)
            await trio.sleep_forever()
        trio.run(main)
    """)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout is not None
        pid = int(await trio.to_thread.run_sync(daemon.stdout.readline))
        daemon.kill()
    with trio.fail_after(10):
        while (left := read_process(pid)) is not None and not left.dead:
            await trio.sleep(0.01)


async def test_a_launcher_whose_daemon_is_gone_runs_nothing(tmp_path: Path) -> None:
    file = tmp_path / "made"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox.os, "getpid", lambda: 1)
        with pytest.raises(SpawnFailed, match="the daemon went away"):
            async with confined("touch", str(file)):
                pass
    assert not file.exists()


# Failures


def script(path: Path, text: str, mode: int = 0o755) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize("case", ["missing", "in PATH", "mode", "interpreter", "format", "long"])
async def test_what_exec_said_is_told_as_without_a_sandbox(case: str, tmp_path: Path) -> None:
    file = tmp_path / "program"
    argv = {
        "missing": lambda: [str(tmp_path / "missing")],
        "in PATH": lambda: ["surely-no-such-program"],
        "mode": lambda: [script(file, "#!/bin/sh\n", 0o644)],
        "interpreter": lambda: [script(file, "#!/no/such/interpreter\n")],
        "format": lambda: [script(file, "words\n")],
        "long": lambda: ["true", "x" * 200_000],
    }[case]()
    with pytest.raises(GrooveError) as plain:
        await open_tree(argv=argv, cwd="/", env=ENV, agent=AGENT, census=Census())
    with pytest.raises(GrooveError) as inside:
        async with confined(*argv):
            pass
    assert type(inside.value) is type(plain.value)
    assert inside.value.detail == plain.value.detail
    assert inside.value.fields == plain.value.fields
    name = {"mode": "EACCES", "format": "ENOEXEC", "long": "E2BIG"}.get(case, "ENOENT")
    assert inside.value.fields["errno"] == name


@pytest.mark.parametrize(
    ("argv", "env"),
    [([""], {}), ([], {}), (["a\0b"], {}), (["true"], {"A=B": "c"}), (["true"], {"A": "\0"})],
)
async def test_what_no_kernel_takes_is_refused_in_the_same_words(
    argv: list[str], env: dict[str, str]
) -> None:
    with pytest.raises(SpawnFailed) as plain:
        await open_tree(argv=argv, cwd="/", env=env, agent=AGENT, census=Census())
    with pytest.raises(SpawnFailed) as inside:
        async with confined(*argv, env=env):
            pass
    assert inside.value.detail == plain.value.detail
    assert inside.value.fields == plain.value.fields


async def test_a_directory_that_cannot_be_entered_is_told() -> None:
    with pytest.raises(SpawnFailed) as told:
        async with confined("true", cwd="/no/such/directory"):
            pass
    assert told.value.fields == {"errno": "ENOENT", "what": "cwd"}


async def test_a_program_is_looked_for_as_execvpe_does(tmp_path: Path) -> None:
    for place, mode in (("a", 0o644), ("b", 0o755)):
        (tmp_path / place).mkdir()
        script(tmp_path / place / "tool", f"#!/bin/sh\necho {place}\n", mode)
    env = {"PATH": f"{tmp_path}/none:{tmp_path}/a:{tmp_path}/b"}
    async with confined("tool", env=env) as opened:
        assert await told(opened.tree) == "b\n"
    with pytest.raises(SpawnFailed, match="EACCES"):
        async with confined("tool", env={"PATH": f"{tmp_path}/a:{tmp_path}/none"}):
            pass
    async with confined("true", env={}) as opened:  # without PATH: /bin and /usr/bin
        assert (await opened.tree.wait()).ok


@pytest.mark.parametrize(
    ("of", "step", "name"),
    [
        ({"ruleset": Ruleset(1 << 62, 0, ())}, "wall", "EINVAL"),
        ({"program": b"\0" * 8}, "filter", "EINVAL"),
        ({"canary": "/no/such/directory"}, "canary", "ENOENT"),
    ],
)
async def test_a_step_that_the_kernel_refuses_is_named(
    of: dict[str, Any], step: str, name: str, tmp_path: Path
) -> None:
    file = tmp_path / "made"
    with pytest.raises(SpawnFailed) as told:
        async with confined("touch", str(file), **of):
            pass
    assert told.value.fields == {"what": "sandbox", "step": step, "errno": name}
    assert f"{step}: " in told.value.detail
    assert name in told.value.detail
    assert not file.exists()


async def test_a_launcher_that_breaks_is_told_with_its_last_words(tmp_path: Path) -> None:
    broken = tmp_path / "launch.py"
    broken.write_text("raise RuntimeError('no luck today')")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "_LAUNCHER", str(broken))
        with pytest.raises(SpawnFailed, match="no luck today"):
            async with confined("true"):
                pass


@pytest.mark.parametrize(
    "words",
    [
        "b'\\x01\\0\\0\\0\\x03\\0\\0\\0huh'",
        "b'\\xff' * 70000",
        "b'\\x01\\0\\0\\0\\x08\\0\\0\\0listener'",
    ],
)
async def test_a_launcher_that_says_anything_else_is_refused(words: str, tmp_path: Path) -> None:
    broken = tmp_path / "launch.py"
    broken.write_text(f"import os, sys, time; os.write(int(sys.argv[1]), {words}); time.sleep(60)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "_LAUNCHER", str(broken))
        with pytest.raises(SpawnFailed, match="the launcher says"):
            async with confined("true"):
                pass


async def test_a_launcher_that_never_begins_is_given_up(tmp_path: Path) -> None:
    broken = tmp_path / "launch.py"
    broken.write_text("import time; time.sleep(60)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "_LAUNCHER", str(broken))
        patch.setattr(sandbox, "LAUNCH_S", 0.2)
        with pytest.raises(SpawnFailed, match="longer than"):
            async with confined("true"):
                pass


async def test_a_cancelled_launch_leaves_no_process(tmp_path: Path) -> None:
    pid = 0

    async def never(tree: Tree, listener: int) -> None:
        nonlocal pid
        pid = tree.pid
        os.close(listener)
        scope.cancel()
        await trio.sleep_forever()

    before = len(os.listdir("/proc/self/fd"))
    with trio.CancelScope() as scope:
        await open_confined(
            argv=["true"],
            cwd="/",
            env=ENV,
            agent=AGENT,
            census=Census(),
            confinement=Confinement(program=KNOCKING, notify=True),
            listening=never,
        )
    assert scope.cancelled_caught
    assert pid
    assert read_process(pid) is None
    assert len(os.listdir("/proc/self/fd")) == before


# The filter and its listener


async def test_held_calls_reach_the_listener_and_are_answered() -> None:
    heard: list[str] = []

    def policy(name: str) -> int:
        heard.append(name)
        return errno.EACCES if name == "openat" else CONTINUE

    code = """
        import json, os
        def attempt(call, *arguments):
            try:
                return call(*arguments) and None
            except OSError as fault:
                return fault.errno
        print(json.dumps([attempt(os.open, "/dev/null", os.O_WRONLY),
            attempt(os.open, "/dev/null", os.O_RDONLY), attempt(os.setpgid, 0, 0)]))
    """
    said = await run(code, program=KNOCKING, notify=True, policy=policy)
    assert said == [errno.EACCES, None, errno.EPERM]  # a session's leader has its group
    assert {"openat", "setpgid"} <= set(heard)


async def test_without_a_listener_the_kernel_refuses_by_itself() -> None:
    code = """
        import json, os, ctypes
        os.close(os.open("/dev/null", os.O_WRONLY))
        libc = ctypes.CDLL(None, use_errno=True)
        print(json.dumps([libc.unshare(0x10000000), ctypes.get_errno()]))
    """
    assert await run(code, program=MUTE) == [-1, errno.EPERM]


async def test_the_filter_holds_for_what_the_program_starts() -> None:
    line = "(setsid sh -c 'echo no > /dev/null' || echo refused) 2>/dev/null"
    async with confined(
        "sh", "-c", line.replace(" 2>/dev/null", ""), program=KNOCKING, notify=True,
        policy=lambda name: errno.EROFS if name == "openat" else CONTINUE,
    ) as opened:  # fmt: skip
        assert await told(opened.tree) == "refused\n"


# The canary


@needs_landlock
async def test_the_canary_fails_by_the_gate_and_by_the_wall(hidden: str) -> None:
    of: dict[str, Any] = {"canary": hidden, "ruleset": walled()}
    async with confined("true", program=KNOCKING, notify=True, **of) as opened:
        names = dict.fromkeys(("write", "rename", "symlink"), "EROFS")
        assert opened.canary == {**names, "signal": "EPERM"}
    async with confined("true", **of) as opened:
        names = dict.fromkeys(("write", "rename", "symlink"), "EACCES")
        assert opened.canary == {**names, "signal": "EPERM"}


@pytest.mark.parametrize("open_for", ["openat", "rename", "symlink"])
async def test_nothing_is_run_where_the_canary_lives(
    open_for: str, hidden: str, tmp_path: Path
) -> None:
    def policy(name: str) -> int:
        return CONTINUE if name.startswith(open_for) else errno.EROFS

    told = {"openat": "write"}.get(open_for, open_for)
    with pytest.raises(SpawnFailed, match=f"not held: {told}") as refused:
        async with confined(
            "touch",
            str(tmp_path / "x"),
            program=KNOCKING,
            notify=True,
            policy=policy,
            canary=hidden,
        ):
            pass
    assert refused.value.fields == {"what": "sandbox", "step": "canary"}
    assert not (tmp_path / "x").exists()


async def test_a_signal_that_arrives_is_told() -> None:
    # As where the ruleset claims a scope that it has not: nothing holds the signal then.
    with tempfile.TemporaryDirectory() as name:
        link_only = Ruleset(WRITES, 0, ())
        plan_of = sandbox.plan_of

        def with_signal(*arguments: Any) -> list[list[bytes]]:
            plan = plan_of(*arguments)
            return [[*each, b"%d" % os.getpid()] if each[0] == b"canary" else each for each in plan]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sandbox, "plan_of", with_signal)
            with pytest.raises(SpawnFailed, match="not held: signal"):
                async with confined("true", ruleset=link_only, canary=name):
                    pass


async def test_no_signal_is_tried_where_no_kernel_would_hold_it(hidden: str) -> None:
    async with confined("true", ruleset=Ruleset(WRITES, 0, ()), canary=hidden) as opened:
        assert set(opened.canary) == {"write", "rename", "symlink"}


# The wall, as far as it is the launcher's


@needs_landlock
async def test_a_path_that_is_missing_is_skipped_and_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ruleset = walled((str(tmp_path), WRITES), (f"{tmp_path}/no", WRITES), (f"{tmp_path}/file/x", 2))
    async with confined("touch", f"{tmp_path}/made", ruleset=ruleset) as opened:
        assert (await opened.tree.wait()).ok
        assert opened.skipped == {f"{tmp_path}/no": "ENOENT", f"{tmp_path}/file/x": "ENOTDIR"}


@needs_landlock
async def test_rights_on_a_file_are_those_that_a_file_has(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    line = f"echo hi > {file}; rm {file} 2>/dev/null || echo kept"
    async with confined("sh", "-c", line, ruleset=walled((str(file), WRITES))) as opened:
        assert await told(opened.tree) == "kept\n"
    assert file.read_text() == "hi\n"


# As anybody


NOBODY: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": []}


def everybodys_python() -> str:
    """An interpreter of this version that nobody may run; that of root may be at root's home."""
    named = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/{named}", f"/usr/local/bin/{named}"):
        try:
            subprocess.run([candidate, "-I", "-c", "pass"], check=True, **NOBODY)
        except OSError:
            continue
        return candidate
    pytest.skip("NO INTERPRETER for an ordinary user: not tested as one")


@needs_landlock
async def test_it_works_for_a_user_without_privileges() -> None:
    if os.geteuid() != 0:
        pytest.skip("NOT ROOT: the rest of this module ran as an ordinary user")
    python = everybodys_python()
    with tempfile.TemporaryDirectory() as name:
        os.chown(name, 65534, 65534)
        places = [str(Path(landlock.__file__).parents[2]), str(Path(trio.__file__).parents[1])]
        script = textwrap.dedent(f"""
            import sys; sys.path[:0] = {places!r}
            import json, runpy, trio
            tests = runpy.run_path({__file__!r})
            code = tests["textwrap"].dedent(tests["STATUS"])
            of = dict(program=tests["KNOCKING"], notify=True, canary={name!r},
                      ruleset=tests["walled"]())
            async def main():
                async with tests["confined"](*tests["PYTHON"], code, **of) as opened:
                    print(json.dumps([opened.canary, json.loads(await tests["told"](opened.tree))]))
            trio.run(main)
        """)
        run = subprocess.run(
            [python, "-B", "-c", script],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            **NOBODY,
        )
        assert run.returncode == 0, run.stderr
        canary, status = json.loads(run.stdout)
    assert set(canary.values()) == {"EROFS", "EPERM"}
    assert status["Uid"].split() == ["65534"] * 4
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert int(status["CapPrm"], 16) == int(status["CapEff"], 16) == 0
    assert status["own"] == [True, [0, 0], [0, 1, 2]]


async def test_root_cannot_read_what_only_capabilities_would_open(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("NOT ROOT: there are no capabilities to lose")
    file = tmp_path / "foreign"
    file.write_text("secret")
    os.chown(file, 65534, 65534)
    file.chmod(stat.S_IRUSR)
    async with confined("cat", str(file)) as opened:
        assert await told(opened.tree) == ""
        assert not (await opened.tree.wait()).ok


async def test_a_killed_launcher_is_told(tmp_path: Path) -> None:
    async def kill(tree: Tree, listener: int) -> None:
        os.close(listener)
        os.kill(tree.pid, signal.SIGKILL)
        await trio.lowlevel.checkpoint()

    with pytest.raises(SpawnFailed, match="the launcher ended"):
        await open_confined(
            argv=["true"],
            cwd="/",
            env=ENV,
            agent=AGENT,
            census=Census(),
            confinement=Confinement(program=KNOCKING, notify=True),
            listening=kill,
        )
