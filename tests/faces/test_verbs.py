"""The verbs against a running daemon: output, JSON shapes, exit codes."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import msgspec
import pytest

from groove_trio.words.agents import AgentView
from groove_trio.words.audit import Verification
from groove_trio.words.daemon import ProviderView, Status
from groove_trio.words.events import Envelope
from groove_trio.words.leases import Explanation, Lease, LocksView
from groove_trio.words.output import OutputLine

Daemon = Any  # of conftest.py, which cannot be imported
ANSI = re.compile(r"\x1b")


def spawn(daemon: Daemon, name: str, *options: str, argv: tuple[str, ...]) -> AgentView:
    if "--scope" not in options:
        options = (*options, "--read-only")
    done = daemon("spawn", "--json", "--name", name, *options, "--", *argv)
    assert done.code == 0, done.err
    return msgspec.convert(done.json, AgentView)


def view(daemon: Daemon, agent: str) -> AgentView:
    views = msgspec.convert(daemon("agents", "--json").json, list[AgentView])
    return next(each for each in views if each.id == agent)


def until_state(daemon: Daemon, agent: str, state: str) -> AgentView:
    end = time.monotonic() + 30
    while (found := view(daemon, agent)).state != state:
        assert time.monotonic() < end, found
    return found


def test_status_tells_people_and_programs(daemon: Daemon) -> None:
    told = msgspec.convert(daemon("status", "--json").json, Status)
    assert told.url == daemon.url
    assert re.search(rf"^process +{told.pid}$", daemon("status").out, re.MULTILINE)


def test_spawn_takes_every_field(daemon: Daemon) -> None:
    done = daemon(
        "spawn", "--json", "--role", "tester", "--name", "every-field", "--provider", "command",
        "--scope", "every/a/**", "--scope", "every/b.txt", "--prompt-file", "-",
        "--permission", "full", "--cwd", "src", "--env", "GREETING=hello=you",
        "--containment", "hooks", "--restart", "on-failure", "--restart-first", "0.5",
        "--restart-cap", "2", "--restart-jitter", "0", "--restart-max", "3",
        "--restart-period", "60", "--restart-stable", "5", "--grace", "1", "--",
        "sh", "-c", 'cat; echo " $GREETING $PWD"',
        stdin="the prompt",
    )  # fmt: skip
    assert done.code == 0, done.err
    told = msgspec.convert(done.json, AgentView)
    assert (told.role, told.name, told.permission) == ("tester", "every-field", "full")
    assert told.scope == ["every/a/**", "every/b.txt"]
    assert (told.cwd, told.restart_mode, told.containment) == ("src", "on-failure", "hooks")
    until_state(daemon, told.id, "completed")
    assert daemon("logs", told.id).out.split() == [
        "the", "prompt", "hello=you", f"{daemon.project}/src"
    ]  # fmt: skip


def test_spawn_tells_people_what_may_be_written(daemon: Daemon) -> None:
    done = daemon("spawn", "--name", "told", "--scope", "told/**", "--", "true")
    assert re.fullmatch(
        r"Started told \([0-9a-f]{8}\), pid \d+; it may write told/\*\*, held by \w+\n", done.out
    )
    done = daemon("spawn", "--name", "told-less", "--read-only", "--", "true")
    assert "; it may write nothing, held by " in done.out


def test_spawn_refused_for_overlap_names_a_path(daemon: Daemon) -> None:
    spawn(daemon, "holder", "--scope", "held/**", argv=("sleep", "60"))
    done = daemon("spawn", "--scope", "held/*.html", "--", "true")
    assert done.code == 3
    assert "held/" in done.err
    problem = json.loads(daemon("spawn", "--json", "--scope", "held/x", "--", "true").err)
    assert problem["witness"] == "held/x"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--scope", "../x"), 2),
        (("--cwd", ".."), 2),
        (("--provider", "nobody"), 2),
        (("--role", "a b"), 2),
        (("--role", "x" * 51), 2),
        (("--prompt", "x" * 50_001), 2),
        (("--restart", "always", "--restart-max", "1001"), 2),
        (("--env", "1X=y"), 2),
    ],
    ids=lambda value: "" if isinstance(value, int) else value[1][:12],
)
def test_spawn_says_what_is_wrong(daemon: Daemon, options: tuple[str, ...], code: int) -> None:
    if "--scope" not in options:
        options = (*options, "--read-only")
    done = daemon("spawn", *options, "--", "true")
    assert done.code == code, done.err
    assert done.out == ""
    assert 1 <= len(done.err.splitlines()) <= 2


def test_spawn_of_a_missing_program_says_so(daemon: Daemon) -> None:
    done = daemon("spawn", "--read-only", "--", "/no/such/program")
    assert done.code == 1
    assert "/no/such/program" in done.err


def test_agents_lists_them_in_plain_columns(daemon: Daemon) -> None:
    told = spawn(daemon, "listed", argv=("sleep", "60"))
    done = daemon("agents")
    header, *rows = done.out.splitlines()
    assert header.split()[:4] == ["ID", "NAME", "ROLE", "STATE"]
    (row,) = [each for each in rows if each.startswith(told.id)]
    assert row.split()[:4] == [told.id, "listed", "worker", "running"]
    assert not ANSI.search(done.out)
    assert not any(each.endswith(" ") for each in done.out.splitlines())


def test_agents_on_a_terminal_are_coloured_unless_objected(daemon: Daemon) -> None:
    spawn(daemon, "coloured", argv=("sleep", "60"))

    def on_terminal(**variables: str) -> str:
        ours, theirs = pty.openpty()
        environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "200"} | variables
        process = subprocess.Popen(
            [*daemon.command, "agents"], cwd=daemon.project, stdout=theirs, env=environment
        )
        os.close(theirs)
        told = b""
        try:
            while chunk := os.read(ours, 65_536):
                told += chunk
        except OSError:
            pass  # how a terminal ends on Linux
        os.close(ours)
        assert process.wait(30) == 0
        return told.decode()

    assert "\x1b[32mrunning" in on_terminal()
    assert "\x1b[32m" not in on_terminal(NO_COLOR="1")


def test_agents_are_watched_on_a_terminal(daemon: Daemon) -> None:
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "200", "LINES": "60"}
    process = subprocess.Popen(
        [*daemon.command, "agents", "--watch"], cwd=daemon.project, stdout=theirs, env=environment
    )
    os.close(theirs)
    told = b""
    while b"REASON" not in told:
        told += os.read(ours, 65_536)
    spawn(daemon, "watched", argv=("sleep", "60"))
    while b"watched" not in told:
        told += os.read(ours, 65_536)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    os.close(ours)


def test_agent_goes_by_id_name_and_the_start_of_either(daemon: Daemon) -> None:
    told = spawn(daemon, "findable-one", argv=("echo", "here"))
    until_state(daemon, told.id, "completed")
    for key in (told.id, told.id[:7], "findable-one", "findable-o"):
        assert daemon("logs", key).out == "here\n"
    spawn(daemon, "findable-two", argv=("true",))
    several = daemon("logs", "findable")
    assert several.code == 2
    assert "findable-one" in several.err
    assert "findable-two" in several.err
    nobody = daemon("logs", "zz")
    assert nobody.code == 1
    assert "groove-trio agents" in nobody.err


def test_logs_shows_all_or_the_last_lines(daemon: Daemon) -> None:
    told = spawn(daemon, "writer", argv=("seq", "2500"))
    until_state(daemon, told.id, "completed")
    assert daemon("logs", "writer").out.split() == [str(n) for n in range(1, 2501)]
    assert daemon("logs", "-n", "2", "writer").out == "2499\n2500\n"
    assert daemon("logs", "-n", "0", "writer").out == ""
    lines = msgspec.convert(daemon("logs", "--json", "-n", "3", "writer").lines, list[OutputLine])
    assert [(line.seq, line.text) for line in lines] == [(n, str(n)) for n in range(2498, 2501)]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d [\d:]{8}  2500\n", daemon("logs", "-tn1", "writer").out)


def test_logs_follows_until_the_agent_ends(daemon: Daemon) -> None:
    script = "for i in 1 2 3; do echo line $i; sleep 0.2; done; echo end"
    spawn(daemon, "followed", argv=("sh", "-c", script))
    done = daemon("logs", "-f", "followed")
    assert done.code == 0
    assert done.out == "line 1\nline 2\nline 3\nend\n"
    assert daemon("logs", "-f", "-n", "1", "followed").out == "end\n"


def test_logs_gives_the_terminal_no_orders(daemon: Daemon) -> None:
    script = r"printf '\033[31mred\033[0m \033]0;title\007 \033[2J tab\there\r\n'"
    told = spawn(daemon, "rude", argv=("sh", "-c", script))
    until_state(daemon, told.id, "completed")
    out = daemon("logs", "rude").out
    assert out == "red \\x1b]0;title\\x07 \\x1b[2J tab\there\n"
    (line,) = daemon("logs", "--json", "rude").lines
    assert "\x1b[31mred" in line["text"]


def test_instruct_hands_text_over(daemon: Daemon) -> None:
    told = spawn(daemon, "listener", "--interactive", argv=("head", "-n", "2"))
    assert daemon("instruct", "listener", "first").code == 0
    assert daemon("instruct", "listener", "-", stdin="second").code == 0
    until_state(daemon, told.id, "completed")
    assert daemon("logs", "listener").out == "first\nsecond\n"
    assert daemon("instruct", "listener", "third").code == 3


def test_kill_restart_and_remove(daemon: Daemon) -> None:
    told = spawn(daemon, "mortal", "--grace", "5", argv=("sleep", "60"))
    killed = daemon("kill", "mortal")
    assert killed.code == 0
    assert killed.out.startswith(f"Stopped mortal ({told.id}), now stopped")
    again = msgspec.convert(daemon("restart", "mortal", "--json").json, AgentView)
    assert again.state == "running"
    assert again.pid != told.pid
    assert daemon("remove", "mortal").code == 3  # it runs
    assert daemon("kill", "mortal", "--grace", "0", "--json").json["state"] == "stopped"
    assert daemon("resume", "mortal").code == 3  # it is not interrupted
    assert daemon("remove", "mortal").code == 0
    assert daemon("kill", "mortal").code == 1  # forgotten


def test_explain_counts_from_the_current_directory(daemon: Daemon) -> None:
    spawn(daemon, "explained", "--scope", "src/explained/**", argv=("sleep", "60"))
    inside = daemon.project / "src" / "explained"
    inside.mkdir()
    for cwd, path in (
        (daemon.project, "src/explained/x"),
        (inside, "x"),
        (inside, "./../explained/x"),
    ):
        told = msgspec.convert(daemon("explain", path, "--json", cwd=cwd).json, Explanation)
        assert (told.path, told.owner_name) == ("src/explained/x", "explained")
    assert "explained" in daemon("explain", "x", cwd=inside).out
    told = daemon("explain", ".git/hooks/x")
    assert told.code == 0
    assert ".git/hooks/**" in told.out


def test_locks_declare_and_complete(daemon: Daemon) -> None:
    one = spawn(daemon, "lease-one", argv=("sleep", "60"))
    two = spawn(daemon, "lease-two", argv=("sleep", "60"))
    lease = msgspec.convert(
        daemon("declare", "--agent", "lease-one", "--ttl", "60", "--reason", "why not",
               "CHANGELOG.md", "--json").json,
        Lease,
    )  # fmt: skip
    assert (lease.agent, lease.paths) == (one.id, ["CHANGELOG.md"])
    refused = daemon("declare", "--agent", two.id, "CHANGELOG.md")
    assert refused.code == 3
    assert "CHANGELOG.md" in refused.err
    held = msgspec.convert(daemon("locks", "--json").json, LocksView)
    assert lease in held.leases
    told = daemon("locks")
    assert lease.id in told.out
    assert "why not" in told.out
    assert daemon("complete", "--agent", "lease-two", lease.id).code == 1
    assert daemon("complete", "--agent", "lease-one", lease.id).code == 0
    # An agent's own processes name themselves by their environment.
    mine = {"GROOVE_AGENT": two.id, "GROOVE_URL": daemon.url}
    assert daemon("declare", "CHANGELOG.md", **mine).code == 0
    given = daemon("complete", "--json", **mine)
    assert [each["agent"] for each in given.json] == [two.id]
    assert "no lease" in daemon("complete", **mine).out


def test_audit_lists_and_verifies(daemon: Daemon, tmp_path: Any) -> None:
    told = spawn(daemon, "audited", argv=("true",))
    until_state(daemon, told.id, "completed")
    records = daemon("audit", "--json", "-n", "0").lines
    assert [each["seq"] for each in records] == list(range(1, len(records) + 1))
    mine = daemon("audit", "--json", "--agent", told.id).lines
    assert {each["agent"] for each in mine} == {told.id}
    action = mine[0]["action"]
    some = daemon("audit", "--json", "--action", action, "-n", "1").lines
    assert [each["action"] for each in some] == [action]
    after = daemon("audit", "--json", "--after", str(mine[0]["seq"])).lines
    assert after[0]["seq"] == mine[0]["seq"] + 1
    assert told.id in daemon("audit").out
    verified = daemon("audit", "verify", "--json")
    assert verified.code == 0
    assert msgspec.convert(verified.json, Verification).records >= len(records)


def test_audit_verify_needs_no_daemon_and_finds_a_change(daemon: Daemon, tmp_path: Any) -> None:
    told = spawn(daemon, "evidence", argv=("true",))
    until_state(daemon, told.id, "completed")
    log = tmp_path / ".groove" / "audit"
    shutil.copytree(daemon.project / ".groove" / "audit", log)
    assert daemon("audit", "verify", cwd=tmp_path).code == 0
    segment = min(log.glob("*.jsonl"))
    segment.write_bytes(segment.read_bytes().replace(b"owner", b"ownes", 1))
    bad = daemon("audit", "verify", cwd=tmp_path)
    assert bad.code == 5
    assert "first bad line" in bad.out
    found = daemon("-p", str(tmp_path), "audit", "verify", "--json")
    assert found.code == 5
    assert not msgspec.convert(found.json, Verification).ok


def test_providers_are_listed(daemon: Daemon) -> None:
    names = {each.name for each in msgspec.convert(daemon("providers", "--json").json,
                                                   list[ProviderView])}  # fmt: skip
    assert {"command", "demo"} <= names
    assert "command" in daemon("providers").out


# What goes on until somebody ends it


def _streaming(daemon: Daemon, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*daemon.command, *arguments],
        cwd=daemon.project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_events_tell_what_happens(daemon: Daemon) -> None:
    process = _streaming(daemon, "events", "--json")
    assert process.stdout is not None
    first = msgspec.json.decode(process.stdout.readline(), type=Envelope)
    assert type(first.event).__name__ == "Snapshot"
    told = spawn(daemon, "eventful", argv=("echo", "hello"))
    seen = []
    while "AgentStateChanged" not in seen or "OutputAppended" not in seen:
        envelope = msgspec.json.decode(process.stdout.readline(), type=Envelope)
        if getattr(envelope.event, "id", None) == told.id:
            seen.append(type(envelope.event).__name__)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == 130


@pytest.mark.parametrize(
    "arguments",
    [("events",), ("logs", "-f", "endless"), ("audit", "--follow", "-n", "1")],
    ids=lambda value: value[0],
)
def test_interrupt_ends_a_stream_quietly(daemon: Daemon, arguments: tuple[str, ...]) -> None:
    if not any(each["name"] == "endless" for each in daemon("agents", "--json").json):
        spawn(daemon, "endless", argv=("sh", "-c", "echo begun; sleep 600"))
    process = _streaming(daemon, *arguments)
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == 130


@pytest.mark.parametrize("arguments", [("logs", "long"), ("logs", "--json", "long")], ids=" ".join)
def test_reader_that_leaves_is_no_error(daemon: Daemon, arguments: tuple[str, ...]) -> None:
    if not any(each["name"] == "long" for each in daemon("agents", "--json").json):
        told = spawn(daemon, "long", argv=("seq", "100000"))
        until_state(daemon, told.id, "completed")
    process = _streaming(daemon, *arguments)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(30) == 141


@pytest.mark.parametrize(
    "arguments",
    [("events",), ("logs", "-f", "silent"), ("audit", "--follow", "-n", "1")],
    ids=lambda value: value[0],
)
def test_stream_ends_with_its_reader_though_nothing_more_happens(
    daemon: Daemon, arguments: tuple[str, ...]
) -> None:
    if not any(each["name"] == "silent" for each in daemon("agents", "--json").json):
        spawn(daemon, "silent", argv=("sh", "-c", "echo begun; sleep 600"))
    process = _streaming(daemon, *arguments)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(30) == 141
    assert process.stderr.read() == ""
    process.stderr.close()


def test_audit_follows(daemon: Daemon) -> None:
    process = _streaming(daemon, "audit", "--follow", "--json", "-n", "1")
    assert process.stdout is not None
    last = json.loads(process.stdout.readline())["seq"]
    spawn(daemon, "newcomer", argv=("true",))
    assert json.loads(process.stdout.readline())["seq"] == last + 1
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)


def test_output_that_cannot_be_written_is_an_error(daemon: Daemon) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*daemon.command, "status"],
            cwd=daemon.project,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_stopped_daemon_is_not_waited_for_for_ever(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = daemon("status", "--json").json["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        program = (
            "import groove_trio.cli.verb as verb\n"
            "verb.run.__defaults__ = (0.3,)\n"
            "from groove_trio.cli import main\n"
            "main(['status'], prog_name='groove-trio')"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=daemon.project,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        os.kill(pid, signal.SIGCONT)
    assert done.returncode == 4
    assert "did not answer within 0.3 s" in done.stderr
