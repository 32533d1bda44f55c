"""Starting a daemon where a network could reach it: by every spelling, and by every way to say so.

`groove-trio start` runs as a user would run it, while its port is knocked at again and again. It
ends with a refusal that says why, leaves nothing in the project, and at no moment does anything
listen on that port, on any address of this machine.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from groove_trio.cli.launch import start_detached, stop_daemon

Siege = Any  # of conftest.py, which cannot be imported
Daemon = Any

REFUSED = 3
DEADLINE_S = 60
HOSTS = {
    "every address": "0.0.0.0",
    "every address, short": "0",
    "every address, hexadecimal": "0x0",
    "every address, octal": "000.000.000.000",
    "every address, with a zone": "0.0.0.0%lo",
    "every IPv6 address": "::",
    "every IPv6 address, in brackets": "[::]",
    "mapped": "::ffff:0.0.0.0",
    "a star": "*",
    "nothing": "",
    "another machine's": "192.0.2.1",
    "almost loopback": "128.0.0.1",
    "behind the carrier": "100.64.0.1",
    "multicast": "224.0.0.1",
    "broadcast": "255.255.255.255",
    "the machine's own": "own address",
    "the machine's name": "own name",
}


def addresses() -> list[str]:
    """This machine's addresses: loopback, and that on a network, if there is one."""
    found = ["127.0.0.1"]
    with suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        found.append("::1")
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing
        found.append(probe.getsockname()[0])
    return found


def own_address() -> str:
    *_, last = addresses()
    if last in {"127.0.0.1", "::1"}:
        pytest.skip("this machine has no address beside loopback")
    return last


def own_name() -> str:
    """This machine's name, if that stands for an address on a network."""
    name = socket.gethostname()
    try:
        found = {each[4][0] for each in socket.getaddrinfo(name, None)}
    except OSError:
        found = set()
    if all(str(address).startswith("127.") or address == "::1" for address in found):
        pytest.skip("this machine's name stands for loopback, or for nothing")
    return name


def listens(address: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe, suppress(OSError):
        probe.bind((address, 0))
        if probe.getsockname()[1] != port:  # TCP can connect a socket to itself
            return probe.connect_ex((address, port)) == 0
    return False


@contextmanager
def watched(port: int) -> Iterator[set[str]]:
    """The addresses on which anything listened on a port while the block ran."""
    seen: set[str] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.005):
            seen.update(address for address in addresses() if listens(address, port))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    return root.resolve()


def start(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "groove_trio", "start", "--project", str(project), *arguments],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def check_refused(done: subprocess.CompletedProcess[str], host: str) -> None:
    assert (done.returncode, done.stdout) == (REFUSED, ""), done
    assert "127.0.0.1" in done.stderr
    assert repr(host)[1:-1] in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("address", addresses())
def test_what_listens_is_seen(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as server:
        port = server.getsockname()[1]
        with watched(port) as seen:
            server.accept()[0].close()
    assert seen == {address}


@pytest.mark.parametrize("case", HOSTS)
def test_no_host_faces_a_network(project: Path, port: int, case: str) -> None:
    named = {"own address": own_address, "own name": own_name}
    host = named[HOSTS[case]]() if HOSTS[case] in named else HOSTS[case]
    with watched(port) as seen:
        done = start(project, "--host", host, "--port", str(port))
    check_refused(done, host)
    assert seen == set()
    assert os.listdir(project) == []


def test_detached_it_is_refused_as_well(project: Path, port: int) -> None:
    with watched(port) as seen:
        done = start(project, "--detach", "--host", "0.0.0.0", "--port", str(port))
    check_refused(done, "0.0.0.0")
    assert seen == set()
    assert not (project / ".groove/daemon.json").exists()


def test_a_second_start_does_not_move_the_first(siege: Siege, daemon: Daemon, port: int) -> None:
    told = (daemon.project / ".groove/daemon.json").read_bytes()
    with siege() as attack, watched(port) as seen:
        done = start(daemon.project, "--host", "0.0.0.0", "--port", str(port))
        attack.struck()
    check_refused(done, "0.0.0.0")
    assert seen == set()
    assert (daemon.project / ".groove/daemon.json").read_bytes() == told


EVERYWHERE = ("0.0.0.0", "::")
VARIABLES = ("HOST", "BIND", "GROOVE_HOST", "GROOVE_BIND", "GROOVE_TRIO_HOST", "GROOVE_URL")
FILES = {
    "groove.toml": 'host = "{}"\n[daemon]\nhost = "{}"\n',
    ".groove.toml": 'host = "{}"\n',
    "pyproject.toml": '[tool.groove-trio]\nhost = "{}"\n',
    "groove.json": '{{"host": "{}"}}\n',
    ".env": "GROOVE_HOST={}\n",
}


@pytest.mark.parametrize("host", EVERYWHERE)
def test_no_variable_and_no_file_moves_it(
    project: Path, port: int, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    home = project.parent / "home"
    for name in ("GROOVE_AGENT", "GROOVE_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    for name in VARIABLES:
        monkeypatch.setenv(name, host)
    monkeypatch.setenv("HOME", str(home))
    for directory in (project, home, home / ".config/groove-trio"):
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in FILES.items():
            (directory / name).write_text(text.format(host, host))
    (project / ".groove").mkdir(mode=0o700)
    known = {"pid": 1, "url": f"http://{host}:{port}", "host": host, "port": port}
    (project / ".groove/config.json").write_text(json.dumps(known))
    with watched(port) as seen:
        started = start_detached(project, port=port)
        try:
            assert started.url == f"http://127.0.0.1:{port}"
            daemon = psutil.Process(started.pid)
            found = [each.laddr for each in daemon.net_connections() if not each.raddr]
        finally:
            stop_daemon(project)
    assert found == [("127.0.0.1", port)]
    assert seen <= {"127.0.0.1"}
