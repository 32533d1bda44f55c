"""The verb that prints a shell's completion script."""

from __future__ import annotations

import click

from groove_trio.cli.show import print_json
from groove_trio.cli.verb import json_option

PROGRAM = "groove-trio"
VARIABLE = "_GROOVE_TRIO_COMPLETE"
INSTALL = {
    "bash": 'add to ~/.bashrc:  eval "$(groove-trio completion bash)"',
    "zsh": 'add to ~/.zshrc:  eval "$(groove-trio completion zsh)"',
    "fish": "groove-trio completion fish > ~/.config/fish/completions/groove-trio.fish",
}


@click.command(
    epilog="""\b
Examples:
  eval "$(groove-trio completion bash)"
  groove-trio completion fish > ~/.config/fish/completions/groove-trio.fish"""
)
@json_option
@click.argument("shell", type=click.Choice(list(INSTALL)))
@click.pass_context
def completion(ctx: click.Context, shell: str, as_json: bool) -> None:
    """Print a shell completion script; its first line says how to install it.

    Completes verbs, options, and the names of the agents of the daemon that runs here.
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(ctx.find_root().command, {}, PROGRAM, VARIABLE).source()
    if as_json:
        print_json({"shell": shell, "install": INSTALL[shell], "script": script})
    else:
        click.echo(f"# To install: {INSTALL[shell]}\n{script}")
