"""The guard: a tiny process above the daemon that leaves nothing behind, however the daemon ends.

The daemon ends its agents itself when it is asked to stop. If it is killed outright it cannot,
and its agents would live on with nobody to hold them. So ``groove-trio start`` runs the
daemon as the child of this program, which adopts every orphan beneath it (a child subreaper,
prctl(2)), waits, and when the daemon has ended by any means kills all that is left and exits
as the daemon did. The other way round, the daemon asks the kernel for SIGTERM when the guard
dies (`die_with_guard`), and ends tidily. Only killing both at one stroke leaves agents
behind; the next daemon finds those by their environment.

Signals: the daemon runs in a session of its own, so Ctrl-C in a terminal reaches the guard
alone and is handed on exactly once. The first SIGTERM, SIGINT or SIGHUP and the second are
handed on (a daemon drains at the first and cancels at the second); the third kills it at once.
What was ignored when the guard began, as under nohup(1), stays ignored.

Standard library only, and little of that: run as a file by an isolated interpreter, it takes
about 10 MB.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

GUARD_VARIABLE = "GROOVE_GUARD"
"""Environment variable that tells the daemon the guard's pid."""

KILL_S = 10.0
"""How long, in seconds, killing what the daemon left behind may take."""

EXIT_USAGE = 2
EXIT_CANNOT_RUN = 126  # what shells say, as the two below
EXIT_NOT_FOUND = 127
EXIT_SIGNAL_BASE = 128

_HANDED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_MOST_HANDED_ON = 2
_FREEZE_ROUNDS = 20
_STRIKES = 200
_SET_PDEATHSIG = 1  # prctl(2)
_SET_CHILD_SUBREAPER = 36
_TO_GROUP = 1 << 2  # PIDFD_SIGNAL_PROCESS_GROUP, Linux 6.9


def guard_command(daemon: list[str], ready_fd: int | None = None) -> list[str]:
    """The command line that runs a daemon under a guard.

    Args:
        daemon: The daemon's own command line, its program as an absolute path.
        ready_fd: A descriptor that the daemon inherits, to tell when it is ready; the caller
            makes it inheritable (``pass_fds``). The guard closes its own copy, so that a
            reader sees the end when the daemon ends.
    """
    ready = [] if ready_fd is None else ["--ready-fd", str(ready_fd)]
    return [sys.executable, "-I", "-S", os.path.abspath(__file__), *ready, "--", *daemon]


def die_with_guard() -> None:
    """Called by the daemon: SIGTERM when the guard dies. Does nothing without a guard.

    Raises:
        OSError: The kernel refused.
    """
    guard = os.environ.pop(GUARD_VARIABLE, "")
    if guard.isdecimal():
        die_with_parent(int(guard))


def die_with_parent(expected: int) -> None:
    """Makes the kernel send this process SIGTERM when its parent, `expected`, dies.

    If the parent is dead already, the signal comes at once.

    Raises:
        OSError: The kernel refused.
    """
    _prctl(_SET_PDEATHSIG, signal.SIGTERM)
    # Asked for first and looked at second, so no moment lies between.
    if os.getppid() != expected:
        os.kill(os.getpid(), signal.SIGTERM)


def main(arguments: list[str]) -> int:
    """Runs the daemon given after ``--`` and gives the exit code to end with."""
    ready_fd, daemon = _parse(arguments)
    if not daemon:
        sys.stderr.write("usage: guard.py [--ready-fd N] -- PROGRAM [ARGUMENT...]\n")
        return EXIT_USAGE
    _prctl(_SET_CHILD_SUBREAPER, 1)
    asked, wake = _catch()
    try:
        pid = _start(daemon, ready_fd)
    except OSError as fault:
        sys.stderr.write(f"groove-trio: cannot run {daemon[0]}: {fault.strerror}\n")
        return EXIT_NOT_FOUND if isinstance(fault, FileNotFoundError) else EXIT_CANNOT_RUN
    code = _watch(pid, asked, wake)
    left = end_descendants()
    if left:
        sys.stderr.write(f"groove-trio: could not end these processes: {left}\n")
    return code


def _parse(arguments: list[str]) -> tuple[int | None, list[str]]:
    ready_fd = None
    if arguments[:1] == ["--ready-fd"] and len(arguments) > 1 and arguments[1].isdecimal():
        ready_fd, arguments = int(arguments[1]), arguments[2:]
    return ready_fd, arguments[1:] if arguments[:1] == ["--"] else []


def _catch() -> tuple[list[int], int]:
    """Collects signals in a list; gives that and a descriptor that wakes the wait for them."""
    asked: list[int] = []
    wake, waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    for number in _HANDED_ON:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda received, _frame: asked.append(received))
    return asked, wake


def _start(daemon: list[str], ready_fd: int | None) -> int:
    environ = {**os.environ, GUARD_VARIABLE: str(os.getpid())}
    if ready_fd is not None:
        os.set_inheritable(ready_fd, True)
    try:
        # setsigdef: what the interpreter ignores for itself is not to be passed on.
        return os.posix_spawn(
            daemon[0],
            daemon,
            environ,
            setsid=True,
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
        )
    finally:
        if ready_fd is not None:
            os.close(ready_fd)


def _watch(pid: int, asked: list[int], wake: int) -> int:
    """Waits for the daemon's end while handing signals on; gives its code, 128+n for a signal."""
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(wake, select.POLLIN)
    handed = 0
    while pidfd not in (ready := dict(poll.poll())):
        if wake in ready:
            os.read(wake, 1024)
        while asked:
            handed += 1
            number = asked.pop(0)
            last = handed > _MOST_HANDED_ON
            signal.pidfd_send_signal(pidfd, signal.SIGKILL if last else number)
    os.close(pidfd)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else EXIT_SIGNAL_BASE - code


def end_descendants() -> list[int]:
    """Freezes and kills everything beneath this process until nothing is; tells what is left.

    Frozen processes neither fork nor see each other die. What forks and ends too fast to be
    frozen is our child sooner or later, for we adopt it, and is struck as such. Takes at
    most `KILL_S` seconds.
    """
    give_up = time.monotonic() + KILL_S
    while time.monotonic() < give_up:
        frozen: set[tuple[int, int]] = set()
        for _ in range(_FREEZE_ROUNDS):
            new = [process for process in _descendants() if process not in frozen]
            if not new:
                break
            for process in new:
                _send(process, signal.SIGSTOP)
            frozen.update(new)
        for process in frozen:
            _send(process, signal.SIGKILL)
        if not _strike_children() and not frozen:
            return []
        time.sleep(0.005)
    return sorted(pid for pid, _ in _descendants())


def _strike_children() -> bool:
    """Kills children and the groups they lead until there are none; whether there were any."""
    struck = False
    for _ in range(_STRIKES):
        try:
            with open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:
                children = [int(word) for word in file.read().split()]
        except FileNotFoundError:  # a kernel without them: the rounds have to do
            children = []
        for pid in children:
            _send((pid, -1), signal.SIGKILL)
        struck |= bool(children) | _reap()
        if not children:
            break
    return struck


def _descendants() -> list[tuple[int, int]]:
    """Pid and start time of all that is beneath this process, the unreaped included."""
    parents: dict[int, list[tuple[int, int]]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal() and (told := _read(int(name))) is not None:
            parents.setdefault(told[0], []).append((int(name), told[1]))
    found: list[tuple[int, int]] = []
    queue = [os.getpid()]
    for pid in queue:
        for child in parents.pop(pid, ()):
            found.append(child)
            queue.append(child[0])
    return found


def _read(pid: int) -> tuple[int, int] | None:
    """Parent and start time of a process; `None` if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = line[line.rindex(b")") + 2 :].split()
    return int(fields[1]), int(fields[19])


def _send(process: tuple[int, int], number: int) -> None:
    """Signals exactly this process, and as a whole the group that it leads.

    A child of ours needs no start time: until we reap it, its pid is its own.
    """
    pid, start = process
    pidfd = -1
    try:
        pidfd = os.pidfd_open(pid)
        if start < 0 or (_read(pid) or (0, 0))[1] == start:
            signal.pidfd_send_signal(pidfd, number)
            signal.pidfd_send_signal(pidfd, number, None, _TO_GROUP)
    except OSError:
        pass  # gone, another user's, or a kernel that does not know groups
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def _reap() -> bool:
    reaped = False
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            reaped = True
    except ChildProcessError:
        pass
    return reaped


def _prctl(option: int, value: int) -> None:
    import ctypes  # noqa: PLC0415 - the command line imports this file for `guard_command`

    libc = ctypes.CDLL(None, use_errno=True)
    arguments = [ctypes.c_ulong(number) for number in (value, 0, 0, 0)]
    if libc.prctl(option, *arguments) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
