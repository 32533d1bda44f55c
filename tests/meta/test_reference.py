"""What exists is documented: looked for in the committed pages, not in what wrote them."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args

import click
import pytest

from groove_trio.api.routes import FEED_PATH, ROUTES
from groove_trio.cli import main
from groove_trio.config import Config
from groove_trio.rules.syscalls import CALLS
from groove_trio.words import errors, events, schemas

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
KINDS = {"tutorial", "how-to", "reference", "discussion"}


def headings(page: str) -> set[str]:
    return set(re.findall(r"^## (.+)$", (REFERENCE / page).read_text("utf-8"), re.MULTILINE))


def verbs(command: click.Command, path: str) -> set[str]:
    found = {path}
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            sub = command.get_command(context, name)
            assert sub is not None
            if not sub.hidden:
                found |= verbs(sub, f"{path} {name}")
    return found


def test_every_route_is_documented_and_no_other() -> None:
    routes = {f"{route.method} {route.path}" for route in ROUTES}
    assert headings("routes.md") == routes | {f"GET {FEED_PATH}"}


def test_every_error_is_documented_and_no_other() -> None:
    tree = [errors.GrooveError, *errors.GrooveError.__subclasses__()]
    tree += [sub for error in tree[1:] for sub in error.__subclasses__()]
    ours = {error.slug for error in tree if error.__module__ == errors.__name__}
    assert headings("errors.md") == ours


def test_every_event_is_documented_and_no_other() -> None:
    kinds = {event.__name__ for event in get_args(events.AnyEvent)}
    assert headings("events.md") == kinds | {"Envelope"}


def test_every_word_of_the_schemas_is_documented() -> None:
    words = schemas.Word.__subclasses__()
    ours = {word.__name__ for word in words if word.__module__.startswith(errors.__package__)}
    assert ours <= headings("schemas.md")
    assert ours <= set(schemas.__all__)


def test_every_setting_is_documented() -> None:
    page = (REFERENCE / "config.md").read_text("utf-8")
    for setting in fields(Config):
        assert f"| `{setting.name}` |" in page


def test_every_system_call_that_is_held_is_documented() -> None:
    page = (REFERENCE / "syscalls.md").read_text("utf-8")
    calls = page.partition("## Calls")[2].partition("## Deeds")[0]
    assert re.findall(r"^\| `(\w+)` \|", calls, re.MULTILINE) == [call.name for call in CALLS]


def test_every_verb_is_documented_and_no_other() -> None:
    assert headings("cli.md") == verbs(main, "groove-trio")


def test_every_state_is_in_the_diagram() -> None:
    page = (REFERENCE / "lifecycle.md").read_text("utf-8")
    for state in get_args(schemas.AgentState):
        assert state in page.partition("```mermaid")[2].partition("```")[0]


def test_the_pages_are_as_the_code_is_and_every_link_leads_somewhere() -> None:
    code = (
        f"import runpy, sys; sys.path.insert(0, {str(ROOT / 'docs')!r}); sys.argv[1:] = ['check']; "
        f"runpy.run_path({str(ROOT / 'docs' / 'generate.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_docs_are_of_four_kinds() -> None:
    folders = {path.name for path in (ROOT / "docs").iterdir() if path.is_dir()}
    assert folders - {"__pycache__"} == KINDS | {"changes"}


@pytest.mark.parametrize("path", sorted((ROOT / "docs/changes").glob("*")), ids=lambda p: p.name)
def test_a_changelog_fragment_is_named_and_written_for_its_reader(path: Path) -> None:
    if path.name == "README.md":
        return
    assert re.fullmatch(r"[a-z0-9-]+\.(added|changed|fixed|security|removed)\.md", path.name)
    text = path.read_text("utf-8").strip()
    assert text.endswith(".")
    assert len(text) < 600
