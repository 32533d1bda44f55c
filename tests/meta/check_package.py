"""Looks into a wheel and an sdist: what must be in them, and what must not."""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
STRANGERS = ("tests/", "docs/", "examples/", ".nox/", ".git/", "noxfile.py")


def wheel_problems(path: Path) -> list[str]:
    names = set(zipfile.ZipFile(path).namelist())
    source = {
        str(each.relative_to(ROOT))
        for each in (ROOT / "groove_trio").rglob("*")
        if each.is_file() and "__pycache__" not in each.parts
    }
    problems = [f"{path.name} lacks {name}" for name in sorted(source - names)]
    problems += [f"{path.name} holds {name}" for name in names if name.startswith(STRANGERS)]
    if "groove_trio/py.typed" not in names:
        problems.append(f"{path.name} lacks py.typed")
    if not any(name.endswith("licenses/LICENSE") for name in names):
        problems.append(f"{path.name} lacks the license")
    return problems


def sdist_problems(path: Path) -> list[str]:
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"pyproject.toml", "README.md", "LICENSE", "groove_trio/py.typed", "tests/conftest.py"}
    return [f"{path.name} lacks {name}" for name in sorted(needed - names)]


def main(paths: list[Path]) -> int:
    problems: list[str] = []
    for path in paths:
        problems += wheel_problems(path) if path.suffix == ".whl" else sdist_problems(path)
    print("\n".join(problems) or f"{len(paths)} files hold what they should")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main([Path(each) for each in sys.argv[1:]]))
