"""Walks on a real file system, for a caller that is this process itself."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from groove_trio.rules.calls import CWD, EMPTY_PATH, Where
from groove_trio.shell.aside import unprivileged
from groove_trio.shell.caller import PAGE, Caller
from groove_trio.shell.reach import (
    MAX_LINKS,
    Absent,
    Later,
    Opened,
    Spot,
    of_descriptor,
    reach_name,
    reach_object,
    reach_path,
)
from groove_trio.words.base import MAX_PATH


@contextmanager
def refused(number: int) -> Iterator[None]:
    with pytest.raises(OSError, match=rf"\[Errno {number}\]"):
        yield


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT ROOT: not tested")


class Walker:
    """Says paths out of its own memory."""

    def __init__(self) -> None:
        self.caller = Caller(os.getpid())
        self.opened = Opened()
        self._kept: list[object] = []

    def where(self, path: str | os.PathLike[str], at: int = CWD, flags: int = 0) -> Where:
        text = ctypes.create_string_buffer(os.fsencode(path))
        self._kept.append(text)
        return Where(at, ctypes.addressof(text), flags)

    def object(self, path: str | os.PathLike[str], at: int = CWD, *, follow: bool = True) -> Spot:
        where = self.where(path, at)
        return self.walk(lambda caller: reach_object(caller, where, self.opened, follow=follow))

    def name(self, path: str | os.PathLike[str], at: int = CWD) -> Spot:
        where = self.where(path, at)
        return self.walk(lambda caller: reach_name(caller, where, self.opened))

    def walk(self, way: Callable[[Caller], Spot]) -> Spot:
        """As the gate has it walked: with what is at hand, and with all it takes else."""
        with unprivileged():
            try:
                return way(self.caller)
            except Later:
                return way(Caller(os.getpid(), patient=True))


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture
def walker() -> Iterator[Walker]:
    """Afterwards nothing is open that it opened."""
    before = descriptors()
    walker = Walker()
    yield walker
    walker.opened.close()
    assert descriptors() == before


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("src/deep", "docs"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "src/x").write_text("x")
    for name, target in {
        "src/to-x": "x",
        "src/to-docs": "../docs",
        "src/up": "..",
        "src/new": "../docs/fresh",
        "loop": "loop",
        "absolute": f"{tmp_path}/src/deep",
    }.items():
        (tmp_path / name).symlink_to(target)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("src/x", "src/x"),
        ("./src//x", "src/x"),
        ("src/to-x", "src/x"),
        ("src/deep/../x", "src/x"),
        ("src/up/src/to-docs", "docs"),
        ("src/to-docs/..", "."),
        ("absolute", "src/deep"),
        ("absolute/..", "src"),
        (".", "."),
        ("src/", "src"),
    ],
)
def test_objects_are_reached_as_the_kernel_would(
    said: str, meant: str, place: Path, walker: Walker
) -> None:
    for path in (said, f"{place}/{said}"):
        spot = walker.object(path)
        assert spot.path == os.path.normpath(place / meant)
        assert os.path.samestat(os.fstat(spot.itself), os.stat(place / meant))
        assert spot.mode == os.stat(place / meant).st_mode
        assert not spot.nameless


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("", errno.ENOENT),
        ("nothing/x", errno.ENOENT),
        ("src/x/y", errno.ENOTDIR),
        ("src/x/", errno.ENOTDIR),
        ("src/x/..", errno.ENOTDIR),
        ("loop", errno.ELOOP),
        ("loop/x", errno.ELOOP),
        ("n" * 256, errno.ENAMETOOLONG),
        ("./" * MAX_PATH, errno.ENAMETOOLONG),
        ("/proc/self/root/etc", errno.ELOOP),
        ("/proc/self/cwd/src", errno.ELOOP),
        ("/proc/1/fd/0", errno.EACCES),
    ],
)
def test_what_leads_nowhere_says_so(said: str, number: int, place: Path, walker: Walker) -> None:
    with refused(number):
        walker.object(said)


def test_where_nothing_is_the_place_is_told(place: Path, walker: Walker) -> None:
    for said, meant in (("src/new", "docs/fresh"), ("src/fresh", "src/fresh")):
        with pytest.raises(Absent) as absent:
            walker.object(said)
        spot = absent.value.spot
        assert (spot.path, spot.mode, spot.itself) == (str(place / meant), None, -1)
        assert os.path.samestat(os.fstat(spot.parent), os.stat((place / meant).parent))


def test_names_are_not_followed_not_even_before_a_slash(place: Path, walker: Walker) -> None:
    spot = walker.name("src/to-docs")
    assert (spot.path, spot.name, spot.slash) == (f"{place}/src/to-docs", "to-docs", False)
    assert spot.is_link
    spot = walker.name("src/to-docs/")
    assert (spot.path, spot.slash) == (f"{place}/src/to-docs", True)
    assert spot.is_link
    spot = walker.name("src/to-docs/fresh")
    assert (spot.path, spot.mode) == (f"{place}/docs/fresh", None)


@pytest.mark.parametrize(("said", "name"), [(".", "."), ("src/..", ".."), ("/", "/"), ("//", "/")])
def test_what_is_no_name_is_known_for_it(said: str, name: str, place: Path, walker: Walker) -> None:
    spot = walker.name(said)
    assert (spot.name, spot.is_name, spot.is_directory) == (name, False, True)
    assert spot.path == os.path.realpath(said)


def test_a_link_to_a_link_is_followed_forty_times(place: Path, walker: Walker) -> None:
    for number in range(MAX_LINKS + 1):
        (place / f"l{number + 1}").symlink_to(f"l{number}")
    with pytest.raises(Absent) as absent:
        walker.object(f"l{MAX_LINKS - 1}")
    assert absent.value.spot.path == f"{place}/l0"
    with refused(errno.ELOOP):
        walker.object(f"l{MAX_LINKS + 1}")


@pytest.mark.parametrize(
    "name", ["new\nline", "\udcff\udcfe", "nät", " ", "x (deleted)", "n" * 255]
)
def test_any_name_is_reached(name: str, place: Path, walker: Walker) -> None:
    (place / name).write_text("x")
    for spot in (walker.object(name), walker.name(name)):
        assert spot.path == f"{place}/{name}"
        assert not spot.nameless
    with open(name) as file:
        spot = of_descriptor(walker.caller, file.fileno(), walker.opened)
        assert (spot.path, spot.nameless) == (f"{place}/{name}", False)


def test_the_callers_own_descriptors_are_meant(place: Path, walker: Walker) -> None:
    directory = os.open("src", os.O_RDONLY)
    try:
        assert (walker.object("x", directory)).path == f"{place}/src/x"
        assert (walker.object(f"/proc/self/fd/{directory}")).path == f"{place}/src"
        assert (walker.object(f"/dev/fd/{directory}")).path == f"{place}/src"
        where = walker.where("", directory, EMPTY_PATH)
        spot = reach_object(walker.caller, where, walker.opened, follow=True)
        assert spot.path == f"{place}/src"
        assert (walker.object(f"/proc/self/fd/{directory}", follow=False)).is_link
    finally:
        os.close(directory)
    for missing in (directory, -1, 1 << 20):
        with refused(errno.EBADF):
            walker.object("x", missing)
    with pytest.raises(FileNotFoundError):
        walker.object(f"/proc/self/fd/{1 << 20}")


def test_another_process_of_the_daemons_is_not_the_callers(place: Path, walker: Walker) -> None:
    """`/proc/self` is met by the daemon; the caller is somebody else."""
    code = "import os, sys; os.open('src/x', 0); print(os.getpid(), flush=True); sys.stdin.read()"
    argv = [sys.executable, "-I", "-S", "-c", code]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        walker.caller.pid = int(child.stdout.readline())
        try:
            # What it says is read of its memory, so say it in ours.
            spots = [
                reach_path(walker.caller, CWD, path, walker.opened, follow=True)
                for path in ("/proc/self/fd/3", f"/proc/{child.pid}/fd/3", "/dev/fd/3")
            ]
            assert {spot.path for spot in spots} == {f"{place}/src/x"}
            with pytest.raises(PermissionError):
                reach_path(
                    walker.caller, CWD, f"/proc/{os.getppid()}/fd/0", walker.opened, follow=True
                )
        finally:
            child.stdin.close()


def test_what_was_removed_has_no_name(place: Path, walker: Walker) -> None:
    with open("src/x") as file:
        os.unlink("src/x")
        assert of_descriptor(walker.caller, file.fileno(), walker.opened).nameless
        assert (walker.object(f"/proc/self/fd/{file.fileno()}")).nameless
    reading, writing = os.pipe()
    try:
        assert of_descriptor(walker.caller, reading, walker.opened).nameless
    finally:
        os.close(reading)
        os.close(writing)


def test_a_file_that_lost_one_of_its_names_is_not_nameless(place: Path, walker: Walker) -> None:
    os.link("src/x", "docs/x")
    with open("src/x") as file:
        os.unlink("src/x")
        spot = of_descriptor(walker.caller, file.fileno(), walker.opened)
        assert (spot.path, spot.nameless) == (f"{place}/src/x", False)


def test_nothing_is_made_in_a_directory_that_was_removed(place: Path, walker: Walker) -> None:
    directory = os.open("docs", os.O_RDONLY)
    try:
        os.rmdir("docs")
        with pytest.raises(FileNotFoundError):
            walker.name("fresh", directory)
        with pytest.raises(FileNotFoundError):
            walker.object("fresh", directory)
    finally:
        os.close(directory)


def test_what_a_spot_is_of_stays_whatever_is_put_in_its_place(place: Path, walker: Walker) -> None:
    spot = walker.object("src/x")
    was = os.stat("src/x")
    os.rename("src/x", "src/gone")
    Path("src/x").symlink_to("../docs")
    assert os.path.samestat(os.fstat(spot.itself), was)
    name = walker.name("src/deep/fresh")
    os.rename("src/deep", "src/gone-deep")
    os.symlink("../docs", "src/deep")
    assert os.path.samestat(os.fstat(name.parent), os.stat("src/gone-deep"))


@as_root
def test_a_directory_that_its_owner_may_not_search_is_closed(place: Path, walker: Walker) -> None:
    os.chmod("src", 0o600)
    for reach in (walker.object, walker.name):
        with pytest.raises(PermissionError):
            reach("src/x")
        with pytest.raises(PermissionError):
            reach("src/deep/fresh")
    assert os.stat("src/x")  # whose capabilities are back


def test_texts_are_read_across_pages_and_no_further(walker: Walker) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    start = libc.mmap(None, 3 * PAGE, 3, 0x22, -1, 0)
    assert libc.munmap(start + 2 * PAGE, PAGE) == 0
    end = start + 2 * PAGE
    ctypes.memmove(end - PAGE - 3, b"across\0", 7)
    assert walker.caller.text(end - PAGE - 3) == "across"
    ctypes.memmove(end - 4, b"end\0", 4)
    assert walker.caller.text(end - 4) == "end"
    ctypes.memmove(end - 4, b"cut!", 4)
    for read in (lambda: walker.caller.text(end - 4), lambda: walker.caller.data(end - 4, 8)):
        with refused(errno.EFAULT):
            read()
    assert walker.caller.data(end - 4, 4) == b"cut!"
    for address in (0, 8, (1 << 64) - 8):
        with refused(errno.EFAULT):
            walker.caller.text(address)
    assert libc.munmap(start, 2 * PAGE) == 0


def test_what_a_descriptor_was_opened_with_is_told(place: Path, walker: Walker) -> None:
    file = os.open("src/x", os.O_PATH | os.O_CLOEXEC)
    try:
        assert walker.caller.flags(file) & os.O_PATH
    finally:
        os.close(file)
    with refused(errno.EBADF):
        walker.caller.flags(file)


def test_many_walks_leave_nothing_open(place: Path, walker: Walker) -> None:
    before = descriptors()
    for said in ("src/x", "src/to-x", "loop", "nothing", "src/new", "src/x/", "/proc/self/fd/0"):
        for reach in (walker.object, walker.name):
            try:
                spot = reach(said)
                assert spot.mode is None or stat.S_IFMT(spot.mode)
            except OSError:
                pass
            walker.opened.close()
    assert descriptors() == before
