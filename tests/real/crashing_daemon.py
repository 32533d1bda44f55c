"""A daemon that can be told to kill itself (SIGKILL) at one exact point of what it does to disk.

``python crashing_daemon.py PROJECT [TRACE | INDEX:PHASE]``. Points are all calls that make
something durable, visible or known: fsync, fdatasync, rename, replace, write, and send to a
client. They are counted from the start of the process, over all threads.

With the path of a trace, each point is written there, one line each: ``fsync write_atomic``. With
``57:before`` the process kills itself when the 57th is about to be made, with ``57:after`` when it
was made; a write is cut in the middle instead of made. Without either nothing is changed.

Says where it listens once it does.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

INTERNET = (socket.AF_INET, socket.AF_INET6)


class Points:
    """Counts points, and kills at the one that was asked for."""

    def __init__(self, asked: str) -> None:
        index, _, phase = asked.partition(":")
        self.at = int(index) if phase else 0
        self.phase = phase
        self.trace = -1
        if asked and not phase:
            self.trace = os.open(asked, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.count = 0
        self.lock = threading.Lock()
        self.write = os.write

    def pass_by(self, kind: str, call: Any, arguments: tuple[Any, ...], named: Any) -> Any:
        """Makes the call, unless this is the point."""
        with self.lock:
            self.count += 1
            here = self.count == self.at
            if self.trace >= 0:
                self.write(self.trace, f"{kind} {site()}\n".encode())
        if here and self.phase == "before":
            die()
        if here and kind == "write":
            descriptor, data = arguments
            self.write(descriptor, bytes(data)[: len(data) // 2])
            die()
        told = call(*arguments, **named)
        if here:
            die()
        return told

    def wrap(self, holder: Any, kind: str, *, only_internet: bool = False) -> None:
        """Puts a point where a module or class has a function."""
        call = getattr(holder, kind)

        def wrapped(*arguments: Any, **named: Any) -> Any:
            if only_internet and arguments[0].family not in INTERNET:
                return call(*arguments, **named)  # trio wakes itself by a socket, too
            return self.pass_by(kind, call, arguments, named)

        setattr(holder, kind, wrapped)


def site() -> str:
    """The function of the product that the point is in."""
    frame = sys._getframe(1)  # noqa: SLF001 - the documented way to a caller
    while frame is not None and "groove_trio" not in frame.f_code.co_filename:
        frame = frame.f_back  # type: ignore[assignment]
    return "?" if frame is None else frame.f_code.co_qualname


def die() -> None:
    """Ends this process as no handler can see."""
    os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()  # the signal is on its way to another thread, perhaps


def instrument(asked: str) -> None:
    """Puts the points in; before trio is imported, which keeps the functions it finds."""
    points = Points(asked)
    for kind in ("fsync", "fdatasync", "rename", "replace", "write"):
        points.wrap(os, kind)
    points.wrap(socket.socket, "send", only_internet=True)


async def main(project: Path) -> None:
    """Serves until killed."""
    import trio

    from groove_trio import Config, open_groove

    async with open_groove(Config(project=project, port=0, kill_strangers=True)) as groove:
        print(groove.url, flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    if sys.argv[2:]:
        instrument(sys.argv[2])
    import logging

    import trio

    from groove_trio.words.errors import GrooveError

    logging.basicConfig(level=logging.WARNING)
    try:
        trio.run(main, Path(sys.argv[1]))
    except GrooveError as error:
        print(f"refused: {error.slug}: {error.detail}", flush=True)
        sys.exit(1)
