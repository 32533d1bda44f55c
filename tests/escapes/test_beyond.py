"""What is no file: processes, signals, sockets, terminals, secrets, the daemon itself."""

from __future__ import annotations

from typing import Any

import pytest

ATTEMPTS = "beyond"
USERS = (None, 65_534)
"""Whoever runs the tests; and an ordinary user where that is root."""

ANYBODY_S = {
    "prlimit64: itself",
    "setpriority: itself",
    "sched_setaffinity: a thread of its own",
    "an abstract name of its own",
    "a terminal of its own",
}
"""What is the agent's own."""

ONLY_THE_GATE_S = {"shared memory: its own"}
"""What the wall can't tell from others', so that it is closed there."""

NOBODY_S = {"remove a device", "ask the daemon to stop another agent", "be the daemon's own voice"}
"""The daemon knows who asks, at every level; and the devices are root's."""

OPEN_AT_THE_WALL = {
    "setpriority: the daemon",
    "sched_setparam: the daemon",
    "sched_setattr: the daemon",
    "sched_setaffinity: the daemon",
    "sched_setscheduler: the daemon",
    "ioprio_set: the daemon",
    "call the bus",
    "call the docker",
    "call the tmux",
    "call the systemd",
    "call the bus through a link",
    "call the bus from its directory",
    "call the bus under proc",
    "write to another's terminal",
    "read another's terminal",
    "take another's terminal for its own",
    "a terminal that was its own",
    "shared memory: another's mode",
}
"""What Landlock does not look at; terminals it must leave open."""

OPEN = {"memory shared by name"}
"""What nothing holds: memory that is shared by System V's means has no file."""

OPEN_BUT_TO_ROOT_S = {name for name in OPEN_AT_THE_WALL if name.endswith("the daemon")}
"""A daemon that root runs has capabilities, so that agents without them can't steer it anyway."""

ROOT_S = {
    "type into another's terminal",
    "ptrace: a child without its filter",
    "a setting of the kernel",
}
"""What takes a capability."""

OTHERWISE = {"process_vm_writev: the daemon", "process_vm_readv: another agent"}
OTHERWISE |= {"process_madvise: the daemon"}
"""Where it is not held it fails for another reason: it is tried on memory that is not there."""

RECORDED = (
    "call the",
    "write",
    "send",
    "move",
    "a table",
    "the audit log",
    "prlimit64: the",
    "how",
    "shared memory: another's",
)


def test_beyond_files(stage: Any, level: str, name: str, way: str) -> None:
    fared = stage.at(level)
    told = fared.told[name, way]["told"]
    if name in OPEN or name in ANYBODY_S or (name in ONLY_THE_GATE_S and level != "wall"):
        assert told == "passed"
    elif name in NOBODY_S:
        assert told == "EACCES"
    elif level == "gate":
        assert told in {"EACCES", "EPERM", "EROFS", "ECONNREFUSED"}
        assert told == "EROFS" if name.startswith("the audit log") else told != "EROFS"
        assert not name.startswith(RECORDED) or fared.denials(name, way)
    elif level == "wall" and name not in OPEN_AT_THE_WALL:
        assert told in {"EACCES", "EPERM"}
    elif level == "wall" and name in OPEN_BUT_TO_ROOT_S and stage.privileged:
        assert told in {"EPERM", "passed"}
    elif name not in OTHERWISE and (stage.privileged or name not in ROOT_S):
        assert told == "passed"


def test_the_gate_asks_before_a_device_goes(stage: Any) -> None:
    name = "remove a device"
    assert stage.privileged or stage.at("gate").denials(name, "bare")


def test_nobody_outside_was_called(stage: Any) -> None:
    assert stage.at("gate").heard == []
    assert {"datagrams", "abstract"}.isdisjoint(stage.at("wall").heard)


@pytest.mark.parametrize("level", ["gate", "wall"])
def test_what_is_outside_is_as_before(stage: Any, level: str) -> None:
    assert stage.at(level).after == stage.at(level).before
