r"""A scripted agent: follows the steps on its first line of input, and knocks before it writes.

Standard library only and free of this package, because it runs as ``python -I -S scripted.py``.
The script is one line of JSON, a list of steps; each is an object whose ``do`` names it:

```
{"do": "write", "path": "src/a.py", "text": "x = 1\n"}     replaces or creates a file
{"do": "append", "path": "log.txt", "text": "more\n"}      adds to a file
{"do": "delete", "path": "src/a.py"}                       removes a file
{"do": "mkdir", "path": "src/new"}                         makes a directory and those above it
{"do": "knock", "path": "src/a.py", "operation": "write"}  asks only
{"do": "declare", "paths": ["shared.md"], "ttlS": 60, "reason": "notes"}   takes a lease
{"do": "complete"}                                         gives all its leases back
{"do": "run", "argv": ["make", "all"]}                     runs a program to its end, unasked
{"do": "print", "text": "hello", "count": 3, "stream": "out"}    to standard output or "err"
{"do": "sleep", "seconds": 0.5}
{"do": "await", "path": "go", "seconds": 10}               until a file exists, then goes on
{"do": "read"}                                             waits for one line of input, tells it
{"do": "exit", "code": 0}
{"do": "crash", "code": 7, "first": 2}                     exits on the first 2 runs only
{"do": "ignore-sigterm"}
{"do": "grandchild", "seconds": 3600, "hold": false}       leaves a process behind
```

``write``, ``append``, ``delete`` and ``mkdir`` happen only when the knock is granted; a daemon
that doesn't answer grants nothing. What happened is told in one line, such as
``granted: wrote src/a.py`` or ``denied: docs/x.md: <reason>``, and the script goes on. What
``run`` starts writes without a knock, has no input, and shares the agent's output. A
``crash`` without ``first`` happens on every run; runs are counted in ``$TMPDIR/runs``. The
grandchild forks twice, leaves the session and ignores SIGTERM; with ``hold`` it keeps the
agent's output open.
"""

from __future__ import annotations

import json
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

KNOCK_LIMIT_S = 10.0
POLL_S = 0.01
EXIT_BAD_SCRIPT = 64  # EX_USAGE of sysexits.h


def tell(text: str, stream: str = "out") -> None:
    """Prints one line at once."""
    print(text, file=sys.stderr if stream == "err" else sys.stdout, flush=True)


def post(path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """Posts JSON to the daemon; a fault of any kind is an OSError or ValueError."""
    import socket  # noqa: PLC0415 - most scripts of a crowd of agents never need it

    host, _, port = os.environ.get("GROOVE_URL", "").removeprefix("http://").rpartition(":")
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {host}:{port}\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    with socket.create_connection((host.strip("[]"), int(port)), KNOCK_LIMIT_S) as connection:
        connection.sendall(head.encode() + data)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    start, _, payload = answer.partition(b"\r\n\r\n")
    return int(start.split(b" ", 2)[1]), json.loads(payload)


def refusal(answer: Any) -> str:
    """The words of a problem document."""
    return str(answer.get("detail") or answer.get("title") or answer)


def ask(operation: str, path: str) -> str | None:
    """Knocks; None when granted, else the reason."""
    body = {"agent": os.environ.get("GROOVE_AGENT", ""), "operation": operation, "path": path}
    try:
        status, answer = post("/api/knock", {**body, "tool": "scripted"})
    except (OSError, ValueError, IndexError) as error:
        return f"the daemon does not answer ({error or type(error).__name__})"
    if status != 200:  # noqa: PLR2004 - the one status of an answered knock
        return refusal(answer)
    return None if answer.get("allow") is True else str(answer.get("reason"))


def change(step: dict[str, Any]) -> None:
    """Does one change of the file system, if the daemon grants it."""
    do, path = step["do"], step["path"]
    exists = os.path.lexists(path)
    operation = "delete" if do == "delete" else "write" if exists else "create"
    reason = ask(operation, path)
    if reason is not None:
        tell(f"denied: {path}: {reason}")
        return
    try:
        perform(do, path, step.get("text", ""))
    except OSError as error:
        tell(f"failed: {path}: {error.strerror}")
    else:
        told = {"write": "wrote", "append": "appended to", "delete": "deleted", "mkdir": "made"}
        tell(f"granted: {told[do]} {path}")


def perform(do: str, path: str, text: str) -> None:
    """The change itself."""
    if do == "delete":
        os.unlink(path)
        return
    os.makedirs(path if do == "mkdir" else os.path.dirname(path) or ".", exist_ok=True)
    if do != "mkdir":
        with open(path, "a" if do == "append" else "w", encoding="utf-8") as file:
            file.write(text)


def lease(step: dict[str, Any]) -> None:
    """Takes a lease or gives all back."""
    body = {"agent": os.environ.get("GROOVE_AGENT", "")}
    if step["do"] == "declare":
        body |= {key: step[key] for key in ("paths", "ttlS", "reason") if key in step}
    try:
        status, answer = post(f"/api/coordination/{step['do']}", body)
    except (OSError, ValueError, IndexError) as error:
        tell(f"refused: the daemon does not answer ({error or type(error).__name__})")
        return
    if status != 200:  # noqa: PLR2004 - the one status of success here
        tell(f"refused: {refusal(answer)}")
    elif step["do"] == "declare":
        tell(f"leased: {', '.join(answer['paths'])}")
    else:
        tell(f"returned: {len(answer)}")


def run_program(step: dict[str, Any]) -> None:
    """Runs a program, found by ``PATH``, and tells its pid and how it ended."""
    argv = step["argv"]
    no_input = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    try:
        pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=[no_input])
    except OSError as error:
        tell(f"not run: {argv[0]}: {error.strerror}")
        return
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    tell(f"ran: {argv[0]} as {pid}, ended with {code}")


def speak(step: dict[str, Any]) -> None:
    """Prints a line, or many of them numbered from 1 in few writes."""
    text, count = step.get("text", "line"), step.get("count", 1)
    if count == 1:
        tell(text, step.get("stream", "out"))
        return
    out = sys.stderr if step.get("stream") == "err" else sys.stdout
    for begin in range(1, count + 1, 1000):
        numbers = range(begin, min(begin + 1000, count + 1))
        out.write("".join(f"{text} {number}\n" for number in numbers))
    out.flush()


def grandchild(step: dict[str, Any]) -> None:
    """Leaves a process behind that is in another session and ignores SIGTERM."""
    import signal  # noqa: PLC0415 - see `post`

    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.close(reader)
            if not step.get("hold"):
                null = os.open(os.devnull, os.O_RDWR)
                for descriptor in range(3):
                    os.dup2(null, descriptor)
            os.write(writer, str(os.getpid()).encode())
            os.close(writer)
            time.sleep(step.get("seconds", 3600))
        os._exit(0)
    os.close(writer)
    os.wait()
    tell(f"left behind: {os.read(reader, 32).decode()}")
    os.close(reader)


def ignore_sigterm() -> None:
    """Makes the process deaf to a polite request to end."""
    import signal  # noqa: PLC0415 - see `post`

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tell("ignoring SIGTERM")


def count_run() -> int:
    """The number of this run, from 1, kept in ``$TMPDIR/runs``."""
    path = os.path.join(os.environ.get("TMPDIR", "/tmp"), "runs")  # noqa: S108 - only without a daemon
    with open(path, "a+", encoding="ascii") as file:
        file.write("x")
        file.flush()
        return file.tell()


def wait_for(step: dict[str, Any]) -> None:
    """Polls for a file until it is there or the time is up."""
    limit = time.monotonic() + step.get("seconds", 10)
    while not os.path.exists(step["path"]):
        if time.monotonic() > limit:
            tell(f"gave up: {step['path']}")
            return
        time.sleep(POLL_S)


def listen() -> None:
    """Waits for one line of input."""
    line = sys.stdin.readline()
    tell(f"read: {line.rstrip()}" if line else "end of input")


def crash(step: dict[str, Any], run: int) -> None:
    """Exits with a code, always or on the first runs."""
    if run <= step.get("first", run):
        tell(f"crashing on run {run}", "err")
        sys.exit(step.get("code", 1))


def knock(step: dict[str, Any]) -> None:
    """Asks without doing."""
    reason = ask(step.get("operation", "write"), step["path"])
    tell(f"denied: {step['path']}: {reason}" if reason else f"granted: {step['path']}")


STEPS: dict[str, Callable[[dict[str, Any]], None]] = {
    "write": change,
    "append": change,
    "delete": change,
    "mkdir": change,
    "knock": knock,
    "declare": lease,
    "complete": lease,
    "run": run_program,
    "print": speak,
    "sleep": lambda step: time.sleep(step["seconds"]),
    "await": wait_for,
    "read": lambda _: listen(),
    "exit": lambda step: sys.exit(step.get("code", 0)),
    "ignore-sigterm": lambda _: ignore_sigterm(),
    "grandchild": grandchild,
}


def main() -> None:
    """Reads the script and follows it."""
    steps = json.loads(sys.stdin.readline())
    run = count_run() if any(step.get("do") == "crash" for step in steps) else 1
    for step in steps:
        if step["do"] == "crash":
            crash(step, run)
        else:
            STEPS[step["do"]](step)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        tell(f"bad script: {error!r}", "err")
        sys.exit(EXIT_BAD_SCRIPT)
