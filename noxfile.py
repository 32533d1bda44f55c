"""One verb a session. Each installs what its dependency group lists and nothing more."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import nox

PROJECT = nox.project.load_toml("pyproject.toml")
RUNTIME: list[str] = PROJECT["project"]["dependencies"]

nox.needs_version = ">=2024.10"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.error_on_missing_interpreters = True

NIGHTLY_SEEDS = "2000"  # stories that the simulation tells; the suite has 100
AUTOBAHN = "autobahntestsuite==25.10.1"  # the public conformance suite for WebSocket


def group(name: str) -> list[str]:
    """The requirements of one dependency group of pyproject.toml."""
    return list(nox.project.dependency_groups(PROJECT, name))


def dist_of(session: nox.Session) -> Path:
    """An empty place for what is built. Not the session's own: that would become TMPDIR."""
    dist = Path(session.virtualenv.location) / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    return dist


def install_wheel(session: nox.Session, *requirements: str) -> None:
    """Builds the wheel and installs it: what is tested is what would be shipped."""
    dist = dist_of(session)
    session.run("pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={dist}", ".")
    (wheel,) = dist.glob("*.whl")
    session.install("--force-reinstall", "--no-deps", str(wheel))
    session.install(*RUNTIME, *requirements)


def installed_only() -> dict[str, str]:
    """An environment in which no process imports the checkout instead of the wheel."""
    return {"PYTHONSAFEPATH": "1", "GROOVE_TRIO_TESTS_A_WHEEL": "1"}


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff, flake8-async, and the floors."""
    session.install(*group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("flake8")
    session.run("lint-imports", "--no-logo", "--no-cache")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy and pyright, both strict."""
    session.install(*RUNTIME, *group("types"))
    session.run("mypy")
    session.run("pyright")


@nox.session
def tests(session: nox.Session) -> None:
    """The suite, in random order, on the built wheel."""
    install_wheel(session, *group("test"))
    session.run("pytest", *session.posargs, env=installed_only())


@nox.session
def cover(session: nox.Session) -> None:
    """The suite again, counting the lines it reaches, in child processes too."""
    install_wheel(session, *group("test"), *group("cover"))
    session.run("coverage", "erase")
    # Some tests hold time budgets, which nothing meets while its lines are counted. Whether the
    # tests pass is for the `tests` session to say.
    suite = ["coverage", "run", "-m", "pytest", *session.posargs]
    session.run(*suite, env=installed_only(), success_codes=[0, 1])
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session
def docs(session: nox.Session) -> None:
    """Fails if a reference page is stale or a link leads nowhere; `-- write` renews the pages."""
    install_wheel(session, *group("docs"))
    session.run("python", "docs/generate.py", *(session.posargs or ["check"]))


@nox.session
def bench(session: nox.Session) -> None:
    """The measurements of tests/bench, printed as ratios within one run."""
    install_wheel(session, *group("bench"))
    for script in session.posargs or sorted(map(str, Path("tests/bench").glob("bench_*.py"))):
        session.run("python", script)


def python_2_7() -> str | None:
    """A Python 2.7 that runs: from the path, or one that pyenv keeps."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    kept = map(str, pyenv.glob("versions/*2.7*/bin/python2.7"))
    for found in (shutil.which("python2.7"), shutil.which("pypy2.7"), *kept):
        # pyenv's shims stand on the path even for what is not switched on, and fail
        command = [found or "", "-c", ""]
        if found and subprocess.run(command, check=False, capture_output=True).returncode == 0:
            return found
    return None


@nox.session
def autobahn(session: nox.Session) -> None:
    """The Autobahn fuzzing client against the echo example; `-- "9.*"` runs a group alone."""
    python = python_2_7()
    if python is None:
        session.skip("NOTHING WAS CHECKED: Autobahn's suite runs on Python 2.7, and there is none.")
    install_wheel(session, *group("autobahn"))
    home = Path(session.create_tmp()) / "autobahn"
    session.run("virtualenv", "--quiet", "--python", python, str(home))
    session.run(str(home / "bin/pip"), "install", "--quiet", AUTOBAHN, external=True)
    script = ["tests/conformance/autobahn.py", str(home / "bin/wstest"), str(home / "reports")]
    session.run("python", *script, *session.posargs, env=installed_only())


@nox.session
def simulation(session: nox.Session) -> None:
    """Whole daemons from 2,000 seeds; `GROOVE_SIMULATION_SEED=7` plays that one again."""
    install_wheel(session, *group("test"))
    seeds = os.environ.get("GROOVE_SIMULATION_SEEDS", NIGHTLY_SEEDS)
    env = {**installed_only(), "GROOVE_SIMULATION_SEEDS": seeds}
    session.run("pytest", "tests/simulation", *session.posargs, env=env)


@nox.session
def package(session: nox.Session) -> None:
    """Builds wheel and sdist, and looks at what is in them."""
    session.install(*group("package"))
    dist = dist_of(session)
    session.run("python", "-m", "build", "--outdir", str(dist))
    built = sorted(str(path) for path in dist.iterdir())
    session.run("twine", "check", "--strict", *built)
    session.run("python", "tests/meta/check_package.py", *built)


@nox.session
def examples(session: nox.Session) -> None:
    """The tests that run the programs under examples/."""
    install_wheel(session, *group("test"))
    session.run("pytest", "tests/meta", "-k", "example", *session.posargs, env=installed_only())
