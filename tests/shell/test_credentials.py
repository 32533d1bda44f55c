"""The file of stored keys: what goes in comes back here and now, and nowhere and never else."""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from groove_trio.rules.envelope import TESTS_ONLY, Machine
from groove_trio.shell import files
from groove_trio.shell.credentials import CredentialFile
from groove_trio.shell.machine import this_machine
from groove_trio.words.errors import (
    BadRequest,
    MachineChanged,
    SealBroken,
    UnknownCredential,
    UnsafeState,
)
from groove_trio.words.secret import Secret

HERE = Machine("laptop", "/home/ada", "0123456789abcdef0123456789abcdef")
VALUE = "sk-ant-api03-canary-0123456789"


def keeping(directory: Path, machine: Machine = HERE) -> CredentialFile:
    return CredentialFile(directory, TESTS_ONLY, lambda: machine)


@pytest.fixture
def file(tmp_path: Path) -> CredentialFile:
    """A file with one key."""
    made = keeping(tmp_path / "config")
    made.store("claude", None, Secret(VALUE))
    return made


def value_of(file: CredentialFile, provider: str = "claude") -> str:
    return file.reveal(provider)[1].reveal()


def test_a_key_comes_back_and_is_nowhere_in_the_clear(file: CredentialFile) -> None:
    assert value_of(file) == VALUE
    assert value_of(keeping(file.directory)) == VALUE  # another process, later
    whole = b"".join(path.read_bytes() for path in file.directory.iterdir())
    for form in (VALUE.encode(), VALUE.encode().hex().encode(), base64.b64encode(VALUE.encode())):
        assert form not in whole
    assert stat.S_IMODE(file.path.lstat().st_mode) == 0o600
    assert sorted(os.listdir(file.directory)) == ["credentials.json", "lock", "seed"]


def test_each_sealing_is_fresh(file: CredentialFile) -> None:
    first = file.records()[0]
    for _ in range(20):
        file.store("claude", None, Secret(VALUE))
        assert file.records()[0].iv != first.iv
        assert file.records()[0].data != first.data


def test_keys_are_replaced_and_removed_one_by_one(file: CredentialFile) -> None:
    file.store("codex", "OPENAI_API_KEY", Secret("sk-2"))
    file.store("claude", None, Secret("sk-3"))
    assert [each.provider for each in file.records()] == ["claude", "codex"]
    assert file.reveal("codex")[0].variable == "OPENAI_API_KEY"
    assert (value_of(file), value_of(file, "codex")) == ("sk-3", "sk-2")
    file.remove("claude")
    with pytest.raises(UnknownCredential):
        file.reveal("claude")
    with pytest.raises(UnknownCredential):
        file.remove("claude")
    assert value_of(file, "codex") == "sk-2"
    file.remove("codex")
    assert not file.path.exists()
    assert file.records() == ()


def test_there_is_a_bound_to_how_many(
    file: CredentialFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("groove_trio.shell.credentials.MAX_KEYS", 2)
    file.store("two", None, Secret("x"))
    with pytest.raises(BadRequest, match="the most"):
        file.store("three", None, Secret("x"))
    file.store("two", None, Secret("y"))
    assert value_of(file, "two") == "y"


@pytest.mark.parametrize(
    ("field", "told", "option"),
    [
        ("hostname", "hostname", "--old-hostname"),
        ("home", "home directory", "--old-home"),
        ("machine_id", "machine id", "--old-machine-id"),
    ],
)
def test_a_changed_ingredient_is_named_and_rebound(
    field: str, told: str, option: str, file: CredentialFile
) -> None:
    before = file.records()[0]
    moved = keeping(file.directory, HERE._replace(**{field: "other"}))
    with pytest.raises(MachineChanged, match=f"another {told}.*{option}") as caught:
        moved.reveal("claude")
    assert caught.value.fields["changed"] == [told]
    assert VALUE not in str(caught.value)
    with pytest.raises(MachineChanged):
        moved.store("codex", None, Secret("x"))
    with pytest.raises(MachineChanged, match="do not fit either"):
        moved.rebind(HERE._replace(**{field: "a third"}))
    moved.rebind(HERE)
    assert value_of(moved) == VALUE
    after = moved.records()[0]
    assert (after.set, after.variable) == (before.set, before.variable)
    assert after.at > before.at
    with pytest.raises(MachineChanged):
        keeping(file.directory).reveal("claude")


def test_all_that_changed_is_named(file: CredentialFile) -> None:
    elsewhere = keeping(file.directory, Machine("a", "b", ""))
    with pytest.raises(MachineChanged, match="hostname and home directory and machine id"):
        elsewhere.reveal("claude")
    assert elsewhere.remove("claude").provider == "claude"  # needs no key


def test_a_key_kept_in_memory_is_not_used_for_another_machine(tmp_path: Path) -> None:
    now = [HERE]
    file = CredentialFile(tmp_path / "config", TESTS_ONLY, lambda: now[0])
    file.store("claude", None, Secret(VALUE))
    assert value_of(file) == VALUE
    now[0] = HERE._replace(hostname="renamed while we run")
    with pytest.raises(MachineChanged):
        file.reveal("claude")
    keeping(file.directory, now[0]).rebind(HERE)  # by another process
    assert value_of(file) == VALUE


def test_a_copied_store_opens_nowhere_else(file: CredentialFile, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir(mode=0o700)
    (copy / "credentials.json").write_bytes(file.path.read_bytes())
    (copy / "credentials.json").chmod(0o600)
    with pytest.raises(SealBroken, match="seed beside it is missing"):
        keeping(copy).reveal("claude")
    with pytest.raises(UnsafeState, match="it is missing"):
        keeping(copy).store("claude", None, Secret("x"))
    other = keeping(tmp_path / "other")
    other.store("codex", None, Secret("x"))
    (copy / "seed").write_bytes((tmp_path / "other/seed").read_bytes())
    (copy / "seed").chmod(0o600)
    with pytest.raises(SealBroken, match="another seed"):
        keeping(copy).reveal("claude")
    (copy / "seed").write_bytes((file.directory / "seed").read_bytes())
    with pytest.raises(MachineChanged):
        keeping(copy, Machine("thief", "/home/ada", "f" * 32)).reveal("claude")


def test_what_tests_write_no_daemon_reads(file: CredentialFile) -> None:
    real = CredentialFile(file.directory, machine=lambda: HERE)
    with pytest.raises(SealBroken, match="parameters"):
        real.reveal("claude")


def test_every_prefix_is_refused_and_left_as_it_is(file: CredentialFile) -> None:
    whole = file.path.read_bytes()
    for length in range(len(whole)):
        file.path.write_bytes(whole[:length])
        for use in (
            file.records,
            lambda: file.reveal("claude"),
            lambda: file.remove("claude"),
        ):
            with pytest.raises(SealBroken, match="remove --all"):
                use()
        with pytest.raises(SealBroken):
            file.store("codex", None, Secret("x"))
        assert file.path.read_bytes() == whole[:length]
    file.path.write_bytes(whole)
    assert value_of(file) == VALUE


def test_what_is_broken_goes_by_discarding_it(file: CredentialFile) -> None:
    file.path.write_bytes(b"broken")
    (file.directory / "seed").unlink()
    assert file.discard()
    assert not file.discard()
    file.store("claude", None, Secret(VALUE))
    assert value_of(file) == VALUE


def test_a_file_too_large_is_refused(file: CredentialFile) -> None:
    file.path.write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(SealBroken, match="larger"):
        file.records()


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


def another_users(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: gives a file to another user")
    os.chown(path, 65534, 65534)


@pytest.mark.parametrize("spoil", [a_link, a_fifo, a_directory, for_the_group, another_users])
@pytest.mark.parametrize("which", ["credentials.json", "seed", "lock"])
def test_what_is_not_private_is_refused(
    which: str, spoil: Callable[[Path], None], file: CredentialFile
) -> None:
    spoil(file.directory / which)
    with pytest.raises(UnsafeState, match="not safe to use"):
        file.store("claude", None, Secret("x"))
    if which != "lock":
        with pytest.raises(UnsafeState, match="not safe to use"):
            file.reveal("claude")


def test_a_full_disk_leaves_the_old_keys(
    file: CredentialFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: bytes) -> None:
        os.write(descriptor, data[:50])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_all", full)
    for change in (
        lambda: file.store("codex", None, Secret("x")),
        lambda: file.rebind(HERE),
    ):
        with pytest.raises(OSError, match="No space"):
            change()
    monkeypatch.undo()
    assert value_of(file) == VALUE
    assert [each.provider for each in file.records()] == ["claude"]


def test_what_a_crash_left_is_cleared_by_the_next_change(file: CredentialFile) -> None:
    torn = file.directory / ".credentials.json.0a1b2c3d.tmp"
    torn.write_bytes(b"half")
    file.store("codex", None, Secret("x"))
    assert not torn.exists()


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    names = [f"p{number}" for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        for done in [
            pool.submit(keeping(tmp_path / "c").store, name, None, Secret(name)) for name in names
        ]:
            done.result()
    file = keeping(tmp_path / "c")
    assert {name: value_of(file, name) for name in names} == dict(zip(names, names, strict=True))


def test_this_machine_is_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    ids = [tmp_path / "none", tmp_path / "first", tmp_path / "second"]
    monkeypatch.setattr("groove_trio.shell.machine.MACHINE_ID_FILES", ids)
    assert this_machine() == Machine(os.uname().nodename, "/home/somebody", "")
    for nothing in ("", "uninitialized\n", "0123", "\u00fc"):
        ids[1].write_text(nothing, "utf-8")
        assert this_machine().machine_id == ""
    ids[2].write_text("0123456789abcdef0123456789abcdef\n")
    assert this_machine().machine_id == "0123456789abcdef0123456789abcdef"


def test_only_code_chooses_the_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CredentialFile(Path("x")).parameters.n == 2**17
    source = Path(__file__).parents[2] / "groove_trio"
    users = [path.name for path in source.rglob("*.py") if "TESTS_ONLY" in path.read_text("utf-8")]
    assert users == ["envelope.py"]
