"""POSIX shared memory and semaphores: files in ``/dev/shm`` that are an agent's own.

``shm_open(3)`` and ``sem_open(3)`` keep what they make there, outside of every scope, and much
depends on them: Python's ``multiprocessing`` has no lock without. So an agent may create files
directly in that directory, and may do what it likes with those that it has created, known by
their inodes: never with those of others, whatever their names. Links, directories and pipes, in
which others could be caught, it can't create there.

What is left of them when the agent's tree has ended is removed.
"""

from __future__ import annotations

import logging
import os
import stat
from contextlib import suppress

from groove_trio.rules.calls import DeedName
from groove_trio.shell.reach import Spot
from groove_trio.words.knocks import Operation

PLACE = "/dev/shm"  # noqa: S108 - shm_overview(7): where the C library keeps them

_log = logging.getLogger("groove_trio")


class Shared:
    """The shared memory of one agent.

    Args:
        place: The directory that it is in.
    """

    def __init__(self, place: str = PLACE) -> None:
        self._place = place
        self._beneath = f"{place}/"
        self._made: set[tuple[int, int]] = set()

    def holds(self, path: str) -> bool:
        """Whether a path is of this kind, whosever it is."""
        return path.startswith(self._beneath) and "/" not in path[len(self._beneath) :]

    def permits(self, deed: DeedName, operation: Operation, spot: Spot, first: Spot) -> bool:
        """Whether an agent may do something there without asking.

        Args:
            deed: What it does.
            operation: One of the operations that this takes.
            spot: On what.
            first: On what the first operation of the deed is; of a link, the file.
        """
        if not self.holds(spot.path):
            return False
        if spot.mode is not None:
            return operation != "rename" and self._is_own(spot)
        return operation == "create" and (
            deed == "open" or (deed == "link" and self._is_own(first))
        )

    def made(self, descriptor: int) -> None:
        """Takes note of a file that was just opened; one that was there before stays known."""
        told = os.fstat(descriptor)
        if stat.S_ISREG(told.st_mode):
            self._made.add((told.st_dev, told.st_ino))

    def clear(self) -> None:
        """Removes what is left."""
        if not self._made:
            return
        with suppress(FileNotFoundError), os.scandir(self._place) as entries:
            for entry in entries:
                try:
                    told = entry.stat(follow_symlinks=False)
                    if (told.st_dev, told.st_ino) in self._made:
                        os.unlink(entry.path)
                except OSError as error:
                    _log.warning("shared memory is left behind: %s", error)
        self._made.clear()

    def _is_own(self, spot: Spot) -> bool:
        if spot.itself >= 0:
            told = os.fstat(spot.itself)
        elif spot.is_name:
            told = os.lstat(spot.name, dir_fd=spot.parent)
        else:
            return False
        return (told.st_dev, told.st_ino) in self._made
