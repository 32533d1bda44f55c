"""What another program of the same user can do to the log's file while the daemon runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from groove_trio.shell.audit import AuditLog, open_audit, verify_log
from groove_trio.words.actors import OWNER
from groove_trio.words.audit import AuditEntry
from groove_trio.words.errors import AuditUnavailable

ENTRY = AuditEntry(actor=OWNER, action="knock.granted")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir(mode=0o700)
    return tmp_path / "state/audit"


@pytest.fixture
def segment(place: Path) -> Path:
    return place / "00000001.jsonl"


def to_symlink(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def to_null(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/null")


def to_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def to_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def to_copy(path: Path) -> None:
    shutil.copy(path, path.with_name("copy"))
    path.with_name("copy").replace(path)


def to_longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def to_copied_directory(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))
    shutil.copytree(path.parent.with_name("moved"), path.parent)


def to_linked_directory(path: Path) -> None:
    to_symlink(path.parent)


def to_linked_state(path: Path) -> None:
    to_symlink(path.parent.parent)


def to_file(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.touch()


def to_fifo_for_a_directory(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))
    os.mkfifo(path.parent)


CHANGES: list[Callable[[Path], object]] = [
    Path.unlink,
    lambda path: os.truncate(path, 0),
    lambda path: os.truncate(path, path.stat().st_size - 1),
    lambda path: path.rename(path.with_name("moved")),
    lambda path: shutil.rmtree(path.parent),
    to_symlink,
    to_null,
    to_fifo,
    to_directory,
    to_copy,
    to_longer,
    to_copied_directory,
    to_linked_directory,
    to_linked_state,
    to_file,
    to_fifo_for_a_directory,
]


@pytest.mark.parametrize("change", CHANGES)
async def test_log_whose_file_was_changed_takes_nothing_more(
    place: Path, segment: Path, change: Callable[[Path], object]
) -> None:
    async with open_audit(place) as log:
        log.append([ENTRY])
        change(segment)
        for _ in range(2):
            with pytest.raises(AuditUnavailable, match="changed or removed"):
                log.append([ENTRY])
        assert not log.ok


async def until_ok(log: AuditLog) -> None:
    with trio.fail_after(10):
        while not log.ok:
            await trio.sleep(0.01)


async def test_log_goes_on_when_its_file_is_back(place: Path, segment: Path) -> None:
    async with open_audit(place) as log:
        segment.rename(segment.with_name("moved"))
        with pytest.raises(AuditUnavailable):
            await log.record(ENTRY)
        segment.with_name("moved").rename(segment)
        await until_ok(log)
        await log.record(ENTRY)
    assert verify_log(place).ok


async def test_next_segment_that_another_program_wrote_is_not_written_on(
    place: Path, segment: Path
) -> None:
    async with open_audit(place, segment_bytes=500) as log:
        foreign = segment.with_name("00000002.jsonl")
        foreign.touch(0o600)
        foreign.write_text("x")
        for _ in range(5):
            await log.record(ENTRY)
        assert foreign.read_text() == "x"
        foreign.unlink()
    assert verify_log(place).ok


@pytest.mark.parametrize("change", [to_null, to_fifo, to_directory])
async def test_log_whose_file_is_none_cannot_be_read(
    place: Path, segment: Path, change: Callable[[Path], object]
) -> None:
    async with open_audit(place) as log:
        change(segment)
        with pytest.raises(AuditUnavailable):
            await log.read()
        assert not verify_log(place).ok
