"""A WebSocket echo server with compression, and a hello over HTTP, on this package's own parts.

Usage: echo_server.py HOST PORT; port 0 takes any free one. Prints where it listens.
"""

import sys
from functools import partial

import trio

from groove_trio.rules.admission import Admission
from groove_trio.shell.binds import binds_of, open_listeners
from groove_trio.shell.door import Door
from groove_trio.shell.linger import linger
from groove_trio.shell.listener import accept_connections
from groove_trio.wire.http import Request, Response, Upgrade
from groove_trio.wire.ws import BytesMessage, Closed, Ping, ServerSocket, TextMessage
from groove_trio.words.actors import Actor

PLAIN = ((b"content-type", b"text/plain"),)
large = partial(ServerSocket, max_message=2**25, max_fragments=100_000)  # the daemon's own: less


async def hello(_request: Request, _actor: Actor) -> Response:
    return Response(200, PLAIN, b"hello\n")


async def echo(upgrade: Upgrade, stream: trio.abc.HalfCloseableStream, _: Actor) -> None:
    socket = large(upgrade.request, upgrade.trailing, deflate=True)
    await stream.send_all(socket.accept())
    while True:
        for event in socket.events():
            match event:
                case TextMessage(text):
                    await stream.send_all(socket.send_text(text))
                case BytesMessage(data):
                    await stream.send_all(socket.send_bytes(data))
                case Ping(reply=reply) | Closed(reply=reply):
                    await stream.send_all(reply)
            if isinstance(event, Closed):
                return await linger(stream, seconds=1, max_bytes=2**20)
        socket.receive(await stream.receive_some(65536))


async def main(host: str, port: int) -> None:
    listeners = await open_listeners(host, port)
    door = Door(
        admission=Admission(binds_of(listeners)),
        handler=hello,
        upgrade=echo,
        refuse=lambda error: Response(error.status, PLAIN, error.detail.encode()),
    )
    print("listening on {}:{}".format(*binds_of(listeners)[0]), flush=True)
    async with trio.open_nursery() as connections:
        await accept_connections(listeners, door, connections)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]))
