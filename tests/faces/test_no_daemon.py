"""What the command line does where no daemon runs, and with wrong calls."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]

NEEDING_A_DAEMON = [
    ("status",),
    ("agents",),
    ("spawn", "--", "true"),
    ("logs", "x"),
    ("logs", "-f", "x"),
    ("instruct", "x", "y"),
    ("kill", "x"),
    ("restart", "x"),
    ("resume", "x"),
    ("remove", "x"),
    ("explain", "x"),
    ("locks",),
    ("declare", "--agent", "x", "y"),
    ("complete", "--agent", "x"),
    ("audit",),
    ("events",),
    ("providers",),
    ("stop",),
]


@pytest.mark.parametrize("arguments", NEEDING_A_DAEMON, ids=" ".join)
def test_verb_says_that_no_daemon_runs(cli: Cli, arguments: tuple[str, ...]) -> None:
    done = cli(*arguments)
    assert done.code == 4
    assert done.out == ""
    assert "groove-trio start" in done.err
    assert len(done.err.splitlines()) <= 2


@pytest.mark.parametrize("place", ["before", "after"])
def test_project_can_be_named_before_and_after_the_verb(
    cli: Cli, project: Path, tmp_path: Path, place: str
) -> None:
    named = ("-p", str(project))
    arguments = (*named, "stop") if place == "before" else ("stop", *named)
    done = cli(*arguments, cwd=tmp_path)
    assert done.code == 4
    assert str(project) in done.err


def test_error_with_json_is_a_problem_document(cli: Cli) -> None:
    done = cli("status", "--json")
    assert done.code == 4
    assert done.out == ""
    problem = json.loads(done.err)
    assert problem["type"] == "urn:groove-trio:problem:unreachable"
    assert "start one" in problem["detail"]


def test_address_of_the_environment_is_used(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    done = cli("status", GROOVE_URL=f"http://127.0.0.1:{port}")
    assert done.code == 4
    assert f"127.0.0.1:{port}" in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("kill",),
        ("status", "--nonsense"),
        ("spawn", "--permission", "root"),
        ("spawn", "--read-only", "--scope", "src/**"),
        ("spawn", "--prompt", "x", "--prompt-file", "-"),
        ("spawn", "--prompt-file", "absent"),
        ("spawn", "--env", "NOVALUE"),
        ("spawn", "--grace", "301"),
        ("logs", "-n", "-1", "x"),
        ("declare", "x"),
        ("declare", "--agent", "x"),
        ("declare", "--agent", "x", "--ttl", "0", "y"),
        ("agents", "--watch"),
        ("completion", "tcsh"),
        ("start", "--port", "65536"),
        ("audit", "nonsense"),
    ],
    ids=" ".join,
)
def test_wrong_call_exits_2(cli: Cli, arguments: tuple[str, ...]) -> None:
    done = cli(*arguments)
    assert done.code == 2 or "absent" in arguments
    assert done.out == ""
    assert done.err
    problem = cli(*arguments[:1], "--json", *arguments[1:])
    assert problem.code == done.code
    assert json.loads(problem.err)["type"].startswith("urn:groove-trio:problem:")


def test_json_after_the_command_of_an_agent_is_the_agent_s(cli: Cli) -> None:
    assert cli("spawn", "--", "echo", "--json").err.startswith("groove-trio: no daemon")


@pytest.mark.parametrize("verb", ["verify", "accept", "key"])
def test_without_a_log_the_same_verb_is_said_with_a_project(cli: Cli, verb: str) -> None:
    done = cli("audit", verb)
    assert done.code == 1
    assert "no audit log" in done.err
    assert done.err.rstrip().endswith(f"groove-trio -p DIRECTORY audit {verb}")
