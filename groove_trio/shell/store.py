"""What the daemon remembers of its agents: one directory each, beneath ``.groove/agents``.

```
.groove/                 0700, with a .gitignore of "*"
  agents/3fa9c21e/       0700
    spec.json            what was asked for, prompt and environment included
    status.json          how it stands, replaced whole at each transition
    output.jsonl         every line it wrote
    tmp/                 its private temporary directory
```

An agent's directory appears whole or not at all: it is built under another name, synced, and
renamed; on removal it is renamed away first. What is read back is checked, never guessed: an
entry of the wrong owner, mode or type refuses the start of the daemon (somebody else may have
written it), one that can't be understood is set aside as ``*.bad`` and its agent is told of.

All methods block for the disk and are called in a thread, except `output` and `tmp`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from groove_trio.shell.files import (
    check_private,
    ensure_private_dir,
    make_private_dir,
    open_private,
    sync_directory,
    write_all,
    write_atomic,
)
from groove_trio.shell.output import repair
from groove_trio.words.agents import AgentSpec, AgentState, Containment, Hold
from groove_trio.words.base import AgentId, Word
from groove_trio.words.errors import UnsafeState, shown

STATE_DIR = ".groove"
FORMAT = 1
MAX_STATE_BYTES = 16 << 20  # a spec of the largest argv the kernel takes stays below

T = TypeVar("T")

_ID = re.compile(r"[0-9a-f]{8}\Z")
_log = logging.getLogger("groove_trio")


class AgentStatus(Word, frozen=True):
    """How an agent stands, as ``status.json`` holds it; times are RFC 3339."""

    id: AgentId
    state: AgentState
    containment: Containment
    created: str
    reason: str | None = None
    restarts: int = 0
    pid: int | None = None
    exit_code: int | None = None
    exit_signal: str | None = None
    started: str | None = None
    ended: str | None = None
    held: list[Hold] = msgspec.field(default_factory=list[Hold])
    canary: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class Stored:
    """One agent as it was found."""

    spec: AgentSpec
    status: AgentStatus
    last_seq: int


@dataclass(slots=True)
class Loaded:
    """Everything found at start.

    Attributes:
        agents: Those that could be read, oldest first.
        aside: Ids of those that could not, with the reason; processes of theirs may live.
    """

    agents: list[Stored] = field(default_factory=list[Stored])
    aside: dict[AgentId, str] = field(default_factory=dict[AgentId, str])


class Store:
    """The agents' directories of one project.

    Args:
        project: The project root, absolute, symlinks resolved.
    """

    def __init__(self, project: Path) -> None:
        self.state_dir = project / STATE_DIR
        self.directory = self.state_dir / "agents"

    def prepare(self) -> None:
        """Makes the directories, or checks those that are there.

        Raises:
            UnsafeState: One has the wrong type, owner or mode.
        """
        ensure_state_dir(self.state_dir)
        ensure_private_dir(self.directory)
        # Who made them may have died before they were there for good.
        sync_directory(self.state_dir.parent)
        sync_directory(self.state_dir)

    def output(self, agent: AgentId) -> Path:
        """Where the lines of an agent are."""
        return self.directory / agent / "output.jsonl"

    def tmp(self, agent: AgentId) -> Path:
        """The private temporary directory of an agent."""
        return self.directory / agent / "tmp"

    def create(self, spec: AgentSpec, status: AgentStatus) -> None:
        """Makes an agent's directory, durable when it returns.

        Raises:
            OSError: It could not be made; nothing of it is left.
        """
        new = self.directory / f".{status.id}.new"
        try:
            make_private_dir(new)
            make_private_dir(new / "tmp")
            _write_new(new / "spec.json", msgspec.json.encode(spec))
            _write_new(new / "status.json", msgspec.json.encode(status))
            sync_directory(new)
            new.rename(self.directory / status.id)
            sync_directory(self.directory)
        except OSError:
            shutil.rmtree(new, ignore_errors=True)
            self.remove(status.id)
            raise

    def save_status(self, status: AgentStatus) -> None:
        """Replaces ``status.json``. Raises OSError: the old one still stands."""
        write_atomic(self.directory / status.id / "status.json", msgspec.json.encode(status))

    def save_spec(self, agent: AgentId, spec: AgentSpec) -> None:
        """Replaces ``spec.json``. Raises OSError: the old one still stands."""
        write_atomic(self.directory / agent / "spec.json", msgspec.json.encode(spec))

    def remove(self, agent: AgentId) -> None:
        """Forgets an agent and all it wrote; what can't be deleted now is at the next start."""
        gone = self.directory / f".{agent}.gone"
        try:
            (self.directory / agent).rename(gone)
            sync_directory(self.directory)
        except FileNotFoundError:
            return
        _discard(gone)

    # At start

    def load_all(self) -> Loaded:
        """Reads everything back, repairs output logs, clears away what was half made.

        Raises:
            UnsafeState: Something has the wrong type, owner or mode.
        """
        loaded = Loaded()
        for path in sorted(self.directory.iterdir()):
            if path.suffix in {".new", ".gone"}:
                _discard(path)
            elif path.suffix != ".bad":
                self._load(path, loaded)
        for left in self.state_dir.glob("canary-*"):  # of a launch that a crash cut short
            with contextlib.suppress(OSError):
                left.unlink()
        loaded.agents.sort(key=lambda agent: (agent.status.created, agent.status.id))
        return loaded

    def _load(self, path: Path, loaded: Loaded) -> None:
        ensure_private_dir(path)
        try:
            spec = _read(path / "spec.json", AgentSpec)
            status = _read(path / "status.json", AgentStatus)
            _check(path.name, spec, status)
            ensure_private_dir(path / "tmp")
            output = path / "output.jsonl"
            with contextlib.suppress(FileNotFoundError):
                check_private(output)
            for torn in path.glob(".*.tmp"):  # a replacement that a crash cut short
                torn.unlink()
            loaded.agents.append(Stored(spec, status, repair(output)))
        except (FileNotFoundError, ValueError) as error:  # msgspec's errors are ValueErrors
            self._set_aside(path, error)
            if _ID.match(path.name):
                loaded.aside[AgentId(path.name)] = str(error)

    def _set_aside(self, path: Path, error: Exception) -> None:
        bad = path.with_name(path.name + ".bad")
        number = 1
        while bad.exists():
            number += 1
            bad = path.with_name(f"{path.name}.{number}.bad")
        path.rename(bad)
        _log.warning("state of agent %s can't be read, set aside as %s: %s", path.name, bad, error)


def ensure_state_dir(directory: Path) -> None:
    """Makes a project's state directory, invisible to git, or checks the one that is there.

    Raises:
        UnsafeState: It has the wrong type, owner or mode.
    """
    ensure_private_dir(directory)
    ignore = directory / ".gitignore"
    if not ignore.exists():
        write_atomic(ignore, b"*\n")


def _check(name: str, spec: AgentSpec, status: AgentStatus) -> None:
    if status.id != name or not _ID.match(name) or spec.name is None:
        raise ValueError("status.json: it tells of another agent than its directory's name")
    if status.format != FORMAT:
        detail = f"its format is {status.format}, this program reads {FORMAT}"
        raise ValueError(f"status.json: {detail}")


def _write_new(path: Path, data: bytes) -> None:
    descriptor = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path, kind: type[T]) -> T:
    descriptor = open_private(path, os.O_RDONLY)
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(MAX_STATE_BYTES + 1)
    if len(data) > MAX_STATE_BYTES:
        raise ValueError(f"{path.name} is larger than {MAX_STATE_BYTES} bytes")
    try:
        return msgspec.json.decode(data, type=kind)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name}: {error}") from error


def _discard(path: Path) -> None:
    if path.is_symlink():
        raise UnsafeState(f"{shown(str(path))} is a symbolic link", path=str(path))
    shutil.rmtree(path, onerror=lambda _, name, __: _log.warning("%s can't be deleted", name))
