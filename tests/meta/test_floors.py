"""The floors hold, as import-linter sees them."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "groove_trio"
ALONE = ["hook.py", "guard.py", "providers/scripted.py"]


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def foreign(path: Path) -> set[str]:
    """The packages that a module names and that Python does not bring."""
    return {name.partition(".")[0] for name in imported(path)} - sys.stdlib_module_names


def test_no_module_imports_a_floor_above_its_own() -> None:
    run = "from importlinter.cli import lint_imports as run; raise SystemExit(run(no_cache=True))"
    done = subprocess.run(
        [sys.executable, "-c", run], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("module", ALONE)
def test_what_stands_alone_imports_the_standard_library_only(module: str) -> None:
    assert foreign(PACKAGE / module) == set()


@pytest.mark.parametrize("path", sorted((PACKAGE / "words").glob("*.py")), ids=lambda p: p.name)
def test_words_import_the_standard_library_and_msgspec_only(path: Path) -> None:
    assert foreign(path) <= {"msgspec", "groove_trio"}
    ours = {name for name in imported(path) if name.startswith("groove_trio")}
    assert all(name.startswith("groove_trio.words") for name in ours)


def test_every_dependency_is_declared_and_has_its_reason() -> None:
    declared = {
        requirement.split(">=")[0]
        for requirement in tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
            "dependencies"
        ]
    }
    used = {name for path in PACKAGE.rglob("*.py") for name in foreign(path)} - {"groove_trio"}
    assert used <= declared
    decisions = (ROOT / "docs/discussion/decisions.md").read_text("utf-8")
    # One is declared before it is used, and the page says so.
    assert declared - used <= {"cryptography"}
    for name in declared:
        assert f"`{name}`" in decisions, f"decisions.md does not say why {name} is needed"
