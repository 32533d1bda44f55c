"""A daemon under siege: a process of its own, an attacker's sockets, and what must stay as it was.

Every case has the shape::

    with siege() as attack:
        attack.strike(b"GET / HTTP/9.9\\r\\n\\r\\n")
        attack.expect("505 close")

While the block runs, a normal client asks on one kept connection and on fresh ones. When it ends,
with the attacker's sockets still open, that client must have been served since the last blow; then
they are closed, and the daemon must be the same process with the same agents, locks, leases,
files, memory and descriptors as before, with nothing in its log but records of refusals.

An outcome is a word or two: ``400 close`` (answered once, then closed), ``404 open`` (answered,
and the connection goes on), ``silence`` (closed without a byte), ``waits`` (nothing came yet).
Where the standard leaves a choice, ``|`` stands between the outcomes.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest

import groove_trio
from groove_trio.cli.launch import start_detached, stop_daemon

SERVED_S = 1.0  # in which a normal client is answered, whatever else goes on
GROWTH = 16 * 1024 * 1024  # of the daemon's memory at its peak, by one attack
TOTAL_GROWTH = 32 * 1024 * 1024  # by all attacks of a file together
DEADLINE_S = 20.0  # for what has no bound of its own here

IDLE = [{"do": "sleep", "seconds": 3600}]
OURS = {"GROOVE_URL", "GROOVE_AGENT", "GROOVE_PROJECT"}
ALARMS = re.compile(r"Traceback|ERROR|CRITICAL|a connection failed|never awaited")
REFUSALS = frozenset({"access.refuse"})
UNTOLD = (
    *(b"traceback", b'.py"', b"site-packages", b"access-control-", b"set-cookie"),
    os.fsencode(os.path.dirname(groove_trio.__file__)).lower(),
)
"""What no answer says. Where the project lies, the owner knows; where the program does, nobody."""
STATE = ("/api/agents", "/api/locks", "/api/coordination")


def until(true: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.005)


class Answer(NamedTuple):
    """One HTTP answer."""

    status: int
    fields: list[tuple[str, str]]
    body: bytes

    def field(self, name: str) -> str | None:
        """The value of a field, over all its lines."""
        said = [value for found, value in self.fields if found == name]
        return ", ".join(said) if said else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def read_answers(data: bytes, *, head: bool = False) -> tuple[list[Answer], bytes]:
    """The whole answers at the front of what was received, and the rest."""
    answers = []
    while (end := data.find(b"\r\n\r\n")) >= 0:
        first, *lines = data[:end].decode("ascii").split("\r\n")
        fields = [(name.lower(), value) for name, _, value in (x.partition(": ") for x in lines)]
        answer = Answer(int(first.split(" ", 2)[1]), fields, b"")
        size = 0 if head else int(answer.field("content-length") or 0)
        if len(data) < end + 4 + size:
            break
        answers.append(answer._replace(body=data[end + 4 : end + 4 + size]))
        data = data[end + 4 + size :]
    return answers, data


class Daemon:
    """A running daemon, asked as a user would ask it."""

    def __init__(self, project: Path) -> None:
        self.project = project
        started = start_detached(project, port=0)
        self.pid = started.pid
        self.url = started.url
        self.port = int(started.url.rpartition(":")[2])
        self.log = project / ".groove/daemon.log"
        self._link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        self.agents: list[str] = []
        self.start_memory = 0

    def furnish(self) -> None:
        """Gives it two idle agents and a lease."""
        self.agents = [self.spawn(IDLE, name=name, scope=[f"{name}/**"]) for name in ("one", "two")]
        lease = {"agent": self.agents[0], "paths": ["shared.md"], "ttlS": 86_400}
        assert self.ask("POST", "/api/coordination/declare", lease)[0] == 200

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Asks as a normal client does, on one connection that is kept: nobody else's thread."""
        data = None if body is None else json.dumps(body)
        self._link.request(method, path, data, {"content-type": "application/json"})
        with self._link.getresponse() as answer:
            return answer.status, json.load(answer)

    def spawn(self, steps: list[dict[str, Any]], **spec: Any) -> str:
        """Spawns a scripted agent; gives its id."""
        asked = {"role": "r", "provider": "demo", "prompt": json.dumps(steps), **spec}
        status, answer = self.ask("POST", "/api/agents", asked)
        assert status == 201, answer
        return str(answer["id"])

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), DEADLINE_S)

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def memory(self, name: str) -> int:
        """Resident memory in bytes: ``VmRSS`` now, ``VmHWM`` at its peak."""
        status = Path(f"/proc/{self.pid}/status").read_text("ascii")
        found = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
        assert found is not None, "the daemon is dead"
        return int(found[1]) * 1024

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_bytes(b"5")  # proc_pid_clear_refs(5)

    def warm_up(self) -> None:
        """Has it do once what makes it larger for good: a full body, a refusal, a busy crowd."""
        full = b"x" * (1024 * 1024 - 1)
        for _ in range(3):
            with self.connect() as attacker:
                attacker.sendall(
                    b"POST /api/knock HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: %d\r\n"
                    b"Content-Type: application/json\r\n\r\n" % (self.port, len(full)) + full
                )
                attacker.recv(65_536)
        with ExitStack() as stack:
            crowd = [stack.enter_context(self.connect()) for _ in range(20)]
            for each in crowd:
                each.sendall(b"GET /")
            self.ask("GET", "/api/audit/verify")
        self.start_memory = self.memory("VmRSS")

    def stop(self) -> None:
        self._link.close()
        stop_daemon(self.project)


class State(NamedTuple):
    """What no attack may change."""

    told: list[Any]
    tree: dict[str, tuple[int, bytes]]


def tree_of(top: Path) -> dict[str, tuple[int, bytes]]:
    """Every file beneath, with mode and content, but for the daemon's own directory."""
    found = {}
    for directory, names, files in os.walk(top):
        if ".groove" in names:
            names.remove(".groove")
        for name in (*names, *files):
            path = os.path.join(directory, name)
            mode = os.lstat(path).st_mode
            link = os.path.islink(path)
            content = os.readlink(path).encode() if link else b""
            if not link and os.path.isfile(path):
                content = Path(path).read_bytes()
            found[os.path.relpath(path, top)] = (mode, content)
    return found


class NormalClient:
    """Asks without pause, on one kept connection and on fresh ones, and notes how it was served."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.served: dict[str, list[float]] = {"kept": [], "fresh": []}  # when each was asked
        self.complaints: list[str] = []

    def _run(self) -> None:
        kept = self._link()
        try:
            while not self._ended.wait(0.01):
                self._ask(kept, "kept")
                fresh = self._link()
                self._ask(fresh, "fresh")
                fresh.close()
        finally:
            kept.close()

    def _link(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=SERVED_S)

    def _ask(self, link: http.client.HTTPConnection, kind: str) -> None:
        asked = time.monotonic()
        try:
            link.request("GET", "/api/health")
            with link.getresponse() as answer:
                body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.complaints.append(f"{kind}: {error!r} after {time.monotonic() - asked:.3f} s")
            return
        took = time.monotonic() - asked
        if answer.status != 200 or body != b'{"ok":true}' or took > SERVED_S:
            self.complaints.append(f"{kind}: {answer.status} {body!r} after {took:.3f} s")
        self.served[kind].append(asked)

    def wait_served_since(self, moment: float) -> None:
        until(
            lambda: self.complaints or all(w and w[-1] >= moment for w in self.served.values()),
            "the normal client was not served",
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


class Attack:
    """What the attacker does and gets.

    Attributes:
        received: All that came on connections of this attack, for the check of what is told.
    """

    def __init__(self, daemon: Daemon, client: NormalClient, stack: ExitStack) -> None:
        self.daemon = daemon
        self._client = client
        self.last_blow = time.monotonic()
        self.received: list[bytes] = []
        self._stack = stack
        self._struck: tuple[socket.socket, bool] | None = None

    def connect(self) -> socket.socket:
        """A socket that stays open until the normal client was served."""
        return self._stack.enter_context(self.daemon.connect())

    def fill(self, data: bytes) -> bytes:
        """``{host}`` and ``{port}`` in an attack stand for the daemon's own."""
        port = b"%d" % self.daemon.port
        return data.replace(b"{host}", b"127.0.0.1:" + port).replace(b"{port}", port)

    def strike(self, data: bytes, on: socket.socket | None = None) -> socket.socket:
        """Sends, on a new connection unless another is given; a daemon that closed is no fault."""
        attacker = on or self.connect()
        data = self.fill(data)
        with suppress(ConnectionError):
            attacker.sendall(data)
        self.struck()
        self._struck = attacker, data.startswith(b"HEAD ")
        return attacker

    @property
    def struck_on(self) -> socket.socket | None:
        """Where the last strike went, for an attacker that goes on with a connection."""
        return None if self._struck is None else self._struck[0]

    def struck(self) -> None:
        """Says that a blow fell, which the normal client must survive."""
        self.last_blow = time.monotonic()

    def receive_all(self, attacker: socket.socket) -> bytes:
        """All until the daemon closes."""
        received = b""
        with suppress(ConnectionResetError):
            while data := attacker.recv(65_536):
                received += data
        self.received.append(received)
        return received

    def answer(self, attacker: socket.socket, *, head: bool = False) -> tuple[Answer | None, bytes]:
        """The next answer, with what came behind it; None if the connection ends before."""
        received = b""
        answers: list[Answer] = []
        with suppress(ConnectionResetError):
            while not answers and (data := attacker.recv(65_536)):
                received += data
                answers, rest = read_answers(received, head=head)
        self.received.append(received)
        if not answers:
            assert not received, received
            return None, b""
        return answers[0], received[len(received) - len(rest) :] if len(answers) == 1 else received

    def expect(self, outcomes: str, attacker: socket.socket | None = None) -> Answer | None:
        """Asserts how the last strike ended; gives the answer, if there was one."""
        assert self._struck is not None
        struck, head = self._struck
        if outcomes == "waits":
            assert self._is_left_waiting(attacker or struck)
            return None
        outcome, answer = self._outcome(attacker or struck, head=head)
        assert outcome in outcomes.split(" | "), (outcome, answer)
        return answer

    def _outcome(self, attacker: socket.socket, *, head: bool) -> tuple[str, Answer | None]:
        answer, rest = self.answer(attacker, head=head)
        if answer is None:
            return "silence", None
        assert rest == b"", rest
        if "close" in (answer.field("connection") or "").split(", "):  # or "upgrade, close"
            more = self.receive_all(attacker)
            assert more == b"", more
            return f"{answer.status} close", answer
        # What follows is answered next: nothing of the attack was taken for a request of its own.
        self.strike(b"GET /what/follows HTTP/1.1\r\nHost: {host}\r\n\r\n", on=attacker)
        after, rest = self.answer(attacker)
        assert after is not None
        assert b"/what/follows" in after.body, after
        assert rest == b"", rest
        return f"{answer.status} open", answer

    def _is_left_waiting(self, attacker: socket.socket) -> bool:
        """Whether no byte and no end came until others, who asked later, were served."""
        self._client.wait_served_since(time.monotonic())
        attacker.setblocking(False)
        try:
            attacker.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            pass
        finally:
            attacker.settimeout(DEADLINE_S)
        return False

    def check_told(self) -> None:
        """No answer tells of the server's inside, or lets another origin in."""
        for received in self.received:
            lower = received.lower()
            for word in UNTOLD:
                assert word not in lower, (word, received[:2000])


Siege = Callable[..., AbstractContextManager[Attack]]


def _records(daemon: Daemon, after: int) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    more = True
    while more:
        _, page = daemon.ask("GET", f"/api/audit?limit=1000&after={after}")
        records += page["records"]
        after, more = page["next"], page["more"]
    return records


def _state(daemon: Daemon) -> State:
    return State([daemon.ask("GET", path) for path in STATE], tree_of(daemon.project.parent))


@contextmanager
def besieged(daemon: Daemon, records: Collection[str] = REFUSALS) -> Iterator[Attack]:
    """One attack; see this file's docstring.

    Args:
        daemon: Under attack.
        records: The actions that the audit log may have grown by.
    """
    before = _state(daemon)
    audited = daemon.ask("GET", "/api/status")[1]["auditSeq"]
    told = daemon.log.stat().st_size
    until(lambda: daemon.ask("GET", "/api/status")[1]["connections"] == 1, "no rest before")
    descriptors, memory = daemon.descriptors, daemon.memory("VmRSS")
    daemon.forget_peak()
    with NormalClient(daemon.port) as client, ExitStack() as sockets:
        attack = Attack(daemon, client, sockets)
        yield attack
        client.wait_served_since(attack.last_blow)
    attack.check_told()
    assert client.complaints == []
    until(lambda: daemon.descriptors <= descriptors, "descriptors leak")
    growth = daemon.memory("VmHWM") - memory
    assert growth < GROWTH, f"the daemon grew by {growth} bytes"
    assert daemon.memory("VmRSS") - daemon.start_memory < TOTAL_GROWTH
    assert _state(daemon) == before
    recorded = {record["action"] for record in _records(daemon, audited)}
    assert recorded.issubset(records), recorded
    status = daemon.ask("GET", "/api/status")[1]
    assert (status["pid"], status["auditOk"]) == (daemon.pid, True)
    assert daemon.ask("GET", "/api/audit/verify")[1]["ok"] is True
    found = ALARMS.search(daemon.log.read_bytes()[told:].decode(errors="replace"))
    assert found is None, daemon.log.read_text()[-4000:]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for a test file; its project holds links that lead out of it."""
    top = tmp_path_factory.mktemp("siege").resolve()
    project, outside, home = top / "project", top / "outside", top / "home"
    for directory in (project / "one", project / "two", outside, home):
        directory.mkdir(parents=True)
    (project / "one/file.txt").write_text("mine\n")
    (outside / "secret.txt").write_text("nobody's business\n")
    (project / "out").symlink_to(outside)
    (project / "leak.txt").symlink_to(outside / "secret.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        for name in OURS & os.environ.keys():
            patch.delenv(name)
        started = Daemon(project)
    try:
        started.furnish()
        started.warm_up()
        yield started
        assert os.path.exists(f"/proc/{started.pid}"), "the daemon did not live"
    finally:
        started.stop()


@pytest.fixture
def siege(daemon: Daemon) -> Siege:
    """``with siege() as attack:`` around an attack on the file's daemon."""

    def begin(**allowed: Any) -> AbstractContextManager[Attack]:
        return besieged(daemon, **allowed)

    return begin
