"""How a daemon is started and stopped from a command line.

Starting builds two processes: a guard, and beneath it the daemon (see the guard's own page).
In the foreground this process becomes the guard. Detached, the guard is a child in a session of
its own with nothing of the caller's terminal, and the daemon reports over a pipe, once, either
where it listens or why it does not.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import msgspec

from groove_trio.client.faults import error_from
from groove_trio.guard import KILL_S, guard_command
from groove_trio.rules.admission import DEFAULT_HOST
from groove_trio.shell.daemonfile import DaemonInfo, running_daemon, signal_daemon
from groove_trio.shell.files import open_private
from groove_trio.shell.paths import resolve_root
from groove_trio.shell.store import STATE_DIR, ensure_state_dir
from groove_trio.words.errors import GrooveError, Unreachable, WrongState, shown

LOG = "daemon.log"
START_S = 30.0  # to listening; it takes half a second
TOLD_EVERY_S = 1.0
MAX_REPORT = 65_536
MAX_QUOTED = 200  # characters of a log line in a message

GUARD_S = KILL_S + 5
"""How long the guard may outlive the daemon: it kills for `KILL_S` at most."""


class Started(NamedTuple):
    """A daemon that listens."""

    version: str
    url: str
    pid: int
    project: str


def run_foreground(
    project: Path, host: str = DEFAULT_HOST, port: int | None = None, *, as_json: bool = False
) -> NoReturn:
    """Becomes the guard of a daemon; its standard output says when it listens."""
    daemon = _daemon_command(resolve_root(project), host, port)
    command = guard_command([*daemon, "--json"] if as_json else daemon)
    sys.stdout.flush()
    os.execv(command[0], command)  # noqa: S606 - that there is no shell is the point


def start_detached(project: Path, host: str = DEFAULT_HOST, port: int | None = None) -> Started:
    """Starts a daemon that outlives this process; returns when it listens.

    Raises:
        GrooveError: What kept it from listening; no process of it is left then.
    """
    root = resolve_root(project)
    ensure_state_dir(root / STATE_DIR)
    log = open_private(root / STATE_DIR / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    reader, writer = os.pipe()
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        daemon = [*_daemon_command(root, host, port), "--ready-fd", str(writer)]
        os.set_inheritable(writer, True)
        command = guard_command(daemon, writer)
        guard = os.posix_spawn(
            command[0],
            command,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, nothing, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
            setsid=True,
            setsigdef=[signal.SIGINT, signal.SIGPIPE, signal.SIGHUP, signal.SIGTERM],
        )
    finally:
        for descriptor in (writer, log, nothing):
            os.close(descriptor)
    try:
        report = _read_report(reader)
    except BaseException:
        for number in (signal.SIGTERM, signal.SIGINT):  # the second bounds how long it takes
            os.kill(guard, number)  # our child, not waited for yet: its pid is its own
        os.waitpid(guard, 0)
        raise
    finally:
        os.close(reader)
    return _understand(report, guard, root)


def _daemon_command(project: Path, host: str, port: int | None) -> list[str]:
    # -P: a module in the current directory must not be taken for one of ours.
    command = [sys.executable, "-P", "-m", "groove_trio.cli.daemon", "--project", str(project)]
    command += ["--host", host]
    return command if port is None else [*command, "--port", str(port)]


def _read_report(reader: int) -> bytes:
    """Waits for the daemon's one line, or for its end."""
    report = b""
    deadline = time.monotonic() + START_S
    while not report.endswith(b"\n") and len(report) < MAX_REPORT:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([reader], [], [], left)[0]:
            raise GrooveError(
                f"the daemon did not listen within {START_S:g} s and was ended; "
                f"see {STATE_DIR}/{LOG}"
            )
        chunk = os.read(reader, 4096)
        if not chunk:
            break
        report += chunk
    return report


def _understand(report: bytes, guard: int, project: Path) -> Started:
    try:
        told: dict[str, Any] = msgspec.json.decode(report, type=dict[str, Any])
    except msgspec.DecodeError:
        told = {}
    if told and "type" not in told:
        return Started(**told)
    code = os.waitstatus_to_exitcode(os.waitpid(guard, 0)[1])
    if told:
        raise error_from(told["status"], report)
    log = project / STATE_DIR / LOG
    raise GrooveError(
        f"the daemon ended with {code} before it listened ({_end_of(log)}); see {log}"
    )


def _end_of(log: Path) -> str:
    with suppress(OSError):
        return log.read_text("utf-8", "replace").rstrip().rpartition("\n")[2][:MAX_QUOTED]
    return "no word"


def stop_daemon(project: Path, tell: Callable[[float], None] | None = None) -> DaemonInfo:
    """Stops the daemon of a project; returns when it, its guard and its agents are gone.

    Args:
        project: The project root.
        tell: Called about once a second with the seconds waited so far.

    Raises:
        Unreachable: No daemon runs for the project.
        WrongState: What runs is a program that embeds a groove; ending it is not ours to do.
        GrooveError: The daemon has ended, but its guard has not.
    """
    root = resolve_root(project)
    info = running_daemon(root)
    if info is None:
        raise Unreachable(f"no daemon runs for {shown(str(root))}", project=str(root))
    if info.guard_pid is None:
        raise WrongState(
            f"the groove of {shown(str(root))} is part of another program, process {info.pid}; "
            "end that program",
            pid=info.pid,
        )
    watched = [each for each in map(_open_process, (info.pid, info.guard_pid)) if each is not None]
    try:
        signal_daemon(info)
        wait_gone(watched, tell, GUARD_S)
        with suppress(ChildProcessError):  # started by this very process, it is also ours to reap
            os.waitpid(info.guard_pid, os.WNOHANG)
    finally:
        for descriptor in watched:
            os.close(descriptor)
    return info


def _open_process(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def wait_gone(
    watched: list[int], tell: Callable[[float], None] | None, guard_s: float = GUARD_S
) -> None:
    """Waits for the end of the processes behind some pidfds: a daemon, which may take its time.

    Those after the first, its guard, have `guard_s` seconds more. What is stopped (SIGSTOP, or
    Ctrl-Z) would never end, so it is made to go on.

    Raises:
        GrooveError: The guard has not ended.
    """
    began = time.monotonic()
    give_up = float("inf")
    for each in watched:
        poll = select.poll()
        poll.register(each, select.POLLIN)
        while True:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(each, signal.SIGCONT)
            left = give_up - time.monotonic()
            if poll.poll(max(0.0, min(TOLD_EVERY_S, left)) * 1000):
                break
            if left <= 0:
                raise GrooveError(
                    f"the daemon has ended, but its guard has not within {guard_s:g} s; "
                    f"see {STATE_DIR}/{LOG}"
                )
            if tell is not None:
                tell(time.monotonic() - began)
        give_up = time.monotonic() + guard_s
