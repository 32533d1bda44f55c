"""Ways round the scope: links, names, descriptors, other processes' views, ordinary programs."""

from __future__ import annotations

from typing import Any

import pytest

ATTEMPTS = "ways"

BY_KERNEL = {
    "a working directory that was removed": "ENOENT",
    "a directory that is none": "ENOTDIR",
    "a path that is too long": "ENAMETOOLONG",
    "a path in no memory": "EFAULT",
    "truncated though open for reading": "EINVAL",
    "allocated though open for reading": "EBADF",
    "holes punched though open for reading": "EBADF",
    "mapped to write though open for reading": "EACCES",
    "a mapping made writable": "EACCES",
    "a mapping whose pages are removed": "EACCES",
    "spliced into a file that is open for reading": "EBADF",
    "cloned into a file that is open for reading": "EBADF",
    "inherited descriptors": "EBADF",
}
"""What no kernel lets anybody do, whatever holds him."""

OPEN_AT_THE_WALL = {"touch", "chmod, the program"}
"""Landlock does not look at modes and times."""

BY_THE_WAY = {"tar -x", "a descriptor passed from child to parent"}
"""What fails at level ``wall``, after it has changed a mode or a time."""

UNASKED = {
    "a directory that is open as a place": "ELOOP",  # through the door of a descriptor
    "no path at all": "EBADF",
    "an unnamed file given a name": "ENOTSUP",
    "an unnamed file made outside": "ENOTSUP",
    "its own root": "ELOOP",
    "its parent's root": "ELOOP",
    "its own working directory": "ELOOP",
    "the daemon's root": "ELOOP",
    "the files that its father has open": "EACCES",
    "the daemon's working directory": "EACCES",
    "the daemon's descriptors": "EACCES",
    "the daemon's environment": "EACCES",
    "the calls of 32 bits": "SIGSYS",
    "the calls of x32": "SIGSYS",
}
"""What the gate refuses, or does not know, without asking anybody; and where reads end."""


def test_a_way(stage: Any, level: str, name: str, way: str) -> None:
    fared = stage.at(level)
    told = fared.told[name, way]["told"]
    if told == "NOT HERE":
        pytest.skip(f"NO {name} on this machine")
    unchanged = way != "out" or fared.after[name] == fared.before[name]
    if way == "in":
        assert told == "passed"
    elif name in BY_KERNEL:
        assert (told, unchanged) == (BY_KERNEL[name], True)
    elif level == "gate":
        assert told == UNASKED.get(name, "EACCES")
        assert unchanged
        assert name in UNASKED or fared.on_record(name)
    elif level == "wall" and name not in OPEN_AT_THE_WALL:
        assert told in {"EACCES", "EXDEV", "EFAULT", "SIGSYS"}
        assert unchanged or name in BY_THE_WAY
    elif name not in {"no path at all", "the calls of x32"}:
        assert told == "passed"
        assert way == "bare" or not unchanged or name == "an unnamed file made outside"
