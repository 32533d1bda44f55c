"""Verbs that follow: what an agent writes, and what happens."""

from __future__ import annotations

import sys

import click

from groove_trio.cli.show import clock_text, colours_wanted, line_text, patterns_text, safe, to_json
from groove_trio.cli.verb import agent_argument, find_agent, run, verb
from groove_trio.client import Client
from groove_trio.words import events as happened
from groove_trio.words.base import MAX_PAGE
from groove_trio.words.knocks import Denied
from groove_trio.words.output import OutputLine


@verb(
    """
    groove-trio logs tester
    groove-trio logs -n 20 tester
    groove-trio logs -f tester
    groove-trio logs --json tester | jq -r 'select(.stream == "err").text'
    """
)
@agent_argument
@click.option("-f", "--follow", is_flag=True, help="Go on until the agent has ended.")
@click.option("-n", "--lines", type=click.IntRange(0), metavar="N", help="Only the last N lines.")
@click.option("-t", "--times", is_flag=True, help="Begin each line with its time.")
def logs(agent: str, follow: bool, lines: int | None, times: bool, as_json: bool) -> None:
    """Show what an agent wrote.

    AGENT is an id, a name, or the unique start of either. With --json, one document a line:
    {"seq", "time", "stream", "text", "partial"}; "text" is as the agent wrote it.
    """
    colours = colours_wanted()

    def text(line: OutputLine) -> str:
        if as_json:
            return to_json(line) + "\n"
        time = f"{clock_text(line.time)}  " if times else ""
        end = "" if line.partial else "\n"
        return f"{time}{line_text(line.text, colours=colours)}{end}"

    async def work(groove: Client) -> None:
        view = await find_agent(groove, agent)
        after = 0 if lines is None else max(0, view.last_seq - lines)
        if follow:
            async with groove.follow_output(view.id, after) as written:
                async for line in written:
                    _write(text(line))
            return
        more = True
        while more:
            page = await groove.output(view.id, after, MAX_PAGE)
            _write("".join(map(text, page.lines)))
            after, more = page.next, page.more

    run(work, None)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


@verb(
    """
    groove-trio events
    groove-trio events --json | jq -c 'select(.event.type == "knockDecided")'
    """
)
@click.option(
    "--after", type=int, metavar="SEQ", help="Begin after this number; otherwise with all there is."
)
@click.option("--output", is_flag=True, help="Show the agents' output lines too.")
def events(after: int | None, output: bool, as_json: bool) -> None:
    """Show what happens, as it happens.

    Goes on until interrupted or until the daemon stops; a dropped connection is taken up again.
    With --json, one document a line, {"seq", "time", "event": {"type", ...}}, output included.
    """

    async def work(groove: Client) -> None:
        async with groove.events(after) as feed:
            async for envelope in feed:
                if as_json:
                    click.echo(to_json(envelope))
                elif output or not isinstance(envelope.event, happened.OutputAppended):
                    for line in event_lines(envelope.event):
                        click.echo(f"{clock_text(envelope.time)}  {line}")

    run(work, None)


def event_lines(event: happened.AnyEvent) -> list[str]:
    """An event for people; mostly one line, without control characters."""
    if isinstance(event, happened.OutputAppended):
        return [f"{event.id}  | {line_text(each.text, colours=False)}" for each in event.lines]
    return [safe(_agent_text(event) or _other_text(event))]


def _agent_text(event: happened.AnyEvent) -> str:
    match event:
        case happened.AgentAdded(agent=agent):
            return f"{agent.id}  {agent.name}: added, may write {patterns_text(agent.scope)}"
        case happened.AgentStateChanged(agent=agent, before=before, after=after, reason=reason):
            why = f" ({reason})" if reason else ""
            return f"{agent.id}  {agent.name}: {before} -> {after}{why}"
        case happened.AgentChanged(agent=agent):
            return f"{agent.id}  {agent.name}: changed"
        case happened.AgentRemoved(id=agent_id):
            return f"{agent_id}  removed"
        case _:
            return ""


def _asked(knock: happened.KnockDecided, path: str) -> str:
    """Who would do what; where the kernel asked, by which program and call."""
    program = f"{knock.tool or 'a program'} (process {knock.pid}) by {knock.call}: "
    return f"{knock.id}  {program if knock.call else ''}{knock.operation} {path}"


def _other_text(event: happened.AnyEvent) -> str:
    match event:
        case happened.KnockDecided(decision=Denied() as denied):
            return f"{_asked(event, denied.path)}: denied by {denied.rule}, {denied.reason}"
        case happened.KnockDecided(decision=granted):
            return f"{_asked(event, granted.path)}: granted by {granted.rule}"
        case happened.CallRefused(id=agent_id, call=call, pid=pid, tool=tool):
            program = f"{tool or 'a program'} (process {pid})"
            return f"{agent_id}  {program} by {call}: refused, no agent may"
        case happened.LeaseDeclared(lease=lease):
            until = clock_text(lease.until)
            return f"{lease.agent}  leased {', '.join(lease.paths)} until {until}"
        case happened.LeaseEnded(lease=lease, why=why):
            return f"{lease.agent}  lease on {', '.join(lease.paths)} ended: {why}"
        case happened.Gap(missed=missed, first=first, last=last):
            count = "an unknown number of" if missed is None else missed
            return f"missed {count} events, {first} to {last}"
        case happened.Snapshot(agents=agents, locks=locks):
            return f"{len(agents)} agents, {len(locks.leases)} leases"
        case _:
            return "the daemon is shutting down"
