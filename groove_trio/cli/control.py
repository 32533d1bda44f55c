"""Verbs about the daemon itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from groove_trio.cli.show import clock_text, duration_text, print_facts, print_json, safe
from groove_trio.cli.verb import project_given, run, verb
from groove_trio.client import find_project
from groove_trio.rules.admission import DEFAULT_HOST, DEFAULT_PORT, FALLBACK_PORTS
from groove_trio.words.daemon import Status

MAX_PORT = 65_535


@verb(
    """
    groove-trio start
    groove-trio start --detach
    groove-trio start --port 0 --project ~/project
    """
)
@click.option("-d", "--detach", is_flag=True, help="Return when it listens, and let it go on.")
@click.option(
    "--host", default=DEFAULT_HOST, show_default=True, help="A loopback address, and no other."
)
@click.option(
    "--port",
    type=click.IntRange(0, MAX_PORT),
    help=f"0 for any free one.  [default: {DEFAULT_PORT}, "
    f"or {FALLBACK_PORTS[0]} to {FALLBACK_PORTS[-1]} if taken]",
)
def start(detach: bool, host: str, port: int | None, as_json: bool) -> None:
    """Start the daemon for a project.

    The project is --project or the current directory. Without --detach it stays in the
    foreground: Ctrl-C stops it and its agents, a second Ctrl-C at once. With --detach its
    messages go to .groove/daemon.log.

    It only ever listens on this machine; any other address is refused (exit code 3).
    """
    from groove_trio.cli.launch import run_foreground, start_detached

    project = project_given() or Path.cwd()
    if not detach:
        run_foreground(project, host, port, as_json=as_json)
    started = start_detached(project, host, port)
    if os.geteuid() == 0:
        from groove_trio.cli.daemon import RUN_BY_ROOT

        click.echo(f"groove-trio: warning: {RUN_BY_ROOT}.", err=True)
    if as_json:
        print_json(started._asdict())
    else:
        click.echo(
            f"groove-trio {started.version} listening on {started.url} for {safe(started.project)}"
        )


@verb(
    """
    groove-trio stop
    groove-trio -p ~/project stop
    """
)
def stop(as_json: bool) -> None:
    """Stop the daemon and all its agents.

    Returns when none of its processes is left. Exits 4 if no daemon runs.
    """
    from groove_trio.cli.launch import stop_daemon

    project = project_given() or find_project()

    def tell(seconds: float) -> None:
        if not as_json and sys.stderr.isatty():
            click.echo(f"\rWaiting for the agents to end, {seconds:.0f} s", err=True, nl=False)

    info = stop_daemon(project, tell)
    if as_json:
        print_json({"pid": info.pid, "url": info.url, "project": str(project)})
    else:
        click.echo(f"Stopped the daemon of {safe(str(project))} (process {info.pid})")


@verb(
    """
    groove-trio status
    groove-trio status --json | jq .agents
    """
)
def status(as_json: bool) -> None:
    """Show how the daemon is. Exits 4 if none runs."""
    told = run(lambda groove: groove.status())
    if as_json:
        print_json(told)
    else:
        print_facts(_facts(told))


def _facts(told: Status) -> dict[str, object]:
    states = ", ".join(f"{count} {state}" for state, count in sorted(told.agents.items()))
    log = f"{told.audit_seq} records"
    return {
        "groove-trio": told.version,
        "url": told.url,
        "project": told.project,
        "process": told.pid,
        "started": f"{clock_text(told.started)}, {duration_text(told.uptime_s)} ago",
        "shutting down": "yes" if told.draining else None,
        "agents": states or "none",
        "leases": told.leases,
        "connections": f"{told.connections}, of them {told.subscribers} following events",
        "audit log": log if told.audit_ok else f"{log}; it CANNOT BE WRITTEN, nothing may change",
        "containment": " ".join(told.containment),
        "missing": told.missing,
    }
