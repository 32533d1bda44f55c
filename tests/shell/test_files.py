"""Private files: the mode from the first moment, and nothing trusted that is not ours."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from groove_trio.shell.files import (
    check_private,
    clear_torn,
    ensure_private_dir,
    open_private,
    write_atomic,
)
from groove_trio.words.errors import UnsafeState

MAKE = os.O_WRONLY | os.O_CREAT | os.O_APPEND


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o777], ids=oct)
def any_umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("any_umask")
def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    ensure_private_dir(tmp_path / "dir")
    os.close(open_private(tmp_path / "dir" / "log", MAKE))
    write_atomic(tmp_path / "dir" / "state", b"x")
    write_atomic(tmp_path / "dir" / "public", b"x", 0o644)
    assert mode_of(tmp_path / "dir") == 0o700
    assert mode_of(tmp_path / "dir" / "log") == 0o600
    assert mode_of(tmp_path / "dir" / "state") == 0o600
    assert mode_of(tmp_path / "dir" / "public") == 0o644


def test_file_is_never_open_to_others_even_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    real = os.open

    def watching(path: str, flags: int, mode: int = 0o777) -> int:
        descriptor = real(path, flags, mode)
        seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077 if flags & os.O_CREAT else 0)
        return descriptor

    before = os.umask(0)
    try:
        monkeypatch.setattr(os, "open", watching)
        os.close(open_private(tmp_path / "log", MAKE))
        write_atomic(tmp_path / "state", b"x")
    finally:
        os.umask(before)
    assert seen
    assert not any(seen)


def test_write_replaces_the_whole_content(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_atomic(path, b"a long first content")
    write_atomic(path, b"short")
    assert path.read_bytes() == b"short"
    assert os.listdir(tmp_path) == ["state"]


def test_write_replaces_a_link_and_leaves_its_target(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("theirs")
    (tmp_path / "state").symlink_to("target")
    write_atomic(tmp_path / "state", b"ours")
    assert not (tmp_path / "state").is_symlink()
    assert (tmp_path / "target").read_text() == "theirs"


@pytest.mark.parametrize("call", ["write", "fsync", "rename", "replace"])
def test_failed_write_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "state"
    write_atomic(path, b"old")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        if call == "rename":
            patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space"):
            write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["state"]


def test_write_into_a_missing_directory_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "gone" / "state", b"x")


def test_no_descriptor_is_leaked(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "wide").touch(0o644)
    before = len(os.listdir("/proc/self/fd"))
    write_atomic(tmp_path / "state", b"x")
    for name in ("link", "wide"):
        with pytest.raises(UnsafeState):
            open_private(tmp_path / name, MAKE)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("kind", ["link", "dangling", "fifo", "directory", "readable", "writable"])
def test_file_that_is_not_ours_alone_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "state"
    match kind:
        case "link":
            (tmp_path / "target").touch(0o600)
            path.symlink_to("target")
        case "dangling":
            path.symlink_to("nowhere")
        case "fifo":
            os.mkfifo(path, 0o600)
        case "directory":
            path.mkdir(0o700)
        case "readable":
            path.touch(0o600)
            path.chmod(0o640)
        case _:
            path.touch(0o600)
            path.chmod(0o602)
    for use in (
        lambda: open_private(path, MAKE),
        lambda: open_private(path, os.O_RDONLY),
        lambda: check_private(path),
    ):
        with pytest.raises(UnsafeState) as refusal:
            use()
        assert refusal.value.fields["path"] == str(path)
        assert refusal.value.fields["reason"]
    assert not (tmp_path / "nowhere").exists()


def test_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state"
    path.touch(0o600)
    stranger = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: stranger)
    for use in (lambda: open_private(path, MAKE), lambda: ensure_private_dir(tmp_path)):
        with pytest.raises(UnsafeState, match="belongs to user"):
            use()


def test_private_dir_is_made_once_and_then_accepted(tmp_path: Path) -> None:
    ensure_private_dir(tmp_path / "dir")
    ensure_private_dir(tmp_path / "dir")
    assert mode_of(tmp_path / "dir") == 0o700


def test_private_dir_is_durable_once_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    sync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    ensure_private_dir(tmp_path / "dir")
    assert synced == [str(tmp_path)]
    ensure_private_dir(tmp_path / "dir")
    assert synced == [str(tmp_path)]


@pytest.mark.parametrize("kind", ["file", "link", "open"])
def test_directory_that_is_not_ours_alone_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "dir"
    match kind:
        case "file":
            path.touch(0o600)
        case "link":
            (tmp_path / "target").mkdir(0o700)
            path.symlink_to("target")
        case _:
            path.mkdir()
            path.chmod(0o750)
    with pytest.raises(UnsafeState):
        ensure_private_dir(path)


def test_what_is_missing_is_told_as_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_private(tmp_path / "gone", os.O_RDONLY)
    with pytest.raises(FileNotFoundError):
        check_private(tmp_path / "gone")


def test_what_cut_short_replacements_left_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    for name in (".state.0123abcd.tmp", ".state.x.tmp", ".other.0123abcd.tmp", "state", ".state"):
        (tmp_path / name).touch()
    (tmp_path / "far").touch()
    (tmp_path / ".state.link.tmp").symlink_to("far")
    clear_torn(tmp_path / "state")
    clear_torn(tmp_path / "gone" / "state")
    assert set(os.listdir(tmp_path)) == {".other.0123abcd.tmp", "state", ".state", "far"}
