"""What is performed on descriptors gives what the caller would have got by itself."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from groove_trio.rules.calls import CWD
from groove_trio.shell import perform
from groove_trio.shell.aside import unprivileged
from groove_trio.shell.caller import Caller
from groove_trio.shell.reach import Opened, Spot, of_copy, reach_path


@contextmanager
def refused(number: int) -> Iterator[None]:
    with pytest.raises(OSError, match=rf"\[Errno {number}\]"):
        yield


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT ROOT: not tested")


class Spots:
    """Finds spots beneath a directory."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.opened = Opened()

    def name(self, name: str) -> Spot:
        caller = Caller(os.getpid())
        return reach_path(caller, CWD, f"{self.place}/{name}", self.opened, follow=False)

    def object(self, name: str) -> Spot:
        flags = os.O_PATH | os.O_NOFOLLOW
        return of_copy(self.opened.keep(os.open(self.place / name, flags)))


@pytest.fixture
def spots(tmp_path: Path) -> Iterator[Spots]:
    """Afterwards nothing is open that was opened."""
    before = set(os.listdir("/proc/self/fd"))
    spots = Spots(tmp_path)
    yield spots
    spots.opened.close()
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.fixture(params=[0o022, 0o077, 0])
def our_umask(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Whatever mask the daemon has, files get the caller's."""
    before = os.umask(request.param)
    monkeypatch.setattr(perform, "OUR_UMASK", perform.umask())
    assert request.param == perform.OUR_UMASK
    yield request.param
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


MASKS = [
    (0o666, 0, 0o666),
    (0o666, 0o022, 0o644),
    (0o777, 0o077, 0o700),
    (0o4755, 0o022, 0o4755),
    (0o777, 0o777, 0),
    (0o606, 0o002, 0o604),
]


@pytest.mark.parametrize(("mode", "mask", "left"), MASKS)
def test_the_callers_mask_is_what_counts(
    mode: int, mask: int, left: int, spots: Spots, our_umask: int
) -> None:
    file = perform.open_new(spots.name("file"), os.O_WRONLY, mode, mask)
    os.close(file)
    perform.make_directory(spots.name("directory"), mode, mask)
    perform.make_node(spots.name("fifo"), stat.S_IFIFO | mode, 0, mask)
    assert mode_of(spots.place / "file") == left
    assert mode_of(spots.place / "directory") == left & 0o1777
    assert mode_of(spots.place / "fifo") == left
    assert perform.umask() == our_umask


def test_what_is_made_where_the_group_is_inherited_inherits_it(
    spots: Spots, our_umask: int
) -> None:
    os.chmod(spots.place, 0o2775)
    perform.make_directory(spots.name("directory"), 0o777, 0)
    assert mode_of(spots.place / "directory") == 0o2777
    os.close(perform.open_new(spots.name("file"), os.O_WRONLY, 0o666, 0))
    assert mode_of(spots.place / "file") == 0o666
    assert os.stat(spots.place / "file").st_gid == os.stat(spots.place).st_gid


@pytest.mark.parametrize(
    "flags",
    [
        os.O_WRONLY,
        os.O_RDWR,
        os.O_RDWR | os.O_APPEND,
        os.O_WRONLY | os.O_NONBLOCK,
        os.O_WRONLY | os.O_SYNC,
        os.O_RDWR | os.O_DSYNC | os.O_NOATIME | os.O_APPEND,
    ],
)
def test_a_descriptor_has_the_flags_that_were_asked_for(flags: int, spots: Spots) -> None:
    new = perform.open_new(spots.name("x"), flags | os.O_CREAT, 0o600, 0)
    itself = os.open(spots.place / "x", flags)
    again = perform.open_existing(spots.object("x"), flags | os.O_CREAT | os.O_NOCTTY)
    try:
        wanted = fcntl.fcntl(itself, fcntl.F_GETFL)
        for descriptor in (new, again):
            assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~os.O_NOFOLLOW == wanted
            assert os.get_inheritable(descriptor) is False
    finally:
        for descriptor in (new, itself, again):
            os.close(descriptor)


def test_an_open_truncates_if_told_so_and_only_then(spots: Spots) -> None:
    (spots.place / "x").write_text("12345")
    os.close(perform.open_existing(spots.object("x"), os.O_WRONLY))
    assert (spots.place / "x").read_text() == "12345"
    os.close(perform.open_existing(spots.object("x"), os.O_WRONLY | os.O_TRUNC))
    assert (spots.place / "x").read_text() == ""
    perform.truncate(spots.object("x"), 3)
    assert (spots.place / "x").read_bytes() == b"\0\0\0"


def test_a_fifo_without_a_reader_is_not_waited_for(spots: Spots) -> None:
    os.mkfifo(spots.place / "fifo")
    with refused(errno.ENXIO):
        perform.open_existing(spots.object("fifo"), os.O_WRONLY)
    reading = os.open(spots.place / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    writing = perform.open_existing(spots.object("fifo"), os.O_WRONLY)
    try:
        assert os.get_blocking(writing)  # though it was opened without waiting
    finally:
        os.close(reading)
        os.close(writing)


def test_a_lease_is_not_waited_for(spots: Spots) -> None:
    (spots.place / "x").write_text("")
    with open(spots.place / "x") as file:
        before = signal.signal(signal.SIGIO, signal.SIG_IGN)
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            with pytest.raises(BlockingIOError):
                perform.open_existing(spots.object("x"), os.O_WRONLY)
        finally:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            signal.signal(signal.SIGIO, before)


def test_what_is_there_by_now_is_not_opened_as_new(spots: Spots) -> None:
    outside = spots.place / "outside"
    outside.write_text("secret")
    for there in ("file", "link", "dangling"):
        spot = spots.name(f"new-{there}")
        {
            "file": lambda path: path.write_text("theirs"),
            "link": lambda path: path.symlink_to(outside),
            "dangling": lambda path: path.symlink_to("nowhere"),
        }[there](spots.place / f"new-{there}")
        with pytest.raises(FileExistsError):
            perform.open_new(spot, os.O_WRONLY | os.O_TRUNC, 0o600, 0)
    assert outside.read_text() == "secret"
    assert not (spots.place / "nowhere").exists()


def test_a_swapped_name_is_not_worked_on(spots: Spots) -> None:
    """A name that was a file and is a link by now: of another kind, so nothing is done."""
    outside = spots.place / "outside"
    outside.mkdir(mode=0o700)
    spot = spots.name("x")
    (spots.place / "x").write_text("")
    spot.mode = os.lstat(spots.place / "x").st_mode
    os.unlink(spots.place / "x")
    (spots.place / "x").symlink_to(outside)
    for act in (
        lambda: perform.change_mode(spot, 0o777),
        lambda: perform.set_attribute(spot, b"user.a", b"", 0),
        lambda: perform.remove_attribute(spot, b"user.a"),
    ):
        with pytest.raises(PermissionError):
            act()
    assert mode_of(outside) == 0o700


def test_names_are_moved_linked_and_removed(spots: Spots) -> None:
    place = spots.place
    (place / "a").write_text("a")
    (place / "b").write_text("b")
    (place / "to-a").symlink_to("a")
    with pytest.raises(FileExistsError):
        perform.rename(spots.name("a"), spots.name("b"), 1)
    perform.rename(spots.name("a"), spots.name("b"), 2)
    assert ((place / "a").read_text(), (place / "b").read_text()) == ("b", "a")
    perform.rename(spots.name("a"), spots.name("c\n\udcff"), 0)
    assert os.listdir(os.fsencode(place)).count(b"c\n\xff") == 1
    perform.link(spots.object("b"), spots.name("hard"))
    assert os.stat(place / "hard").st_nlink == 2
    perform.link(spots.object("to-a"), spots.name("second"))
    assert os.readlink(place / "second") == "a"
    perform.symlink("b", spots.name("third"))
    assert (place / "third").read_text() == "a"
    perform.remove(spots.name("third"), directory=False)
    assert (place / "b").exists()
    assert not os.path.lexists(place / "third")
    perform.make_directory(spots.name("d"), 0o755, 0)
    with pytest.raises(IsADirectoryError):
        perform.remove(spots.name("d"), directory=False)
    perform.remove(spots.name("d"), directory=True)


def test_what_is_told_of_a_file_is_changed_and_of_a_link_as_the_kernel_does(
    spots: Spots,
) -> None:
    place = spots.place
    (place / "x").write_text("")
    (place / "link").symlink_to("x")
    perform.change_mode(spots.object("x"), 0o640)
    assert mode_of(place / "x") == 0o640
    with refused(errno.EOPNOTSUPP):
        perform.change_mode(spots.object("link"), 0o600)
    perform.change_times(spots.object("x"), struct.pack("=qqqq", 5, 6, 7, 8))
    perform.change_times(spots.object("link"), struct.pack("=qqqq", 1, 2, 3, 4))
    assert os.stat(place / "x").st_mtime_ns == 7 * 10**9 + 8
    assert os.lstat(place / "link").st_mtime_ns == 3 * 10**9 + 4
    perform.change_times(spots.object("x"), None)
    assert os.stat(place / "x").st_mtime > 1e9
    perform.change_owner(spots.object("x"), -1, os.getegid())


def test_attributes_are_set_and_removed(spots: Spots) -> None:
    file = spots.place / "x"
    file.write_text("")
    try:
        os.setxattr(file, "user.b", b"")
    except OSError:
        pytest.skip("NO ATTRIBUTES on this file system: not tested")
    perform.set_attribute(spots.object("x"), b"user.a", b"v", os.XATTR_CREATE)
    assert os.getxattr(file, "user.a") == b"v"
    with pytest.raises(FileExistsError):
        perform.set_attribute(spots.object("x"), b"user.a", b"v", os.XATTR_CREATE)
    perform.remove_attribute(spots.object("x"), b"user.a")
    assert os.listxattr(file) == ["user.b"]


def test_a_socket_is_bound_and_reached_through_descriptors(spots: Spots) -> None:
    deep = spots.place / ("d" * 200)  # too long for an address, if it were said as it is
    deep.mkdir()
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        perform.bind_path(listener.fileno(), spots.name(f"{deep.name}/s"), 0o077)
        assert mode_of(deep / "s") == 0o700
        listener.listen()
        perform.connect_path(client.fileno(), spots.object(f"{deep.name}/s"))
        with listener.accept()[0] as accepted:
            client.send(b"x")
            assert accepted.recv(1) == b"x"


def test_no_device_is_made_without_the_capability(spots: Spots) -> None:
    spot = spots.name("null")
    with pytest.raises(PermissionError), unprivileged():
        perform.make_node(spot, stat.S_IFCHR | 0o600, os.makedev(1, 3), 0)


def capabilities() -> str:
    status = Path(f"/proc/self/task/{threading.get_native_id()}/status").read_text()
    return next(line for line in status.splitlines() if line.startswith("CapEff"))


@as_root
def test_a_file_that_only_capabilities_open_is_closed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s")
    os.chmod(secret, 0o600)
    os.chown(secret, 65534, 65534)
    before = capabilities()
    descriptor = os.open(secret, os.O_PATH)
    spot = of_copy(descriptor)
    try:
        for act in (
            lambda: perform.open_existing(spot, os.O_WRONLY),
            lambda: perform.truncate(spot, 0),
            lambda: perform.change_mode(spot, 0o666),
            lambda: perform.change_owner(spot, 0, 0),
            lambda: perform.change_times(spot, bytes(32)),
        ):
            with pytest.raises(PermissionError), unprivileged():
                act()
            assert capabilities() == before
        with unprivileged():
            assert capabilities() != before
    finally:
        os.close(descriptor)
    assert secret.read_text() == "s"
    assert os.stat(secret).st_uid == 65534
    secret.write_text("capabilities are back")


@as_root
def test_another_thread_keeps_its_capabilities_meanwhile(tmp_path: Path) -> None:
    told: list[str] = []
    before = capabilities()
    with unprivileged():
        inner = threading.Thread(target=lambda: told.append(capabilities()))
    inner.start()
    inner.join()
    assert told == [before]
