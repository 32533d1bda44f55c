"""From a knock to a decision: resolves the path, then asks the lock table.

Everything that can't be decided is denied here, so that what comes out is always a decision.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar, get_args

import msgspec

from groove_trio.rules import denials
from groove_trio.rules.chain import legible
from groove_trio.rules.locks import LockTable
from groove_trio.rules.protected import PACKAGES, protection
from groove_trio.shell.beneath import TooMany, names_beneath
from groove_trio.shell.paths import resolve
from groove_trio.words.actors import SYSTEM, Actor
from groove_trio.words.base import MAX_NAME, MAX_PATH, AgentId
from groove_trio.words.errors import BadRequest, OutsideProject, shown
from groove_trio.words.knocks import Decision, Denied, Granted, Knock, Operation, Source
from groove_trio.words.leases import Explanation

D = TypeVar("D", Granted, Denied, Decision)

HIDDEN_AT_HOME = (
    ".ssh",
    ".aws",
    ".azure",
    ".gnupg",
    ".kube",
    ".docker/config.json",
    ".config/gcloud",
    ".config/gh",
    ".config/groove-trio",
    ".git-credentials",
    ".local/share/keyrings",
    ".netrc",
    ".npmrc",
    ".password-store",
    ".pypirc",
)
"""Where programs keep secrets: reads are denied."""

MAX_TOOL = 200  # as in `KnockRequest`
_SEARCHES = frozenset({"Grep", "grep_search"})  # tools that read all beneath a directory
_OPERATIONS = frozenset(get_args(Operation))
_SOURCES = frozenset(get_args(Source))
_MAKING_DIRECTORIES = frozenset({"mkdir", "mkdirat"})
_ON_THE_NAME = frozenset({"delete", "rename"})  # done to a link itself, not to its target


class Judge:
    """Decides knocks for agents whose working directories it knows. Does not checkpoint.

    Args:
        root: The project root: absolute, without links.
        table: Who holds what.
        hidden: Absolute names of files and directories whose content agents must not read.

    Attributes:
        cwds: The agents' absolute working directories.
        states: The absolute directories outside the project where their providers keep state.
    """

    def __init__(self, root: str, table: LockTable, hidden: Iterable[str] | None = None) -> None:
        self.root = root
        self.cwds: dict[AgentId, str] = {}
        self.states: dict[AgentId, Sequence[str]] = {}
        self._table = table
        self._hidden = tuple(hidden_paths() if hidden is None else hidden)
        self._hidden_here = any(name.startswith(f"{root.rstrip('/')}/") for name in self._hidden)

    def decide(self, knock: Knock, now: int) -> Decision:
        """Decides one knock; never raises."""
        try:
            return self.fit(self._decide(knock, now))
        except Exception as error:  # noqa: BLE001 - a knock is denied, whatever is wrong with it
            return denials.undecided(self.told(knock.path), f"It failed: {error!r:.200}.")

    def _decide(self, knock: Knock, now: int) -> Decision:  # noqa: PLR0911 - one a way out
        agent, operation, asked = knock.agent, knock.operation, knock.path
        if operation not in _OPERATIONS:
            return denials.unknown_operation(asked, operation)
        cwd = self.cwds.get(agent)
        if cwd is None:
            return denials.unknown_agent(asked, agent)
        if knock.call and (place := self._own_state(agent, asked)) is not None:
            return Granted(path=asked, rule=f"state of its provider in {place}")
        try:
            path = (
                self._from_root(asked)
                if knock.call
                else resolve(self.root, cwd, asked, follow=operation not in _ON_THE_NAME)
            )
        except OutsideProject as error:
            where = str(error.fields["resolved"])
            if operation != "read":
                return denials.outside(asked, where)
            refusal = self._hidden_by(asked, where, knock.tool)
            return refusal or Granted(path=where, rule="read in the system")
        except BadRequest as error:
            return denials.undecided(asked, error.detail)
        if self._hidden_here and operation == "read":
            refusal = self._hidden_by(path, f"{self.root}/{path}".rstrip("/"), knock.tool)
            if refusal is not None:
                return refusal
        deep = operation in _ON_THE_NAME and self._takes_more(operation, path)
        above = knock.call in _MAKING_DIRECTORIES
        removed = deep and operation == "delete" and bool(knock.call)
        deep = deep and not removed  # the kernel removes no directory that is not empty
        decision = self._table.decide(
            agent, operation, path, now, deep=deep, above=above, empty=above or removed
        )
        if deep and isinstance(decision, Granted):
            return self._denied_beneath(knock, path, now) or decision
        return decision

    def _from_root(self, path: str) -> str:
        """A path that the gate resolved, relative to the project root.

        Raises:
            OutsideProject: It is outside.
        """
        root = self.root.rstrip("/")
        if path.startswith(f"{root}/"):
            return path[len(root) + 1 :]
        if path == root:
            return ""
        raise OutsideProject(f"{shown(path)} is outside the project.", resolved=path)

    def _own_state(self, agent: AgentId, path: str) -> str | None:
        places = self.states.get(agent, ())
        return next((place for place in places if f"{path}/".startswith(f"{place}/")), None)

    def _hidden_by(self, path: str, where: str, tool: str) -> Denied | None:
        above = f"{where.rstrip('/')}/" if tool in _SEARCHES else None
        for name in self._hidden:
            if where == name or where.startswith(f"{name}/"):
                return denials.hidden(path, name)
            if above is not None and name.startswith(above):
                return denials.hidden(path, name)
        return None

    def _takes_more(self, operation: Operation, path: str) -> bool:
        """Whether something may lie beneath that goes with it.

        What a rename makes anew may be a directory: its source is asked for in another knock.
        """
        try:
            return stat.S_ISDIR(os.lstat(f"{self.root}/{path}").st_mode)
        except OSError:
            return operation == "rename"

    def _denied_beneath(self, knock: Knock, path: str, now: int) -> Denied | None:
        """Denies to move protected names along: they may be new where the directory goes.

        The agent's own temporary directory may hold any, so none leaves it in this way; nor do
        any leave the packages where they are let be, unless they go where they are let be, too.
        """
        own = path.startswith(".groove/") or (not knock.other and PACKAGES in path.split("/"))
        goes = self._from_root(knock.other) if knock.other else path
        try:
            for name in names_beneath(f"{self.root}/{path}"):
                if (found := protection(name)) is None:
                    continue
                there = self._table.decide(knock.agent, knock.operation, f"{goes}/{name}", now)
                if own or isinstance(there, Denied):
                    return denials.protected_beneath(path, name, found.rule)
        except TooMany:
            return denials.too_large(path)
        return None

    def claims(self, agent: AgentId, paths: Iterable[str]) -> list[str]:
        """The claims that a lease on `paths` makes, resolved; a directory's ends in a slash.

        A directory is meant where one is there or where the path ends in a slash.

        Raises:
            BadRequest: A path can't be decided, leads outside, or is not UTF-8.
        """
        claims: list[str] = []
        for path in paths:
            name = resolve(self.root, self.cwds[agent], path)
            if legible(name) != name:
                raise BadRequest("A lease is on names that are UTF-8.", field="paths")
            directory = path.endswith("/") or os.path.isdir(f"{self.root}/{name}")
            claims.append(f"{name}/" if directory else name)
        return claims

    def explain(self, path: str, now: int) -> Explanation:
        """Who may write a path, given relative to the root or absolute.

        Raises:
            BadRequest: It can't be decided where it leads.
        """
        try:
            name = resolve(self.root, self.root, path)
        except OutsideProject as error:
            where = legible(str(error.fields["resolved"]))
            there = self._table.explain("", now, exists=os.path.lexists(where))
            return msgspec.structs.replace(
                there, path=where, inside=False, summary="It is outside the project; no agent may."
            )
        exists = os.path.lexists(f"{self.root}/{name}")
        told = self._table.explain(name, now, exists=exists)
        return msgspec.structs.replace(told, path=legible(name))

    def plain(self, knock: Knock) -> Knock:
        """The knock with texts that fit into a record and an event; most are as they are."""
        agent, tool, operation, source = knock.agent, knock.tool, knock.operation, knock.source
        if (
            all(type(each) is str for each in (agent, tool, operation, source, knock.path))
            and type(knock.actor) is Actor
            and operation in _OPERATIONS
            and source in _SOURCES
            and agent.isascii()
            and tool.isascii()
            and max(len(agent), len(tool)) <= MAX_NAME
        ):
            return knock
        return msgspec.structs.replace(
            knock,
            agent=AgentId(legible(str(agent)[:MAX_NAME])),
            operation=legible(str(operation)[:MAX_NAME]),
            tool=legible(str(tool)[:MAX_TOOL]),
            source=legible(str(source)[:MAX_NAME]),
            # A knock made in Python was decoded by nobody.
            actor=knock.actor if type(knock.actor) is Actor else SYSTEM,
            path=knock.path if isinstance(knock.path, str) else "",  # pyright: ignore[reportUnnecessaryIsInstance]
        )

    def told(self, path: object) -> str:
        """A path as it was asked for, fit for an answer and a record."""
        return legible(str(path)[:MAX_PATH])

    def fit(self, decision: D) -> D:
        """The decision with a path that is fit for JSON, and of bounded length."""
        path = decision.path
        if path.isascii() and len(path) <= MAX_PATH:
            return decision
        return msgspec.structs.replace(decision, path=self.told(path))


def hidden_paths() -> list[str]:
    """Where the user's programs keep secrets: `HIDDEN_AT_HOME`, absolute, links resolved too."""
    home = os.path.realpath(Path.home())
    names = [f"{home}/{name}" for name in HIDDEN_AT_HOME]
    # Where one of them is a link, paths are resolved to what is behind it.
    return list(dict.fromkeys((*names, *map(os.path.realpath, names))))
