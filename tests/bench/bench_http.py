"""HTTP throughput on keep-alive connections, against a bare responder and two known servers.

    python tests/bench/bench_http.py [SECONDS [ROUNDS]]

Every server is a process of its own; this process drives them one after another, in rounds, with
`CONNECTIONS` concurrent connections and no client library. A ratio is the median over the rounds
of the ratio within one round, so that a busy machine slows all servers of a round alike.

- `bare`: h11 on trio, the least that reads a request with its body and answers: no limit, no
  deadline, no check, two header fields.
- `listener`: this package's listener with handlers that do next to nothing.
- `daemon`: an open groove; the knock is decided and recorded.
- `hypercorn` on trio and `uvicorn` on h11: a minimal ASGI application that reads the body.

All answer with the same bodies as the daemon.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

CONNECTIONS = 16
WANTED = {"health": 0.8, "knock": 0.65}
SERVERS = ("bare", "listener", "daemon", "hypercorn", "uvicorn")

HEALTH = b'{"ok":true}'
KNOCK = json.dumps({"agent": "keeper", "operation": "write", "path": "src/main.py"}).encode()
GRANTED = (
    b'{"allow":true,"reason":"src/main.py is in the scope src/** of keeper",'
    b'"decisions":[{"decision":"granted","path":"src/main.py","rule":"scope src/**"}]}'
)
JSON_TYPE = (b"content-type", b"application/json")
BODIES = {"/api/health": HEALTH, "/api/knock": GRANTED}

# The servers, each in a process of its own; each prints its port


def serve_bare() -> None:
    import h11
    import trio

    async def respond(stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        target, body = b"", b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await stream.receive_some(65_536))
            elif isinstance(event, h11.Request):
                target, body = event.target, b""
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                answer = BODIES[target.decode()]
                length = (b"content-length", b"%d" % len(answer))
                response = h11.Response(status_code=200, headers=[JSON_TYPE, length])
                parts = (response, h11.Data(data=answer), h11.EndOfMessage())
                await stream.send_all(b"".join([connection.send(part) or b"" for part in parts]))
                connection.start_next_cycle()
            else:
                return

    async def survive(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await respond(stream)

    async def main() -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        announce(listeners[0].socket.getsockname()[1])
        await trio.serve_listeners(survive, listeners)

    trio.run(main)


def serve_listener() -> None:
    import trio

    from groove_trio.rules.admission import Admission
    from groove_trio.shell.binds import binds_of, open_listeners
    from groove_trio.shell.door import Door
    from groove_trio.shell.listener import accept_connections
    from groove_trio.wire.http import Request, Response
    from groove_trio.wire.strict import decode
    from groove_trio.words.knocks import KnockRequest

    fields = (JSON_TYPE,)

    async def handle(request: Request, _actor: object) -> Response:
        if request.method == "POST":
            decode(request.body, KnockRequest)
        return Response(200, fields, BODIES[request.target])

    async def refuse(*_: object) -> None:
        raise NotImplementedError

    async def main() -> None:
        listeners = await open_listeners("127.0.0.1", 0)
        binds = binds_of(listeners)
        door = Door(
            admission=Admission(binds),
            handler=handle,
            upgrade=refuse,
            refuse=lambda error: Response(error.status, fields, b""),
        )
        announce(binds[0][1])
        async with trio.open_nursery() as connections:
            await accept_connections(listeners, door, connections)

    trio.run(main)


def serve_daemon() -> None:
    import trio

    from groove_trio import AgentSpec, Config, open_groove

    async def main(project: Path) -> None:
        async with open_groove(Config(project=project, port=0)) as groove:
            argv = ["sleep", "3600"]
            spec = AgentSpec(role="keeper", name="keeper", argv=argv, scope=["src/**"])
            await groove.spawn(spec)
            announce(groove.port)
            await trio.to_thread.run_sync(sys.stdin.read)  # until this benchmark is done

    with tempfile.TemporaryDirectory() as project:
        trio.run(main, Path(project))


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    more = True
    while more:
        more = (await receive()).get("more_body", False)
    answer = BODIES[scope["path"]]
    headers = [JSON_TYPE, (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


def serve_hypercorn() -> None:
    import hypercorn
    import hypercorn.trio
    import trio

    config = hypercorn.Config()
    port = free_port()
    config.bind = [f"127.0.0.1:{port}"]
    config.errorlog = None
    announce(port)
    trio.run(partial(hypercorn.trio.serve, application, config, mode="asgi"))  # type: ignore[arg-type]


def serve_uvicorn() -> None:
    import uvicorn

    port = free_port()
    announce(port)
    uvicorn.run(
        application,
        port=port,
        http="h11",
        loop="asyncio",
        lifespan="off",
        access_log=False,
        log_level="warning",
    )


def announce(port: int) -> None:
    print(port, flush=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# The client


class Caller:
    """One keep-alive connection that asks the same thing again and again."""

    def __init__(self, port: int, request: bytes) -> None:
        self.request = request
        self.answers = 0
        self.buffer = b""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self) -> None:
        self.socket.sendall(self.request)

    def read(self) -> None:
        data = self.socket.recv(65_536)
        if not data:
            raise ConnectionError(f"the server closed after {self.answers} answers")
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found or len(body) < int(LENGTH.search(head)[1]):  # type: ignore[index]
            return
        if not head.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(f"not what was asked for: {self.buffer!r}")
        self.buffer = b""
        self.answers += 1
        self.ask()


LENGTH = re.compile(rb"(?i)content-length: (\d+)")


def requests(port: int) -> dict[str, bytes]:
    host = b"Host: 127.0.0.1:%d\r\nUser-Agent: bench\r\nAccept: */*\r\n" % port
    length = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(KNOCK)
    return {
        "health": b"GET /api/health HTTP/1.1\r\n" + host + b"\r\n",
        "knock": b"POST /api/knock HTTP/1.1\r\n" + host + length + b"\r\n" + KNOCK,
    }


def drive(port: int, request: bytes, seconds: float) -> float:
    """Answers a second."""
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        callers = [Caller(port, request) for _ in range(CONNECTIONS)]
        for caller in callers:
            stack.callback(caller.socket.close)
            selector.register(caller.socket, selectors.EVENT_READ, caller)
            caller.ask()
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            for key, _ in selector.select(1):
                key.data.read()
        taken = time.perf_counter() - start
    return sum(caller.answers for caller in callers) / taken


@contextlib.contextmanager
def running(name: str) -> Iterator[int]:
    command = [sys.executable, __file__, "serve", name]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ}
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline())
            wait_until_listening(port)
            yield port
        finally:
            process.stdin.close()
            if name != "daemon":  # which ends its agent and leaves by itself
                process.terminate()
            process.wait(timeout=20)


def wait_until_listening(port: int) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on port {port}")


def measure(seconds: float, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Answers a second: of each request, of each server, in each round."""
    found: dict[str, dict[str, list[float]]] = {
        kind: {name: [] for name in SERVERS} for kind in WANTED
    }
    with contextlib.ExitStack() as stack:
        ports = {name: stack.enter_context(running(name)) for name in SERVERS}
        for port in ports.values():
            for request in requests(port).values():
                drive(port, request, 0.3)
        for _ in range(rounds):
            for kind, of_kind in found.items():
                for name, port in ports.items():
                    of_kind[name].append(drive(port, requests(port)[kind], seconds))
    return found


def report(found: dict[str, dict[str, list[float]]]) -> None:
    for kind, servers in found.items():
        print(f"\n{kind}: answers a second (median), and against the bare responder")
        for name, rates in servers.items():
            ratio = statistics.median(
                rate / bare for rate, bare in zip(rates, servers["bare"], strict=True)
            )
            note = f"  wanted: {WANTED[kind]}" if name == "daemon" else ""
            print(f"  {name:10} {statistics.median(rates):8.0f}  {ratio:5.2f}{note}")


def test_http_throughput() -> None:
    report(measure(seconds=1.0, rounds=3))


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        globals()[f"serve_{sys.argv[2]}"]()
    else:
        seconds, rounds = (*sys.argv[1:], "1", "5")[:2] if len(sys.argv) < 3 else sys.argv[1:3]
        report(measure(float(seconds), int(rounds)))
