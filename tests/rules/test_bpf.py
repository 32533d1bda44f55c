"""The filter is run here by an interpreter of its own, and compared with a reading of the table."""

from __future__ import annotations

import errno
import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groove_trio.rules import bpf
from groove_trio.rules.syscalls import ARCHITECTURES, CALLS, NEWEST, X32_BIT, Architecture

NAMES: tuple[Architecture, ...] = ("x86_64", "aarch64")
MOST_STEPS = 18  # of a call that is never looked at

# A number of words that a register may hold: what the table asks for, and its neighbours.
WORDS = sorted(
    {
        word & 0xFFFFFFFF
        for call in CALLS
        for test in call.when
        for value in (*test.values, test.mask, *(1 << bit for bit in range(32)))
        for word in (value - 1, value, value + 1, value | ~test.mask)
    }
)


def run(code: bytes, number: int, arch: int, arguments: tuple[int, ...]) -> tuple[int, int]:
    """Interprets a program; gives what it returns and how many instructions that took."""
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, arch, 0, *arguments)
    program = list(struct.iter_unpack("=HBBI", code))
    accumulator = at = steps = 0
    while True:
        opcode, true, false, operand = program[at]
        at += 1
        steps += 1
        match opcode:
            case 0x20:
                assert operand % 4 == 0  # seccomp_check_filter
                (accumulator,) = struct.unpack_from("<I", data, operand)
            case 0x54:
                accumulator &= operand
            case 0x05:
                at += operand
            case 0x15:
                at += true if accumulator == operand else false
            case 0x35:
                at += true if accumulator >= operand else false
            case 0x45:
                at += true if accumulator & operand else false
            case 0x06:
                return operand, steps
            case _:
                raise AssertionError(f"no instruction that seccomp can try out: {opcode:#x}")


def read(
    architecture: Architecture, number: int, arch: int, arguments: tuple[int, ...], *, notify: bool
) -> int:
    """What the table says, as plainly as can be."""
    number &= 0xFFFFFFFF
    if arch != {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[architecture]:
        return 0x80000000
    if architecture == "x86_64" and number & 0x40000000 and number != 0xFFFFFFFF:
        return 0x80000000
    if number > NEWEST:
        return 0x00050000 | errno.ENOSYS
    for call in CALLS:
        mine = call.x86_64 if architecture == "x86_64" else call.aarch64
        if mine != number:
            continue
        if all(
            ((arguments[test.argument] & 0xFFFFFFFF & test.mask) in test.values) != test.negate
            for test in call.when
        ):
            stays = call.name == "clone3" or call.name.startswith("io_uring")
            if call.answer == "absent":
                return 0x00050000 | errno.ENOSYS if notify or stays else 0x7FFF0000
            if notify:
                return 0x7FC00000
            return 0x00050000 | errno.EPERM if call.answer == "refuse" else 0x7FFF0000
    return 0x7FFF0000


@pytest.mark.parametrize("architecture", NAMES)
@pytest.mark.parametrize("notify", [True, False])
def test_every_number_is_answered_as_the_table_says(
    architecture: Architecture, notify: bool
) -> None:
    code = bpf.program(architecture, notify=notify)
    own = ARCHITECTURES[architecture]
    every = [(word,) * 6 for word in (0, 1, 2, 3, 0xFFFFFFFF, 2**64 - 1)]
    looked_at = [number for c in CALLS if c.when and (number := c.number(architecture)) is not None]
    for number in range(501):
        deep = [(word,) * 6 for word in WORDS] if number in looked_at else []
        for arguments in (*every, *deep):
            expected = read(architecture, number, own, arguments, notify=notify)
            assert run(code, number, own, arguments)[0] == expected, (number, arguments)


@pytest.mark.parametrize("architecture", NAMES)
def test_conditions_on_two_registers_must_both_hold(architecture: Architecture) -> None:
    code = bpf.program(architecture, notify=True)
    own = ARCHITECTURES[architecture]
    for call in CALLS:
        number = call.number(architecture)
        if number is None or len({test.argument for test in call.when}) < 2:
            continue
        for first, second in itertools.product(range(17), repeat=2):
            arguments = (first, second, 0, 0, 0, 0)
            expected = read(architecture, number, own, arguments, notify=True)
            assert run(code, number, own, arguments)[0] == expected


words = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from(WORDS))


@given(
    architecture=st.sampled_from(NAMES),
    notify=st.booleans(),
    number=st.one_of(st.integers(0, NEWEST + 2), st.integers(0, 2**32 - 1)),
    arch=st.one_of(
        st.sampled_from(sorted(ARCHITECTURES.values())),
        st.sampled_from([0x40000003, 0x40000028, 0xC000003F]),
        st.integers(0, 2**32 - 1),
    ),
    arguments=st.tuples(words, words, words, words, words, words),
)
def test_any_call_is_answered_as_the_table_says(
    architecture: Architecture,
    notify: bool,
    number: int,
    arch: int,
    arguments: tuple[int, ...],
) -> None:
    code = bpf.program(architecture, notify=notify)
    expected = read(architecture, number, arch, arguments, notify=notify)
    assert run(code, number, arch, arguments)[0] == expected


@pytest.mark.parametrize("architecture", NAMES)
@pytest.mark.parametrize("notify", [True, False])
def test_foreign_architectures_are_killed_whatever_they_call(
    architecture: Architecture, notify: bool
) -> None:
    code = bpf.program(architecture, notify=notify)
    foreign = [0x40000003, 0x40000028, 0x14, 0, *ARCHITECTURES.values()]
    for arch in set(foreign) - {ARCHITECTURES[architecture]}:
        for number in range(501):
            assert run(code, number, arch, (0,) * 6)[0] == bpf.KILL_PROCESS


def test_x32_is_killed_whatever_it_calls() -> None:
    for notify in (True, False):
        code = bpf.program("x86_64", notify=notify)
        for number in range(600):
            told, _ = run(code, X32_BIT | number, ARCHITECTURES["x86_64"], (0,) * 6)
            assert told == bpf.KILL_PROCESS


def test_the_number_that_skips_a_call_kills_nobody() -> None:
    for architecture in NAMES:
        code = bpf.program(architecture, notify=True)
        assert run(code, -1, ARCHITECTURES[architecture], (0,) * 6)[0] == bpf.ABSENT


@pytest.mark.parametrize("architecture", NAMES)
@pytest.mark.parametrize("notify", [True, False])
def test_the_program_is_short_and_its_ways_are_short(
    architecture: Architecture, notify: bool, record_property: pytest.RecordProperty
) -> None:
    code = bpf.program(architecture, notify=notify)
    own = ARCHITECTURES[architecture]
    assert len(code) % 8 == 0
    assert len(code) // 8 < bpf.MAX_INSTRUCTIONS
    numbers = {"read": (0, 63), "openat": (257, 56)}
    for name, (x86_64, aarch64) in numbers.items():
        number = x86_64 if architecture == "x86_64" else aarch64
        told, steps = run(code, number, own, (0,) * 6)
        record_property(f"{name} {architecture} {notify}", f"{steps} of {len(code) // 8}")
        assert told == bpf.ALLOW
        assert steps <= MOST_STEPS
    assert max(run(code, number, own, (0,) * 6)[1] for number in range(501)) <= 2 * MOST_STEPS


def test_jumps_reach_over_more_than_they_can_say() -> None:
    runs = [(n, (*[(bpf.LOAD, 0, 0, 0)] * 30, (bpf.RETURN, 0, 0, n))) for n in range(40)]
    code = ((bpf.LOAD, 0, 0, 0), *bpf.search(runs))
    packed = b"".join(struct.pack("=HBBI", *each) for each in code)
    assert [run(packed, n, 0, (0,) * 6)[0] for n in range(41)] == [*range(40), 39]
