"""A program that connects as it is told, as whoever it was started as, and tells what it saw.

It talks to the test over an abstract Unix socket, which asks for no permissions: one JSON document
a packet, with at most one descriptor beside it. Started as ``an agent`` it starts more of itself,
each hidden in its own way, so that one agent gives all of them. Standard library only.

Usage: puppet.py CONTROL HOW [ID OF ANOTHER AGENT]
"""

from __future__ import annotations

import ctypes
import encodings.idna  # noqa: F401 - another user may not read this Python's library later on
import json
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

CONTROL, HOW, *MORE = sys.argv[1:]
AGAIN = [sys.executable, "-I", "-S", os.path.abspath(sys.argv[0]), CONTROL]
PATIENCE_S = 15
PACKET = 1 << 20
NOBODY = 65534
RLIMIT_LOCKS = 10
PR_SET_DUMPABLE = 4
CLONE_NEWUSER = 0x10000000
LIBC = ctypes.CDLL(None, use_errno=True)


class Puppet:
    """Obeys; each public method is an order, and what it gives is the answer."""

    def __init__(self, name: str) -> None:
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._line.connect("\0" + CONTROL)
        self._line.send(json.dumps(name).encode())
        self._held = socket.socket()
        self._crowd: list[socket.socket] = []
        self._ends: list[socket.socket] = []

    def obey(self) -> NoReturn:
        while True:
            packet, descriptors, _, _ = socket.recv_fds(self._line, PACKET, 1)
            if not packet:
                os._exit(0)
            if descriptors:
                self._held = socket.socket(fileno=descriptors[0])
                self._held.settimeout(PATIENCE_S)
            do, how = json.loads(packet)
            try:
                told, given = getattr(self, do)(**how), []
            except Exception as error:  # noqa: BLE001 - the test is told
                told, given = {"fault": repr(error)}, []
            if do == "give":
                given = [self._held.fileno()]
            socket.send_fds(self._line, [json.dumps(told).encode()], given)

    def open(
        self,
        port: int,
        data: str = "",
        host: str = "127.0.0.1",
        source: list[Any] | None = None,
        trick: str = "",
    ) -> int:
        """Connects, from an address and port if one is given, and sends; gives its port."""
        self._held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._held.settimeout(PATIENCE_S)
        if trick:
            getattr(self, trick)()
        if source:
            self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._held.bind(tuple(source))
        self._held.connect((host, port))
        with suppress(ConnectionError):
            self._held.sendall(data.encode("latin-1"))
        return int(self._held.getsockname()[1])

    def hear(self) -> str:
        """All until the end; of a connection that goes on, one answer."""
        received = b""
        with suppress(ConnectionError):
            while chunk := self._held.recv(65_536):
                received += chunk
                head, _, body = received.partition(b"\r\n\r\n")
                lines = head.lower().split(b"\r\n")
                sizes = [int(line[15:]) for line in lines if line.startswith(b"content-length:")]
                closes = any(x.startswith(b"connection:") and b"close" in x for x in lines)
                if sizes and not closes and len(body) >= sizes[0]:
                    break
        return received.decode("latin-1")

    def ask(self, **how: Any) -> str:
        """Connects, sends, hears and closes."""
        self.open(**how)
        told = self.hear()
        self.close()
        return told

    def say(self, data: str) -> str:
        """Sends on the connection it holds, and hears."""
        self._held.sendall(data.encode("latin-1"))
        return self.hear()

    def close(self, *, reset: bool = False) -> None:
        if reset:
            self._held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._held.close()

    def take(self) -> None:
        """Holds what came with the order."""

    def give(self) -> None:
        """Hands out what it holds, and holds on to it."""

    def post(self) -> None:
        """Puts what it holds where no process holds it: on its way from itself to itself."""
        self._ends = list(socket.socketpair())
        socket.send_fds(self._ends[0], [b"x"], [self._held.fileno()])
        self._held.close()

    def fetch(self) -> None:
        """Holds again what it has posted."""
        _, (descriptor,), _, _ = socket.recv_fds(self._ends[1], 1, 1)
        self._held = socket.socket(fileno=descriptor)
        self._held.settimeout(PATIENCE_S)

    def gather(self, port: int, size: int, data: str = "") -> None:
        """Opens many connections and keeps them."""
        for _ in range(size):
            each = socket.socket()
            each.settimeout(1)
            with suppress(OSError):
                each.connect(("127.0.0.1", port))
                each.sendall(data.encode())
            self._crowd.append(each)

    def scatter(self) -> None:
        while self._crowd:
            self._crowd.pop().close()

    def read(self, path: str) -> str:
        with open(path, encoding="utf-8") as file:
            return file.read()

    # Tricks, done on a socket before it connects

    def chown_socket(self) -> None:
        """The user that a socket belongs to is that of its inode."""
        with suppress(PermissionError):
            os.fchown(self._held.fileno(), 0, 0)


# Ways to hide


def be(name: str) -> NoReturn:
    Puppet(name).obey()


def fork(then: Callable[[], Any]) -> None:
    if os.fork() == 0:
        then()
        os._exit(0)


def orphan(then: Callable[[], Any], *, session: bool) -> None:
    """A grandchild that does nothing before its parent has ended."""

    def parent() -> None:
        if session:
            os.setsid()
        me = os.getpid()
        if os.fork() == 0:
            if session:
                os.setsid()
            while os.getppid() == me:
                time.sleep(0.001)
            then()

    fork(parent)
    os.wait()


def anew(how: str, environment: dict[str, str]) -> Callable[[], Any]:
    return lambda: os.execve(sys.executable, [*AGAIN, how], environment)


def drop(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def lowered(limit: int, value: int, how: str) -> None:
    resource.setrlimit(limit, (value, value))
    be(how)


def start_family(other: str) -> None:
    forged = dict(os.environ, GROOVE_AGENT=other, GROOVE_NAME="one")
    shell = ["sh", "-c", '"$@"; :', "sh", *AGAIN]
    fork(lambda: be("a child"))
    orphan(lambda: be("an orphan"), session=False)
    orphan(lambda: be("apart"), session=True)
    orphan(anew("apart, with an empty environment", {}), session=True)
    orphan(anew("apart, under another's name", forged), session=True)
    subprocess.Popen([*shell, "under a shell"])
    orphan(lambda: os.execvp("sh", [*shell, "apart, under a shell"]), session=True)
    fork(lambda: lowered(RLIMIT_LOCKS, 5, "with a spoiled mark"))
    fork(lambda: lowered(resource.RLIMIT_RSS, 4096, "with half a mark"))
    if os.geteuid() == 0:
        fork(lambda: (LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), be("undumpable")))
        fork(lambda: (drop(NOBODY), be("as another user")))
    threading.Thread(target=be, args=["in a thread"]).start()


match HOW:
    case "an agent":
        start_family(*MORE)
        HOW = "itself"
    case "another user":
        drop(NOBODY)
    case "a user for the moment":
        os.seteuid(NOBODY)
    case "root of a user namespace":
        drop(NOBODY)
        if LIBC.unshare(CLONE_NEWUSER) != 0:
            HOW += ", which this machine does not give"
be(HOW)
