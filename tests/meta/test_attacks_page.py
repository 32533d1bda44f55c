"""The page of attacks and answers keeps its word: limits are in it with reasons, tests exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "groove_trio"
PAGE = (ROOT / "docs" / "discussion" / "attacks.md").read_text("utf-8")
PROSE, _, TABLE = PAGE.partition("<!-- table: door-limits -->")
SECTIONS = dict(re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", PROSE, re.MULTILINE))
LIMITS = {
    (module, name): (value.replace(" ", ""), why.strip())
    for module, name, value, why in re.findall(
        r"^\| `(\w+)\.(\w+)` \| (.*?) \| (.*?) \|$", TABLE, re.MULTILINE
    )
}

CORE = {"listener", "conversation", "door", "feed", "hub"}
BESIDE = {"shell/binds", "shell/refusals", "shell/sockets", "api/calls", "rules/admission"}
OTHER_WAY = {"client", "lines"}  # of the wire: for answers, and for agents' output
NO_LIMITS = {
    *("NORMAL", "GOING_AWAY", "PROTOCOL_ERROR", "NO_STATUS", "ABNORMAL", "INVALID_DATA"),
    *("POLICY_VIOLATION", "TOO_BIG", "INTERNAL_ERROR", "TRY_AGAIN_LATER", "UNSUPPORTED"),
    *("TEXT", "BINARY", "NETLINK_SOCK_DIAG"),
}  # numbers of protocols


def modules() -> list[Path]:
    """What the door is made of: its core, what that imports, the wire, and the first steps."""
    found = {PACKAGE / f"{name}.py" for name in BESIDE}
    found |= {path for path in (PACKAGE / "wire").glob("*.py") if path.stem not in OTHER_WAY}
    for name in CORE:
        path = PACKAGE / "shell" / f"{name}.py"
        found.add(path)
        imported = re.findall(
            r"^from groove_trio\.((?:shell|rules)\.\w+) import",
            path.read_text("utf-8"),
            re.MULTILINE,
        )
        found |= {PACKAGE / f"{each.replace('.', '/')}.py" for each in imported}
    return sorted(found)


def numbers(path: Path) -> dict[str, float]:
    """The public numeric constants that a module defines itself."""
    module = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    found = {}
    for node in ast.parse(path.read_text("utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        for target in targets:
            if isinstance(target, ast.Name) and re.fullmatch(r"[A-Z][A-Z0-9_]*", target.id):
                value = getattr(module, target.id)
                if isinstance(value, int | float) and not isinstance(value, bool):
                    found[target.id] = value
    return found


@cache
def defined_in(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, functions))


@pytest.mark.parametrize("path", modules(), ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_every_limit_of_the_door_is_listed_with_its_value_and_why(path: Path) -> None:
    found = numbers(path)
    assert {name for module, name in LIMITS if module == path.stem} <= found.keys()
    for name, value in found.items():
        if name in NO_LIMITS:
            continue
        assert (path.stem, name) in LIMITS, f"{path.stem}.{name} is not on the page"
        listed, why = LIMITS[path.stem, name]
        assert float(listed) == value
        assert len(why) > 5, f"{path.stem}.{name} has no precedent and no reason"


def test_the_table_lists_nothing_twice() -> None:
    assert TABLE.count("\n| `") == len(LIMITS) > 50


def test_every_limit_that_the_prose_names_is_listed_with_that_value() -> None:
    named = re.findall(r"`([a-z_]+)\.([A-Z][A-Z0-9_]+)`(?: ?\(([\d ]+)\))?", PROSE)
    assert len(named) > 30
    for module, name, value in named:
        assert (module, name) in LIMITS, f"{module}.{name} is no limit of the door"
        if value:
            assert float(value.replace(" ", "")) == float(LIMITS[module, name][0]), name


@pytest.mark.parametrize("heading", [each for each in SECTIONS if each != "The limits"])
def test_every_test_that_a_section_names_exists(heading: str) -> None:
    section = SECTIONS[heading]
    files = re.findall(r"`(tests/[\w/]+\.py)", section)
    own = re.findall(r"`(tests/[\w/]+\.py)`", section)  # where names without a file are found
    assert files
    assert all((ROOT / file).is_file() for file in files)
    for file, name, case in re.findall(
        r"`(?:(tests/[\w/]+\.py)::)?(test_\w+)(?:\[(.+?)\])?`", section
    ):
        homes = [each for each in ([file] if file else own) if name in defined_in(each)]
        assert homes, f"{heading}: there is no {name}"
        if case:
            last = case.partition(": ")[2] or case
            assert any(last in (ROOT / each).read_text("utf-8") for each in homes), case


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "attacks").glob("test_*.py")), ids=str)
def test_every_attack_is_on_the_page(path: Path) -> None:
    file = path.relative_to(ROOT).as_posix()
    assert f"`{file}`" in PROSE
    for name in defined_in(file):
        if name.startswith("test_"):
            assert re.search(rf"(`|::){name}\b", PROSE), f"{file}: {name} is not on the page"
