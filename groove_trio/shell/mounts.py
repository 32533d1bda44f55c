"""Which file systems answer from this machine, and which wait for another one or for a program.

A call on the first kind takes as long as the disk does; one on the second may take for ever, and
must not be made on the event loop.
"""

from __future__ import annotations

import os
from typing import Final

LOCAL: Final = frozenset({
    "bcachefs", "btrfs", "devpts", "devtmpfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs",
    "jfs", "ntfs3", "overlay", "proc", "ramfs", "squashfs", "sysfs", "tmpfs", "vfat", "xfs", "zfs",
})  # fmt: skip
"""Types that no other machine and no other program stands behind."""


class Mounts:
    """Knows the type of each device, as /proc/self/mountinfo lists them."""

    def __init__(self) -> None:
        self._local: dict[int, bool] = {}

    def local(self, device: int) -> bool:
        """Whether nobody has to be waited for there."""
        known = self._local.get(device)
        if known is None:
            known = self._local[device] = _types().get(device) in LOCAL
        return known


def _types() -> dict[int, str]:
    """Types by device: proc_pid_mountinfo(5)."""
    types: dict[int, str] = {}
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields, _, rest = line.partition(" - ")
            major, _, minor = fields.split(" ")[2].partition(":")
            types[os.makedev(int(major), int(minor))] = rest.split(" ")[0]
    return types
