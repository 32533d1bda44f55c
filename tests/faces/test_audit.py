"""The verbs about the audit log, beside a daemon whose log is about to begin another segment."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import trio

from groove_trio.shell.audit import SEGMENT_BYTES, open_audit
from groove_trio.shell.heads import checkpoint_path
from groove_trio.shell.private import config_directory
from groove_trio.shell.segments import list_segments
from groove_trio.words.actors import OWNER, agent_actor
from groove_trio.words.audit import AuditEntry
from groove_trio.words.base import AgentId
from groove_trio.words.clock import NS

from .conftest import Cli, Daemon, environment

EARLY = 1_577_836_800 * NS  # 2020, before anything that a daemon records here
GHOST = AgentId("deadbeef")
FILLER = 1000


async def nearly_full(project: Path) -> int:
    """Leaves a log with room in its segment for one record more; tells how many it has."""
    (project / ".groove").mkdir(0o700)
    place = project / ".groove/audit"
    entry = AuditEntry(actor=OWNER, action="bench", detail={"filler": "x" * 1000})
    async with open_audit(place, clock=lambda: EARLY) as log:
        log.append([AuditEntry(actor=agent_actor(GHOST), action="ghost.walk", agent=GHOST)] * 3)
        while (place / "00000001.jsonl").stat().st_size < SEGMENT_BYTES - 2_000 * FILLER:
            log.append([entry] * FILLER)
        while (place / "00000001.jsonl").stat().st_size < SEGMENT_BYTES - 2_500:
            log.append([entry])
    return log.seq


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    from groove_trio.cli.launch import start_detached, stop_daemon

    project = tmp_path_factory.mktemp("full").resolve()
    trio.run(nearly_full, project)
    started = start_detached(project, port=0)
    yield Daemon(project, started.url, [sys.executable, "-m", "groove_trio"])
    stop_daemon(project)


def spawn(daemon: Daemon, name: str) -> str:
    done = daemon("spawn", "--name", name, "--json", "--", "true")
    assert done.code == 0, done.err
    return str(done.json["id"])


def until_told(daemon: Daemon) -> None:
    """Waits until the checkpoint knows the log's end."""
    deadline = time.monotonic() + 20
    while daemon("audit", "key").json["seq"] < daemon("status", "--json").json["auditSeq"]:
        assert time.monotonic() < deadline


def seqs(lines: list[dict[str, int]]) -> list[int]:
    return [each["seq"] for each in lines]


def test_follow_goes_on_into_the_next_segment(daemon: Daemon) -> None:
    process = subprocess.Popen(
        [*daemon.command, "audit", "--follow", "--json", "-n", "1"],
        cwd=daemon.project,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    told = [json.loads(process.stdout.readline())]
    before = len(list_segments(daemon.project / ".groove/audit"))
    number = 0
    while len(list_segments(daemon.project / ".groove/audit")) == before or number < 2:
        spawn(daemon, f"roller-{number}")
        number += 1
        assert number < 20
    last = daemon("status", "--json").json["auditSeq"]
    while told[-1]["seq"] < last:
        told.append(json.loads(process.stdout.readline()))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert all(late["seq"] == early["seq"] + 1 for early, late in pairwise(told))
    assert daemon("audit", "verify", "--json").json["ok"] is True


def test_the_last_records_are_found_without_reading_the_rest(daemon: Daemon) -> None:
    end = daemon("status", "--json").json["auditSeq"]
    assert end > 50_000
    assert seqs(daemon("audit", "--json", "-n", "3").lines) == [end - 2, end - 1, end]
    assert seqs(daemon("audit", "--json").lines) == list(range(end - 49, end + 1))
    # These are at the other end.
    ghosts = daemon("audit", "--json", "--actor", f"agent:{GHOST}").lines
    assert seqs(ghosts) == [2, 3, 4]
    assert seqs(daemon("audit", "--json", "--action", "ghost", "-n", "2").lines) == [3, 4]
    assert seqs(daemon("audit", "--json", "--agent", GHOST, "--after", "2").lines) == [3, 4]


def test_records_are_chosen_by_time_and_actor(daemon: Daemon) -> None:
    spawn(daemon, "timely")
    recent = daemon("audit", "--json", "--since", "1h").lines
    assert recent[0]["action"] == "audit.open"
    assert {each["seq"] for each in recent} == set(
        range(recent[0]["seq"], recent[-1]["seq"] + 1)
    ), "and they are all there is"
    moment = recent[2]["time"]
    assert daemon("audit", "--json", "--since", moment).lines[0]["seq"] == recent[2]["seq"]
    between = daemon("audit", "--json", "--since", "1h", "--until", moment).lines
    assert seqs(between) == [each["seq"] for each in recent if each["time"] < moment]
    early = daemon("audit", "--json", "--until", "2020-06-01", "-n", "1").lines
    assert early[0]["seq"] == recent[0]["seq"] - 1
    owner = daemon("audit", "--json", "--since", "1h", "--actor", "owner").lines
    assert owner
    assert {each["actor"] for each in owner} == {"owner"}
    assert daemon("audit", "--since", "yesterday").code == 2
    assert "10m" in daemon("audit", "--since", "yesterday").err


def test_times_are_checked_by_the_daemon_too(daemon: Daemon) -> None:
    import urllib.error
    import urllib.request

    for query in ("since=10m", "until=2026-02-30T00:00:00Z", "since=2026-11-22T00:00:00"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{daemon.url}/api/audit?{query}")
        with caught.value as answer:
            assert answer.code == 400
            assert json.load(answer)["field"] == query.partition("=")[0]
    good = f"{daemon.url}/api/audit?since=2019-01-01T00:00:00%2B01:00&actor=owner&limit=2"
    with urllib.request.urlopen(good) as answer:
        assert len(json.load(answer)["records"]) == 2


def test_log_is_verified_on_another_machine_with_its_key(daemon: Daemon, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    key = tmp_path / "key"
    until_told(daemon)
    key.write_text(daemon("audit", "key").out)
    shutil.copytree(daemon.project / ".groove/audit", copy)
    elsewhere = {"XDG_CONFIG_HOME": str(tmp_path / "nobody")}
    without = daemon("audit", "verify", str(copy), **elsewhere)
    assert without.code == 0
    assert "the macs" in without.out
    assert "the head" in without.out
    done = daemon("audit", "verify", "--known", str(key), str(copy), **elsewhere)
    assert done.code == 0
    assert "not checked" not in done.out
    segment = list_segments(copy)[-1]
    os.truncate(segment, segment.read_bytes().rindex(b"\n", 0, -1) + 1)
    done = daemon("audit", "verify", "--json", "--known", str(key), str(copy), **elsewhere)
    assert done.code == 5
    assert "its end was cut" in done.json["problem"]
    assert daemon("audit", "verify", "--known", "/dev/null", str(copy)).code == 2


def test_no_loss_is_accepted_while_the_daemon_runs(daemon: Daemon) -> None:
    done = daemon("audit", "accept")
    assert done.code == 3
    assert "Another process" in done.err


def test_daemon_does_not_start_on_a_log_that_was_cut_until_that_is_accepted(
    cli: Cli, project: Path
) -> None:
    from groove_trio.cli.launch import start_detached, stop_daemon

    start_detached(project, port=0)
    stop_daemon(project)
    assert "nothing to accept" in cli("audit", "accept").out
    segment = project / ".groove/audit/00000001.jsonl"
    os.truncate(segment, segment.read_bytes().index(b"\n") + 1)
    started = cli("start", "--port", "0")
    assert started.code == 5, started
    assert "its end was cut" in started.err
    assert "groove-trio audit accept" in started.err
    verified = cli("audit", "verify")
    assert verified.code == 5
    assert "1:2" in verified.out
    accepted = cli("audit", "accept", "--json")
    assert accepted.code == 0
    assert "its end was cut" in accepted.json["accepted"]
    start_detached(project, port=0)
    stop_daemon(project)
    verified = cli("audit", "verify")
    assert verified.code == 0
    assert "losses accepted  record 2" in verified.out
    shutil.rmtree(project / ".groove/audit")
    assert cli("audit", "verify").code == 5, "a log that is gone is not only not there"
    assert cli("start", "--port", "0").code == 5
    assert checkpoint_path(config_directory(), project / ".groove/audit").exists()
