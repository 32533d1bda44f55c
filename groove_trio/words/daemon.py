"""The daemon told: is it alive, how is it, which providers does it know."""

from __future__ import annotations

from groove_trio.words.agents import Containment
from groove_trio.words.base import Word


class Health(Word):
    """Liveness."""

    ok: bool


class Status(Word):
    """The daemon told.

    `containment` is what agents can be held to on this machine, strongest first; `missing` says
    what the kernel lacks for more, or for all of it.
    """

    version: str
    pid: int
    project: str
    url: str
    started: str
    uptime_s: float
    draining: bool
    agents: dict[str, int]
    connections: int
    subscribers: int
    leases: int
    audit_seq: int
    audit_ok: bool
    containment: list[Containment]
    missing: list[str]


class ProviderView(Word):
    """A provider told: what it is and to what level it can be held."""

    name: str
    summary: str
    containment: list[Containment]
