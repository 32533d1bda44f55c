"""A real guard over a stand-in for the daemon, ended in every way; nothing may be left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from groove_trio.guard import GUARD_VARIABLE, guard_command
from groove_trio.shell.procfs import Process, read_children, send

Marked = Callable[[], list[Process]]
ROOT = str(Path(__file__).parents[2])

DAEMON = """
import os, signal, subprocess, sys, time
sys.path.insert(0, sys.argv[1])
from groove_trio import guard
ready, marker, family = int(sys.argv[2]), sys.argv[3], sys.argv[4] == "family"

def note(number, _frame):
    os.write(ready, f" {signal.Signals(number).name}".encode())
    if number == signal.SIGHUP:
        sys.exit(7)

for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, note)
assert os.environ[guard.GUARD_VARIABLE] == str(os.getppid())
guard.die_with_guard()
assert guard.GUARD_VARIABLE not in os.environ
if family:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
            os.execvp("sleep", ["sleep", marker])
        os.execve("/proc/self/exe", ["python", "-I", "-S", "-c",
            "import time; time.sleep(3600)", marker], {})
    subprocess.Popen(["sh", "-c", f"sleep {marker} & exec sleep {marker}"], start_new_session=True)
    time.sleep(0.1)
os.write(ready, b"ready")
while True:
    time.sleep(3600)
"""


class Guarded:
    """A guard, the daemon beneath it, and the pipe through which the daemon tells."""

    def __init__(
        self, marker: str, marked: Marked, *, family: bool = False, **options: object
    ) -> None:
        self.marked = marked
        self.told, writer = os.pipe()
        kind = "family" if family else "alone"
        python = [os.path.realpath(sys.executable), "-I", "-S", "-c"]
        daemon = [*python, DAEMON, ROOT, str(writer), marker, kind]
        self.guard = subprocess.Popen(
            guard_command(daemon, writer), pass_fds=[writer], stderr=subprocess.PIPE, **options
        )
        os.close(writer)
        assert self.tell() == "ready"
        (self.daemon,) = read_children(self.guard.pid)

    def tell(self) -> str:
        return os.read(self.told, 100).decode()

    def wait(self) -> int:
        return self.guard.wait(timeout=10)

    def close(self) -> None:
        os.close(self.told)
        assert self.guard.stderr is not None
        self.guard.stderr.close()
        left = self.marked()
        for process in left:
            send(process, signal.SIGKILL)
        self.guard.wait()
        assert left == []


@pytest.fixture
def guarded(marker: str, marked: Marked) -> Iterator[Guarded]:
    one = Guarded(marker, marked)
    yield one
    one.close()


@pytest.fixture
def family(marker: str, marked: Marked) -> Iterator[Guarded]:
    one = Guarded(marker, marked, family=True)
    yield one
    one.close()


def test_nothing_survives_a_daemon_that_was_killed(family: Guarded) -> None:
    beneath = family.marked()
    assert len(beneath) >= 6  # guard, daemon, and four that hide in three sessions
    began = time.monotonic()
    os.kill(family.daemon, signal.SIGKILL)
    assert family.wait() == 128 + signal.SIGKILL
    assert time.monotonic() - began < 3
    assert family.marked() == []


def test_the_reader_of_the_readiness_sees_the_end(guarded: Guarded) -> None:
    os.kill(guarded.daemon, signal.SIGKILL)
    assert guarded.tell() == ""
    guarded.wait()


def test_a_guard_that_is_killed_takes_the_daemon_along_tidily(guarded: Guarded) -> None:
    guarded.guard.kill()
    guarded.wait()
    assert guarded.tell() == " SIGTERM"
    os.kill(guarded.daemon, signal.SIGKILL)
    assert guarded.tell() == ""
    while guarded.marked():
        time.sleep(0.01)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_is_handed_on_once(guarded: Guarded, name: str) -> None:
    guarded.guard.send_signal(signal.Signals[name])
    assert guarded.tell() == f" {name}"
    time.sleep(0.05)
    os.set_blocking(guarded.told, False)
    with pytest.raises(BlockingIOError):
        guarded.tell()
    os.kill(guarded.daemon, signal.SIGKILL)
    guarded.wait()


def test_the_daemon_s_exit_code_is_the_guard_s(guarded: Guarded) -> None:
    guarded.guard.send_signal(signal.SIGHUP)
    assert guarded.tell() == " SIGHUP"
    assert guarded.wait() == 7


def test_the_second_signal_is_handed_on_and_the_third_kills(guarded: Guarded) -> None:
    guarded.guard.send_signal(signal.SIGTERM)
    assert guarded.tell() == " SIGTERM"
    guarded.guard.send_signal(signal.SIGTERM)
    assert guarded.tell() == " SIGTERM"
    guarded.guard.send_signal(signal.SIGTERM)
    assert guarded.wait() == 128 + signal.SIGKILL
    assert guarded.tell() == ""


def test_the_interrupt_of_a_terminal_reaches_the_guard_alone(guarded: Guarded) -> None:
    assert os.getsid(guarded.daemon) == guarded.daemon
    assert os.getsid(guarded.guard.pid) == os.getsid(0)
    os.kill(guarded.daemon, signal.SIGKILL)
    guarded.wait()


def test_what_was_ignored_stays_ignored(marker: str, marked: Marked) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        one = Guarded(marker, marked)
    finally:
        signal.signal(signal.SIGHUP, before)
    try:
        one.guard.send_signal(signal.SIGHUP)
        one.guard.send_signal(signal.SIGINT)
        assert one.tell() == " SIGINT"
        os.kill(one.daemon, signal.SIGKILL)
        one.wait()
    finally:
        one.close()


def test_the_daemon_ignores_no_signal_for_the_guard_s_sake() -> None:
    # Not an interpreter: that one ignores SIGPIPE for itself.
    done = subprocess.run(
        guard_command(["/bin/cat", "/proc/self/status"]), capture_output=True, check=True
    )
    ignored = int(done.stdout.split(b"SigIgn:")[1].split()[0], 16)
    assert not ignored & 1 << signal.SIGPIPE - 1
    assert not ignored & 1 << signal.SIGXFSZ - 1


def test_the_daemon_inherits_no_descriptor() -> None:
    done = subprocess.run(
        guard_command(["/bin/ls", "/proc/self/fd"]), capture_output=True, check=True
    )
    assert done.stdout.split() == [b"0", b"1", b"2", b"3"]  # the last is the listing itself


@pytest.mark.parametrize(
    ("daemon", "code", "said"),
    [
        (["/no/such/daemon"], 127, "cannot run /no/such/daemon: No such file"),
        (["/dev/null"], 126, "cannot run /dev/null: Permission denied"),
        ([], 2, "usage:"),
    ],
)
def test_a_daemon_that_cannot_be_run_is_told(daemon: list[str], code: int, said: str) -> None:
    done = subprocess.run(guard_command(daemon), capture_output=True, check=False, text=True)
    assert done.returncode == code
    assert said in done.stderr


def test_whoever_asks_too_late_is_ended_at_once() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); from groove_trio import guard\n"
    code += "guard.die_with_parent(1 << 22); print('too late')"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, ROOT], capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGTERM
    assert done.stdout == b""


def test_without_a_guard_nothing_is_asked() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); from groove_trio import guard\n"
    code += "guard.die_with_guard(); print('fine')"
    environ = {name: value for name, value in os.environ.items() if name != GUARD_VARIABLE}
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, ROOT], capture_output=True, check=True, env=environ
    )
    assert done.stdout == b"fine\n"


def test_the_guard_is_small(guarded: Guarded) -> None:
    status = Path(f"/proc/{guarded.guard.pid}/status").read_text()
    assert int(status.split("VmRSS:")[1].split()[0]) < 20_000
    os.kill(guarded.daemon, signal.SIGKILL)
    guarded.wait()
