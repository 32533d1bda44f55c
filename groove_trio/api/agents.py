"""Handlers for the agents and what they wrote."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from groove_trio.api.calls import Call
from groove_trio.words.agents import AgentPatch, AgentSpec, AgentView, InstructRequest, StopRequest
from groove_trio.words.base import MAX_PAGE, Word
from groove_trio.words.output import OutputPage


class PageQuery(Word):
    """A page: what comes after a sequence number, at most `limit` of it.

    A negative `after` counts from the end: ``-10`` gives the last ten.
    """

    after: Annotated[int, Meta(ge=-MAX_PAGE, le=2**62)] = 0
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 100


async def list_agents(call: Call[None, None]) -> list[AgentView]:
    """All agents, oldest first."""
    return call.groove.agents()


async def create(call: Call[None, AgentSpec]) -> AgentView:
    """Spawns; answers when the program runs."""
    return await call.groove.spawn(call.body, actor=call.actor)


async def show(call: Call[None, None]) -> AgentView:
    """One agent."""
    return call.groove.agent(call.params["id"])


async def change(call: Call[None, AgentPatch]) -> AgentView:
    """Changes name, restart policy or grace."""
    return await call.groove.patch(call.params["id"], call.body, actor=call.actor)


async def remove(call: Call[None, None]) -> AgentView:
    """Forgets an agent that does not run."""
    return await call.groove.remove(call.params["id"], actor=call.actor)


async def stop(call: Call[None, StopRequest]) -> AgentView:
    """Stops; answers when no process of its tree is left."""
    return await call.groove.stop(call.params["id"], call.body.grace_s, actor=call.actor)


async def restart(call: Call[None, None]) -> AgentView:
    """Stops where needed, then starts anew."""
    return await call.groove.restart(call.params["id"], actor=call.actor)


async def resume(call: Call[None, None]) -> AgentView:
    """Starts what an earlier daemon left behind."""
    return await call.groove.resume(call.params["id"], actor=call.actor)


async def instruct(call: Call[None, InstructRequest]) -> AgentView:
    """Hands a follow-up to a running agent."""
    return await call.groove.instruct(call.params["id"], call.body.text, actor=call.actor)


async def output(call: Call[PageQuery, None]) -> OutputPage:
    """What an agent wrote, by sequence number."""
    agent = call.agent(call.params["id"])
    return await call.groove.output(agent, call.query.after, call.query.limit)
