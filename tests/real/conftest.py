"""Processes that carry a mark, so that a test can look whether any of its own still lives."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from groove_trio.shell.procfs import Process, read_process, send


def _marked(marker: str) -> list[Process]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) != os.getpid():
            try:
                arguments = Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:
                continue
            process = read_process(name)
            if process is not None and marker.encode() in arguments:
                found.append(process)
    return found


@pytest.fixture
def marker() -> Iterator[str]:
    """A number of seconds nobody else sleeps; afterwards nobody with it may live."""
    marker = f"3600.{random.SystemRandom().randrange(10**12):012d}"
    yield marker
    left = _marked(marker)
    for process in left:
        send(process, signal.SIGKILL)
    assert left == []


@pytest.fixture
def marked(marker: str) -> Callable[[], list[Process]]:
    """Tells the processes with the marker in their arguments."""
    return lambda: _marked(marker)
