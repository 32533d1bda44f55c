"""The verb that starts an agent: every field of an `AgentSpec` as an option."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import click
from msgspec import UNSET

from groove_trio.cli.show import patterns_text, print_json
from groove_trio.cli.verb import STOP_S, run, verb
from groove_trio.words.agents import (
    MAX_GRACE_S,
    AgentSpec,
    Containment,
    Permission,
    Restart,
    RestartMode,
)

Option = Callable[[Callable[..., None]], Callable[..., None]]

DEFAULTS = Restart()


def _read_prompt(path: str | None, prompt: str) -> str:
    if path is None:
        return prompt
    try:
        with click.open_file(path, encoding="utf-8") as file:
            return str(file.read())
    except UnicodeDecodeError:
        raise click.UsageError(
            f"the prompt in {click.format_filename(path)} is not UTF-8"
        ) from None


def _variables(pairs: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise click.UsageError(f"--env takes NAME=VALUE, not {pair!r}")
        found[name] = value
    return found


def _seconds(name: str, default: float, what: str) -> Option:
    return click.option(name, type=float, default=default, metavar="SECONDS", show_default=True,
                        help=what)  # fmt: skip


@verb(
    """
    groove-trio spawn -- pytest -x
    groove-trio spawn --role tester --scope 'tests/**' -- pytest -x
    groove-trio spawn --read-only --name reviewer -- ./review.sh
    groove-trio spawn --restart on-failure --restart-max 3 -- ./server
    groove-trio spawn --prompt-file - --interactive -- ./agent < task.md
    groove-trio spawn --provider demo --scope 'docs/**' --prompt '[]'
    """
)
@click.option("--role", default="worker", show_default=True, help="What it is for, in one word.")
@click.option("--name", help="What to call it; made from the role if left out.")
@click.option("--provider", default="command", show_default=True, help="See groove-trio providers.")
@click.option(
    "--scope",
    multiple=True,
    metavar="PATTERN",
    help="Files it may write, such as 'src/**'; may be repeated. Everything if left out.",
)
@click.option("--read-only", is_flag=True, help="It may write nothing.")
@click.option("--prompt", default="", help="What it is told at the start.")
@click.option("--prompt-file", metavar="FILE", help="The same, from a file, or - for stdin.")
@click.option(
    "--permission",
    type=click.Choice(get_args(Permission)),
    default="auto",
    show_default=True,
    help="What its own program lets it do unasked.",
)
@click.option(
    "--cwd", default=".", show_default=True, help="Where it works, from the project root."
)
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="A variable; may be repeated.")
@click.option(
    "--containment",
    type=click.Choice(get_args(Containment)),
    help="How firmly it must be held to its scope; the best there is if left out.",
)
@click.option(
    "--restart",
    "restart_mode",
    type=click.Choice(get_args(RestartMode)),
    default="never",
    show_default=True,
    help="When to start it again after it ended.",
)
@_seconds("--restart-first", DEFAULTS.first_s, "Wait before the first restart; doubles each time.")
@_seconds("--restart-cap", DEFAULTS.cap_s, "Longest wait.")
@click.option(
    "--restart-jitter",
    type=float,
    default=DEFAULTS.jitter,
    metavar="SHARE",
    show_default=True,
    help="Share of the wait that is left to chance.",
)
@click.option(
    "--restart-max",
    type=int,
    default=DEFAULTS.max_restarts,
    metavar="N",
    show_default=True,
    help="Restarts within the period before it is parked.",
)
@_seconds("--restart-period", DEFAULTS.period_s, "The period.")
@_seconds("--restart-stable", DEFAULTS.stable_s, "A run this long starts the count anew.")
@click.option(
    "--grace",
    type=click.FloatRange(0, MAX_GRACE_S),
    default=10.0,
    metavar="SECONDS",
    show_default=True,
    help="Time between SIGTERM and SIGKILL.",
)
@click.option("--interactive", is_flag=True, help="Keep its standard input open for instruct.")
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGV...]")
def spawn(
    *,
    argv: tuple[str, ...],
    scope: tuple[str, ...],
    read_only: bool,
    prompt: str,
    prompt_file: str | None,
    env: tuple[str, ...],
    as_json: bool,
    **fields: Any,
) -> None:
    """Start an agent.

    What stands after -- is its command, taken as it is: no shell reads it. Two agents cannot
    have scopes that share a path; the refusal names one.
    """
    if read_only and scope:
        raise click.UsageError("--read-only and --scope exclude each other")
    if prompt and prompt_file is not None:
        raise click.UsageError("--prompt and --prompt-file exclude each other")
    spec = AgentSpec(
        role=fields["role"],
        name=fields["name"],
        provider=fields["provider"],
        argv=list(argv),
        scope=[] if read_only else list(scope) or UNSET,
        prompt=_read_prompt(prompt_file, prompt),
        permission=fields["permission"],
        cwd=fields["cwd"],
        env=_variables(env),
        containment=fields["containment"],
        restart=_restart(fields),
        grace_s=fields["grace"],
        interactive=fields["interactive"],
    )
    view = run(lambda groove: groove.spawn(spec), STOP_S)
    if as_json:
        print_json(view)
        return
    may = f"may write {patterns_text(view.scope)}" if view.scope else "may write nothing"
    held = f"held by {view.containment}"
    click.echo(f"Started {view.name} ({view.id}), pid {view.pid}; it {may}, {held}")


def _restart(fields: dict[str, Any]) -> Restart:
    return Restart(
        mode=fields["restart_mode"],
        first_s=fields["restart_first"],
        cap_s=fields["restart_cap"],
        jitter=fields["restart_jitter"],
        max_restarts=fields["restart_max"],
        period_s=fields["restart_period"],
        stable_s=fields["restart_stable"],
    )
