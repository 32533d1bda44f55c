"""Knocks and how they are decided."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from groove_trio.words.actors import Actor
from groove_trio.words.base import MAX_NAME, AgentId, Path, Word

Operation = Literal["read", "write", "create", "delete", "rename", "metadata"]
Source = Literal["library", "api", "hook", "acp", "gate"]


class Knock(Word):
    """One question: may this agent do this operation on this path?

    `path` is absolute or relative to the agent's working directory. `tool` is the name the
    agent's own tool goes by, for the record. `actor` is who asked, `agent` whom it is about.
    The gate asks about a path that is resolved already, for a `call` that thread `pid` makes;
    its `tool` is the program's name, and `other` the other end of a rename.
    """

    agent: AgentId
    operation: Operation
    path: str
    actor: Actor
    source: Source
    tool: str = ""
    call: str = ""
    pid: int = 0
    other: str = ""


class Granted(Word, tag="granted", tag_field="decision"):
    """Allowed. `path` is the resolved one, relative to the project root."""

    path: str
    rule: str


class Denied(Word, tag="denied", tag_field="decision"):
    """Refused. `rule` says by what, `way_out` what the agent can do about it."""

    path: str
    rule: str
    reason: str
    way_out: str
    owner: AgentId | None = None
    until: str | None = None


Decision = Granted | Denied


class KnockRequest(Word):
    """The body of ``POST /api/knock`` in its plain form: ``tool`` or ``operation``, and a path."""

    path: Path
    agent: Annotated[str, Meta(max_length=MAX_NAME)] = ""
    operation: Operation | None = None
    tool: Annotated[str, Meta(max_length=200)] = ""


class KnockAnswer(Word):
    """The answer to a knock; `hook_specific_output` is set when a hook body asked."""

    allow: bool
    reason: str
    decisions: list[Decision]
    hook_specific_output: dict[str, Any] | UnsetType = UNSET
