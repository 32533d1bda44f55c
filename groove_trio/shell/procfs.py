"""Processes as the kernel tells of them: read from ``/proc``, signalled only when verified.

A pid is a number that is given out again; a pid with its start time names one process for
ever. Every signal of this package goes through `send`, which opens a pidfd, reads the start
time once more, and signals the pidfd only if it is still the process that was meant.

Reading one ``/proc/<pid>/stat`` costs about 15 µs, and what is looked at is proc(5)'s fields
1 to 22. Only a process that is gone reads as `None`: any other failure (descriptors run
out) is raised, since taking it for "gone" would free what a living process still holds.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

PROC = "/proc"

_HEAD_BYTES = 1024  # fields 1 to 22 of stat take under 400
_ENVIRON_BYTES = 4 * 1024 * 1024  # twice what exec takes by default
_TO_GROUP = 1 << 2  # PIDFD_SIGNAL_PROCESS_GROUP, Linux 6.9


class Process(NamedTuple):
    """One process at one moment.

    `start` is in clock ticks since boot. `state` is proc(5)'s letter. `threads` counts the
    living threads, and one for a zombie.
    """

    pid: int
    parent: int
    group: int
    session: int
    start: int
    state: str
    threads: int

    @property
    def key(self) -> tuple[int, int]:
        """Names this process for ever, however often its pid is given out again."""
        return (self.pid, self.start)

    @property
    def dead(self) -> bool:
        """Whether it ended and only waits to be reaped.

        A process whose first thread ended while others run on shows as a zombie too: that
        one lives.
        """
        return self.state in "ZX" and self.threads <= 1


def read_process(pid: int | str, directory: int | None = None) -> Process | None:
    """Reads one process, or `None` if there is none; `directory` is a descriptor of ``/proc``.

    Raises:
        OSError: It could not be looked at, for another reason than being gone.
    """
    name = f"{PROC}/{pid}/stat" if directory is None else f"{pid}/stat"
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    except (FileNotFoundError, ProcessLookupError):
        return None
    try:
        return parse_stat(os.read(descriptor, _HEAD_BYTES))
    except ProcessLookupError:
        return None
    finally:
        os.close(descriptor)


def parse_stat(line: bytes) -> Process:
    """Reads a line such as ``b"7 (a) b) S 1 7 7 0 -1 ..."``.

    The command name may itself hold spaces and brackets, so the fields are counted from the
    last bracket.
    """
    rest = line[line.rindex(b")") + 2 :].split(b" ", 20)
    return Process(
        int(line[: line.index(b" ")]),
        int(rest[1]),
        int(rest[2]),
        int(rest[3]),
        int(rest[19]),
        rest[0].decode("ascii"),
        int(rest[17]),
    )


def read_children(pid: int) -> list[int]:
    """The pids of the children of a process's first thread, which is also who adopts orphans.

    Empty where the kernel was built without ``CONFIG_PROC_CHILDREN``.
    """
    try:
        text = Path(f"{PROC}/{pid}/task/{pid}/children").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(word) for word in text.split()]


def read_variables(pid: int, names: tuple[str, ...]) -> dict[str, str]:
    """The named environment variables that a process was started with; those it lacks are absent.

    Empty as well for a process that is gone, ended, or not ours to look into.
    """
    wanted = [name.encode() + b"=" for name in names]
    try:
        with Path(f"{PROC}/{pid}/environ").open("rb") as file:
            block = file.read(_ENVIRON_BYTES)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return {}
    found: dict[str, str] = {}
    for entry in block.split(b"\0"):
        for start in wanted:
            if entry.startswith(start):
                found.setdefault(os.fsdecode(start[:-1]), os.fsdecode(entry[len(start) :]))
    return found


def send(process: Process, number: int, *, to_group: bool = False) -> bool:
    """Signals exactly the process meant, and says whether that was possible.

    With `to_group`, the process group that it leads gets the signal too. The kernel delivers
    that to all members at once and a fork cannot slip through, which sends one by one cannot
    promise; kernels before 6.9 do without. Where signals are not ours to send (another
    user's process), where the process is gone, and where its pid means another by now, the
    answer is `False`.
    """
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        now = read_process(process.pid)
        if now is None or now.start != process.start:
            return False
        if to_group and process.group == process.pid:
            send_to_group(descriptor, number)
        signal.pidfd_send_signal(descriptor, number)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def send_to_group(pidfd: int, number: int) -> bool:
    """Signals the process group led by the pidfd's process, even when that one has ended."""
    try:
        signal.pidfd_send_signal(pidfd, number, None, _TO_GROUP)
    except OSError:
        return False
    return True


def now_ticks() -> int:
    """This moment, in the clock ticks since boot that start times are given in."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))
