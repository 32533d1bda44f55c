"""WebSocket fan-out: what one event to one subscriber costs, against a raw socket and a library.

    python tests/bench/bench_fanout.py [SUBSCRIBERS [EVENTS [ROUNDS]]]

Every server is a process of its own; this process is the clients, which read raw bytes over TCP
and look into them when the clock has stopped: each subscriber must have got each event, once, in
order and whole. A ratio is the median over the rounds of the ratio within one round. What counts
is the processor time of the server's process, since the clients compete with it for the machine;
the wall time, until the last byte is read, stands beside it.

- `raw`: trio sockets and nothing else. One task writes the ready frame, encoded beforehand, to one
  socket after the other: one send for each event and subscriber. The floor.
- `each`: an open groove with all its checks, reached through its listener. An event is published
  when every feed has sent the one before, so that no two share a send: the dearest way to serve.
- `flow`: the same groove; an event is published on every turn of the loop, and what is ready when
  a feed's turn comes leaves in one send. This is how a busy daemon publishes.
- `trio-websocket`: its own server; one task encodes an event once and sends it to one connection
  after the other, which waits for whoever is slow but is the cheapest that the library can do.

All send the same JSON, an agent's line of output.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, NamedTuple

SUBSCRIBERS = 200
EVENTS = 500
SERVERS = ("raw", "each", "flow", "trio-websocket")
WANTED = {"each": "under 2", "flow": "under 2"}
WARM_UP = 10  # events
LINE = "  PASS tests/shell/test_hub.py::test_numbers_grow_by_one [ 42%] in 0.0123 s"

TIMEOUT_S = 60


class Cost(NamedTuple):
    """Microseconds for one event to one subscriber."""

    cpu: float
    wall: float


def an_event() -> Any:
    from groove_trio.words.events import OutputAppended
    from groove_trio.words.schemas import AgentId, OutputLine

    line = OutputLine(seq=1234, time="2026-11-22T17:18:00.123456789Z", stream="out", text=LINE)
    return OutputAppended(id=AgentId("3fa9c21e"), lines=[line])


def the_frames(count: int) -> list[Any]:
    """As the hub would publish them: with `json` and `frame`, both ready."""
    from groove_trio.shell.hub import Hub

    hub = Hub()
    for _ in range(count):
        hub.publish(an_event())
    ready = [hub.history[seq] for seq in range(hub.history.oldest, hub.seq + 1)]
    assert all(published.frame for published in ready)
    return ready


# The servers, each in a process of its own


async def obey(rounds: Callable[[int], Awaitable[None]]) -> None:
    """Runs a round of so many events for each number read, and tells what it took.

    The next line says that all has been read; only then does the processor time count.
    """
    import trio

    while order := await trio.to_thread.run_sync(sys.stdin.readline):
        before = time.process_time()
        await rounds(int(order))
        await trio.to_thread.run_sync(sys.stdin.readline)
        print(time.process_time() - before, flush=True)


async def serve_raw() -> None:
    import trio

    from groove_trio.wire.handshake import accept_token

    peers: list[trio.socket.SocketType] = []

    async def greet(stream: trio.SocketStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some(4096)
        key = head.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
        switch = b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: %b\r\n\r\n"
        await stream.send_all(switch % accept_token(key))
        peers.append(stream.socket)
        await trio.sleep_forever()

    async def publish(count: int) -> None:
        for published in the_frames(count):
            frame = published.frame
            for peer in peers:
                sent = await peer.send(frame)
                while sent < len(frame):
                    sent += await peer.send(frame[sent:])

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, greet, 0)
        announce(listeners[0].socket.getsockname()[1])
        await obey(publish)
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def a_groove() -> AsyncIterator[Any]:
    from groove_trio.shell import feed
    from groove_trio.testing import open_test_groove

    feed.PING_S = 3600.0  # type: ignore[misc] # the clients count bytes, and answer nothing
    async with open_test_groove() as groove:
        hub = groove._parts.hub  # noqa: SLF001 - the part that is measured
        announce(groove.port, after=hub.seq)
        yield hub


async def serve_each() -> None:
    import trio

    async with a_groove() as hub:

        async def publish(count: int) -> None:
            for _ in range(count):
                hub.publish(an_event())
                await trio.testing.wait_all_tasks_blocked()

        await obey(publish)


async def serve_flow() -> None:
    import trio

    async with a_groove() as hub:

        async def publish(count: int) -> None:
            for _ in range(count):
                hub.publish(an_event())
                await trio.lowlevel.checkpoint()

        await obey(publish)


async def serve_trio_websocket() -> None:
    import trio
    import trio_websocket

    peers: list[trio_websocket.WebSocketConnection] = []

    async def greet(request: trio_websocket.WebSocketRequest) -> None:
        peers.append(await request.accept())
        with contextlib.suppress(trio_websocket.ConnectionClosed):
            await peers[-1].get_message()

    async def publish(count: int) -> None:
        for published in the_frames(count):
            text = published.json.decode()
            for peer in peers:
                await peer.send_message(text)

    async with trio.open_nursery() as nursery:
        serve = trio_websocket.serve_websocket
        server = await nursery.start(serve, greet, "127.0.0.1", 0, None)
        announce(server.port)
        await obey(publish)
        nursery.cancel_scope.cancel()


def announce(port: int, after: int | None = None) -> None:
    print(json.dumps({"port": port, "after": after}), flush=True)


# The clients


def subscribe(port: int, after: int | None) -> socket.socket:
    """A connection on which frames come next."""
    peer = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
    key = base64.b64encode(os.urandom(16)).decode()
    target = "/ws" if after is None else f"/ws?after={after}"
    fields = f"Host: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    version = f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    peer.sendall(f"GET {target} HTTP/1.1\r\n{fields}{version}".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += peer.recv(1)
    assert head.startswith(b"HTTP/1.1 101"), head
    peer.setblocking(False)
    return peer


def messages(data: bytes) -> Iterator[bytes]:
    """The payloads of whole text frames, and nothing else."""
    end = 0
    while end < len(data):
        first, size = data[end : end + 2]
        start = end + 2
        if size == 126:
            start += 2
            size = int.from_bytes(data[start - 2 : start])
        end = start + size
        assert first == 0x81
        assert len(data) >= end
        yield data[start:end]


def check(received: list[bytes], events: int) -> None:
    """Every subscriber has got every event, in order, whole."""
    assert len(set(received)) == 1, "subscribers were told different things"
    told = [json.loads(message) for message in messages(received[0])]
    assert [one["seq"] for one in told] == list(range(told[0]["seq"], told[0]["seq"] + events))
    assert {one["event"]["lines"][0]["text"] for one in told} == {LINE}


class Server:
    """One server and all its subscribers."""

    def __init__(self, name: str, subscribers: int, stack: contextlib.ExitStack) -> None:
        command = [sys.executable, __file__, "serve", name.replace("-", "_")]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        stack.callback(self.end)
        place = self.hear()
        self.peers = [subscribe(**place) for _ in range(subscribers)]
        self.selector = stack.enter_context(selectors.DefaultSelector())
        for number, peer in enumerate(self.peers):
            stack.callback(peer.close)
            self.selector.register(peer, selectors.EVENT_READ, number)

    def hear(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def say(self, word: object) -> None:
        assert self.process.stdin is not None
        print(word, file=self.process.stdin, flush=True)

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def run(self, events: int) -> Cost:
        """One round."""
        size = len(the_frames(1)[0].frame) * events
        received = [bytearray(size + 1) for _ in self.peers]
        left = [memoryview(buffer) for buffer in received]
        waiting = set(range(len(self.peers)))
        start = time.perf_counter()
        self.say(events)
        while waiting:
            ready = self.selector.select(TIMEOUT_S)
            assert ready, f"{len(waiting)} subscribers still wait"
            for key, _ in ready:
                room = left[key.data]
                count = key.fileobj.recv_into(room)  # type: ignore[union-attr]
                left[key.data] = room = room[count:]
                assert count, "a subscriber was dropped"
                if len(room) <= 1:
                    waiting.discard(key.data)
        wall = time.perf_counter() - start
        self.say("read")
        cpu = self.hear()
        assert {len(room) for room in left} == {1}, "something was told twice"
        check([bytes(buffer[:size]) for buffer in received], events)
        deliveries = len(self.peers) * events
        return Cost(cpu / deliveries * 1e6, wall / deliveries * 1e6)


def measure(subscribers: int, events: int, rounds: int) -> dict[str, list[Cost]]:
    """What each server took in each round."""
    with contextlib.ExitStack() as stack:
        servers = {name: Server(name, subscribers, stack) for name in SERVERS}
        for server in servers.values():
            server.run(WARM_UP)
        found: dict[str, list[Cost]] = {name: [] for name in SERVERS}
        for _ in range(rounds):
            for name, server in servers.items():
                found[name].append(server.run(events))
    return found


def report(found: dict[str, list[Cost]], subscribers: int, events: int) -> None:
    print(f"\n{subscribers} subscribers, {events} events, all delivered whole")
    print("microseconds for one event to one subscriber (median), and against raw")
    for name, costs in found.items():
        floor = found["raw"]
        cells = []
        for what in Cost._fields:
            spent = [getattr(cost, what) for cost in costs]
            bare = [getattr(cost, what) for cost in floor]
            ratio = statistics.median(a / b for a, b in zip(spent, bare, strict=True))
            cells.append(f"{what} {statistics.median(spent):6.1f} {ratio:5.2f}")
        note = f"  wanted: {WANTED[name]}, and ahead of trio-websocket" if name in WANTED else ""
        print(f"  {name:15} {'   '.join(cells)}{note}")


def test_fan_out() -> None:
    report(measure(20, 50, rounds=2), 20, 50)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        import trio

        trio.run(globals()[f"serve_{sys.argv[2]}"])
    else:
        given = [int(word) for word in sys.argv[1:]]
        subscribers, events, rounds = (*given, *(SUBSCRIBERS, EVENTS, 5)[len(given) :])
        report(measure(subscribers, events, rounds), subscribers, events)
