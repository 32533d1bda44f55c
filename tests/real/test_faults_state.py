"""The log, the user's own directory and the table of descriptors, spoilt under a real daemon.

What stands where is in docs/discussion/faults.md.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from groove_trio import Config, Groove, open_groove
from groove_trio.providers.base import Launch, Place
from groove_trio.shell.audit import open_audit, verify_log
from groove_trio.shell.segments import list_segments
from groove_trio.testing import Answer, RawClient, scripted, wait_for_line
from groove_trio.words.actors import OWNER
from groove_trio.words.agents import AgentSpec, Containment
from groove_trio.words.audit import AuditEntry
from groove_trio.words.errors import (
    AuditTampered,
    GrooveError,
    OutOfResources,
    UnsafeState,
    VaultUnavailable,
)
from groove_trio.words.knocks import Denied, Granted
from groove_trio.words.secret import Secret

WAITS = [{"do": "print", "text": "ready"}, {"do": "read"}, {"do": "sleep", "seconds": 3600}]
SEGMENT = "00000001.jsonl"


class Keyed:
    """A provider whose program takes a key."""

    name = "keyed"
    summary = "Takes a key"
    containment: tuple[Containment, ...] = ("hooks",)
    credentials = ("KEYED_API_KEY",)

    def launch(self, spec: AgentSpec, place: Place) -> Launch:
        return Launch(argv=tuple(spec.argv))

    def instruct(self, text: str) -> bytes:
        return text.encode()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = (tmp_path / "project").resolve()
    (root / "src").mkdir(parents=True)
    return root


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "config").mkdir(mode=0o700)
    return tmp_path / "config"


@asynccontextmanager
async def opened(project: Path, config: Path) -> AsyncIterator[Groove]:
    settings = Config(project=project, port=0, config_dir=config, providers=[Keyed()], drain_s=1)
    async with open_groove(settings) as groove:
        yield groove


async def working(groove: Groove) -> str:
    """An agent that runs."""
    spec = scripted(WAITS, scope=["src/**"], interactive=True, containment="hooks", grace_s=0.1)
    agent = (await groove.spawn(spec)).id
    await wait_for_line(groove, agent, "ready")
    return agent


async def ask(groove: Groove, method: str, path: str, body: object = None) -> Answer:
    client = RawClient(
        partial(trio.open_tcp_stream, "127.0.0.1", groove.port),
        groove.url.removeprefix("http://"),
    )
    try:
        return await client.request(method, path, body)
    finally:
        await client.aclose()


async def until(true: Callable[[], Any]) -> None:
    with trio.fail_after(20):
        while not true():
            await trio.sleep(0.01)


def records(project: Path, action: str) -> list[dict[str, Any]]:
    lines = b"".join(each.read_bytes() for each in list_segments(project / ".groove/audit"))
    found = [json.loads(line) for line in lines.split(b"\n") if line.endswith(b"}")]
    return [each for each in found if each["action"] == action]


# The log


Spoil = Callable[[Path], Callable[[], object]]


def moved(path: Path) -> Callable[[], object]:
    """Moves something away; tells how to put it back."""
    aside = path.with_name(f"{path.name}.aside")
    path.rename(aside)

    def back() -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        aside.rename(path)

    return back


def removed(path: Path) -> Callable[[], object]:
    return moved(path)


def linked(path: Path) -> Callable[[], object]:
    back = moved(path)
    path.symlink_to(f"{path.name}.aside")
    return back


def piped(path: Path) -> Callable[[], object]:
    back = moved(path)
    os.mkfifo(path, 0o600)
    return back


def copied(path: Path) -> Callable[[], object]:
    back = moved(path)
    aside = path.with_name(f"{path.name}.aside")
    (shutil.copytree if aside.is_dir() else shutil.copy2)(aside, path)
    return back


def anothers(path: Path) -> Callable[[], object]:
    """As a copy that belongs to another user; by root only."""
    if os.geteuid():
        pytest.skip("NOT ROOT: another owner's files are not tested")
    back = copied(path)
    os.chown(path, 65534, 65534)
    return back


def cut(path: Path) -> Callable[[], object]:
    whole = path.read_bytes()
    os.truncate(path, len(whole) - 1)
    return lambda: path.write_bytes(whole)


def extended(path: Path) -> Callable[[], object]:
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(b'{"seq":99}\n')
    return lambda: os.truncate(path, size)


SPOILT = [
    *((".groove", spoil) for spoil in (removed, linked, piped, copied, anothers)),
    *((".groove/audit", spoil) for spoil in (removed, linked, piped, copied, anothers)),
    *(
        (f".groove/audit/{SEGMENT}", spoil)
        for spoil in (removed, linked, piped, copied, anothers, cut, extended)
    ),
]


@pytest.mark.parametrize(("name", "spoil"), SPOILT)
async def test_a_log_spoilt_under_a_daemon_stops_all_change_until_it_is_put_right(
    project: Path, config: Path, name: str, spoil: Spoil
) -> None:
    async with opened(project, config) as groove:
        agent = await working(groove)
        put_right = spoil(project / name)
        denied = await groove.knock(agent, "write", "src/x")
        assert isinstance(denied, Denied)
        assert (denied.rule, "changed or removed" in denied.reason) == ("audit log", True)
        for path, body in (
            ("/api/agents", {"role": "r", "argv": ["true"], "scope": []}),
            ("/api/coordination/declare", {"agent": agent, "paths": ["x"]}),
            (f"/api/agents/{agent}/stop", {}),
        ):
            answer = await ask(groove, "POST", path, body)
            assert (answer.status, answer.slug) == (503, "audit-unavailable")
            assert answer.headers["content-type"] == "application/problem+json"
        assert (await ask(groove, "GET", "/api/status")).json["auditOk"] is False
        assert [each.state for each in groove.agents()] == ["running"]

        put_right()
        await until(lambda: groove.status().audit_ok)
        assert isinstance(await groove.knock(agent, "write", "src/x"), Granted)
        await groove.declare(agent, ["x"])
        await groove.stop(agent)
        assert (await groove.verify_audit()).ok
    assert verify_log(project / ".groove/audit", config).ok
    assert [each["detail"]["why"] for each in records(project, "audit.repair")] == ["ESTALE"]


@pytest.mark.parametrize(
    ("name", "spoil"),
    [each for each in SPOILT if each[1] not in {removed, copied} or each[0].endswith("jsonl")],
)
async def test_no_daemon_starts_on_a_spoilt_log_until_it_is_put_right(
    project: Path, config: Path, name: str, spoil: Spoil
) -> None:
    async with opened(project, config):
        pass
    put_right = spoil(project / name)
    if spoil is copied:  # byte for byte, and ours: that is what a restored backup is
        async with opened(project, config):
            pass
        return
    with pytest.raises((UnsafeState, AuditTampered)) as refused:
        async with opened(project, config):
            pass
    assert refused.value.detail
    put_right()
    async with opened(project, config) as groove:
        assert (await groove.verify_audit()).ok


# The user's own directory


async def test_the_log_outlives_the_users_directory_and_the_next_daemon_asks_for_it(
    project: Path, config: Path
) -> None:
    kept = config.with_name("kept")
    async with opened(project, config) as groove:
        agent = await working(groove)
        await groove.set_credential("keyed", Secret("k" * 40))
        shutil.copytree(config, kept)
        shutil.rmtree(config)
        assert isinstance(await groove.knock(agent, "write", "src/x"), Granted)
        assert isinstance(await groove.knock(agent, "write", "docs/x"), Denied)
        await groove.declare(agent, ["x"])
        await until(lambda: list(config.glob("heads/*.json")))  # told anew, where it belongs
        await groove.stop(agent)
    with pytest.raises(UnsafeState, match="seed"):
        async with opened(project, config):
            pass
    shutil.copy2(kept / "seed", config / "seed")
    async with opened(project, config) as groove:
        assert (await groove.verify_audit()).ok


async def test_a_seed_that_is_spoilt_under_a_daemon_costs_the_keys_alone(
    project: Path, config: Path
) -> None:
    async with opened(project, config) as groove:
        agent = await working(groove)
        await groove.set_credential("keyed", Secret("k" * 40))
        (config / "seed").chmod(0o644)
        with pytest.raises(VaultUnavailable):
            await groove.set_credential("keyed", Secret("l" * 40))
        with pytest.raises(VaultUnavailable):
            await groove.spawn(AgentSpec(role="r", provider="keyed", argv=["true"], scope=[]))
        assert isinstance(await groove.knock(agent, "write", "src/x"), Granted)
        assert groove.status().audit_ok
        (config / "seed").chmod(0o600)
        await groove.spawn(AgentSpec(role="r", provider="keyed", argv=["true"], scope=[]))
    assert len(records(project, "undo")) >= 1
    assert verify_log(project / ".groove/audit", config).ok


@pytest.fixture
def small_config(config: Path) -> Iterator[Path]:
    """The user's directory as a file system of its own."""
    words = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(config)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"NO MOUNT: not tested ({done.stderr.strip()})")
    yield config
    subprocess.run(["umount", "-l", str(config)], check=True)


def remount(place: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(place)], check=True)


async def test_a_users_directory_made_read_only_is_on_record_and_the_log_goes_on(
    project: Path, small_config: Path
) -> None:
    config = small_config
    async with opened(project, config) as groove:
        agent = await working(groove)
        remount(config, "ro")
        assert isinstance(await groove.knock(agent, "write", "docs/x"), Denied)
        await until(lambda: records(project, "audit.checkpoint"))
        await groove.declare(agent, ["x"])
        with pytest.raises(VaultUnavailable, match=r"[Rr]ead-only"):
            await groove.set_credential("keyed", Secret("k" * 40))
        remount(config, "rw")
        await until(lambda: len(records(project, "audit.checkpoint")) == 2)
        await groove.set_credential("keyed", Secret("k" * 40))
    told = [each["detail"]["error"] for each in records(project, "audit.checkpoint")]
    assert told == ["EROFS", None]
    assert verify_log(project / ".groove/audit", config).ok
    remount(config, "ro")
    with pytest.raises(GrooveError, match=r"EROFS|[Rr]ead-only"):
        async with opened(project, config):
            pass
    remount(config, "rw")
    async with opened(project, config):
        pass


# Descriptors


@contextmanager
def no_descriptors() -> Iterator[None]:
    """As in a process that has all the descriptors it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.open("/", os.O_PATH)
    os.close(probe)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_without_descriptors_knocks_are_answered_and_what_needs_one_is_refused(
    project: Path, config: Path
) -> None:
    async with opened(project, config) as groove:
        agent = await working(groove)
        kept = await groove.declare(agent, ["kept"])
        with no_descriptors():
            assert isinstance(await groove.knock(agent, "write", "src/x"), Granted)
            assert isinstance(await groove.knock(agent, "write", "docs/x"), Denied)
            for _ in range(2):
                with pytest.raises(OutOfResources) as refused:
                    await groove.declare(agent, ["more"])
            assert "not held" in refused.value.detail
            with pytest.raises(VaultUnavailable, match="Too many open files"):
                await groove.set_credential("keyed", Secret("k" * 40))
            with pytest.raises(OutOfResources):
                await groove.spawn(AgentSpec(role="r", argv=["true"], scope=[]))
            assert groove.locks().leases == [kept]
            assert len(groove.agents()) == 1
            assert groove.status().audit_ok
            await groove.instruct(agent, "go")  # what it answers is written when there is room
            seq = groove.status().audit_seq
            await until(lambda: groove.status().audit_seq > seq)  # the checkpoint can't be told
        await wait_for_line(groove, agent, "read: go")
        await groove.declare(agent, ["more"])
        await groove.set_credential("keyed", Secret("k" * 40))
        await until(lambda: len(records(project, "audit.checkpoint")) == 2)
    told = [each["detail"]["error"] for each in records(project, "audit.checkpoint")]
    assert told == ["EMFILE", None]
    assert verify_log(project / ".groove/audit", config).ok


async def test_without_descriptors_a_segment_grows_on_and_the_next_begins_when_there_are_some(
    tmp_path: Path,
) -> None:
    entry = AuditEntry(actor=OWNER, action="knock.granted")
    place = tmp_path / "audit"
    async with open_audit(place, segment_bytes=500) as log:
        with no_descriptors():
            for _ in range(20):
                await log.record(entry)
        assert len(list_segments(place)) == 1
        await log.record(entry)
        assert len(list_segments(place)) == 2
    assert verify_log(place).ok
