from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from groove_trio.shell.daemonfile import (
    DaemonFile,
    DaemonInfo,
    describe_self,
    running_daemon,
    signal_daemon,
)
from groove_trio.words.errors import AlreadyRunning, Unreachable, UnsafeState

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

DAEMON = """
import pathlib, sys, time
from groove_trio.shell.daemonfile import DaemonFile, describe_self
file = DaemonFile(pathlib.Path(sys.argv[1]))
file.acquire()
file.publish(describe_self("http://127.0.0.1:1234", 1234, "0.1", guard_pid=9))
print("ready", flush=True)
time.sleep(60)
"""


@contextmanager
def daemon(project: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", DAEMON, str(project)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_a_running_daemon_is_found_and_signalled(tmp_path: Path) -> None:
    assert running_daemon(tmp_path) is None
    with daemon(tmp_path) as process:
        info = running_daemon(tmp_path)
        assert info is not None
        assert (info.pid, info.url, info.port) == (process.pid, "http://127.0.0.1:1234", 1234)
        assert (info.version, info.guard_pid) == ("0.1", 9)
        signal_daemon(info, signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM
        with pytest.raises(Unreachable):
            signal_daemon(info)
    assert running_daemon(tmp_path) is None


def test_a_second_daemon_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    with daemon(tmp_path) as process:
        with pytest.raises(AlreadyRunning) as caught:
            DaemonFile(tmp_path).acquire()
        assert caught.value.fields == {"pid": process.pid, "url": "http://127.0.0.1:1234"}
        assert str(process.pid) in caught.value.detail


def test_a_killed_daemon_leaves_the_project_free(tmp_path: Path) -> None:
    with daemon(tmp_path) as process:
        process.kill()
        process.wait()
        assert (tmp_path / ".groove/daemon.json").exists()
        assert running_daemon(tmp_path) is None
        file = DaemonFile(tmp_path)
        file.acquire()
        file.release()


def test_release_leaves_nothing_published_and_may_be_repeated(tmp_path: Path) -> None:
    file = DaemonFile(tmp_path)
    file.acquire()
    file.publish(describe_self("http://127.0.0.1:1", 1, "0"))
    assert running_daemon(tmp_path) is not None
    file.release()
    file.release()
    assert running_daemon(tmp_path) is None
    assert not (tmp_path / ".groove/daemon.json").exists()


@pytest.mark.parametrize("change", ["start_ticks", "boot_id"])
def test_a_stranger_with_the_same_pid_is_never_signalled(tmp_path: Path, change: str) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    file = DaemonFile(tmp_path)
    file.acquire()  # the lock is held, so only the identity of the process can tell
    try:
        here = describe_self("http://127.0.0.1:1", 1, "0")
        ticks = int(Path(f"/proc/{stranger.pid}/stat").read_text().rsplit(")")[1].split()[19])
        true = msgspec.structs.replace(here, pid=stranger.pid, start_ticks=ticks)
        file.publish(true)
        assert running_daemon(tmp_path) == true
        false: dict[str, object] = {"start_ticks": ticks - 1, "boot_id": "other"}
        stale = msgspec.structs.replace(true, **{change: false[change]})
        file.publish(stale)
        assert running_daemon(tmp_path) is None
        with pytest.raises(Unreachable):
            signal_daemon(stale, signal.SIGKILL)
        assert stranger.poll() is None
    finally:
        file.release()
        stranger.kill()
        stranger.wait()


def test_the_right_process_without_the_lock_is_no_daemon(tmp_path: Path) -> None:
    file = DaemonFile(tmp_path)
    file.acquire()
    file.publish(describe_self("http://127.0.0.1:1", 1, "0"))
    content = (tmp_path / ".groove/daemon.json").read_bytes()
    file.release()
    path = tmp_path / ".groove/daemon.json"
    path.write_bytes(content)
    path.chmod(0o600)
    assert running_daemon(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid":"1"}', b"\xff" * 10])
def test_a_file_that_makes_no_sense_is_no_daemon(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("groove_trio.shell.daemonfile._TRIES_UNTOLD", 10)
    file = DaemonFile(tmp_path)
    file.acquire()
    path = tmp_path / ".groove/daemon.json"
    path.write_bytes(content)
    path.chmod(0o600)
    assert running_daemon(tmp_path) is None
    with pytest.raises(AlreadyRunning):
        DaemonFile(tmp_path).acquire()
    file.release()


@pytest.mark.parametrize("name", ["daemon.json", "daemon.lock"])
def test_files_of_others_are_not_believed(tmp_path: Path, name: str) -> None:
    file = DaemonFile(tmp_path)
    file.acquire()
    file.publish(describe_self("http://127.0.0.1:1", 1, "0"))
    (tmp_path / ".groove" / name).chmod(0o644)
    with pytest.raises(UnsafeState):
        running_daemon(tmp_path)
    file.release()


def test_the_lock_is_not_inherited_by_children(tmp_path: Path) -> None:
    file = DaemonFile(tmp_path)
    file.acquire()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        file.release()
        other = DaemonFile(tmp_path)
        other.acquire()
        other.release()
    finally:
        child.communicate(b"\n")


READER = """
import pathlib, sys, time
from groove_trio.shell.daemonfile import _is_held
print("ready", flush=True)
while True:
    _is_held(pathlib.Path(sys.argv[1]) / ".groove")
    time.sleep(0.001)
"""


def test_readers_do_not_make_a_start_fail(tmp_path: Path) -> None:
    command = [sys.executable, "-c", READER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as reader:
        try:
            assert reader.stdout is not None
            reader.stdout.readline()
            for _ in range(30):
                file = DaemonFile(tmp_path)
                file.acquire()
                file.release()
        finally:
            reader.kill()


def test_what_it_says_survives_the_journey() -> None:
    info = describe_self("http://127.0.0.1:1", 1, "0", guard_pid=os.getppid())
    assert msgspec.json.decode(msgspec.json.encode(info), type=DaemonInfo) == info
    assert b'"startTicks":' in msgspec.json.encode(info)


def test_what_a_killed_predecessor_published_is_not_taken_for_the_one_that_starts(
    tmp_path: Path,
) -> None:
    with daemon(tmp_path) as killed:
        killed.kill()
        killed.wait()
        file = DaemonFile(tmp_path)
        file.acquire()  # starting: it has not said yet where
        with ThreadPoolExecutor() as pool:
            second = pool.submit(DaemonFile(tmp_path).acquire)
            with pytest.raises(FutureTimeout):
                second.result(0.2)
            file.publish(describe_self("http://127.0.0.1:2", 2, "0"))
            with pytest.raises(AlreadyRunning) as caught:
                second.result(10)
        file.release()
    assert caught.value.fields == {"pid": os.getpid(), "url": "http://127.0.0.1:2"}


def test_who_waits_takes_over_from_one_that_fails_to_start(tmp_path: Path) -> None:
    first, second = DaemonFile(tmp_path), DaemonFile(tmp_path)
    first.acquire()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(second.acquire)
        with pytest.raises(FutureTimeout):
            waiting.result(0.2)
        first.release()
        waiting.result(10)
    second.release()


@pytest.mark.parametrize("kind", ["directory", "link", "shared"])
def test_nothing_is_published_over_what_is_not_ours(tmp_path: Path, kind: str) -> None:
    file = DaemonFile(tmp_path)
    file.acquire()
    path = tmp_path / ".groove/daemon.json"
    if kind == "directory":
        path.mkdir(0o700)
    elif kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.touch(0o666)
        path.chmod(0o666)
    with pytest.raises(UnsafeState):
        file.publish(describe_self("http://127.0.0.1:1", 1, "0"))
    assert kind != "link" or path.is_symlink()
    file.release()
    DaemonFile(tmp_path).acquire()


def test_a_stopped_daemon_is_set_going_so_that_it_heeds_the_signal(tmp_path: Path) -> None:
    with daemon(tmp_path) as process:
        os.kill(process.pid, signal.SIGSTOP)
        info = running_daemon(tmp_path)
        assert info is not None
        signal_daemon(info)
        assert process.wait(10) == -signal.SIGTERM
