"""Every system call of the table, in both directions across the scope's edge, at every level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from groove_trio.rules.syscalls import CALLS

ATTEMPTS = "calls"
ABSENT = {call.name for call in CALLS if call.answer == "absent"}
REFUSED = {call.name for call in CALLS if call.answer == "refuse"}
NEVER = {"clone3", "io_uring_setup", "io_uring_enter", "io_uring_register"}

NOT_THE_WALL_S = {
    "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "lchown", "fchown", "fchownat",
    "utime", "utimes", "futimesat", "utimensat", "setxattr", "lsetxattr", "fsetxattr",
    "removexattr", "lremovexattr", "fremovexattr", "setxattrat", "removexattrat", "file_setattr",
    "ioctl", "connect",
}  # fmt: skip
"""What Landlock does not look at: with level ``wall`` alone it is open."""

BARELY_DONE = {"chown", "lchown", "fchown", "fchownat", "ioctl", "connect", "file_setattr"}
"""What shows in nothing that is compared: an owner that it had, a flag."""


def call_of(name: str) -> str:
    return name.partition(":")[0]


def test_no_call_of_the_table_is_left_out(names_of: Callable[[str], set[str]]) -> None:
    tried = {call_of(name) for name in names_of("calls") | names_of("beyond")}
    assert {call.name for call in CALLS} - tried == set()


def test_a_call(stage: Any, level: str, name: str, way: str) -> None:
    told, call = stage.at(level).told[name, way]["told"], call_of(name)
    if way == "bare":
        check_bare(stage, level, name, told)
    elif level == "gate" and call in ABSENT:
        assert told == "ENOSYS"
    elif way == "in":
        assert told == "passed"
    elif level == "gate":
        assert told == "EACCES"
        check_record(stage, name)
    elif is_open(level, call):
        assert told == "passed" or call == "ioctl"  # not every file system has it
    else:
        assert told in {"EACCES", "EXDEV"}


def test_what_is_outside(stage: Any, level: str, outside: str) -> None:
    fared, call = stage.at(level), call_of(outside)
    changed = fared.after[outside] != fared.before[outside]
    if not is_open(level, call):
        assert not changed
    elif call not in BARELY_DONE:
        assert changed, "it is held after all: say so"


def is_open(level: str, call: str) -> bool:
    return level == "hooks" or (level == "wall" and call in NOT_THE_WALL_S)


def check_bare(stage: Any, level: str, name: str, told: str) -> None:
    call = call_of(name)
    if call in {"setsid", "setpgid", "umask"}:
        assert told == "passed"
    elif level == "gate":
        check_refused(stage, name, told)
    elif level == "wall" and call in REFUSED | NEVER:
        assert told == ("ENOSYS" if call in NEVER else "EPERM")


def check_refused(stage: Any, name: str, told: str) -> None:
    call = call_of(name)
    if call in ABSENT or call not in REFUSED:
        assert told == "ENOSYS"
        return
    assert told == "EPERM"
    (record,) = stage.at("gate").denials(name, "bare")
    assert record["action"] == "gate.refuse"
    assert record["detail"]["call"] == call
    assert record["detail"]["tool"] == stage.at("gate").told[name, "bare"]["tool"]


def check_record(stage: Any, name: str) -> None:
    """What was denied is on record, with call, path, process and the name it goes by."""
    fared = stage.at("gate")
    records = fared.denials(name, "out")
    assert len(records) == 1, records
    detail = records[0]["detail"]
    assert records[0]["action"] == "knock.denied"
    assert (detail["call"], detail["source"]) == (call_of(name), "gate")
    assert detail["tool"] == fared.told[name, "out"]["tool"]
    assert detail["path"].startswith("gate/docs/")


def test_only_what_was_granted_was_called(stage: Any) -> None:
    assert [label for label in stage.at("gate").heard if label.startswith("out")] == []
    assert "in connect" in stage.at("gate").heard
