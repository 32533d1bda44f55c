"""Ends a conversation so that the peer hears the last word."""

from __future__ import annotations

import trio

READ_BYTES = 65_536
"""At a time; with the next request not looked at before the last is answered, also what a peer may
be ahead by. asyncio and uvicorn stop reading at as much."""


async def linger(stream: trio.abc.HalfCloseableStream, *, seconds: float, max_bytes: int) -> None:
    """Closes our direction and reads the peer's rest away, for a while and up to a size.

    Closing a socket with unread input makes the kernel send a reset, upon which the peer's
    kernel drops what it had not read of ours: the very answer that says what was wrong. Returns
    when the peer closes too. Does not close the stream.
    """
    with trio.move_on_after(seconds):
        await stream.send_eof()
        while max_bytes > 0 and (data := await stream.receive_some(READ_BYTES)):
            max_bytes -= len(data)
