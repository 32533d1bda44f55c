"""Races: what a call means is changed while it is looked at. Ten thousand rounds in all.

Names are changed by `flipper`, an unconfined process, which is worse than any agent; memory and
descriptors by what shares them with the caller. Every round may fail, or do its work inside; none
may reach the files outside.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import mmap
import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator

from attacker import WORLD, At, attempt, raw

ROUNDS = 400
"""Ten thousand in all."""

STILL = f"{WORLD.get('inside')}/still"
"""Tells `flipper` that it has done enough."""

TIMES = struct.pack("=qqqq", 1, 0, 2, 0)
FLIPPED = "races: "


def rounds(function: Callable[[], object]) -> None:
    """Makes the rounds, and sees to it that some of them did something."""
    passed = 0
    for _ in range(ROUNDS):
        with contextlib.suppress(OSError):
            function()
            passed += 1
    if passed == 0 and WORLD["level"] == "gate":
        raise OSError(5, "no round did anything")


def write(path: bytes | int | ctypes.Array[ctypes.c_char], flags: int = os.O_WRONLY) -> None:
    descriptor = raw(2, path, flags, 0o644)
    os.write(descriptor, b"hacked")
    os.close(descriptor)


# Links and directories that somebody else turns about, all the time

for _name, _do in {
    "open": write,
    "open to create": lambda path: write(path, os.O_WRONLY | os.O_CREAT),
    "truncate": lambda path: raw(76, path, 3),
    "chmod": lambda path: raw(90, path, 0o666),
    "utime": lambda path: raw(235, path, TIMES),
    "setxattr": lambda path: raw(188, path, b"user.raced", b"x", 1, 0),
}.items():
    attempt(f"{FLIPPED}a link, {_name}", "out")(
        lambda _a, inside, do=_do: rounds(lambda: do(inside("turning")))
    )


@attempt(f"{FLIPPED}a directory, open", "out")
def _(_at: At, inside: At) -> None:
    rounds(lambda: write(inside("turned/file"), os.O_WRONLY | os.O_CREAT))


@attempt(f"{FLIPPED}a directory, names in it", "out")
def _(_at: At, inside: At) -> None:
    def once() -> None:
        with contextlib.suppress(OSError):
            raw(83, inside("turned/new"), 0o755)
        with contextlib.suppress(OSError):
            raw(82, inside("turned/other"), inside("turned/moved"))
        with contextlib.suppress(OSError):
            raw(82, inside("turned/moved"), inside("turned/other"))
        raw(84, inside("turned/new"))

    rounds(once)


@attempt(f"{FLIPPED}a directory, descriptors of it", "out")
def _(_at: At, inside: At) -> None:
    def once() -> None:
        place = os.open(inside("turned"), os.O_PATH)
        try:
            os.close(raw(257, place, b"file", os.O_WRONLY | os.O_TRUNC, 0))
        finally:
            os.close(place)

    rounds(once)


# Memory


@contextlib.contextmanager
def turning(*texts: bytes) -> Iterator[ctypes.Array[ctypes.c_char]]:
    """Memory in which now one text stands, now the other; another process sees to it."""
    with open(STILL, "wb"):
        shared = mmap.mmap(-1, 4096)
    buffer = (ctypes.c_char * 4096).from_buffer(shared)
    kept = [ctypes.create_string_buffer(text + b"\0", 512) for text in texts]
    places = [ctypes.addressof(each) for each in kept]
    here = ctypes.addressof(buffer)
    ctypes.memmove(here, places[0], 512)
    child = os.fork()
    if child == 0:
        os.nice(10)  # the caller and the gate come first, so that there is something to disturb
        while True:
            for place in places:
                ctypes.memmove(here, place, 512)
    try:
        yield buffer
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


for _name, _call in {
    "open": write,
    "truncate": lambda path: raw(76, path, 3),
    "chmod": lambda path: raw(90, path, 0o666),
    "setxattr": lambda path: raw(188, path, b"user.raced", b"x", 1, 0),
}.items():

    @attempt(f"{FLIPPED}a path in memory, {_name}", "out")
    def _(
        at: At, inside: At, call: Callable[[ctypes.Array[ctypes.c_char]], object] = _call
    ) -> None:
        with turning(inside("file"), at("file")) as path:
            rounds(lambda: call(path))


@attempt(f"{FLIPPED}a path in memory, link", "out")
def _(at: At, inside: At) -> None:
    def once() -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(inside("got"))
        raw(86, path, inside("got"))
        write(inside("got"))

    with turning(inside("file"), at("file")) as path:
        rounds(once)


def _own(at: At, kind: bytes) -> None:
    """A place where the caller may make the call itself, and one where it may not."""
    with turning(kind, at("file")) as path:
        rounds(lambda: write(path, os.O_WRONLY | os.O_CREAT))


@attempt(f"{FLIPPED}its own directory", "out")
def _(at: At, _: At) -> None:
    _own(at, os.fsencode(os.environ["TMPDIR"]) + b"/mine")


@attempt(f"{FLIPPED}a device", "out")
def _(at: At, _: At) -> None:
    _own(at, b"/dev/null")


@attempt(f"{FLIPPED}a pipe", "out")
def _(at: At, _: At) -> None:
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    _own(at, b"/proc/self/fd/%d" % writable)
    os.close(readable)


@attempt(f"{FLIPPED}a place only", "out")
def _(at: At, _: At) -> None:
    with turning(b"/dev/null", at("new")) as path:
        rounds(lambda: os.close(raw(2, path, os.O_RDONLY | os.O_CREAT, 0o644)))


def _inet(port: int) -> bytes:
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, b"\x7f\0\0\1")


@attempt(f"{FLIPPED}an address, connect", "out")
def _(_at: At, inside: At) -> None:
    os.chdir(inside())
    good = socket.socket(socket.AF_UNIX)
    good.bind("good")
    good.listen(ROUNDS)
    addresses = [struct.pack("=H", 1) + name for name in (b"good", b"../../at/bus")]

    def once() -> None:
        with socket.socket(socket.AF_UNIX) as mine:
            mine.setblocking(False)
            raw(42, mine.fileno(), path, 20)

    with turning(*addresses) as path:
        rounds(once)


@attempt(f"{FLIPPED}an address, bind", "out")
def _(at: At, _: At) -> None:
    os.chdir(at())
    turns = itertools.count()

    def once() -> None:
        with socket.socket(socket.AF_UNIX) as mine, socket.socket() as other:
            number = os.dup(other.fileno())
            turner = threading.Thread(target=lambda: os.dup2(mine.fileno(), number))
            if next(turns) % 2:  # every other round it stays what it is
                turner.start()
            try:
                raw(49, number, path, 16)
            finally:
                if turner.ident is not None:
                    turner.join()
                os.close(number)

    with turning(_inet(0), struct.pack("=H", 1) + b"new") as path:
        rounds(once)


# Descriptors


@contextlib.contextmanager
def numbered(*paths: bytes) -> Iterator[int]:
    """A descriptor's number that now means one file, now the other; a thread sees to it."""
    files = [os.open(path, os.O_RDONLY) for path in paths]
    number = os.dup(files[0])
    over = threading.Event()

    def turn() -> None:
        while not over.is_set():
            for file in files:
                os.dup2(file, number)

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        yield number
    finally:
        over.set()
        thread.join()


for _name, _act in {
    "chmod": lambda number: raw(91, number, 0o666),
    "utime": lambda number: raw(280, number, None, TIMES, 0),
    "setxattr": lambda number: raw(190, number, b"user.raced", b"x", 1, 0),
    "ioctl": lambda number: raw(16, number, 0x401C5820, struct.pack("=IIIII8x", 0x80, 0, 0, 0, 0)),
    "open": lambda number: write(b"/proc/self/fd/%d" % number),
}.items():

    @attempt(f"{FLIPPED}a descriptor, {_name}", "out")
    def _(at: At, inside: At, act: Callable[[int], object] = _act) -> None:
        with numbered(inside("file"), at("file")) as number:
            rounds(lambda: act(number))


sys.setswitchinterval(0.00001)  # else the threads take turns of 5 ms
