from __future__ import annotations

import errno
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from groove_trio.shell import output
from groove_trio.shell.output import MAX_PAGE_BYTES, OutputLog, repair
from groove_trio.words.base import MAX_PAGE


def texts(*lines: str) -> list[tuple[str, bool]]:
    return [(line, False) for line in lines]


async def filled(path: Path, count: int, width: int = 10) -> OutputLog:
    log = OutputLog(path)
    for begin in range(0, count, 500):
        await log.append(
            "out",
            texts(*(f"{n} " + "x" * (n % width) for n in range(begin, min(begin + 500, count)))),
        )
    return log


async def test_lines_are_numbered_timed_private_and_on_disk(tmp_path: Path) -> None:
    log = OutputLog(tmp_path / "output.jsonl", clock=lambda: 1_000_000_000)
    first = await log.append("out", texts("a", "b"))
    second = await log.append("err", [("c", True)])
    assert [line.seq for line in first + second] == [1, 2, 3]
    written = [json.loads(line) for line in (tmp_path / "output.jsonl").read_text().splitlines()]
    assert written[0] == {
        "seq": 1,
        "time": "1970-01-01T00:00:01.000000000Z",
        "stream": "out",
        "text": "a",
        "partial": False,
    }
    assert (written[2]["stream"], written[2]["partial"]) == ("err", True)
    assert (tmp_path / "output.jsonl").stat().st_mode & 0o777 == 0o600


async def test_an_append_of_nothing_writes_nothing(tmp_path: Path) -> None:
    log = OutputLog(tmp_path / "o")
    assert await log.append("out", []) == []
    assert not (tmp_path / "o").exists()


async def test_two_pumps_at_once_keep_numbers_in_file_order(tmp_path: Path) -> None:
    log = OutputLog(tmp_path / "o")

    async def pump(stream: Any) -> None:
        for n in range(50):
            await log.append(stream, texts(*[f"{stream} {n}"] * 3))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump, "out")
        nursery.start_soon(pump, "err")
    seqs = [json.loads(line)["seq"] for line in (tmp_path / "o").read_text().splitlines()]
    assert seqs == list(range(1, 301))


@pytest.mark.parametrize("width", [1, 300])
async def test_pages_are_found_by_number(tmp_path: Path, width: int) -> None:
    log = await filled(tmp_path / "o", 5000, width)
    draw = random.Random(7)
    for after in [0, 1, 4999, 4998, *(draw.randrange(5000) for _ in range(60))]:
        limit = draw.randrange(1, 40)
        page = await log.read(after, limit)
        expected = list(range(after + 1, min(after + limit, 5000) + 1))
        assert [line.seq for line in page.lines] == expected
        assert page.next == expected[-1]
        assert page.more == (expected[-1] < 5000)


async def test_pages_join_to_the_whole(tmp_path: Path) -> None:
    log = await filled(tmp_path / "o", 3456, 50)
    seen: list[int] = []
    after, more = 0, True
    while more:
        page = await log.read(after, MAX_PAGE)
        seen += [line.seq for line in page.lines]
        after, more = page.next, page.more
    assert seen == list(range(1, 3457))


async def test_a_negative_start_counts_from_the_end(tmp_path: Path) -> None:
    log = await filled(tmp_path / "o", 30)
    assert [line.seq for line in (await log.read(-3, 10)).lines] == [28, 29, 30]
    assert len((await log.read(-99, 100)).lines) == 30


async def test_reading_behind_the_end_or_without_a_file_gives_nothing(tmp_path: Path) -> None:
    log = OutputLog(tmp_path / "o")
    page = await log.read(0, 10)
    assert (page.lines, page.next, page.more) == ([], 0, False)
    log = await filled(tmp_path / "o", 5)
    page = await log.read(99, 10)
    assert (page.lines, page.next, page.more) == ([], 99, False)
    (tmp_path / "o").unlink()
    assert (await log.read(0, 10)).lines == []


async def test_a_page_is_bounded_in_bytes(tmp_path: Path) -> None:
    log = OutputLog(tmp_path / "o")
    for _ in range(40):
        await log.append("out", texts("x" * 65_536))
    page = await log.read(0, 1000)
    size = sum(len(line.text) for line in page.lines)
    assert MAX_PAGE_BYTES - 65_536 <= size <= MAX_PAGE_BYTES + 2 * 65_536
    assert page.more
    assert (await log.read(page.next, 1)).lines[0].seq == page.next + 1


async def test_unreadable_lines_in_the_middle_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "o"
    await filled(path, 1000, 300)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[500:520] = [b"\x00" * 200 + b"\n"] * 20
    path.write_bytes(b"".join(lines))
    page = await OutputLog(path, 1000).read(495, 10)
    assert [line.seq for line in page.lines] == [496, 497, 498, 499, 500, 521, 522, 523, 524, 525]


# Slow and full disks


async def test_a_full_disk_slows_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(output, "RETRY_S", 0.01)
    written = os.write
    faults = [3]

    def write(file: int, data: bytes) -> int:
        if data.startswith(b'{"seq"') and faults[0]:
            faults[0] -= 1
            written(file, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(file, data)

    monkeypatch.setattr(os, "write", write)
    log = OutputLog(tmp_path / "o")
    lines = await log.append("out", texts("a", "b", "c"))
    assert [line.seq for line in lines] == [1, 2, 3]
    assert [json.loads(line)["text"] for line in (tmp_path / "o").read_text().splitlines()] == [
        "a",
        "b",
        "c",
    ]
    assert caplog.text.count("can't be written") == 1


async def test_what_a_dying_disk_keeps_of_a_failed_write_is_cut_when_it_lives_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "RETRY_S", 0.01)
    written = os.write

    def fault() -> OSError:
        return OSError(errno.EIO, os.strerror(errno.EIO))

    def write(file: int, data: bytes) -> int:
        if data.startswith(b'{"seq"'):
            written(file, data[: len(data) // 2])
            raise fault()
        return written(file, data)

    def truncate(file: int, size: int) -> None:
        raise fault()

    log = OutputLog(tmp_path / "o")
    await log.append("out", texts("a"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        patch.setattr(os, "ftruncate", truncate)
        with trio.move_on_after(0.1) as scope:
            await log.append("out", texts("b", "c", "d"))
        assert scope.cancelled_caught
    assert len((tmp_path / "o").read_bytes().splitlines()) > 1
    await log.append("out", texts("e"))
    page = await log.read(0, 10)
    assert [(line.seq, line.text) for line in page.lines] == [(1, "a"), (2, "e")]
    assert [json.loads(line)["text"] for line in (tmp_path / "o").read_text().splitlines()] == [
        "a",
        "e",
    ]


async def test_an_append_waiting_for_room_can_be_cancelled_and_the_next_goes_on(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "d"
    log = OutputLog(directory / "o")
    with trio.move_on_after(0.05) as scope:
        await log.append("out", texts("lost"))
    assert scope.cancelled_caught
    directory.mkdir()
    [line] = await log.append("out", texts("kept"))
    assert line.seq == 1


async def test_append_and_read_are_checkpoints(tmp_path: Path) -> None:
    log = OutputLog(tmp_path / "o")
    with trio.testing.assert_checkpoints():
        await log.append("out", texts("a"))
    with trio.testing.assert_checkpoints():
        await log.read(0, 1)
    with trio.testing.assert_checkpoints():
        await log.read(5, 1)


# After a crash


async def test_a_whole_log_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "o"
    await filled(path, 700, 200)
    before = path.read_bytes()
    assert repair(path) == 700
    assert path.read_bytes() == before


def test_no_log_and_an_empty_log_have_no_last_line(tmp_path: Path) -> None:
    assert repair(tmp_path / "o") == 0
    (tmp_path / "o").touch()
    assert repair(tmp_path / "o") == 0


async def test_a_torn_last_line_is_cut_at_any_byte_and_numbers_go_on(tmp_path: Path) -> None:
    path = tmp_path / "o"
    await filled(path, 3)
    whole = path.read_bytes()
    second = whole.index(b"\n", whole.index(b"\n") + 1) + 1
    for cut in range(second, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert repair(path) == 2
        assert path.read_bytes() == whole[:second]
    [line] = await OutputLog(path, 2).append("out", texts("next"))
    assert line.seq == 3


async def test_a_last_line_that_lacks_only_its_newline_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "o"
    await filled(path, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert repair(path) == 3
    assert path.read_bytes() == whole


async def test_zeros_that_a_power_cut_left_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "o"
    await filled(path, 10)
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(100_000))
    assert repair(path) == 10
    assert path.read_bytes() == whole


def test_a_torn_first_line_leaves_an_empty_log(tmp_path: Path) -> None:
    (tmp_path / "o").write_bytes(b'{"seq":1,"ti')
    assert repair(tmp_path / "o") == 0
    assert (tmp_path / "o").read_bytes() == b""


def test_a_file_that_is_no_log_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "o").write_bytes(b"hello\n" * 100_000)
    assert repair(tmp_path / "o") == 0
    assert not (tmp_path / "o").exists()
    assert (tmp_path / "o.bad").stat().st_size == 600_000


def test_a_symlink_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("hello\n")
    (tmp_path / "o").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match=r"symbolic links"):
        repair(tmp_path / "o")


async def test_a_daemon_that_must_end_does_not_wait_for_the_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = OutputLog(tmp_path / "nowhere" / "o", give_up=lambda: True)
    assert await log.append("out", texts("a", "b")) == []
    assert log.last_seq == 0
    assert "2 lines are lost" in caplog.text
