"""CPU time of the faces, as differences to the bare interpreter, in one run.

Budgets: ``--help`` under 150 ms over the interpreter's own start, ``status`` under 350 ms in all,
the hook a few times an isolated start; start to listening under 0.6 s of wall time.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from groove_trio import hook
from groove_trio.cli.launch import start_detached, stop_daemon

ROUNDS = 9
ASKED = json.dumps(
    {"hook_event_name": "PreToolUse", "tool_name": "Write", "tool_input": {"file_path": "src/a"}}
)


def cpu_ms(command: Sequence[str], stdin: str = "", **variables: str) -> float:
    """The second smallest of several runs: user and system time of the child."""
    taken = []
    for _ in range(ROUNDS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            command, input=stdin.encode(), env={**os.environ, **variables}, capture_output=True,
            check=False,
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return sorted(taken)[1] * 1000


def test_cpu_of_the_faces() -> None:
    python = sys.executable
    bare = cpu_ms([python, "-c", ""])
    isolated = cpu_ms([python, "-I", "-S", "-c", ""])
    with tempfile.TemporaryDirectory() as scratch:
        project = Path(scratch).resolve()
        waits = []
        for _ in range(3):
            began = time.perf_counter()
            daemon = start_detached(project, port=0)
            waits.append(time.perf_counter() - began)
            if len(waits) < 3:
                stop_daemon(project)
        groove = [python, "-m", "groove_trio", "-p", str(project)]
        agent = {"GROOVE_URL": daemon.url, "GROOVE_AGENT": "00000000"}
        try:
            rows = {
                "bare interpreter": bare,
                "groove-trio --help": cpu_ms([python, "-m", "groove_trio", "--help"]),
                "groove-trio status": cpu_ms([*groove, "status"]),
                "groove-trio agents": cpu_ms([*groove, "agents"]),
                "isolated interpreter": isolated,
                "hook, answered": cpu_ms([python, "-I", "-S", hook.__file__], ASKED, **agent),
            }
        finally:
            stop_daemon(project)
    for name, taken in rows.items():
        base = isolated if name.startswith(("hook", "isolated")) else bare
        print(f"{name:24} {taken:7.1f} ms   {taken - base:+7.1f} ms   {taken / base:5.1f} x")
    print(f"start to listening       {min(waits) * 1000:7.1f} ms of wall time")


if __name__ == "__main__":
    test_cpu_of_the_faces()
