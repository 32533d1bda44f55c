"""From what was asked for to a running process tree: directory, environment, program.

The working directory is resolved at each start, opened, and looked at once more through its
descriptor; the child enters that descriptor, so nobody can swap it for a link to elsewhere in
between.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec

from groove_trio.providers.base import (
    Choosy,
    Launch,
    Place,
    Provider,
)
from groove_trio.rules.scopes import Scope
from groove_trio.shell.agent import Agent
from groove_trio.shell.census import Census
from groove_trio.shell.environment import check_environment, environment
from groove_trio.shell.opening import open_tree
from groove_trio.shell.paths import resolve
from groove_trio.shell.process import Tree
from groove_trio.shell.store import STATE_DIR, Store
from groove_trio.words.agents import AgentSpec, Containment
from groove_trio.words.base import AgentId, Word
from groove_trio.words.errors import (
    BadRequest,
    ContainmentUnavailable,
    GrooveError,
    OutOfResources,
    OutsideProject,
    SpawnFailed,
    UnknownProvider,
    shown,
)

AVAILABLE: tuple[Containment, ...] = ("hooks",)
"""What this machine can hold agents to, strongest first. The kernel's means come later."""

W = TypeVar("W", bound=Word)

_log = logging.getLogger("groove_trio")


class OpenTree(Protocol):
    """`opening.open_tree`, or what stands for it in a test."""

    def __call__(
        self,
        *,
        argv: tuple[str, ...],
        cwd: int | str,
        env: Mapping[str, str],
        agent: AgentId,
        census: Census,
        descriptor_limit: int | None = None,
    ) -> Awaitable[Tree]:
        """Starts a program."""
        ...


HandOver = Callable[[AgentId, AgentSpec, Provider, Launch], Awaitable[Mapping[str, str]]]
"""`Vault.hand_over`: the variables that an agent's program gets a stored key in."""

OpenConfined = Callable[[Agent, Launch, Place, Mapping[str, str], int, int | None], Awaitable[Tree]]
"""`Confining.open`: agent, launch, place, environment, working directory, descriptor limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launcher:
    """Starts agents' programs.

    Attributes:
        project: The project root, absolute, symlinks resolved.
        url: The daemon's address.
        store: Where private temporary directories are.
        census: Where trees are enrolled.
        providers: Those known, by name.
        containment: What agents can be held to here, strongest first.
        missing: What each other level needs that this kernel lacks, in words.
        confined: What starts a program behind gate or wall; needed for these levels alone.
        descriptor_limit: Soft limit of descriptors for agents, if not the daemon's own.
        hand_over: What hands a stored key over; without it, none is.
        open_tree: What starts a tree.
    """

    project: str
    url: str
    store: Store
    census: Census
    providers: Mapping[str, Provider]
    containment: Callable[[], Sequence[Containment]] = lambda: AVAILABLE
    missing: Callable[[], Mapping[Containment, str]] = dict
    confined: OpenConfined | None = None
    descriptor_limit: int | None = None
    hand_over: HandOver | None = None
    open_tree: OpenTree = open_tree

    def check(self, spec: AgentSpec) -> tuple[AgentSpec, Containment]:
        """Checks all that can be checked before anything is done for an agent.

        Blocks for the lookup of the working directory; does not checkpoint.

        Returns:
            The spec, its working directory made plain, and the containment it will have.

        Raises:
            BadRequest: A field breaks the schema, the scope language or what only we may set.
            UnknownProvider, ContainmentUnavailable, OutsideProject: As they say.
        """
        spec = validated(spec, AgentSpec)
        Scope(spec.patterns)
        check_environment(spec)
        provider = self.provider(spec.provider)
        if isinstance(provider, Choosy):
            provider.check(spec)
        cwd = self.check_cwd(spec.cwd) or "."
        return msgspec.structs.replace(spec, cwd=cwd), self.choose_containment(spec, provider)

    def provider(self, name: str) -> Provider:
        """The provider of this name; an earlier daemon may have known others.

        Raises:
            UnknownProvider: There is none.
        """
        provider = self.providers.get(name)
        if provider is None:
            known = sorted(self.providers)
            detail = f"there is no provider {shown(name)}; there are {', '.join(known)}"
            raise UnknownProvider(detail, known=known)
        return provider

    def held_to(self, provider: Provider) -> list[Containment]:
        """What a provider's agents can be held to on this machine, strongest first."""
        return [level for level in self.containment() if level in provider.containment]

    def choose_containment(self, spec: AgentSpec, provider: Provider) -> Containment:
        """What was asked for, or the strongest there is; never less than asked.

        Raises:
            ContainmentUnavailable: There is not that much.
        """
        available = self.held_to(provider)
        if spec.containment in available:
            return spec.containment
        if spec.containment is None and available:
            return available[0]
        asked = spec.containment or "any containment"
        there = ", ".join(available) or "none"
        detail = f"{asked} is not available to provider {provider.name} here; there is {there}"
        raise self._unavailable(detail, spec.containment, available)

    def _unavailable(
        self, detail: str, asked: Containment | None, available: list[Containment]
    ) -> ContainmentUnavailable:
        """The refusal, with what is missing where it is the kernel that lacks it."""
        lacks = self.missing().get(asked) if asked is not None else None
        needs = f". {asked} needs {lacks}" if lacks else ""
        return ContainmentUnavailable(f"{detail}{needs}", available=available)

    async def start(self, agent: Agent) -> tuple[Tree, Launch]:
        """Starts an agent's program; returns when exec has succeeded.

        Raises:
            GrooveError: It could not be started: `SpawnFailed`, `OutOfResources`,
                `OutsideProject`, `UnknownProvider` or what its provider refused.
        """
        place = Place(
            project=self.project,
            cwd=os.path.join(self.project, self.check_cwd(agent.spec.cwd)).rstrip("/"),
            agent=agent.id,
            name=agent.name,
            url=self.url,
            tmp=str(self.store.tmp(agent.id)),
        )
        provider = self.provider(agent.spec.provider)
        launch = ask_provider(provider, agent.spec, place)
        # The last thing before the start, so that a key is bare for as short as can be.
        keys: Mapping[str, str] = {}
        if self.hand_over is not None:
            keys = await self.hand_over(agent.id, agent.spec, provider, launch)
        env = environment(os.environ, agent.spec, launch, place, keys)
        directory = open_directory(place.cwd)
        try:
            if agent.status.containment != "hooks":
                tree = await self._confine(agent, launch, place, env, directory)
            else:
                tree = await self.open_tree(
                    argv=launch.argv,
                    cwd=directory,
                    env=env,
                    agent=agent.id,
                    census=self.census,
                    descriptor_limit=self.descriptor_limit,
                )
        finally:
            os.close(directory)
        return tree, launch

    async def _confine(
        self, agent: Agent, launch: Launch, place: Place, env: Mapping[str, str], directory: int
    ) -> Tree:
        """As `open_tree`, inside a sandbox; an agent of an earlier run may ask for more than is.

        Raises:
            ContainmentUnavailable: This kernel does not give what the agent was admitted with.
        """
        available = self.held_to(self.provider(agent.spec.provider))
        level = agent.status.containment
        if level not in available or self.confined is None:
            detail = f"{level} is not available here any more; there is {', '.join(available)}"
            raise self._unavailable(detail, level, available)
        return await self.confined(agent, launch, place, env, directory, self.descriptor_limit)

    def check_cwd(self, cwd: str) -> str:
        """Where a working directory is, relative to the project root; ``""`` for the root.

        Raises:
            OutsideProject: It leads outside the project, or into what is the daemon's own.
            BadRequest: It can't be decided where it leads.
        """
        path = resolve(self.project, self.project, cwd)
        if path.partition("/")[0] == STATE_DIR:
            raise OutsideProject(f"{shown(cwd)} leads into the daemon's own directory.", path=cwd)
        return path


def ask_provider(provider: Provider, spec: AgentSpec, place: Place) -> Launch:
    """What a provider says; an embedding program's own may break, which is no fault of ours.

    Raises:
        GrooveError: The provider refused.
        SpawnFailed: The provider broke.
    """
    try:
        return provider.launch(spec, place)
    except GrooveError:
        raise
    except Exception as fault:
        _log.exception("provider %s broke", provider.name)
        detail = f"the provider {shown(provider.name)} broke: {type(fault).__name__}"
        raise SpawnFailed(detail, errno=None, what="provider") from fault


def open_directory(path: str) -> int:
    """Opens a directory that was resolved, and makes sure that it is still this one.

    Raises:
        SpawnFailed: It is not there, or not a directory that may be entered.
        OutOfResources: The daemon has no descriptor left.
        OutsideProject: It was swapped for something else.
    """
    try:
        descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "EIO")
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise OutOfResources(f"No process could be started ({name}).", errno=name) from error
        detail = f"the working directory {shown(path)} can't be entered: {error.strerror} ({name})"
        raise SpawnFailed(detail, errno=name, what="cwd") from error
    if os.readlink(f"/proc/self/fd/{descriptor}") != path:
        os.close(descriptor)
        raise OutsideProject(f"the working directory {shown(path)} was swapped for another")
    return descriptor


def validated(value: W, kind: type[W]) -> W:
    """The value if it keeps to its schema, which building one in Python does not check.

    It goes through JSON and back, because that is how it is stored: half a surrogate pair, say,
    is a Python string that can't be written down.

    Raises:
        BadRequest: It does not; the detail names the field.
    """
    try:
        return msgspec.json.decode(msgspec.json.encode(value), type=kind)
    except (ValueError, TypeError) as error:  # msgspec's own and UnicodeEncodeError are ValueErrors
        raise BadRequest(str(error)) from error
