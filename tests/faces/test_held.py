"""How firmly agents are held, wherever it is told: verbs, events, log, demo, and at the start."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from groove_trio.cli.launch import wait_gone
from groove_trio.shell.daemonfile import running_daemon
from groove_trio.words.errors import GrooveError

Daemon = Any  # of conftest.py, which cannot be imported
LESSER = str(Path(__file__).with_name("lesser.py"))
COMMAND = [sys.executable, "-m", "groove_trio"]
OUTSIDE = "(echo x > outside.txt); mkdir inside/made; unshare -r true; exit 0"


def verb(project: Path, *arguments: str, lacks: str = "") -> subprocess.CompletedProcess[str]:
    lesser = [sys.executable, LESSER, lacks] if lacks else []
    return subprocess.run(
        [*lesser, *COMMAND, *arguments],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def gated(daemon: Daemon) -> Daemon:
    """The daemon of this file, where its kernel gives a gate."""
    told = daemon("status", "--json").json
    if "gate" not in told["containment"]:
        pytest.skip(f"NO GATE on this kernel, so nothing of it is tested: {told['missing']}")
    (daemon.project / "inside").mkdir()
    return daemon


class Held(NamedTuple):
    """An agent that has tried what it may and may not, and what `events` showed meanwhile."""

    id: str
    text: str
    events: list[dict[str, Any]]


@pytest.fixture(scope="module")
def held(gated: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Held:
    """The agent; it has ended."""
    place = tmp_path_factory.mktemp("events")
    with ExitStack() as stack:
        for name, options in (("text", ()), ("json", ("--json",))):
            file = stack.enter_context((place / name).open("w"))
            command = [*gated.command, "events", *options]
            process = subprocess.Popen(command, cwd=gated.project, stdout=file)
            stack.callback(process.wait)
            stack.callback(process.kill)
            until(place / name, "agents")  # the snapshot
        argv = ["sh", "-c", OUTSIDE]
        done = gated("spawn", "--json", "--name", "held", "--scope", "inside/**", "--", *argv)
        assert done.code == 0, done.err
        until(place / "text", "running -> completed")
        until(place / "json", '"after":"completed"')
    lines = (place / "json").read_text().splitlines()
    events = [json.loads(line)["event"] for line in lines]
    return Held(done.json["id"], (place / "text").read_text(), events)


def until(file: Path, text: str) -> None:
    end = time.monotonic() + 20
    while text not in file.read_text():
        assert time.monotonic() < end, file.read_text()
        time.sleep(0.02)


def records(daemon: Daemon, agent: str, action: str) -> list[dict[str, Any]]:
    done = daemon("audit", "--json", "-n", "0", "--agent", agent, "--action", action)
    return [record["detail"] for record in done.lines]


def test_agents_tells_the_level_of_each(gated: Daemon, held: Held) -> None:
    options = ("--name", "loose", "--read-only", "--containment", "hooks")
    assert gated("spawn", *options, "--", "true").code == 0
    header, *rows = gated("agents").out.splitlines()
    column = header.index("HELD BY")
    levels = {row.split()[1]: row[column:].split()[0] for row in rows}
    assert levels == levels | {"held": "gate", "loose": "hooks"}


def test_agent_tells_how_each_pattern_is_held(gated: Daemon, held: Held) -> None:
    told = gated("agent", "held").out
    assert re.search(r"^held by +gate: ", told, re.MULTILINE)
    assert re.search(r"^scope +inside/\*\* is held by gate, exactly$", told, re.MULTILINE)
    canary = re.search(r"^canary +(.*)$", told, re.MULTILINE)
    assert canary is not None
    attempts = re.findall(r"(\w+) failed \((E\w+)\)", canary.group(1))
    assert {"write", "rename", "symlink"} <= dict(attempts).keys()
    view = gated("agent", "--json", held.id).json
    assert view["canary"] == dict(attempts)
    assert view["held"] == [{"pattern": "inside/**", "by": "gate", "how": "exact", "why": ""}]
    assert "no agent 'nobody'" in gated("agent", "nobody").err


def test_agent_at_hooks_is_told_to_be_loose(gated: Daemon) -> None:
    options = ("--name", "looser", "--read-only", "--containment", "hooks")
    assert gated("spawn", *options, "--", "true").code == 0
    told = gated("agent", "looser").out
    assert re.search(r"^held by +hooks: .*NOTHING HOLDS", told, re.MULTILINE)
    assert re.search(r"^canary +none was sent$", told, re.MULTILINE)


def test_log_says_what_holds_a_run(gated: Daemon, held: Held) -> None:
    (started,) = records(gated, held.id, "agent.started")
    assert started["containment"] == "gate"
    assert started["landlock"] >= 1
    assert started["canary"] == gated("agent", "--json", "held").json["canary"]
    assert started["canary"].keys() >= {"write", "rename", "symlink"}


def test_events_name_program_and_call(gated: Daemon, held: Held) -> None:
    (denied,) = records(gated, held.id, "knock.denied")
    by = rf"sh \(process {denied['pid']}\) by {denied['call']}: create outside\.txt"
    assert re.search(rf"{held.id}  {by}: denied by {denied['rule']}, \S", held.text)
    assert re.search(r"mkdir \(process \d+\) by mkdir(at)?: create inside/made: granted", held.text)
    assert re.search(r"unshare \(process \d+\) by unshare: refused", held.text)


def test_events_carry_program_and_call(gated: Daemon, held: Held) -> None:
    (denied,) = records(gated, held.id, "knock.denied")
    knocks = [each for each in held.events if each["type"] == "knockDecided" and "call" in each]
    (found,) = [each for each in knocks if each["decision"]["decision"] == "denied"]
    assert (found["tool"], found["call"]) == ("sh", denied["call"])
    assert (found["pid"], found["source"]) == (denied["pid"], "gate")
    (refused,) = [each for each in held.events if each["type"] == "callRefused"]
    assert (refused["call"], refused["tool"]) == ("unshare", "unshare")


# On a kernel that has less


@pytest.fixture(scope="module", params=["listener", "landlock"])
def lesser(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, str]]:
    """A project whose daemon lacks something; and what."""
    project = tmp_path_factory.mktemp("lesser").resolve()
    started = verb(project, "start", "--detach", "--port", "0", lacks=request.param)
    assert started.returncode == 0, started.stderr
    yield project, request.param
    assert verb(project, "stop").returncode == 0


BEST = {"listener": "wall", "landlock": "hooks"}


def test_status_tells_what_is_missing(lesser: tuple[Path, str]) -> None:
    project, lacks = lesser
    told = verb(project, "status").stdout
    levels = "wall hooks" if lacks == "listener" else "hooks"
    assert re.search(rf"^containment +{levels}$", told, re.MULTILINE)
    assert re.search(r"^missing +gate is not available: it needs \S+", told, re.MULTILINE)
    wanting = told.count("is not available")
    assert wanting == (1 if lacks == "listener" else 2)
    if lacks == "landlock":
        assert "Landlock" in told
    # Where nobody asks, the daemon's own log says it.
    log = (project / ".groove" / "daemon.log").read_text()
    assert log.count("WARNING gate is not available: it needs") == 1


def test_more_than_there_is_is_refused_with_what_it_needs(lesser: tuple[Path, str]) -> None:
    project, lacks = lesser
    asked = ("spawn", "--read-only", "--containment", "gate", "--", "true")
    refused = verb(project, *asked)
    assert refused.returncode == 3
    assert refused.stdout == ""
    missing = json.loads(verb(project, "status", "--json").stdout)["missing"]
    why = next(each for each in missing if each.startswith("gate")).partition("it needs ")[2]
    assert f"gate needs {why}" in refused.stderr
    problem = json.loads(verb(project, "spawn", "--json", *asked[1:]).stderr)
    assert problem["available"] == (["wall", "hooks"] if lacks == "listener" else ["hooks"])
    assert json.loads(verb(project, "agents", "--json").stdout) == []


def test_what_is_not_asked_for_is_the_best_there_is(lesser: tuple[Path, str]) -> None:
    project, lacks = lesser
    done = verb(project, "spawn", "--name", "best", "--read-only", "--", "true")
    assert done.stdout.endswith(f", held by {BEST[lacks]}\n"), done.stderr
    assert verb(project, "kill", "best").returncode in {0, 3}
    assert verb(project, "remove", "best").returncode == 0


@pytest.mark.parametrize("lacks", BEST)
def test_demo_tells_loudly_what_it_cannot_show(tmp_path: Path, lacks: str) -> None:
    told = subprocess.run(
        [sys.executable, LESSER, lacks, *COMMAND, "demo", "--json"],
        env=os.environ | {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    story = json.loads(told.stdout)
    assert story["ok"] is True
    (lacking,) = story["notShown"]
    assert "gate is not available: it needs" in lacking
    behind = [each["claim"] for each in story["claims"] if "refused by the kernel" in each["claim"]]
    assert len(behind) == (3 if lacks == "listener" else 0)


# At the start, and at the end


def test_root_is_warned_once_and_nobody_else(tmp_path: Path) -> None:
    started = verb(tmp_path, "start", "--detach", "--port", "0", "--json")
    try:
        assert json.loads(started.stdout).keys() == {"version", "url", "pid", "project"}
        root = os.geteuid() == 0
        warned = r"groove-trio: warning: run by root: .*\.\n" if root else ""
        assert re.fullmatch(warned, started.stderr)
        log = (tmp_path / ".groove" / "daemon.log").read_text()
        assert log.count("WARNING run by root") == root
    finally:
        assert verb(tmp_path, "stop").returncode == 0


def test_stop_sets_a_stopped_guard_going(tmp_path: Path) -> None:
    assert verb(tmp_path, "start", "--detach", "--port", "0").returncode == 0
    info = running_daemon(tmp_path)
    assert info is not None
    assert info.guard_pid is not None
    os.kill(info.guard_pid, signal.SIGSTOP)
    began = time.monotonic()
    assert verb(tmp_path, "stop").returncode == 0
    assert time.monotonic() - began < 10
    state = Path(f"/proc/{info.guard_pid}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_guard_that_does_not_end_is_told_of() -> None:
    over = subprocess.Popen(["true"])
    deaf = subprocess.Popen(["sleep", "60"])
    descriptors = [os.pidfd_open(each.pid) for each in (over, deaf)]
    told: list[float] = []
    try:
        with pytest.raises(GrooveError, match="guard has not"):
            wait_gone(descriptors, told.append, 0.05)
    finally:
        for each in descriptors:
            os.close(each)
        deaf.kill()
        deaf.wait()
        over.wait()
