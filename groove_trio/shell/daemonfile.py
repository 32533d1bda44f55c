"""Which daemon runs for a project: ``.groove/daemon.json``, and a lock that proves it.

The file alone proves nothing: it survives a power cut, and its pid may belong to a stranger by
then. So a daemon is believed to run only if all of this holds: somebody holds the lock
(flock(2), which the kernel drops with the process), and the process of that pid has the start
time, in this boot of the machine, that the file names. A signal goes to a descriptor of that
process (pidfd), opened before the start time is read, so it can't reach anyone else even if
the process ends in between.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from groove_trio.shell.files import check_private, clear_torn, open_private, write_atomic
from groove_trio.shell.procfs import read_process
from groove_trio.shell.store import STATE_DIR, ensure_state_dir
from groove_trio.words.base import Word
from groove_trio.words.errors import AlreadyRunning, Unreachable, UnsafeState, shown

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TRIES = 10  # a reader that looks whether the lock is held holds it for microseconds itself
_TRIES_UNTOLD = 400  # one that has just begun says where it listens within half a second
_PAUSE_S = 0.005
_MAX_BYTES = 65_536


class DaemonInfo(Word, frozen=True):
    """A running daemon: ``{"pid": 1, "startTicks": 2, "bootId": "…", "url": "http://…", …}``.

    Attributes:
        pid: Its process; with `start_ticks` (field 22 of ``/proc/<pid>/stat``) and `boot_id`
            it means this process and no later one.
        url: Where it listens, such as ``http://127.0.0.1:31415``.
        port: The port of `url`.
        version: Of this package.
        guard_pid: The guard process above it, if there is one.
    """

    pid: int
    start_ticks: int
    boot_id: str
    url: str
    port: int
    version: str
    guard_pid: int | None = None


def describe_self(url: str, port: int, version: str, guard_pid: int | None = None) -> DaemonInfo:
    """What this process publishes about itself."""
    return DaemonInfo(
        pid=os.getpid(),
        start_ticks=_start_ticks(os.getpid()) or 0,
        boot_id=_boot_id(),
        url=url,
        port=port,
        version=version,
        guard_pid=guard_pid,
    )


class DaemonFile:
    """The claim of one process on one project; held from `acquire` to `release`.

    Args:
        project: The project root, absolute, symlinks resolved.
    """

    def __init__(self, project: Path) -> None:
        self.directory = project / STATE_DIR
        self._lock = -1

    def acquire(self) -> None:
        """Takes the project, or refuses. Blocks for some 50 ms when it is taken.

        By one that has not said where it listens, for 2 s: it may be about to, or about to fail.

        Raises:
            AlreadyRunning: Another daemon has it; `pid` and `url` say which, where known.
            UnsafeState: The state directory or the lock has the wrong type, owner or mode, or
                can't be made.
        """
        with _told(self.directory):
            ensure_state_dir(self.directory)
            lock = open_private(self.directory / "daemon.lock", os.O_RDWR | os.O_CREAT)
        try:
            self._lock_it(lock)
        except BaseException:
            os.close(lock)
            raise
        self._lock = lock
        with suppress(OSError):  # litter hinders nobody
            clear_torn(self.directory / "daemon.json")

    def _lock_it(self, lock: int) -> None:
        told: DaemonInfo | None = None
        for attempt in range(_TRIES_UNTOLD):
            if attempt:
                time.sleep(_PAUSE_S)
            try:
                return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                info = _read(self.directory)  # perhaps what a killed predecessor left
                told = info if info is not None and _is_alive(info) else None
                if told is not None and attempt >= _TRIES - 1:
                    break
        raise self._taken(told)

    def _taken(self, info: DaemonInfo | None) -> AlreadyRunning:
        who = f"process {info.pid} at {info.url}" if info else "it has not said where yet"
        detail = f"a daemon already runs for {shown(str(self.directory.parent))}: {who}"
        fields = {"pid": info.pid, "url": info.url} if info else {}
        return AlreadyRunning(detail, **fields)

    def publish(self, info: DaemonInfo) -> None:
        """Says where the daemon listens; replaces what it said before.

        Raises:
            UnsafeState: What is there has the wrong type, owner or mode, or can't be replaced.
        """
        path = self.directory / "daemon.json"
        with suppress(FileNotFoundError):
            check_private(path)
        with _told(self.directory):
            write_atomic(path, msgspec.json.encode(info))

    def release(self) -> None:
        """Takes back what was published and gives the project free. May be repeated."""
        if self._lock >= 0:
            with suppress(OSError):  # without the lock nobody believes it
                (self.directory / "daemon.json").unlink()
            os.close(self._lock)
            self._lock = -1


@contextmanager
def _told(directory: Path) -> Generator[None]:
    """Has a disk that is full, read-only or broken refuse the start with that as its reason."""
    try:
        yield
    except OSError as error:
        detail = f"the state in {shown(str(directory))} can't be written: {error.strerror}"
        raise UnsafeState(detail, path=str(directory), reason=str(error.strerror)) from error


def running_daemon(project: Path) -> DaemonInfo | None:
    """The daemon that runs for a project, if one does. Changes nothing on disk.

    Raises:
        UnsafeState: What is there has the wrong type, owner or mode, so it is not believed.
    """
    directory = project / STATE_DIR
    info = _read(directory)
    return info if info is not None and _is_held(directory) and _is_alive(info) else None


def signal_daemon(info: DaemonInfo, number: int = signal.SIGTERM) -> None:
    """Signals exactly the process that published `info`, and sets it going if it was stopped.

    Raises:
        Unreachable: It doesn't run any more, or is not ours to signal.
    """
    try:
        descriptor = os.pidfd_open(info.pid)
    except OSError as error:
        raise _gone(info) from error
    try:
        if not _is_alive(info):
            raise _gone(info)
        signal.pidfd_send_signal(descriptor, number)
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGCONT)  # a stopped one heeds nothing
    except OSError as error:
        raise _gone(info) from error
    finally:
        os.close(descriptor)


def _gone(info: DaemonInfo) -> Unreachable:
    return Unreachable(f"the daemon that was process {info.pid} does not run any more")


def _read(directory: Path) -> DaemonInfo | None:
    try:
        descriptor = open_private(directory / "daemon.json", os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(_MAX_BYTES)
    try:
        return msgspec.json.decode(data, type=DaemonInfo)
    except (ValueError, RecursionError):
        return None  # a stale file of some other version, or none of ours


def _is_held(directory: Path) -> bool:
    try:
        lock = open_private(directory / "daemon.lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(lock)


def _is_alive(info: DaemonInfo) -> bool:
    return info.boot_id == _boot_id() and info.start_ticks == _start_ticks(info.pid)


def _start_ticks(pid: int) -> int | None:
    process = read_process(pid)
    return None if process is None or process.dead else process.start


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()
