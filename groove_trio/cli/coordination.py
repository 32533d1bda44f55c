"""Verbs about who may write what."""

from __future__ import annotations

import click

from groove_trio.cli.show import (
    clock_text,
    patterns_text,
    print_facts,
    print_json,
    print_table,
    safe,
)
from groove_trio.cli.verb import find_agent, from_here, project_here, run, verb
from groove_trio.client import Client
from groove_trio.words.base import AgentId
from groove_trio.words.leases import DEFAULT_LEASE_S, MAX_LEASE_S, MIN_LEASE_S, Explanation, Lease

LEASE_COLUMNS = ("lease", "agent", "until", "paths", "reason")

agent_option = click.option(
    "--agent",
    envvar="GROOVE_AGENT",
    required=True,
    show_envvar=True,
    help="Whose lease: an id, a name, or the unique start of either.",
)


async def _agent_id(groove: Client, key: str) -> AgentId:
    # An agent may name itself, but may not list the others to look itself up.
    import os

    return AgentId(key) if key == os.environ.get("GROOVE_AGENT") else (
        await find_agent(groove, key)
    ).id  # fmt: skip


@verb(
    """
    groove-trio explain src/app.py
    groove-trio explain .git/hooks/pre-commit
    """
)
@click.argument("path")
def explain(path: str, as_json: bool) -> None:
    """Show who may write a path, and why.

    A relative PATH counts from the current directory if that is in the project, otherwise from
    the project root. Symbolic links are followed. With --json, the list of protected patterns
    is in the answer too.
    """
    place = from_here(path, project_here())
    told = run(lambda groove: groove.explain(place))
    if as_json:
        print_json(told)
    else:
        _print_explanation(told)


def _print_explanation(told: Explanation) -> None:
    click.echo(safe(told.summary))
    owner = None if told.owner is None else f"{told.owner_name} ({told.owner})"
    lease = told.lease
    leased = lease and f"{lease.agent}, lease {lease.id}, until {clock_text(lease.until)}"
    print_facts(
        {
            "path": told.path or ".",
            "inside": "yes" if told.inside else "no: outside of the project",
            "exists": "yes" if told.exists else "no",
            "owner": owner,
            "pattern": told.pattern,
            "leased by": leased,
            "protected by": told.protected_by,
        }
    )


@verb(
    """
    groove-trio locks
    groove-trio locks --json | jq '.leases[].paths'
    """
)
def locks(as_json: bool) -> None:
    """Show who holds what: the agents' scopes and the leases."""
    view = run(lambda groove: groove.locks())
    if as_json:
        print_json(view)
        return
    rows = [(each.agent, each.name, patterns_text(each.scope)) for each in view.holdings]
    print_table(("agent", "name", "scope"), rows, "Nobody holds anything.")
    if view.leases:
        click.echo()
        print_table(LEASE_COLUMNS, [_cells(each) for each in view.leases], "")


def _cells(lease: Lease) -> tuple[str, ...]:
    return (lease.id, lease.agent, clock_text(lease.until), " ".join(lease.paths), lease.reason)


@verb(
    """
    groove-trio declare --agent tester CHANGELOG.md
    groove-trio declare --ttl 60 --reason "new entry" CHANGELOG.md   (inside an agent)
    """
)
@agent_option
@click.option(
    "--ttl",
    type=click.FloatRange(MIN_LEASE_S, MAX_LEASE_S),
    default=float(DEFAULT_LEASE_S),
    show_default=True,
    metavar="SECONDS",
    help="How long, unless given back before.",
)
@click.option("--reason", default="", help="What for; shown to whoever is refused meanwhile.")
@click.argument("paths", nargs=-1, required=True)
def declare(agent: str, ttl: float, reason: str, paths: tuple[str, ...], as_json: bool) -> None:
    """Take a lease on paths nobody owns, so that an agent may write them for a while.

    PATHS count as those of explain do. Exits 3 if another agent owns or leases one of them, and
    says which, who and until when.
    """
    project = project_here()
    places = [from_here(path, project) for path in paths]

    async def work(groove: Client) -> Lease:
        return await groove.declare(await _agent_id(groove, agent), places, ttl, reason=reason)

    lease = run(work)
    if as_json:
        print_json(lease)
    else:
        held = safe(", ".join(lease.paths))
        until = clock_text(lease.until)
        click.echo(f"Lease {lease.id}: {lease.agent} may write {held} until {until}")


@verb(
    """
    groove-trio complete --agent tester
    groove-trio complete --agent tester 0b5c7d21
    """
)
@agent_option
@click.argument("lease", required=False)
def complete(agent: str, lease: str | None, as_json: bool) -> None:
    """Give leases back: the one of that id, or all of the agent's."""

    async def work(groove: Client) -> list[Lease]:
        return await groove.complete(await _agent_id(groove, agent), lease)

    leases = run(work)
    if as_json:
        print_json(leases)
        return
    for each in leases:
        click.echo(f"Gave back {each.id}: {safe(', '.join(each.paths))}")
    if not leases:
        click.echo("There was no lease to give back.")
