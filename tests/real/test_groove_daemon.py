"""Real daemons under their guards: killed, started again, told twice to end, and looked into."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from groove_trio.cli.launch import Started, start_detached, stop_daemon
from groove_trio.shell.daemonfile import DaemonInfo, running_daemon
from groove_trio.shell.heads import verify_log

DEADLINE_S = 30
DEAF = [
    {"do": "ignore-sigterm"},
    {"do": "grandchild", "hold": True},
    {"do": "print", "text": "n", "count": 2000},
    {"do": "sleep", "seconds": 3600},
]


def until(true: Callable[[], Any]) -> Any:
    end = time.monotonic() + DEADLINE_S
    while not (found := true()):
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.01)
    return found


class Daemon:
    """A daemon for a project, started and talked to as a user would."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.started: Started | None = None

    def start(self) -> DaemonInfo:
        self.started = start_detached(self.project, port=0)
        info = running_daemon(self.project)
        assert info is not None
        return info

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        assert self.started is not None
        request = urllib.request.Request(
            self.started.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, json.load(refusal)

    def spawn(self, steps: list[dict[str, Any]], **spec: Any) -> str:
        asked = {"role": "r", "provider": "demo", "prompt": json.dumps(steps), **spec}
        status, answer = self.ask("POST", "/api/agents", asked)
        assert status == 201, answer
        return str(answer["id"])

    def lines(self, agent: str) -> list[dict[str, Any]]:
        path = self.project / ".groove/agents" / agent / "output.jsonl"
        if not path.exists():  # nothing was written yet
            return []
        whole, _, _ = path.read_text().rpartition("\n")  # the daemon may be writing the rest
        return [json.loads(line) for line in whole.splitlines()]

    def marked(self) -> list[int]:
        """Processes of the project: agents by their environment, the rest by their arguments."""
        tag, name = f"GROOVE_PROJECT={self.project}".encode(), str(self.project).encode()
        return [
            pid
            for pid in map(int, filter(str.isdecimal, os.listdir("/proc")))
            if pid != os.getpid()
            and (tag in words(pid, "environ") or name in words(pid, "cmdline"))
        ]

    def agents(self) -> list[int]:
        tag = f"GROOVE_PROJECT={self.project}".encode()
        return [pid for pid in self.marked() if tag in words(pid, "environ")]


def words(pid: int, file: str) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes().split(b"\0")  # empty for a zombie
    except OSError:
        return []


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    project = (tmp_path / "project").resolve()
    (project / "src").mkdir(parents=True)
    made = Daemon(project)
    yield made
    if info := running_daemon(project):  # the test failed: wait for no grace
        kill(info)
    for pid in made.marked():
        os.kill(pid, signal.SIGKILL)


def kill(info: DaemonInfo) -> None:
    os.kill(info.pid, signal.SIGKILL)
    assert info.guard_pid is not None
    until(lambda: not Path(f"/proc/{info.guard_pid}").exists() or is_zombie(info.guard_pid))


def is_zombie(pid: int | None) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


# Killed


def test_a_killed_daemon_leaves_nothing_alive_and_its_heir_knows_everything(
    daemon: Daemon,
) -> None:
    first = daemon.start()
    deaf = daemon.spawn(DEAF, scope=["src/**"], name="deaf", graceS=300)
    waits = daemon.spawn([{"do": "read"}], scope=["docs/**"], interactive=True)
    until(lambda: len(daemon.lines(deaf)) >= 2002)
    status, lease = daemon.ask(
        "POST", "/api/coordination/declare", {"agent": waits, "paths": ["a.md"], "ttlS": 3600}
    )
    assert status == 200
    assert daemon.ask(
        "POST", "/api/coordination/declare", {"agent": deaf, "paths": ["b.md"], "ttlS": 1}
    )[0] == 200  # fmt: skip
    taken = time.monotonic()
    assert len(daemon.agents()) == 3
    kill(first)
    assert daemon.agents() == []
    until(lambda: time.monotonic() > taken + 1.05)  # the short lease runs out while nobody looks

    second = daemon.start()
    assert second.pid != first.pid
    _, views = daemon.ask("GET", "/api/agents")
    assert {view["id"]: view["state"] for view in views} == {
        deaf: "interrupted",
        waits: "interrupted",
    }
    assert daemon.ask("GET", "/api/coordination") == (200, [lease])
    overlapping = {"role": "r", "argv": ["true"], "scope": ["src/a.py"]}
    status, problem = daemon.ask("POST", "/api/agents", overlapping)
    assert (status, problem["owner"]) == (409, deaf)

    status, view = daemon.ask("POST", f"/api/agents/{deaf}/resume")
    assert (status, view["state"]) == (200, "running")
    until(lambda: len(daemon.lines(deaf)) >= 4004)
    assert [line["seq"] for line in daemon.lines(deaf)] == list(range(1, 4005))
    assert daemon.ask("POST", f"/api/agents/{deaf}/stop", {"graceS": 0})[1]["state"] == "stopped"

    assert daemon.ask("DELETE", f"/api/agents/{waits}")[0] == 200
    assert daemon.ask("GET", "/api/coordination") == (200, [])
    both = {"role": "r", "argv": ["true"], "scope": ["src/a.py", "docs/**"]}
    assert daemon.ask("POST", "/api/agents", both)[0] == 201
    assert daemon.ask("GET", "/api/audit/verify")[1]["ok"] is True
    stop_daemon(daemon.project)
    assert verify_log(daemon.project / ".groove/audit").ok
    until(lambda: daemon.marked() == [])


def test_a_killed_guard_takes_the_daemon_with_it_tidily(daemon: Daemon) -> None:
    info = daemon.start()
    agent = daemon.spawn([{"do": "read"}], scope=[], interactive=True)
    assert info.guard_pid is not None
    os.kill(info.guard_pid, signal.SIGKILL)
    until(lambda: daemon.marked() == [])
    assert actions(daemon)[-1] == "audit.close"
    daemon.start()
    assert daemon.ask("GET", f"/api/agents/{agent}")[1]["state"] == "stopped"


def test_both_killed_at_once_leaves_nothing_to_the_next_but_their_records(daemon: Daemon) -> None:
    info = daemon.start()
    # Behind gate or wall, the kernel ends the root with the daemon.
    agent = daemon.spawn(DEAF, scope=["src/**"], containment="hooks")
    until(lambda: len(daemon.agents()) == 2)
    assert info.guard_pid is not None
    os.kill(info.guard_pid, signal.SIGSTOP)
    os.kill(info.pid, signal.SIGKILL)
    os.kill(info.guard_pid, signal.SIGKILL)
    until(lambda: is_zombie(info.pid) and is_zombie(info.guard_pid))
    assert len(daemon.agents()) == 2  # nobody was left to end them
    daemon.start()
    assert daemon.agents() == []
    assert daemon.ask("GET", f"/api/agents/{agent}")[1]["state"] == "interrupted"


# Told to end


def test_a_second_signal_cancels(daemon: Daemon) -> None:
    command = [sys.executable, "-m", "groove_trio", "start", "--port", "0"]
    with subprocess.Popen(command, cwd=daemon.project, stdout=subprocess.PIPE) as guard:
        assert guard.stdout is not None
        url = guard.stdout.readline().decode().split(" for ")[0].rpartition(" ")[2]
        daemon.started = Started("", url, 0, str(daemon.project))
        agent = daemon.spawn(DEAF, scope=["src/**"], graceS=300)
        until(lambda: len(daemon.agents()) == 2)
        guard.terminate()
        until(lambda: actions(daemon)[-1] == "agent.stop")  # it drains, and waits for the agent
        assert len(daemon.agents()) == 2
        guard.terminate()
        assert guard.wait(DEADLINE_S) == 1
    assert daemon.marked() == []
    assert actions(daemon)[-1] == "audit.close"
    assert not (daemon.project / ".groove/daemon.json").exists()
    daemon.start()
    assert daemon.ask("GET", f"/api/agents/{agent}")[1]["state"] == "interrupted"


def actions(daemon: Daemon) -> list[str]:
    (segment,) = (daemon.project / ".groove/audit").iterdir()
    whole, _, _ = segment.read_text().rpartition("\n")
    return [json.loads(line)["action"] for line in whole.splitlines()]


# Looked into


def listening(pids: set[int]) -> list[tuple[str, int]]:
    """Every TCP socket that listens, and every UDP socket, in some processes: kind and port."""
    inodes = {
        os.readlink(f"/proc/{pid}/fd/{number}").removeprefix("socket:[").rstrip("]")
        for pid in pids
        for number in os.listdir(f"/proc/{pid}/fd")
        if os.readlink(f"/proc/{pid}/fd/{number}").startswith("socket:[")
    }
    found = []
    for kind in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
        for row in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]:
            fields = row.split()
            if fields[9] in inodes and (fields[3] == "0A" or not kind.startswith("tcp")):
                found.append((fields[1], int(fields[1].rpartition(":")[2], 16)))
    return found


def test_one_socket_of_the_whole_tree_listens(daemon: Daemon) -> None:
    info = daemon.start()
    daemon.spawn(DEAF, scope=["src/**"], graceS=0)
    until(lambda: len(daemon.agents()) == 2)
    assert info.guard_pid is not None
    tree = {info.pid, info.guard_pid, *daemon.agents()}
    assert listening(tree) == [(f"0100007F:{info.port:04X}", info.port)]
    named = Path("/proc/net/unix").read_text()
    assert str(daemon.project) not in named


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_a_daemon_makes_private_files_under_any_umask(daemon: Daemon, mask: int) -> None:
    before = os.umask(mask)
    try:
        daemon.start()
    finally:
        os.umask(before)
    agent = daemon.spawn([{"do": "read"}], scope=["src/**"], interactive=True)
    daemon.ask("POST", "/api/coordination/declare", {"agent": agent, "paths": ["x"]})
    top = daemon.project / ".groove"
    paths = [top, *top.rglob("*")]
    assert {"daemon.log", "daemon.json", "leases.json", "tmp"} <= {path.name for path in paths}
    for path in paths:
        wanted = 0o700 if path.is_dir() else 0o600
        assert path.lstat().st_mode & 0o7777 == wanted, path


def test_a_secret_of_the_daemons_environment_reaches_no_agent(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "hush-hush")
    info = daemon.start()
    assert b"ANTHROPIC_API_KEY=hush-hush" in words(info.pid, "environ")
    daemon.spawn(DEAF, scope=[], graceS=0)
    for pid in until(lambda: len(daemon.agents()) == 2 and daemon.agents()):
        assert b"hush-hush" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert not [word for word in words(pid, "environ") if word.startswith(b"GROOVE_GUARD")]


def lan_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a datagram socket sends nothing by this
        except OSError:
            return "192.168.1.10"
        return str(probe.getsockname()[0])


@pytest.mark.parametrize("host", ["0.0.0.0", "::ffff:0.0.0.0", "LAN"])
def test_the_command_refuses_to_face_a_network(daemon: Daemon, host: str) -> None:
    address = lan_address() if host == "LAN" else host
    command = [sys.executable, "-m", "groove_trio", "start", "--host", address, "--port", "0"]
    done = subprocess.run(
        command, cwd=daemon.project, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 3, done.stderr
    assert address in done.stderr
    assert daemon.marked() == []
    assert not (daemon.project / ".groove").exists()
