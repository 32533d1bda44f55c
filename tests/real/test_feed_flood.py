"""A flood on a subscriber's WebSocket, over a real socket, with others on the daemon meanwhile."""

from __future__ import annotations

import base64

import trio

from groove_trio.client import connect_groove
from groove_trio.testing import open_test_groove

PING = b"\x89\x80\x00\x00\x00\x00"
PINGS = 50_000  # 300 KB: some seconds of reading, if all of it were read


async def subscribe(port: int) -> trio.SocketStream:
    """A subscriber that knows what it missed: nothing, so that nothing comes but answers."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    key = base64.b64encode(bytes(16)).decode()
    fields = f"Host: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    more = f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    await stream.send_all(f"GET /ws HTTP/1.1\r\n{fields}{more}".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += await stream.receive_some(1)
    assert head.startswith(b"HTTP/1.1 101 ")
    return stream


async def read_away(stream: trio.SocketStream) -> bytes:
    """All that comes until the other side ends it."""
    heard = b""
    try:
        while data := await stream.receive_some():
            heard += data
    except trio.BrokenResourceError:  # with more of the flood on its way than was read away
        pass
    return heard


async def test_a_flood_of_pings_is_closed_with_1008_and_others_are_served() -> None:
    async with open_test_groove() as groove, connect_groove(url=groove.url) as client:
        stream = await subscribe(groove.port)
        ended = trio.Event()

        async def flood() -> None:
            try:
                await stream.send_all(PING * PINGS)
            except trio.BrokenResourceError:
                pass
            finally:
                ended.set()

        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            slowest = 0.0
            while not ended.is_set() or groove.status().subscribers:
                start = trio.current_time()
                await client.health()
                slowest = max(slowest, trio.current_time() - start)
            heard = await read_away(stream)
        assert b"\x03\xf0over 33 frames a second" in heard
        assert heard.count(b"\x8a\x00") < 50  # pongs
        assert slowest < 1
