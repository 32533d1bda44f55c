"""A crowd around a daemon: idle connections, subscribers, busy clients, and one who takes the time.

Each kind of client is a process of its own (``python load.py KIND URL COUNT``) that says ``ready``,
goes on until its standard input ends, and then reports in one line of JSON. What went wrong is
under ``errors`` there: whatever the owner of the daemon would have noticed.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import resource
import selectors
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

TIMEOUT_S = 20.0
REOPEN_S = 0.05  # an idle client that lost its connection takes its time
PROBE_S = 0.005
PROBES_FRESH = 20  # every so many-th probe comes over a connection of its own
MAX_TOLD = 5

SPEAKERS = 4
SPEAK = """
import sys, time
number = 0
while True:
    for _ in range(10):
        number += 1
        print("line", number, "x" * 60)
    sys.stdout.flush()
    time.sleep(0.1)
"""

Report = dict[str, Any]


def address_of(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").rpartition(":")
    return host, int(port)


def asking(url: str, path: str, *fields: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", f"Host: {url.removeprefix('http://')}", *fields, "", ""]
    return "\r\n".join(lines).encode()


def ready() -> None:
    print("ready", flush=True)


def over() -> bool:
    """Whether whoever started this client wants its report."""
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        return bool(selector.select(0))


def report(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def step_back() -> None:
    """Gives way to the daemon and to the probe: who gets a core is not what is measured."""
    if os.sched_getscheduler(0) in {os.SCHED_FIFO, os.SCHED_RR}:
        lower = max(1, os.sched_getparam(0).sched_priority - 1)
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(lower))
    else:
        os.nice(5)


# Idle connections


class Idlers:
    """Connections that ask once or never, and then say nothing; every one that is lost comes back.

    That the daemon ends some of them, or has no room for them, is its good right.
    """

    def __init__(self, url: str, count: int) -> None:
        self.url, self.count = url, count
        self.opened = self.lost = self.turned_away = 0
        self.errors: list[str] = []
        self.selector = selectors.DefaultSelector()

    def run(self) -> None:
        for _ in range(self.count):
            self.open()
        ready()
        while not over():
            for key, _ in self.selector.select(REOPEN_S):
                self.read(key.fileobj)
            if len(self.selector.get_map()) < self.count:
                self.open()
                time.sleep(REOPEN_S)
        held = len(self.selector.get_map())
        report(opened=self.opened, lost=self.lost, held=held, turned_away=self.turned_away,
               errors=self.errors)  # fmt: skip

    def open(self) -> None:
        sock = socket.create_connection(address_of(self.url), TIMEOUT_S)
        self.opened += 1
        self.selector.register(sock, selectors.EVENT_READ)
        if self.opened % 2:
            with contextlib.suppress(OSError):  # it was turned away by now
                sock.sendall(asking(self.url, "/api/health"))

    def read(self, sock: Any) -> None:
        with contextlib.suppress(OSError):
            if data := sock.recv(65_536):
                status = data[:13]
                self.turned_away += status == b"HTTP/1.1 503 "
                if status not in {b"HTTP/1.1 200 ", b"HTTP/1.1 503 ", b"HTTP/1.1 408 "}:
                    self.errors.append(repr(data[:200]))
                return
        self.selector.unregister(sock)
        sock.close()
        self.lost += 1


# Subscribers


class Subscriber:
    """One WebSocket, read by hand: the crowd has to be cheaper than the daemon it surrounds."""

    def __init__(self, url: str) -> None:
        self.sock = socket.create_connection(address_of(url), TIMEOUT_S)
        key = base64.b64encode(os.urandom(16)).decode()
        fields = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
        self.sock.sendall(asking(url, "/ws", *fields, f"Sec-WebSocket-Key: {key}"))
        self.data = b""
        self.upgraded = self.ended = False
        self.seq: int | None = None
        self.events = self.gaps = 0
        self.errors: list[str] = []

    def read(self) -> None:
        try:
            data = self.sock.recv(262_144)
        except OSError as error:
            data = b""
            self.errors.append(repr(error))
        if not data:
            self.ended = True
            self.errors.append("the daemon ended the feed")
            return
        self.data += data
        if not self.upgraded:
            head, found, rest = self.data.partition(b"\r\n\r\n")
            if not found:
                return
            if not head.startswith(b"HTTP/1.1 101 "):
                self.errors.append(repr(head))
            self.upgraded, self.data = True, rest
        self.take_frames()

    def take_frames(self) -> None:
        data, start = self.data, 0
        while len(data) - start >= 10 or (len(data) - start >= 2 and data[start + 1] < 126):
            length, begin = data[start + 1], start + 2
            if length == 126:
                (length,), begin = struct.unpack_from("!H", data, begin), begin + 2
            elif length == 127:
                (length,), begin = struct.unpack_from("!Q", data, begin), begin + 8
            if len(data) < begin + length:
                break
            self.take(data[start] & 0x0F, data[begin : begin + length])
            start = begin + length
        self.data = data[start:]

    def take(self, opcode: int, payload: bytes) -> None:
        if opcode == 9:
            mask = b"\0\0\0\0"
            self.sock.sendall(bytes([0x8A, 0x80 | len(payload)]) + mask + payload)
        elif opcode != 1:
            self.errors.append(f"a frame of kind {opcode}: {payload!r}")
        else:
            self.hear(payload)

    def hear(self, payload: bytes) -> None:
        match = SEQ.match(payload)
        seq = int(match[1]) if match is not None else json.loads(payload)["seq"]
        if b'"type":"gap"' in payload[:200]:
            self.gaps += 1
        elif self.seq is not None and seq != self.seq + 1:
            self.errors.append(f"{seq} after {self.seq}")
        self.seq = seq
        self.events += 1


SEQ = re.compile(rb'\{"seq":([0-9]+),')


def subscribe(url: str, count: int) -> None:
    subscribers = [Subscriber(url) for _ in range(count)]
    told = False
    with selectors.DefaultSelector() as selector:
        for each in subscribers:
            selector.register(each.sock, selectors.EVENT_READ, each)
        while not over():
            for key, _ in selector.select(0.05):
                key.data.read()
                if key.data.ended:
                    selector.unregister(key.fileobj)
            if not told and all(each.events or each.errors for each in subscribers):
                told = True
                ready()
    report(
        events=[each.events for each in subscribers],
        gaps=sum(each.gaps for each in subscribers),
        errors=[error for each in subscribers for error in each.errors],
    )


# Busy clients


def busy(url: str, count: int) -> None:
    import trio

    from groove_trio.client import connect_groove
    from groove_trio.words.errors import GrooveError

    answers = 0
    errors: list[str] = []
    times: list[float] = []

    async def ask_on(number: int) -> None:
        nonlocal answers
        async with connect_groove(url) as groove:
            name = f"speaker-{number % SPEAKERS}"
            asks: list[Callable[[], Any]] = [
                lambda: groove.knock(name, "write", f"{name}/a.py"),
                groove.status,
                lambda: groove.knock(name, "write", "elsewhere.py"),
                groove.agents,
                lambda: groove.knock(name, "create", f"{name}/deep/b.py"),
                lambda: groove.output(name, after=-50, limit=50),
            ]
            while True:
                ask = asks[answers % len(asks)]
                start = time.perf_counter()
                try:
                    await ask()
                except GrooveError as error:
                    errors.append(repr(error))
                times.append(time.perf_counter() - start)
                answers += 1

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(ask_on, number)
            ready()
            await trio.to_thread.run_sync(sys.stdin.read)
            nursery.cancel_scope.cancel()

    trio.run(main)
    report(answers=answers, p99_ms=percentile(times, 0.99) * 1000, errors=errors)


# The one who takes the time


class Probe:
    """Asks for the health of the daemon, again and again, over one connection."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.sock: socket.socket | None = None
        self.reconnects = 0
        self.errors: list[str] = []

    def ask(self, *, fresh: bool = False) -> float:
        """Seconds to the whole answer; a kept connection that is gone is replaced, once."""
        start = time.perf_counter()
        try:
            answer = self.exchange() if self.sock is not None and not fresh else b""
            if not answer:
                self.reconnects += not fresh
                self.close()
                self.sock = socket.create_connection(address_of(self.url), TIMEOUT_S)
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                answer = self.exchange()
            if not answer.startswith(b"HTTP/1.1 200 "):
                self.errors.append(repr(answer[:200]))
        except OSError as error:
            self.errors.append(repr(error))
        return time.perf_counter() - start

    def exchange(self) -> bytes:
        assert self.sock is not None
        answer = b""
        try:
            self.sock.sendall(asking(self.url, "/api/health"))
            while not answer.endswith(b'{"ok":true}') and (data := self.sock.recv(65_536)):
                answer += data
        except ConnectionError:
            if answer:
                raise
        if b"\r\nConnection: close\r\n" in answer:
            self.close()
        return answer

    def close(self) -> None:
        if self.sock is not None:
            self.sock.close()
            self.sock = None


def probe(url: str, count: int) -> None:
    """Asks on; `count` times at least."""
    asker, newcomer = Probe(url), Probe(url)
    asker.ask()
    asker.reconnects = 0
    times: list[float] = []
    fresh: list[float] = []
    ready()
    while len(times) < count or not over():
        time.sleep(PROBE_S)
        times.append(asker.ask())
        if len(times) % PROBES_FRESH == 0:
            fresh.append(newcomer.ask(fresh=True))
            newcomer.close()
    report(
        asked=len(times),
        p50_ms=percentile(times, 0.5) * 1000,
        p99_ms=percentile(times, 0.99) * 1000,
        worst_ms=max(times) * 1000,
        fresh_p99_ms=percentile(fresh, 0.99) * 1000,
        reconnects=asker.reconnects,
        errors=asker.errors + newcomer.errors,
    )


def percentile(times: list[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(len(times) * share))] if times else 0.0


# For whoever puts the daemon under load


class Crowd:
    """Some clients of one kind, in a process of their own."""

    def __init__(self, kind: str, url: str, count: int) -> None:
        self.kind, self.url, self.count = kind, url, count

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [sys.executable, __file__, self.kind, self.url, str(self.count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return self

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert said == b"ready\n", (self.kind, said)

    def finish(self) -> Report:
        """Ends it and gives its report."""
        out, _ = self.process.communicate(timeout=TIMEOUT_S)
        assert self.process.returncode == 0, (self.kind, out)
        found: Report = json.loads(out)
        return found

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


@contextlib.contextmanager
def crowd(kind: str, url: str, count: int) -> Iterator[Crowd]:
    """A crowd that is ready."""
    with Crowd(kind, url, count) as made:
        made.wait_ready()
        yield made


class Vitals(NamedTuple):
    """What the kernel says of the daemon."""

    at_s: float
    rss_kb: int
    descriptors: int
    cpu_s: float


def vitals(pid: int) -> Vitals:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    spent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return Vitals(
        time.monotonic(),
        pages * resource.getpagesize() // 1024,
        len(os.listdir(f"/proc/{pid}/fd")),
        (int(spent[11]) + int(spent[12])) / os.sysconf("SC_CLK_TCK"),
    )


def speakers() -> Iterator[dict[str, Any]]:
    """The agents that produce output: what to ask for; held by hooks, so that numbers compare."""
    for number in range(SPEAKERS):
        name = f"speaker-{number}"
        argv = [sys.executable, "-S", "-c", SPEAK]
        scope = [f"{name}/**"]
        yield {
            "role": "speaker",
            "name": name,
            "argv": argv,
            "scope": scope,
            "containment": "hooks",
        }


class Siege(NamedTuple):
    """How a time under load went."""

    idlers: Report
    subscribers: Report
    busy: Report
    probe: Report
    moments: list[Vitals]

    @property
    def errors(self) -> list[str]:
        """What the owner would have noticed; the first few of each kind of client."""
        parts = {"idle": self.idlers, "subscriber": self.subscribers, "busy": self.busy}
        parts["probe"] = self.probe
        return [
            f"{kind}: {error}"
            for kind, part in parts.items()
            for error in part["errors"][:MAX_TOLD]
        ]


def besiege(
    url: str, pid: int, seconds: float, *, idle: int = 500, subscribers: int = 64, clients: int = 32
) -> Siege:
    """Puts a daemon under load for a while, looking at it ten times."""
    moments: list[Vitals] = []
    with (
        crowd("subscribe", url, subscribers) as listening,
        crowd("idle", url, idle) as idling,
        crowd("busy", url, clients) as asking_on,
        crowd("probe", url, 1) as timing,
    ):
        for _ in range(10):
            time.sleep(seconds / 10)
            moments.append(vitals(pid))
        reports = [each.finish() for each in (timing, asking_on, idling, listening)]
    probed, asked, idled, listened = reports
    return Siege(idled, listened, asked, probed, moments)


KINDS: dict[str, Callable[[str, int], None]] = {
    "idle": lambda url, count: Idlers(url, count).run(),
    "subscribe": subscribe,
    "busy": busy,
    "probe": probe,
}

if __name__ == "__main__":
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if sys.argv[1] != "probe":
        step_back()
    KINDS[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
