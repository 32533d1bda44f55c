"""The audit chain: sealing, and every way of tampering that must show."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Iterable
from typing import NamedTuple, get_args

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from groove_trio.rules.chain import (
    ACTIONS,
    AUDIT_REPAIR,
    MAX_LINE,
    TORN_END,
    Seal,
    digest_of,
    legible,
    open_line,
)
from groove_trio.rules.lifecycle import Trigger
from groove_trio.verify import Chain, Checkpoint, Flaw, derive_key
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


SEED = bytes(range(32))
LOG = "5d" * 32
SEAL = Seal(derive_key(SEED, LOG))


def chain(count: int, seal: Seal = SEAL, log: str = LOG) -> list[bytes]:
    facts = [
        AuditEntry(
            actor=agent_actor(AGENT),
            action="knock.granted",
            agent=AGENT,
            detail={"path": f"p{seq}"},
        )
        for seq in range(1, count + 1)
    ]
    return seal.lines(facts, 1, TIME, log)[0]


class Verdict(NamedTuple):
    """What is wrong, in which line, and how far all was good."""

    place: str
    problem: str
    seq: int
    head: str


def verify(
    lines: Iterable[bytes], seed: bytes | None = SEED, known: Checkpoint | None = None
) -> Verdict:
    verifier = Chain(seed, known)
    place = problem = ""
    try:
        verifier.feed(1, lines)
        verifier.end()
    except Flaw as flaw:
        place, problem = flaw.place, flaw.problem
    return Verdict(place, problem, verifier.seq, verifier.head.decode("latin-1"))


def sealed(entry: AuditEntry, seq: int = 1, prev: str = LOG) -> bytes:
    (line,), _ = SEAL.lines([entry], seq, TIME, prev)
    return line


def repaired(lines: list[bytes], *torn: bytes) -> list[bytes]:
    """`lines`, then torn pieces, then the repair that names them, then one record more."""
    pieces = [piece + TORN_END for piece in torn]
    detail = {
        "torn": sum(map(len, pieces)),
        "sha256": hashlib.sha256(b"".join(pieces)).hexdigest(),
    }
    repair = AuditEntry(actor=SYSTEM, action=AUDIT_REPAIR, detail=detail)
    seq = len(lines) + 1
    spawn = AuditEntry(actor=OWNER, action="agent.spawn")
    after, _ = SEAL.lines([repair, spawn], seq, TIME, digest_of(lines[-1][:-1]))
    return [*lines, *pieces, *after]


def test_line_is_written_as_documented() -> None:
    entry = AuditEntry(
        actor=OWNER, action="agent.spawn", agent=AGENT, detail={"role": "backend", "cwd": "."}
    )
    (line,), digest = SEAL.lines([entry], 1, TIME, LOG)
    signed = (
        b'{"seq":1,"time":"2026-11-22T17:18:00.123456789Z","actor":"owner","action":"agent.spawn",'
        b'"agent":"3fa9c21e","detail":{"cwd":".","role":"backend"},"prev":"' + b"5d" * 32 + b'"'
    )
    mac = hashlib.blake2b(signed, key=derive_key(SEED, LOG), digest_size=32).hexdigest()
    assert line == signed + b',"mac":"' + mac.encode() + b'"}\n'
    assert digest == hashlib.sha256(line[:-1]).hexdigest()


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_key_is_the_library_s_hkdf(seed: bytes, log: bytes) -> None:
    hkdf = HKDF(hashes.SHA256(), length=32, salt=log, info=b"groove-trio audit log v1")
    assert derive_key(seed, log.hex()) == hkdf.derive(seed)


@given(st.lists(entries, max_size=6))
def test_what_is_sealed_verifies(facts: list[AuditEntry]) -> None:
    lines, head = SEAL.lines(facts, 1, TIME, LOG)
    for seed in (SEED, None):
        found = verify(lines, seed)
        assert (found.problem, found.seq) == ("", len(facts))
        assert not facts or found.head == head
    for line, entry in zip(lines, facts, strict=True):
        assert open_line(line).actor == str(entry.actor)
        assert SEAL.holds(line)
        assert SEAL.holds(line[:-1])


# Tampering, line by line, and the place where it shows


def test_every_changed_byte_shows_in_its_own_line() -> None:
    lines = chain(3)
    for row, line in enumerate(lines):
        for column in range(len(line)):
            for other in {line[column] ^ 1, line[column] ^ 0x80, 0, 10, 34, 126} - {line[column]}:
                changed = line[:column] + bytes([other]) + line[column + 1 :]
                # The file is split into lines anew, as a reader would.
                data = b"".join([*lines[:row], changed, *lines[row + 1 :]])
                assert verify(io.BytesIO(data)).place == f"1:{row + 1}", (row, column, other)
                assert not SEAL.holds(changed.rstrip(b"\n")) or column == len(line) - 1


def test_every_changed_byte_shows_without_the_seed_except_in_the_last_line() -> None:
    lines = chain(3)
    head = verify(lines, None).head
    for row, line in enumerate(lines):
        for column in range(len(line) - 1):
            changed = line[:column] + bytes([line[column] ^ 1]) + line[column + 1 :]
            found = verify([*lines[:row], changed, *lines[row + 1 :]], None)
            assert (
                found.place in {f"1:{row + 1}", f"1:{row + 2}"}
                if row < 2
                else (found.place or found.head != head)
            )


def test_last_line_that_is_no_record_shows_even_without_the_seed() -> None:
    lines = chain(2)
    lines[1] = lines[1].replace(b'"detail":{', b'"detail":[')
    assert verify(lines, None).place == "1:2"


@pytest.mark.parametrize("row", range(4))
def test_dropped_line_shows(row: int) -> None:
    lines = chain(5)
    found = verify(lines[:row] + lines[row + 1 :])
    assert found.place == f"1:{row + 1}"
    assert found.problem == f"seq is {row + 2} where {row + 1} was due"


@pytest.mark.parametrize("row", range(5))
@pytest.mark.parametrize("other", range(5))
def test_swapped_and_repeated_and_added_lines_show(row: int, other: int) -> None:
    lines = chain(5)
    swapped = lines.copy()
    swapped[row], swapped[other] = swapped[other], swapped[row]
    assert verify(swapped).place == ("" if row == other else f"1:{min(row, other) + 1}")
    repeated = [*lines[:row], lines[other], *lines[row:]]
    first = row + 2 if row == other else row + 1
    assert verify(repeated).place == f"1:{first}"


@pytest.mark.parametrize("row", range(5))
def test_chain_written_anew_from_any_line_on_shows_without_the_key(row: int) -> None:
    lines = chain(5)
    forged = [line.replace(b"granted", b"denied") for line in lines]
    for forger in (Seal(b"another key, of 32 bytes, by luck"[:32]), SEAL):
        anew, prev = lines[:row], digest_of(lines[row - 1][:-1]) if row else LOG
        for seq, line in enumerate(forged[row:], row + 1):
            record = json.loads(line)
            entry = AuditEntry(
                actor=agent_actor(AGENT),
                action=record["action"],
                agent=AGENT,
                detail=record["detail"],
            )
            (written,), prev = forger.lines([entry], seq, TIME, prev)
            anew.append(written)
        assert verify(anew, None).problem == "", "nobody without the seed can tell"
        known = Checkpoint(LOG, 5, digest_of(lines[4][:-1]))
        assert verify(anew, None, known).place == "1:5", "unless by a checkpoint"
        if forger is SEAL:
            assert verify(anew).problem == "", "and whoever has the key writes what he likes"
        else:
            assert verify(anew).place == f"1:{row + 1}"
            assert "mac" in verify(anew).problem


def test_line_from_another_log_shows() -> None:
    lines = chain(3)
    other = "77" * 32
    strange = chain(3, Seal(derive_key(SEED, other)), other)
    assert verify(strange).problem == "", "whole in itself"
    for row in range(1, 3):
        assert verify([*lines[:row], *strange[row:]]).place == f"1:{row + 1}"
    assert verify(strange, SEED, Checkpoint(LOG, 1, "0" * 64)).place == "1:1"


def test_log_of_another_seed_shows() -> None:
    assert verify(chain(3), bytes(32)).place == "1:1"


def test_end_cut_at_any_line_or_byte_shows_by_the_checkpoint() -> None:
    lines = chain(4)
    known = Checkpoint(LOG, 4, digest_of(lines[3][:-1]))
    data = b"".join(lines)
    assert verify(lines, SEED, known).problem == ""
    for length in range(len(data)):
        found = verify(io.BytesIO(data[:length]), SEED, known)
        line = data.count(b"\n", 0, length) + 1
        assert found.place == f"1:{line}"
        whole = data[:length].endswith(b"\n") or not length
        assert ("its end was cut" if whole else "the tail is cut") in found.problem


def test_log_may_be_ahead_of_its_checkpoint() -> None:
    lines = chain(4)
    for seq in range(1, 5):
        known = Checkpoint(LOG, seq, digest_of(lines[seq - 1][:-1]))
        assert verify(lines, SEED, known).problem == ""
        assert verify(lines, None, known).problem == ""
        wrong = known._replace(head="0" * 64)
        assert verify(lines, SEED, wrong).place == f"1:{seq}"
    assert verify(lines, SEED, Checkpoint(LOG, 0, LOG)).problem == ""


def test_key_of_the_log_serves_in_place_of_the_seed() -> None:
    lines = chain(3)
    known = Checkpoint(LOG, 3, digest_of(lines[2][:-1]), derive_key(SEED, LOG).hex())
    assert verify(lines, None, known).problem == ""
    assert verify(lines, None, known._replace(key="0" * 64)).place == "1:1"


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
        b'{"seq":' + b"9" * 5000 + b"}\n",
        b'{"seq":2,"time":1,"actor":1,"action":1,"agent":1,"detail":1,"prev":1,"mac":1}\n',
    ],
)
def test_line_that_is_no_record_shows(line: bytes) -> None:
    for seed in (SEED, None):
        assert verify([*chain(1), line], seed).place == "1:2"
        assert verify([line], seed).place == "1:1"


@given(st.lists(st.binary(max_size=60)))
def test_verifier_takes_any_bytes(lines: list[bytes]) -> None:
    assert verify(lines).seq == 0
    assert verify(lines, None).seq == 0


def test_another_way_of_writing_the_same_shows() -> None:
    line = chain(1)[0]
    record = json.loads(line)
    spaced = json.dumps(record).encode() + b"\n"
    doubled = line.replace(b'"seq":1,', b'"seq":1,"seq":1,')
    extended = line.replace(b"}\n", b',"more":1}\n')
    crlf = line.replace(b"\n", b"\r\n")
    for other in (spaced, doubled, extended, crlf):
        assert verify([other]).place == "1:1", other


def test_record_too_large_is_written_by_its_hash() -> None:
    huge = AuditEntry(actor=OWNER, action="agent.spawn", detail={"argv": "x" * MAX_LINE})
    lines, head = SEAL.lines([huge, huge], 1, TIME, LOG)
    assert [sorted(json.loads(line)["detail"]) for line in lines] == [["bytes", "sha256"]] * 2
    assert verify(lines).head == head


# Torn lines


@pytest.mark.parametrize(
    "torn",
    [(b'{"seq":4,"ti',), (b"",), (b"\x00" * 9,), (b'{"seq', b"", b"~"), (chain(4)[3][:-1],)],
)
def test_torn_lines_before_their_repair_are_accepted(torn: tuple[bytes, ...]) -> None:
    found = verify(repaired(chain(3), *torn))
    assert (found.problem, found.seq) == ("", 5)


@pytest.mark.parametrize("column", range(14))
def test_changed_torn_line_shows(column: int) -> None:
    lines = repaired(chain(3), b'{"seq":4,"ti')
    torn = bytearray(lines[3])
    torn[column] ^= 1
    assert verify([*lines[:3], bytes(torn), *lines[4:]]).place == "1:4"


def test_torn_line_without_its_repair_shows() -> None:
    lines = repaired(chain(3), b'{"seq":4,"ti')
    assert verify(lines[:4]).place == "1:4"
    assert verify(lines[:4]).problem == "a torn line without its repair"
    assert verify([*chain(3), lines[3], chain(4)[3]]).place == "1:4"


def test_repair_without_its_torn_line_shows() -> None:
    lines = repaired(chain(3), b'{"seq":4,"ti')
    assert verify([*lines[:3], *lines[4:]]).place == "1:4"


def test_one_of_two_torn_lines_removed_shows() -> None:
    lines = repaired(chain(3), b'{"seq":4,"ti', b"{")
    assert verify([*lines[:3], *lines[4:]]).place == "1:4"


def test_losses_that_were_accepted_are_told() -> None:
    facts = [AuditEntry(actor=OWNER, action=action) for action in ("a", "audit.accept", "b")]
    told = AuditEntry(actor=OWNER, action="a", detail={"action": "audit.accept"})
    lines, _ = SEAL.lines([*facts, told], 1, TIME, LOG)
    verifier = Chain(SEED)
    verifier.feed(1, lines)
    assert verifier.accepted == [2]


def test_every_action_says_what_it_tells() -> None:
    assert {f"agent.{trigger}" for trigger in get_args(Trigger)} <= set(ACTIONS)
    assert all(meaning.endswith(".") for meaning in ACTIONS.values())


# What JSON can't carry


def test_file_name_that_is_not_utf8_is_sealed_legibly() -> None:
    name = b"caf\xe9.py".decode("utf-8", "surrogateescape")
    entry = AuditEntry(actor=OWNER, action="knock.denied", detail={"path": [name], "n": 1})
    line = sealed(entry)
    assert json.loads(line)["detail"] == {"path": ["caf\\udce9.py"], "n": 1}
    assert verify([line]).problem == ""


def test_legible_leaves_what_json_can_carry() -> None:
    assert legible("src/größe/名.py") == "src/größe/名.py"
    assert legible("a\ud800b") == "a\\ud800b"


def test_detail_that_json_cannot_say_is_refused() -> None:
    with pytest.raises(TypeError):
        sealed(AuditEntry(actor=OWNER, action="x", detail={"a": object()}))


def test_verifying_is_fast_enough_to_be_done_often() -> None:
    lines = chain(5_000)
    begin = time.process_time()
    assert verify(lines).problem == ""
    assert time.process_time() - begin < 1  # 25 times what it takes
