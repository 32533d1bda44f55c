"""Handlers for the daemon itself: liveness, status, providers, the audit log, the document."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from groove_trio.api.calls import Call
from groove_trio.words.audit import AuditPage, Verification
from groove_trio.words.base import MAX_NAME, MAX_PAGE, Word
from groove_trio.words.daemon import Health, ProviderView, Status

ALIVE = Health(ok=True)


class AuditQuery(Word):
    """Which records: after a number, at most `limit`, of one agent or one action.

    A negative `after` counts from the end: ``-10`` gives the last ten.
    """

    after: Annotated[int, Meta(ge=-MAX_PAGE, le=2**62)] = 0
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 100
    agent: Annotated[str, Meta(max_length=MAX_NAME)] = ""
    action: Annotated[str, Meta(max_length=MAX_NAME)] = ""


async def health(_call: Call[None, None]) -> Health:
    """Says that the daemon answers."""
    return ALIVE


async def status(call: Call[None, None]) -> Status:
    """Version, uptime, counts, and what containment there is."""
    return call.groove.status()


async def providers(call: Call[None, None]) -> list[ProviderView]:
    """The providers that can be spawned."""
    return call.groove.providers()


async def audit(call: Call[AuditQuery, None]) -> AuditPage:
    """Records of the audit log, as they stand in it."""
    query = call.query
    return await call.groove.audit(
        query.after, query.limit, agent=query.agent or None, action=query.action or None
    )


async def verify(call: Call[None, None]) -> Verification:
    """Reads the whole log again and checks its chain."""
    return await call.groove.verify_audit()


async def openapi(_call: Call[None, None]) -> msgspec.Raw:
    """The document that describes these routes."""
    from groove_trio.api.openapi import document_json  # noqa: PLC0415 - needs the finished table

    return document_json()
