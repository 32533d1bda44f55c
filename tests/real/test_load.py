"""A daemon within a crowd, and a daemon whose descriptors are all taken: nobody loses anything.

The crowd is that of the benchmark (tests/bench/load.py), for a few seconds and without the clock.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from groove_trio.cli.launch import LOG, Started, start_detached, stop_daemon
from groove_trio.shell.heads import verify_log

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

DEADLINE_S = 20
SECONDS = 6.0
MAX_GROWTH_KB = 24 * 1024  # the history of events fills meanwhile, and it holds 16 MiB
DESCRIPTORS = 80
MAX_RECOVERY_S = 5.0  # at once, on a machine that is busy with other tests
LOUD = """
import itertools, sys, time
for number in itertools.count(1):
    print(number, flush=True)
    time.sleep(0.01)
"""


@pytest.fixture(scope="module")
def load() -> ModuleType:
    path = Path(__file__).parents[1] / "bench" / "load.py"
    spec = importlib.util.spec_from_file_location("load_of_the_bench", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and the like look there
    spec.loader.exec_module(module)
    return module


class Daemon:
    """A daemon in processes of its own."""

    def __init__(self, started: Started) -> None:
        self.url, self.pid = started.url, started.pid
        self.state = Path(started.project) / ".groove"
        self.port = int(started.url.rpartition(":")[2])

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Asks over a connection of its own; the status is 0 where that ends without an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        data = None if body is None else json.dumps(body).encode()
        with contextlib.closing(connection):
            try:
                connection.request(method, path, data, {"content-type": "application/json"})
                with connection.getresponse() as answer:
                    return answer.status, json.load(answer)
            except (ConnectionError, http.client.HTTPException):
                return 0, None

    def healthy(self) -> bool:
        return self.ask("GET", "/api/health")[0] == 200

    def spawn(self, **spec: Any) -> str:
        status, told = self.ask("POST", "/api/agents", spec)
        assert status == 201, told
        return str(told["id"])

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def lines(self, agent: str) -> list[Any]:
        """All that an agent has written, as it stands on the disk."""
        path = self.state / "agents" / agent / "output.jsonl"
        whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
        return [json.loads(line) for line in whole.splitlines()]

    def records(self, action: str) -> list[Any]:
        """What the audit log has of a kind."""
        segments = sorted((self.state / "audit").iterdir())
        lines = [line for each in segments for line in each.read_text().splitlines()]
        found = [json.loads(line) for line in lines]
        return [record for record in found if record["action"].startswith(action)]


@contextlib.contextmanager
def running(project: Path) -> Iterator[Daemon]:
    """A daemon, and afterwards proof that it met no fault and kept its books."""
    project.mkdir()
    daemon = Daemon(start_detached(project.resolve(), port=0))
    try:
        yield daemon
    finally:
        stop_daemon(project)
    assert "Traceback" not in (daemon.state / LOG).read_text()
    assert verify_log(daemon.state / "audit").ok


def until(true: Callable[[], Any]) -> Any:
    end = time.monotonic() + DEADLINE_S
    while not (found := true()):
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.01)
    return found


def test_a_crowd_costs_the_owner_nothing(load: ModuleType, tmp_path: Path) -> None:
    with running(tmp_path / "project") as daemon:
        for spec in load.speakers():
            daemon.spawn(**spec)
        resting = daemon.descriptors()
        siege = load.besiege(daemon.url, daemon.pid, SECONDS)
        assert siege.errors == []
        assert siege.busy["answers"] > 100
        assert siege.probe["asked"] > 20
        assert siege.subscribers["gaps"] == 0
        assert min(siege.subscribers["events"]) > 100
        rss = [moment.rss_kb for moment in siege.moments]
        assert rss[-1] - rss[0] < MAX_GROWTH_KB
        until(lambda: daemon.descriptors() <= resting + 1)  # an agent's log may be open just now
        status, agents = daemon.ask("GET", "/api/agents")
        assert status == 200
        assert [agent["state"] for agent in agents] == ["running"] * load.SPEAKERS


# Out of descriptors


@contextlib.contextmanager
def flood(daemon: Daemon) -> Iterator[None]:
    """Takes every descriptor that the daemon has, with feeds that it may not close for others."""
    callers: list[socket.socket] = []
    host = daemon.url.removeprefix("http://")
    upgrade = (
        f"GET /ws HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    try:
        for _ in range(2 * DESCRIPTORS):
            caller = socket.create_connection(("127.0.0.1", daemon.port), DEADLINE_S)
            callers.append(caller)
            with contextlib.suppress(ConnectionError):
                caller.sendall(upgrade.encode())
        until(lambda: daemon.descriptors() >= DESCRIPTORS - 4)
        yield
    finally:
        for caller in callers:
            caller.close()


def test_a_flood_that_takes_every_descriptor_loses_nothing(tmp_path: Path) -> None:
    with running(tmp_path / "project") as daemon:
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        argv = [sys.executable, "-c", LOUD]
        loud = daemon.spawn(role="loud", name="loud", argv=argv, scope=["src/**"])
        until(lambda: daemon.lines(loud))
        knock = {"agent": "loud", "operation": "write", "path": "src/a.py"}
        resting = daemon.descriptors()
        answers = []
        with flood(daemon):
            wanted = len(daemon.lines(loud)) + 50
            end = time.monotonic() + DEADLINE_S
            while len(daemon.lines(loud)) < wanted:
                answers.append(daemon.ask("POST", "/api/knock", knock)[0])
                assert time.monotonic() < end, "the agent does not get on"
        began = time.monotonic()
        until(daemon.healthy)
        recovered_s = time.monotonic() - began
        assert set(answers) <= {0, 200, 503}
        until(lambda: daemon.descriptors() <= resting + 1)
        daemon.spawn(role="late", argv=["true"], scope=[])
        assert daemon.ask("POST", "/api/agents/loud/stop", {})[0] == 200
        lines = daemon.lines(loud)
        assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
        assert [line["text"] for line in lines] == [str(line["seq"]) for line in lines]
        assert len(daemon.records("knock")) == answers.count(200)
        assert recovered_s < MAX_RECOVERY_S
