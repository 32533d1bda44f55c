"""The daemon's own process: what the guard runs. Not a verb; ``groove-trio start`` builds it.

Two signals end it: at the first it drains (doors close, agents get SIGTERM and their grace, the
log is closed), at the second it cancels. Both are the guard's to send, or `groove-trio stop`'s.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from groove_trio import __version__
from groove_trio.config import Config
from groove_trio.guard import die_with_guard
from groove_trio.rules.admission import DEFAULT_HOST
from groove_trio.shell.spawning import forbid_core_dumps, raise_descriptor_limit
from groove_trio.words.errors import EXIT_FAILURE, GrooveError

if TYPE_CHECKING:
    from groove_trio.groove import Groove

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

RUN_BY_ROOT = (
    "run by root: agents are root, too. Behind gate and wall they have none of root's powers, "
    "and so cannot write what another user owns; at level hooks they have all of them. Better: "
    "run it as the user who owns the project"
)
"""The warning at the start of a daemon that root runs."""

_log = logging.getLogger("groove_trio")


def main(arguments: list[str]) -> int:
    """Runs a daemon until it is told to end.

    Args:
        arguments: The command line without the program.

    Returns:
        The exit code: 0 after a tidy end, 1 after a cancelled one, or the error's.
    """
    options = _parse(arguments)
    guard_pid = os.getppid()
    die_with_guard()
    forbid_core_dumps()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    os.chdir(options.project)
    config = Config(
        project=options.project,
        host=options.host,
        port=options.port,
        kill_strangers=True,
        guard_pid=guard_pid,
        descriptor_limit=raise_descriptor_limit(),
    )
    try:
        return _run(config, options)
    except GrooveError as error:
        _refuse(error, options)
        return error.exit_code


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="groove_trio.cli.daemon")
    parser.add_argument("--project", type=Path, required=True)
    parser.add_argument("--host", default=DEFAULT_HOST)
    parser.add_argument("--port", type=int)
    parser.add_argument("--json", action="store_true", help="the ready line as JSON")
    parser.add_argument("--ready-fd", type=int, help="where to report, instead of stdout")
    return parser.parse_args(arguments)


def _run(config: Config, options: argparse.Namespace) -> int:
    import trio

    from groove_trio.groove import flattened, open_groove

    scope = trio.CancelScope()
    asked = trio.Event()

    async def watch(signals: AsyncIterator[int]) -> None:
        async for _ in signals:
            if asked.is_set():
                scope.cancel()
            asked.set()

    async def serve() -> None:
        with flattened(), trio.open_signal_receiver(*ENDING) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch, signals)
                with scope:
                    async with open_groove(config) as groove:
                        warn(groove)
                        announce(groove, options)
                        await asked.wait()
                nursery.cancel_scope.cancel()

    trio.run(serve)
    return EXIT_FAILURE if scope.cancelled_caught else 0


def announce(groove: Groove, options: argparse.Namespace) -> None:
    """Says where it listens, once: to whoever started it detached, or on standard output."""
    facts = {
        "version": __version__,
        "url": groove.url,
        "pid": os.getpid(),
        "project": str(groove.project),
    }
    as_json = json.dumps(facts)
    line = f"groove-trio {__version__} listening on {groove.url} for {groove.project}"
    _report(as_json if options.json or options.ready_fd is not None else line, options.ready_fd, 1)


def warn(groove: Groove) -> None:
    """Tells what its user should know of this start: in the log, or on standard error."""
    if os.geteuid() == 0:
        _log.warning("%s", RUN_BY_ROOT)
    for lack in groove.status().missing:
        _log.warning("%s", lack)


def _refuse(error: GrooveError, options: argparse.Namespace) -> None:
    from groove_trio.cli.show import problem_line, safe

    problem = problem_line(error)
    if options.ready_fd is not None:
        _report(problem, options.ready_fd, 2)
    _report(problem if options.json else f"groove-trio: {safe(error.detail)}", None, 2)


def _report(line: str, ready_fd: int | None, otherwise: int) -> None:
    with contextlib.suppress(OSError):  # nobody has to listen
        descriptor = otherwise if ready_fd is None else ready_fd
        os.write(descriptor, line.encode(errors="surrogateescape") + b"\n")
        if ready_fd is not None:
            os.close(ready_fd)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
