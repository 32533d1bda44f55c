"""The table of calls: its numbers are the system's own, and the first entry that holds decides."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groove_trio.rules import syscalls
from groove_trio.rules.syscalls import (
    CALLS,
    FILE_IOCTLS,
    NEW_NAMESPACES,
    NEWEST,
    TERMINAL_IOCTLS,
    WRITE_INTENT,
    Architecture,
    Call,
    Test,
    by_number,
)
from groove_trio.shell.gate import meant

Test.__test__ = False  # type: ignore[attr-defined]  # it is no test of pytest's

HEADERS: dict[Architecture, tuple[str, ...]] = {
    "x86_64": (
        "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
        "/usr/include/asm/unistd_64.h",
        "/usr/x86_64-linux-gnu/include/asm/unistd_64.h",
    ),
    "aarch64": ("/usr/include/asm-generic/unistd.h",),
}
_LINE = re.compile(r"^#define\s+__NR(?:3264)?_(\w+)\s+(\d+)\s*$", re.MULTILINE)
REGISTERS = st.integers(0, 2**64 - 1)


def header(architecture: Architecture) -> dict[str, int]:
    for path in map(Path, HEADERS[architecture]):
        if path.exists():
            return {name: int(number) for name, number in _LINE.findall(path.read_text())}
    pytest.skip(f"NO KERNEL HEADERS for {architecture}: numbers not compared")


@pytest.mark.parametrize("architecture", get_args(Architecture))
def test_numbers_are_those_of_the_kernels_headers(architecture: Architecture) -> None:
    known = header(architecture)
    newest = max(known.values())
    compared = 0
    for call in CALLS:
        number = call.number(architecture)
        if number is None:
            assert call.name not in known, call.name
        elif number <= newest:
            assert known.get(call.name, number) == number, call.name
            compared += call.name in known
    assert compared > 60


@pytest.mark.parametrize("architecture", get_args(Architecture))
def test_no_number_stands_for_two_calls(architecture: Architecture) -> None:
    for number, calls in by_number(architecture).items():
        assert len({call.name for call in calls}) == 1, number
        assert 0 <= number <= NEWEST


def test_a_call_without_conditions_stands_alone() -> None:
    for calls in by_number("x86_64").values():
        assert len(calls) == 1 or all(call.when for call in calls)


def test_the_newer_calls_have_one_number_everywhere() -> None:
    for call in CALLS:
        if max(call.x86_64 or 0, call.aarch64 or 0) >= 424:  # where the tables were made one
            assert call.x86_64 == call.aarch64, call.name


@given(REGISTERS, REGISTERS, st.lists(REGISTERS, max_size=4), st.booleans())
def test_a_condition_looks_at_the_low_half_of_a_register(
    register: int, mask: int, values: list[int], negate: bool
) -> None:
    test = Test(0, mask & 0xFFFFFFFF, tuple(value & mask & 0xFFFFFFFF for value in values), negate)
    low = register & 0xFFFFFFFF
    assert test.holds(register) == test.holds(low) == test.holds(low | 0xDEAD << 32)
    assert test.holds(register) != Test(0, test.mask, test.values, not negate).holds(register)
    assert test.holds(register) == (((low & test.mask) in test.values) ^ negate)


def test_all_conditions_must_hold() -> None:
    call = Call("x", 1, 1, when=(Test(0, 0xFF, (1, 2)), Test(3, 0xF, (0,), negate=True)))
    assert call.holds((1, 0, 0, 1, 0, 0))
    assert call.holds((0x102, 0, 0, 1, 0, 0))
    assert not call.holds((3, 0, 0, 1, 0, 0))
    assert not call.holds((1, 0, 0, 0x10, 0, 0))


def one(name: str, *arguments: int) -> str:
    """What a call with these arguments meets on x86_64."""
    registers = (*arguments, *(0,) * (6 - len(arguments)))
    return next((c.answer for c in CALLS if c.name == name and c.holds(registers)), "free")


@pytest.mark.parametrize(
    ("flags", "answer"),
    [
        (0, "free"), (0o2000000, "free"), (0o200000, "free"), (0o4000, "free"),
        (1, "knock"), (2, "knock"), (3, "knock"), (0o100, "knock"), (0o1000, "knock"),
        (0o20200000, "knock"), (0o10000000, "free"),
    ],
)  # fmt: skip
def test_reads_are_free_and_whatever_may_change_a_file_knocks(flags: int, answer: str) -> None:
    assert one("open", 0, flags) == one("openat", 0, 0, flags) == answer
    assert (flags & WRITE_INTENT != 0) == (answer == "knock")


def test_ioctls_are_told_apart_by_command() -> None:
    assert {one("ioctl", 1, command) for command in FILE_IOCTLS} == {"knock"}
    assert {one("ioctl", 1, command) for command in TERMINAL_IOCTLS} == {"refuse"}
    assert one("ioctl", 1, 0x5401) == "free"  # TCGETS
    assert one("ioctl", 1, 0xFFFF << 32 | TERMINAL_IOCTLS[0]) == "refuse"  # as the kernel reads it


@pytest.mark.parametrize("bit", [bit for bit in range(32) if NEW_NAMESPACES >> bit & 1])
def test_no_new_namespace_is_made(bit: int) -> None:
    assert one("clone", 1 << bit | 17) == one("unshare", 1 << bit) == "refuse"


def test_threads_and_children_are_made_freely() -> None:
    assert one("clone", 0x3D0F00) == one("clone", 17) == one("unshare", 0x400) == "free"


def test_the_first_entry_that_holds_decides() -> None:
    strict = Call("x", 1, 1, "refuse", (Test(0, 0xFF, (1,)),))
    loose = Call("x", 1, 1, "knock", (Test(0, 0xFF, (1, 2)),))
    assert meant([strict, loose], (1, 0, 0, 0, 0, 0)) is strict
    assert meant([strict, loose], (2, 0, 0, 0, 0, 0)) is loose
    assert meant([loose, strict], (1, 0, 0, 0, 0, 0)) is loose
    assert meant([strict], (9, 0, 0, 0, 0, 0)) is strict  # the filter has seen to that


def test_datagrams_have_no_path_to_be_asked_about() -> None:
    unix, inet = 1, 2
    for name in ("socket", "socketpair"):
        assert one(name, unix, 1) == "free"
        assert (
            one(name, unix, 2) == one(name, unix, 2 | 0o2004000) == one(name, unix, 3) == "refuse"
        )
        assert one(name, inet, 2) == "free"


def test_what_is_absent_has_nothing_to_look_at() -> None:
    absent = {call.name for call in CALLS if call.answer == "absent"}
    assert {"openat2", "clone3", "io_uring_setup", "landlock_restrict_self"} <= absent
    assert not any(call.when for call in CALLS if call.answer == "absent")
    assert syscalls.REFUSED_WITH
