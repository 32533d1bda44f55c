"""The front door: all it promises is there, and opening it costs nothing."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import groove_trio

ROOT = Path(__file__).parents[2]
HEAVY = {
    "anyio", "asyncio", "click", "cryptography", "h11", "msgspec", "platformdirs", "rich", "trio",
    "wsproto",
}  # fmt: skip


def modules_after(statement: str) -> set[str]:
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("name", groove_trio.__all__)
def test_every_public_name_can_be_fetched(name: str) -> None:
    assert getattr(groove_trio, name) is not None


def test_type_checkers_are_told_of_every_public_name() -> None:
    tree = ast.parse((ROOT / "groove_trio" / "__init__.py").read_text("utf-8"))
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module != "__future__"
        for alias in node.names
    }
    assert imported - {"TYPE_CHECKING", "import_module"} | {"__version__"} == set(
        groove_trio.__all__
    )


def test_dir_lists_the_public_names() -> None:
    assert dir(groove_trio) == sorted(groove_trio.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'frobnicate'"):
        groove_trio.frobnicate  # noqa: B018 - looking is the point


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not modules_after("import groove_trio") & HEAVY


def test_importing_the_package_loads_none_of_its_own_modules() -> None:
    loaded = modules_after("import groove_trio")
    assert not [name for name in loaded if name.startswith("groove_trio.")]


@pytest.mark.parametrize("module", ["hook", "guard", "providers.scripted"])
def test_what_runs_beside_every_step_loads_only_the_standard_library(module: str) -> None:
    loaded = modules_after(f"import groove_trio.{module}")
    parents = {"groove_trio", "groove_trio.providers", f"groove_trio.{module}"}
    assert {name for name in loaded if name.startswith("groove_trio")} <= parents
    assert not loaded & (HEAVY - {"asyncio"})


def test_the_package_says_that_it_is_typed() -> None:
    assert resources.files(groove_trio).joinpath("py.typed").is_file()


@pytest.mark.skipif(
    "GROOVE_TRIO_TESTS_A_WHEEL" not in os.environ, reason="runs on the checkout, not on a wheel"
)
def test_the_wheel_is_what_is_tested() -> None:
    found = Path(str(groove_trio.__file__)).resolve()
    assert found.parent != ROOT / "groove_trio"
    assert "site-packages" in found.parts
