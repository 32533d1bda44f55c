"""What a pre-tool hook's JSON says an agent is about to touch.

Agent command lines describe a tool call by the tool's name and its arguments. This module
knows which arguments are paths and what the tool does to them. It judges arguments only: what
a shell command will do can't be read from its text, so such a tool has no knowable path and
the knock for it names none, which no scope grants.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from groove_trio.words.base import MAX_PATH
from groove_trio.words.knocks import Operation


class Touch(NamedTuple):
    """One path that a tool call touches; an empty path is one that can't be known."""

    operation: Operation
    path: str


UNKNOWABLE = [Touch("write", "")]

TOOLS: Mapping[str, tuple[Operation, tuple[str, ...]]] = {
    "Write": ("write", ("file_path",)),
    "Edit": ("write", ("file_path",)),
    "MultiEdit": ("write", ("file_path",)),
    "NotebookEdit": ("write", ("notebook_path",)),
    "Read": ("read", ("file_path",)),
    "Glob": ("read", ("path",)),
    "Grep": ("read", ("path",)),
    "LS": ("read", ("path",)),
    "view_image": ("read", ("path",)),
    "write_file": ("write", ("file_path",)),
    "replace": ("write", ("file_path",)),
    "read_file": ("read", ("file_path",)),
    "list_directory": ("read", ("dir_path",)),
    "glob": ("read", ("dir_path",)),
    "grep_search": ("read", ("dir_path",)),
    "write": ("write", ("filePath",)),
    "edit": ("write", ("filePath",)),
    "read": ("read", ("filePath",)),
}
"""Tools with paths in their arguments; a reading tool without one reads its directory."""

QUIET = frozenset({"TodoWrite", "ExitPlanMode", "Agent", "Task", "spawn_agent", "task"})
"""Tools that touch no file themselves; what a sub-agent does knocks on its own."""

_PATCHED = re.compile(r"\*\*\* (?:(Add|Update|Delete) File|(Move) to): (.+)")
_PATCH_MARKS = frozenset({"*** Begin Patch", "*** End Patch", "*** End of File"})
_PATCH_OPERATIONS: Mapping[str, Operation] = {
    "Add": "create",
    "Update": "write",
    "Delete": "delete",
}
MAX_TOUCHES = 256  # paths in one patch; a larger one is refused whole


def tool_operation(tool: str) -> Operation | None:
    """What a tool does to its path, or None when no such tool is known."""
    known = TOOLS.get(tool)
    return known[0] if known else None


def read_hook(tool: str, arguments: Mapping[str, Any], cwd: str) -> list[Touch]:
    """Lists what a tool call touches; never empty.

    Args:
        tool: The tool's name as the agent's command line has it.
        arguments: The tool's arguments.
        cwd: The directory that relative paths start from; empty for the agent's own.
    """
    if tool in QUIET:
        return [Touch("read", cwd or ".")]
    if tool == "apply_patch":
        return _read_patch(arguments.get("command"), cwd)
    if tool not in TOOLS:
        return UNKNOWABLE
    operation, names = TOOLS[tool]
    paths = [arguments[name] for name in names if arguments.get(name)]
    if not paths and operation == "read":
        paths = [cwd or "."]
    if not paths or not all(isinstance(path, str) and len(path) <= MAX_PATH for path in paths):
        return UNKNOWABLE
    return _touches([(operation, path) for path in paths], cwd)


def _readings(cwd: str, path: str) -> list[str]:
    """What a path may mean to a tool; empty if nobody can say.

    Some tools cut blanks off its ends and put the home directory for a tilde; those built on
    Node.js take ``..`` as text, not as the kernel does, and some compose letters and accents.
    """
    if path != path.strip() or path.startswith("~") or "\0" in path:
        return []
    full = f"{cwd}/{path}" if cwd and not path.startswith("/") else path
    plain = full
    if ".." in full:
        plain = posixpath.normpath(full)
    return list(dict.fromkeys((full, unicodedata.normalize("NFC", plain))))


def _touches(calls: Iterable[tuple[Operation, str]], cwd: str) -> list[Touch]:
    touches: list[Touch] = []
    for operation, path in calls:
        readings = _readings(cwd, path)
        if not readings or len(touches) + len(readings) > MAX_TOUCHES:
            return UNKNOWABLE
        touches += [Touch(operation, reading) for reading in readings]
    return touches or UNKNOWABLE


def _read_patch(patch: object, cwd: str) -> list[Touch]:
    if not isinstance(patch, str):
        return UNKNOWABLE
    calls: list[tuple[Operation, str]] = []
    for line in patch.split("\n"):
        mark = line.lstrip()  # as Codex does; within a hunk, what is indented is only text
        found = _PATCHED.fullmatch(mark)
        if found is None:
            if line.startswith("***") and line.rstrip() not in _PATCH_MARKS:
                return UNKNOWABLE
            continue
        if len(calls) > MAX_TOUCHES:
            return UNKNOWABLE
        kind, move, path = found.groups()
        if not move:
            calls.append((_PATCH_OPERATIONS[kind], path))
        elif calls:  # the file just updated is written anew there, and removed here
            calls.extend((("delete", calls[-1][1]), ("create", path)))
        else:
            return UNKNOWABLE
    return _touches(calls, cwd)
