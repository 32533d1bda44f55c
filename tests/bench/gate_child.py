"""What is watched while `bench_gate` takes the time; and ways to be watched.

Runs as an isolated interpreter without trio: ``python -I -S gate_child.py KIND ...``:

- ``existing COUNT``, ``create COUNT``, ``read COUNT``, ``whole COUNT``,
  ``tree DIRECTORIES FILES``, ``flat-out SECONDS``: works in the current directory and says how
  long it took, in one line of JSON.
- ``held SOCKET KIND ...``: first has the kernel hold its calls, by the filter that comes over the
  socket, and gives the listener away.
- ``traced FILTER KIND ...``: first lets its parent trace it, stopped by the filter in a file.
"""

from __future__ import annotations

import array
import ctypes
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable

_libc = ctypes.CDLL(None, use_errno=True)
_SECCOMP = 317 if os.uname().machine == "x86_64" else 277
_NO_NEW_PRIVS, _TRACE_ME = 38, 0
_NEW_LISTENER = 8


def timed(count: int, one: Callable[[int], object]) -> None:
    """Does something so many times and says what one took."""
    for number in range(20):
        one(-1 - number)
    begin = time.perf_counter()
    for number in range(count):
        one(number)
    took = time.perf_counter() - begin
    print(f'{{"each_us": {took / count * 1e6:.3f}, "took_s": {took:.6f}}}', flush=True)


def existing(count: int) -> None:
    os.close(os.open("it", os.O_WRONLY | os.O_CREAT, 0o600))
    timed(count, lambda _: os.close(os.open("it", os.O_WRONLY)))


def create(count: int) -> None:
    run = f"{os.getpid()}-{time.monotonic_ns()}"
    os.mkdir(run)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    timed(count, lambda number: os.close(os.open(f"{run}/{number}", flags, 0o600)))


def read(count: int) -> None:
    os.close(os.open("it", os.O_WRONLY | os.O_CREAT, 0o600))
    timed(count, lambda _: os.close(os.open("it", os.O_RDONLY)))


def whole(count: int) -> None:
    """A source file, read as programs read one."""
    with open("source", "wb") as file:
        file.write(b"x" * 8192)

    def one(_: int) -> None:
        with open("source", "rb") as file:
            file.read()

    timed(count, one)


def tree(directories: int, files: int) -> None:
    """As an installer: directories, files that get their content and mode, links, renames."""
    base = f"tree-{os.getpid()}"
    os.mkdir(base)
    content = b"x" * 3000

    def one(number: int) -> None:
        if number < 0:
            return
        place = f"{base}/{number % directories}"
        if number < directories:
            os.mkdir(place)
        with open(f"{place}/{number}.part", "wb") as file:
            file.write(content)
        if number % 10 == 0:
            os.chmod(f"{place}/{number}.part", 0o755)
        os.rename(f"{place}/{number}.part", f"{place}/{number}")
        sum(range(20_000))  # an installer unpacks and compares

    timed(files, one)


def flat_out(seconds: int) -> None:
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        os.close(os.open(f"f{count % 100}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        count += 1
    print(f'{{"count": {count}}}', flush=True)


def install(code: bytes, flags: int) -> int:
    program = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("=HxxxxxxQ", len(code) // 8, ctypes.addressof(program))
    _libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    listener: int = _libc.syscall(_SECCOMP, 1, flags, ctypes.create_string_buffer(header))
    assert listener >= 0, os.strerror(ctypes.get_errno())
    return listener


def held(number: str, *rest: str) -> None:
    link = socket.socket(fileno=int(number))
    listener = install(link.recv(65536), _NEW_LISTENER)
    kind = socket.SCM_RIGHTS
    link.sendmsg([b"x"], [(socket.SOL_SOCKET, kind, array.array("i", [listener]))])
    os.close(listener)
    assert link.recv(1)
    link.close()
    main(*rest)


def traced(place: str, *rest: str) -> None:
    with open(place, "rb") as file:
        code = file.read()
    _libc.ptrace(_TRACE_ME, 0, 0, 0)
    os.kill(os.getpid(), signal.SIGSTOP)
    if code:
        install(code, 0)
    main(*rest)


def main(kind: str, *rest: str) -> None:
    if kind in {"held", "traced"}:
        {"held": held, "traced": traced}[kind](*rest)
    else:
        kinds: dict[str, Callable[..., None]] = {
            "existing": existing,
            "create": create,
            "read": read,
            "whole": whole,
            "tree": tree,
            "flat-out": flat_out,
        }
        kinds[kind](*(int(each) for each in rest))


if __name__ == "__main__":
    main(*sys.argv[1:])
