"""The wall's rules, read off a ruleset: what is granted on a path is what the nearest rules say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from groove_trio.rules import landlock
from groove_trio.rules.landlock import READ_DIR, READ_FILE, TRUNCATE, WRITE_FILE, WRITING
from groove_trio.shell.wall import Wall, build_wall


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with secrets, and a project in it."""
    home = tmp_path / "home"
    for name in (".ssh", ".config/gh", ".config/editor", "code/project", "music"):
        (home / name).mkdir(parents=True)
    for name in (".ssh/id", ".netrc", ".config/gh/hosts", ".config/editor/rc", ".profile"):
        (home / name).write_text("x")
    (home / "shortcut").symlink_to(".ssh")
    return home


def built(home: Path, *patterns: str, **of: Any) -> Wall:
    names = (".ssh", ".netrc", ".config/gh", ".config/groove-trio", ".aws")
    return build_wall(
        **{
            "level": "wall",
            "project": str(home / "code/project"),
            "tmp": str(home / "code/project/.groove/agents/0badcafe/tmp"),
            "patterns": patterns,
            "hidden": [f"{home}/{name}" for name in names],
            "version": 7,
            **of,
        }
    )


def granted(wall: Wall, path: Path | str) -> int:
    """The rights on a path, as the kernel adds them up."""
    total = 0
    for place, rights in wall.ruleset.rules:
        if f"{path}/".startswith(f"{place}/" if place != "/" else "/"):
            total |= rights
    return total


def readable(wall: Wall, path: Path | str) -> bool:
    return bool(granted(wall, path) & READ_FILE)


def writable(wall: Wall, path: Path | str) -> bool:
    return bool(granted(wall, path) & WRITE_FILE)


def test_hidden_paths_are_left_out_and_their_siblings_are_not(home: Path) -> None:
    wall = built(home)
    for name in (".ssh", ".ssh/id", ".netrc", ".config/gh/hosts", ".config/groove-trio", ".aws/x"):
        assert not readable(wall, home / name), name
    for name in (".profile", ".config/editor/rc", "music/new", "code/project/new"):
        assert readable(wall, home / name), name
    assert readable(wall, "/usr/bin/env")
    assert readable(wall, "/proc/self/status")
    assert wall.exposed == (f"{home}/code/project/.groove",)


def test_links_are_granted_nothing_for_they_may_lead_to_what_is_hidden(home: Path) -> None:
    wall = built(home)
    assert f"{home}/shortcut" not in [path for path, _ in wall.ruleset.rules]


def test_names_can_be_listed_everywhere(home: Path) -> None:
    wall = built(home)
    assert granted(wall, "/") == granted(wall, home / ".ssh") == READ_DIR


def test_hidden_paths_inside_of_what_is_granted_whole_are_told(home: Path) -> None:
    wall = built(home, project=str(home), tmp="/nowhere", states=[str(home / ".config")])
    assert set(wall.exposed) == {
        f"{home}/{name}"
        for name in (".groove", ".ssh", ".netrc", ".config/gh", ".config/groove-trio", ".aws")
    }
    assert readable(wall, home / ".ssh/id")


def test_at_level_gate_nothing_can_be_written_but_the_own(home: Path) -> None:
    state = home / "state"
    state.mkdir()
    wall = built(home, "src/**", "**", level="gate", states=[str(state)])
    project = home / "code/project"
    assert not writable(wall, project / "src/a")
    assert not writable(wall, home)
    assert not writable(wall, "/tmp")
    assert granted(wall, state) & WRITING == WRITING
    assert granted(wall, project / ".groove/agents/0badcafe/tmp/x") & WRITING == WRITING
    assert not writable(wall, project / ".groove/audit.jsonl")
    assert granted(wall, "/dev/null") & WRITING == WRITE_FILE
    assert [held.how for held in wall.patterns] == ["exact", "exact"]


@pytest.mark.parametrize(
    ("pattern", "places", "how", "why"),
    [
        ("src/**", ("src/deep/new", "docs/x"), "wider", "protected names in src/"),
        ("src/", ("src/deep/new", "docs/x"), "wider", "protected names in src/"),
        ("src/*.py", ("src/new.py", "docs/x"), "wider", "all of src/"),
        ("src/a.py", ("src/a.py", "docs/x"), "wider", "all of src/"),
        ("src/deep/**", ("src/deep/new", "src/a.py"), "wider", "protected names in src/deep/"),
        ("{src,docs}/**", ("docs/new", "tools/x"), "wider", "src/ can be written, too; protected"),
        ("README.md", ("README.md", "new.md"), "narrower", "directly in the project root"),
        ("*.md", ("README.md", "new.md"), "narrower", "directly in the project root"),
        ("**", ("src/new", "new"), "wider", "docs/, src/, tools/ can be written"),
        ("**", ("README.md", ".groove/audit"), "wider", "directly in the project root"),
        ("**", (".git/objects/new", ".git/config"), "wider", ".git/objects/"),
        ("**", ("src/new", ".git/hooks/x"), "wider", ""),
        ("**", ("src/new", ".git/new"), "wider", ""),
        ("**/*.py", ("src/new.py", "CLAUDE.md"), "wider", ""),
        (".github/**", (".github/labels.yml", ".github/workflows/x"), "narrower", "directly in"),
        (".github/workflows/*.yml", (".github/workflows/x", ".github/new"), "wider", "all of"),
        ("missing/**", ("", "missing/x"), "narrower", "no directory when"),
        ("linked/**", ("", "docs/x"), "narrower", "is a link"),
        (".groove/**", ("", ".groove/audit"), "narrower", "protected by .groove"),
        (".claude/x/*", (".claude/x/new", ".claude/new"), "wider", "all of .claude/x/"),
    ],
)  # fmt: skip
def test_a_pattern_grants_the_directory_that_it_names(
    home: Path, pattern: str, places: tuple[str, str], how: str, why: str
) -> None:
    inside, outside = places
    project = home / "code/project"
    for name in ("src/deep", "docs", "tools", ".git/hooks", ".git/objects", ".groove"):
        (project / name).mkdir(parents=True)
    for name in (".github/workflows", ".claude/x"):
        (project / name).mkdir(parents=True)
    for name in ("src/a.py", "README.md", "CLAUDE.md", ".git/config", ".github/labels.yml"):
        (project / name).write_text("x")
    (project / "linked").symlink_to("docs")
    wall = built(home, pattern)
    if inside:
        assert writable(wall, project / inside)
    assert not writable(wall, project / outside)
    assert not writable(wall, project)
    (held,) = wall.patterns
    assert (held.pattern, held.how) == (pattern, how)
    assert why in held.why


@pytest.mark.parametrize("version", range(1, 8))
def test_an_older_kernel_is_asked_for_what_it_has(home: Path, version: int) -> None:
    wall = built(home, version=version)
    assert wall.ruleset.handled == landlock.handled(version)
    assert all(rights & ~wall.ruleset.handled == 0 for _, rights in wall.ruleset.rules)
    own = home / "code/project/.groove/agents/0badcafe/tmp"
    assert bool(granted(wall, own) & TRUNCATE) == (version >= 3)


def test_a_directory_on_the_way_that_cannot_be_listed_is_granted_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def refusing(path: str) -> Any:
        if path == f"{home}/.config":
            raise PermissionError
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    wall = built(home)
    assert not readable(wall, home / ".config/editor/rc")
    assert readable(wall, home / ".profile")
