"""Verbs about the audit log."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import click
import msgspec

from groove_trio.cli.show import clock_text, print_facts, print_json, safe
from groove_trio.cli.verb import json_option, project_given, project_option, run
from groove_trio.client import Client
from groove_trio.words.base import MAX_PAGE
from groove_trio.words.errors import EXIT_DIFFERS, GrooveError, shown

SHOWN = 50  # records, where nothing else is asked for: a screen
POLL_S = 0.5
_KNOWN = frozenset({"seq", "time", "actor", "action", "agent", "detail", "prev", "mac"})


@click.group(
    invoke_without_command=True,
    epilog="""\b
Examples:
  groove-trio audit
  groove-trio audit --agent 3fa9c21e --action knock.denied -n 0
  groove-trio audit --follow --json | jq -c .action
  groove-trio audit verify""",
)
@project_option
@json_option
@click.option("--agent", default="", help="Only records about this agent, by id.")
@click.option("--action", default="", help="Only this action, such as agent.spawned.")
@click.option("--after", type=click.IntRange(0), metavar="SEQ", help="Only after this number.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(0),
    metavar="N",
    help=f"Only the last N; 0 for all.  [default: {SHOWN}, or all with --after]",
)
@click.option("-f", "--follow", is_flag=True, help="Go on as records are added.")
@click.pass_context
def audit(
    ctx: click.Context,
    *,
    agent: str,
    action: str,
    after: int | None,
    lines: int | None,
    follow: bool,
    as_json: bool,
) -> None:
    """Show or verify the audit log.

    Without a verb, shows its records, oldest first. With --json, one record a line, exactly as
    it stands in the log.
    """
    if ctx.invoked_subcommand is not None:
        return
    count = lines if lines is not None else (SHOWN if after is None else 0)

    async def work(groove: Client) -> None:
        seen = 0
        async for record, seq in _last(_records(groove, after or 0, agent, action), count):
            _print(record, as_json=as_json)
            seen = seq
        seen = seen or (await groove.status()).audit_seq
        while follow:
            async for record, seq in _records(groove, seen, agent, action):
                _print(record, as_json=as_json)
                seen = seq
            await anyio.sleep(POLL_S)

    run(work, None)


async def _records(
    groove: Client, after: int, agent: str, action: str
) -> AsyncIterator[tuple[bytes, int]]:
    more = True
    while more:
        page = await groove.audit(after, MAX_PAGE, agent=agent, action=action)
        after, more = page.next, page.more
        for record in page.records:
            yield bytes(record), after


async def _last(
    records: AsyncIterator[tuple[bytes, int]], count: int
) -> AsyncIterator[tuple[bytes, int]]:
    """All records, or the last `count` of them."""
    kept: deque[tuple[bytes, int]] = deque(maxlen=count or None)
    async for each in records:
        if not count:
            yield each
        else:
            kept.append(each)
    for each in kept:
        yield each


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
  groove-trio -p ~/project audit verify --json"""
)
@project_option
@json_option
def verify(as_json: bool) -> None:
    """Check that the audit log is whole and unchanged.

    Reads the files themselves; needs no daemon. Exits 5 and names the first bad line if the log
    is not what was written.
    """
    from groove_trio.shell.segments import verify_log

    found = verify_log(_log_directory())
    if as_json:
        print_json(found)
    elif found.ok:
        click.echo(f"The audit log is whole: {found.records} records")
        print_facts({"head": found.head})
    else:
        click.echo(f"The audit log is NOT what was written: {safe(found.problem or '')}")
        print_facts({"first bad line": found.bad_line, "good before it": found.records})
    if not found.ok:
        click.get_current_context().exit(EXIT_DIFFERS)


def _log_directory() -> Path:
    given = project_given()
    here = Path.cwd()
    places = [given] if given is not None else [here, *here.parents]
    for place in places:
        directory = place / ".groove" / "audit"
        if os.path.isdir(directory):
            return directory
    raise GrooveError(
        f"there is no audit log in {shown(str(places[0]))}"
        + ("" if given is not None else " or a directory above it")
        + "; name the project: groove-trio -p DIRECTORY audit verify"
    )
