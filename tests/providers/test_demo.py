from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from groove_trio.providers.base import Place, Provider
from groove_trio.providers.demo import SCRIPTED, DemoProvider
from groove_trio.words.agents import AgentSpec
from groove_trio.words.base import AgentId
from groove_trio.words.errors import BadRequest

PLACE = Place(
    project="/p", cwd="/p", agent=AgentId("00000001"), name="a", url="http://127.0.0.1:1", tmp="/t"
)


def test_demo_is_a_provider() -> None:
    assert isinstance(DemoProvider(), Provider)


def test_the_script_is_one_line_of_input() -> None:
    spec = AgentSpec(role="demo", provider="demo", prompt='[\n{"do": "print"}\n]')
    launch = DemoProvider().launch(spec, PLACE)
    assert launch.argv == (sys.executable, "-I", "-S", SCRIPTED)
    assert json.loads(launch.stdin) == [{"do": "print"}]
    assert launch.stdin.count(b"\n") == 1


@pytest.mark.parametrize("fields", [{}, {"prompt": " \n"}, {"prompt": "[]", "argv": ["x"]}])
def test_a_spec_that_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        DemoProvider().launch(AgentSpec(role="demo", provider="demo", **fields), PLACE)


# The script, as the process it is


@contextmanager
def daemon(answers: list[tuple[int, object]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Answers requests one after the other; tells its address and the bodies it got."""
    bodies: list[dict[str, Any]] = []
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for status, answer in answers:
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as stream:
                path = stream.readline().split()[1].decode()
                headers = {}
                while (line := stream.readline()) != b"\r\n":
                    name, _, value = line.decode().partition(":")
                    headers[name] = value.strip()
                body = json.loads(stream.read(int(headers["content-length"])))
                bodies.append({"": path, **headers, **body})
                data = json.dumps(answer).encode()
                head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(data)}\r\n\r\n".encode()
                connection.sendall(head + data)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}", bodies
    finally:
        thread.join(5)
        server.close()


def run(
    steps: object, cwd: Path, url: str = "http://127.0.0.1:1", more: str = ""
) -> subprocess.CompletedProcess[str]:
    env = {"GROOVE_URL": url, "GROOVE_AGENT": "00000001", "TMPDIR": str(cwd)}
    return subprocess.run(
        [sys.executable, "-I", "-S", SCRIPTED],
        input=json.dumps(steps) + "\n" + more,
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_a_granted_write_happens_after_its_knock(tmp_path: Path) -> None:
    with daemon([(200, {"allow": True, "reason": ""})]) as (url, bodies):
        done = run([{"do": "write", "path": "src/a.py", "text": "x"}], tmp_path, url)
    assert (done.stdout, done.returncode) == ("granted: wrote src/a.py\n", 0)
    assert (tmp_path / "src/a.py").read_text() == "x"
    [body] = bodies
    assert body[""] == "/api/knock"
    assert body["content-type"] == "application/json"
    assert body["host"] == url.removeprefix("http://")
    assert (body["agent"], body["operation"], body["path"]) == ("00000001", "create", "src/a.py")


@pytest.mark.parametrize("do", ["write", "append", "delete", "mkdir"])
def test_a_denied_change_does_not_happen(tmp_path: Path, do: str) -> None:
    (tmp_path / "a").write_text("before")
    path = "b" if do == "mkdir" else "a"
    with daemon([(200, {"allow": False, "reason": "not yours"})]) as (url, _):
        done = run([{"do": do, "path": path, "text": "x"}], tmp_path, url)
    assert done.stdout == f"denied: {path}: not yours\n"
    assert (tmp_path / "a").read_text() == "before"
    assert not (tmp_path / "b").exists()


def test_without_a_daemon_nothing_is_granted(tmp_path: Path) -> None:
    done = run([{"do": "write", "path": "a"}, {"do": "declare", "paths": ["b"]}], tmp_path)
    assert done.stdout.startswith("denied: a: the daemon does not answer")
    assert "refused: the daemon does not answer" in done.stdout
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "answer",
    [(200, {}), (200, {"allow": "yes", "reason": "?"}), (503, {"detail": "busy"}), (500, {})],
)
def test_only_a_plain_yes_is_a_grant(tmp_path: Path, answer: tuple[int, object]) -> None:
    with daemon([answer]) as (url, _):
        done = run([{"do": "write", "path": "a"}], tmp_path, url)
    assert done.stdout.startswith("denied: a: ")
    assert not (tmp_path / "a").exists()


def test_leases_are_told(tmp_path: Path) -> None:
    answers: list[tuple[int, object]] = [
        (200, {"paths": ["s.md"]}),
        (423, {"detail": "held by bob"}),
        (200, [{}]),
    ]
    lease = {"do": "declare", "paths": ["s.md"], "ttlS": 60}
    with daemon(answers) as (url, bodies):
        done = run([lease, lease, {"do": "complete"}], tmp_path, url)
    assert done.stdout.splitlines() == ["leased: s.md", "refused: held by bob", "returned: 1"]
    assert (bodies[0]["paths"], bodies[0]["ttlS"]) == (["s.md"], 60)


def test_prints_sleeps_reads_waits_and_exits(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    steps = [
        {"do": "print", "text": "n", "count": 2500},
        {"do": "print", "text": "oops", "stream": "err"},
        {"do": "sleep", "seconds": 0},
        {"do": "await", "path": "go"},
        {"do": "await", "path": "never", "seconds": 0},
        {"do": "read"},
        {"do": "read"},
        {"do": "exit", "code": 9},
        {"do": "print"},
    ]
    done = run(steps, tmp_path, more="hi\n")
    lines = done.stdout.splitlines()
    assert lines[:2500] == [f"n {number}" for number in range(1, 2501)]
    assert lines[2500:] == ["gave up: never", "read: hi", "end of input"]
    assert (done.stderr, done.returncode) == ("oops\n", 9)


def test_crashes_on_the_first_runs_only(tmp_path: Path) -> None:
    steps = [{"do": "crash", "code": 7, "first": 2}, {"do": "print", "text": "well"}]
    codes = [run(steps, tmp_path).returncode for _ in range(4)]
    assert codes == [7, 7, 0, 0]
    assert [run([{"do": "crash"}], tmp_path).returncode for _ in range(2)] == [1, 1]


@pytest.mark.parametrize("script", [5, [5], [{}], [{"do": "fly"}], [{"do": "sleep"}]])
def test_a_bad_script_is_an_error_and_not_a_traceback(tmp_path: Path, script: object) -> None:
    done = run(script, tmp_path)
    assert done.returncode == 64
    assert done.stderr.startswith("bad script: ")
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_grandchild_leaves_the_session_and_ignores_sigterm(tmp_path: Path) -> None:
    done = run([{"do": "grandchild", "seconds": 20}], tmp_path)
    pid = int(done.stdout.removeprefix("left behind: "))
    try:
        assert os.getsid(pid) != os.getsid(0)
        status = Path(f"/proc/{pid}/status").read_text()
        ignored = int(status.partition("SigIgn:")[2].split()[0], 16)
        assert ignored >> signal.SIGTERM - 1 & 1
    finally:
        os.kill(pid, signal.SIGKILL)


def test_it_starts_fast_because_it_imports_little() -> None:
    source = Path(SCRIPTED).read_text()
    code = f"import sys; exec({source!r}, {{'__name__': 'x'}}); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert not set(done.stdout.split()) & {"typing", "socket", "asyncio", "trio", "subprocess"}


def test_a_program_is_run_to_its_end_unasked(tmp_path: Path) -> None:
    steps = [
        {"do": "run", "argv": ["sh", "-c", "cat; echo made > made.txt; exit 3"]},
        {"do": "run", "argv": ["/no/such/program"]},
        {"do": "read"},
    ]
    done = subprocess.run(
        [sys.executable, "-I", "-S", SCRIPTED],
        input=json.dumps(steps) + "\nnot for the program\n",
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    first, second, third = done.stdout.splitlines()
    assert re.fullmatch(r"ran: sh as \d+, ended with 3", first)
    assert second == "not run: /no/such/program: No such file or directory"
    assert third == "read: not for the program"
    assert (tmp_path / "made.txt").read_text() == "made\n"
