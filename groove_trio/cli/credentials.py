"""Verbs about stored keys. A value comes from a prompt or standard input, and is never shown.

Where a daemon runs for the project they go through it, so that they are on its record. Where none
does they work on the files themselves, which is as safe: whoever changes them holds a lock.
"""

from __future__ import annotations

import getpass
import sys
import warnings
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from groove_trio.cli.show import clock_text, print_json, print_table, safe
from groove_trio.cli.verb import daemon_url, json_option, project_given, project_option, run
from groove_trio.client import Client
from groove_trio.client.find import address_of, find_project
from groove_trio.words.credentials import (
    MAX_KEY,
    CredentialRequest,
    CredentialView,
    checked_provider,
)
from groove_trio.words.errors import BadRequest, Unreachable
from groove_trio.words.secret import Secret

if TYPE_CHECKING:
    from groove_trio.shell.credentials import CredentialFile

T = TypeVar("T")

COLUMNS = ("provider", "variable", "set", "sealed")
NEVER_ARGV = (
    "a key is never given on the command line, where other programs and the shell's history see "
    "it: leave it out and you are asked, or pipe it in: groove-trio credentials set claude < FILE"
)


@click.group(
    invoke_without_command=True,
    epilog="""\b
Examples:
  groove-trio credentials set claude
  pass show anthropic | groove-trio credentials set claude
  groove-trio credentials list
  groove-trio credentials remove claude
  groove-trio credentials rebind --old-hostname laptop""",
)
@project_option
@json_option
@click.pass_context
def credentials(ctx: click.Context, *, as_json: bool) -> None:
    """Store providers' keys, encrypted for this machine.

    A key is handed to the programs of its provider's agents and to nobody else. Once stored it is
    never shown again. Without a verb, lists whose keys are stored.
    """
    if ctx.invoked_subcommand is None:
        _list(as_json=as_json)


@credentials.command(
    "list",
    epilog="\b\nExamples:\n  groove-trio credentials list\n  groove-trio credentials list --json",
)
@project_option
@json_option
def list_keys(as_json: bool) -> None:
    """List whose keys are stored, and since when."""
    _list(as_json=as_json)


def _list(*, as_json: bool) -> None:
    views = _ask(lambda groove: groove.credentials(), _offline_views)
    if as_json:
        print_json(views)
        return
    rows = [
        (each.provider, each.variable, clock_text(each.set), clock_text(each.sealed))
        for each in views
    ]
    print_table(COLUMNS, rows, "No keys are stored")


@credentials.command(
    "set",
    context_settings={"ignore_unknown_options": True},
    epilog="""\b
Examples:
  groove-trio credentials set claude
  groove-trio credentials set opencode --variable OPENAI_API_KEY < key.txt""",
)
@project_option
@json_option
@click.option("--variable", metavar="NAME", help="The variable it is handed over in.")
@click.argument("provider")
@click.argument("extra", nargs=-1, type=click.UNPROCESSED, metavar="")
def set_key(provider: str, variable: str | None, extra: tuple[str, ...], as_json: bool) -> None:
    """Store a provider's key, asked for without echo or read from standard input.

    It takes the place of one that is stored already.
    """
    if extra:
        raise BadRequest(NEVER_ARGV, field="value")
    checked_provider(provider)
    secret = _read_key(provider)
    request = CredentialRequest.checked(secret, variable)
    view = _ask(
        lambda groove: groove.set_credential(provider, secret, variable=request.variable),
        lambda file: _stored(file, provider, request),
        quiet=as_json,
    )
    if as_json:
        print_json(view)
        return
    click.echo(f"Stored the key of {safe(view.provider)}")
    if not view.known:
        _note("no provider here takes a key by this name; it waits for one that does")
    _note_machine()


@credentials.command(
    epilog="""\b
Examples:
  groove-trio credentials remove claude
  groove-trio credentials remove --all"""
)
@project_option
@json_option
@click.option("--all", "everything", is_flag=True, help="All of them, even if they can't be read.")
@click.argument("provider", required=False)
def remove(provider: str | None, everything: bool, as_json: bool) -> None:
    """Forget a provider's key."""
    if (provider is None) != everything:
        raise click.UsageError("give a provider, or --all")
    if provider is None:
        there = _file().discard()
        _say({"removed": there}, "Removed all keys" if there else "No keys are stored", as_json)
        return
    checked_provider(provider)
    view = _ask(
        lambda groove: groove.remove_credential(provider),
        lambda file: _viewed(file.remove(provider)),
        quiet=as_json,
    )
    _say(view, f"Removed the key of {safe(provider)}", as_json)


@credentials.command(
    epilog="""\b
Examples:
  groove-trio credentials rebind --old-hostname laptop
  groove-trio credentials rebind --old-home /srv/ada --old-machine-id ''"""
)
@json_option
@click.option("--old-hostname", metavar="NAME", help="The hostname before, if it was another.")
@click.option("--old-home", metavar="DIRECTORY", help="The home directory before.")
@click.option(
    "--old-machine-id", metavar="ID", help="What /etc/machine-id said; '' if there was none."
)
def rebind(as_json: bool, **given: str | None) -> None:
    """Encrypt the stored keys anew, after the machine's name or your home directory changed.

    What is not given is taken to be as it is now. Needs no daemon, and does no harm to one.
    """
    from groove_trio.shell.machine import this_machine

    named = {name.removeprefix("old_"): value for name, value in given.items() if value is not None}
    old = this_machine()._replace(**named)
    views = [_viewed(each) for each in _file().rebind(old)]
    names = ", ".join(each.provider for each in views)
    _say(views, f"The keys of {safe(names)} belong to this machine now", as_json)
    if not as_json:
        _note_machine()


# The value


def _read_key(provider: str) -> Secret:
    if sys.stdin.isatty():
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)
            try:
                return Secret(getpass.getpass(f"Key of {provider}: ").strip())
            except getpass.GetPassWarning:
                raise BadRequest("this terminal can't ask without echo; pipe the key in") from None
            except EOFError:
                raise BadRequest("no key was given", field="value") from None
    data = sys.stdin.buffer.read(MAX_KEY + 3)
    # One line end, as echo and editors leave it. What is not ASCII is refused with the rest.
    return Secret(data.removesuffix(b"\n").removesuffix(b"\r").decode("ascii", "replace"))


# The way to the keys


def _ask(
    online: Callable[[Client], Awaitable[T]],
    offline: Callable[[CredentialFile], T],
    *,
    quiet: bool = True,
) -> T:
    """Through the daemon if one runs here, else on the files."""
    if _has_daemon():
        return run(online)
    answer = offline(_file())
    if not quiet:
        _note("no daemon runs here, so no project's log has a record of this")
    return answer


def _has_daemon() -> bool:
    if daemon_url() is not None:
        return True  # an agent's processes, which may not: the daemon says so
    try:
        address_of(project_given() or find_project())
    except Unreachable:
        return False
    return True


def _file() -> CredentialFile:
    from groove_trio.shell.credentials import CredentialFile
    from groove_trio.shell.private import config_directory

    return CredentialFile(config_directory())


def _viewed(record: Any) -> CredentialView:
    from groove_trio.providers.known import known_providers
    from groove_trio.shell.credentials import view

    return view(record, known_providers())


def _offline_views(file: CredentialFile) -> list[CredentialView]:
    return [_viewed(each) for each in file.records()]


def _stored(file: CredentialFile, provider: str, request: CredentialRequest) -> CredentialView:
    from groove_trio.providers.known import known_providers
    from groove_trio.shell.credentials import check_variable

    check_variable(known_providers().get(provider), request.variable)
    return _viewed(file.store(provider, request.variable, request.secret))


# What is told


def _say(value: object, line: str, as_json: bool) -> None:
    if as_json:
        print_json(value)
    else:
        click.echo(line)


def _note(text: str) -> None:
    click.echo(f"groove-trio: {text}", err=True)


def _note_machine() -> None:
    from groove_trio.shell.machine import this_machine

    if not this_machine().machine_id:
        _note(
            "this machine has no /etc/machine-id: with a copy of your files, the keys open on any "
            "machine of the same hostname and home directory"
        )
