"""What Landlock can hold, version by version, and the ruleset that an agent is put behind.

Landlock is a list of what is allowed. A ruleset names the rights that it handles; of those,
nothing is allowed but what a rule grants beneath a path, and a grant holds for all that is
beneath, also for what is made there later. Nothing can be taken out of a grant again.

Rights are those of ``include/uapi/linux/landlock.h``. Each version of the interface added some,
and an older kernel refuses a ruleset that names newer ones, so they are masked. `IOCTL_DEV` is
never handled: programs drive terminals and graphics cards by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

EXECUTE: Final = 1 << 0
WRITE_FILE: Final = 1 << 1
READ_FILE: Final = 1 << 2
READ_DIR: Final = 1 << 3
REMOVE_DIR: Final = 1 << 4
REMOVE_FILE: Final = 1 << 5
MAKE_CHAR: Final = 1 << 6
MAKE_DIR: Final = 1 << 7
MAKE_REG: Final = 1 << 8
MAKE_SOCK: Final = 1 << 9
MAKE_FIFO: Final = 1 << 10
MAKE_BLOCK: Final = 1 << 11
MAKE_SYM: Final = 1 << 12
REFER: Final = 1 << 13  # version 2: link and rename across directories
TRUNCATE: Final = 1 << 14  # version 3

SCOPE_ABSTRACT_SOCKETS: Final = 1 << 0  # version 6
SCOPE_SIGNALS: Final = 1 << 1  # version 6

READING: Final = EXECUTE | READ_FILE | READ_DIR
CHANGING: Final = WRITE_FILE | TRUNCATE
"""What may be done to a file that is there."""

MAKING: Final = (
    REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SOCK | MAKE_FIFO | MAKE_SYM | REFER
)
"""What may be done to the names in a directory. Devices are nobody's to make."""

WRITING: Final = CHANGING | MAKING
HANDLED: Final = READING | WRITING | MAKE_CHAR | MAKE_BLOCK

_SINCE: Final = {REFER: 2, TRUNCATE: 3}
_SCOPES_SINCE: Final = 6


@dataclass(frozen=True, slots=True)
class Ruleset:
    """A Landlock ruleset, as the launcher takes it.

    Attributes:
        handled: The rights that nobody has unless a rule grants them.
        scoped: What must not reach out of the sandbox: signals, abstract sockets.
        rules: Paths, each with the rights that are granted there and beneath.
    """

    handled: int
    scoped: int
    rules: tuple[tuple[str, int], ...]


def handled(version: int) -> int:
    """The rights that a kernel with this version of Landlock can handle."""
    return HANDLED & ~sum(right for right, since in _SINCE.items() if version < since)


def scoped(version: int) -> int:
    """What a kernel with this version can keep inside."""
    return SCOPE_ABSTRACT_SOCKETS | SCOPE_SIGNALS if version >= _SCOPES_SINCE else 0


def lacking(version: int) -> tuple[str, ...]:
    """What a kernel with this version cannot hold, in words."""
    if version < 1:
        return ("Landlock",)
    told = {
        2: "renames between directories, which it forbids altogether",
        3: "truncation of files that may be read only",
        _SCOPES_SINCE: "signals and abstract sockets to processes outside",
    }
    return tuple(what for since, what in told.items() if version < since)
