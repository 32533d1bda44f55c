"""The end of a log, known from outside: cut, rolled back, removed, exchanged, and accepted."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from groove_trio import verify as standalone
from groove_trio.shell import heads, vouch
from groove_trio.shell.audit import accept_log, open_audit
from groove_trio.shell.heads import checkpoint_path, log_key, read_checkpoint, verify_log
from groove_trio.shell.seed import load_seed
from groove_trio.shell.segments import list_segments
from groove_trio.verify import Checkpoint
from groove_trio.words.actors import OWNER
from groove_trio.words.audit import AuditEntry
from groove_trio.words.errors import AlreadyRunning, AuditTampered, AuditUnavailable, UnsafeState

ENTRY = AuditEntry(actor=OWNER, action="knock.granted", detail={"path": "src/x"})


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "audit"


async def run(place: Path, config: Path, count: int = 3, **more: Any) -> None:
    """A daemon's life: an opening, some records, a closing."""
    async with open_audit(place, config_dir=config, **more) as log:
        for _ in range(count):
            await log.record(ENTRY)


def last_line(place: Path) -> dict[str, Any]:
    return json.loads(list_segments(place)[-1].read_bytes().splitlines()[-1])


def actions(place: Path) -> list[str]:
    data = b"".join(path.read_bytes() for path in list_segments(place))
    return [json.loads(line)["action"] for line in data.splitlines()]


async def refused(place: Path, config: Path) -> AuditTampered:
    before = {path: path.read_bytes() for path in list_segments(place)} if place.exists() else {}
    with pytest.raises(AuditTampered) as refusal:
        async with open_audit(place, config_dir=config):
            pass
    assert {path: path.read_bytes() for path in list_segments(place)} == before
    assert "audit accept" in refusal.value.detail
    return refusal.value


# What is kept


async def test_head_is_kept_outside_for_its_user_alone(place: Path, config: Path) -> None:
    await run(place, config)
    path = checkpoint_path(config, place)
    assert path.parent == config / "heads"
    assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.lstat().st_mode) == 0o700
    told = json.loads(path.read_bytes())
    verdict = verify_log(place, config)
    assert told == {
        "directory": str(place), "log": verdict.log, "seq": 5, "head": verdict.head,
    }  # fmt: skip
    assert (verdict.ok, verdict.keyed, verdict.checkpoint, verdict.records) == (True, True, 5, 5)


async def test_head_follows_the_log_without_being_waited_for(
    place: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vouch, "HEAD_LAG_S", 0.01)
    async with open_audit(place, config_dir=config) as log:
        known = read_checkpoint(config, place)
        assert known is not None
        assert known.seq == 1, "the opening is vouched for before anything else"
        told = list[int]()
        monkeypatch.setattr(vouch, "write_checkpoint", lambda _c, _d, known: told.append(known.seq))
        for _ in range(100):
            await log.record(ENTRY)
        assert len(told) < 100, "not one for each"
        with trio.fail_after(10):
            while not told or told[-1] < log.seq:
                await trio.sleep(0.005)


async def test_head_is_never_ahead_of_the_disk(
    place: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vouch, "HEAD_LAG_S", 0.0)
    synced = [0]
    async with open_audit(place, config_dir=config) as log:
        real = os.fdatasync
        real_write = heads.write_checkpoint

        def sync(descriptor: int) -> None:
            size = os.fstat(descriptor).st_size
            real(descriptor)
            time.sleep(0.003)  # in a thread, while more is written
            synced[0] = size

        def write(config_dir: Path, directory: Path, known: Checkpoint) -> None:
            data = (place / "00000001.jsonl").read_bytes()[: synced[0]]
            assert data.count(b"\n") >= known.seq
            real_write(config_dir, directory, known)

        monkeypatch.setattr(os, "fdatasync", sync)
        monkeypatch.setattr(vouch, "write_checkpoint", write)
        for _ in range(200):
            log.append([ENTRY])
            await trio.sleep(0.0005)
        await log.durable(log.seq)
    known = read_checkpoint(config, place)
    assert known is not None
    assert known.seq == 202


async def test_crash_before_the_head_was_told_is_no_alarm(place: Path, config: Path) -> None:
    await run(place, config)
    path = checkpoint_path(config, place)
    lines = (place / "00000001.jsonl").read_bytes().splitlines()
    told = json.loads(path.read_bytes())
    for seq, line in enumerate(lines, 1):
        head = hashlib.sha256(line).hexdigest()
        path.write_text(json.dumps(told | {"seq": seq, "head": head}))
        assert verify_log(place, config).ok
        async with open_audit(place, config_dir=config):
            pass


class Died(BaseException):
    """Stands for a daemon that is killed."""


@pytest.mark.parametrize("survived", [0, 1])
async def test_crash_while_a_log_begins_is_no_alarm(
    place: Path, config: Path, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    left = [survived]
    real = vouch.write_checkpoint

    def write(config_dir: Path, directory: Path, known: Checkpoint) -> None:
        if not left[0]:
            raise Died
        left[0] -= 1
        real(config_dir, directory, known)

    monkeypatch.setattr(vouch, "write_checkpoint", write)
    with pytest.raises(Died):
        await run(place, config)
    monkeypatch.undo()
    begun = read_checkpoint(config, place)
    assert (begun is None, bool(list_segments(place))) == (not survived, bool(survived))
    await run(place, config)
    verdict = verify_log(place, config)
    assert verdict.ok
    assert begun is None or begun.log == verdict.log


async def test_first_record_cut_off_at_any_byte_is_no_alarm(
    place: Path, config: Path, tmp_path: Path
) -> None:
    await run(place, config)
    first = (place / "00000001.jsonl").read_bytes().splitlines(keepends=True)[0]
    log = json.loads(first)["prev"]
    for length in (*range(0, len(first), 23), len(first) - 1):
        other = tmp_path / str(length)
        other.mkdir(0o700)
        (other / "00000001.jsonl").touch(0o600)
        (other / "00000001.jsonl").write_bytes(first[:length])
        heads.write_checkpoint(config, other, Checkpoint(log, 0, log))
        await run(other, config)
        verdict = verify_log(other, config)
        assert (verdict.ok, verdict.log) == (True, log), (length, verdict)


async def test_head_that_cannot_be_told_is_recorded_and_the_log_goes_on(
    place: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vouch, "HEAD_LAG_S", 0.001)

    async def until_last_is(action: str) -> None:
        with trio.fail_after(10):
            while actions(place)[-1] != action:
                await trio.sleep(0.002)

    async with open_audit(place, config_dir=config) as log:
        (config / "heads").rename(config / "moved")
        (config / "heads").touch()
        await log.record(ENTRY)
        await until_last_is("audit.checkpoint")
        assert "not a directory" in last_line(place)["detail"]["error"]
        await log.record(ENTRY)
        (config / "heads").unlink()
        (config / "moved").rename(config / "heads")
        await until_last_is("audit.checkpoint")
        assert last_line(place)["detail"] == {"error": None}
    assert actions(place).count("audit.checkpoint") == 2
    assert verify_log(place, config).ok


# What is noticed, at the start and by verifying


async def test_end_cut_at_every_line_is_noticed_and_at_every_byte(
    place: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run(place, config, 1)
    monkeypatch.setattr(time, "sleep", lambda _: None)  # for the end of a line being written
    segment = place / "00000001.jsonl"
    whole = segment.read_bytes()
    for length in range(len(whole)):
        segment.write_bytes(whole[:length])
        verdict = verify_log(place, config)
        line = whole.count(b"\n", 0, length) + 1
        assert (verdict.ok, verdict.bad_line) == (False, f"1:{line}"), length
        if length % 97 == 0 or whole[:length].endswith(b"\n"):
            assert (await refused(place, config)).fields["expected"]["seq"] == 3
    segment.write_bytes(whole)
    assert verify_log(place, config).ok
    await run(place, config)


async def test_every_changed_byte_is_noticed_in_its_line(place: Path, config: Path) -> None:
    await run(place, config, 1)
    segment = place / "00000001.jsonl"
    whole = segment.read_bytes()
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1
        segment.write_bytes(changed)
        verdict = verify_log(place, config)
        line = whole.count(b"\n", 0, position) + 1
        assert (verdict.ok, verdict.bad_line) == (False, f"1:{line}"), position


async def test_every_line_dropped_repeated_or_exchanged_is_noticed(
    place: Path, config: Path
) -> None:
    await run(place, config, 4, segment_bytes=500)
    paths = list_segments(place)
    assert len(paths) > 2
    for path in paths:
        whole = path.read_bytes()
        lines = whole.splitlines(keepends=True)
        number = int(path.stem)
        for row in range(len(lines)):
            for other in (
                lines[:row] + lines[row + 1 :],
                [*lines[: row + 1], *lines[row:]],
                [*lines[:row], *lines[row : row + 2][::-1], *lines[row + 2 :]],
            ):
                if other == lines:
                    continue
                path.write_bytes(b"".join(other))
                verdict = verify_log(place, config)
                assert not verdict.ok
                assert verdict.bad_line is not None
                segment, _, line = verdict.bad_line.partition(":")
                assert (int(segment), int(line)) >= (number, row + 1)
                assert (int(segment), int(line)) <= (number + 1, row + 2)
        path.write_bytes(whole)
    assert verify_log(place, config).ok


async def test_older_copy_put_back_is_noticed(place: Path, config: Path, tmp_path: Path) -> None:
    await run(place, config)
    shutil.copytree(place, tmp_path / "older")
    await run(place, config)
    place.rename(tmp_path / "newer")
    shutil.copytree(tmp_path / "older", place)
    error = await refused(place, config)
    assert "ends with record 5" in error.detail
    assert error.fields["expected"]["seq"] == 10
    assert error.fields["found"]["seq"] == 5
    assert verify_log(place, config).bad_line == "1:6"


async def test_line_other_than_the_known_one_is_noticed(place: Path, config: Path) -> None:
    await run(place, config)
    path = checkpoint_path(config, place)
    told = json.loads(path.read_bytes())
    for seq in (1, 3, 5):
        path.write_text(json.dumps(told | {"seq": seq, "head": "0" * 64}))
        assert f"record {seq} is not the one" in (await refused(place, config)).detail
        assert verify_log(place, config).bad_line == f"1:{seq}"


def remove_all(place: Path) -> None:
    shutil.rmtree(place)


def empty(place: Path) -> None:
    for path in list_segments(place):
        path.unlink()


def cut_to_nothing(place: Path) -> None:
    os.truncate(place / "00000001.jsonl", 0)
    for path in list_segments(place)[1:]:
        path.unlink()


def remove_last(place: Path) -> None:
    list_segments(place)[-1].unlink()


def rename_last(place: Path) -> None:
    path = list_segments(place)[-1]
    path.rename(path.with_name("old.jsonl"))


@pytest.mark.parametrize("change", [remove_all, empty, cut_to_nothing, remove_last, rename_last])
async def test_removed_log_or_segment_is_noticed(
    place: Path, config: Path, change: Callable[[Path], None]
) -> None:
    await run(place, config, 4, segment_bytes=500)
    change(place)
    assert not verify_log(place, config).ok
    await refused(place, config)


async def test_first_or_middle_segment_gone_is_noticed(place: Path, config: Path) -> None:
    await run(place, config, 4, segment_bytes=500)
    for number in (1, 2):
        path = place / f"0000000{number}.jsonl"
        path.rename(place / "aside")
        with pytest.raises(UnsafeState, match=f"Segment {number} .* is missing"):
            await run(place, config)
        assert verify_log(place, config).bad_line == f"{number}:1"
        (place / "aside").rename(path)
    await run(place, config)


async def test_log_of_another_project_is_noticed(place: Path, config: Path, tmp_path: Path) -> None:
    await run(place, config)
    await run(tmp_path / "other", config, 9)
    shutil.rmtree(place)
    shutil.copytree(tmp_path / "other", place)
    assert "another log" in (await refused(place, config)).detail
    assert verify_log(place, config).bad_line == "1:1"


async def test_log_that_was_moved_or_whose_checkpoint_is_gone_is_noticed(
    place: Path, config: Path, tmp_path: Path
) -> None:
    await run(place, config)
    place.rename(tmp_path / "moved")
    assert "moved" in (await refused(tmp_path / "moved", config)).detail
    assert verify_log(tmp_path / "moved", config).checkpoint is None
    (tmp_path / "moved").rename(place)
    checkpoint_path(config, place).unlink()
    await refused(place, config)


async def test_every_prefix_of_a_checkpoint_is_refused(place: Path, config: Path) -> None:
    await run(place, config)
    path = checkpoint_path(config, place)
    whole = path.read_bytes()
    for length in range(len(whole.rstrip()) - 1):
        path.write_bytes(whole[:length])
        assert verify_log(place, config).problem == "its checkpoint is damaged"
        if length % 50 == 0:
            await refused(place, config)
    for other in (b"{}", b"[]", b"1", b'{"log":1,"seq":2,"head":3}', b"[" * 60_000):
        path.write_bytes(other)
        await refused(place, config)
    path.write_bytes(whole)
    path.chmod(0o644)
    with pytest.raises(UnsafeState, match="0644"):
        await run(place, config)


async def test_log_of_another_user_or_an_earlier_form_is_not_continued(
    place: Path, config: Path, tmp_path: Path
) -> None:
    await run(place, config)
    with pytest.raises(UnsafeState, match="not sealed with this user's seed"):
        await run(place, tmp_path / "another")
    segment = place / "00000001.jsonl"
    first = segment.read_bytes().splitlines()[0]
    segment.write_bytes(first[: first.index(b',"mac"')] + b"}\n")
    with pytest.raises(UnsafeState, match="move the directory away"):
        await run(place, config)


async def test_log_being_written_is_never_found_bad(place: Path, config: Path) -> None:
    async with open_audit(place, config_dir=config, segment_bytes=20_000) as log:
        for _ in range(30):
            log.append([ENTRY] * 20)
            verdict = await trio.to_thread.run_sync(verify_log, place, config)
            assert verdict.ok, verdict
            log.append([ENTRY])


# What an owner may accept


@pytest.mark.parametrize("change", [remove_all, cut_to_nothing, remove_last])
async def test_accepted_loss_is_recorded_and_told(
    place: Path, config: Path, change: Callable[[Path], None]
) -> None:
    await run(place, config, 4, segment_bytes=500)
    change(place)
    error = await refused(place, config)
    problem = await trio.to_thread.run_sync(accept_log, place, config)
    assert problem == error.fields["problem"]
    verdict = verify_log(place, config)
    assert verdict.ok
    (accepted,) = verdict.accepted
    assert actions(place)[accepted - 1] == "audit.accept"
    record = json.loads(
        b"".join(path.read_bytes() for path in list_segments(place)).splitlines()[accepted - 1]
    )
    assert record["actor"] == "owner"
    assert record["detail"] == error.fields
    await run(place, config)
    assert verify_log(place, config).accepted == [accepted]


async def test_nothing_is_accepted_where_nothing_is_wrong(place: Path, config: Path) -> None:
    await run(place, config)
    before = (place / "00000001.jsonl").read_bytes()
    assert await trio.to_thread.run_sync(accept_log, place, config) is None
    assert (place / "00000001.jsonl").read_bytes() == before


async def test_nothing_is_accepted_under_a_running_daemon(place: Path, config: Path) -> None:
    async with open_audit(place, config_dir=config):
        with pytest.raises(AlreadyRunning):
            await trio.to_thread.run_sync(accept_log, place, config)


async def test_log_cut_under_a_running_daemon_is_noticed_by_the_next(
    place: Path, config: Path
) -> None:
    async with open_audit(place, config_dir=config) as log:
        await log.record(ENTRY)
        os.truncate(place / "00000001.jsonl", 0)
        with pytest.raises(AuditUnavailable):
            log.append([ENTRY])
    await refused(place, config)


# The one file that a stranger reads


def stranger(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs the verifier alone: no site-packages, no environment, nothing of ours on the path."""
    command = [sys.executable, "-I", "-S", standalone.__file__, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")


async def test_verifier_runs_by_itself_with_what_it_is_given(
    place: Path, config: Path, tmp_path: Path
) -> None:
    await run(place, config, 4, segment_bytes=500)
    load_seed(config)
    key = tmp_path / "key"
    key.write_text(json.dumps(log_key(place, config)._asdict()))
    seed, known = ("--seed", config / "seed"), ("--known", checkpoint_path(config, place))
    for given in ((), seed, known, (*seed, *known), ("--known", key)):
        done = stranger(place, *given)
        assert done.returncode == 0, done
        assert "whole: 6 records" in done.stdout
        assert ("without the seed" in done.stdout) == (seed[0] not in given and key not in given)
        assert ("without a checkpoint" in done.stdout) == ("--known" not in given)
    told = json.loads(stranger(place, "--json", "--known", key).stdout)
    expected = verify_log(place, config)
    assert told["head"] == expected.head
    assert told["keyed"] is True
    list_segments(place)[-1].unlink()
    done = stranger(place, "--known", key)
    assert done.returncode == 5
    assert "its end was cut" in done.stdout
    assert json.loads(stranger(place, "--known", key, "--json").stdout)["bad_line"] == (
        verify_log(place, config).bad_line
    )


def test_verifier_says_what_it_was_not_given(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"x")
    for given in (("--seed", "short"), ("--known", "short"), ("--seed", "none")):
        done = stranger(tmp_path, given[0], tmp_path / given[1])
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
    assert stranger(tmp_path / "none").returncode == 5
    assert stranger(tmp_path).returncode == 5


def test_key_of_a_log_needs_the_log_and_the_seed(tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir(0o700)
    with pytest.raises(UnsafeState, match="no log here"):
        log_key(tmp_path / "audit", tmp_path / "config")
