"""What a provider is: the adapter that knows one agent command line.

A provider translates and touches nothing: it says with which argv and environment its program
starts, what its standard input begins with, and how a follow-up is put. It opens no file,
starts no process and asks no clock; the supervisor does, and holds the agent to its scope
whatever the provider says.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from groove_trio.words.agents import AgentSpec, Containment
from groove_trio.words.base import AgentId
from groove_trio.words.errors import BadRequest

INHERITED = frozenset({"PATH", "HOME", "LANG", "TERM", "TZ", "USER", "LOGNAME", "SHELL"})
"""Variables of the daemon that every agent gets; ``LC_*`` besides. All others stay outside."""

INHERITED_PREFIX = "LC_"

SET_BY_US = frozenset({"GROOVE_URL", "GROOVE_AGENT", "GROOVE_NAME", "GROOVE_PROJECT", "TMPDIR"})
"""Variables that the supervisor sets and that neither a spec nor a provider can change.

``GROOVE_AGENT`` also marks every process of the agent's tree, so that none can be lost.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an agent is about to run: all that a provider may know of it.

    Attributes:
        project: The project root, absolute.
        cwd: The working directory, absolute.
        agent: The agent's id.
        name: The agent's name.
        url: The daemon's address, such as ``http://127.0.0.1:31415``; empty when none listens.
        tmp: The agent's private temporary directory, absolute.
    """

    project: str
    cwd: str
    agent: AgentId
    name: str
    url: str
    tmp: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How to start a program.

    Attributes:
        argv: The program and its arguments; never a shell line. A name without ``/`` is looked
            up in the agent's own PATH, a relative one from its working directory.
        env: Variables to set, over the inherited ones and the spec's.
        inherit: Names of further variables of the daemon to pass on, such as ``XDG_CONFIG_HOME``.
        stdin: Bytes written to standard input first, while output is read.
        state: Absolute directories and files outside the project where the program keeps its own
            state, such as ``~/.claude``; it may write there whatever its scope.
        keep_open: Whether standard input stays open for follow-ups; otherwise end of file
            comes after `stdin`.
    """

    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict[str, str], repr=False)
    inherit: frozenset[str] = frozenset()
    stdin: bytes = field(default=b"", repr=False)
    keep_open: bool = False
    state: tuple[str, ...] = ()


@runtime_checkable
class Provider(Protocol):
    """What an embedding program implements for an agent of its own.

    Attributes:
        name: What specs ask for: lower-case letters, digits, ``-`` and ``_``.
        summary: One line for people.
        containment: The levels its agents can be held to.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - the class docstring lists them
    @property
    def summary(self) -> str: ...  # noqa: D102
    @property
    def containment(self) -> tuple[Containment, ...]: ...  # noqa: D102

    def launch(self, spec: AgentSpec, place: Place) -> Launch:
        """Says how to start the agent that `spec` asks for.

        Raises:
            BadRequest: The spec lacks something this provider needs.
        """
        ...

    def instruct(self, text: str) -> bytes:
        """Puts a follow-up the way the program reads it on standard input."""
        ...


@runtime_checkable
class Keyed(Protocol):
    """A provider whose program may be handed a stored key; all others never are.

    Attributes:
        credentials: The environment variables that it takes a key in, such as
            ``("ANTHROPIC_API_KEY",)``, the usual one first. One key is stored for a provider, and
            it is handed over in one of these and no other.
    """

    @property
    def credentials(self) -> tuple[str, ...]: ...  # noqa: D102 - the class docstring lists them


@runtime_checkable
class Choosy(Protocol):
    """A provider that tells what a spec lacks before anything is reserved, recorded or started."""

    def check(self, spec: AgentSpec) -> None:
        """Looks at the spec alone.

        Raises:
            BadRequest: The spec lacks something this provider needs.
        """
        ...


def encode_line(text: str) -> bytes:
    """A prompt or follow-up as UTF-8, ended by a newline; empty text stays empty.

    Raises:
        BadRequest: The text holds half a surrogate pair, which no byte sequence stands for.
    """
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        detail = f"the text holds a lone surrogate at character {error.start}"
        raise BadRequest(detail, field="text") from error
    return data if not data or data.endswith(b"\n") else data + b"\n"
