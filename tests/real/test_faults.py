"""Disks that are full, read-only, covered or dying, under a real daemon with real agents.

What stands where is in docs/discussion/faults.md. The project's ``.groove`` is a small file
system of its own. That takes the right to mount: where it is missing, nothing of this is tested.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import struct
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from groove_trio import Config, Groove, open_groove
from groove_trio.shell.audit import AuditLog, verify_log
from groove_trio.testing import Answer, RawClient, lines_of, scripted, wait_for_line
from groove_trio.words.audit import AuditEntry
from groove_trio.words.errors import AuditUnavailable, GrooveError
from groove_trio.words.knocks import Denied, Granted

SIZE = "2m"
EXT4_IOC_SHUTDOWN = 0x8004587D  # linux/fs/ext4/ext4.h; the file system answers EIO from then on
NOLOGFLUSH = 2


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False
    )


@contextmanager
def mounted(place: Path, *words: object) -> Iterator[None]:
    """Mounts what the words say at a place; the test is skipped where that is not allowed."""
    done = run("mount", *words, place)
    if done.returncode:
        pytest.skip(f"NO MOUNT: not tested ({done.stderr.strip()})")
    try:
        yield
    finally:
        if os.path.ismount(place):
            run("umount", "-l", place)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = (tmp_path / "project").resolve()
    (root / "src").mkdir(parents=True)
    (root / ".groove").mkdir(mode=0o700)
    return root


@pytest.fixture
def disk(project: Path) -> Iterator[Path]:
    """``.groove`` as a disk of two MiB."""
    place = project / ".groove"
    with mounted(place, "-t", "tmpfs", "-o", f"size={SIZE},mode=700", "tmpfs"):
        yield place


def fill(disk: Path) -> None:
    """Leaves not a page free."""
    descriptor = os.open(disk / "filler", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for size in (65_536, 4_096, 1):
            with pytest.raises(OSError, match="No space left"):  # noqa: PT012 - whichever it is
                while True:
                    os.write(descriptor, b"\0" * size)
    finally:
        os.close(descriptor)


@asynccontextmanager
async def opened(project: Path) -> AsyncIterator[Groove]:
    async with open_groove(Config(project=project, port=0, drain_s=1)) as groove:
        yield groove


async def ask(groove: Groove, method: str, path: str, body: object = None) -> Answer:
    """Asks over the daemon's socket, as any program would."""
    client = RawClient(
        partial(trio.open_tcp_stream, "127.0.0.1", groove.port),
        groove.url.removeprefix("http://"),
    )
    try:
        return await client.request(method, path, body)
    finally:
        await client.aclose()


async def until(true: Callable[[], Any]) -> Any:
    with trio.fail_after(20):
        while not (found := true()):
            await trio.sleep(0.01)
    return found


def records(place: Path) -> list[dict[str, Any]]:
    """The records that count, from every segment."""
    lines = b"".join(each.read_bytes() for each in sorted(place.glob("audit/*.jsonl"))).split(b"\n")
    return [json.loads(line) for line in lines if line.endswith(b"}")]


def worker(**spec: Any) -> Any:
    """An agent that writes a file, talks, and writes again, each when it is told by a file."""
    steps = [
        {"do": "write", "path": "src/first", "text": "x"},
        {"do": "print", "text": "ready"},
        {"do": "await", "path": "go", "seconds": 50},
        {"do": "print", "text": "told", "count": 500},
        {"do": "write", "path": "src/second", "text": "x"},
        {"do": "run", "argv": ["touch", "alive"]},
        {"do": "print", "text": "went on"},
        {"do": "await", "path": "room", "seconds": 50},
        {"do": "write", "path": "src/third", "text": "x"},
        {"do": "sleep", "seconds": 3600},
    ]
    return scripted(steps, scope=["src/**"], grace_s=0.1, containment="hooks", **spec)


async def until_line(groove: Groove, agent: str, start: str) -> list[str]:
    await wait_for_line(groove, agent, start)
    return await lines_of(groove, agent)


def told_all(lines: list[str]) -> bool:
    """Whether no line of a worker's is missing, doubled or out of order."""
    begin = ["granted: wrote src/first", "ready", *(f"told {number}" for number in range(1, 501))]
    return lines[: len(begin)] == begin


async def until_denied(groove: Groove, agent: str) -> Denied:
    """Knocks until the log takes no more; before that there may be room to the page's end."""
    with trio.fail_after(20):
        while True:
            decision = await groove.knock(agent, "write", "src/x")
            if isinstance(decision, Denied):
                return decision


async def changes_refused(groove: Groove, agent: str) -> None:
    """Every change is refused, as a problem that says why."""
    here = f"/api/agents/{agent}"
    for method, path, body in (
        ("POST", "/api/agents", {"role": "r", "argv": ["true"], "scope": []}),
        ("POST", "/api/coordination/declare", {"agent": agent, "paths": ["x"]}),
        ("PATCH", here, {"name": "other"}),
        ("POST", here + "/stop", {}),
        ("POST", here + "/restart", None),
    ):
        answer = await ask(groove, method, path, body)
        assert answer.status == 503, (method, path, answer.body)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.slug == "audit-unavailable"
        assert answer.json["errno"]
    assert len(groove.agents()) == 1
    assert groove.locks().leases == []


async def until_well(groove: Groove) -> None:
    await until(lambda: groove.status().audit_ok)


# Full


async def test_a_full_disk_denies_and_refuses_harms_no_agent_and_heals_by_itself(
    project: Path, disk: Path
) -> None:
    async with opened(project) as groove:
        agent = (await groove.spawn(worker())).id
        await wait_for_line(groove, agent, "ready")
        pid = groove.agent(agent).pid
        fill(disk)
        denied = await until_denied(groove, agent)
        assert (denied.rule, "ENOSPC" in denied.reason) == ("audit log", True)
        assert not groove.status().audit_ok
        assert json.loads((await ask(groove, "GET", "/api/status")).body)["auditOk"] is False
        await changes_refused(groove, agent)
        (project / "go").touch()
        await until((project / "alive").exists)  # its lines wait, not it
        assert groove.agent(agent).state == "running"
        assert groove.agent(agent).pid == pid
        assert not (project / "src/second").exists()

        (disk / "filler").unlink()
        await until_well(groove)
        assert isinstance(await groove.knock(agent, "write", "src/x"), Granted)
        lines = await until_line(groove, agent, "went on")
        assert told_all(lines)
        assert any(line.startswith("denied: src/second: ") for line in lines)
        (project / "room").touch()
        await wait_for_line(groove, agent, "granted: wrote src/third")
        await groove.declare(agent, ["shared.md"])
        await groove.stop(agent)
        repairs = [each for each in records(disk) if each["action"] == "audit.repair"]
        assert repairs
        assert {each["detail"]["why"] for each in repairs} == {"ENOSPC"}
        assert (await groove.verify_audit()).ok
    assert verify_log(disk / "audit").ok


async def test_a_daemon_on_a_full_disk_ends_in_good_time_and_its_heir_knows_the_gap(
    project: Path, disk: Path
) -> None:
    with trio.fail_after(20):
        async with opened(project) as groove:
            agent = (await groove.spawn(worker())).id
            await wait_for_line(groove, agent, "ready")
            fill(disk)
            await until_denied(groove, agent)
            (project / "go").touch()
            await until((project / "alive").exists)
    with pytest.raises(GrooveError, match=r"ENOSPC|No space left"):
        async with opened(project):
            pass
    (disk / "filler").unlink()
    async with opened(project) as groove:
        assert groove.agent(agent).state == "interrupted"
        assert isinstance(await groove.knock(agent, "write", "src/x"), Granted)
    assert [each["action"] for each in records(disk)].count("audit.repair") >= 1
    assert verify_log(disk / "audit").ok


async def test_an_end_that_a_full_disk_cannot_keep_is_kept_once_there_is_room(
    project: Path, disk: Path
) -> None:
    steps = [{"do": "print", "text": "ready"}, {"do": "await", "path": "go", "seconds": 50}]
    async with opened(project) as groove:
        agent = (await groove.spawn(scripted(steps, scope=["src/**"], containment="hooks"))).id
        await wait_for_line(groove, agent, "ready")
        fill(disk)
        await until_denied(groove, agent)
        (project / "go").touch()
        await until(lambda: groove.agent(agent).state == "completed")
        assert [each.agent for each in groove.locks().holdings] == [agent]
        (disk / "filler").unlink()
        await groove.wait(agent)
        await until(lambda: groove.locks().holdings == [])
        await until(lambda: "agent.completed" in [each["action"] for each in records(disk)])
    async with opened(project) as groove:
        assert groove.agent(agent).state == "completed"
    assert verify_log(disk / "audit").ok


@pytest.mark.parametrize("pages", [1, 2, 3])
async def test_no_daemon_starts_that_has_no_room_to_take_up_what_ran(
    project: Path, disk: Path, pages: int
) -> None:
    told: list[str] = []
    with trio.fail_after(40):
        async with opened(project) as groove:
            for number in range(6):
                steps = [{"do": "print", "text": "up"}, {"do": "sleep", "seconds": 3600}]
                kept = {"containment": "hooks", "grace_s": 0.1}
                spec = scripted(steps, scope=[f"s{number}/**"], **kept)
                told.append((await groove.spawn(spec)).id)
                await wait_for_line(groove, told[-1], "up")
            fill(disk)
            await until_denied(groove, told[0])
        # Room for the first records of a start, and not for all.
        os.truncate(disk / "filler", (disk / "filler").stat().st_size - pages * 4096)
        with suppress(GrooveError):
            async with opened(project) as groove:
                assert {each.agent for each in groove.locks().holdings} == set(told)
        (disk / "filler").unlink()
        async with opened(project) as groove:
            assert {each.state for each in groove.agents()} == {"interrupted"}
            assert {each.agent for each in groove.locks().holdings} == set(told)
    assert verify_log(disk / "audit").ok


@pytest.mark.parametrize("action", ["agent.interrupted", "agent.restore"])
async def test_a_start_that_cannot_record_what_it_takes_up_is_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    append = AuditLog.append

    def full(self: AuditLog, entries: Sequence[AuditEntry]) -> int:
        if any(each.action == action for each in entries):
            raise AuditUnavailable("No space left on device.")
        return append(self, entries)

    with trio.CancelScope() as hard:
        async with opened(project) as groove:
            told = {(await groove.spawn(worker())).id}
            hard.cancel()
            await trio.lowlevel.checkpoint()
    with monkeypatch.context() as patch, trio.fail_after(10):
        patch.setattr(AuditLog, "append", full)
        with pytest.raises(AuditUnavailable):
            async with opened(project):
                pass
    async with opened(project) as groove:
        assert {each.agent for each in groove.locks().holdings} == told


# Read-only


async def test_a_disk_with_an_open_log_cannot_be_made_read_only(project: Path, disk: Path) -> None:
    async with opened(project):
        refused = run("mount", "-o", "remount,ro", disk)
        assert (refused.returncode, "busy" in refused.stderr) == (32, True)


async def test_a_read_only_cover_keeps_changes_out_until_it_is_taken_off(
    project: Path, disk: Path
) -> None:
    async with opened(project) as groove:
        agent = (await groove.spawn(worker())).id
        await wait_for_line(groove, agent, "ready")
        with mounted(disk, "--bind", disk):
            assert run("mount", "-o", "remount,bind,ro", disk).returncode == 0
            # The log is open, and still what its name leads to, so it is written.
            assert isinstance(await groove.knock(agent, "write", "src/x"), Granted)
            for method, path, body in (
                ("POST", "/api/agents", {"role": "r", "argv": ["true"], "scope": []}),
                ("POST", "/api/coordination/declare", {"agent": agent, "paths": ["x"]}),
            ):
                answer = await ask(groove, method, path, body)
                assert (answer.status, answer.slug) == (503, "out-of-resources"), answer.body
            assert len(groove.agents()) == 1
            assert groove.locks().leases == []
            (project / "go").touch()
            await until((project / "alive").exists)
            assert len(await lines_of(groove, agent)) == 2
        assert told_all(await until_line(groove, agent, "went on"))
        await groove.declare(agent, ["x"])
        assert groove.agent(agent).state == "running"
    assert verify_log(disk / "audit").ok


async def test_no_daemon_starts_on_a_read_only_disk(project: Path, disk: Path) -> None:
    for _ in range(2):  # a project without and with a past
        run("mount", "-o", "remount,ro", disk)
        with pytest.raises(GrooveError, match=r"EROFS|[Rr]ead-only"):
            async with opened(project):
                pass
        run("mount", "-o", "remount,rw", disk)
        async with opened(project):
            pass
    assert verify_log(disk / "audit").ok


# Covered


async def test_a_disk_mounted_over_the_state_stops_everything_until_it_is_gone(
    project: Path, disk: Path
) -> None:
    async with opened(project) as groove:
        agent = (await groove.spawn(worker())).id
        await wait_for_line(groove, agent, "ready")
        with mounted(disk, "-t", "tmpfs", "-o", f"size={SIZE},mode=700", "tmpfs"):
            denied = await until_denied(groove, agent)
            assert "changed or removed" in denied.reason
            await changes_refused(groove, agent)
            assert groove.agent(agent).state == "running"
        await until_well(groove)
        (project / "go").touch()
        assert told_all(await until_line(groove, agent, "went on"))
        assert isinstance(await groove.knock(agent, "write", "src/x"), Granted)
    assert verify_log(disk / "audit").ok


# Dying


class Dying:
    """A disk that can be lost, and put back as a reboot would find it."""

    def __init__(self, place: Path, mount: Callable[[], object]) -> None:
        self._place = place
        self._mount = mount

    def mount(self) -> None:
        self._mount()
        self._place.chmod(0o700)

    def die(self) -> None:
        descriptor = os.open(self._place, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", NOLOGFLUSH))
        finally:
            os.close(descriptor)

    def put_back(self) -> None:
        assert run("umount", self._place).returncode == 0
        self.mount()


@pytest.fixture
def dying(project: Path, tmp_path: Path) -> Iterator[Dying]:
    """``.groove`` on an ext4 that can be told to answer nothing but EIO, as a lost disk does."""
    place, image = project / ".groove", tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(32 << 20)
    if run("mkfs.ext4", "-q", image).returncode:
        pytest.skip("NO EXT4: not tested")

    with ExitStack() as made:
        disk = Dying(place, lambda: made.enter_context(mounted(place, "-o", "loop", image)))
        disk.mount()
        yield disk


async def test_a_dead_disk_denies_and_refuses_harms_no_agent_and_loses_nothing_told(
    project: Path, dying: Dying
) -> None:
    with trio.fail_after(40):
        async with opened(project) as groove:
            agent = (await groove.spawn(worker())).id
            await wait_for_line(groove, agent, "ready")
            assert isinstance(await groove.knock(agent, "write", "docs/before"), Denied)
            dying.die()
            denied = await until_denied(groove, agent)
            assert denied.rule == "audit log"
            await changes_refused(groove, agent)
            (project / "go").touch()
            await until((project / "alive").exists)
            assert groove.agent(agent).state == "running"
            assert not groove.status().audit_ok
    dying.put_back()
    async with opened(project) as groove:
        assert groove.agent(agent).state == "interrupted"
        found = [each["detail"].get("path") for each in records(project / ".groove")]
        assert "docs/before" in found
    assert verify_log(project / ".groove/audit").ok


class Failing:
    """Answers EIO to whatever is written or synced beneath a directory, while `dead`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
        self.dead = False
        self._place = str(place)
        for name in ("write", "fsync", "fdatasync", "ftruncate"):
            monkeypatch.setattr(os, name, partial(self._call, getattr(os, name)))

    def _call(self, call: Callable[..., Any], descriptor: int, *arguments: Any) -> Any:
        if self.dead and os.readlink(f"/proc/self/fd/{descriptor}").startswith(self._place):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return call(descriptor, *arguments)


async def test_a_disk_that_fails_for_a_while_is_told_of_and_trusted_again_once_it_syncs(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = Failing(monkeypatch, project / ".groove")
    async with opened(project) as groove:
        agent = (await groove.spawn(worker())).id
        await wait_for_line(groove, agent, "ready")
        assert isinstance(await groove.knock(agent, "write", "docs/x"), Denied)
        failing.dead = True
        denied = await until_denied(groove, agent)
        assert (denied.rule, "EIO" in denied.reason) == ("audit log", True)
        await changes_refused(groove, agent)
        (project / "go").touch()
        await until((project / "alive").exists)
        assert groove.agent(agent).state == "running"
        failing.dead = False
        await until_well(groove)
        assert told_all(await until_line(groove, agent, "went on"))
        await groove.declare(agent, ["x"])
        await groove.stop(agent)
        repairs = [
            each for each in records(project / ".groove") if each["action"] == "audit.repair"
        ]
        assert {each["detail"]["why"] for each in repairs} == {"EIO"}
    assert verify_log(project / ".groove/audit").ok
