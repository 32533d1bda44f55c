"""Who is at the other end of a connection: asked of the kernel, once, before a byte is answered.

The kernel knows which user made the socket at the other end, and its inode. Another user, root
included where the daemon is not root's, is refused; so is whoever has left, for a closed socket
shows user 0 and inode 0, which is nobody. Once there are agents, the process that holds the socket
decides: one of an agent's tree *is* that agent for as long as the connection lasts, whatever it
forked, cleared or left behind (`sockets`, `lineage`). No secret takes part, so none can be stolen.

A lookup that fails is a refusal.
"""

from __future__ import annotations

import errno
import os
from contextlib import closing

import trio

from groove_trio.shell.census import Census
from groove_trio.shell.sockdiag import SockDiag, end_of
from groove_trio.shell.sockets import Seeker
from groove_trio.wire.sockdiag import End
from groove_trio.words.actors import OWNER, Actor, agent_actor
from groove_trio.words.errors import (
    BadAnswer,
    NotAdmitted,
    OutOfResources,
    Unsupported,
    shown,
)

LOOPBACK_4 = b"\x7f"  # 127.0.0.0/8, as `inet_pton` packs it
LOOPBACK_6 = bytes(15) + b"\x01"


async def identify(_inode: int | None) -> Actor:
    """Tells who a caller is that was checked, where there are no agents. Does not checkpoint."""
    return OWNER


def check(stream: trio.abc.Stream) -> int | None:
    """Makes sure that the other end is this user's.

    Returns:
        The inode of its socket; None if ours is no socket but the embedding program's stream.

    Raises:
        NotAdmitted: It is not, or nobody can tell.
        trio.BrokenResourceError: Nobody is there any more.
    """
    with closing(SockDiag()) as kernel:
        return _inode_of(stream, kernel)


class Identity:
    """Tells the owner from the agents of one daemon. Close it.

    Args:
        census: Who knows the agents' processes.
    """

    def __init__(self, census: Census) -> None:
        self._census = census
        self._seeker = Seeker(census)
        self._kernel = SockDiag()

    def open(self) -> None:
        """Makes sure that the kernel can be asked, before anyone is let in.

        Raises:
            Unsupported: It can't.
            OutOfResources: No descriptor is free.
        """
        here = (LOOPBACK_6, 0)
        try:
            self._kernel.ask(here, here)
        except BadAnswer as error:
            fault = error.__cause__
            if isinstance(fault, OSError) and fault.errno in (errno.EMFILE, errno.ENFILE):
                name = errno.errorcode[fault.errno]
                raise OutOfResources("No descriptor is free.", errno=name) from error
            raise Unsupported(
                "This system does not tell whose a connection is, so nobody could be kept out: "
                f"{error.detail}. It takes Linux with NETLINK_SOCK_DIAG (CONFIG_INET_DIAG)."
            ) from error

    def close(self) -> None:
        """Closes the line to the kernel."""
        self._kernel.close()

    def check(self, stream: trio.abc.Stream) -> int | None:
        """As `check`, over the line that is kept open; about 25 µs. Does not checkpoint."""
        return _inode_of(stream, self._kernel)

    async def identify(self, stream: trio.abc.Stream) -> Actor:
        """Tells who is at the other end: `check`, then `whose`; raises as they do."""
        return await self.whose(self.check(stream))

    async def whose(self, inode: int | None) -> Actor:
        """Tells whose a socket is that was checked; without one it is the embedding program's.

        Does not checkpoint where there were never any agents; else it takes the time to find who
        holds the socket.

        Raises:
            NotAdmitted: Another daemon's agent, or nobody can tell.
            OutOfResources: No descriptor is free to look with.
        """
        if inode is None or not self._census.kinship.populated:
            return OWNER
        agent = await self._seeker.whose(inode)
        return OWNER if agent is None else agent_actor(agent)


def _inode_of(stream: trio.abc.Stream, kernel: SockDiag) -> int | None:
    """The inode of the socket at the other end, which is this user's; None if ours is no socket."""
    if not isinstance(stream, trio.SocketStream):
        return None
    here, there = _ends(stream)
    try:
        told = kernel.ask(there, here)
    except BadAnswer as error:
        raise NotAdmitted("The kernel did not tell who is calling.") from error
    if told is None or told.listening:
        raise NotAdmitted("The kernel knows of no such caller.")
    if told.inode == 0:
        raise trio.BrokenResourceError("the caller is gone")
    own = os.geteuid()
    if told.uid != own:
        raise NotAdmitted(
            f"The daemon of user {own} talks to nobody else; the caller is user {told.uid}.",
            uid=told.uid,
        )
    return told.inode


def _ends(stream: trio.SocketStream) -> tuple[End, End]:
    """Our end and the other.

    Raises:
        NotAdmitted: The other is not on loopback: a program of this machine may bind another
            address of it, and still reach a server on loopback.
        trio.BrokenResourceError: There is no other end.
    """
    try:
        address, port, *_ = stream.socket.getpeername()
        own, own_port, *_ = stream.socket.getsockname()
        here, there = end_of(own, own_port), end_of(address, port)
    except OSError as error:
        raise trio.BrokenResourceError("the caller is gone") from error
    if there[0] != LOOPBACK_6 and (":" in address or not there[0].startswith(LOOPBACK_4)):
        raise NotAdmitted(f"The caller's address {shown(address)} is not loopback.")
    return here, there
