"""Who holds a port: for the message when it is taken. Linux's /proc, as far as it may be read."""

from __future__ import annotations

import os
from pathlib import Path

_LISTEN = "0A"  # TCP_LISTEN, as /proc/net/tcp writes it (include/net/tcp_states.h)
_MAX_COMMAND = 60


def port_holder(port: int) -> str | None:
    """Names the process that listens on `port`, such as ``process 712 (python3 app.py)``.

    Blocks for some milliseconds: run it in a thread.

    Returns:
        The process where this user may see it, otherwise ``a process of user 1001``, otherwise
        None: nobody listens there any more, or the system does not tell.
    """
    listening = _listening_sockets(port)
    if not listening:
        return None
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()):
        if _holds_one_of(pid, set(listening)):
            return f"process {pid}{_command(pid)}"
    return f"a process of user {next(iter(listening.values()))}"


def _listening_sockets(port: int) -> dict[str, str]:
    """The inodes of sockets that listen on `port`, with their users."""
    found: dict[str, str] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            columns = row.split()
            local, state, user, inode = columns[1], columns[3], columns[7], columns[9]
            if state == _LISTEN and int(local.rpartition(":")[2], 16) == port:
                found[inode] = user
    return found


def _holds_one_of(pid: int, inodes: set[str]) -> bool:
    names = {f"socket:[{inode}]" for inode in inodes}
    try:
        with os.scandir(f"/proc/{pid}/fd") as descriptors:
            return any(_target(entry.path) in names for entry in descriptors)
    except OSError:  # gone, or another user's
        return False


def _target(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return ""
    text = ascii(b" ".join(words).decode("utf-8", "replace"))[1:-1]
    cut = text if len(text) <= _MAX_COMMAND else text[: _MAX_COMMAND - 3] + "..."
    return f" ({cut})" if cut else ""
