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
    """Which records: after a number, at most `limit`, and only those that match all the rest.

    A negative `after` counts from the end: ``-10`` gives the last ten. `action` is an action or a
    family of them (``knock``), `actor` an actor (``agent:3fa9c21e``) or a kind (``agent``).
    `since` and `until` are times of RFC 3339, the second the first that does not match.
    """

    after: Annotated[int, Meta(ge=-MAX_PAGE, le=2**62)] = 0
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 100
    agent: Annotated[str, Meta(max_length=MAX_NAME)] = ""
    action: Annotated[str, Meta(max_length=MAX_NAME)] = ""
    actor: Annotated[str, Meta(max_length=2 * MAX_NAME)] = ""
    since: Annotated[str, Meta(max_length=MAX_NAME)] = ""
    until: Annotated[str, Meta(max_length=MAX_NAME)] = ""


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
        query.after,
        query.limit,
        agent=query.agent or None,
        action=query.action or None,
        actor=query.actor or None,
        since=query.since or None,
        until=query.until or None,
    )


async def verify(call: Call[None, None]) -> Verification:
    """Reads the whole log again and checks it: chain, macs, and the checkpoint outside it."""
    return await call.groove.verify_audit()


async def openapi(_call: Call[None, None]) -> msgspec.Raw:
    """The document that describes these routes."""
    from groove_trio.api.openapi import document_json  # noqa: PLC0415 - needs the finished table

    return document_json()
