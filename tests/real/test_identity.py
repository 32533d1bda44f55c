"""Who is calling, on real sockets: other users, agents however they hide, and what each may do."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio
import trio.testing

from groove_trio import AgentSpec, Groove
from groove_trio.api.routes import PARAMETER, ROUTES
from groove_trio.shell.census import Census
from groove_trio.shell.identity import Identity
from groove_trio.shell.limits import AGENT
from groove_trio.shell.marks import Marks, read_limits
from groove_trio.shell.sockets import Seeker
from groove_trio.testing import lines_of, open_test_groove, wait_for_line
from groove_trio.words.actors import OWNER
from groove_trio.words.base import AgentId
from groove_trio.words.errors import NotAdmitted

NOBODY = 65534
PYTHON = [sys.executable, "-I", "-S"]
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can play another user")

CALL = """
import os, sys

def call(url, method, target, body=b"", upgrade=False):
    import socket
    host, _, port = url.removeprefix("http://").rpartition(":")
    head = f"{method} {target} HTTP/1.1\\r\\nhost: {host}:{port}\\r\\n"
    if upgrade:
        head += ("connection: upgrade\\r\\nupgrade: websocket\\r\\nsec-websocket-version: 13\\r\\n"
                 "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n\\r\\n")
    else:
        head += ("connection: close\\r\\ncontent-type: application/json\\r\\n"
                 f"content-length: {len(body)}\\r\\n\\r\\n")
    with socket.create_connection((host.strip("[]"), int(port)), 20) as connection:
        connection.sendall(head.encode() + body)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return int(answer.split(b" ", 2)[1]) if answer else 0, answer.partition(b"\\r\\n\\r\\n")[2]

def tell(*what):
    os.write(1, (" ".join(map(str, what)) + "\\n").encode())
"""


def agent(program: str, *arguments: str, **spec: Any) -> AgentSpec:
    """An agent that is a program in Python with `call` and `tell`, and waits at its end."""
    source = CALL + program + "\nsys.stdin.read()\n"
    return AgentSpec(role="caller", argv=[*PYTHON, "-c", source, *arguments], **spec)


async def ask(program: str, *arguments: str, uid: int | None = None) -> str:
    """What a program writes that is no agent's, run as another user if said so."""
    # Another user may not read this Python's library: what is needed is loaded before.
    drop = "import socket, encodings.idna\n" + "".join(
        f"os.{name}({uid}, {uid}, {uid})\n" for name in ("setresgid", "setresuid")
    )
    source = CALL + (drop if uid is not None else "") + program
    done = await trio.run_process(
        [*PYTHON, "-c", source, *arguments], capture_stdout=True, capture_stderr=True
    )
    assert not done.stderr, done.stderr
    return done.stdout.decode()


def records(groove: Groove, action: str) -> list[dict[str, Any]]:
    found = []
    for segment in sorted((groove.project / ".groove/audit").iterdir()):
        lines = map(json.loads, segment.read_bytes().splitlines())
        found += [line for line in lines if line["action"] == action]
    return found


# Other users


HEALTH = 'tell(*call(sys.argv[1], "GET", "/api/health"))'


async def test_this_user_is_let_in(tmp_path: Path) -> None:
    async with open_test_groove(tmp_path) as groove:
        assert await ask(HEALTH, groove.url) == "200 b'{\"ok\":true}'\n"


@only_root
@pytest.mark.parametrize("with_agent", [False, True])
async def test_another_user_is_refused_and_recorded(tmp_path: Path, with_agent: bool) -> None:
    async with open_test_groove(tmp_path) as groove:
        if with_agent:
            await groove.spawn(AgentSpec(role="idle", argv=["sleep", "600"]))
        for request in ('"GET", "/api/health"', '"POST", "/api/agents", b"{}"', '"GET", "/none"'):
            told = await ask(f"tell(*call(sys.argv[1], {request}))", groove.url, uid=NOBODY)
            assert told.startswith("403 ")
            assert "not-admitted" in told
            assert str(groove.project) not in told
        assert await ask(HEALTH, groove.url) == "200 b'{\"ok\":true}'\n"
        record = records(groove, "access.refuse")[0]
        assert (record["actor"], record["detail"]["uid"]) == ("system", NOBODY)


@only_root
async def test_another_users_websocket_is_refused(tmp_path: Path) -> None:
    program = 'tell(*call(sys.argv[1], "GET", "/ws", upgrade=True))'
    async with open_test_groove(tmp_path) as groove:
        assert (await ask(program, groove.url, uid=NOBODY)).startswith("403 ")
        assert groove.status().subscribers == 0


# The kernel's answer


class Line(NamedTuple):
    server: trio.SocketStream
    client: socket.socket


@contextlib.contextmanager
def line(host: str = "127.0.0.1", target: str | None = None) -> Iterator[Line]:
    """Both ends of a connection; the client connects to `target`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        to = target or host
        with socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET) as client:
            client.connect((to, listener.getsockname()[1]))
            accepted, _ = listener.accept()
            with accepted:
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(accepted))
                yield Line(stream, client)


@contextlib.asynccontextmanager
async def identity(groove: Groove) -> AsyncIterator[Identity]:
    yield groove._parts.identity  # noqa: SLF001 - what its door asks


@pytest.fixture
def six() -> None:
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")


@pytest.mark.parametrize(
    ("host", "target"), [("127.0.0.1", None), ("::1", None), ("127.0.0.1", "::ffff:127.0.0.1")]
)
@pytest.mark.parametrize("with_agent", [False, True])
async def test_a_caller_of_this_user_is_the_owner(
    tmp_path: Path, six: None, host: str, target: str | None, with_agent: bool
) -> None:
    async with open_test_groove(tmp_path) as groove, identity(groove) as who:
        if with_agent:
            await groove.spawn(AgentSpec(role="idle", argv=["sleep", "600"]))
        with line(host, target) as (server, _):
            assert await who.identify(server) == OWNER
            who.check(server)


async def test_a_caller_that_shut_down_its_sending_side_is_still_known(tmp_path: Path) -> None:
    async with open_test_groove(tmp_path) as groove, identity(groove) as who:
        with line() as (server, client):
            client.shutdown(socket.SHUT_WR)
            assert await who.identify(server) == OWNER


async def test_a_caller_that_has_closed_is_nobody_and_not_root(tmp_path: Path) -> None:
    async with open_test_groove(tmp_path) as groove, identity(groove) as who:
        with line() as (server, client):
            client.sendall(b"DELETE / HTTP/1.1\r\n\r\n")
            client.close()
            with pytest.raises(trio.BrokenResourceError):
                await who.identify(server)
            with pytest.raises(trio.BrokenResourceError):
                who.check(server)


async def test_a_caller_that_was_reset_is_nobody(tmp_path: Path) -> None:
    async with open_test_groove(tmp_path) as groove, identity(groove) as who:
        with line() as (server, client):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
            with pytest.raises((trio.BrokenResourceError, NotAdmitted)):
                await who.identify(server)


@only_root
async def test_a_recycled_port_is_not_taken_for_the_caller_before(tmp_path: Path) -> None:
    # The owner's connection ends, and another user gets the very same port at its end; unless a
    # connection elsewhere on this machine shares it, as the kernel lets them.
    program = """
import errno, socket
n = int(sys.argv[2])
with socket.socket() as caller:
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        caller.bind(("127.0.0.1", n))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        tell("taken")
        os._exit(0)
    caller.connect(("127.0.0.1", int(sys.argv[1].rpartition(":")[2])))
    host = sys.argv[1][7:].encode()
    caller.sendall(b"GET /api/health HTTP/1.1\\r\\nhost: " + host + b"\\r\\n\\r\\n")
    tell(caller.recv(12))
"""
    async with open_test_groove(tmp_path) as groove:
        told = "taken\n"
        for _ in range(10):
            with socket.socket() as first:
                first.connect(("127.0.0.1", groove.port))
                port = first.getsockname()[1]
                host = b"host: 127.0.0.1:%d\r\n\r\n" % groove.port
                first.sendall(b"GET /api/health HTTP/1.1\r\n" + host)
                assert (await trio.to_thread.run_sync(first.recv, 12)).endswith(b"200")
                first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            told = await ask(program, groove.url, str(port), uid=NOBODY)
            if told != "taken\n":
                break
        assert told == "b'HTTP/1.1 403'\n"


# Agents, however they hide


WHO = """
def who(url):
    # An agent may ask for its own output only, so who it is shows in what it gets.
    return call(url, "POST", "/api/knock", b'{"operation": "write", "path": "x"}')[0], \\
        call(url, "GET", "/api/agents")[0]
url = os.environ["GROOVE_URL"]
"""

HIDES = {
    "itself": "tell('told', who(url))",
    "a child": "os.fork() or tell('told', who(url))",
    "a grandchild that lost its parents": """
if os.fork() == 0:
    if os.fork() == 0:
        tell('told', who(url))
    os._exit(0)
os.wait()
""",
    "a double fork into sessions of its own": """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        tell('told', who(url))
    os._exit(0)
os.wait()
""",
    "a double fork that cleared its environment": """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        program = sys.argv[1] + "tell('told', who(sys.argv[1]))"
        os.execve(sys.executable, [sys.executable, "-I", "-S", "-c", program, url], {})
    os._exit(0)
os.wait()
""",
    "a double fork that claims to be another agent": """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        program = sys.argv[1] + "tell('told', who(sys.argv[1]))"
        env = dict(os.environ, GROOVE_AGENT=sys.argv[2])
        os.execve(sys.executable, [sys.executable, "-I", "-S", "-c", program, url], env)
    os._exit(0)
os.wait()
""",
    "a chain of forks": """
for _ in range(30):
    if os.fork():
        os._exit(0) if _ else sys.stdin.read()
    os.setsid()
tell('told', who(url))
""",
}
DEFINITIONS = CALL + WHO.replace('url = os.environ["GROOVE_URL"]\n', "")


@pytest.mark.parametrize("hides", HIDES)
@pytest.mark.parametrize("adopt", [True, False])
async def test_an_agents_process_is_that_agent(tmp_path: Path, hides: str, adopt: bool) -> None:
    async with open_test_groove(tmp_path, adopt_orphans=adopt) as groove:
        victim = await groove.spawn(AgentSpec(role="idle", argv=["sleep", "600"], scope=[]))
        spec = agent(WHO + HIDES[hides], DEFINITIONS, victim.id, scope=["x"], interactive=True)
        view = await groove.spawn(spec)
        assert await wait_for_line(groove, view.id, "told") == "told (200, 403)"
        knock = records(groove, "knock.granted")[0]
        assert (knock["actor"], knock["agent"]) == (f"agent:{view.id}", view.id)
        assert "onBehalf" not in knock["detail"]
        refused = records(groove, "access.refuse")[0]
        assert (refused["actor"], refused["agent"]) == (f"agent:{view.id}", view.id)
        assert refused["detail"]["path"] == "/api/agents"


async def test_a_socket_that_an_agent_shares_with_others_is_the_agents(tmp_path: Path) -> None:
    program = """
import socket
host, _, port = os.environ["GROOVE_URL"].removeprefix("http://").rpartition(":")
mine = socket.create_connection((host, int(sys.argv[2])))
with socket.socket(socket.AF_UNIX) as line:
    line.connect(sys.argv[1])
    socket.send_fds(line, [b"x"], [mine.fileno()])
tell("passed")
"""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_UNIX) as meeting,
    ):
        meeting.bind(str(tmp_path / "meeting"))
        meeting.listen()
        async with open_test_groove(tmp_path) as groove, identity(groove) as who:
            port = listener.getsockname()[1]
            view = await groove.spawn(
                agent(program, str(tmp_path / "meeting"), str(port), interactive=True)
            )
            await wait_for_line(groove, view.id, "passed")
            accomplice, _ = meeting.accept()
            _, (got,), _, _ = socket.recv_fds(accomplice, 1, 1)
            accepted, _ = listener.accept()
            server = trio.SocketStream(trio.socket.from_stdlib_socket(accepted))
            # Held by the agent and by us, who are no agent.
            assert (await who.identify(server)).name == view.id
            await groove.stop(view.id, 0)
            assert await who.identify(server) == OWNER
            os.close(got)
            accomplice.close()
            with pytest.raises(trio.BrokenResourceError):
                await who.identify(server)
            await server.aclose()


async def test_a_socket_in_flight_is_nobodys(tmp_path: Path) -> None:
    async with open_test_groove(tmp_path) as groove, identity(groove) as who:
        await groove.spawn(AgentSpec(role="idle", argv=["sleep", "600"]))
        ours, theirs = socket.socketpair()
        with ours, theirs, line() as (server, client):
            socket.send_fds(ours, [b"x"], [client.fileno()])
            client.close()
            with pytest.raises(NotAdmitted, match="Nobody was seen"):
                await who.identify(server)


async def test_a_process_that_may_not_be_looked_into_is_refused(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may look into everything")
    program = "import ctypes\nctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\n" + HEALTH
    async with open_test_groove(tmp_path) as groove:
        await groove.spawn(AgentSpec(role="idle", argv=["sleep", "600"]))
        assert (await ask(program, groove.url)).startswith("403 ")


async def test_callers_that_come_together_are_told_apart(tmp_path: Path) -> None:
    each = AGENT - 2  # all of them may be connected at once
    many = f"for n in range({each}):\n    os.fork() or (tell('told', n, who(url)), os._exit(0))"
    async with open_test_groove(tmp_path) as groove:
        views = [
            await groove.spawn(agent(WHO + many, scope=[f"{n}"], interactive=True))
            for n in range(4)
        ]
        told = [await ask(HEALTH, groove.url) for _ in range(3)]
        assert set(told) == {"200 b'{\"ok\":true}'\n"}
        for view in views:
            for number in range(each):
                found = await wait_for_line(groove, view.id, f"told {number} ")
                assert found.endswith("(200, 403)")
        asked = [(record["actor"], record["agent"]) for record in records(groove, "knock.denied")]
        assert sorted(asked) == sorted((f"agent:{view.id}", view.id) for view in views * each)


async def test_an_agent_gets_its_share_of_connections_and_the_owner_the_rest(
    tmp_path: Path,
) -> None:
    program = """
import socket
host, port = sys.argv[1].removeprefix("http://").split(":")
kept, told = [], []
for _ in range(20):
    kept.append(socket.create_connection((host, int(port)), 20))
    kept[-1].sendall(f"GET /api/health HTTP/1.1\\r\\nhost: {host}:{port}\\r\\n\\r\\n".encode())
    told.append(kept[-1].recv(65536)[9:12].decode())
tell("told", *told)
"""
    async with open_test_groove(tmp_path) as groove:
        view = await groove.spawn(agent(program, groove.url, interactive=True))
        told = (await wait_for_line(groove, view.id, "told ")).split()[1:]
        assert told == ["200"] * AGENT + ["503"] * (20 - AGENT)
        assert groove.status().connections == AGENT
        assert await ask(HEALTH, groove.url) == "200 b'{\"ok\":true}'\n"


async def test_an_agent_of_another_daemon_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    async with (
        open_test_groove(tmp_path / "one") as groove,
        open_test_groove(tmp_path / "two") as other,
    ):
        await other.spawn(AgentSpec(role="idle", argv=["sleep", "600"]))
        program = "tell('told', *call(sys.argv[1], 'GET', '/api/agents'))"
        view = await groove.spawn(agent(program, other.url, interactive=True))
        assert (await wait_for_line(groove, view.id, "told")).startswith("told 403")


# What an agent may do


EVERYTHING = """
import json
url, mine, other = os.environ["GROOVE_URL"], os.environ["GROOVE_AGENT"], sys.argv[2]
for method, path, body, status in json.loads(sys.argv[1]):
    path = path.replace("MINE", mine).replace("OTHER", other)
    body = body.replace("MINE", mine).replace("OTHER", other)
    got, text = call(url, method, path, body.encode())
    if got != status:
        tell("wrong:", method, path, body, got, text[:200])
tell("websocket", call(url, "GET", "/ws", upgrade=True)[0])
tell("end")
"""

ASK = '"operation": "write", "path": "a"'
KNOCK = f"{{{ASK}}}"


def naming(agent: str) -> str:
    return f'{{"agent": "{agent}", {ASK}}}'


def attempts() -> list[tuple[str, str, str, int]]:
    """Every route with an agent's own id, another's, and claims to be somebody else."""
    wanted: list[tuple[str, str, str, int]] = []
    allowed = {
        ("GET", "/api/health"): 200,
        ("GET", "/api/status"): 200,
        ("GET", "/api/agents/{id}/output"): 200,
        ("POST", "/api/knock"): 400,  # without a body
        ("POST", "/api/coordination/declare"): 400,
        ("POST", "/api/coordination/complete"): 400,
    }
    for route in ROUTES:
        status = allowed.pop((route.method, route.path), 403)
        wanted.append((route.method, PARAMETER.sub("MINE", route.path), "", status))
        if "{" in route.path:
            wanted.append((route.method, PARAMETER.sub("OTHER", route.path), "", 403))
            wanted.append((route.method, PARAMETER.sub("nobody", route.path), "", 403))
    assert not allowed
    knock, declare = "/api/knock", "/api/coordination/declare"
    hook = json.dumps(
        {"hook_event_name": "PreToolUse", "tool_name": "Write", "tool_input": {"file_path": "a"}}
    )
    return [
        *wanted,
        ("POST", knock, KNOCK, 200),
        ("POST", knock, naming("MINE"), 200),
        ("POST", knock, naming("me"), 200),
        ("POST", knock + "?agent=MINE", KNOCK, 200),
        ("POST", knock + "?agent=MINE", hook, 200),
        ("POST", knock, naming("OTHER"), 403),
        ("POST", knock, naming("idle-1"), 403),
        ("POST", knock, naming("owner"), 403),
        ("POST", knock + "?agent=OTHER", KNOCK, 403),
        ("POST", knock + "?agent=MINE", naming("OTHER"), 403),
        ("POST", knock + "?agent=OTHER", naming("MINE"), 403),
        ("POST", knock + "?agent=OTHER", hook, 403),
        ("POST", declare, '{"agent": "OTHER", "paths": ["b"]}', 403),
        ("POST", declare, '{"paths": ["b"]}', 200),
        ("POST", "/api/coordination/complete", '{"agent": "OTHER"}', 403),
        ("POST", "/api/coordination/complete", "{}", 200),
        ("POST", "/api/agents", '{"role": "r", "argv": ["true"]}', 403),
        ("PATCH", "/api/agents/MINE", '{"name": "x"}', 403),
        ("GET", "/api/nothing", "", 404),
    ]


async def test_an_agent_gets_nowhere_but_where_it_may(tmp_path: Path) -> None:
    async with open_test_groove(tmp_path) as groove:
        idle = await groove.spawn(
            AgentSpec(role="idle", argv=["sleep", "600"], scope=["z"], prompt="secret")
        )
        spec = agent(
            EVERYTHING, json.dumps(attempts()), idle.id, scope=["a"], name="me", interactive=True
        )
        view = await groove.spawn(spec)
        before = [(each.id, each.state, each.name, each.scope) for each in groove.agents()]
        await wait_for_line(groove, view.id, "end")
        lines = await lines_of(groove, view.id)
        assert lines == ["websocket 403", "end"]
        assert [(each.id, each.state, each.name, each.scope) for each in groove.agents()] == before
        for record in records(groove, "knock.granted") + records(groove, "knock.denied"):
            assert (record["actor"], record["agent"]) == (f"agent:{view.id}", view.id)
        assert {each["agent"] for each in records(groove, "lease.declare")} == {view.id}


async def test_refusals_do_not_fill_the_log(tmp_path: Path) -> None:
    program = """
url = os.environ["GROOVE_URL"]
for _ in range(200):
    assert call(url, "GET", "/api/audit")[0] == 403
tell("end")
"""
    async with open_test_groove(tmp_path) as groove:
        view = await groove.spawn(agent(program, interactive=True))
        began = trio.current_time()
        await wait_for_line(groove, view.id, "end")
        seconds = trio.current_time() - began
    found = records(groove, "access.refuse")
    assert len(found) <= seconds + 3
    again = sum(each["detail"].get("again", 0) for each in found)
    assert again + sum("path" in each["detail"] for each in found) == 200
    assert {each["actor"] for each in found} == {f"agent:{view.id}"}


async def test_the_owner_may_knock_for_an_agent_and_the_record_says_who_did(tmp_path: Path) -> None:
    async with open_test_groove(tmp_path) as groove:
        view = await groove.spawn(AgentSpec(role="idle", argv=["sleep", "600"], scope=["a"]))
        body = naming(view.id).encode()
        program = f"tell(*call(sys.argv[1], 'POST', '/api/knock', {body!r}))"
        assert (await ask(program, groove.url)).startswith("200 ")
        (record,) = records(groove, "knock.granted")
        assert (record["actor"], record["agent"]) == ("owner", view.id)
        assert record["detail"]["onBehalf"] is True


async def test_the_owner_must_name_an_agent(tmp_path: Path) -> None:
    async with open_test_groove(tmp_path) as groove:
        for target in ("knock", "coordination/declare", "coordination/complete"):
            body = b'{"path": "a", "operation": "write", "paths": ["a"]}'
            program = f"tell(*call(sys.argv[1], 'POST', '/api/{target}', {body!r}))"
            assert (await ask(program, groove.url)).startswith("400 ")


# Marks


def test_a_mark_is_inherited_and_read() -> None:
    marks = Marks()
    with subprocess.Popen(
        [*PYTHON, "-c", "input()\nimport os\nos.fork() or input()"], stdin=subprocess.PIPE
    ) as child:
        assert marks.read(child.pid) is False
        marks.put(child.pid, AgentId("3fa9c21e"))
        assert marks.whole
        assert marks.read(child.pid) == "3fa9c21e"
        child.kill()


@only_root
def test_a_mark_cannot_be_taken_off_or_changed_without_root() -> None:
    program = """
import os, resource, sys
sys.stdin.readline()
os.setresgid(65534, 65534, 65534), os.setresuid(65534, 65534, 65534)
LOCKS, RSS = 10, resource.RLIMIT_RSS
mine = resource.getrlimit(LOCKS)[1], resource.getrlimit(RSS)[1]
done = []
for step in (-5, 5, 1 << 33):
    for locks, rss in ((mine[0] - step, mine[1] + step), (-1, -1)):
        try:
            resource.setrlimit(RSS, (rss, rss))
            resource.setrlimit(LOCKS, (locks, locks))
            done.append((locks, rss))
        except (OSError, ValueError):
            pass
print(done, flush=True)
sys.stdin.read()
"""
    marks = Marks()
    with subprocess.Popen(
        [*PYTHON, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        marks.put(child.pid, AgentId("3fa9c21e"))
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "[]\n"
        # What it did manage to lower spoils the mark: no agent's, and not unmarked either.
        assert marks.read(child.pid) in ("3fa9c21e", True)
        child.kill()


def test_marks_of_groove_in_groove_are_told_apart() -> None:
    outer = Marks()
    with subprocess.Popen([*PYTHON, "-c", "input()"], stdin=subprocess.PIPE) as child:
        outer.put(child.pid, AgentId("00000001"))
        inner = Marks(own=read_limits(child.pid))
        assert inner.read(child.pid) is False
        inner.put(child.pid, AgentId("ffffffff"))
        assert inner.whole
        assert inner.read(child.pid) == "ffffffff"
        assert outer.read(child.pid) is True
        child.kill()


@pytest.mark.parametrize("number", ["00000000", "00000001", "80000000", "ffffffff"])
def test_every_id_can_be_marked(number: str) -> None:
    marks = Marks()
    with subprocess.Popen([*PYTHON, "-c", "input()"], stdin=subprocess.PIPE) as child:
        marks.put(child.pid, AgentId(number))
        assert marks.read(child.pid) == number
        child.kill()


@contextlib.contextmanager
def sleeping(**how: bool) -> Iterator[int]:
    with subprocess.Popen(["sleep", "600"], **how) as process:
        try:
            yield process.pid
        finally:
            process.kill()


async def test_an_agents_process_that_the_census_mistook_shares_no_socket_unseen() -> None:
    census = Census()
    seeker = Seeker(census)
    with line() as (_, client), sleeping(start_new_session=True) as idle:
        inode = os.fstat(client.fileno()).st_ino
        census.enroll(AgentId("00000001"), idle)
        await census.refresh()
        assert await seeker.whose(inode) is None  # from now on, this process is asked first
        os.set_inheritable(client.fileno(), True)
        with sleeping(close_fds=False) as mistaken:
            await census.refresh()
            assert await seeker.whose(inode) is None
            census.kinship.know([AgentId("00000002")])
            census.marks.put(mistaken, AgentId("00000002"))
            assert census.last_members(AgentId("00000002")) == []
            assert await seeker.whose(inode) == "00000002"
