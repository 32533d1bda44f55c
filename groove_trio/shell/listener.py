"""The accept loop: each connection becomes a task.

When descriptors run out, callers are not left hanging in the kernel's queue: a spare one is given
up to accept the next of them, idle connections are closed to make up for it, and if there are none
the caller is told to come again. What goes on inside keeps what it has.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import Self

import trio

from groove_trio.shell.conversation import Connection
from groove_trio.shell.door import Door

ACCEPT_PAUSE_S = 0.1  # trio.serve_listeners waits as long when descriptors run out
COMPLAIN_S = 10.0  # between two lines of the log about it

OUT_OF_CAPACITY = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})

LOG = logging.getLogger("groove_trio")


async def accept_connections(
    listeners: Sequence[trio.abc.Listener[trio.abc.HalfCloseableStream]],
    door: Door,
    connections: trio.Nursery,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Accepts until cancelled; then the listeners are closed, and the connections go on.

    Args:
        listeners: Owned from now on.
        door: What the connections are held to.
        connections: Where each connection becomes a task: the nursery around this one, because
            the doors close before the conversations end.
        task_status: Says when accepting has begun.
    """
    async with trio.open_nursery() as nursery:
        await nursery.start(door.pace.run)
        for listener in listeners:
            nursery.start_soon(_accept_on, listener, door, connections)
        task_status.started()


async def _accept_on(
    listener: trio.abc.Listener[trio.abc.HalfCloseableStream], door: Door, connections: trio.Nursery
) -> None:
    async with listener:
        with Spare() as spare:
            while True:
                await door.ready()
                spare.take()
                stream = await _accept(listener, door, spare)
                if spare.take() or await door.make_room():
                    connections.start_soon(serve_connection, stream, door)
                else:
                    connections.start_soon(turn_away, stream, door)


async def _accept(
    listener: trio.abc.Listener[trio.abc.HalfCloseableStream], door: Door, spare: Spare
) -> trio.abc.HalfCloseableStream:
    """The next caller, for whom the spare descriptor may have been given up."""
    while True:
        try:
            return await listener.accept()
        except OSError as error:
            if error.errno not in OUT_OF_CAPACITY:
                raise
            spare.complain(error)
        if isinstance(listener, trio.SocketListener):
            # Without a descriptor, Linux says so before it looks whether anybody is there.
            await trio.lowlevel.wait_readable(listener.socket)
        if not spare.give() and not await door.make_room():
            await trio.sleep(ACCEPT_PAUSE_S)


class Spare:
    """A descriptor that is kept to be given up when there is no other. Closed with its block."""

    def __init__(self) -> None:
        self._held = -1
        self._quiet_until = -inf

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self.give()

    def take(self) -> bool:
        """Whether it is held, if need be from now on."""
        if self._held < 0:
            with contextlib.suppress(OSError):
                self._held = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        return self._held >= 0

    def complain(self, error: OSError) -> None:
        """Logs why the spare is needed, and not again for a while."""
        if trio.current_time() >= self._quiet_until:
            self._quiet_until = trio.current_time() + COMPLAIN_S
            LOG.error("cannot accept connections: %s", error)

    def give(self) -> bool:
        """Frees it; whether it was held."""
        held, self._held = self._held, -1
        if held >= 0:
            os.close(held)
        return held >= 0


async def serve_connection(stream: trio.abc.HalfCloseableStream, door: Door) -> None:
    """Talks to one peer until either side ends it; the stream is closed then.

    Nothing but cancellation comes out: a fault is logged and ends this connection alone.
    """
    connection = Connection(stream, door)
    await _until_over(connection.run, connection, stream, door)


async def turn_away(stream: trio.abc.HalfCloseableStream, door: Door) -> None:
    """Tells one peer that there is no descriptor for it; as `serve_connection` otherwise."""
    connection = Connection(stream, door)
    await _until_over(connection.turn_away, connection, stream, door)


async def _until_over(
    talk: Callable[[], Awaitable[None]],
    connection: Connection,
    stream: trio.abc.HalfCloseableStream,
    door: Door,
) -> None:
    try:
        await talk()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the peer has left
    except Exception:
        LOG.exception("a connection failed")
    finally:
        door.exit(connection)
        await trio.aclose_forcefully(stream)
