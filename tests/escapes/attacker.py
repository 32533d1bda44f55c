"""What an agent's program runs in the escape suite: many attempts, each in a child of its own.

Standard library only; it is started as ``python -S -B attacker.py <world.json> <module>...``. Each
attempt is a function in one of the modules `calls`, `ways`, `beyond`. It returns if it got
through, and raises `OSError` if not; one line of JSON tells which, with the pid and the name that
the attempt went by, so that the audit log can be asked about it.

System calls are made by number, since libc would turn one into another.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import json
import os
import re
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

ATTEMPT_S = 20.0
"""For one attempt; each takes milliseconds. What takes longer is told as a failure of its own."""

PR_SET_NAME = 15
AT_FDCWD = -100

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.syscall.argtypes = (ctypes.c_long,) * 7
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)

Argument = int | bytes | ctypes.Array[Any] | None


def raw(number: int, *arguments: Argument) -> int:
    """Makes a system call of x86_64; bytes and arrays are passed by address.

    Raises:
        OSError: It failed.
    """
    kept = [ctypes.create_string_buffer(a) if isinstance(a, bytes) else a for a in arguments]
    words = [0 if a is None else a if isinstance(a, int) else ctypes.addressof(a) for a in kept]
    result: int = libc.syscall(number, *words, *(0,) * (6 - len(words)))
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


class At:
    """The furniture of one attempt: ``at("file")`` is the path of its file."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def __call__(self, name: str = "") -> bytes:
        return os.fsencode(f"{self.directory}/{name}".rstrip("/"))


Attempt = Callable[..., None]
ATTEMPTS: dict[str, tuple[Attempt, tuple[str, ...]]] = {}
WORLD: dict[str, Any] = {}


def attempt(name: str, *ways: str) -> Callable[[Attempt], Attempt]:
    """Registers an attempt.

    Its ways are ``in`` and ``out`` of the scope, both if left out; or ``bare``, if it needs no
    files. What stands before a colon in the name of a call is the system call to be held.
    """

    def register(function: Attempt) -> Attempt:
        assert name not in ATTEMPTS
        ATTEMPTS[name] = (function, ways or ("in", "out"))
        return function

    return register


def slug(name: str) -> str:
    """The directory of an attempt."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def main() -> None:
    """Makes the attempts of the modules named."""
    with open(sys.argv[1], encoding="utf-8") as file:
        WORLD.update(json.load(file))
    for module in sys.argv[2:]:
        importlib.import_module(module)
    for name, (function, ways) in ATTEMPTS.items():
        for way in ways:
            print(json.dumps(_tried(name, function, way)), flush=True)


def _tried(name: str, function: Attempt, way: str) -> dict[str, Any]:
    inside = At(f"{WORLD['inside']}/{slug(name)}.{way}")
    at = At(f"{WORLD['outside']}/{slug(name)}") if way == "out" else inside
    readable, writable = os.pipe()
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        told = "EIO"
        try:
            os.close(readable)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            raw(157, PR_SET_NAME, slug(name)[:15].encode())
            function(at, inside)
            told = "passed"
        except OSError as error:
            told = errno.errorcode.get(error.errno or 0, str(error.strerror))
        except BaseException as error:  # noqa: BLE001 - told to the test
            told = f"{error!r}"
        finally:
            os.write(writable, told.encode())
            os._exit(0)
    os.close(writable)
    told = _heard(readable, child)
    os.close(readable)
    took = round(time.monotonic() - start, 3)
    told_of = {"name": name, "way": way, "told": told, "pid": child, "took_s": took}
    return {**told_of, "tool": slug(name)[:15]}


def _heard(readable: int, child: int) -> str:
    end = time.monotonic() + ATTEMPT_S
    data = b""
    while select.select([readable], [], [], max(0.0, end - time.monotonic()))[0]:
        more = os.read(readable, 65_536)
        if not more:
            break
        data += more
    else:
        os.kill(child, signal.SIGKILL)
        data = b"hung"
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and not data:
        return signal.Signals(os.WTERMSIG(status)).name
    return data.decode() or "nothing"


if __name__ == "__main__":
    sys.modules["attacker"] = sys.modules["__main__"]
    main()
