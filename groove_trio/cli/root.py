"""The command line's front: the verbs, loaded when called, and what an error looks like.

Every verb ends in one of these ways:

- 0: done.
- 1: it failed; 2: it was called wrongly; 3: it was refused; 4: no daemon answers; 5: something
  differs from what it should be (``audit verify``, ``demo``).
- 130: interrupted; 141: whoever read the output has left. Both without a word, as shells do.

Results go to standard output and nothing else does. An error goes to standard error: in one or
two lines that say what, why, and what to do; with ``--json`` as one problem document (RFC 9457)
in one line. So standard output always holds either what was asked for or nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

import click

from groove_trio.words.errors import EXIT_FAILURE, BadRequest, GrooveError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
READER_LEFT = 141  # 128 + SIGPIPE

VERBS: dict[str, tuple[str, str]] = {
    "start": ("groove_trio.cli.control:start", "Start the daemon for a project."),
    "stop": ("groove_trio.cli.control:stop", "Stop the daemon and all its agents."),
    "status": ("groove_trio.cli.control:status", "Show how the daemon is."),
    "spawn": ("groove_trio.cli.spawn:spawn", "Start an agent."),
    "agents": ("groove_trio.cli.agents:agents", "List the agents."),
    "agent": ("groove_trio.cli.agents:agent", "Show one agent, and how firmly it is held."),
    "logs": ("groove_trio.cli.streams:logs", "Show what an agent wrote."),
    "instruct": ("groove_trio.cli.agents:instruct", "Hand a running agent a follow-up."),
    "kill": ("groove_trio.cli.agents:kill", "Stop an agent and all its processes."),
    "restart": ("groove_trio.cli.agents:restart", "Stop an agent and start it anew."),
    "resume": ("groove_trio.cli.agents:resume", "Start an agent that a dead daemon left behind."),
    "remove": ("groove_trio.cli.agents:remove", "Forget an agent that does not run."),
    "explain": ("groove_trio.cli.coordination:explain", "Show who may write a path, and why."),
    "locks": ("groove_trio.cli.coordination:locks", "Show who holds what."),
    "declare": ("groove_trio.cli.coordination:declare", "Take a lease on paths nobody owns."),
    "complete": ("groove_trio.cli.coordination:complete", "Give leases back."),
    "credentials": (
        "groove_trio.cli.credentials:credentials",
        "Store providers' keys, encrypted for this machine.",
    ),
    "audit": ("groove_trio.cli.record:audit", "Show or verify the audit log."),
    "events": ("groove_trio.cli.streams:events", "Show what happens, as it happens."),
    "providers": ("groove_trio.cli.agents:providers", "List what can be spawned."),
    "demo": ("groove_trio.cli.demo:demo", "Show it all on a small project."),
    "completion": ("groove_trio.cli.completion:completion", "Print a shell completion script."),
}
"""Where each verb lives, and its line in the help, so that ``--help`` loads none of them."""


class Root(click.Group):
    """A group whose verbs are imported when they are called, and whose errors are told once."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The verbs, in the order in which one meets them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Imports a verb."""
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The list of verbs, without importing any."""
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, line) for verb, (_, line) in VERBS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a verb. Ends without a word where click would have one to say."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            _silence_output()
            raise click.exceptions.Exit(READER_LEFT) from None
        except KeyboardInterrupt:
            raise click.exceptions.Exit(INTERRUPTED) from None
        return result

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Runs the command line; exits with one of the codes of this module."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, False, **extra)
        given = list(sys.argv[1:] if args is None else args)
        code = EXIT_FAILURE
        try:
            result = super().main(given, prog_name, complete_var, False, **extra)
            code = result if isinstance(result, int) else 0
        except click.ClickException as error:
            code = _show(error, given)
        except GrooveError as error:
            code = _tell(error, given)
        except OSError as error:
            _silence_output()
            code = _tell(_from_os(error), given)
        sys.exit(code)


def _silence_output() -> None:
    # What is left in the buffer would fail once more, with a message, at the interpreter's end.
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _from_os(error: OSError) -> GrooveError:
    where = f": {error.filename}" if error.filename else ""
    return GrooveError(f"{error.strerror or error}{where}")


def _show(error: click.ClickException, arguments: list[str]) -> int:
    if _wants_json(arguments):
        _tell(BadRequest(error.format_message()), arguments)
    else:
        error.show()
    return error.exit_code


def _tell(error: GrooveError, arguments: list[str]) -> int:
    from groove_trio.cli.show import problem_line, safe

    with suppress(OSError):  # the exit code still says it
        if _wants_json(arguments):
            click.echo(problem_line(error), err=True)
        else:
            click.echo(f"groove-trio: {safe(error.detail)}", err=True)
    return error.exit_code


def _wants_json(arguments: list[str]) -> bool:
    # Asked of the arguments themselves, since a wrong call has no parsed ones.
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in own


def _print_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from groove_trio import __version__

        click.echo(f"groove-trio {__version__}")
        ctx.exit()


@click.group(
    cls=Root,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  groove-trio demo                     see it all on a small project
  groove-trio start --detach           start the daemon for this directory
  groove-trio spawn --scope 'src/**' -- pytest -x
  groove-trio logs -f 3fa9             follow an agent, by the start of its id

\b
Exit codes:
  0 done, 1 failed, 2 called wrongly, 3 refused, 4 no daemon answers, 5 differs""",
)
@click.option(
    "-p",
    "--project",
    metavar="DIRECTORY",
    help="The project; otherwise the one at or above the current directory with a daemon.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version and exit.",
)
@click.pass_context
def main(ctx: click.Context, project: str | None) -> None:
    """Run several AI coding agents side by side on one project, each kept to its files."""
    ctx.obj = project
