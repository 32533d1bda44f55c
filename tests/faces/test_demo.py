from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from groove_trio.cli.story import Story
from groove_trio.words.errors import EXIT_DIFFERS


def run_demo(scratch: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "groove_trio", "demo", *options],
        env=os.environ | {"HOME": str(scratch), "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_demo_tells_a_true_story_and_leaves_nothing(tmp_path: Path) -> None:
    told = run_demo(tmp_path)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "NOT SO" not in told.stdout
    assert "src/ui/" in told.stdout
    assert told.stdout.rstrip().endswith("all true")
    assert list(tmp_path.glob("groove-demo-*")) == []
    assert (
        str(tmp_path)
        not in subprocess.run(["ps", "axww"], capture_output=True, text=True, check=True).stdout
    )


def test_demo_tells_programs_what_it_checked(tmp_path: Path) -> None:
    told = run_demo(tmp_path, "--json")
    story = json.loads(told.stdout)
    assert told.returncode == 0, told.stderr
    assert story["ok"] is True
    assert len(story["claims"]) >= 22
    assert len({claim["chapter"] for claim in story["claims"]}) >= 8


def test_demo_keeps_the_daemon_when_asked(tmp_path: Path) -> None:
    told = run_demo(tmp_path, "--keep")
    (project,) = tmp_path.glob("groove-demo-*/project")
    verb = [sys.executable, "-m", "groove_trio", "-p", str(project)]
    try:
        assert told.returncode == 0, told.stdout + told.stderr
        assert str(project) in told.stdout
        status = subprocess.run([*verb, "agents", "--json"], capture_output=True, check=True)
        names = {agent["name"] for agent in json.loads(status.stdout)}
        assert names - {"build"} == {"api", "ui", "docs"}  # it is there if the kernel can hold it
    finally:
        subprocess.run([*verb, "stop"], capture_output=True, timeout=60, check=True)


def test_story_with_a_claim_that_fails_is_not_true(capsys: pytest.CaptureFixture[str]) -> None:
    story = Story()
    story.chapter("One")
    story.claim("the sky is green", False, "it is blue")
    story.close(1.0)
    assert not story.true
    assert "NOT SO: the sky is green" in capsys.readouterr().out
    assert not Story().true
    assert EXIT_DIFFERS != 0
