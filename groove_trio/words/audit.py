"""The audit log: facts put in, records read out, and whether it is whole."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from groove_trio.words.actors import Actor
from groove_trio.words.base import AgentId, Word


class AuditEntry(Word):
    """One fact for the audit log, before it has a number and a place in the chain."""

    actor: Actor
    action: str
    agent: AgentId | None = None
    detail: dict[str, Any] = {}  # noqa: RUF012 - msgspec gives each its own


class AuditFilter(NamedTuple):
    """Which records are wanted; an empty field asks for nothing.

    `action` names one action or, before a dot, a family: ``knock`` is also ``knock.denied``.
    `actor` is one actor, ``agent:3fa9c21e``, or a kind, ``agent``. `since` is the first time that
    matches and `until` the first that does not, as `clock.rfc3339` writes them.
    """

    agent: str = ""
    action: str = ""
    actor: str = ""
    since: str = ""
    until: str = ""


class AuditPage(Word):
    """Records of the audit log after a sequence number, each as it stands in the log."""

    records: list[msgspec.Raw]
    next: int
    more: bool


class Verification(Word):
    """What verifying the audit log found; `bad_line` is ``<segment>:<line>``, both from 1.

    `log` is the log's id. `keyed` says whether the macs were checked, which takes the user's
    seed; `checkpoint` is the number of the record that the checkpoint outside the log knows, null
    where there is none. `accepted` lists the records by which the owner accepted that something
    was lost.
    """

    ok: bool
    records: int
    head: str
    log: str = ""
    keyed: bool = False
    checkpoint: int | None = None
    accepted: list[int] = []  # noqa: RUF012 - msgspec gives each its own
    bad_line: str | None = None
    problem: str | None = None
