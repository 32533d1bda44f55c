"""What it costs to be behind the gate, beside floors and other ways, all in one run.

    python tests/bench/bench_gate.py [opens|reads|tree|health|agents|start ...]

Exits with 1 when a bound is missed. Short runs are taken several times, in turns, and the best
counts, since everything else on the machine only ever makes them slower; ``chrt -f 10`` keeps
the rest of the machine out altogether. The floors are in `gate_floors`, and the workers in
`gate_child`. ``pip install sandlock`` has that package measured, too.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import gate_floors as floors
import load

from groove_trio.cli.launch import start_detached, stop_daemon
from groove_trio.shell.kernel import landlock_version
from groove_trio.shell.wall import build_wall

ROUNDS = 5
OPENS = 2000
FILES, DIRECTORIES = 2000, 300
MAX_OPEN, MAX_READ, MAX_TREE = 2.5, 1.1, 1.5  # times the floor
MAX_HEALTH_MS = 25.0
MAX_GROWTH = 1.25  # of the cost of a knock, from one agent to a hundred: flat, but for noise
MAX_START_MS, MAX_WALL_MS = 30.0, 10.0
CROWDS = (1, 10, 100)
FLAT_OUT_S = 6

Told = dict[str, Any]


class Daemon:
    """A daemon of its own process, and its agents."""

    def __init__(self, project: Path, url: str, pid: int) -> None:
        self.project, self.url, self.pid = project, url, pid
        self.count = 0

    def ask(self, method: str, path: str, body: object = None) -> Told:
        connection = http.client.HTTPConnection(*load.address_of(self.url), timeout=60)
        try:
            fields = {"content-type": "application/json"}
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, fields)
            answer = connection.getresponse()
            said: Told = json.loads(answer.read() or b"{}")
            assert answer.status < 300, said
            return said
        finally:
            connection.close()

    def spawn(self, argv: list[str], scope: str, cwd: str = ".", level: str = "gate") -> str:
        self.count += 1
        spec = {"role": "bench", "name": f"bench-{self.count}", "argv": argv, "cwd": cwd}
        agent: str = self.ask(
            "POST", "/api/agents", {**spec, "scope": [scope], "containment": level}
        )["id"]
        return agent

    def ended(self, agent: str) -> str:
        """What it said, when it has ended."""
        while (state := self.ask("GET", f"/api/agents/{agent}")["state"]) in {
            "starting",
            "running",
        }:
            time.sleep(0.02)
        said = self.ask("GET", f"/api/agents/{agent}/output?limit=100")["lines"]
        assert state == "completed", said
        self.ask("DELETE", f"/api/agents/{agent}")
        return str(said[0]["text"]) if said else ""

    def work(self, kind: str, *counts: int, level: str = "gate") -> Told:
        argv = [*floors.ARGV, kind, *(str(count) for count in counts)]
        found: Told = json.loads(self.ended(self.spawn(argv, "work/**", "work", level)))
        return found

    def cpu_s(self) -> float:
        return load.vitals(self.pid).cpu_s


MEMORY = "/dev/shm"


@contextmanager
def daemon(where: str | None = None) -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="bench-", dir=where) as place:
        project = Path(place).resolve() / "project"
        (project / "work").mkdir(parents=True)
        started = start_detached(project, port=0)
        try:
            yield Daemon(project, started.url, started.pid)
        finally:
            stop_daemon(project)


def best(ways: dict[str, Callable[[], float | None]], rounds: int = ROUNDS) -> dict[str, float]:
    """The shortest time of each, taken in turns."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            if (time_taken := way()) is not None:
                taken[name].append(time_taken)
    return {name: min(times) for name, times in taken.items() if times}


def alone(place: Path, *what: object) -> Told:
    """The same work without a sandbox."""
    argv = [*floors.ARGV, *(str(each) for each in what)]
    found: Told = json.loads(subprocess.check_output(argv, cwd=place))
    return found


def row(name: str, figure: float, unit: str, than: float | None = None) -> None:
    ratio = "" if than is None else f"{figure / than:7.2f}x"
    print(f"  {name:<44}{figure:9.1f} {unit}{ratio}")


def bound(name: str, figure: float, most: float) -> list[str]:
    return [f"{name}: {figure:.2f}, which is over {most:g}"] if figure > most else []


def opens(kind: str) -> list[str]:
    """An open and close that is held, beside the floors.

    In memory: ext4 takes a millisecond for a new file for minutes after many were removed.
    """
    with daemon(MEMORY if os.path.isdir(MEMORY) else None) as ours:
        place = ours.project / "work"
        ways: dict[str, Callable[[], float | None]] = {
            "unconfined": lambda: alone(place, kind, OPENS)["each_us"],
            "bare: received, handed over": partial(floors.bare, place, kind, OPENS),
            "bare, on trio": partial(floors.bare_on_trio, place, kind, OPENS),
            "behind the gate": lambda: ours.work(kind, OPENS)["each_us"],
            "ptrace, stopped by a filter": partial(
                floors.by_ptrace, place, kind, OPENS, filtered=True
            ),
            "ptrace, stopped at each call": partial(
                floors.by_ptrace, place, kind, OPENS, filtered=False
            ),
            "sandlock, a policy callback": partial(floors.by_sandlock, place, kind, OPENS),
        }
        found = best(ways)
    print(f"open and close, {kind}")
    than = found["bare: received, handed over"]
    for name, figure in found.items():
        row(name, figure, "us", than)
    gate = found.pop("behind the gate")
    wrong = bound(f"{kind}: gate to bare", gate / than, MAX_OPEN)
    for name in ("ptrace, stopped at each call", "sandlock, a policy callback"):
        if name not in found:
            print("  SANDLOCK IS NOT INSTALLED: not measured")
        elif gate > found[name]:
            wrong.append(f"{kind}: behind {name}")
    return wrong


def reads() -> list[str]:
    """What no gate sees. Of an open alone, a third is the wall's: it looks at each directory."""
    ratio = 0.0
    with daemon() as ours:
        place = ours.project / "work"
        for kind, name in (("read", "open and close, read"), ("whole", "a file of 8 KiB, read")):
            found = best(
                {
                    "unconfined": lambda kind=kind: alone(place, kind, OPENS * 10)["each_us"],
                    "behind the gate": lambda kind=kind: ours.work(kind, OPENS * 10)["each_us"],
                }
            )
            print(name)
            for way, figure in found.items():
                row(way, figure, "us", found["unconfined"])
            ratio = found["behind the gate"] / found["unconfined"]
    return bound("reads", ratio, MAX_READ)


def tree() -> list[str]:
    """Many small files, as an installer writes them; and `npm install`, if there is a registry."""
    with daemon() as ours:
        place = ours.project / "work"
        found = best(
            {
                "unconfined": lambda: alone(place, "tree", DIRECTORIES, FILES)["took_s"],
                "behind the gate": lambda: ours.work("tree", DIRECTORIES, FILES)["took_s"],
            },
            rounds=3,
        )
        print(f"{FILES} files in {DIRECTORIES} directories")
        for name, figure in found.items():
            row(name, figure * 1000, "ms", found["unconfined"] * 1000)
        wrong = bound("tree", found["behind the gate"] / found["unconfined"], MAX_TREE)
        return wrong + npm(ours)


NPM = "npm install --no-audit --no-fund --silent --prefer-offline --cache ../cache"
PACKAGES = "express eslint prettier"


def npm(ours: Daemon) -> list[str]:
    app = ours.project / "work/app"
    command = f"{NPM} {PACKAGES}"

    def anew() -> float:
        shutil.rmtree(app, ignore_errors=True)
        app.mkdir()
        (app / "package.json").write_text('{"name": "app", "version": "1.0.0"}')
        return time.perf_counter()

    def unconfined() -> float:
        begin = anew()
        subprocess.run(command, shell=True, cwd=app, check=True, capture_output=True)
        return time.perf_counter() - begin

    def confined() -> float:
        begin = anew()
        ours.ended(ours.spawn(["sh", "-c", command], "work/**", "work/app"))
        return time.perf_counter() - begin

    try:
        unconfined()  # fills the cache, so that nothing waits for a network
    except (OSError, subprocess.CalledProcessError):
        print("  NO NPM, OR NO REGISTRY: npm install is not measured")
        return []
    found = best({"unconfined": unconfined, "behind the gate": confined}, rounds=2)
    print(f"npm install {PACKAGES}: {sum(1 for _ in app.rglob('*')):,} names")
    for name, figure in found.items():
        row(name, figure * 1000, "ms", found["unconfined"] * 1000)
    return bound("npm install", found["behind the gate"] / found["unconfined"], MAX_TREE)


def health() -> list[str]:
    """The daemon's own answers while four agents write as fast as they are let."""
    with daemon() as ours:
        agents = []
        for number in range(4):
            name = f"part{number}"
            (ours.project / name).mkdir()
            argv = [*floors.ARGV, "flat-out", str(FLAT_OUT_S)]
            agents.append(ours.spawn(argv, f"{name}/**", name))
        with load.crowd("probe", ours.url, 1) as probe:
            time.sleep(FLAT_OUT_S - 2)
            found = probe.finish()
        opened = sum(json.loads(ours.ended(agent))["count"] for agent in agents)
    print(f"GET /api/health, while four agents make {opened / FLAT_OUT_S:,.0f} opens a second")
    for share in ("p50", "p99", "worst"):
        row(share, found[f"{share}_ms"], "ms")
    return bound("health p99, ms", found["p99_ms"], MAX_HEALTH_MS)


def agents() -> list[str]:
    """The daemon's CPU time for a knock, with more and more agents there."""
    print("the daemon's CPU time for a held open")
    costs: list[float] = []
    with daemon() as ours:

        def cost() -> float:
            before = ours.cpu_s()
            ours.work("existing", OPENS)
            return (ours.cpu_s() - before) / OPENS * 1e6

        for crowd in CROWDS:
            while ours.count < crowd - 1:
                ours.spawn(["sleep", "1000"], f"idle{ours.count}/**")
            costs.append(min(cost() for _ in range(3)))
            row(f"{crowd} agents", costs[-1], "us", costs[0])
    return bound("cost with more agents", costs[-1] / costs[0], MAX_GROWTH)


def start() -> list[str]:
    """A program's start: through the launcher, and without."""

    def took(argv: list[str]) -> float:
        begin = time.perf_counter()
        subprocess.run(argv, check=True)
        return (time.perf_counter() - begin) * 1000

    with daemon() as ours:

        def spawned(level: str) -> float:
            begin = time.perf_counter()
            agent = ours.spawn(["true"], "work/**", level=level)
            taken = (time.perf_counter() - begin) * 1000
            ours.ended(agent)
            return taken

        times: dict[str, list[float]] = {"python": [], "hooks": [], "wall": [], "gate": []}
        for _ in range(ROUNDS * 3):
            times["python"].append(took([sys.executable, "-I", "-S", "-c", ""]))
            for level in ("hooks", "wall", "gate"):
                times[level].append(spawned(level))
    found = {name: median(each) for name, each in times.items()}
    print("start of an agent")
    row("an isolated interpreter, that does nothing", found["python"], "ms")
    for level in ("hooks", "wall", "gate"):
        row(f"to be told that it runs, level {level}", found[level], "ms")
    launcher = found["gate"] - found["hooks"] - found["python"]
    row("the launcher, beside its interpreter", launcher, "ms")
    wall = landlocked()
    row("its wall, from the first rule to the last", wall, "ms")
    return bound("launcher, ms", launcher, MAX_START_MS) + bound("wall, ms", wall, MAX_WALL_MS)


WALL = """
import json, os, sys, time
sys.path.insert(0, sys.argv[1])
import launch
class Link:
    def say(self, *strings): pass
class Plan: pass
plan = Plan()
plan.wall = [os.fsencode(each) for each in json.load(sys.stdin)]
launch.forbid_privileges(plan, None)
begin = time.perf_counter()
launch.build_wall(plan, Link())
print((time.perf_counter() - begin) * 1000)
"""


def landlocked() -> float:
    """What the wall alone takes, as the launcher builds it for this user's home."""
    from groove_trio.confine import launch

    home = str(Path.home())
    hidden = [f"{home}/{name}" for name in (".ssh", ".aws", ".gnupg")]
    wall = build_wall(
        level="gate",
        project=os.getcwd(),
        tmp=tempfile.gettempdir(),
        patterns=["**"],
        hidden=hidden,
        version=landlock_version(),
    ).ruleset
    rules = [str(each) for rule in wall.rules for each in rule]
    told = json.dumps([str(wall.handled), str(wall.scoped), *rules]).encode()
    argv = [sys.executable, "-I", "-S", "-c", WALL, os.path.dirname(launch.__file__)]
    return median(
        float(subprocess.run(argv, input=told, check=True, capture_output=True).stdout)
        for _ in range(ROUNDS)
    )


PARTS: dict[str, Callable[[], list[str]]] = {
    "opens": lambda: opens("existing") + opens("create"),
    "reads": reads,
    "tree": tree,
    "health": health,
    "agents": agents,
    "start": start,
}


def main(parts: list[str]) -> int:
    wrong = [line for part in parts or PARTS for line in PARTS[part]()]
    print(*(wrong or ["all bounds are kept"]), sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
