"""The kernel's messages about one socket: what is asked, and what may be believed."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groove_trio.wire.sockdiag import End, Socket, answer, question
from groove_trio.words.errors import BadAnswer

HERE: End = (bytes((127, 0, 0, 1)), 40001)
THERE: End = (bytes((127, 0, 0, 1)), 31415)
SIX: End = (bytes(15) + b"\1", 40001)
MAPPED = bytes(10) + b"\xff\xff"


def told(
    here: End = HERE,
    there: End = THERE,
    *,
    number: int = 7,
    uid: int = 1000,
    inode: int = 42,
    state: int = 1,
    family: int | None = None,
) -> bytes:
    family = (2 if len(here[0]) == 4 else 10) if family is None else family
    ends = struct.pack("!HH16s16s", here[1], there[1], here[0], there[0])
    body = struct.pack("=BBxx", family, state) + ends + bytes(12)
    body += struct.pack("=IIIII", 0, 0, 0, uid, inode)
    return struct.pack("=IHHII", 16 + len(body), 20, 0, number, 0) + body


def refused(code: int, number: int = 7) -> bytes:
    return struct.pack("=IHHIIi", 36, 2, 0, number, 0, -code) + bytes(16)


def test_a_question_is_as_the_kernel_reads_it() -> None:
    asked = question(HERE, THERE, 7)
    assert len(asked) == 72  # nlmsghdr and inet_diag_req_v2
    assert struct.unpack_from("=IHHII", asked) == (72, 20, 1, 7, 0)
    assert struct.unpack_from("=BBBBI", asked, 16) == (2, 6, 0, 0, 0xFFFFFFFF)
    assert asked[24:28] == struct.pack("!HH", 40001, 31415)
    assert asked[28:32] == HERE[0]
    assert asked[64:] == b"\xff" * 8
    assert question(SIX, SIX, 7)[16] == 10


@pytest.mark.parametrize("here", [HERE, SIX])
def test_an_answer_tells_user_and_inode(here: End) -> None:
    assert answer(told(here, here), here, here, 7) == Socket(1000, 42, listening=False)


def test_a_mapped_address_is_the_one_it_maps() -> None:
    mapped = (MAPPED + HERE[0], HERE[1]), (MAPPED + THERE[0], THERE[1])
    assert answer(told(*mapped, family=10), HERE, THERE, 7) == Socket(1000, 42, listening=False)
    assert question(*mapped, 7) == question(HERE, THERE, 7)


def test_no_such_socket() -> None:
    assert answer(refused(2), HERE, THERE, 7) is None


def test_a_listener_is_said_to_be_one() -> None:
    found = answer(told(THERE, (bytes(4), 0), state=10), THERE, (bytes(4), 0), 7)
    assert found == Socket(1000, 42, listening=True)


@pytest.mark.parametrize(
    "data",
    [
        told(number=8),
        refused(2, number=8),
        refused(1),
        refused(95),
        told((HERE[0], 40002)),
        told(HERE, (THERE[0], 31416)),
        told((bytes((127, 0, 0, 2)), 40001)),
        told()[:-1],
        told()[:16],
        b"",
        struct.pack("=IHHII", 20, 3, 0, 7, 0) + bytes(4),
    ],
)
def test_what_answers_something_else_is_not_believed(data: bytes) -> None:
    with pytest.raises(BadAnswer):
        answer(data, HERE, THERE, 7)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_none(data: bytes) -> None:
    try:
        found = answer(data, HERE, THERE, 7)
    except BadAnswer:
        return
    assert found is None or found.inode >= 0
