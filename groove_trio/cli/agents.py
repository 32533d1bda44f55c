"""Verbs about agents that exist, and what can be spawned."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable

import anyio
import click

from groove_trio.cli.show import (
    clock_text,
    console,
    make_table,
    patterns_text,
    print_facts,
    print_json,
    print_table,
)
from groove_trio.cli.verb import STOP_S, agent_argument, find_agent, run, verb
from groove_trio.client import Client
from groove_trio.words.agents import MAX_GRACE_S, AgentView, Hold

COLUMNS = ("id", "name", "role", "state", "scope", "held by", "pid", "restarts", "since", "reason")
REDRAW_S = 0.1

LEVELS = {
    "gate": "the kernel asks before every change that any of its processes makes",
    "wall": "the kernel refuses what the wall leaves out; hooks ask about the rest",
    "hooks": "its own tools ask; NOTHING HOLDS the other programs that it runs",
}
"""What each level of containment comes to."""

HOW = {"exact": "exactly", "wider": "WIDER than it says", "narrower": "narrower than it says"}


def row(view: AgentView) -> tuple[object, ...]:
    """An agent's cells for `COLUMNS`."""
    since = clock_text(view.ended or view.started)
    scope = patterns_text(view.scope)
    return (view.id, view.name, view.role, view.state, scope, view.containment, view.pid,
            view.restarts, since, view.reason)  # fmt: skip


@verb(
    """
    groove-trio agents
    groove-trio agents --watch
    groove-trio agents --json | jq -r '.[] | select(.state == "failed") | .id'
    """
)
@click.option("-w", "--watch", is_flag=True, help="Go on showing them as they change.")
def agents(watch: bool, as_json: bool) -> None:
    """List the agents.

    With --json, an array of all agents.
    """
    if watch:
        if as_json or not sys.stdout.isatty():
            raise click.UsageError("--watch is for a terminal; a program follows `events --json`")
        run(_watch, None)
        return
    views = run(lambda groove: groove.agents())
    if as_json:
        print_json(views)
    else:
        print_table(COLUMNS, [row(view) for view in views], "There are no agents.")


async def _watch(groove: Client) -> None:
    from rich.live import Live

    with Live(console=console(), auto_refresh=False, vertical_overflow="crop") as live:
        async with groove.events() as events:
            async for _ in events:
                views = await groove.agents()
                live.update(make_table(COLUMNS, [row(view) for view in views]), refresh=True)
                await anyio.sleep(REDRAW_S)  # whatever happens in between is one redrawing


@verb(
    """
    groove-trio agent tester
    groove-trio agent --json tester | jq -r '.held[] | select(.how == "wider").pattern'
    """
)
@agent_argument
def agent(agent: str, as_json: bool) -> None:
    """Show one agent, and how firmly it is held.

    Each pattern of its scope is held exactly, or wider or narrower than it says, and by what. The
    canary tells what was tried from inside its sandbox before its program ran, and how it failed.
    """
    view = run(lambda groove: find_agent(groove, agent))
    if as_json:
        print_json(view)
        return
    print_facts(_facts(view))


def _facts(view: AgentView) -> dict[str, object]:
    attempts = [f"{attempt} failed ({name})" for attempt, name in view.canary.items()]
    exit_of = view.exit_signal if view.exit_code is None else view.exit_code
    return {
        "id": view.id,
        "name": view.name,
        "role": view.role,
        "provider": view.provider,
        "state": f"{view.state} ({view.reason})" if view.reason else view.state,
        "process": view.pid,
        "exit": exit_of,
        "directory": view.cwd,
        "started": clock_text(view.started) or None,
        "ended": clock_text(view.ended) or None,
        "restarts": view.restarts,
        "held by": f"{view.containment}: {LEVELS[view.containment]}",
        "canary": ", ".join(attempts) or "none was sent",
        "scope": [*map(_held_text, view.held)] or patterns_text(view.scope),
    }


def _held_text(hold: Hold) -> str:
    why = f": {hold.why}" if hold.why else ""
    return f"{hold.pattern} is held by {hold.by}, {HOW[hold.how]}{why}"


def _act(
    agent: str,
    as_json: bool,
    act: Callable[[Client, str], Awaitable[AgentView]],
    deadline_s: float,
    said: str,
) -> None:
    async def work(groove: Client) -> AgentView:
        return await act(groove, (await find_agent(groove, agent)).id)

    view = run(work, deadline_s)
    if as_json:
        print_json(view)
        return
    reason = f": {view.reason}" if view.reason else ""
    click.echo(f"{said} {view.name} ({view.id}), now {view.state}{reason}")


@verb(
    """
    groove-trio kill tester
    groove-trio kill 3fa9 --grace 0
    """
)
@agent_argument
@click.option(
    "--grace",
    type=click.FloatRange(0, MAX_GRACE_S),
    metavar="SECONDS",
    help="Time between SIGTERM and SIGKILL; the agent's own if left out.",
)
def kill(agent: str, grace: float | None, as_json: bool) -> None:
    """Stop an agent and all its processes.

    Sends SIGTERM to the whole process tree and SIGKILL after the grace period, and returns when
    nothing of it is left. AGENT is an id, a name, or the unique start of either.
    """
    _act(agent, as_json, lambda groove, key: groove.stop(key, grace), STOP_S, "Stopped")


@verb(
    """
    groove-trio restart tester
    """
)
@agent_argument
def restart(agent: str, as_json: bool) -> None:
    """Stop an agent and start it anew.

    Its restart count begins at zero again, so this also gets a parked agent going.
    """
    _act(agent, as_json, lambda groove, key: groove.restart(key), STOP_S, "Restarted")


@verb(
    """
    groove-trio resume tester
    """
)
@agent_argument
def resume(agent: str, as_json: bool) -> None:
    """Start an agent that a dead daemon left behind.

    Such an agent is "interrupted" and goes on holding its scope until it is resumed or removed.
    """
    _act(agent, as_json, lambda groove, key: groove.resume(key), STOP_S, "Resumed")


@verb(
    """
    groove-trio remove tester
    """
)
@agent_argument
def remove(agent: str, as_json: bool) -> None:
    """Forget an agent that does not run.

    Frees its scope and its leases. What it wrote is deleted with it; the audit log stays.
    """
    _act(agent, as_json, lambda groove, key: groove.remove(key), STOP_S, "Removed")


@verb(
    """
    groove-trio instruct tester "now the slow tests as well"
    git diff | groove-trio instruct reviewer -
    """
)
@agent_argument
@click.argument("text")
def instruct(agent: str, text: str, as_json: bool) -> None:
    """Hand a running agent a follow-up.

    The agent must have been spawned with --interactive. TEXT is the follow-up, or - to read it
    from standard input.
    """
    said = sys.stdin.read() if text == "-" else text
    _act(agent, as_json, lambda groove, key: groove.instruct(key, said), STOP_S, "Told")


@verb(
    """
    groove-trio providers
    """
)
def providers(as_json: bool) -> None:
    """List what can be spawned, and how firmly each can be held to its scope."""
    views = run(lambda groove: groove.providers())
    if as_json:
        print_json(views)
        return
    rows = [(view.name, " ".join(view.containment), view.summary) for view in views]
    print_table(("name", "containment", "what it is"), rows, "There are no providers.")
