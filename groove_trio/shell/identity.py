"""Who is at the other end of a connection.

For now every peer that connects from loopback is taken for the owner. That keeps other machines
out and nothing else: another user of this machine, and an agent itself, can connect to loopback
too. Asking the kernel who holds the peer's socket belongs here, and nowhere else.
"""

from __future__ import annotations

import trio

from groove_trio.rules.admission import is_loopback
from groove_trio.words.errors import NotAdmitted, shown
from groove_trio.words.schemas import OWNER, Actor


def identify(stream: trio.abc.Stream) -> Actor:
    """Tells who is at the other end, once, when the connection is accepted.

    A stream that is no socket is an embedding program's own, and so the owner's.

    Raises:
        NotAdmitted: The peer's address is not loopback (a program on this machine may bind
            another address of the machine and still reach a loopback server), or the peer has
            left already.
    """
    if not isinstance(stream, trio.SocketStream):
        return OWNER
    try:
        address = stream.socket.getpeername()[0]
    except OSError as error:
        raise NotAdmitted("The caller is gone.") from error
    if not is_loopback(address):
        raise NotAdmitted(f"The caller's address {shown(address)} is not loopback.")
    return OWNER
