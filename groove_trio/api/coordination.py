"""Handlers for knocks, leases and the question who may write what."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any

import trio
from msgspec import UNSET, Meta, Struct

from groove_trio.api.calls import Call
from groove_trio.providers.hooks import Touch, read_hook, tool_operation
from groove_trio.words.base import MAX_NAME, Path, Word
from groove_trio.words.errors import BadRequest, Busy
from groove_trio.words.knocks import Decision, Denied, KnockAnswer, Operation, Source
from groove_trio.words.leases import CompleteRequest, DeclareRequest, Explanation, Lease, LocksView

ANSWER_S = 2.0
"""How long a knock waits for the broker: an agent waits for it, so it is short."""


class ExplainQuery(Word):
    """The path asked about, relative to the project root."""

    path: Path


class KnockQuery(Word):
    """Names the agent whose hook speaks, which the hook's own body does not.

    The owner has to; an agent is known without it, and may name nobody else.
    """

    agent: Annotated[str, Meta(max_length=MAX_NAME)] = ""


class KnockBody(Struct, frozen=True, kw_only=True):
    """A knock in its plain form, or the JSON that a pre-tool hook gets on standard input.

    The plain form has ``agent``, ``path`` and ``operation`` or ``tool``; the hook's form is
    known by ``hook_event_name`` and names its agent in the query.
    """

    agent: Annotated[str, Meta(max_length=MAX_NAME)] = ""
    path: Path | None = None
    operation: Operation | None = None
    tool: Annotated[str, Meta(max_length=200)] = ""
    hook_event_name: Annotated[str, Meta(max_length=64)] = ""
    tool_name: Annotated[str, Meta(max_length=200)] = ""
    tool_input: dict[str, Any] = {}
    cwd: Annotated[str, Meta(max_length=4096)] = ""


async def knock(call: Call[KnockQuery, KnockBody]) -> KnockAnswer:
    """Answers one knock; of several paths in one hook, all must be granted."""
    body = call.body
    agent = call.agent(call.query.agent, body.agent)
    touches, tool, source = _touches(body)
    decide = partial(_decide, call, agent, touches, tool, source)
    decisions = await (soon(decide) if call.groove.crowded else decide())
    denied = next((each for each in decisions if isinstance(each, Denied)), None)
    allow = denied is None
    reason = f"granted by {decisions[0].rule}" if denied is None else _why(denied)
    decided = _hook_decision(body, allow, reason) if source == "hook" else UNSET
    return KnockAnswer(
        allow=allow, reason=reason, decisions=decisions, hook_specific_output=decided
    )


async def _decide(
    call: Call[KnockQuery, KnockBody],
    agent: str,
    touches: list[Touch],
    tool: str,
    source: Source,
) -> list[Decision]:
    return [
        await call.groove.knock(
            agent, touch.operation, touch.path, tool=tool, actor=call.actor, source=source
        )
        for touch in touches
    ]


async def soon(decide: Callable[[], Awaitable[list[Decision]]]) -> list[Decision]:
    """Decides while others wait for the same; a queue with room needs no limit and no scope."""
    with trio.move_on_after(ANSWER_S):
        return await decide()
    raise Busy(f"the knock was not answered within {ANSWER_S:g} s; try again shortly")


def _touches(body: KnockBody) -> tuple[list[Touch], str, Source]:
    if body.hook_event_name:
        return read_hook(body.tool_name, body.tool_input, body.cwd), body.tool_name, "hook"
    if body.path is None:
        raise BadRequest("the knock names no path: give 'path'", field="path")
    operation = body.operation or tool_operation(body.tool)
    # A tool nobody knows has no operation: an empty path is what no scope can grant.
    touch = Touch("write", "") if operation is None else Touch(operation, body.path)
    return [touch], body.tool, "api"


def _why(denied: Denied) -> str:
    return f"{denied.reason} {denied.way_out}".strip()


def _hook_decision(body: KnockBody, allow: bool, reason: str) -> dict[str, Any]:
    return {
        "hookEventName": body.hook_event_name,
        "permissionDecision": "allow" if allow else "deny",
        "permissionDecisionReason": reason,
    }


async def declare(call: Call[None, DeclareRequest]) -> Lease:
    """Takes a lease."""
    body = call.body
    return await call.groove.declare(
        call.agent(body.agent), body.paths, body.ttl_s, reason=body.reason, actor=call.actor
    )


async def complete(call: Call[None, CompleteRequest]) -> list[Lease]:
    """Gives leases back."""
    agent = call.agent(call.body.agent)
    return await call.groove.complete(agent, call.body.lease, actor=call.actor)


async def locks(call: Call[None, None]) -> LocksView:
    """Who holds what."""
    return call.groove.locks()


async def leases(call: Call[None, None]) -> list[Lease]:
    """The leases held now."""
    return call.groove.locks().leases


async def explain(call: Call[ExplainQuery, None]) -> Explanation:
    """Who may write a path, and by which rule."""
    return await call.groove.explain(call.query.path)
