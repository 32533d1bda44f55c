"""From the table of calls to the filter that the kernel runs: classic BPF, as seccomp takes it.

The program first makes sure of the ABI: another architecture's numbers mean other calls, so a
process that comes with them is killed, and so is x32's. Then it looks for the number by halving:
all numbers fall into runs that are treated alike, and a tree of comparisons finds the run. Its
leaf is an answer, or tests of registers with an answer behind each.

Invariants: every path ends in a return; conditional jumps reach 255 instructions at most, so
where a half is longer, an unconditional one stands in between.

Cost: some ten instructions a call. For calls that are never looked at it is none: since Linux
5.11 the kernel tries each number once, when the filter is installed, and remembers which are
allowed whatever the registers hold. For that the program may only use the few instructions that
``seccomp_is_const_allow`` (kernel/seccomp.c) can follow, and these are all that it uses.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Sequence
from typing import Final

from groove_trio.rules.syscalls import (
    ARCHITECTURES,
    NEWEST,
    REFUSED_WITH,
    X32_BIT,
    Architecture,
    Call,
    Test,
    by_number,
)

MAX_INSTRUCTIONS: Final = 4096  # BPF_MAXINSNS, include/uapi/linux/bpf_common.h

# SECCOMP_RET_*, include/uapi/linux/seccomp.h
KILL_PROCESS: Final = 0x8000_0000
ERRNO: Final = 0x0005_0000
USER_NOTIF: Final = 0x7FC0_0000
ALLOW: Final = 0x7FFF_0000

ABSENT: Final = ERRNO | errno.ENOSYS
REFUSED: Final = ERRNO | REFUSED_WITH

STILL_ABSENT: Final = frozenset({"clone3", "io_uring_setup", "io_uring_enter", "io_uring_register"})
"""What stays absent where nobody answers knocks; the other absent calls are only so in order to
make callers ask in a way that the gate can read."""

# Instructions: class, size and mode, or class, operation and source; linux/bpf_common.h.
LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
JUMP: Final = 0x05  # BPF_JMP | BPF_JA
IF_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
IF_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
IF_ANY_BIT: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
RETURN: Final = 0x06  # BPF_RET | BPF_K

# struct seccomp_data: nr, arch, instruction_pointer, args[6]. Both architectures are
# little-endian, so the low half of an argument comes first.
NUMBER_AT: Final = 0
ARCHITECTURE_AT: Final = 4
ARGUMENTS_AT: Final = 16

_ALL_BITS: Final = 0xFFFF_FFFF
_SHORT: Final = 255

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, operand: struct sock_filter."""

Code = tuple[Instruction, ...]


def program(architecture: Architecture, *, notify: bool) -> bytes:
    """The filter of an architecture, as an array of ``struct sock_filter``.

    Args:
        architecture: The kernel's own; every other is killed.
        notify: Whether a gate listens. Otherwise what would knock goes through, and what would
            be refused is refused by the kernel itself.
    """
    code = instructions(architecture, notify=notify)
    return b"".join(struct.pack("=HBBI", *each) for each in code)


def instructions(architecture: Architecture, *, notify: bool) -> Code:
    """The filter as instructions."""
    return (
        (LOAD, 0, 0, ARCHITECTURE_AT),
        (IF_EQUAL, 1, 0, ARCHITECTURES[architecture]),
        _answer(KILL_PROCESS),
        (LOAD, 0, 0, NUMBER_AT),
        *(_no_x32() if architecture == "x86_64" else ()),
        *search(_runs(by_number(architecture), notify=notify)),
    )


def _no_x32() -> Code:
    # -1 is no call of any ABI: a tracer writes it to have a call skipped.
    return (
        (IF_ANY_BIT, 0, 2, X32_BIT),
        (IF_EQUAL, 1, 0, _ALL_BITS),
        _answer(KILL_PROCESS),
    )


def _runs(calls: dict[int, list[Call]], *, notify: bool) -> list[tuple[int, Code]]:
    """What is to be done from each number on, until the next."""
    runs: list[tuple[int, Code]] = []
    for number in range(NEWEST + 1):
        code = _leaf(calls.get(number, ()), notify=notify)
        if not runs or runs[-1][1] != code:
            runs.append((number, code))
    runs.append((NEWEST + 1, (_answer(ABSENT),)))
    return runs


def search(runs: Sequence[tuple[int, Code]]) -> Code:
    """Code that finds, with the number in the accumulator, the run that it falls in."""
    if len(runs) == 1:
        return runs[0][1]
    middle = len(runs) // 2
    below, above = search(runs[:middle]), search(runs[middle:])
    first = runs[middle][0]
    if len(below) <= _SHORT:
        return ((IF_AT_LEAST, len(below), 0, first), *below, *above)
    return ((IF_AT_LEAST, 0, 1, first), (JUMP, 0, 0, len(below)), *below, *above)


def _leaf(calls: Iterable[Call], *, notify: bool) -> Code:
    """The tests and answers of the calls that share a number; the first that holds decides."""
    code: list[Instruction] = []
    for call in calls:
        answer = _answer(_answered(call, notify=notify))
        if not call.when:
            code.append(answer)
            break
        code += _tested(call.when, answer)
    else:
        code.append(_answer(ALLOW))
    if all(each[0] != RETURN or each[3] == ALLOW for each in code):
        return (_answer(ALLOW),)  # nothing of it depends on the tests
    return tuple(code)


def _answered(call: Call, *, notify: bool) -> int:
    if call.answer == "absent":
        return ABSENT if notify or call.name in STILL_ABSENT else ALLOW
    if notify:
        return USER_NOTIF
    return REFUSED if call.answer == "refuse" else ALLOW


def _tested(tests: Sequence[Test], answer: Instruction) -> list[Instruction]:
    """The answer if all tests hold; goes on behind it otherwise."""
    code = [answer]
    for test in reversed(tests):
        code = [*_test(test, skip=len(code)), *code]
    return code


def _test(test: Test, *, skip: int) -> list[Instruction]:
    """Goes on if a test holds, and otherwise as many instructions further."""
    code: list[Instruction] = [(LOAD, 0, 0, ARGUMENTS_AT + 8 * test.argument)]
    if test.values == (0,):
        true, false = (0, skip) if test.negate else (skip, 0)
        return [*code, (IF_ANY_BIT, true, false, test.mask)]
    if test.mask != _ALL_BITS:
        code.append((AND, 0, 0, test.mask))
    last = len(test.values) - 1
    for position, value in enumerate(test.values):
        # The end of the comparisons is where the test holds, or `skip` behind where it fails.
        found = last - position + (skip if test.negate else 0)
        missed = 0 if test.negate or position < last else skip
        code.append((IF_EQUAL, found, missed, value))
    return code


def _answer(action: int) -> Instruction:
    return (RETURN, 0, 0, action)
