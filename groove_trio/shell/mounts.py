"""Which file systems answer at once, so that a call on them may be made on the event loop.

Those that wait for another machine or for a program never do: such a call may take for ever. One
on this machine's own disk mostly does, but not always: a disk that is full of dirty pages, or that
has forgotten where it has room, takes milliseconds for a new file. So it is watched how long calls
take, and where they take long, those of the next second are made in threads, several at a time.
"""

from __future__ import annotations

import os
import time
from typing import Final

SLOW_S: Final = 0.001
"""How long calls may take on average: a turn of the loop with a few agents takes as long."""

SLOW_FOR_S: Final = 1.0
"""How long those on a file system that was slow are made in threads, before it is tried again."""

_SHARE: Final = 0.1  # of the latest call in the average: one that was interrupted is no matter

LOCAL: Final = frozenset({
    "bcachefs", "btrfs", "devpts", "devtmpfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs",
    "jfs", "ntfs3", "overlay", "proc", "ramfs", "squashfs", "sysfs", "tmpfs", "vfat", "xfs", "zfs",
})  # fmt: skip
"""Types that no other machine and no other program stands behind."""


class Mounts:
    """Knows the type of each device, as /proc/self/mountinfo lists them, and how it fares."""

    def __init__(self) -> None:
        self._local: dict[int, bool] = {}
        self._average: dict[int, float] = {}
        self._slow_until: dict[int, float] = {}

    def quick(self, device: int) -> bool:
        """Whether nobody has to be waited for there, nor the disk for long."""
        if self._slow_until and self._is_slow(device):
            return False
        known = self._local.get(device)
        if known is None:
            known = self._local[device] = _types().get(device) in LOCAL
        return known

    def took(self, device: int, seconds: float) -> None:
        """Takes note of how long a call took that was made on the event loop."""
        before = self._average.get(device, 0.0)
        average = self._average[device] = before + (seconds - before) * _SHARE
        if average > SLOW_S:
            self._slow_until[device] = time.monotonic() + SLOW_FOR_S
            self._average[device] = SLOW_S / 2

    def _is_slow(self, device: int) -> bool:
        until = self._slow_until.get(device)
        if until is None:
            return False
        if time.monotonic() < until:
            return True
        del self._slow_until[device]
        return False


def _types() -> dict[int, str]:
    """Types by device: proc_pid_mountinfo(5)."""
    types: dict[int, str] = {}
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields, _, rest = line.partition(" - ")
            major, _, minor = fields.split(" ")[2].partition(":")
            types[os.makedev(int(major), int(minor))] = rest.split(" ")[0]
    return types
