"""The audit log: facts put in, records read out, and whether it is whole."""

from __future__ import annotations

from typing import Any

import msgspec

from groove_trio.words.actors import Actor
from groove_trio.words.base import AgentId, Word


class AuditEntry(Word):
    """One fact for the audit log, before it has a number and a place in the chain."""

    actor: Actor
    action: str
    agent: AgentId | None = None
    detail: dict[str, Any] = {}  # noqa: RUF012 - msgspec gives each its own


class AuditPage(Word):
    """Records of the audit log after a sequence number, each as it stands in the log."""

    records: list[msgspec.Raw]
    next: int
    more: bool


class Verification(Word):
    """What verifying the audit log found; `bad_line` is ``<segment>:<line>``, both from 1."""

    ok: bool
    records: int
    head: str
    bad_line: str | None = None
    problem: str | None = None
