"""What an agent does to itself while it is held leaves the daemon as it was."""

from __future__ import annotations

from typing import Any

ATTEMPTS = "strain"


def test_a_strain(stage: Any, level: str, name: str, way: str) -> None:
    fared = stage.at(level)
    told = fared.told[name, way]["told"]
    if way == "in":
        assert told == "passed"
    elif way == "bare":
        assert level == "hooks" or told in {"EPERM", "EACCES", "ENOENT"}
    elif level != "hooks":
        assert told == "EACCES"
        assert fared.after[name] == fared.before[name]


def test_the_daemon_keeps_no_descriptor(stage: Any, level: str) -> None:
    assert stage.at(level).descriptors <= 0
