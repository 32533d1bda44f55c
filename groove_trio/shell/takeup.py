"""What an earlier daemon left: its agents, their scopes, and processes that should not live.

Tidily ended daemons leave nothing but records. After a crash, agents that were live become
``interrupted`` and hold their scopes again before anyone else can ask; whatever still runs of
any agent, known by its environment, is killed before that, because nobody supervises it.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterable
from functools import partial

import trio

from groove_trio.rules.chain import AGENT_RESTORE
from groove_trio.shell.agent import Agent
from groove_trio.shell.census import Census
from groove_trio.shell.ending import end_leftovers
from groove_trio.shell.holding import Holdings
from groove_trio.shell.store import Loaded, Store
from groove_trio.shell.table import AgentTable, now
from groove_trio.words.actors import SYSTEM
from groove_trio.words.base import AgentId
from groove_trio.words.errors import (
    AuditUnavailable,
    GrooveError,
    OutOfResources,
    UnsafeState,
    WrongState,
)

LEFTOVER_GRACE_S = 1.0
"""What a process that nobody supervises any more gets between SIGTERM and SIGKILL."""

_log = logging.getLogger("groove_trio")


async def take_up(store: Store, table: AgentTable, holdings: Holdings, census: Census) -> None:
    """Fills the table with the agents of an earlier daemon, and ends what lives of them.

    Raises:
        UnsafeState: A state file has the wrong type, owner or mode, or can't be read.
        AuditUnavailable: The log can't be written.
    """
    loaded = await _load(store)
    for stored in loaded.agents:
        status = stored.status
        agent = Agent(stored.spec, status, table.new_log(status.id, stored.last_seq))
        agent.saved = status
        table.restore(agent)
    await end_all([*(agent.id for agent in table), *loaded.aside], census)
    unrecorded: list[AuditUnavailable] = []
    async with trio.open_nursery() as nursery:
        for agent in table:
            if agent.live or agent.state == "interrupted":
                nursery.start_soon(_take_up_one, agent, table, holdings, unrecorded)
    if unrecorded:
        raise unrecorded[0]


async def _load(store: Store) -> Loaded:
    try:
        await trio.to_thread.run_sync(store.prepare)
        return await trio.to_thread.run_sync(store.load_all)
    except OSError as error:
        where = error.filename or store.directory
        detail = f"the state in {where} can't be read: {error.strerror}"
        raise UnsafeState(detail, path=str(where)) from error


async def _take_up_one(
    agent: Agent, table: AgentTable, holdings: Holdings, unrecorded: list[AuditUnavailable]
) -> None:
    try:
        if agent.live:
            reason = f"the daemon ended while the agent was {agent.state}"
            changes = {"pid": None, "ended": now()}
            await table.durable(table.move(agent, "interrupted", SYSTEM, reason, **changes))
            await table.save(agent)
        await holdings.hold(agent, SYSTEM, action=AGENT_RESTORE)
    except AuditUnavailable as error:
        unrecorded.append(error)  # a start without its scope would give that to another
    except GrooveError as error:
        # Its files can't be right, then. It may still be resumed, and asks for the scope again.
        _log.warning("%s does not hold its scope: %s", agent.name, error)


async def end_all(agents: Iterable[AgentId], census: Census) -> None:
    """Ends what lives of agents that nobody supervises; what can't be ended is told of."""
    found = await census.find(list(agents))
    async with trio.open_nursery() as nursery:
        for agent, processes in found.items():
            if processes:
                _log.warning("ending what an earlier run left of agent %s", agent)
                nursery.start_soon(partial(end_one, agent, census, strict=False))


async def end_one(agent: AgentId, census: Census, *, strict: bool = True) -> None:
    """Ends what lives of one agent.

    Raises:
        WrongState: Something of it can't be ended (only when `strict`).
        OutOfResources: Nobody can tell whether something of it lives.
    """
    try:
        left = await end_leftovers(agent, census, LEFTOVER_GRACE_S)
    except OSError as error:
        detail = f"whether processes of its earlier run live can't be seen: {error.strerror}"
        name = errno.errorcode.get(error.errno or 0, "EIO")
        raise OutOfResources(detail, errno=name) from error
    if not left:
        return
    pids = ", ".join(map(str, left))
    _log.warning("processes of agent %s can't be killed: %s", agent, pids)
    if strict:
        detail = f"processes of its earlier run can't be ended: {pids}"
        raise WrongState(detail, state="interrupted", pids=left)
