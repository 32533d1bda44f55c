"""The audit chain: sealing, and every way of tampering that must show."""

from __future__ import annotations

import hashlib
import json
import time
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groove_trio.rules.chain import (
    ACTIONS,
    AUDIT_REPAIR,
    GENESIS,
    TORN_END,
    Flaw,
    Verifier,
    digest_of,
    legible,
    open_line,
    seal,
)
from groove_trio.rules.lifecycle import Trigger
from groove_trio.words.actors import OWNER, SYSTEM, agent_actor
from groove_trio.words.audit import AuditEntry
from groove_trio.words.base import AgentId

TIME = "2026-11-22T17:18:00.123456789Z"
AGENT = AgentId("3fa9c21e")
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
entries = st.builds(
    AuditEntry,
    actor=st.sampled_from([OWNER, SYSTEM, agent_actor(AGENT)]),
    action=st.sampled_from(sorted(set(ACTIONS) - {AUDIT_REPAIR})),
    agent=st.none() | st.just(AGENT),
    detail=st.dictionaries(st.text(), json_values, max_size=4),
)


def chain(count: int) -> list[bytes]:
    prev, lines = GENESIS, []
    for seq in range(1, count + 1):
        entry = AuditEntry(
            actor=agent_actor(AGENT),
            action="knock.granted",
            agent=AGENT,
            detail={"path": f"p{seq}"},
        )
        line, prev = seal(entry, seq, TIME, prev)
        lines.append(line)
    return lines


def verify(lines: list[bytes]) -> tuple[Flaw | None, Verifier]:
    verifier = Verifier()
    for line in lines:
        if flaw := verifier.feed(line):
            return flaw, verifier
    return verifier.end(), verifier


def repaired(lines: list[bytes], *torn: bytes) -> list[bytes]:
    """`lines`, then torn pieces, then the repair that names them, then one record more."""
    pieces = [piece + TORN_END for piece in torn]
    detail = {
        "torn": sum(map(len, pieces)),
        "sha256": hashlib.sha256(b"".join(pieces)).hexdigest(),
    }
    repair = AuditEntry(actor=SYSTEM, action=AUDIT_REPAIR, detail=detail)
    seq = len(lines) + 1
    line, prev = seal(repair, seq, TIME, digest_of(lines[-1][:-1]))
    after, _ = seal(AuditEntry(actor=OWNER, action="agent.spawn"), seq + 1, TIME, prev)
    return [*lines, *pieces, line, after]


def test_line_is_written_as_documented() -> None:
    entry = AuditEntry(
        actor=OWNER, action="agent.spawn", agent=AGENT, detail={"role": "backend", "cwd": "."}
    )
    line, digest = seal(entry, 1, TIME, GENESIS)
    assert line == (
        b'{"seq":1,"time":"2026-11-22T17:18:00.123456789Z","actor":"owner","action":"agent.spawn",'
        b'"agent":"3fa9c21e","detail":{"cwd":".","role":"backend"},"prev":"' + b"0" * 64 + b'"}\n'
    )
    assert digest == hashlib.sha256(line[:-1]).hexdigest()


@given(st.lists(entries, max_size=6))
def test_what_is_sealed_verifies(facts: list[AuditEntry]) -> None:
    verifier, prev = Verifier(), GENESIS
    for seq, entry in enumerate(facts, 1):
        line, prev = seal(entry, seq, TIME, prev)
        assert verifier.feed(line) is None
        assert open_line(line).actor == str(entry.actor)
    assert (verifier.seq, verifier.head, verifier.end()) == (len(facts), prev, None)


def test_verifier_starts_anywhere() -> None:
    lines = chain(5)
    verifier = Verifier(3, digest_of(lines[2][:-1]))
    assert [verifier.feed(line) for line in lines[3:]] == [None, None]


@given(st.data())
def test_any_changed_byte_shows(data: st.DataObject) -> None:
    lines = chain(4)
    _, sound = verify(lines)
    row = data.draw(st.integers(0, 3))
    column = data.draw(st.integers(0, len(lines[row]) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != lines[row][column]))
    changed = lines[row][:column] + bytes([other]) + lines[row][column + 1 :]
    # The file is split into lines anew, as a reader would.
    text = b"".join([*lines[:row], changed, *lines[row + 1 :]])
    flaw, verifier = verify(
        text.splitlines(keepends=True)
        if other in b"\r\n"
        else [*lines[:row], changed, *lines[row + 1 :]]
    )
    # The last line has no successor to disagree with it; there, the head differs.
    assert flaw is not None or verifier.head != sound.head
    if flaw is not None:
        assert row + 1 <= flaw.line <= row + 2
    else:
        assert row == 3


def test_every_bit_of_a_middle_line_counts() -> None:
    lines = chain(3)
    for column in range(len(lines[1])):
        for bit in range(8):
            changed = bytearray(lines[1])
            changed[column] ^= 1 << bit
            flaw, _ = verify([lines[0], bytes(changed), lines[2]])
            assert flaw is not None


@pytest.mark.parametrize("row", range(4))
def test_dropped_line_shows(row: int) -> None:
    lines = chain(5)
    flaw, _ = verify(lines[:row] + lines[row + 1 :])
    assert flaw == Flaw(row + 1, f"seq is {row + 2} where {row + 1} was due")


@pytest.mark.parametrize("row", range(4))
def test_swapped_lines_show(row: int) -> None:
    lines = chain(5)
    lines[row], lines[row + 1] = lines[row + 1], lines[row]
    flaw, _ = verify(lines)
    assert flaw is not None
    assert flaw.line == row + 1


def test_repeated_line_shows() -> None:
    lines = chain(3)
    flaw, _ = verify([*lines[:2], lines[1], lines[2]])
    assert flaw is not None
    assert flaw.line == 3


def test_line_from_another_chain_shows() -> None:
    lines = chain(3)
    stranger = AuditEntry(actor=OWNER, action="agent.spawn")
    lines[1], _ = seal(stranger, 2, TIME, GENESIS)
    flaw, _ = verify(lines)
    assert flaw == Flaw(2, "prev does not match: this line or the one before it was changed")


def test_tail_cut_within_a_line_shows() -> None:
    lines = chain(3)
    for length in range(1, len(lines[2])):
        flaw, _ = verify([*lines[:2], lines[2][:length]])
        assert flaw == Flaw(3, "no newline at the end: the tail is cut")


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"{}\n",
        b"null\n",
        b"[" * 100_000 + b"\n",
        b"\xff\xfe\n",
        b"\x00" * 50 + b"\n",
        b'{"seq":1e999}\n',
        b'{"seq":99999999999999999999999999}\n',
    ],
)
def test_line_that_is_no_record_shows(line: bytes) -> None:
    flaw, _ = verify([*chain(1), line])
    assert flaw is not None
    assert flaw.line == 2


@given(st.lists(st.binary(max_size=60)))
def test_verifier_takes_any_bytes(lines: list[bytes]) -> None:
    verifier = Verifier()
    for line in lines:
        verifier.feed(line)
    assert verifier.seq == 0


def test_another_way_of_writing_the_same_shows() -> None:
    line = chain(1)[0]
    record = json.loads(line)
    spaced = json.dumps(record).encode() + b"\n"
    doubled = line.replace(b'"seq":1,', b'"seq":1,"seq":1,')
    extended = line.replace(b"}\n", b',"more":1}\n')
    crlf = line.replace(b"\n", b"\r\n")
    for other in (spaced, doubled, extended, crlf):
        flaw, _ = verify([other])
        assert flaw is not None, other


# Torn lines


@pytest.mark.parametrize(
    "torn",
    [(b'{"seq":4,"ti',), (b"",), (b"\x00" * 9,), (b'{"seq', b"", b"~"), (chain(4)[3][:-1],)],
)
def test_torn_lines_before_their_repair_are_accepted(torn: tuple[bytes, ...]) -> None:
    flaw, verifier = verify(repaired(chain(3), *torn))
    assert flaw is None
    assert verifier.seq == 5


@pytest.mark.parametrize("column", range(14))
def test_changed_torn_line_shows(column: int) -> None:
    lines = repaired(chain(3), b'{"seq":4,"ti')
    torn = bytearray(lines[3])
    torn[column] ^= 1
    flaw, _ = verify([*lines[:3], bytes(torn), *lines[4:]])
    assert flaw is not None
    assert flaw.line == 4


def test_torn_line_without_its_repair_shows() -> None:
    lines = repaired(chain(3), b'{"seq":4,"ti')
    assert verify(lines[:4])[0] == Flaw(4, "a torn line without its repair")
    assert verify([*chain(3), lines[3], chain(4)[3]])[0] == Flaw(
        4, "a torn line without its repair"
    )


def test_repair_without_its_torn_line_shows() -> None:
    lines = repaired(chain(3), b'{"seq":4,"ti')
    flaw, _ = verify([*lines[:3], *lines[4:]])
    assert flaw is not None
    assert flaw.line == 4


def test_one_of_two_torn_lines_removed_shows() -> None:
    lines = repaired(chain(3), b'{"seq":4,"ti', b"{")
    flaw, _ = verify([*lines[:3], *lines[4:]])
    assert flaw is not None


def test_every_action_says_what_it_tells() -> None:
    assert {f"agent.{trigger}" for trigger in get_args(Trigger)} <= set(ACTIONS)
    assert all(meaning.endswith(".") for meaning in ACTIONS.values())


# What JSON can't carry


def test_file_name_that_is_not_utf8_is_sealed_legibly() -> None:
    name = b"caf\xe9.py".decode("utf-8", "surrogateescape")
    entry = AuditEntry(actor=OWNER, action="knock.denied", detail={"path": [name], "n": 1})
    line, _ = seal(entry, 1, TIME, GENESIS)
    assert json.loads(line)["detail"] == {"path": ["caf\\udce9.py"], "n": 1}
    assert Verifier().feed(line) is None


def test_legible_leaves_what_json_can_carry() -> None:
    assert legible("src/größe/名.py") == "src/größe/名.py"
    assert legible("a\ud800b") == "a\\ud800b"


def test_detail_that_json_cannot_say_is_refused() -> None:
    with pytest.raises(TypeError):
        seal(AuditEntry(actor=OWNER, action="x", detail={"a": object()}), 1, TIME, GENESIS)


def test_verifying_is_fast_enough_to_be_done_often() -> None:
    lines = chain(5_000)
    begin = time.process_time()
    flaw, _ = verify(lines)
    assert flaw is None
    assert time.process_time() - begin < 1  # 25 times what it takes
