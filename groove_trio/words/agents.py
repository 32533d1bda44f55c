"""Agents: asked for, told, changed, and given orders."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from groove_trio.words.base import MAX_NAME, AgentId, Path, Word

MAX_ROLE = 50  # characters, as promised
MAX_PATTERNS = 20  # as promised
MAX_PATTERN = 200  # characters, as promised
MAX_PROMPT = 50_000  # code points, as promised
MAX_ARGUMENTS = 1000  # far from what Linux takes, which is 2 MiB of them
MAX_ARGUMENT = 131_072  # bytes; MAX_ARG_STRLEN of Linux
MAX_VARIABLES = 64  # beside those of the daemon that are handed on
MAX_GRACE_S = 300  # systemd gives 90, Kubernetes 30, both may be told more

Role = Annotated[str, Meta(min_length=1, max_length=MAX_ROLE, pattern=r"\A[A-Za-z0-9_-]+\Z")]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME, pattern=r"\A[A-Za-z0-9_-]+\Z")]
ProviderName = Annotated[str, Meta(min_length=1, max_length=MAX_NAME, pattern=r"\A[a-z0-9_-]+\Z")]
Pattern = Annotated[str, Meta(min_length=1, max_length=MAX_PATTERN)]
Patterns = Annotated[list[Pattern], Meta(max_length=MAX_PATTERNS)]
Prompt = Annotated[str, Meta(max_length=MAX_PROMPT)]
Argument = Annotated[str, Meta(max_length=MAX_ARGUMENT, pattern=r"\A[^\x00]*\Z")]
Arguments = Annotated[list[Argument], Meta(max_length=MAX_ARGUMENTS)]
VariableName = Annotated[str, Meta(max_length=128, pattern=r"\A[A-Za-z_][A-Za-z0-9_]*\Z")]
Variables = Annotated[dict[VariableName, Argument], Meta(max_length=MAX_VARIABLES)]
Grace = Annotated[float, Meta(ge=0, le=MAX_GRACE_S)]
Permission = Literal["auto", "full"]
Containment = Literal["gate", "wall", "hooks"]
RestartMode = Literal["never", "on-failure", "always"]
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


class Hold(Word):
    """How one pattern of a scope is held, and by what.

    ``exact``: what the pattern does not match can't be written. ``wider``: the kernel lets more
    be written than the pattern matches. ``narrower``: some of what the pattern matches can't be
    written. `why` says what of it.
    """

    pattern: str
    by: Containment
    how: Literal["exact", "wider", "narrower"]
    why: str = ""


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
    argv: Arguments = []  # noqa: RUF012 - msgspec gives each its own
    scope: Patterns | UnsetType = UNSET
    prompt: Prompt = ""
    permission: Permission = "auto"
    cwd: Path = "."
    env: Variables = {}  # noqa: RUF012 - and here
    containment: Containment | None = None
    restart: Restart = Restart()
    grace_s: Grace = 10.0
    interactive: bool = False

    @property
    def patterns(self) -> list[str]:
        """The scope asked for, with the default filled in."""
        return ["**"] if isinstance(self.scope, UnsetType) else self.scope


class AgentView(Word):
    """An agent told: what anyone may see of it. Never holds a prompt or an environment.

    `held` says of each pattern how it is held. `canary` is what was tried from inside its
    sandbox before its program ran, and with which error it failed, such as
    ``{"write": "EACCES", "rename": "EACCES", "symlink": "EACCES", "signal": "EPERM"}``; empty
    where there is no sandbox, and before the first run.
    """

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
    held: list[Hold]
    canary: dict[str, str]


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
