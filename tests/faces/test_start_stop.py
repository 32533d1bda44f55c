"""Starting and stopping, as real processes: who is left, what is held, what is said."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from groove_trio import __version__
from groove_trio.shell.daemonfile import running_daemon

Cli = Callable[..., Any]


@pytest.fixture(autouse=True)
def ended(project: Path) -> Iterator[None]:
    """Whatever a test leaves running is ended, and nothing but that."""
    yield
    for pid in processes_of(project):
        os.kill(pid, signal.SIGKILL)


def processes_of(project: Path) -> list[int]:
    """The guard and the daemon of a project: those that have it in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"groove_trio.cli.daemon" in arguments and str(project).encode() in arguments:
                found.append(int(entry.name))
    return found


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_detached_start_status_and_stop(cli: Cli, project: Path) -> None:
    started = cli("start", "--detach", "--port", "0")
    assert started.code == 0, started.err
    info = running_daemon(project)
    assert info is not None
    assert started.out == f"groove-trio {__version__} listening on {info.url} for {project}\n"
    status = cli("status", "--json").json
    assert (status["pid"], status["project"], status["url"]) == (info.pid, str(project), info.url)
    assert str(project) in cli("status").out
    stopped = cli("stop")
    assert stopped.code == 0
    assert str(info.pid) in stopped.out
    until(lambda: not processes_of(project))
    assert cli("stop").code == 4
    assert cli("status").code == 4


def test_detached_daemon_holds_nothing_of_its_starter(cli: Cli, project: Path) -> None:
    # That cli() returns at all says that the daemon does not hold the pipes of its output.
    pid = cli("start", "--detach", "--port", "0", "--json").json["pid"]
    log = project / ".groove" / "daemon.log"
    assert log.stat().st_mode & 0o777 == 0o600
    for each in processes_of(project):
        targets = [os.readlink(f"/proc/{each}/fd/{number}") for number in range(3)]
        assert targets == ["/dev/null", str(log), str(log)]
        assert os.getsid(each) == each or os.getsid(each) != os.getsid(0)
    assert os.getsid(pid) != os.getsid(0)
    assert cli("stop", "--json").json["pid"] == pid


def test_second_start_is_refused(cli: Cli, project: Path) -> None:
    assert cli("start", "--detach", "--port", "0").code == 0
    again = cli("start", "--detach", "--port", "0")
    assert again.code == 3
    assert "already runs" in again.err
    assert again.out == ""
    assert cli("start", "--port", "0", "--json").code == 3
    assert len(processes_of(project)) == 2  # the first guard and daemon
    assert cli("stop").code == 0


@pytest.mark.parametrize("detached", [True, False], ids=["detached", "foreground"])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "0", "0x0", "::ffff:0.0.0.0", "", "no.invalid"])
def test_start_refuses_to_face_a_network(
    cli: Cli, project: Path, host: str, detached: bool
) -> None:
    done = cli("start", "--host", host, *(["--detach"] if detached else []))
    assert done.code == 3
    assert done.out == ""
    assert len(done.err.splitlines()) <= 2
    assert not processes_of(project)
    assert not (project / ".groove" / "daemon.json").exists()


def test_start_says_who_has_the_port(cli: Cli, project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = cli("start", "--detach", "--port", str(port), "--json")
    assert done.code == 1
    problem = json.loads(done.err)
    assert problem["type"] == "urn:groove-trio:problem:port-taken"
    assert str(port) in problem["detail"]
    assert not processes_of(project)


def test_start_refuses_a_project_that_is_none(cli: Cli, project: Path) -> None:
    (project / "file").touch()
    for name in ("absent", "file"):
        done = cli("-p", name, "start", "--detach")
        assert done.code == 2
        assert name in done.err


def test_start_refuses_a_log_that_is_a_link(cli: Cli, project: Path, tmp_path: Path) -> None:
    (project / ".groove").mkdir(mode=0o700)
    (project / ".groove" / "daemon.log").symlink_to(tmp_path / "elsewhere")
    done = cli("start", "--detach", "--port", "0")
    assert done.code == 1
    assert "symbolic link" in done.err
    assert not (tmp_path / "elsewhere").exists()


def _foreground(command: list[str], project: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*command, "start", "--port", "0", *options],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_foreground_start_says_where_and_ends_tidily(
    command: list[str], project: Path, number: int
) -> None:
    process = _foreground(command, project)
    assert process.stdout is not None
    line = process.stdout.readline()
    info = running_daemon(project)
    assert info is not None
    assert line == f"groove-trio {__version__} listening on {info.url} for {project}\n"
    assert info.guard_pid == process.pid  # the command has become the guard
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert out == ""
    assert not processes_of(project)
    assert running_daemon(project) is None


def test_foreground_start_with_json_says_where_in_json(command: list[str], project: Path) -> None:
    process = _foreground(command, project, "--json")
    assert process.stdout is not None
    told = json.loads(process.stdout.readline())
    assert told.keys() == {"version", "url", "pid", "project"}
    process.terminate()
    process.communicate(timeout=30)


def test_stop_ends_a_foreground_daemon(cli: Cli, command: list[str], project: Path) -> None:
    process = _foreground(command, project)
    assert process.stdout is not None
    process.stdout.readline()
    assert cli("stop").code == 0
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_killed_daemon_is_not_taken_for_a_running_one(cli: Cli, project: Path) -> None:
    pid = cli("start", "--detach", "--port", "0", "--json").json["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: not processes_of(project))
    assert (project / ".groove" / "daemon.json").exists()
    assert cli("stop").code == 4
    assert cli("status").code == 4
    assert cli("start", "--detach", "--port", "0").code == 0
    assert cli("stop").code == 0


def test_stop_leaves_a_program_that_embeds_a_groove_alone(cli: Cli, project: Path) -> None:
    program = (
        "import sys, trio\n"
        "from pathlib import Path\n"
        "from groove_trio import Config, open_groove\n"
        "async def main():\n"
        "    async with open_groove(Config(project=Path(sys.argv[1]), port=0)):\n"
        "        print('open', flush=True)\n"
        "        await trio.to_thread.run_sync(sys.stdin.read)\n"
        "trio.run(main)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(project)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    done = cli("stop")
    assert done.code == 3
    assert str(process.pid) in done.err
    assert cli("status").code == 0
    assert process.poll() is None
    process.communicate("", timeout=30)
    assert process.returncode == 0


def test_daemon_takes_all_the_descriptors_there_are(cli: Cli, project: Path) -> None:
    pid = cli("start", "--detach", "--port", "0", "--json").json["pid"]
    limits = Path(f"/proc/{pid}/limits").read_text()
    (line,) = [each for each in limits.splitlines() if each.startswith("Max open files")]
    soft, hard = line.split()[3:5]
    assert soft == hard
    assert cli("stop").code == 0


def test_module_in_the_project_is_not_taken_for_one_of_ours(cli: Cli, project: Path) -> None:
    for name in ("trio", "h11", "logging", "argparse"):
        (project / f"{name}.py").write_text("raise SystemExit('hijacked')\n")
    # The command itself runs elsewhere: `python -m` would take modules from where it stands.
    named = ("-p", str(project))
    started = cli(*named, "start", "--detach", "--port", "0", cwd=project.parent)
    assert started.code == 0, started.err
    assert cli(*named, "stop", cwd=project.parent).code == 0
