"""Paths made to be slow, or to be read in two ways."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from groove_trio.shell.paths import MAX_LOOKS, resolve
from groove_trio.words.errors import BadRequest

BOUND_S = 0.1  # far above what a bounded walk takes, far below what an unbounded one did


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "a").mkdir()
    return tmp_path


def refused_soon(project: Path, path: str) -> str:
    began = time.process_time()
    with pytest.raises(BadRequest) as refusal:
        resolve(str(project), str(project), path)
    assert time.process_time() - began < BOUND_S
    return refusal.value.detail


def test_links_that_wander_are_not_followed_for_long(project: Path) -> None:
    for number in range(39):
        (project / f"l{number}").symlink_to("a/../" * 800 + f"l{number + 1}")
    assert f"more than {MAX_LOOKS} names" in refused_soon(project, "l0")


@pytest.mark.parametrize("target", ["../" * 1300 + ".{here}/l{next}", "l{next}/" + "x/" * 2000])
def test_links_that_pile_up_names_are_not_followed_for_long(project: Path, target: str) -> None:
    for number in range(39):
        text = target.format(here=project, next=number + 1)
        (project / f"l{number}").symlink_to(text)
    assert f"more than {MAX_LOOKS} names" in refused_soon(project, "l0/x")


def test_path_that_wanders_is_not_followed_for_long(project: Path) -> None:
    assert f"more than {MAX_LOOKS} names" in refused_soon(project, "a/../" * 800 + "x")


def test_path_with_as_many_names_as_are_looked_at_is_resolved(project: Path) -> None:
    room = MAX_LOOKS - len(project.parts)  # for "a" and "..", but one for "x"
    assert resolve(str(project), str(project), "a/../" * (room // 2) + "x") == "x"


@pytest.mark.parametrize("path", ["a\0b", "missing/CLAUDE.md\0.txt", "missing/\0"])
def test_nul_is_refused_wherever_it_stands(project: Path, path: str) -> None:
    assert "null byte" in refused_soon(project, path)
