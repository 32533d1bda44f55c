"""The account of failed writes: whatever stops, and wherever, the repair makes the log sound."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st

from groove_trio.rules.chain import Record, Seal, digest_of, open_line
from groove_trio.rules.damage import Damage
from groove_trio.verify import Chain, Flaw, derive_key
from groove_trio.words.actors import OWNER
from groove_trio.words.audit import AuditEntry

TIME = "2026-11-22T17:18:00.123456789Z"
SEED = bytes(range(32))
LOG = "5d" * 32
SEAL = Seal(derive_key(SEED, LOG))
ENTRY = AuditEntry(actor=OWNER, action="knock.granted")


class Log:
    """A log in memory, on a disk that takes as many bytes as it is told."""

    def __init__(self, data: bytes = b"", torn: bytes = b"") -> None:
        self.data = data + torn
        self.damage = Damage(torn)
        self.seq = data.count(b"\n")
        self.head = digest_of(data[:-1].split(b"\n")[-1]) if data else LOG

    def write(self, count: int, room: int | None = None) -> None:
        due = self.damage.why is not None
        entries = [self.damage.repair()] * due + [ENTRY] * count
        lines, head = SEAL.lines(entries, self.seq + 1, TIME, self.head)
        seq = self.seq + len(lines)
        written = (self.damage.ending + b"".join(lines))[:room]
        self.data += written
        if room is None:
            self.seq, self.head = seq, head
            if due:
                self.damage.mended()
        elif whole := self.damage.write_failed(lines, written, "ENOSPC"):
            self.seq += whole
            self.head = digest_of(lines[whole - 1][:-1])

    def records(self) -> list[Record]:
        return [open_line(line) for line in self.data.split(b"\n") if line[-1:] not in {b"", b"~"}]

    def sound(self) -> bool:
        try:
            Chain(SEED).feed(1, io.BytesIO(self.data))
        except Flaw:
            return False
        return True


def test_nothing_is_to_be_repaired_at_first() -> None:
    damage = Damage()
    assert damage.why is None
    assert not damage.torn
    assert damage.ending == b""


def test_write_cut_at_any_byte_is_repaired() -> None:
    whole = Log()
    whole.write(3)
    for room in range(len(whole.data)):
        log = Log()
        log.write(3, room)
        log.write(1)
        assert log.sound(), room
        void = whole.data[:room].count(b"\n")
        assert log.records()[-2].detail["void"] == void


@given(st.lists(st.integers(0, 900), max_size=6))
def test_repairs_that_are_cut_as_well_are_repaired(rooms: list[int]) -> None:
    log = Log()
    log.write(1)
    for room in rooms:
        log.write(2, room)
    log.write(1)
    assert log.sound()
    assert log.damage.why is None


@given(st.binary(min_size=1).filter(lambda torn: b"\n" not in torn))
def test_any_torn_tail_is_repaired(torn: bytes) -> None:
    log = Log()
    log.write(1)
    again = Log(log.data, torn)
    again.write(1)
    assert again.data.startswith(log.data + torn + b"~\n")
    assert again.records()[-2].detail["torn"] == len(torn) + 2


def test_records_in_doubt_are_counted_until_a_repair_tells_of_them() -> None:
    log = Log()
    log.write(3)
    log.damage.sync_failed(2, "EIO")
    log.write(1)
    assert log.records()[3].detail == {
        "why": "EIO",
        "torn": 0,
        "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "void": 0,
        "unsynced": 2,
    }
    log.damage.sync_failed(1, "EIO")
    log.write(1)
    assert log.records()[-2].detail["unsynced"] == 1
