"""A mark that an agent's processes inherit and can't take off: two limits that limit nothing.

Whose a process is must not hang on what the process says of itself: not on its environment,
which it can clear or forge, and not on its parents alone, which it can lose before anyone has
looked. What a fork hands down and an unprivileged process can't undo is a lowered hard limit.
Linux keeps two limits for which it has had no use for twenty years, ``RLIMIT_LOCKS`` (nothing
since 2.4.25) and ``RLIMIT_RSS`` (nothing since 2.4.30). So each agent's root gets, right after it
was started,

    RLIMIT_LOCKS = level - id            RLIMIT_RSS = level + id

(soft and hard; `id` is the agent's, a number of 32 bits). The sum is the same for all agents, so
whoever wants to look like another would have to raise one of the two, which only root may
(``CAP_SYS_RESOURCE``). Lowering both gives no valid mark, and no way back to none.

Groove in groove: a daemon that itself bears a mark, because an agent runs it, gives its agents
marks of the next level down, and takes no other for its own. What bears the mark of another level
or of an unknown agent is an agent's, only not one of ours.

Not marked is what an agent's program forks in the microseconds before the mark is there.
"""

from __future__ import annotations

import re
import resource
from pathlib import Path

from groove_trio.words.base import AgentId

_LOCKS = 10  # RLIMIT_LOCKS, include/uapi/asm-generic/resource.h; the module does not name it
_TOP = 1 << 60  # bytes of memory, far above what any machine has: nobody mistakes it for a limit
_SPAN = 1 << 32  # ids below it; a level takes the numbers around it up to this far
_STEP = 4 * _SPAN
_LEVELS = 16
_ID = re.compile(r"[0-9a-f]{8}")

Limits = tuple[int, int]
"""The hard limits ``RLIMIT_LOCKS`` and ``RLIMIT_RSS``."""


class Marks:
    """The marks of one daemon's agents.

    Args:
        own: The hard limits of the daemon itself, if not those of this process.

    Attributes:
        whole: Whether every agent could be marked that was to be.
    """

    def __init__(self, own: Limits | None = None) -> None:
        self.whole = True
        self._own = own or _ask(0)
        level = _level_of(self._own)
        self._base = _TOP - (0 if level is None else level + 1) * _STEP

    def put(self, pid: int, agent: AgentId) -> None:
        """Marks a process just started, and with it all that it will ever fork.

        It can't where the daemon's own limits are lower than a mark, or the id is no number.
        """
        if not _ID.fullmatch(agent):
            self.whole = False
            return
        number = int(agent, 16)
        try:
            resource.prlimit(pid, _LOCKS, (self._base - number, self._base - number))
            resource.prlimit(pid, resource.RLIMIT_RSS, (self._base + number, self._base + number))
        except (OSError, ValueError):
            self.whole = False

    def read(self, pid: int) -> AgentId | bool:
        """Which agent's mark a process bears: the id; False for none; True for one not of ours.

        Raises:
            OSError: The process is gone.
        """
        locks, rss = read_limits(pid)
        if locks in (resource.RLIM_INFINITY, self._own[0]):
            return False
        number = self._base - locks
        if 0 <= number < _SPAN and rss == self._base + number:
            return AgentId(f"{number:08x}")
        return True


def read_limits(pid: int) -> Limits:
    """The two hard limits of a process.

    Raises:
        OSError: The process is gone.
    """
    try:
        return _ask(pid)
    except PermissionError:  # it runs in another group; what it may be told by hand is read
        return _read(Path(f"/proc/{pid}/limits").read_text(encoding="ascii"))


def _ask(pid: int) -> Limits:
    return resource.prlimit(pid, _LOCKS)[1], resource.prlimit(pid, resource.RLIMIT_RSS)[1]


def _read(text: str) -> Limits:
    """Reads lines such as ``Max resident set          unlimited            unlimited bytes``."""
    return _hard(text, "Max file locks"), _hard(text, "Max resident set")


def _hard(text: str, name: str) -> int:
    line = next(line for line in text.splitlines() if line.startswith(name))
    word = line.removeprefix(name).split()[1]
    return resource.RLIM_INFINITY if word == "unlimited" else int(word)


def _level_of(limits: Limits) -> int | None:
    locks, rss = limits
    for level in range(_LEVELS):
        base = _TOP - level * _STEP
        if base - _SPAN < locks <= base <= rss < base + _SPAN:
            return level
    return None
