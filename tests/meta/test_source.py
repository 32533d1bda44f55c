"""What is not in the source: a shell, work left over, pages too long to read."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = [
    *sorted((ROOT / "groove_trio").rglob("*.py")),
    ROOT / "noxfile.py",
    *sorted(ROOT.glob("docs/*.py")),
    *sorted(ROOT.glob("examples/*.py")),
]

MAX_MODULE = 400  # lines; about 300 is meant
MAX_FUNCTION = 60  # lines with docstring; about 30 is meant

SHELLS = {
    "os.system",
    "os.popen",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "asyncio.create_subprocess_shell",
    "eval",
    "exec",
}
INTERPRETERS = {"bash", "sh", "zsh", "dash", "/bin/sh", "/bin/bash", "cmd.exe", "powershell"}


def nodes() -> Iterator[tuple[str, ast.AST]]:
    """Every syntax node of every module, with where it stands."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}", node


def lines_with(pattern: str) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in MODULES
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if re.search(pattern, line)
    ]


def test_the_walk_sees_the_whole_package() -> None:
    assert len(MODULES) > 30
    assert {"cli", "rules", "shell", "wire"} <= {path.parent.name for path in MODULES}


def test_no_call_goes_through_a_shell() -> None:
    found = [
        where
        for where, node in nodes()
        if isinstance(node, ast.Call)
        and (
            ast.unparse(node.func) in SHELLS
            or any(keyword.arg in {"shell", "preexec_fn"} for keyword in node.keywords)
        )
    ]
    assert found == []


@pytest.mark.parametrize(
    "line", ["os.system('ls')", "run(['ls'], shell=True)", "Popen(['ls'], preexec_fn=f)"]
)
def test_the_search_for_shells_finds_one(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "nodes", lambda: (("x", n) for n in ast.walk(ast.parse(line))))
    with pytest.raises(AssertionError):
        test_no_call_goes_through_a_shell()


def test_no_shell_is_the_first_of_an_argument_array() -> None:
    found = [
        where
        for where, node in nodes()
        if isinstance(node, ast.List | ast.Tuple)
        and node.elts
        and isinstance(node.elts[0], ast.Constant)
        and node.elts[0].value in INTERPRETERS
    ]
    assert found == []


def test_every_module_can_be_read_at_one_sitting() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in MODULES
        if (lines := path.read_text("utf-8").count("\n")) > MAX_MODULE
    }
    assert long == {}


def test_every_function_can_be_seen_at_one_look() -> None:
    long = {
        f"{where} {node.name}": lines
        for where, node in nodes()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION
    }
    assert long == {}


def test_nothing_is_left_to_do() -> None:
    assert lines_with(r"\b(TODO|FIXME|XXX)\b") == []


def test_no_machine_is_named() -> None:
    assert lines_with(r"/(home|root|Users|work)/\w") == []
