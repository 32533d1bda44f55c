"""A daemon killed at each point where something becomes durable or known, and at random.

A client keeps a ledger of what it was told. The next daemon must know all of it: agents, states,
scopes, leases, names, lines of output, records. What was asked for and never answered may have
happened or not, and nothing else. Lives follow each other on one project, so that the points of
taking up what an earlier life left are among those at which daemons are killed.

``GROOVE_CRASH_ROUNDS=200`` kills at every point there is, before and after, and 200 times at
random.
"""

from __future__ import annotations

import contextlib
import copy
import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pytest

from groove_trio.shell.heads import verify_log

ROUNDS = int(os.environ.get("GROOVE_CRASH_ROUNDS", "0"))
EXACT_ROUNDS, RANDOM_ROUNDS = 6, 4  # of the everyday suite
WORKERS = 4
DEADLINE_S = 30
DAEMON = str(Path(__file__).with_name("crashing_daemon.py"))
PROGRAM = ["sh", "-c", "seq 1 200; sleep 3600 & exec cat"]
"""Writes, leaves a process behind that outlives a daemon, and repeats what it is told."""


class Gone(Exception):
    """The daemon did not answer."""


@dataclass
class Known:
    """What is known of an agent; a set holds what may be while no answer was got."""

    scope: list[str]
    names: set[str]
    states: set[str]
    lines: dict[int, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        (name,) = self.names
        return name


class Ledger:
    """What one client was told, and what it asked for last without an answer."""

    def __init__(self) -> None:
        self.agents: dict[str, Known] = {}
        self.removed: set[str] = set()
        self.leases: dict[str, dict[str, Any]] = {}
        self.completed: set[str] = set()
        self.records: Counter[tuple[str, str | None, str]] = Counter()
        self.spawning: Known | None = None
        self.declaring: str | None = None
        self.completing: set[str] = set()
        self.count = 0


class Life:
    """One daemon, from its start until it is killed."""

    def __init__(self, project: Path, asked: str) -> None:
        command = [sys.executable, DAEMON, str(project), *filter(None, [asked])]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline().decode().strip()
        self.alive = self.said.startswith("http")
        assert self.alive or not self.said, self.said  # a daemon that refuses to start says why
        self.port = int(self.said.rpartition(":")[2]) if self.alive else 0

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        data = None if body is None else json.dumps(body)
        try:
            connection.request(method, path, data, {"content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        except TimeoutError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Gone from error
        finally:
            connection.close()

    def expect(self, wanted: int, method: str, path: str, body: object = None) -> Any:
        status, answer = self.ask(method, path, body)
        assert status == wanted, (method, path, status, answer)
        return answer

    def kill(self) -> str:
        self.process.send_signal(signal.SIGKILL)
        _, told = self.process.communicate(timeout=DEADLINE_S)
        assert self.process.returncode == -signal.SIGKILL, told.decode()
        return told.decode()


class Client:
    """Uses a daemon as an owner would, and writes down each answer."""

    def __init__(self, life: Life, ledger: Ledger, mark: str) -> None:
        self.life = life
        self.ledger = ledger
        self.mark = mark

    def name(self) -> str:
        self.ledger.count += 1
        return f"{self.mark}{self.ledger.count}"

    def spawn(self, **spec: Any) -> str:
        name = self.name()
        self.ledger.spawning = known = Known([f"{name}/**"], {name}, {"interrupted"})
        asked = {"role": "r", "name": name, "argv": PROGRAM, "interactive": True, "graceS": 0.2}
        view = self.life.expect(201, "POST", "/api/agents", {**asked, "scope": known.scope, **spec})
        self.ledger.agents[view["id"]], self.ledger.spawning = known, None
        self.record("agent.spawn", view["id"])
        return str(view["id"])

    def record(self, action: str, agent: str | None, text: str = "") -> None:
        self.ledger.records[action, agent, text] += 1

    def stop(self, agent: str) -> None:
        known = self.ledger.agents[agent]
        known.states = {*known.states, "stopped"}
        self.life.expect(200, "POST", f"/api/agents/{agent}/stop", {"graceS": 0})
        known.states = {"stopped"}
        self.record("agent.stop", agent)

    def resume(self, agent: str) -> None:
        self.life.expect(200, "POST", f"/api/agents/{agent}/resume")
        self.record("agent.resume", agent)

    def remove(self, agent: str) -> None:
        known = self.ledger.agents[agent]
        known.states = {*known.states, "removed"}
        self.life.expect(200, "DELETE", f"/api/agents/{agent}")
        del self.ledger.agents[agent]
        self.ledger.removed.add(agent)
        self.record("agent.remove", agent)

    def rename(self, agent: str) -> None:
        known = self.ledger.agents[agent]
        after = self.name()
        known.names = {known.name, after}
        self.life.expect(200, "PATCH", f"/api/agents/{agent}", {"name": after})
        known.names = {after}
        self.record("agent.patch", agent)

    def declare(self, agent: str) -> str:
        self.ledger.declaring = agent
        asked = {"agent": agent, "paths": [self.name()], "ttlS": 3600}
        lease = self.life.expect(200, "POST", "/api/coordination/declare", asked)
        self.ledger.leases[lease["id"]], self.ledger.declaring = lease, None
        self.record("lease.declare", agent, lease["id"])
        return str(lease["id"])

    def complete(self, agent: str, lease: str) -> None:
        self.ledger.completing.add(lease)
        body = {"agent": agent, "lease": lease}
        self.life.expect(200, "POST", "/api/coordination/complete", body)
        del self.ledger.leases[lease]
        self.ledger.completed.add(lease)
        self.record("lease.complete", agent, lease)

    def denied(self, agent: str) -> None:
        path = f"nobody/{self.name()}"
        knock = {"agent": agent, "operation": "write", "path": path}
        assert self.life.expect(200, "POST", "/api/knock", knock)["allow"] is False
        self.record("knock", agent, path)

    def granted(self, agent: str) -> None:
        path = self.ledger.agents[agent].scope[0].replace("**", self.name())
        knock = {"agent": agent, "operation": "write", "path": path}
        assert self.life.expect(200, "POST", "/api/knock", knock)["allow"] is True
        self.record("knock", agent, path)

    def refused(self, agent: str) -> None:
        spec = {"role": "r", "argv": ["true"], "scope": self.ledger.agents[agent].scope}
        problem = self.life.expect(409, "POST", "/api/agents", spec)
        assert problem["owner"] == agent
        self.record("agent.refuse", None, problem["witness"])

    def instruct(self, agent: str) -> None:
        self.life.expect(200, "POST", f"/api/agents/{agent}/instruct", {"text": self.name()})
        self.record("agent.instruct", agent)

    def read(self, agent: str) -> None:
        known = self.ledger.agents[agent]
        page = self.life.expect(200, "GET", f"/api/agents/{agent}/output?after=0&limit=1000")
        known.lines.update({line["seq"]: line["text"] for line in page["lines"]})

    def clear(self) -> None:
        """Resumes one agent of the life before, lays the others to rest."""
        left = [(agent, known.states) for agent, known in self.ledger.agents.items()]
        held = [agent for agent, states in left if states == {"interrupted"}]
        if held:
            self.refused(held[0])
            self.resume(held[0])
            self.instruct(held[0])
            self.stop(held[0])
        if held[1:]:
            self.stop(held[1])
        for agent, _ in left:
            self.remove(agent)

    def tour(self) -> None:
        """One of everything."""
        self.clear()
        one = self.spawn(containment="hooks")
        self.read(one)
        first = self.declare(one)
        self.declare(one)
        self.denied(one)
        self.granted(one)
        self.complete(one, first)
        self.rename(one)
        self.instruct(one)
        two = self.spawn()
        self.declare(two)
        self.stop(two)
        three = self.spawn(containment="hooks")
        self.refused(three)
        self.read(one)
        self.remove(two)

    def wander(self, draw: random.Random) -> NoReturn:
        """Anything, again and again."""
        self.clear()
        while True:
            agent = self.spawn(containment="hooks")
            leases = [self.declare(agent)]
            each: list[Callable[[], object]] = [
                lambda agent=agent: self.denied(agent),
                lambda agent=agent: self.granted(agent),
                lambda agent=agent: self.read(agent),
                lambda agent=agent: self.rename(agent),
                lambda agent=agent: self.instruct(agent),
                lambda agent=agent: self.refused(agent),
                lambda agent=agent, leases=leases: leases.append(self.declare(agent)),
                lambda agent=agent, leases=leases: leases and self.complete(agent, leases.pop()),
            ]
            for _ in range(draw.randrange(30)):
                draw.choice(each)()
            self.stop(agent)
            if draw.random() < 0.7:
                self.remove(agent)


class House:
    """A project, its user's configuration, and the ledgers of all who used its daemons."""

    def __init__(self, project: Path, config: Path) -> None:
        self.project = project
        self.config = config
        self.ledgers = [Ledger() for _ in range(WORKERS)]
        self.told: list[str] = []

    def live(self, asked: str, use: Callable[[Life], None]) -> None:
        """A life: what the one before left is checked, then it is used until it is killed."""
        life = Life(self.project, asked)
        try:
            if life.alive:
                with contextlib.suppress(Gone):
                    self.check(life)
                    use(life)
        finally:
            self.told.append(life.kill())

    def keep(self) -> None:
        """Keeps how all stands now."""
        self.kept = copy.deepcopy(self.ledgers)
        for place in (self.project, self.config):
            shutil.copytree(place, f"{place}.kept")

    def turn_back(self) -> None:
        """Lets all stand again as it was kept, when nothing lived of any agent."""
        self.end()
        self.ledgers = copy.deepcopy(self.kept)
        for place in (self.project, self.config):
            shutil.rmtree(place)
            shutil.copytree(f"{place}.kept", place)

    def end(self) -> None:
        """Ends what lives of agents."""
        while pids := self.left():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def left(self) -> list[int]:
        """Processes of agents."""
        tag = f"GROOVE_PROJECT={self.project}".encode()
        return [
            pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if bears(pid, tag)
        ]

    # What must be found

    def check(self, life: Life) -> None:
        assert self.left() == []  # nothing lives by the time that anybody is answered
        views = {view["id"]: view for view in life.expect(200, "GET", "/api/agents")}
        locks = life.expect(200, "GET", "/api/locks")
        for ledger in self.ledgers:
            self._check_agents(ledger, views)
        known = {agent for ledger in self.ledgers for agent in ledger.agents}
        assert set(views) <= known, "an agent nobody asked for"
        held = {each["agent"]: each["scope"] for each in locks["holdings"]}
        interrupted = {key for key, view in views.items() if view["state"] == "interrupted"}
        assert held == {key: views[key]["scope"] for key in interrupted}
        leases = {lease["id"]: lease for lease in locks["leases"]}
        for ledger in self.ledgers:
            self._check_leases(ledger, leases, interrupted)
        known = {lease for ledger in self.ledgers for lease in ledger.leases}
        assert set(leases) <= known, "a lease nobody asked for"
        for agent in views:
            self._check_output(life, agent)
        self._check_log()
        self._check_litter()

    def _check_agents(self, ledger: Ledger, views: dict[str, Any]) -> None:
        if ledger.spawning is not None:
            (name,) = ledger.spawning.names
            new = [key for key, view in views.items() if view["name"] == name]
            ledger.agents.update(dict.fromkeys(new, ledger.spawning))
            ledger.spawning = None
        assert not ledger.removed & set(views)
        for agent, known in list(ledger.agents.items()):
            if "removed" in known.states and agent not in views:
                del ledger.agents[agent]
                ledger.removed.add(agent)
                continue
            view = views[agent]
            assert view["state"] in known.states, view
            assert view["name"] in known.names, view
            assert view["scope"] == known.scope, view
            known.states, known.names = {view["state"]}, {view["name"]}

    def _check_leases(self, ledger: Ledger, leases: dict[str, Any], interrupted: set[str]) -> None:
        assert not ledger.completed & set(leases)
        for lease in leases.values():
            if lease["agent"] == ledger.declaring:
                ledger.leases.setdefault(lease["id"], lease)
        ledger.declaring = None
        for lease, told in list(ledger.leases.items()):
            if lease in leases:
                assert leases[lease] == told
                assert told["agent"] in interrupted
                continue
            assert told["agent"] not in interrupted or lease in ledger.completing, told
            del ledger.leases[lease]
            ledger.completed.add(lease)
        ledger.completing.clear()

    def _check_output(self, life: Life, agent: str) -> None:
        page = life.expect(200, "GET", f"/api/agents/{agent}/output?after=0&limit=1000")
        found = {line["seq"]: line["text"] for line in page["lines"]}
        assert list(found) == list(range(1, len(found) + 1))
        (known,) = [each.agents[agent] for each in self.ledgers if agent in each.agents]
        assert known.lines.items() <= found.items()

    def _check_log(self) -> None:
        log = self.project / ".groove/audit"
        verified = verify_log(log, self.config)
        assert verified.ok, verified
        assert verified.keyed
        assert verified.checkpoint is not None
        found: Counter[tuple[str, str]] = Counter()
        texts: set[tuple[str, str]] = set()
        for line in b"".join(path.read_bytes() for path in sorted(log.iterdir())).splitlines():
            try:
                record = json.loads(line)
            except ValueError:  # cut short by a death; verifying sees to it that it is no more
                continue
            family = record["action"].partition(".")[0]
            action = "knock" if family == "knock" else record["action"]
            found[action, record.get("agent")] += 1
            detail = record.get("detail") or record
            texts |= {(action, str(detail.get(key))) for key in ("path", "lease", "witness")}
        for ledger in self.ledgers:
            for (action, agent, text), count in ledger.records.items():
                assert not text or (action, text) in texts, (action, text)
                assert text or found[action, agent] >= count, (action, agent)

    def _check_litter(self) -> None:
        state = self.project / ".groove"
        places = (state, state / "agents", self.config, self.config / "heads")
        names = {path.name for place in places for path in place.iterdir()}
        assert not [name for name in names if name.endswith((".tmp", ".new", ".gone", ".bad"))]
        assert not [name for name in names if name.startswith("canary")]


def bears(pid: int, tag: bytes) -> bool:
    try:
        return tag in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "project").mkdir()
    house = House((tmp_path / "project").resolve(), tmp_path / "config/groove-trio")
    yield house
    house.end()


def points(house: House, tmp_path: Path) -> list[str]:
    """All points of a life that follows another, by a life that is killed at its end."""
    trace = tmp_path / "trace"
    house.live("", tour(house))
    house.keep()
    house.live(str(trace), tour(house))
    return trace.read_text().splitlines()


def tour(house: House) -> Callable[[Life], None]:
    return lambda life: Client(life, house.ledgers[0], "a").tour()


def test_killed_at_each_point_it_loses_nothing_that_was_told(house: House, tmp_path: Path) -> None:
    there = points(house, tmp_path)
    kinds = Counter(line.split()[0] for line in there)
    assert min(kinds[kind] for kind in ("fsync", "fdatasync", "replace", "rename", "send")) > 1
    numbers = range(1, len(there) + 1)
    asked = [f"{number}:{phase}" for number in numbers for phase in ("before", "after")]
    if not ROUNDS:
        draw = random.Random(os.urandom(8))
        asked = sorted(draw.sample(asked, EXACT_ROUNDS), key=lambda each: int(each.split(":")[0]))
    starting = next(number for number in numbers if there[number - 1].startswith("send"))
    for each in asked:
        number = int(each.split(":")[0])
        print("killed at", each, there[number - 1])  # which, if this fails
        if number < starting:
            house.turn_back()  # a start that finds less to do takes other steps
        house.live(each, tour(house))
    house.live("", lambda _: None)


def test_killed_at_random_under_load_it_loses_nothing_that_was_told(house: House) -> None:
    seed = random.SystemRandom().randrange(10**9)
    print("seed", seed)
    draw = random.Random(seed)

    def load(life: Life) -> None:
        failed: list[BaseException] = []

        def work(number: int) -> None:
            own = random.Random(draw.random())
            try:
                Client(life, house.ledgers[number], "abcd"[number]).wander(own)
            except Gone:
                pass
            except BaseException as error:  # noqa: BLE001 - raised in the thread of the test
                failed.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(WORKERS)]
        for thread in threads:
            thread.start()
        time.sleep(draw.uniform(0, 1.0))
        life.process.send_signal(signal.SIGKILL)
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]

    for _ in range(ROUNDS or RANDOM_ROUNDS):
        house.live("", load)
    house.live("", lambda _: None)
