"""What the command line says of itself, and that it says so cheaply."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import click
import pytest

from groove_trio import __version__
from groove_trio.cli import main
from groove_trio.cli.completion import INSTALL
from groove_trio.cli.root import VERBS

Cli = Callable[..., Any]


def _command(verb: str) -> click.Command:
    command = main.get_command(click.Context(main), verb)
    assert command is not None
    return command


@pytest.mark.parametrize("verb", VERBS)
def test_verb_is_told_in_the_help_as_it_tells_itself(verb: str) -> None:
    told = _command(verb).help or ""
    first = " ".join(told.split("\n\n")[0].split())
    assert first.startswith(VERBS[verb][1].rstrip("."))


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_has_examples(verb: str) -> None:
    command = _command(verb)
    assert f"groove-trio {verb}" in (command.epilog or "").replace("groove-trio -p ~/project ", "")
    assert "Examples:" in (command.epilog or "")
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            assert f"groove-trio {verb} {name}" in (inner.epilog or "")


@pytest.mark.parametrize("verb", VERBS)
def test_verb_speaks_json(verb: str) -> None:
    options = {option for each in _command(verb).params for option in each.opts}
    assert "--json" in options


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_has_help(verb: str) -> None:
    for each in _command(verb).params:
        assert not isinstance(each, click.Option) or each.help, each.name


def test_help_names_every_verb(cli: Cli) -> None:
    done = cli("--help")
    assert done.code == 0
    assert all(f"  {verb} " in done.out for verb in VERBS)
    assert "Examples:" in done.out
    assert "Exit codes:" in done.out
    assert cli("-h").out == done.out


def test_version_is_the_package_s(cli: Cli) -> None:
    assert cli("--version").out == f"groove-trio {__version__}\n"


def test_without_arguments_it_helps_and_fails(cli: Cli) -> None:
    done = cli()
    assert done.code == 2
    assert "Verbs:" in done.err + done.out


def _imported_by(*arguments: str) -> set[str]:
    program = (
        "import sys\n"
        "from groove_trio.cli import main\n"
        f"try: main({list(arguments)!r}, prog_name='groove-trio')\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stderr.splitlines()[-1].split())


def test_help_loads_no_verb_and_no_library() -> None:
    loaded = _imported_by("--help")
    assert not loaded & {"msgspec", "anyio", "trio", "rich", "wsproto", "h11", "asyncio"}
    assert not any(name.startswith("groove_trio.cli.") and name != "groove_trio.cli.root"
                   for name in loaded)  # fmt: skip


def test_status_loads_neither_trio_nor_rich_nor_websockets() -> None:
    loaded = _imported_by("-p", "/nonexistent", "status")
    assert "anyio" in loaded
    assert not loaded & {"trio", "rich", "wsproto"}


@pytest.mark.parametrize("shell", INSTALL)
def test_completion_prints_a_script_and_how_to_install_it(cli: Cli, shell: str) -> None:
    done = cli("completion", shell)
    assert done.code == 0
    assert done.out.startswith("# To install: ")
    assert "_GROOVE_TRIO_COMPLETE" in done.out
    assert cli("completion", shell, "--json").json["shell"] == shell


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_completion_script_is_valid_bash(cli: Cli) -> None:
    script = cli("completion", "bash").out
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_completion_completes_verbs_and_options(cli: Cli) -> None:
    def complete(words: str) -> set[str]:
        done = cli(
            _GROOVE_TRIO_COMPLETE="bash_complete",
            COMP_WORDS=words,
            COMP_CWORD=str(len(words.split(" ")) - 1),
        )
        return {line.partition(",")[2] for line in done.out.splitlines() if line}

    assert complete("groove-trio st") == {"start", "stop", "status"}
    assert complete("groove-trio logs --fol") == {"--follow"}
    assert complete("groove-trio completion z") == {"zsh"}
    assert complete("groove-trio kill x") == set()  # no daemon: nothing, and no error
