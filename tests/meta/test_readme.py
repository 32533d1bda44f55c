"""The README keeps its word: its commands are those that run, its proofs exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
COMMANDS = re.findall(r"^```sh\n(.*?)\n```$", README, re.MULTILINE | re.DOTALL)
ROWS = re.findall(r"^\| (\d+) \| (.+?) \| (.+?) \|$", README, re.MULTILINE)
PROMISES = 24


def test_there_are_two_commands_of_one_line_each() -> None:
    assert len(COMMANDS) == 2
    assert all("\n" not in command for command in COMMANDS)


def test_the_first_command_installs_and_runs_the_demo() -> None:
    assert re.search(r"pip install \S+ && \S+groove-trio demo$", COMMANDS[0])


def test_ci_runs_the_test_command_letter_by_letter() -> None:
    script = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    assert script[-1] == COMMANDS[1]
    assert "set -euo pipefail" in script


def test_every_promise_is_listed_once_and_in_order() -> None:
    assert [int(number) for number, _, _ in ROWS] == list(range(1, PROMISES + 1))


@pytest.mark.parametrize(("number", "proof"), [(row[0], row[2]) for row in ROWS])
def test_a_promise_names_a_test_that_exists_or_says_not_yet(number: str, proof: str) -> None:
    tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", proof)
    assert tests or "not yet" in proof
    for file, name in tests:
        tree = ast.parse((ROOT / file).read_text("utf-8"))
        defined = {
            node.name
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert name in defined, f"promise {number}: {file} has no {name}"


def test_the_picture_of_the_terminal_is_there() -> None:
    picture = README.partition("<!-- demo -->")[2].partition("```text\n")[2].partition("```")[0]
    assert len(picture.splitlines()) > 10
