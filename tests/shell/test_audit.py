"""The audit log on a disk that fills, fails, and is cut off in the middle of a word."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import resource
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from groove_trio.rules.chain import ACTIONS
from groove_trio.shell import segments, tape
from groove_trio.shell.audit import SEGMENT_BYTES, open_audit, verify_log
from groove_trio.shell.heads import write_checkpoint
from groove_trio.shell.private import config_directory
from groove_trio.shell.segments import list_segments, read_page
from groove_trio.verify import Checkpoint
from groove_trio.words.actors import OWNER, agent_actor
from groove_trio.words.audit import AuditEntry, AuditFilter, AuditPage
from groove_trio.words.base import AgentId
from groove_trio.words.clock import NS, rfc3339
from groove_trio.words.errors import AlreadyRunning, AuditUnavailable, UnsafeState

NOW = 1_795_367_880 * NS
AGENTS = [AgentId("aaaaaaaa"), AgentId("bbbbbbbb")]


def entry(number: int = 0, action: str = "knock.granted") -> AuditEntry:
    agent = AGENTS[number % 2]
    return AuditEntry(
        actor=agent_actor(agent), action=action, agent=agent, detail={"n": number, "path": "src/x"}
    )


def records(directory: Path) -> list[dict[str, Any]]:
    """All whole records of a log, torn lines left out."""
    lines = b"".join(path.read_bytes() for path in list_segments(directory)).split(b"\n")
    return [json.loads(line) for line in lines if line.endswith(b"}")]


def seqs(page: AuditPage) -> list[int]:
    return [json.loads(bytes(each))["seq"] for each in page.records]


def actions(directory: Path) -> list[str]:
    return [record["action"] for record in records(directory)]


async def until(true: Callable[[], bool]) -> None:
    """Waits for something that takes a moment of real time; a bounded poll."""
    with trio.fail_after(10):
        while not true():
            await trio.sleep(0.002)


class Disk:
    """Stands between the log and its files: takes only so many bytes, or none; syncs or not.

    A fake at the system call: what a full or failing disk does can be had from the kernel
    only in part (`test_file_size_limit_...` does), and not byte by byte.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
        self.room: int | None = None
        self.broken = False
        self.syncs = 0
        self.directory = str(directory)
        self._write, self._sync = os.write, os.fdatasync
        monkeypatch.setattr(os, "write", self.write)
        monkeypatch.setattr(os, "fdatasync", self.sync)

    def _mine(self, descriptor: int) -> bool:
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith(self.directory)

    def write(self, descriptor: int, data: bytes) -> int:
        if self.room is None or not self._mine(descriptor):
            return self._write(descriptor, data)
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = self._write(descriptor, data[: self.room])
        self.room -= count
        return count

    def sync(self, descriptor: int) -> None:
        self.syncs += 1
        if self.broken:
            raise OSError(errno.EIO, "Input/output error")
        self._sync(descriptor)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "audit"


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, place: Path) -> Disk:
    return Disk(monkeypatch, place)


# Opening, closing, opening again


async def test_log_records_its_own_opening_and_closing(place: Path) -> None:
    async with open_audit(place, clock=lambda: NOW) as log:
        assert log.seq == 1
        assert log.ok
    assert actions(place) == ["audit.open", "audit.close"]
    assert records(place)[0]["time"] == "2026-11-22T17:18:00.000000000Z"
    assert set(actions(place)) <= set(ACTIONS)


async def test_chain_goes_on_over_runs(place: Path) -> None:
    for run in range(3):
        async with open_audit(place) as log:
            assert await log.record(entry(run)) == 3 * run + 2
    verdict = verify_log(place)
    assert (verdict.ok, verdict.records) == (True, 9)


async def test_files_are_private_from_the_start(place: Path) -> None:
    before = os.umask(0)
    try:
        async with open_audit(place):
            assert stat.S_IMODE(place.stat().st_mode) == 0o700
            assert stat.S_IMODE((place / "00000001.jsonl").stat().st_mode) == 0o600
    finally:
        os.umask(before)


async def test_second_writer_is_refused_until_the_first_is_done(place: Path) -> None:
    async with open_audit(place):
        with pytest.raises(AlreadyRunning):
            async with open_audit(place):
                pass
    async with open_audit(place):
        pass
    assert verify_log(place).ok


@pytest.mark.parametrize("kind", ["readable", "link", "fifo"])
async def test_segment_that_is_not_ours_alone_is_refused(place: Path, kind: str) -> None:
    place.mkdir(0o700)
    path = place / "00000001.jsonl"
    match kind:
        case "readable":
            path.touch(0o644)
        case "link":
            path.symlink_to("/dev/null")
        case _:
            os.mkfifo(path, 0o600)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(UnsafeState):
        async with open_audit(place):
            pass
    assert len(os.listdir("/proc/self/fd")) == before


async def test_log_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(AuditUnavailable):
        async with open_audit(tmp_path / "gone" / "audit"):
            pass


async def test_nothing_is_appended_after_closing(place: Path) -> None:
    async with open_audit(place) as log:
        pass
    with pytest.raises(AuditUnavailable):
        log.append([entry()])
    with pytest.raises(AuditUnavailable):
        await log.durable(log.seq + 1)
    assert verify_log(place).ok


async def test_no_descriptor_is_leaked(place: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    async with open_audit(place, segment_bytes=400) as log:
        for number in range(20):
            await log.record(entry(number))
    assert len(list_segments(place)) > 5
    assert len(os.listdir("/proc/self/fd")) == before


async def test_closing_record_is_written_when_the_block_fails(place: Path) -> None:
    with pytest.raises(ExceptionGroup):
        async with open_audit(place):
            raise ZeroDivisionError
    assert actions(place)[-1] == "audit.close"


# Appending and syncing


async def test_batch_is_one_write(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = os.write
    async with open_audit(place) as log:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda fd, data: calls.append(fd) or real(fd, data))
            assert log.append([entry(number) for number in range(64)]) == 65
        assert len(calls) == 1
    assert verify_log(place).records == 66


async def test_waiters_share_a_sync(place: Path, disk: Disk) -> None:
    async with open_audit(place) as log:
        before = disk.syncs
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(log.record, entry(number))
        assert disk.syncs - before <= 3


async def test_records_nobody_waits_for_are_synced_soon(place: Path, disk: Disk) -> None:
    async with open_audit(place) as log:
        await log.durable(log.seq)
        before = disk.syncs
        begin = trio.current_time()
        log.append([entry()])
        await until(lambda: disk.syncs > before)
        assert trio.current_time() - begin >= 0.02, "gathers for a moment"
        await until(lambda: trio.current_time() - begin > 0.2)
        assert disk.syncs == before + 1, "and rests when all is synced"


async def test_durable_record_returns_at_once_but_checkpoints(place: Path) -> None:
    async with open_audit(place) as log:
        seq = await log.record(entry())
        with trio.testing.assert_checkpoints():
            await log.durable(seq)


async def test_waiter_may_be_cancelled_and_the_others_wait_on(place: Path) -> None:
    async with open_audit(place) as log:
        seq = log.append([entry()])
        with trio.CancelScope() as scope:
            scope.cancel()
            await log.durable(seq)
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.durable, seq)
            nursery.start_soon(log.durable, seq)
        await log.durable(seq)


async def test_log_is_closed_and_synced_when_cancelled(place: Path, disk: Disk) -> None:
    with trio.CancelScope() as scope:
        async with open_audit(place) as log:
            log.append([entry()])
            before = disk.syncs
            scope.cancel()
            await trio.sleep_forever()
    assert disk.syncs > before
    assert actions(place) == ["audit.open", "knock.granted", "audit.close"]
    assert verify_log(place).ok


async def test_detail_too_large_to_be_read_back_is_recorded_by_its_hash(place: Path) -> None:
    async with open_audit(place) as log:
        huge = AuditEntry(actor=OWNER, action="agent.spawn", detail={"argv": "x" * 5_000_000})
        await log.record(huge)
    assert sorted(records(place)[1]["detail"]) == ["bytes", "sha256"]
    assert verify_log(place).ok


async def test_detail_json_cannot_say_changes_nothing(place: Path) -> None:
    async with open_audit(place) as log:
        with pytest.raises(TypeError):
            log.append([entry(), AuditEntry(actor=OWNER, action="x", detail={"a": object()})])
        assert log.seq == 1
        await log.record(entry())
    assert verify_log(place).records == 3


# Segments


async def test_segments_follow_one_another_and_the_chain_goes_through(place: Path) -> None:
    async with open_audit(place, segment_bytes=1000) as log:
        for number in range(30):
            await log.record(entry(number))
    paths = list_segments(place)
    assert [path.name for path in paths[:3]] == [
        "00000001.jsonl",
        "00000002.jsonl",
        "00000003.jsonl",
    ]
    assert all(1000 <= path.stat().st_size < 1400 for path in paths[:-1])
    assert verify_log(place).records == 32
    async with open_audit(place, segment_bytes=1000) as log:
        assert log.seq == 33
    assert verify_log(place).records == 34


async def test_segment_grows_on_where_the_next_cannot_be_made(place: Path) -> None:
    async with open_audit(place, segment_bytes=500) as log:
        (place / "00000002.jsonl").mkdir()
        for number in range(5):
            await log.record(entry(number))
        (place / "00000002.jsonl").rmdir()
        await log.record(entry())
    assert verify_log(place).ok
    assert len(list_segments(place)) == 2


async def test_segment_that_was_begun_in_vain_takes_nothing_of_what_another_left_torn(
    place: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async with open_audit(place, segment_bytes=500) as log:
        with monkeypatch.context() as patch:
            patch.setattr(tape, "sync_directory", fail)
            await log.record(entry())
            await log.record(entry())
            disk.room = 50
            with pytest.raises(AuditUnavailable):
                log.append([entry()])  # and so with the closing record
    disk.room = None
    first, second = list_segments(place)
    assert first.read_bytes()[-1:] != b"\n"
    assert second.stat().st_size == 0
    async with open_audit(place, segment_bytes=500) as log:
        await log.record(entry())
        await log.record(entry())
    assert actions(place).count("audit.repair") == 1
    assert second.stat().st_size > 0
    assert verify_log(place).ok


# A disk that is full


async def test_full_disk_refuses_and_recovers(place: Path, disk: Disk) -> None:
    async with open_audit(place) as log:
        disk.room = 0
        for _ in range(3):
            with pytest.raises(AuditUnavailable) as refusal:
                log.append([entry()])
        assert refusal.value.fields["errno"] == "ENOSPC"
        assert not log.ok
        assert log.seq == 1
        disk.room = None
        assert await log.record(entry()) == 3
        assert log.ok
    assert actions(place) == ["audit.open", "audit.repair", "knock.granted", "audit.close"]
    assert verify_log(place).ok


async def test_log_recovers_by_itself(place: Path, disk: Disk) -> None:
    async with open_audit(place) as log:
        disk.room = 0
        with pytest.raises(AuditUnavailable):
            log.append([entry()])
        disk.room = None
        await until(lambda: log.ok)
        await log.durable(log.seq)
    assert actions(place) == ["audit.open", "audit.repair", "audit.close"]


async def test_write_cut_at_any_byte_leaves_a_sound_log(
    tmp_path: Path, place: Path, disk: Disk
) -> None:
    async with open_audit(place) as log:
        size = (place / "00000001.jsonl").stat().st_size
        log.append([entry(1), entry(2)])
        length = (place / "00000001.jsonl").stat().st_size - size
    for room in range(0, length, 7):
        directory = tmp_path / str(room)
        disk.directory = str(directory)
        async with open_audit(directory) as log:
            disk.room = room
            with pytest.raises(AuditUnavailable):
                log.append([entry(1), entry(2)])
            assert log.seq == 1 + (room >= length // 2 + 1)
            disk.room = None
            await log.record(entry(3))
        verdict = verify_log(directory)
        assert verdict.ok, (room, verdict)
        told = [record["detail"].get("n") for record in records(directory)]
        assert told[-2] == 3
        repair = records(directory)[-3]
        assert repair["action"] == "audit.repair"
        assert repair["detail"]["void"] == told.count(1)


async def test_repair_that_is_cut_as_well_is_repaired(tmp_path: Path, disk: Disk) -> None:
    for first in (3, 200, 320):
        for second in (0, 1, 2, 3, 50, 300, 450, 700):
            directory = tmp_path / f"{first}-{second}"
            disk.directory = str(directory)
            async with open_audit(directory) as log:
                for room in (first, second, 1):
                    disk.room = room
                    with pytest.raises(AuditUnavailable):
                        log.append([entry(1), entry(2)])
                disk.room = None
                await log.record(entry(3))
            verdict = verify_log(directory)
            assert verdict.ok, (first, second, verdict)
            void = 0
            for record in records(directory)[1:-2]:  # between the opening and entry 3
                if record["action"] == "audit.repair":
                    assert record["detail"]["void"] == void
                void = 0 if record["action"] == "audit.repair" else void + 1
            assert void == 0


async def test_disk_that_fails_while_closing_leaves_a_log_that_opens(
    place: Path, disk: Disk
) -> None:
    async with open_audit(place):
        disk.room = 20
    assert not verify_log(place).ok
    disk.room = None
    async with open_audit(place):
        pass
    assert verify_log(place).ok


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """Sets the kernel's own limit on the size of files, for this process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_file_size_limit_of_the_kernel_tears_a_line_that_is_repaired(
    place: Path, small_files: Callable[[int], None]
) -> None:
    async with open_audit(place) as log:
        size = (place / "00000001.jsonl").stat().st_size
        small_files(size + 100)
        with pytest.raises(AuditUnavailable) as refusal:
            log.append([entry()])
        assert refusal.value.fields["errno"] == "EFBIG"
        assert (place / "00000001.jsonl").stat().st_size == size + 100
        small_files(resource.RLIM_INFINITY)
        await log.record(entry())
    assert verify_log(place).ok
    repair = records(place)[1]
    assert repair["action"] == "audit.repair"
    assert repair["detail"]["torn"] == 102
    assert repair["detail"]["why"] == "EFBIG"


# A disk that does not sync


async def test_failed_sync_is_told_to_who_waits_and_nothing_more_is_taken(
    place: Path, disk: Disk
) -> None:
    async with open_audit(place) as log:
        await log.durable(log.seq)
        disk.broken = True
        lost = log.append([entry(1)])
        with pytest.raises(AuditUnavailable):
            await log.durable(lost)
        assert not log.ok
        with pytest.raises(AuditUnavailable):
            log.append([entry(2)])
        disk.broken = False
        await until(lambda: log.ok)
        with pytest.raises(AuditUnavailable):
            await log.durable(lost)
        await log.record(entry(3))
    assert [record["detail"].get("unsynced") for record in records(place)][2] == 1
    assert actions(place) == [
        "audit.open", "knock.granted", "audit.repair", "knock.granted", "audit.close",
    ]  # fmt: skip
    assert verify_log(place).ok


async def test_failed_sync_before_a_new_segment_keeps_the_old_one(place: Path, disk: Disk) -> None:
    async with open_audit(place, segment_bytes=700) as log:
        await log.record(entry(1))
        await log.record(entry(1))
        disk.broken = True
        with pytest.raises(AuditUnavailable):
            log.append([entry(2)])
        assert len(list_segments(place)) == 1
        disk.broken = False
        await until(lambda: log.ok)
        await log.record(entry(3))
    assert verify_log(place).ok


# A daemon that died


async def test_tail_torn_at_any_byte_is_repaired_at_the_next_start(
    tmp_path: Path, place: Path
) -> None:
    async with open_audit(place) as log:
        await log.record(entry(1))
    whole = (place / "00000001.jsonl").read_bytes()
    end = whole.rindex(b"\n", 0, -1) + 1
    for cut in (*range(end, len(whole) - 9, 9), *range(len(whole) - 9, len(whole))):
        directory = tmp_path / str(cut)
        directory.mkdir(0o700)
        (directory / "00000001.jsonl").touch(0o600)
        (directory / "00000001.jsonl").write_bytes(whole[:cut])
        first = whole.splitlines()[0]
        log = json.loads(first)["prev"]
        known = Checkpoint(log, 1, hashlib.sha256(first).hexdigest())
        write_checkpoint(config_directory(), directory, known)
        assert verify_log(directory).ok == (cut == end)
        async with open_audit(directory):
            pass
        verdict = verify_log(directory)
        assert verdict.ok, (cut, verdict)
        assert ("audit.repair" in actions(directory)) == (cut > end)


@pytest.mark.parametrize(
    "tail", [b"\0" * 5000, b'{"seq":', b"~\n", b"~\n{", b"x~\ny~\n", b"{" * 200_000]
)
async def test_any_torn_tail_is_repaired(place: Path, tail: bytes) -> None:
    async with open_audit(place):
        pass
    with (place / "00000001.jsonl").open("ab") as file:
        file.write(tail)
    async with open_audit(place):
        pass
    assert verify_log(place).ok
    assert actions(place).count("audit.repair") == 1


async def test_torn_first_record_of_a_new_segment_is_repaired(place: Path) -> None:
    async with open_audit(place) as log:
        await log.record(entry(1))
    (place / "00000002.jsonl").touch(0o600)
    (place / "00000002.jsonl").write_bytes(b'{"seq":4,"ti')
    async with open_audit(place) as log:
        assert log.seq == 5
        assert (await log.read(after=3)).next == 5
    assert verify_log(place).ok
    assert seqs(read_page(place, AuditFilter(), 2, 9)) == [
        3, 4, 5, 6,
    ]  # fmt: skip


@pytest.mark.parametrize("line", [b"garbage\n", b"\n", b'{"seq":9}\n'])
async def test_log_whose_last_line_is_damaged_is_not_written_on(place: Path, line: bytes) -> None:
    async with open_audit(place):
        pass
    with (place / "00000001.jsonl").open("ab") as file:
        file.write(line)
    with pytest.raises(UnsafeState, match="can't be continued"):
        async with open_audit(place):
            pass


# Reading


async def filled(place: Path, count: int, segment_bytes: int = SEGMENT_BYTES) -> None:
    kinds = ["knock.granted", "knock.denied", "lease.declare"]
    ticks = itertools.count(NOW, NS // 2)
    async with open_audit(place, segment_bytes=segment_bytes, clock=lambda: next(ticks)) as log:
        for number in range(0, count, 50):
            log.append([entry(each, kinds[each % 3]) for each in range(number, number + 50)])


@pytest.mark.parametrize("segment_bytes", [20_000, SEGMENT_BYTES])
@pytest.mark.parametrize(
    "wanted",
    [
        AuditFilter(),
        AuditFilter(agent="aaaaaaaa"),
        AuditFilter(action="knock"),
        AuditFilter(action="knock.denied"),
        AuditFilter(agent="bbbbbbbb", action="lease.declare"),
        AuditFilter(agent="nobody"),
        AuditFilter(action="kno"),
        AuditFilter(actor="agent"),
        AuditFilter(actor="agent:bbbbbbbb", action="knock"),
        AuditFilter(actor="agent:bb"),
        AuditFilter(actor="system"),
        AuditFilter(actor="agent:aaaaaaaa", agent="bbbbbbbb"),
        AuditFilter(agent='a"},"b'),
        AuditFilter(since=rfc3339(NOW + 5 * NS)),
        AuditFilter(until=rfc3339(NOW + 5 * NS)),
        AuditFilter(since=rfc3339(NOW + 3 * NS), until=rfc3339(NOW + 4 * NS)),
        AuditFilter(since=rfc3339(NOW + 4 * NS), until=rfc3339(NOW + 3 * NS)),
        AuditFilter(since=rfc3339(NOW + 7 * NS), actor="agent:aaaaaaaa", action="knock.granted"),
        AuditFilter(since=rfc3339(NOW + 1000 * NS)),
        AuditFilter(until=rfc3339(NOW)),
    ],
    ids=str,
)
async def test_pages_together_are_the_records_that_match(
    place: Path, segment_bytes: int, wanted: AuditFilter
) -> None:
    await filled(place, 1000, segment_bytes)
    expected = [record["seq"] for record in records(place) if fits(record, wanted)]
    after, found, more = 0, list[int](), True
    while more:
        page = read_page(place, wanted, after, 90)
        assert len(page.records) <= 90
        found += seqs(page)
        assert page.next > after or not page.more
        after, more = page.next, page.more
    assert found == expected
    assert after == 1002


def fits(record: dict[str, Any], wanted: AuditFilter) -> bool:
    """What the documentation says of a filter, with no eye to speed."""
    return (
        wanted.agent in {"", record["agent"]}
        and (not wanted.action or f"{record['action']}.".startswith(f"{wanted.action}."))
        and (not wanted.actor or f"{record['actor']}:".startswith(f"{wanted.actor}:"))
        and (not wanted.since or wanted.since <= record["time"])
        and (not wanted.until or record["time"] < wanted.until)
    )


async def test_times_are_found_though_the_clock_was_set_to_and_fro(place: Path) -> None:
    times = [NOW + shift * NS for shift in (0, 10, 86_400, 86_405, 20, 19, 30, -86_400, 40)]
    for segment_bytes in (2_000, SEGMENT_BYTES):
        directory = place.with_name(str(segment_bytes))
        clock = iter([NOW, *(time for time in times for _ in range(20)), *[times[-1]] * 9])
        async with open_audit(directory, clock=clock.__next__, segment_bytes=segment_bytes) as log:
            for number in range(20 * len(times)):
                log.append([entry(number)])
        told = records(directory)
        assert verify_log(directory).ok
        assert [each["detail"]["before"] for each in told if each["action"] == "audit.clock"] == [
            rfc3339(NOW + 86_405 * NS), rfc3339(NOW + 30 * NS),
        ]  # fmt: skip
        for path in list_segments(directory):
            inside = [json.loads(line)["time"] for line in path.read_bytes().splitlines()]
            assert inside == sorted(inside)
        for since in sorted({each["time"] for each in told}):
            wanted = AuditFilter(since=since, until=rfc3339(NOW + 86_404 * NS))
            expected = [each["seq"] for each in told if fits(each, wanted)]
            assert seqs(read_page(directory, wanted, 0, 1000)) == expected


async def test_page_begins_anywhere(place: Path) -> None:
    await filled(place, 2000, 100_000)
    for after in (0, 1, 2, 333, 1000, 2000, 2001, 2002, 9999):
        page = read_page(place, AuditFilter(), after, 3)
        assert seqs(page) == list(range(after + 1, min(after + 4, 2003)))
        assert page.more == (after + 3 < 2002)


async def test_records_are_returned_byte_for_byte(place: Path) -> None:
    await filled(place, 50)
    page = read_page(place, AuditFilter(), 0, 1000)
    text = b"".join(bytes(each) + b"\n" for each in page.records)
    assert text == (place / "00000001.jsonl").read_bytes()


async def test_page_is_bounded_in_bytes_and_in_what_it_looks_at(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(place, 500)
    monkeypatch.setattr(segments, "PAGE_BYTES", 2_000)
    page = read_page(place, AuditFilter(), 0, 1000)
    assert page.more
    assert 1 < len(page.records) < 20
    monkeypatch.setattr(segments, "SCAN_BYTES", 5_000)
    page = read_page(place, AuditFilter(agent="nobody"), 0, 1000)
    assert page.records == []
    assert page.more
    assert 10 < page.next < 50


async def test_log_is_read_while_it_is_written(place: Path) -> None:
    async with open_audit(place) as log:
        for number in range(5):
            seq = log.append([entry(number)])
            page = await log.read(after=seq - 1)
            assert seqs(page) == [seq]


# Verifying


async def test_verification_names_segment_and_line(place: Path) -> None:
    await filled(place, 100, 4_000)
    path = list_segments(place)[1]
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b"src/x", b"src/y")
    path.write_bytes(b"".join(lines))
    verdict = verify_log(place)
    assert verdict.bad_line == "2:4"
    assert not verdict.ok
    assert "changed" in (verdict.problem or "")


@pytest.mark.parametrize("gone", [0, 1])
async def test_missing_segment_shows(place: Path, gone: int) -> None:
    await filled(place, 200, 4_000)
    list_segments(place)[gone].unlink()
    verdict = verify_log(place)
    assert (verdict.ok, verdict.bad_line) == (False, f"{gone + 1}:1")


async def test_segments_that_changed_places_show(place: Path) -> None:
    await filled(place, 200, 4_000)
    one, two = list_segments(place)[1:3]
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    assert verify_log(place).bad_line == "2:1"


async def test_cut_tail_shows(place: Path) -> None:
    await filled(place, 50)
    path = place / "00000001.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    assert verify_log(place).bad_line == "1:52"


@pytest.mark.parametrize("kind", ["nothing", "empty", "file", "link", "directory", "fifo"])
def test_what_is_no_log_does_not_verify(place: Path, kind: str) -> None:
    segment = place / "00000001.jsonl"
    if kind == "file":
        place.touch()
    elif kind != "nothing":
        place.mkdir()
    match kind:
        case "link":
            segment.symlink_to("/dev/null")
        case "directory":
            segment.mkdir()
        case "fifo":
            os.mkfifo(segment)
    verdict = verify_log(place)
    assert not verdict.ok
    assert verdict.problem


@pytest.mark.parametrize("data", [b"\xff" * 100, b"\n\n", b"{" * 5_000_000, b"\0", b"~\n~\n"])
def test_any_bytes_can_be_verified(place: Path, data: bytes) -> None:
    place.mkdir()
    (place / "00000001.jsonl").write_bytes(data)
    verdict = verify_log(place)
    assert (verdict.ok, verdict.bad_line) == (False, "1:1")


async def test_verifying_changes_nothing(place: Path) -> None:
    await filled(place, 50)
    before = [(path.stat().st_mtime_ns, path.read_bytes()) for path in list_segments(place)]
    place.chmod(0o500)
    verify_log(place)
    assert [(path.stat().st_mtime_ns, path.read_bytes()) for path in list_segments(place)] == before
    place.chmod(0o700)
