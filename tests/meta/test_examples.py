"""Every program under examples/ is short, shown in the documentation, and does what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from groove_trio.cli.launch import start_detached, stop_daemon

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
MAX_LINES = 60
TOLD_BY_A_DAEMON = {"GROOVE_URL", "GROOVE_AGENT", "GROOVE_PROJECT"}


def run(name: str, *arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=cwd,
        env={key: value for key, value in os.environ.items() if key not in TOLD_BY_A_DAEMON},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    yield start_detached(tmp_path, port=0).url
    stop_daemon(tmp_path)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_and_shown(path: Path) -> None:
    assert path.read_text("utf-8").count("\n") < MAX_LINES
    pages = "".join(page.read_text("utf-8") for page in (ROOT / "docs").rglob("*.md"))
    assert f"<!-- include: examples/{path.name} -->" in pages
    tests = [file.read_text("utf-8") for file in (ROOT / "tests").rglob("*.py")]
    assert any(re.search(rf"\b{path.name}\b", text) for text in tests)


def test_embed_trio_shows_work_a_grant_a_denial_and_a_refusal(tmp_path: Path) -> None:
    told = run("embed_trio.py", str(tmp_path), cwd=tmp_path)
    assert (tmp_path / "notes" / "note.txt").read_text("utf-8") == "hi"
    assert "wrote note.txt" in told
    assert "src/main.py: granted" in told
    assert re.search(r"^README\.md: .*not in your scope", told, re.MULTILINE)
    assert re.search(r"^refused: .*src/", told, re.MULTILINE)
    assert told.endswith("all agents stopped\n")


def test_custom_provider_runs_the_tests_of_a_project(tmp_path: Path) -> None:
    told = run("custom_provider.py", str(tmp_path), cwd=tmp_path)
    assert told.endswith("completed\n")


def test_client_asyncio_follows_an_agent(tmp_path: Path, url: str) -> None:
    told = run("client_asyncio.py", url, cwd=tmp_path)
    assert [line for line in told.splitlines() if "step" in line] == [
        f"counter-1 {number}: step {number - 1}" for number in (1, 2, 3)
    ]
    assert "counter-1: completed" in told


def test_websocket_client_begins_with_a_snapshot(tmp_path: Path, url: str) -> None:
    told = run("websocket_client.py", url, "1", cwd=tmp_path)
    assert re.fullmatch(r"\d+ snapshot of 0 agents\n", told)
