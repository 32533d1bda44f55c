"""Every byte-prefix of every file that is read at start: it loads, or is refused with the reason.

Those of the seed, the stored keys, the log and its head are beside the tests of each.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from groove_trio.rules.leases import Leases
from groove_trio.shell.daemonfile import DaemonFile, describe_self, running_daemon
from groove_trio.shell.leasefile import LeaseFile
from groove_trio.shell.output import OutputLog, repair
from groove_trio.shell.store import AgentStatus, Store
from groove_trio.words.agents import AgentSpec, Hold
from groove_trio.words.base import AgentId
from groove_trio.words.errors import UnsafeState
from groove_trio.words.leases import Lease, LeaseId

ONE = AgentId("00000001")
TIME = "2026-01-01T00:00:00.000000000Z"
SPEC = AgentSpec(role="worker", name="w", argv=["a", "ü"], env={"A": "1"}, prompt="x", scope=[])
LEASE = Lease(id=LeaseId("00000002"), agent=ONE, paths=["a", "b/"], since=TIME, until=TIME)


def status(agent: AgentId) -> AgentStatus:
    held = [Hold(pattern="a/**", by="gate", how="exact")]
    return AgentStatus(
        id=agent, state="running", containment="gate", created=TIME, pid=12, held=held
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    store.prepare()
    store.create(SPEC, status(ONE))
    return store


def prefixes(data: bytes) -> Iterator[bytes]:
    for cut in range(len(data)):
        yield data[:cut]


@pytest.mark.parametrize("name", ["spec.json", "status.json"])
def test_of_an_agents_files_each_is_set_aside_with_the_reason(store: Store, name: str) -> None:
    whole = (store.directory / ONE / name).read_bytes()
    aside = store.directory / f"{ONE}.bad"
    for data in prefixes(whole):
        (store.directory / ONE / name).write_bytes(data)
        loaded = store.load_all()
        assert loaded.agents == []
        assert loaded.aside[ONE].startswith(f"{name}: ")
        assert (aside / name).read_bytes() == data
        aside.rename(store.directory / ONE)
    (store.directory / ONE / name).write_bytes(whole)
    (agent,) = store.load_all().agents
    assert (agent.spec, agent.status) == (SPEC, status(ONE))


async def test_of_the_output_each_loads_as_whole_lines_and_numbers_go_on(tmp_path: Path) -> None:
    path = tmp_path / "output.jsonl"
    for stream in ("out", "err"):
        await OutputLog(path, 0 if stream == "out" else 2).append(
            stream, [("one ü", False), ("two", True)]
        )
    whole = path.read_bytes()
    for data in prefixes(whole):
        path.write_bytes(data)
        last = repair(path)
        told = path.read_bytes()
        assert whole.startswith(told)
        assert [json.loads(line)["seq"] for line in told.splitlines()] == list(range(1, last + 1))
        assert last >= data.count(b"\n")
        assert told == b"" or told.endswith(b"\n")
    assert not list(tmp_path.glob("*.bad"))


def test_of_the_leases_each_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "leases.json"
    whole = msgspec.json.encode([LEASE])
    path.touch(0o600)
    for data in prefixes(whole):
        path.write_bytes(data)
        with pytest.raises(UnsafeState, match=r"damaged.*Remove it") as caught:
            LeaseFile(path, Leases()).load()
        assert caught.value.fields["reason"]
        assert path.read_bytes() == data
    path.write_bytes(whole)
    assert LeaseFile(path, Leases()).load() == [LEASE]


def test_of_what_a_daemon_published_each_is_no_daemon_and_hinders_none(tmp_path: Path) -> None:
    claim = DaemonFile(tmp_path)
    claim.acquire()
    info = describe_self("http://127.0.0.1:1", 1, "0.1", guard_pid=2)
    claim.publish(info)
    path = tmp_path / ".groove/daemon.json"
    whole = path.read_bytes()
    try:
        for data in prefixes(whole):
            path.write_bytes(data)
            assert running_daemon(tmp_path) is None
        claim.publish(info)
        assert running_daemon(tmp_path) == info
    finally:
        claim.release()


def test_what_was_cut_short_beside_a_file_is_never_read(store: Store) -> None:
    whole = (store.directory / ONE / "status.json").read_bytes()
    other = json.dumps({**json.loads(whole), "state": "stopped"}).encode()
    for data in (*prefixes(other[:20]), other):
        torn = store.directory / ONE / ".status.json.01234567.tmp"
        torn.write_bytes(data)
        (agent,) = store.load_all().agents
        assert agent.status == status(ONE)
        assert not torn.exists()


# What is there but is not what we made


def spoil(path: Path, kind: str) -> None:
    """Puts something in a file's place that is not ours alone."""
    if kind == "link":
        other = path.with_name(f"{path.name}.other")
        path.rename(other)
        path.symlink_to(other)
    elif kind == "fifo":
        path.unlink()
        os.mkfifo(path, 0o600)
    elif kind == "directory":
        path.unlink()
        path.mkdir(0o700)
    else:
        path.chmod(0o620)


@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "mode"])
@pytest.mark.parametrize("name", ["spec.json", "status.json", "output.jsonl"])
def test_an_agents_file_of_another_kind_refuses_the_start(
    store: Store, name: str, kind: str
) -> None:
    store.output(ONE).touch(0o600)
    path = store.directory / ONE / name
    spoil(path, kind)
    with pytest.raises(UnsafeState) as caught:
        store.load_all()
    assert caught.value.fields["path"] == str(path)
    assert caught.value.fields["reason"]
    assert (store.directory / ONE).is_dir()  # nothing was set aside


@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "mode"])
def test_leases_and_lock_of_another_kind_refuse_the_start(tmp_path: Path, kind: str) -> None:
    for name in ("leases.json", "daemon.lock", "daemon.json"):
        project = tmp_path / name
        (project / ".groove").mkdir(0o700, parents=True)
        path = project / ".groove" / name
        path.touch(0o600)
        spoil(path, kind)
        with pytest.raises(UnsafeState) as caught:
            _start(project)
        assert caught.value.fields["path"] == str(path)
        assert caught.value.fields["reason"]


def _start(project: Path) -> None:
    claim = DaemonFile(project)
    claim.acquire()
    try:
        LeaseFile(project / ".groove/leases.json", Leases()).load()
        claim.publish(describe_self("http://127.0.0.1:1", 1, "0.1"))
    finally:
        claim.release()


@pytest.mark.parametrize("name", ["", "spec.json", "status.json", "output.jsonl", "tmp"])
def test_what_belongs_to_another_refuses_the_start(
    store: Store, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a lie about its owner: only root could give it away."""
    store.output(ONE).touch(0o600)
    path = store.directory / ONE / name
    number = path.stat().st_ino
    real_stat, real_fstat = Path.lstat, os.fstat

    def given_away(told: os.stat_result) -> Any:
        if told.st_ino != number:
            return told
        fields = list(told)
        fields[4] = os.geteuid() + 1
        return os.stat_result(fields)

    monkeypatch.setattr(Path, "lstat", lambda path: given_away(real_stat(path)))
    monkeypatch.setattr(os, "fstat", lambda descriptor: given_away(real_fstat(descriptor)))
    with pytest.raises(UnsafeState, match="belongs to user"):
        store.load_all()


def test_a_canary_that_a_crash_left_is_cleared_and_its_target_is_not(
    store: Store, tmp_path: Path
) -> None:
    (tmp_path / "target").touch()
    (store.state_dir / f"canary-{ONE}-01234567").touch(0o600)
    (store.state_dir / f"canary-{ONE}-01234567.link").symlink_to(tmp_path / "target")
    store.load_all()
    assert not list(store.state_dir.glob("canary-*"))
    assert (tmp_path / "target").exists()
