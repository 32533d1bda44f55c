"""The user's own directory and seed: made once, only ever read, and never guessed."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import platformdirs
import pytest

from groove_trio.shell import files, private, seed
from groove_trio.shell.private import config_directory, locked
from groove_trio.shell.seed import load_seed, read_seed
from groove_trio.words.errors import Busy, UnsafeState


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_directory_follows_xdg_and_must_be_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert config_directory() == tmp_path / "groove-trio"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert config_directory() == tmp_path / "home" / ".config" / "groove-trio"
    monkeypatch.setenv("XDG_CONFIG_HOME", "here")  # ignored, as its specification asks
    assert config_directory().is_absolute()


def test_no_directory_is_taken_that_depends_on_where_one_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def homeless(*_: object, **__: object) -> Path:
        raise RuntimeError("no home")

    for answer in (lambda *_, **__: Path("here"), homeless):
        monkeypatch.setattr(platformdirs, "user_config_path", answer)
        with pytest.raises(UnsafeState, match="XDG_CONFIG_HOME"):
            config_directory()


def test_seed_is_made_once_with_its_mode_and_then_read(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "groove-trio"
    assert read_seed(directory) is None
    assert not directory.exists()
    before = os.umask(0)
    try:
        made = load_seed(directory)
    finally:
        os.umask(before)
    assert len(made) == 32
    assert len(set(made)) > 1
    assert mode_of(directory) == 0o700
    assert mode_of(directory / "seed") == 0o600
    assert mode_of(directory / "lock") == 0o600
    assert load_seed(directory) == read_seed(directory) == made == (directory / "seed").read_bytes()
    assert sorted(os.listdir(directory)) == ["lock", "seed"]
    assert load_seed(tmp_path / "other") != made


def test_many_at_once_get_the_same_seed(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(load_seed, [tmp_path / "threads"] * 32))) == 1
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        assert len(set(pool.map(load_seed, [tmp_path / "processes"] * 4))) == 1


def test_every_prefix_of_a_seed_is_refused_and_left(tmp_path: Path) -> None:
    whole = load_seed(tmp_path / "d")
    path = tmp_path / "d" / "seed"
    for length in (*range(32), 33, 4096):
        damaged = (whole * 128)[:length]
        path.write_bytes(damaged)
        with pytest.raises(UnsafeState, match="bytes, not 32") as caught:
            load_seed(tmp_path / "d")
        assert whole.hex()[:16] not in str(caught.value)
        assert path.read_bytes() == damaged
    path.write_bytes(whole)
    assert load_seed(tmp_path / "d") == whole


def test_seed_of_one_byte_repeated_is_refused(tmp_path: Path) -> None:
    load_seed(tmp_path / "d")
    (tmp_path / "d" / "seed").write_bytes(bytes(32))
    with pytest.raises(UnsafeState, match="same byte"):
        load_seed(tmp_path / "d")


def a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir(0o700)


def for_the_group(path: Path) -> None:
    path.chmod(0o640)


def for_all(path: Path) -> None:
    path.chmod(0o604)


SPOILT = [a_link, a_fifo, a_directory, for_the_group, for_all]


@pytest.mark.parametrize("spoil", SPOILT)
def test_what_is_not_a_private_file_is_refused(
    spoil: Callable[[Path], None], tmp_path: Path
) -> None:
    load_seed(tmp_path / "d")
    spoil(tmp_path / "d" / "seed")
    with pytest.raises(UnsafeState, match="not safe to use"):
        load_seed(tmp_path / "d")
    with pytest.raises(UnsafeState, match="not safe to use"):
        read_seed(tmp_path / "d")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives a file to another user")
@pytest.mark.parametrize("what", ["d", "d/seed"])
def test_what_another_user_owns_is_refused(what: str, tmp_path: Path) -> None:
    load_seed(tmp_path / "d")
    os.chown(tmp_path / what, 65534, 65534)
    with pytest.raises(UnsafeState, match="belongs to user 65534"):
        load_seed(tmp_path / "d")


def test_directory_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir(0o755)
    with pytest.raises(UnsafeState, match="0755"):
        load_seed(tmp_path / "d")
    (tmp_path / "link").symlink_to("d")
    with pytest.raises(UnsafeState, match="symbolic link"):
        load_seed(tmp_path / "link")


def test_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnsafeState, match="can't be made"):
        load_seed(tmp_path / "file" / "groove-trio")


def test_no_new_seed_beside_what_a_lost_one_sealed(tmp_path: Path) -> None:
    load_seed(tmp_path / "d")
    (tmp_path / "d" / "seed").unlink()
    (tmp_path / "d" / "credentials.json").write_text("{}")
    with pytest.raises(UnsafeState, match="it is missing"):
        load_seed(tmp_path / "d")
    assert not (tmp_path / "d" / "seed").exists()


def test_seed_cut_short_by_a_full_disk_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: bytes) -> None:
        os.write(descriptor, data[:7])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_all", full)
    with pytest.raises(UnsafeState, match="No space left"):
        load_seed(tmp_path / "d")
    assert os.listdir(tmp_path / "d") == ["lock"]
    monkeypatch.undo()
    assert len(load_seed(tmp_path / "d")) == 32


def test_lock_keeps_others_out_and_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private, "LOCK_WAIT_S", 0.02)
    with locked(tmp_path / "d"), pytest.raises(Busy, match="lsof"), locked(tmp_path / "d"):
        pass
    with locked(tmp_path / "d"):
        pass
    with (tmp_path / "d" / "lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_seed_module_makes_no_directory_to_read(tmp_path: Path) -> None:
    assert seed.read_seed(tmp_path / "none") is None
    assert os.listdir(tmp_path) == []
