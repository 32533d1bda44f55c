"""Makes sure that it is this user's own daemon that listens, before a word is said to it.

A daemon's port is free again when the daemon has ended, and any user of the machine may take it:
to hear prompts and paths, or to answer a knock with yes. So each new connection is looked up in
the kernel first, as the daemon does with its callers.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import closing

from groove_trio.wire.sockdiag import (
    ANSWER_BYTES,
    ANYONE,
    NETLINK_SOCK_DIAG,
    End,
    Socket,
    answer,
    question,
)
from groove_trio.words.errors import BadAnswer, Unreachable

_LOOPBACK = b"\x7f"
_LOOPBACK_6 = bytes(15) + b"\x01"
_MAPPED = bytes(10) + b"\xff\xff"


def check_peer(connected: socket.socket, url: str) -> None:
    """Asks the kernel who is at the other end of a connection; about 40 µs.

    Whoever accepted the connection counts, and before it is accepted, whoever listens. Other
    systems than Linux don't tell, and other machines are not ours to ask about: both pass.

    Raises:
        Unreachable: Another user is, or the kernel knows of nobody.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        here = _end(connected.family, connected.getsockname())
        there = _end(connected.family, connected.getpeername())
        uid = _uid_of(there, here)
    except (OSError, BadAnswer) as error:
        detail = f"nobody can tell whether it is your daemon that listens at {url}: {error}"
        raise Unreachable(detail, url=url) from error
    own = os.geteuid()
    if uid is None and not _is_loopback(there[0]):
        return
    if uid != own:
        who = "nobody that is known here" if uid is None else f"another user (uid {uid})"
        raise Unreachable(
            f"at {url} listens {who}, not your daemon; nothing was said to it. "
            "Start a daemon of your own: groove-trio start",
            url=url,
        )


def _uid_of(there: End, here: End) -> int | None:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    with closing(socket.socket(socket.AF_NETLINK, kind, NETLINK_SOCK_DIAG)) as line:
        if (accepted := _accepted(line, there, here, 1)) is not None:
            return accepted.uid
        # Nobody has accepted it yet: it waits at whoever listens there.
        anyone = ANYONE[len(there[0]) > len(ANYONE[0][0])]
        listener = _ask(line, there, anyone, 2)
        if listener is not None and listener.listening:
            return listener.uid
        # Or it was accepted between the two questions, by a listener that then closed.
        late = _accepted(line, there, here, 3)
    return None if late is None else late.uid


def _accepted(line: socket.socket, there: End, here: End, number: int) -> Socket | None:
    """The other end of the connection, once a process holds it."""
    found = _ask(line, there, here, number)
    return found if found is not None and found.inode and not found.listening else None


def _ask(line: socket.socket, here: End, there: End, number: int) -> Socket | None:
    line.send(question(here, there, number))
    return answer(line.recv(ANSWER_BYTES), here, there, number)


def _end(family: int, name: tuple[str, int]) -> End:
    address = socket.inet_pton(family, name[0].partition("%")[0])
    return address.removeprefix(_MAPPED) if len(address) > 4 else address, name[1]  # noqa: PLR2004


def _is_loopback(address: bytes) -> bool:
    return address.startswith(_LOOPBACK) if len(address) == 4 else address == _LOOPBACK_6  # noqa: PLR2004
