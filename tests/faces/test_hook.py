"""The hook as a process: it ends in 0 only where the daemon said yes in so many words."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groove_trio import hook

SCRIPT = Path(hook.__file__)
AGENT = "3fa9c21e"
ASKED = json.dumps(
    {"hook_event_name": "PreToolUse", "tool_name": "Write", "tool_input": {"file_path": "a.py"}}
)
DECISION = {
    "hookEventName": "PreToolUse",
    "permissionDecision": "allow",
    "permissionDecisionReason": "granted by src/**",
}
YES = {"allow": True, "reason": "granted by src/**", "hookSpecificOutput": DECISION}

Answering = Callable[[bytes], str]


def _http(body: object, status: str = "200 OK", extra: str = "") -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{extra}"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


def _decided(permission: str) -> bytes:
    return _http(YES | {"hookSpecificOutput": DECISION | {"permissionDecision": permission}})


class Liar:
    """Listens, reads one request, answers the same bytes to everyone, and closes or not."""

    def __init__(self, answer: bytes, *, closes: bool = True) -> None:
        self.requests: list[bytes] = []
        self._answer, self._closes = answer, closes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._kept: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.requests.append(_read_request(connection))
            with contextlib.suppress(OSError):
                connection.sendall(self._answer)
            if self._closes:
                connection.close()
            else:
                self._kept.append(connection)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self._kept:
            connection.close()


def _read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65_536)
        if not chunk:
            return data
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65_536)
    return head + b"\r\n\r\n" + body


@pytest.fixture
def lie() -> Iterator[Callable[..., Liar]]:
    """Makes listeners that answer what they are told to."""
    liars: list[Liar] = []

    def make(answer: bytes, *, closes: bool = True) -> Liar:
        liars.append(Liar(answer, closes=closes))
        return liars[-1]

    yield make
    for liar in liars:
        liar.close()


def run(
    url: str | None, *arguments: str, stdin: str = ASKED, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {"GROOVE_AGENT": AGENT} | variables
    if url is not None:
        environment["GROOVE_URL"] = url
    return subprocess.run(
        [sys.executable, "-I", "-S", str(SCRIPT), *arguments],
        input=stdin,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def assert_blocked(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == hook.BLOCKED
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_hook_allows_what_the_daemon_allows(lie: Callable[..., Liar]) -> None:
    liar = lie(_http(YES))
    done = run(liar.url)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"hookSpecificOutput": DECISION}
    assert done.stderr == ""


def test_hook_passes_its_input_on_as_it_is(lie: Callable[..., Liar]) -> None:
    liar = lie(_http(YES))
    odd = '{"hook_event_name": "BeforeTool",   "tool_input": {"é": "\\u0000"}, "x": [1e3]}'
    run(liar.url, stdin=odd)
    head, _, body = liar.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(f"POST /api/knock?agent={AGENT} HTTP/1.1\r\n".encode())
    assert b"Content-Type: application/json\r\n" in head
    assert body.decode() == odd


def test_hook_tells_the_reason_of_a_denial(lie: Callable[..., Liar]) -> None:
    no = {"allow": False, "reason": "a.py belongs to \x1b[31mb. Declare a lease.", "decisions": []}
    done = run(lie(_http(no)).url)
    assert_blocked(done, "a.py belongs to", "Declare a lease.")
    assert "\x1b" not in done.stderr


def test_hook_blocks_when_no_daemon_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert_blocked(run(f"http://127.0.0.1:{port}"), "no daemon answers", "refused")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        _http(YES)[:40],
        _http(YES)[:-5],
        _http(YES)[: len(_http(YES)) // 2],
    ],
    ids=["nothing", "half-a-head", "all-but-the-end", "half"],
)
@pytest.mark.parametrize("closes", [True, False], ids=["closes", "hangs"])
def test_hook_blocks_when_the_answer_does_not_come(
    lie: Callable[..., Liar], answer: bytes, closes: bool
) -> None:
    started = time.monotonic()
    done = run(lie(answer, closes=closes).url, "--deadline", "0.3")
    assert_blocked(done)
    assert time.monotonic() - started < 10


LIES = {
    "garbage": b"\x00\xff" * 500,
    "another-protocol": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "old-protocol": b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    "bare-newlines": _http(YES).replace(b"\r\n", b"\n"),
    "interim-first": b"HTTP/1.1 100 Continue\r\n\r\n" + _http(YES),
    "trailing-bytes": _http(YES) + b"!",
    "two-answers": _http(YES) + _http(YES),
    "two-lengths": _http(YES, extra="content-length: 5\r\n"),
    "chunked": _http(YES, extra="transfer-encoding: chunked\r\n"),
    "no-length": b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(YES).encode(),
    "html": _http(b"<html>allow: true</html>"),
    "not-utf-8": _http(b'{"allow": true, "reason": "\xff"}'),
    "utf-16": _http(json.dumps(YES).encode("utf-16")),
    "nan": _http(json.dumps(YES)[:-1].encode() + b', "x": NaN}'),
    "deep": _http(b"[" * 100_000),
    "deep-object": _http(b'{"allow":' * 10_000 + b"true" + b"}" * 10_000),
    "long-number": _http(b'{"allow": ' + b"1" * 10_000 + b"}"),
    "oversized": _http(YES | {"reason": "x" * 2 * hook.MAX_ANSWER}),
    "list": _http([YES]),
    "true": _http(True),
    "null": _http(None),
    "empty-object": _http({}),
    "allow-1": _http(YES | {"allow": 1}),
    "allow-string": _http(YES | {"allow": "true"}),
    "allow-null": _http(YES | {"allow": None}),
    "allow-list": _http(YES | {"allow": [True]}),
    "allow-missing": _http({"hookSpecificOutput": DECISION}),
    "allow-twice": _http(b'{"allow": false, "allow": true, "hookSpecificOutput": '
                         + json.dumps(DECISION).encode() + b"}"),
    "no-decision": _http({"allow": True, "reason": "yes"}),
    "decision-is-text": _http(YES | {"hookSpecificOutput": "allow"}),
    "decision-denies": _decided("deny"),
    "decision-asks": _decided("ask"),
    "denied": _http(YES | {"allow": False}),
    "created": _http(YES, "201 Created"),
    "redirect": _http(YES, "302 Found"),
    "refused": _http(YES, "403 Forbidden"),
    "busy": _http(YES, "503 Service Unavailable"),
    "status-text": _http(YES, "20O OK"),
    "status-long": _http(YES, "2000 OK"),
    "status-only": b"HTTP/1.1 200",
}  # fmt: skip


@pytest.mark.parametrize("lied", LIES)
def test_hook_blocks_when_the_daemon_lies(lie: Callable[..., Liar], lied: str) -> None:
    assert_blocked(run(lie(LIES[lied]).url))


def test_hook_tells_why_the_daemon_refused_the_question(lie: Callable[..., Liar]) -> None:
    problem = {"type": "urn:groove-trio:problem:busy", "detail": "the queue is full"}
    assert_blocked(run(lie(_http(problem, "503 x")).url), "503", "the queue is full")


@pytest.mark.parametrize(
    "url",
    [
        None,
        "",
        "127.0.0.1:31415",
        "https://127.0.0.1:31415",
        "http://127.0.0.1",
        "http://127.0.0.1:0",
        "http://127.0.0.1:65536",
        "http://127.0.0.1:٣١٤",
        "http://127.0.0.1:1/x",
        "http://:1",
        "http://example.invalid:80",
        "http://localhost:80",
        "http://127.0.0.1\r\nx: y:80",
    ],
)
def test_hook_blocks_without_a_numeric_address(url: str | None) -> None:
    assert_blocked(run(url, "--deadline", "1"))


@pytest.mark.parametrize("agent", ["", "a b", "a\r\nX: y", "a&b=c", "é", "../x"])
def test_hook_blocks_without_an_agent(lie: Callable[..., Liar], agent: str) -> None:
    liar = lie(_http(YES))
    assert_blocked(run(liar.url, GROOVE_AGENT=agent), "GROOVE_AGENT")
    assert liar.requests == []


@pytest.mark.parametrize(
    "arguments",
    [["--deadline"], ["--deadline", "0"], ["--deadline", "-1"], ["--deadline", "nan"],
     ["--deadline", "inf"], ["--deadline", "61"], ["--deadline", "x"], ["--allow"],
     ["1", "2", "3"]],
)  # fmt: skip
def test_hook_blocks_on_a_wrong_call(lie: Callable[..., Liar], arguments: list[str]) -> None:
    assert_blocked(run(lie(_http(YES)).url, *arguments))


@pytest.mark.parametrize("stdin", ["", " \n", "x" * (hook.MAX_INPUT + 1)])
def test_hook_blocks_on_input_it_cannot_pass_on(lie: Callable[..., Liar], stdin: str) -> None:
    liar = lie(_http(YES))
    assert_blocked(run(liar.url, stdin=stdin), "input")
    assert liar.requests == []


def test_hook_blocks_when_its_output_is_not_taken(lie: Callable[..., Liar]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(SCRIPT)],
            input=ASKED.encode(),
            env={"GROOVE_AGENT": AGENT, "GROOVE_URL": lie(_http(YES)).url},
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == hook.BLOCKED
    assert done.stderr


def test_hook_blocks_when_nobody_reads_it(lie: Callable[..., Liar]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(SCRIPT)],
        input=ASKED.encode(),
        env={"GROOVE_AGENT": AGENT, "GROOVE_URL": lie(_http(YES)).url},
        stdout=writer,
        stderr=writer,
        check=False,
    )
    os.close(writer)
    assert done.returncode == hook.BLOCKED


def test_hook_is_bounded_when_its_input_never_ends(lie: Callable[..., Liar]) -> None:
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(SCRIPT), "--deadline", "0.2"],
        stdin=reader,
        env={"GROOVE_AGENT": AGENT, "GROOVE_URL": lie(_http(YES)).url},
        stderr=subprocess.PIPE,
    )
    assert process.communicate(timeout=20)[1].decode().count("no answer in time") == 1
    assert process.returncode == hook.BLOCKED
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_hook_blocks_when_it_is_told_to_end(lie: Callable[..., Liar], number: int) -> None:
    liar = lie(b"", closes=False)
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(SCRIPT), "--deadline", "30"],
        stdin=subprocess.PIPE,
        env={"GROOVE_AGENT": AGENT, "GROOVE_URL": liar.url},
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(ASKED.encode())
    process.stdin.close()
    process.stdin = None
    _until(lambda: bool(liar.requests))  # it waits for the answer now, its handlers in place
    process.send_signal(number)
    assert b"blocked" in process.communicate(timeout=20)[1]
    assert process.returncode == hook.BLOCKED


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


@given(st.binary(max_size=300), st.integers(0, 999))
def test_judge_never_lets_noise_through(content: bytes, status: int) -> None:
    with pytest.raises((hook.Fault, hook.Refusal)):
        hook._judge(status, content)  # noqa: SLF001 - the decision itself, without a process


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
        max_leaves=8,
    ),
    st.sampled_from(["allow", "hookSpecificOutput"]),
)
def test_judge_lets_no_other_value_pass_for_yes(value: object, key: str) -> None:
    answer = YES | {key: value}
    if answer == YES and value is not True:
        return  # 1 == True in Python; the JSON differs, and is covered by "allow-1"
    try:
        hook._judge(200, json.dumps(answer).encode())  # noqa: SLF001
    except (hook.Fault, hook.Refusal):
        return
    assert answer["allow"] is True
    assert isinstance(answer["hookSpecificOutput"], dict)
    assert answer["hookSpecificOutput"]["permissionDecision"] == "allow"


# Who listens


NOBODY = 65534
SQUATTER = f"""
import os, socket, sys
os.setgroups([])
os.setresgid({NOBODY}, {NOBODY}, {NOBODY})  # here, since another user may not run this Python
os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
server = socket.create_server((sys.argv[1], 0), family=family)
print(server.getsockname()[1], flush=True)
if sys.argv[2] == "accept":
    print(repr(server.accept()[0].recv(4096)), flush=True)
sys.stdin.read()
"""


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _family(host: str) -> socket.AddressFamily:
    if ":" not in host:
        return socket.AF_INET
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    return socket.AF_INET6


@pytest.mark.parametrize("how", ["listen", "accept"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_hook_says_nothing_to_another_users_listener(host: str, how: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can play another user")
    _family(host)
    command = [sys.executable, "-I", "-S", "-c", SQUATTER, host, how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as squatter:
        assert squatter.stdout is not None
        port = int(squatter.stdout.readline())
        assert_blocked(run(_url(host, port)), f"another user ({NOBODY})")
        if how == "accept":
            assert squatter.stdout.readline() == b"b''\n"
        squatter.kill()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_hook_speaks_to_our_own_listener_accepted_or_not(host: str) -> None:
    family = _family(host)
    with socket.create_server((host, 0), family=family) as listener, socket.socket(family) as ours:
        ours.connect(listener.getsockname()[:2])
        hook._check_listener(ours, family)  # noqa: SLF001 - the check itself, without a process
        with listener.accept()[0]:
            hook._check_listener(ours, family)  # noqa: SLF001


def test_hook_takes_a_listener_that_is_gone_for_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as ours:
        ours.connect(listener.getsockname())
        listener.accept()[0].close()
        listener.close()
        with pytest.raises(hook.Fault, match="nobody"):
            hook._check_listener(ours, socket.AF_INET)  # noqa: SLF001


def test_hook_knows_another_user_who_speaks_ipv4_in_ipv6() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can play another user")
    _family("::")
    program = SQUATTER.replace("family=family", "family=family, dualstack_ipv6=True")
    command = [sys.executable, "-I", "-S", "-c", program, "::", "accept"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as squatter:
        assert squatter.stdout is not None
        port = int(squatter.stdout.readline())
        assert_blocked(run(_url("127.0.0.1", port)), f"another user ({NOBODY})")
        assert squatter.stdout.readline() == b"b''\n"
        squatter.kill()


@pytest.mark.parametrize("told", [b"", bytes(87), bytes(200), b"\xff" * 200])
def test_hook_takes_an_answer_of_the_kernels_that_it_cannot_read_for_nobody(told: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(told or b"\0")
        for end in (hook._NOBODY, (1, b"1")):  # noqa: SLF001
            assert hook._user_of(ours, socket.AF_INET, (2, b"2"), end) is None  # noqa: SLF001
            theirs.send(told or b"\0")


# With a real daemon


def _spawned(daemon: Callable[..., Any], name: str, scope: str) -> dict[str, str]:
    view = daemon("spawn", "--json", "--name", name, "--scope", scope, "--", "sleep", "60").json
    return {"GROOVE_AGENT": view["id"]}


def test_hook_asks_the_daemon(daemon: Any) -> None:
    mine = _spawned(daemon, "hooked", "src/hooked/**")

    def ask(tool: str, path: str) -> subprocess.CompletedProcess[str]:
        body = {"hook_event_name": "PreToolUse", "tool_name": tool, "cwd": str(daemon.project),
                "tool_input": {"file_path": path, "content": "x" * 200_000}}  # fmt: skip
        return run(daemon.url, stdin=json.dumps(body), **mine)

    granted = ask("Write", f"{daemon.project}/src/hooked/a.py")
    assert granted.returncode == 0, granted.stderr
    assert json.loads(granted.stdout)["hookSpecificOutput"]["permissionDecision"] == "allow"
    assert_blocked(ask("Write", f"{daemon.project}/src/other.py"), "src/other.py")
    assert_blocked(ask("Edit", "/etc/passwd"))
    assert_blocked(ask("NoSuchTool", "src/hooked/a.py"))
    actions = [each["action"] for each in daemon("audit", "--json", "-n", "0").lines]
    assert any(action.startswith("knock") for action in actions)


def test_hook_of_an_unknown_agent_is_blocked(daemon: Any) -> None:
    assert_blocked(run(daemon.url, GROOVE_AGENT="00000000"))


@pytest.mark.parametrize("body", ["{}", "[]", "nonsense", '{"a": 1, "a": 2}', '{"__proto__": 1}'])
def test_hook_with_a_body_the_daemon_refuses_is_blocked(daemon: Any, body: str) -> None:
    mine = {"GROOVE_AGENT": daemon("spawn", "--json", "--read-only", "--", "true").json["id"]}
    assert_blocked(run(daemon.url, stdin=body, **mine))


def test_hook_of_a_plain_knock_has_no_decision_and_is_blocked(daemon: Any) -> None:
    mine = _spawned(daemon, "plain", "src/plain/**")
    assert_blocked(run(daemon.url, stdin='{"path": "src/plain/a", "operation": "write"}', **mine))


def test_hook_gets_its_answer_within_its_deadline_from_a_stopped_daemon(daemon: Any) -> None:
    pid = daemon("status", "--json").json["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        assert_blocked(run(daemon.url, "--deadline", "0.3"), "no answer in time")
    finally:
        os.kill(pid, signal.SIGCONT)
