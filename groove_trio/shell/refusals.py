"""Records who was refused what is not theirs to do, without letting them fill the log.

The first refusal of a caller is on disk before it is answered. Those that follow within
`WINDOW_S` are counted, and one record tells their number when the window ends; as long as it goes
on there is one record for each window. So a caller writes two records in the first second and one
in each after, however fast it asks.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import trio

from groove_trio.rules.chain import ACCESS_REFUSE
from groove_trio.shell.audit import AuditLog
from groove_trio.words.actors import Actor
from groove_trio.words.audit import AuditEntry
from groove_trio.words.base import AgentId
from groove_trio.words.errors import AuditUnavailable

WINDOW_S = 1.0  # of one caller's refusals in one record; systemd's journal counts over 30 s

LOG = logging.getLogger("groove_trio")


class Refusals:
    """Writes ``access.refuse`` records; run it beside what refuses."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit
        self._folded: dict[tuple[Actor, Any], int] = {}
        self._wake = trio.Event()

    async def note(self, actor: Actor, detail: Mapping[str, Any], key: object = None) -> None:
        """Records that `actor` was refused, or counts it; does not raise for a full disk.

        Args:
            actor: Who was refused.
            detail: What, such as ``{"method": "POST", "path": "/api/agents"}``.
            key: Tells callers apart who are the same actor.
        """
        whose = (actor, key)
        if whose in self._folded:
            self._folded[whose] += 1
            await trio.lowlevel.checkpoint()
            return
        self._folded[whose] = 0
        self._wake.set()
        try:
            await self._audit.record(_entry(actor, detail))
        except AuditUnavailable:
            LOG.warning("%s was refused, which could not be recorded", actor)

    async def run(self) -> None:
        """Writes the numbers of what was counted; however it ends, the last ones too."""
        try:
            while True:
                await self._wake.wait()
                await trio.sleep(WINDOW_S)
                self._flush()
                if not self._folded:
                    self._wake = trio.Event()
        finally:
            self._flush()

    def _flush(self) -> None:
        folded = {whose: count for whose, count in self._folded.items() if count}
        self._folded = dict.fromkeys(folded, 0)
        if folded:
            with suppress(AuditUnavailable):
                self._audit.append(
                    [
                        _entry(actor, {"again": count} | ({} if key is None else {"who": key}))
                        for (actor, key), count in folded.items()
                    ]
                )


def _entry(actor: Actor, detail: Mapping[str, Any]) -> AuditEntry:
    agent = AgentId(actor.name) if actor.kind == "agent" else None
    return AuditEntry(actor=actor, action=ACCESS_REFUSE, agent=agent, detail=dict(detail))
