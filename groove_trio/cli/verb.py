"""What all verbs share: their options, and the way to the daemon."""

from __future__ import annotations

import os
import select
import stat
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

import anyio
import click

from groove_trio.cli.root import READER_LEFT
from groove_trio.client import Client, connect_groove, find_project
from groove_trio.words.agents import MAX_GRACE_S, AgentView
from groove_trio.words.errors import BadRequest, UnknownAgent, Unreachable, shown

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

ANSWER_S = 30.0
"""How long a verb waits for the daemon before it says so."""

STOP_S = MAX_GRACE_S + ANSWER_S
"""The same for what waits for an agent's end."""

T = TypeVar("T")


def _keep_project(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.obj = value


project_option = click.option(
    "-p",
    "--project",
    metavar="DIRECTORY",
    expose_value=False,
    callback=_keep_project,
    help="The project; otherwise the one at or above the current directory with a daemon.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for a program.")


def verb(examples: str) -> Callable[[Callable[..., None]], click.Command]:
    """Makes a function a verb: with ``--project``, ``--json`` and examples in its help.

    Args:
        examples: One a line.
    """
    lines = "\n".join(f"  {line.strip()}" for line in examples.strip().splitlines())

    def decorate(function: Callable[..., None]) -> click.Command:
        command = click.command(epilog=f"\b\nExamples:\n{lines}")
        return command(project_option(json_option(function)))

    return decorate


def project_given() -> Path | None:
    """The project named on the command line, made absolute."""
    given = click.get_current_context().obj
    return None if given is None else Path(given).resolve()


def daemon_url() -> str | None:
    """The address that an agent's processes have in their environment; a project given wins."""
    return (os.environ.get("GROOVE_URL") or None) if project_given() is None else None


def run(work: Callable[[Client], Awaitable[T]], deadline_s: float | None = ANSWER_S) -> T:
    """Connects to the daemon and does the work, under asyncio: it starts 100 ms faster than trio.

    Args:
        work: What to do.
        deadline_s: Bounds it all; None for what goes on until somebody ends it.

    Raises:
        Unreachable: No daemon runs, or it does not answer in time.
    """
    url, project = daemon_url(), project_given()
    if deadline_s is None:
        Thread(target=_end_with_the_reader, daemon=True).start()

    async def main() -> T:
        with anyio.fail_after(deadline_s):
            async with connect_groove(url, project) as groove:
                return await work(groove)

    try:
        return anyio.run(main, backend="asyncio")
    except TimeoutError:
        raise Unreachable(
            f"the daemon did not answer within {deadline_s:g} s; "
            "its process may be stopped: look at groove-trio status"
        ) from None


def _end_with_the_reader() -> None:
    """Ends this process as soon as whoever reads its output through a pipe has left.

    Without it, what follows would learn of that with its next line, which may never come.
    """
    with suppress(OSError, ValueError):
        output = sys.stdout.fileno()
        if stat.S_ISFIFO(os.fstat(output).st_mode):
            poll = select.poll()
            poll.register(output, 0)  # an error is told unasked
            poll.poll()
            os._exit(READER_LEFT)


def pick(agents: list[AgentView], key: str) -> AgentView:
    """The agent that a user means: by id, by name, or by the unique start of either.

    Raises:
        UnknownAgent: None fits.
        BadRequest: Several do.
    """
    for fits in (
        [each for each in agents if each.id == key],
        [each for each in agents if each.name == key],
        [each for each in agents if key and (each.id.startswith(key) or each.name.startswith(key))],
    ):
        if len(fits) == 1:
            return fits[0]
        if fits:
            several = ", ".join(f"{each.id} ({each.name})" for each in fits[:5])
            raise BadRequest(f"{shown(key)} fits {len(fits)} agents: {several}; give more of it")
    raise UnknownAgent(f"there is no agent {shown(key)}; see groove-trio agents", agent=key)


async def find_agent(groove: Client, key: str) -> AgentView:
    """`pick` among the daemon's agents."""
    return pick(await groove.agents(), key)


def _complete_agent(
    ctx: click.Context, _parameter: click.Parameter, start: str
) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    try:
        with ctx:
            agents = run(lambda groove: groove.agents(), 2.0)
    except Exception:  # noqa: BLE001 - a completion has no place for an error
        return []
    names = [CompletionItem(each.name, help=f"{each.id} {each.state}") for each in agents]
    return [item for item in names if item.value.startswith(start)]


agent_argument = click.argument("agent", shell_complete=_complete_agent)


def from_here(path: str, project: Path | None) -> str:
    """A path as typed, for the daemon: from the current directory if that is in the project.

    Outside of the project it is left as it is, and then counts from the project root.
    """
    if project is None or os.path.isabs(path):
        return path
    here = Path.cwd()
    return str(here / path) if here.is_relative_to(project) else path


def project_here() -> Path | None:
    """The project that the verb is about, where that is known without asking the daemon."""
    given = project_given()
    if given is not None:
        return given
    if (url := daemon_url()) is not None:
        named = os.environ.get("GROOVE_PROJECT")
        return Path(named) if url and named else None
    return find_project().resolve()
