"""Attacks on who one is taken for: other users, agents however they hide, ports and sockets reused.

Every caller here is a puppet: a process that was started as another user, as an agent or one of
the ways to hide from being one, and that connects and sends as a test tells it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from groove_trio.api.routes import PARAMETER, ROUTES

DEADLINE_S = 20.0
PACKET = 1 << 20
NOBODY = 65534
CLOSE_WAIT = "08"  # include/net/tcp_states.h
RECORDED_S = 3.0  # a caller refused again and again is recorded once a second
PUPPET = [sys.executable, "-I", "-S", str(Path(__file__).with_name("puppet.py"))]
IS_ROOT = os.geteuid() == 0
only_root = pytest.mark.skipif(not IS_ROOT, reason="only root can play another user")

AS_THE_AGENT = [
    "itself",
    "in a thread",
    "a child",
    "an orphan",
    "apart",
    "apart, with an empty environment",
    "apart, under another's name",
    "under a shell",
    "apart, under a shell",
    *(["undumpable"] if IS_ROOT else []),
]
AS_NOBODY = [
    "with a spoiled mark",
    "with half a mark",
    *(["as another user", "another user", "a user for the moment"] if IS_ROOT else []),
]
OTHER_USERS = ["another user", "a user for the moment", "root of a user namespace"]
NO_NAMESPACE = "root of a user namespace, which this machine does not give"
CHANGES = frozenset(
    {
        "access.refuse",
        "knock.granted",
        "knock.denied",
        "lease.declare",
        "lease.complete",
        "lease.refuse",
    }
)


class Answer(NamedTuple):
    """What a puppet was told; a status of 0 is silence."""

    status: int
    slug: str
    text: str

    @classmethod
    def of(cls, data: str) -> Answer:
        head, _, body = data.partition("\r\n\r\n")
        if not head:
            return cls(0, "", "")
        slug = ""
        if "application/problem+json" in head:
            slug = json.loads(body)["type"].rpartition(":")[2]
        return cls(int(head.split(" ", 2)[1]), slug, data)

    @property
    def json(self) -> Any:
        return json.loads(self.text.partition("\r\n\r\n")[2])

    @property
    def outcome(self) -> str:
        return f"{self.status} {self.slug}".strip() if self.status else "silence"


class Puppet:
    """The test's end of one puppet."""

    def __init__(self, line: socket.socket, port: int) -> None:
        self.line = line
        self.port = port
        line.settimeout(DEADLINE_S)
        self.name: str = json.loads(line.recv(PACKET))

    def order(self, do: str, descriptor: int | None = None, **how: Any) -> Any:
        """Has it do something; gives what it tells."""
        given = [] if descriptor is None else [descriptor]
        socket.send_fds(self.line, [json.dumps([do, how]).encode()], given)
        told = json.loads(self.line.recv(PACKET))
        assert not (isinstance(told, dict) and "fault" in told), told
        return told

    def given(self) -> int:
        """A descriptor of the connection that it holds."""
        socket.send_fds(self.line, [b'["give", {}]'], [])
        _, (descriptor,), _, _ = socket.recv_fds(self.line, PACKET, 1)
        return descriptor

    def request(
        self, method: str, path: str, body: str = "", *lines: str, keep: bool = False
    ) -> str:
        said = [
            f"{method} {path} HTTP/1.1",
            f"Host: 127.0.0.1:{self.port}",
            *([] if any(each.lower().startswith("content-type") for each in lines) else [JSON]),
            f"Content-Length: {len(body)}",
            *([] if keep else ["Connection: close"]),
            *lines,
        ]
        return "\r\n".join([*said, "", body])

    def ask(self, method: str, path: str, body: str = "", *lines: str, **how: Any) -> Answer:
        """Sends one request on a new connection."""
        return self.send(self.request(method, path, body, *lines), **how)

    def send(self, data: str, **how: Any) -> Answer:
        return Answer.of(self.order("ask", port=self.port, data=data, **how))

    def upgrade(self, **how: Any) -> Answer:
        lines = [
            "GET /ws HTTP/1.1",
            f"Host: 127.0.0.1:{self.port}",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ]
        return self.send("\r\n".join([*lines, "", ""]), **how)


JSON = "Content-Type: application/json"


class Cast:
    """All puppets by name, the agent that most of them are, and its victim."""

    def __init__(self, daemon: Any) -> None:
        self.daemon = daemon
        self.puppets: dict[str, Puppet] = {}
        self.victim: str = daemon.agents[0]
        self.agent = ""

    def __getitem__(self, name: str) -> Puppet:
        if name not in self.puppets:
            pytest.skip(f"{name}: only root can play that" if not IS_ROOT else NO_NAMESPACE)
        return self.puppets[name]

    def filled(self, text: str) -> str:
        return text.replace("MINE", self.agent).replace("OTHER", self.victim)

    def refusals(self, actor: str, uid: int | None = None) -> list[dict[str, Any]]:
        """The latest records of refusals of one caller."""
        path = "/api/audit?after=-1000&limit=1000&action=access.refuse"
        _, page = self.daemon.ask("GET", path)
        return [
            record
            for record in page["records"]
            if record["actor"] == actor
            and uid in (record["detail"].get("uid"), record["detail"].get("who"))
        ]

    def assert_recorded(self, actor: str, uid: int | None = None) -> None:
        """It was refused just now, or soon after a refusal that was recorded."""
        last = self.refusals(actor, uid)[-1]
        age = time.time() - datetime.fromisoformat(last["time"]).timestamp()
        assert age < RECORDED_S, last

    def assert_agent_recorded(self) -> None:
        self.assert_recorded(f"agent:{self.agent}")

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Holds the daemon still, so that what comes meanwhile waits to be accepted."""
        os.kill(self.daemon.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.daemon.pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def cast(daemon: Any) -> Iterator[Cast]:
    """One agent in all its disguises, and processes that are none of its."""
    cast = Cast(daemon)
    control = f"groove-puppets-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as meeting:
        meeting.bind("\0" + control)
        meeting.listen(64)
        meeting.settimeout(DEADLINE_S)
        expected = {*AS_THE_AGENT, *AS_NOBODY, "the owner", *(OTHER_USERS if IS_ROOT else [])}
        started = [
            subprocess.Popen([*PUPPET, control, name])
            for name in ("the owner", *(OTHER_USERS if IS_ROOT else []))
        ]
        argv = [*PUPPET, control, "an agent", cast.victim]
        spec = {"role": "puppet", "name": "puppet", "argv": argv, "scope": ["mine/**"]}
        spec["containment"] = "hooks"  # its strings are sockets, which lead out of every other
        status, view = daemon.ask("POST", "/api/agents", spec)
        assert status == 201, view
        cast.agent = view["id"]
        for _ in expected:
            line, _ = meeting.accept()
            puppet = Puppet(line, daemon.port)
            cast.puppets[puppet.name] = puppet
        assert set(cast.puppets) == {*expected} or NO_NAMESPACE in cast.puppets
    yield cast
    for puppet in cast.puppets.values():
        puppet.line.close()
    for process in started:
        process.wait(DEADLINE_S)


Change = Callable[[Cast], Answer]

KNOCK = '{"operation": "write", "path": "mine/a"}'
STOP = "/api/agents/OTHER/stop"


# Other users


STRANGE: dict[str, tuple[Any, ...]] = {
    "asks for its health": ("GET", "/api/health"),
    "asks for its status": ("GET", "/api/status"),
    "asks for its agents": ("GET", "/api/agents"),
    "asks for nothing there is": ("GET", "/none"),
    "asks what it may": ("OPTIONS", "*"),
    "spawns": ("POST", "/api/agents", '{"role": "r", "argv": ["true"]}'),
    "stops": ("POST", STOP, "{}"),
    "forgets": ("DELETE", "/api/agents/OTHER"),
    "knocks for an agent": ("POST", "/api/knock", '{"agent": "OTHER", "path": "one/x"}'),
    "gives back a lease": ("POST", "/api/coordination/complete", '{"agent": "OTHER"}'),
    "has a proxy": ("GET", "/api/health", "", "X-Forwarded-For: 127.0.0.1"),
    "says who it is": ("GET", "/api/agents", "", "Authorization: Bearer owner", "Cookie: uid=0"),
}


def assert_told_nothing(cast: Cast, answer: Answer) -> None:
    assert answer.outcome in ("403 not-admitted", "silence"), answer.text
    for secret in (str(cast.daemon.project), *cast.daemon.agents, cast.agent, "one/", '"ok"'):
        assert secret not in answer.text


@only_root
@pytest.mark.parametrize("case", STRANGE)
@pytest.mark.parametrize("who", OTHER_USERS)
def test_another_user_is_refused_and_told_nothing(
    siege: Any, cast: Cast, who: str, case: str
) -> None:
    with siege() as attack:
        answer = cast[who].ask(*map(cast.filled, STRANGE[case]))
        attack.struck()
        assert_told_nothing(cast, answer)
        cast.assert_recorded("system", NOBODY)


STRANGE_BYTES = {
    "nothing": "",
    "half a request": "GET /api/hea",
    "no request": "\x16\x03\x01\x02" * 1000,
    "two requests": "GET /api/health HTTP/1.1\r\nHost: {host}\r\n\r\n" * 2,
    "a body without end": "POST /api/agents HTTP/1.1\r\nHost: {host}\r\n"
    f"{JSON}\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n" + "x" * 1000,
}


@only_root
@pytest.mark.parametrize("case", STRANGE_BYTES)
def test_another_user_is_refused_whatever_it_sends(siege: Any, cast: Cast, case: str) -> None:
    with siege() as attack:
        data = attack.fill(STRANGE_BYTES[case].encode("latin-1")).decode("latin-1")
        answer = cast["another user"].send(data)
        attack.struck()
        assert_told_nothing(cast, answer)


@only_root
@pytest.mark.parametrize("trick", ["", "chown_socket"])
@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.2", "127.255.255.254"])
def test_another_user_is_known_by_any_address_and_trick(
    siege: Any, cast: Cast, trick: str, source: str
) -> None:
    with siege() as attack:
        stranger = cast["another user"]
        answer = stranger.ask("GET", "/api/agents", source=[source, 0], trick=trick)
        attack.struck()
        assert_told_nothing(cast, answer)


@pytest.mark.parametrize("who", AS_NOBODY)
def test_whoever_cannot_be_told_gets_no_feed(siege: Any, cast: Cast, who: str) -> None:
    with siege() as attack:
        answer = cast[who].upgrade()
        attack.struck()
        assert_told_nothing(cast, answer)


# Addresses


def outer_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a datagram socket sends nothing by this
        except OSError:
            pytest.skip("this machine has no address beside loopback")
        return str(probe.getsockname()[0])


@pytest.mark.parametrize(
    ("who", "outcome"),
    [
        ("the owner", "403 not-admitted"),
        ("itself", "403 not-admitted"),
        ("another user", "403 not-admitted"),
    ],
)
def test_an_address_of_this_machine_that_is_not_loopback_is_refused(
    siege: Any, cast: Cast, who: str, outcome: str
) -> None:
    with siege() as attack:
        answer = cast[who].ask("GET", "/api/agents", source=[outer_address(), 0])
        attack.struck()
        assert answer.outcome == outcome


@pytest.mark.parametrize(("who", "outcome"), [("the owner", "200"), ("itself", "403 not-allowed")])
@pytest.mark.parametrize(
    "how",
    [
        {"source": ["127.0.0.2", 0]},
        {"source": ["127.255.255.254", 0]},
        {"host": "::ffff:127.0.0.1"},
    ],
    ids=["127.0.0.2", "127.255.255.254", "mapped"],
)
def test_any_loopback_address_shows_the_same_caller(
    siege: Any, cast: Cast, who: str, outcome: str, how: dict[str, Any]
) -> None:
    if "host" in how and not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    with siege() as attack:
        assert cast[who].ask("GET", "/api/agents", **how).outcome == outcome
        attack.struck()


@pytest.mark.parametrize("host", ["127.0.0.2", "::1"])
def test_nothing_listens_beside_the_one_address(siege: Any, cast: Cast, host: str) -> None:
    with siege() as attack:
        with pytest.raises(AssertionError, match=r"Refused|Cannot assign|unreachable"):
            cast["the owner"].ask("GET", "/api/health", host=host)
        attack.struck()


# Those who have left


LAST_WORDS = {
    "stops an agent": ("POST", STOP, "{}"),
    "forgets an agent": ("DELETE", "/api/agents/OTHER", ""),
    "knocks": ("POST", "/api/knock", KNOCK),
    "takes a lease": ("POST", "/api/coordination/declare", '{"paths": ["theirs"]}'),
}


@pytest.mark.parametrize("case", LAST_WORDS)
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("who", ["the owner", "itself", "another user"])
def test_whoever_has_left_before_being_looked_at_is_nobody(
    siege: Any, cast: Cast, who: str, reset: bool, case: str
) -> None:
    with siege() as attack:
        ghost = cast[who]
        with cast.paused():
            data = ghost.request(*map(cast.filled, LAST_WORDS[case]))
            ghost.order("open", port=cast.daemon.port, data=data)
            ghost.order("close", reset=reset)
        attack.struck()


# Ports and sockets used again


PORTS = itertools.count(15_000 + os.getpid() % 15_000)


def free_port() -> int:
    """One that no connection is given by chance, so that it can be had twice."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port := next(PORTS)))
            return port


OUTCOMES = {
    "the owner": "200",
    "itself": "403 not-allowed",
    "apart": "403 not-allowed",
    "another user": "403 not-admitted",
}
PAIRS = [(one, other) for one in OUTCOMES for other in OUTCOMES if one != other]


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_a_recycled_port_is_who_has_it_now(siege: Any, cast: Cast, before: str, after: str) -> None:
    with siege() as attack:
        first, second = cast[before], cast[after]
        source = ["127.0.0.1", free_port()]
        first.order("open", port=cast.daemon.port, source=source)
        told = Answer.of(first.order("say", data=first.request("GET", "/api/agents", keep=True)))
        assert told.outcome == OUTCOMES[before]
        first.order("close", reset=True)
        again = second.ask("GET", "/api/agents", source=source)
        attack.struck()
        assert again.outcome == OUTCOMES[after]


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_a_port_recycled_before_anyone_is_looked_at(
    siege: Any, cast: Cast, before: str, after: str
) -> None:
    with siege() as attack:
        first, second = cast[before], cast[after]
        with cast.paused():
            stop = first.request("POST", cast.filled(STOP), "{}")
            source = ["127.0.0.1", free_port()]
            first.order("open", port=cast.daemon.port, data=stop, source=source)
            first.order("close", reset=True)
            asked = second.request("GET", "/api/agents")
            second.order("open", port=cast.daemon.port, data=asked, source=source)
        assert Answer.of(second.order("hear")).outcome == OUTCOMES[after]
        second.order("close")
        attack.struck()


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_a_connection_handed_on_stays_whose_it_was(
    siege: Any, cast: Cast, before: str, after: str
) -> None:
    # Who is calling is fixed when a connection is accepted. Whoever gives one away gives what it
    # stands for; so the owner's own programs must not, and an agent wins nothing by it.
    if before == "another user":
        pytest.skip("its connection has ended by then")
    with siege() as attack:
        first, second = cast[before], cast[after]
        first.order("open", port=cast.daemon.port)
        told = Answer.of(first.order("say", data=first.request("GET", "/api/health", keep=True)))
        assert told.outcome == "200"
        connection = first.given()
        second.order("take", connection)
        os.close(connection)
        first.order("close")
        told = Answer.of(second.order("say", data=second.request("GET", "/api/agents")))
        second.order("close")
        attack.struck()
        assert told.outcome == OUTCOMES[before]


@pytest.mark.parametrize("keeper", ["the owner", "another user"])
@pytest.mark.parametrize("who", ["itself", "apart"])
def test_a_connection_that_an_agent_shares_is_the_agents(
    siege: Any, cast: Cast, who: str, keeper: str
) -> None:
    with siege() as attack:
        agent, other = cast[who], cast[keeper]
        with cast.paused():
            agent.order("open", port=cast.daemon.port, data=agent.request("GET", "/api/agents"))
            connection = agent.given()
            other.order("take", connection)
            os.close(connection)
        assert Answer.of(agent.order("hear")).outcome == "403 not-allowed"
        agent.order("close")
        other.order("close")
        attack.struck()


@only_root
def test_another_users_connection_is_not_the_owners_who_holds_it(siege: Any, cast: Cast) -> None:
    with siege() as attack:
        stranger, owner = cast["another user"], cast["the owner"]
        with cast.paused():
            data = stranger.request("GET", "/api/agents")
            stranger.order("open", port=cast.daemon.port, data=data)
            connection = stranger.given()
            owner.order("take", connection)
            os.close(connection)
            stranger.order("close")
        assert Answer.of(owner.order("hear")).outcome == "403 not-admitted"
        owner.order("close")
        attack.struck()


def wait_until_closed(port: int) -> None:
    """Waits until the daemon has ended its side of the connection from a port."""
    end = time.monotonic() + DEADLINE_S
    while (f"0100007F:{port:04X}", CLOSE_WAIT) not in connections():
        assert time.monotonic() < end
        time.sleep(0.005)


def connections() -> set[tuple[str, str]]:
    """Every local address with its state; proc_net_tcp.rst."""
    lines = Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]
    return {(fields[1], fields[3]) for fields in map(str.split, lines)}


@pytest.mark.parametrize("who", ["itself", "apart", "the owner"])
def test_a_connection_that_no_process_holds_is_nobodys(siege: Any, cast: Cast, who: str) -> None:
    with siege() as attack:
        caller = cast[who]
        with cast.paused():
            data = caller.request("GET", "/api/agents")
            port = caller.order("open", port=cast.daemon.port, data=data)
            caller.order("post")
        wait_until_closed(port)
        caller.order("fetch")
        told = Answer.of(caller.order("hear"))
        caller.order("close")
        attack.struck()
        assert told.outcome == "403 not-admitted"
        assert "Nobody was seen" in told.text


# An agent, however it hides


@pytest.mark.parametrize("who", AS_THE_AGENT)
def test_a_knock_of_an_agents_process_is_that_agents(siege: Any, cast: Cast, who: str) -> None:
    with siege(records=CHANGES) as attack:
        assert cast[who].ask("POST", "/api/knock", KNOCK).json["allow"] is True
        attack.struck()
    _, page = cast.daemon.ask("GET", "/api/audit?after=-20&limit=20&action=knock.granted")
    last = page["records"][-1]
    assert (last["actor"], last["agent"]) == (f"agent:{cast.agent}", cast.agent)
    assert "onBehalf" not in last["detail"]


FORBIDDEN: dict[str, tuple[Any, ...]] = {
    "list": ("GET", "/api/agents"),
    "stop itself": ("POST", "/api/agents/MINE/stop", "{}"),
    "stop another": ("POST", STOP, "{}"),
    "another's output": ("GET", "/api/agents/OTHER/output"),
    "another's knock": ("POST", "/api/knock", '{"agent": "OTHER", "path": "one/x"}'),
}


@pytest.mark.parametrize("case", FORBIDDEN)
@pytest.mark.parametrize("who", AS_THE_AGENT)
def test_an_agents_process_is_refused_and_recorded(
    siege: Any, cast: Cast, who: str, case: str
) -> None:
    with siege() as attack:
        answer = cast[who].ask(*map(cast.filled, FORBIDDEN[case]))
        attack.struck()
        assert answer.outcome == "403 not-allowed"
        cast.assert_agent_recorded()


@pytest.mark.parametrize("who", AS_THE_AGENT)
def test_an_agents_process_gets_no_feed(siege: Any, cast: Cast, who: str) -> None:
    with siege() as attack:
        assert cast[who].upgrade().outcome in ("403 not-allowed", "silence")
        attack.struck()
        cast.assert_agent_recorded()


# What an agent may and may not


MAY = {
    ("GET", "/api/health"): "200",
    ("GET", "/api/status"): "200",
    ("GET", "/api/agents/{id}/output"): "200",
    ("POST", "/api/knock"): "400 bad-request",  # without a body
    ("POST", "/api/coordination/declare"): "400 bad-request",
    ("POST", "/api/coordination/complete"): "400 bad-request",
}
EVERY = [
    (route.method, route.path, whose)
    for route in ROUTES
    for whose in (("MINE", "OTHER", "nobody") if "{" in route.path else ("MINE",))
]


@pytest.mark.parametrize(("method", "path", "whose"), EVERY)
def test_every_route_knows_an_agent(
    siege: Any, cast: Cast, method: str, path: str, whose: str
) -> None:
    outcome = MAY.get((method, path), "403 not-allowed") if whose == "MINE" else "403 not-allowed"
    with siege() as attack:
        target = cast.filled(PARAMETER.sub(whose, path))
        answer = cast["itself"].ask(method, target)
        attack.struck()
        assert answer.outcome == outcome
        if outcome.startswith("403"):
            cast.assert_agent_recorded()


def test_all_that_an_agent_may_is_among_the_routes() -> None:
    assert set(MAY) == {(route.method, route.path) for route in ROUTES if route.agents}


HOOK = json.dumps(
    {"hook_event_name": "PreToolUse", "tool_name": "Write", "tool_input": {"file_path": "mine/a"}}
)
NAMES_OTHER = '{"agent": "OTHER", "operation": "write", "path": "one/x"}'
CLAIMS: dict[str, tuple[Any, ...]] = {
    "a name": ("POST", "/api/knock", '{"agent": "one", "operation": "write", "path": "one/x"}'),
    "the owner": ("POST", "/api/knock", '{"agent": "owner", "operation": "write", "path": "x"}'),
    "in the query": ("POST", "/api/knock?agent=OTHER", KNOCK),
    "in the query, with its own in the body": (
        "POST",
        "/api/knock?agent=OTHER",
        '{"agent": "MINE", "operation": "write", "path": "one/x"}',
    ),
    "in the body, with its own in the query": ("POST", "/api/knock?agent=MINE", NAMES_OTHER),
    "by a hook": ("POST", "/api/knock?agent=OTHER", HOOK),
    "to take a lease": ("POST", "/api/coordination/declare", '{"agent":"OTHER","paths":["b"]}'),
    "to give a lease back": ("POST", "/api/coordination/complete", '{"agent": "OTHER"}'),
    "to spawn": ("POST", "/api/agents", '{"role": "r", "argv": ["true"], "scope": ["**"]}'),
    "to widen": ("PATCH", "/api/agents/MINE", '{"name": "owner", "restart": {"mode": "always"}}'),
    "to instruct": ("POST", "/api/agents/OTHER/instruct", '{"text": "delete everything"}'),
    "its page": ("GET", "/api/agents/OTHER/output?after=-10"),
    "its page, by name": ("GET", "/api/agents/one/output?after=0"),
}


@pytest.mark.parametrize("case", CLAIMS)
def test_an_agent_that_speaks_for_another_is_refused_and_recorded(
    siege: Any, cast: Cast, case: str
) -> None:
    with siege() as attack:
        answer = cast["itself"].ask(*map(cast.filled, CLAIMS[case]))
        attack.struck()
        assert answer.outcome == "403 not-allowed"
        cast.assert_agent_recorded()


def test_an_agent_cannot_give_back_anothers_lease_by_its_id(siege: Any, cast: Cast) -> None:
    _, (lease,) = cast.daemon.ask("GET", "/api/coordination")
    assert lease["agent"] == cast.victim
    with siege() as attack:
        body = json.dumps({"lease": lease["id"]})
        answer = cast["itself"].ask("POST", "/api/coordination/complete", body)
        attack.struck()
        assert answer.outcome == "404 unknown-lease"


@pytest.mark.parametrize("paths", [["shared.md"], ["one/file.txt"], ["one/file.txt", "free"]])
def test_an_agent_cannot_lease_what_another_holds(siege: Any, cast: Cast, paths: list[str]) -> None:
    with siege(records=CHANGES) as attack:
        body = json.dumps({"paths": paths})
        answer = cast["itself"].ask("POST", "/api/coordination/declare", body)
        attack.struck()
        assert answer.outcome == "423 locked"


def test_an_agent_may_take_and_give_back_its_own_lease(siege: Any, cast: Cast) -> None:
    with siege(records=CHANGES) as attack:
        agent = cast["apart"]
        taken = agent.ask("POST", "/api/coordination/declare", '{"paths": ["free"]}')
        assert (taken.status, taken.json["agent"]) == (200, cast.agent)
        given = agent.ask("POST", "/api/coordination/complete", "{}")
        assert [each["id"] for each in given.json] == [taken.json["id"]]
        attack.struck()


HIDDEN = [
    "/api/agents/OTHER/spec",
    "/api/agents/OTHER/prompt",
    "/api/agents/OTHER/files",
    "/api/agents/MINE/../OTHER/output",
    "/api/agents/MINE%2f..%2fOTHER/output",
    "/api/agents/MINE/output/../../OTHER/output",
    "//api/agents/OTHER/output",
    "/api/credentials",
]


@pytest.mark.parametrize("path", HIDDEN)
def test_an_agent_finds_no_other_way_in(siege: Any, cast: Cast, path: str) -> None:
    with siege() as attack:
        answer = cast["itself"].ask("GET", cast.filled(path))
        attack.struck()
        assert answer.status in (400, 403, 404)


FORGED = [
    "Authorization: Bearer owner",
    "Authorization: Basic cm9vdDo=",
    "Cookie: actor=owner; groove-session=1",
    "X-Groove-Agent: one",
    "X-Groove-Actor: owner",
    "X-Forwarded-For: 127.0.0.1",
    "X-Forwarded-User: root",
    "Forwarded: for=127.0.0.1",
    "X-Real-IP: 127.0.0.1",
    "X-HTTP-Method-Override: GET",
    "X-Original-URL: /api/health",
    "Sec-Fetch-Site: same-origin",
    "Via: 1.1 owner",
]


@pytest.mark.parametrize("line", FORGED)
def test_no_header_makes_an_agent_the_owner(siege: Any, cast: Cast, line: str) -> None:
    with siege() as attack:
        answer = cast["itself"].ask("GET", "/api/agents", "", line)
        attack.struck()
        assert answer.outcome in ("403 not-allowed", "400 bad-request")


def test_what_daemon_json_tells_makes_nobody_the_owner(siege: Any, cast: Cast) -> None:
    with siege() as attack:
        agent = cast["apart"]
        told = json.loads(agent.order("read", path=f"{cast.daemon.project}/.groove/daemon.json"))
        assert told["port"] == cast.daemon.port
        values = "".join(f"X-{key}: {value}\r\n" for key, value in told.items())
        answer = agent.ask(
            "GET", "/api/agents", "", f"Authorization: {told['bootId']}", values[:-2]
        )
        attack.struck()
        assert answer.outcome == "403 not-allowed"


# Crowds


HEALTH = "GET /api/health HTTP/1.1\r\nHost: {host}\r\n\r\n"


@pytest.mark.parametrize("who", ["itself", "another user"])
@pytest.mark.parametrize("data", ["", "GET /api/hea", HEALTH], ids=["idle", "half", "kept"])
@pytest.mark.parametrize("size", [100, 300])
def test_a_crowd_of_connections_keeps_nobody_out(
    siege: Any, cast: Cast, who: str, data: str, size: int
) -> None:
    with siege() as attack:
        data = attack.fill(data.encode()).decode()
        attack._stack.callback(cast[who].order, "scatter")  # noqa: SLF001 - once others were served
        cast[who].order("gather", port=cast.daemon.port, size=size, data=data)
        attack.struck()


def test_an_agent_that_asks_without_pause_fills_no_log(siege: Any, cast: Cast) -> None:
    with siege() as attack:
        agent = cast["itself"]
        began, before = time.monotonic(), len(cast.refusals(f"agent:{cast.agent}"))
        agent.order("open", port=cast.daemon.port)
        for _ in range(200):
            asked = agent.request("GET", "/api/audit", keep=True)
            assert Answer.of(agent.order("say", data=asked)).outcome == "403 not-allowed"
        agent.order("close")
        attack.struck()
        records = len(cast.refusals(f"agent:{cast.agent}")) - before
        assert records <= time.monotonic() - began + 3


# The owner


def test_the_owner_may_knock_for_an_agent_which_the_record_says(siege: Any, cast: Cast) -> None:
    with siege(records=CHANGES) as attack:
        body = cast.filled('{"agent": "MINE", "operation": "write", "path": "mine/a"}')
        assert cast["the owner"].ask("POST", "/api/knock", body).json["allow"] is True
        attack.struck()
    _, page = cast.daemon.ask("GET", "/api/audit?after=-20&limit=20&action=knock.granted")
    last = page["records"][-1]
    assert (last["actor"], last["agent"]) == ("owner", cast.agent)
    assert last["detail"]["onBehalf"] is True


@pytest.mark.parametrize("target", ["knock", "coordination/declare", "coordination/complete"])
def test_the_owner_must_say_for_whom(siege: Any, cast: Cast, target: str) -> None:
    with siege() as attack:
        body = '{"operation": "write", "path": "mine/a", "paths": ["b"]}'
        answer = cast["the owner"].ask("POST", f"/api/{target}", body)
        attack.struck()
        assert answer.outcome == "400 bad-request"
