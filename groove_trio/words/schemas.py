r"""What crosses a boundary: requests asked, views told, decisions made.

Every type is a frozen `msgspec.Struct` whose JSON form is camelCase. Unknown fields of a
request are dropped by the decoder. Limits stand here as named constants, once, and the
decoder, the OpenAPI document and the reference pages all read them from here.

Patterns are anchored with ``\A`` and ``\Z``: ``$`` would also accept a trailing newline.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NewType, dataclass_transform

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

AgentId = NewType("AgentId", str)
"""Names one agent for ever: eight lower-case hexadecimal digits, such as ``3fa9c21e``."""

LeaseId = NewType("LeaseId", str)
"""Names one lease: eight lower-case hexadecimal digits."""

MAX_ROLE = 50
MAX_NAME = 64
MAX_PATTERNS = 20
MAX_PATTERN = 200
MAX_PROMPT = 50_000  # code points
MAX_PATH = 4096  # characters; PATH_MAX of Linux
MAX_ARGUMENTS = 1000
MAX_ARGUMENT = 131_072  # bytes; MAX_ARG_STRLEN of Linux
MAX_VARIABLES = 64
MAX_LEASE_PATHS = 64
MIN_LEASE_S = 1
MAX_LEASE_S = 86_400
DEFAULT_LEASE_S = 600
MAX_GRACE_S = 300
MAX_PAGE = 1000

Role = Annotated[str, Meta(min_length=1, max_length=MAX_ROLE, pattern=r"\A[A-Za-z0-9_-]+\Z")]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME, pattern=r"\A[A-Za-z0-9_-]+\Z")]
ProviderName = Annotated[str, Meta(min_length=1, max_length=MAX_NAME, pattern=r"\A[a-z0-9_-]+\Z")]
Pattern = Annotated[str, Meta(min_length=1, max_length=MAX_PATTERN)]
Patterns = Annotated[list[Pattern], Meta(max_length=MAX_PATTERNS)]
Prompt = Annotated[str, Meta(max_length=MAX_PROMPT)]
Path = Annotated[str, Meta(min_length=1, max_length=MAX_PATH, pattern=r"\A[^\x00]+\Z")]
Argument = Annotated[str, Meta(max_length=MAX_ARGUMENT, pattern=r"\A[^\x00]*\Z")]
Arguments = Annotated[list[Argument], Meta(max_length=MAX_ARGUMENTS)]
VariableName = Annotated[str, Meta(max_length=128, pattern=r"\A[A-Za-z_][A-Za-z0-9_]*\Z")]
Variables = Annotated[dict[VariableName, Argument], Meta(max_length=MAX_VARIABLES)]
Grace = Annotated[float, Meta(ge=0, le=MAX_GRACE_S)]
Permission = Literal["auto", "full"]
Containment = Literal["gate", "wall", "hooks"]
RestartMode = Literal["never", "on-failure", "always"]
Operation = Literal["read", "write", "create", "delete", "rename", "metadata"]
Source = Literal["library", "api", "hook", "acp", "gate"]
Stream = Literal["out", "err"]
AgentState = Literal[
    "starting",
    "running",
    "stopping",
    "completed",
    "failed",
    "backing-off",
    "parked",
    "stopped",
    "interrupted",
]


# Type checkers do not see that msgspec hands `frozen` down to subclasses.
@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Word(Struct, frozen=True, kw_only=True, rename="camel"):
    """What all boundary types share: frozen, by keyword, camelCase in JSON."""


# Who is asking


class Actor(Word):
    """Who is asking: fixed when a connection is accepted, then carried as a value."""

    kind: Literal["owner", "agent", "daemon", "system"]
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind


OWNER = Actor(kind="owner")
"""The user who runs the daemon."""

SYSTEM = Actor(kind="system")
"""The daemon itself: an expiry, a restart, a crash."""


def agent_actor(agent: AgentId) -> Actor:
    """The actor that is an agent."""
    return Actor(kind="agent", name=agent)


# Agents


class Restart(Word):
    """When an agent that ended is started again, and when to give up.

    The wait before restart ``n`` is ``min(cap_s, first_s * 2**(n-1))``, plus or minus
    ``jitter`` of itself. More than ``max_restarts`` within ``period_s`` seconds parks the
    agent; a run of at least ``stable_s`` seconds starts the count and the waits anew.
    """

    mode: RestartMode = "never"
    first_s: Annotated[float, Meta(ge=0.01, le=3600)] = 1.0
    cap_s: Annotated[float, Meta(ge=0.01, le=86_400)] = 60.0
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.1
    max_restarts: Annotated[int, Meta(ge=0, le=1000)] = 5
    period_s: Annotated[float, Meta(ge=1, le=86_400)] = 300.0
    stable_s: Annotated[float, Meta(ge=0, le=86_400)] = 30.0


class AgentSpec(Word):
    """An agent asked for: the body of ``POST /api/agents``.

    `scope` left out means everything (``["**"]``); an explicit ``[]`` means read-only.
    `argv` is the command of the ``command`` provider, never a shell line.
    `cwd` is relative to the project root. `env` adds variables to the allow-list's.
    With `interactive`, standard input stays open for ``instruct``; without, the agent
    reads its prompt and then end of file.
    """

    role: Role
    name: Name | None = None
    provider: ProviderName = "command"
    argv: Arguments = []
    scope: Patterns | UnsetType = UNSET
    prompt: Prompt = ""
    permission: Permission = "auto"
    cwd: Path = "."
    env: Variables = {}
    containment: Containment | None = None
    restart: Restart = Restart()
    grace_s: Grace = 10.0
    interactive: bool = False

    @property
    def patterns(self) -> list[str]:
        """The scope asked for, with the default filled in."""
        return ["**"] if isinstance(self.scope, UnsetType) else self.scope


class AgentView(Word):
    """An agent told: what anyone may see of it. Never holds a prompt or an environment."""

    id: AgentId
    role: str
    name: str
    provider: str
    state: AgentState
    reason: str | None
    scope: list[str]
    permission: Permission
    cwd: str
    containment: Containment
    interactive: bool
    restart_mode: RestartMode
    restarts: int
    pid: int | None
    exit_code: int | None
    exit_signal: str | None
    created: str
    started: str | None
    ended: str | None
    last_seq: int


class AgentPatch(Word):
    """Changes to a known agent; what is left out stays."""

    name: Name | UnsetType = UNSET
    restart: Restart | UnsetType = UNSET
    grace_s: Grace | UnsetType = UNSET


class StopRequest(Word):
    """How to stop; `grace_s` left out means the agent's own."""

    grace_s: Grace | None = None


class InstructRequest(Word):
    """A follow-up for a running, interactive agent."""

    text: Annotated[str, Meta(min_length=1, max_length=MAX_PROMPT)]


class OutputLine(Word):
    """One line that an agent wrote: one line of its ``output.jsonl``.

    `seq` counts from 1 without gaps over all runs of the agent. `partial` marks a piece of
    a line too long to hold in memory; the piece that ends the line is not partial.
    """

    seq: int
    time: str
    stream: Stream
    text: str
    partial: bool = False


class OutputPage(Word):
    """Lines after a sequence number; `next` is the `after` of the page that follows."""

    lines: list[OutputLine]
    next: int
    more: bool


# Knocks and leases


class Knock(Word):
    """One question: may this agent do this operation on this path?

    `path` is absolute or relative to the agent's working directory. `tool` is the name the
    agent's own tool goes by, for the record. `actor` is who asked, `agent` whom it is about.
    """

    agent: AgentId
    operation: Operation
    path: str
    actor: Actor
    source: Source
    tool: str = ""


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


class DeclareRequest(Word):
    """Asks for a lease: an exclusive, temporary claim on paths that no scope owns.

    An agent asks for itself and need not say so; the owner names the `agent`.
    """

    paths: Annotated[list[Path], Meta(min_length=1, max_length=MAX_LEASE_PATHS)]
    agent: Annotated[str, Meta(max_length=MAX_NAME)] = ""
    ttl_s: Annotated[float, Meta(ge=MIN_LEASE_S, le=MAX_LEASE_S)] = DEFAULT_LEASE_S
    reason: Annotated[str, Meta(max_length=500)] = ""


class CompleteRequest(Word):
    """Gives a lease back: by id, or all of the agent's when `lease` is left out."""

    agent: Annotated[str, Meta(max_length=MAX_NAME)] = ""
    lease: Annotated[str, Meta(max_length=MAX_NAME)] | None = None


class Lease(Word):
    """A lease held: paths relative to the project root, `until` in UTC."""

    id: LeaseId
    agent: AgentId
    paths: list[str]
    since: str
    until: str
    reason: str = ""


class Holding(Word):
    """What one agent holds now."""

    agent: AgentId
    name: str
    scope: list[str]


class LocksView(Word):
    """Who holds what."""

    holdings: list[Holding]
    leases: list[Lease]


class Explanation(Word):
    """Who may write a path, by which rule; `path` is the resolved one."""

    path: str
    inside: bool
    protected_by: str | None
    owner: AgentId | None
    owner_name: str | None
    pattern: str | None
    lease: Lease | None
    exists: bool
    summary: str
    protected_patterns: list[str]


# The daemon


class Health(Word):
    """Liveness."""

    ok: bool


class Status(Word):
    """The daemon told."""

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


class ProviderView(Word):
    """A provider told: what it is and to what level it can be held."""

    name: str
    summary: str
    containment: list[Containment]


class AuditEntry(Word):
    """One fact for the audit log, before it has a number and a place in the chain."""

    actor: Actor
    action: str
    agent: AgentId | None = None
    detail: dict[str, Any] = {}


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
