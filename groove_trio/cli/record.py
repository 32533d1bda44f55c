"""Verbs about the audit log."""

from __future__ import annotations

import os
import re
import time
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import click
import msgspec

from groove_trio.cli.show import clock_text, print_facts, print_json, safe
from groove_trio.cli.verb import json_option, project_given, project_option, run
from groove_trio.client import Client
from groove_trio.words.audit import Verification
from groove_trio.words.base import MAX_PAGE
from groove_trio.words.clock import NS, instant, rfc3339
from groove_trio.words.errors import EXIT_DIFFERS, GrooveError, shown

SHOWN = 50  # records, where nothing else is asked for: a screen
POLL_S = 0.5
_KNOWN = frozenset({"seq", "time", "actor", "action", "agent", "detail", "prev", "mac"})
_AGO = re.compile(r"\A([0-9]{1,9})([smhdw])\Z")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def _moment(_ctx: click.Context, _parameter: click.Parameter, text: str) -> str:
    """A time as records have it: so long ago, RFC 3339, or on the clock of this machine."""
    if not text:
        return ""
    if ago := _AGO.match(text):
        return rfc3339(max(0, time.time_ns() - int(ago[1]) * _UNITS[ago[2]] * NS))
    try:
        return rfc3339(instant(text))
    except ValueError:
        pass
    try:
        return rfc3339(int(datetime.fromisoformat(text).timestamp()) * NS)
    except (ValueError, OverflowError):
        hint = "try 10m, 2026-11-22 or 2026-11-22T17:18:00Z"
        raise click.BadParameter(f"{shown(text)} is no time; {hint}") from None


@click.group(
    invoke_without_command=True,
    epilog="""\b
Examples:
  groove-trio audit
  groove-trio audit --agent 3fa9c21e --action knock.denied -n 0
  groove-trio audit --since 10m --actor agent
  groove-trio audit --follow --json | jq -c .action
  groove-trio audit verify""",
)
@project_option
@json_option
@click.option("--agent", default="", help="Only records about this agent, by id.")
@click.option("--action", default="", help="Only this action, such as knock.denied, or knock.")
@click.option("--actor", default="", help="Only what this one did: owner, agent, agent:3fa9c21e.")
@click.option(
    "--since",
    callback=_moment,
    default="",
    metavar="TIME",
    help="Only from then on: 10m, or a time.",
)
@click.option("--until", callback=_moment, default="", metavar="TIME", help="Only before then.")
@click.option("--after", type=click.IntRange(0), metavar="SEQ", help="Only after this number.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(0),
    metavar="N",
    help=f"Only the last N; 0 for all.  [default: {SHOWN}, or all with --after or --since]",
)
@click.option("-f", "--follow", is_flag=True, help="Go on as records are added.")
@click.pass_context
def audit(
    ctx: click.Context,
    /,
    *,
    after: int | None,
    lines: int | None,
    follow: bool,
    as_json: bool,
    **wanted: str,
) -> None:
    """Show or verify the audit log.

    Without a verb, shows its records, oldest first. With --json, one record a line, exactly as
    it stands in the log.
    """
    if ctx.invoked_subcommand is not None:
        return
    begun = after is not None or wanted["since"]
    count = lines if lines is not None else (0 if begun else SHOWN)

    async def work(groove: Client) -> None:
        seen = after or 0
        if count:
            end = (await groove.status()).audit_seq
            for record in await _last(groove, seen, end, count, wanted):
                _print(record, as_json=as_json)
            seen = max(seen, end)
        while follow or not count:
            page = await groove.audit(seen, MAX_PAGE, **wanted)
            for record in page.records:
                _print(bytes(record), as_json=as_json)
            seen = page.next
            if not page.more:
                if not follow:
                    return
                await anyio.sleep(POLL_S)

    run(work, None)


async def _last(
    groove: Client, after: int, end: int, count: int, wanted: dict[str, str]
) -> list[bytes]:
    """The last `count` records that match, looked for from the end in ever longer stretches."""
    found: list[bytes] = []
    width = max(count, MAX_PAGE)
    while end > after and len(found) < count:
        begin = max(after, end - width)
        found = [each async for each in _stretch(groove, begin, end, wanted)] + found
        end, width = begin, width * 4
    return found[-count:]


async def _stretch(
    groove: Client, after: int, end: int, wanted: dict[str, str]
) -> AsyncIterator[bytes]:
    """The records that match after number `after`, up to number `end`."""
    more = True
    while more and after < end:
        page = await groove.audit(after, min(MAX_PAGE, end - after), **wanted)
        after, more = page.next, page.more
        for record in map(bytes, page.records):
            if _seq_of(record) > end:
                return
            yield record


class _Numbered(msgspec.Struct):
    seq: int


def _seq_of(record: bytes) -> int:
    return msgspec.json.decode(record, type=_Numbered).seq


def _print(record: bytes, *, as_json: bool) -> None:
    if as_json:
        click.echo(record)
        return
    told: dict[str, Any] = msgspec.json.decode(record, type=dict[str, Any])
    detail = dict(told.get("detail") or {}) | {k: v for k, v in told.items() if k not in _KNOWN}
    facts = " ".join(f"{name}={_value(value)}" for name, value in detail.items())
    about = told.get("agent") or "-"
    head = f"{told.get('seq')}  {clock_text(told.get('time'))}  {told.get('actor')}"
    click.echo(safe(f"{head}  {told.get('action')}  {about}  {facts}".rstrip()))


def _value(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


@audit.command(
    epilog="""\b
Examples:
  groove-trio audit verify
  groove-trio -p ~/project audit verify --json
  groove-trio audit verify --known shop.key ./audit-of-shop"""
)
@project_option
@json_option
@click.option(
    "--known",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="What `groove-trio audit key` printed where the log was written.",
)
@click.argument("directory", required=False, type=click.Path(path_type=Path))
def verify(directory: Path | None, known: Path | None, *, as_json: bool) -> None:
    """Check that the audit log is whole and unchanged.

    Reads the files themselves; needs no daemon. Exits 5 and names the first bad line if the log
    is not what was written. Takes the seed and the checkpoint of this user, or, for a log of
    another machine, --known. DIRECTORY is the one that holds 00000001.jsonl.
    """
    from groove_trio.shell.heads import verified, verify_log
    from groove_trio.verify import MAX_CHECKPOINT, checkpoint_from

    place = directory or _log_directory()
    if known is None:
        found = verify_log(place)
    else:
        with known.open("rb") as file:
            try:
                told = checkpoint_from(file.read(MAX_CHECKPOINT))
            except ValueError as error:
                raise click.UsageError(f"{shown(str(known))} is {error}") from error
        found = verified(place, None, told)
    if as_json:
        print_json(found)
    elif found.ok:
        click.echo(f"The audit log is whole: {found.records} records")
        print_facts({"head": found.head, **_reservations(found)})
    else:
        click.echo(f"The audit log is NOT what was written: {safe(found.problem or '')}")
        facts = {"first bad line": found.bad_line, "good before it": found.records}
        print_facts(facts | _reservations(found))
    if not found.ok:
        click.get_current_context().exit(EXIT_DIFFERS)


def _reservations(found: Verification) -> dict[str, Any]:
    """What was not checked, and what was given up."""
    return {
        "losses accepted": ", ".join(f"record {each}" for each in found.accepted) or None,
        "not checked": [
            *([] if found.keyed else ["the macs: a log written anew would not show"]),
            *([] if found.checkpoint is not None else ["the head: a cut end would not show"]),
        ],
    }


@audit.command(
    epilog="""\b
Examples:
  (umask 077; groove-trio audit key > shop.key)"""
)
@project_option
@json_option
def key(*, as_json: bool) -> None:  # noqa: ARG001 - it is JSON anyway
    """Print what it takes to verify this log on another machine: its key and its head.

    Whoever has it can also write a log that passes for this one; it opens nothing else. For
    `groove-trio audit verify --known`, and for verify.py.
    """
    from groove_trio.shell.heads import log_key
    from groove_trio.shell.private import config_directory

    print_json(log_key(_log_directory(), config_directory())._asdict())


@audit.command(
    epilog="""\b
Examples:
  groove-trio audit accept"""
)
@project_option
@json_option
def accept(*, as_json: bool) -> None:
    """Go on with a log that is not what its checkpoint knows, and record that in it.

    For when you know why: the project was moved or copied, the log restored from a backup or
    removed. No daemon may run. What is lost stays lost, and every verification tells of it.
    """
    from groove_trio.shell.audit import accept_log

    accepted = accept_log(_log_directory())
    if as_json:
        print_json({"accepted": accepted})
    elif accepted is None:
        click.echo("There is nothing to accept: the log is what its checkpoint knows")
    else:
        click.echo(f"Accepted and recorded: {safe(accepted)}")


def _log_directory() -> Path:
    given = project_given()
    here = Path.cwd()
    places = [given] if given is not None else [here, *here.parents]
    for place in places:
        if os.path.isdir(place / ".groove"):  # where the log itself was removed, that must show
            return place / ".groove" / "audit"
    program, _, verb = click.get_current_context().command_path.partition(" ")
    raise GrooveError(
        f"there is no audit log in {shown(str(places[0]))}"
        + ("" if given is not None else " or a directory above it")
        + f"; name the project: {program} -p DIRECTORY {verb}"
    )
