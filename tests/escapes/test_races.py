"""Ten thousand rounds of changing what a call means while it is looked at: none gets through."""

from __future__ import annotations

from typing import Any

ATTEMPTS = "races"
PLACE = "/dev/shm"
DENIALS_S = 0.0
METADATA = ("chmod", "utime", "setxattr", "ioctl", "connect")


def test_a_race_behind_the_gate(stage: Any, name: str, way: str) -> None:
    fared = stage.at("gate")
    assert fared.told[name, way]["told"] == "passed"
    assert fared.after[name] == fared.before[name]


def test_a_race_at_the_wall(stage: Any, name: str, way: str) -> None:
    fared = stage.at("wall")
    assert fared.told[name, way]["told"] == "passed"
    assert name.endswith(METADATA) or fared.after[name] == fared.before[name]


def test_nobody_was_called(stage: Any) -> None:
    assert stage.at("gate").heard == []
