"""The command line as a user has it: a process with arguments, output and an exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

DEADLINE_S = 60


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as one JSON document."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Standard output as one JSON document a line."""
        return [json.loads(line) for line in self.out.splitlines()]


def environment() -> dict[str, str]:
    """The test's own, without what an agent or a terminal would add."""
    dropped = {"GROOVE_URL", "GROOVE_AGENT", "GROOVE_PROJECT", "NO_COLOR", "FORCE_COLOR", "COLUMNS"}
    return {name: value for name, value in os.environ.items() if name not in dropped}


Cli = Callable[..., Done]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project directory."""
    root = tmp_path / "project"
    (root / "src").mkdir(parents=True)
    (root / "docs").mkdir()
    return root.resolve()


@pytest.fixture
def command() -> list[str]:
    """The command line up to the verb."""
    return [sys.executable, "-m", "groove_trio"]


@pytest.fixture
def cli(project: Path, command: list[str]) -> Cli:
    """Runs ``groove-trio`` in the project: ``cli("status", "--json")``."""

    def run(*arguments: str, cwd: Path = project, stdin: str = "", **variables: str) -> Done:
        done = subprocess.run(
            [*command, *arguments],
            cwd=cwd,
            input=stdin,
            env=environment() | variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    return run


class Daemon(NamedTuple):
    """A detached daemon and the command line for its project."""

    project: Path
    url: str
    command: list[str]

    def __call__(
        self, *arguments: str, cwd: Path | None = None, stdin: str = "", **more: str
    ) -> Done:
        done = subprocess.run(
            [*self.command, *arguments],
            cwd=cwd or self.project,
            input=stdin,
            env=environment() | more,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for a test file; its tests use agents and paths of their own."""
    from groove_trio.cli.launch import start_detached, stop_daemon

    project = tmp_path_factory.mktemp("project").resolve()
    (project / "src").mkdir()
    started = start_detached(project, port=0)
    yield Daemon(project, started.url, [sys.executable, "-m", "groove_trio"])
    stop_daemon(project)
