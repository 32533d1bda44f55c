"""Every call that knocks has a form, and a form takes the registers for what they are."""

from __future__ import annotations

from typing import get_args

import pytest

from groove_trio.rules.calls import (
    CREATES,
    CWD,
    EMPTY_PATH,
    FOLLOW,
    FORMS,
    GROUP,
    NO_FOLLOW,
    PROCESS,
    REMOVE_DIR,
    Deed,
    DeedName,
    Where,
)
from groove_trio.rules.syscalls import CALLS, Architecture

CWD_32 = 0xFFFFFF9C  # what a compiler leaves of AT_FDCWD in the low half of a register
CWD_64 = 0xFFFFFFFFFFFFFF9C
P, Q, V = 0x7FFF00001000, 0x7FFF00002000, 0x7FFF00003000  # addresses
JUNK = 0xABCD << 32  # in the high half, where the kernel does not look either

AT_CWD = Where(CWD, P)
AT_3 = Where(3, P)
ITSELF = Where(3, 0, EMPTY_PATH)
STAYS = Where(CWD, P, NO_FOLLOW)

CASES: list[tuple[str, tuple[int, ...], Deed]] = [
    ("open", (P, 0o101 | JUNK, 0o100644), Deed("open", (AT_CWD,), (0o101, 0o644))),
    ("openat", (3 | JUNK, P, 0o101, 0o7777), Deed("open", (AT_3,), (0o101, 0o7777))),
    ("creat", (P, 0o600), Deed("open", (AT_CWD,), (CREATES, 0o600))),
    ("truncate", (P, 1 << 40), Deed("truncate", (AT_CWD,), (1 << 40,))),
    ("mkdir", (P, 0o40755), Deed("mkdir", (AT_CWD,), (0o755,))),
    ("mkdirat", (3, P, 0o755), Deed("mkdir", (AT_3,), (0o755,))),
    ("mknod", (P, 0o10644, 1 << 32 | 5), Deed("mknod", (AT_CWD,), (0o10644, 5))),
    ("mknodat", (3, P, 0o7010644, 0x103), Deed("mknod", (AT_3,), (0o7010644 & 0xFFFF, 0x103))),
    ("rmdir", (P,), Deed("unlink", (AT_CWD,), (REMOVE_DIR,))),
    ("unlink", (P, REMOVE_DIR, REMOVE_DIR), Deed("unlink", (AT_CWD,), (0,))),
    ("unlinkat", (3, P, REMOVE_DIR | JUNK), Deed("unlink", (AT_3,), (REMOVE_DIR,))),
    ("rename", (P, Q, 9, 9, 9), Deed("rename", (AT_CWD, Where(CWD, Q)), (0,))),
    ("renameat", (3, P, 4, Q, 9), Deed("rename", (AT_3, Where(4, Q)), (0,))),
    ("renameat2", (3, P, 4, Q, 2 | JUNK), Deed("rename", (AT_3, Where(4, Q)), (2,))),
    ("link", (P, Q, 9, 9, FOLLOW), Deed("link", (STAYS, Where(CWD, Q)))),
    ("linkat", (3, P, 4, Q, 0), Deed("link", (Where(3, P, NO_FOLLOW), Where(4, Q)))),
    ("linkat", (3, P, 4, Q, FOLLOW), Deed("link", (AT_3, Where(4, Q)))),
    ("linkat", (3, P, 4, Q, EMPTY_PATH | FOLLOW),
        Deed("link", (Where(3, P, EMPTY_PATH), Where(4, Q)))),
    ("symlink", (Q, P), Deed("symlink", (AT_CWD,), (Q,))),
    ("symlinkat", (Q, 3, P), Deed("symlink", (AT_3,), (Q,))),
    ("chmod", (P, 0o104755), Deed("chmod", (AT_CWD,), (0o4755,))),
    ("fchmod", (3 | JUNK, 0o644), Deed("chmod", (ITSELF,), (0o644,))),
    ("fchmodat", (3, P, 0o644, NO_FOLLOW), Deed("chmod", (AT_3,), (0o644,))),  # it has no flags
    ("fchmodat2", (3, P, 0o644, NO_FOLLOW), Deed("chmod", (Where(3, P, NO_FOLLOW),), (0o644,))),
    ("chown", (P, 0xFFFFFFFF, 7), Deed("chown", (AT_CWD,), (-1, 7))),
    ("lchown", (P, 7, JUNK | 0xFFFFFFFF), Deed("chown", (STAYS,), (7, -1))),
    ("fchown", (3, 7, 8), Deed("chown", (ITSELF,), (7, 8))),
    ("fchownat", (3, P, 7, 8, EMPTY_PATH), Deed("chown", (Where(3, P, EMPTY_PATH),), (7, 8))),
    ("utime", (P, V), Deed("utime", (AT_CWD,), (V, "utimbuf"))),
    ("utimes", (P, V), Deed("utime", (AT_CWD,), (V, "timeval"))),
    ("futimesat", (3, P, V), Deed("utime", (AT_3,), (V, "timeval"))),
    ("futimesat", (3, 0, V), Deed("utime", (ITSELF,), (V, "timeval"))),
    ("utimensat", (3, P, V, NO_FOLLOW), Deed("utime", (Where(3, P, NO_FOLLOW),), (V, "timespec"))),
    ("utimensat", (3, 0, 0, 0), Deed("utime", (ITSELF,), (0, "timespec"))),
    ("setxattr", (P, Q, V, 9, 1), Deed("setxattr", (AT_CWD,), (Q, V, 9, 1))),
    ("lsetxattr", (P, Q, V, 9, JUNK), Deed("setxattr", (STAYS,), (Q, V, 9, 0))),
    ("fsetxattr", (3, Q, V, 9, 2), Deed("setxattr", (ITSELF,), (Q, V, 9, 2))),
    ("removexattr", (P, Q), Deed("removexattr", (AT_CWD,), (Q,))),
    ("lremovexattr", (P, Q), Deed("removexattr", (STAYS,), (Q,))),
    ("fremovexattr", (3, Q), Deed("removexattr", (ITSELF,), (Q,))),
    ("ioctl", (3, JUNK | 0x40086602, V), Deed("ioctl", (ITSELF,), (0x40086602, V))),
    ("connect", (3, V, JUNK | 16), Deed("connect", (ITSELF,), (V, 16))),
    ("bind", (3, V, 110), Deed("bind", (ITSELF,), (V, 110))),
    ("setsid", (), Deed("leave", ())),
    ("setpgid", (0, 0), Deed("leave", ())),
    ("umask", (0o77,), Deed("mask", ())),
    ("sched_setparam", (7, V), Deed("steer", (), (PROCESS, 7))),
    ("sched_setscheduler", (JUNK, 0, V), Deed("steer", (), (PROCESS, 0))),
    ("sched_setaffinity", (0xFFFFFFFF, 8, V), Deed("steer", (), (PROCESS, -1))),
    ("sched_setattr", (7, V, 0), Deed("steer", (), (PROCESS, 7))),
    ("setpriority", (PROCESS | JUNK, 7, 19), Deed("steer", (), (PROCESS, 7))),
    ("setpriority", (GROUP, 7, 19), Deed("steer", (), (GROUP, 7))),
    ("ioprio_set", (1, 7, 0), Deed("steer", (), (PROCESS, 7))),
    ("ioprio_set", (2, 7, 0), Deed("steer", (), (GROUP, 7))),
]  # fmt: skip


def formed(name: str, registers: tuple[int, ...]) -> Deed:
    return FORMS[name]((*registers, *(0,) * (6 - len(registers))))


@pytest.mark.parametrize("architecture", get_args(Architecture))
def test_every_call_that_knocks_has_a_form_and_no_other_has(architecture: Architecture) -> None:
    knocking = {call.name for call in CALLS if call.answer == "knock"}
    assert set(FORMS) == knocking
    here = {call.name for call in CALLS if call.answer == "knock" and call.number(architecture)}
    assert here <= set(FORMS)
    newer = {"openat", "mkdirat", "mknodat", "unlinkat", "renameat2", "linkat", "symlinkat",
        "fchmodat", "fchownat", "utimensat", "setxattr", "truncate"}  # fmt: skip
    assert newer <= here


def test_each_form_and_each_deed_has_a_case_here() -> None:
    assert {name for name, *_ in CASES} == set(FORMS)
    assert {deed.name for *_, deed in CASES} == set(get_args(DeedName))


@pytest.mark.parametrize(("name", "registers", "deed"), CASES)
def test_registers_become_a_deed(name: str, registers: tuple[int, ...], deed: Deed) -> None:
    assert formed(name, registers) == deed


@pytest.mark.parametrize("directory", [CWD_32, CWD_64, CWD_32 | 0x7 << 32])
def test_the_working_directory_is_meant_however_wide_it_is_said(directory: int) -> None:
    for name, places in (("openat", 1), ("renameat2", 2), ("symlinkat", 1), ("fchmodat", 1)):
        registers = {
            "openat": (directory, P, 0o101, 0),
            "renameat2": (directory, P, directory, Q, 0),
            "symlinkat": (Q, directory, P),
            "fchmodat": (directory, P, 0),
        }[name]
        assert [where.directory for where in formed(name, registers).paths] == [CWD] * places
    # It is no descriptor of anything, so this must not come to mean the working directory.
    assert formed("fchmod", (directory, 0)).paths == (Where(CWD, 0, EMPTY_PATH),)


@pytest.mark.parametrize(
    ("register", "meant"), [(0xFFFFFFFF, -1), (JUNK | 5, 5), (1 << 31, -(1 << 31))]
)
def test_descriptors_are_signed(register: int, meant: int) -> None:
    assert formed("fchown", (register, 0, 0)).paths[0].directory == meant
    assert formed("mkdirat", (register, P, 0)).paths[0].directory == meant


def test_addresses_keep_all_of_their_bits() -> None:
    high = 0xFFFF_F000_0000_1000
    assert formed("mkdir", (high, 0)).paths[0].address == high
    assert formed("setxattr", (P, high, high, 1 << 40, 0)).values[:3] == (high, high, 1 << 40)


def test_links_are_followed_unless_said_otherwise() -> None:
    assert Where(3, P).follow
    assert Where(3, P, EMPTY_PATH).follow
    assert not Where(3, P, NO_FOLLOW | EMPTY_PATH).follow
