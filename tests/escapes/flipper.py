"""Turns names about, as fast as it can, until a file is there:
``flipper.py <file> <inside> <outside>...``.

``turning`` is now a link to the file inside, now to the one outside; ``turned`` is now a directory,
now a link to the one outside.
"""

from __future__ import annotations

import ctypes
import os
import sys

EXCHANGE = 2
AT_FDCWD = -100


def main(still: str, *directories: str) -> None:
    """Turns the names in each pair of directories about."""
    os.nice(10)  # callers and the gate come first, so that there is something to disturb
    renameat2 = ctypes.CDLL(None).renameat2
    swaps: list[tuple[bytes, bytes]] = []
    for inside, outside in zip(directories[::2], directories[1::2], strict=True):
        os.symlink(f"{inside}/file", f"{inside}/turning")
        os.symlink(f"{outside}/file", f"{inside}/turned-to")
        os.mkdir(f"{inside}/turned")
        for name in ("file", "other"):
            with open(f"{inside}/turned/{name}", "w", encoding="utf-8") as file:
                file.write(name)
        os.symlink(outside, f"{inside}/turned-away")
        swaps.append((f"{inside}/turning".encode(), f"{inside}/turned-to".encode()))
        swaps.append((f"{inside}/turned".encode(), f"{inside}/turned-away".encode()))
    print("turning", flush=True)
    while not os.path.exists(still):
        for old, new in swaps:
            renameat2(AT_FDCWD, old, AT_FDCWD, new, EXCHANGE)


if __name__ == "__main__":
    main(*sys.argv[1:])
