"""Terminals that an agent's own programs have made, told from the user's.

A terminal goes by a number, and a number that is free is given out again: to the next window
that the user opens, say. So the number is not what is remembered, but the very file: it is kept
open, as a place only, which keeps no terminal alive, and its name is counted off when the
terminal ends.
"""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Final

TERMINALS: Final = "/dev/pts/"
MULTIPLEXERS: Final = frozenset({"/dev/ptmx", "/dev/pts/ptmx"})
GET_NUMBER: Final = 0x80045430  # TIOCGPTN, ioctl_tty(2)


class Terminals:
    """The terminals of one agent. Close it."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def made(self, multiplexer: int) -> None:
        """Takes note of the terminal that an open of the multiplexer has made."""
        number: int = struct.unpack("=i", fcntl.ioctl(multiplexer, GET_NUMBER, bytes(4)))[0]
        for path in [path for path in self._places if not self.own(path)]:
            os.close(self._places.pop(path))
        path = f"{TERMINALS}{number}"
        self._places[path] = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)

    def own(self, path: str) -> bool:
        """Whether a path is that of a terminal which the agent has made, and which is still it."""
        place = self._places.get(path)
        return place is not None and os.fstat(place).st_nlink > 0

    def close(self) -> None:
        """Forgets them."""
        for place in self._places.values():
            os.close(place)
        self._places.clear()
