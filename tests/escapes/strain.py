"""What an agent may do to itself while it is held, and must not be able to do to the daemon."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable

from attacker import WORLD, At, attempt, libc, raw

MANY = 1000


def _in_child(function: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            function()
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 1)
        finally:
            os._exit(99)
    return child


@attempt("no descriptor left", "in")
def _(at: At, _: At) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    for _ in range(MANY):
        try:
            raw(2, at("file"), os.O_WRONLY, 0)
        except OSError as error:
            if error.errno != 24:  # EMFILE
                raise
        else:
            raise AssertionError("there was one")


@attempt("killed while held", "in")
def _(at: At, _: At) -> None:
    def once() -> None:
        while True:
            os.mkdir(at("new"))
            os.rmdir(at("new"))

    for number in range(100):
        child = _in_child(once)
        time.sleep(0.0005 * (number % 10))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with contextlib.suppress(FileNotFoundError):  # what it was granted may yet be done
            os.rmdir(at("new"))


@attempt("a thousand threads", "in")
def _(at: At, _: At) -> None:
    done: list[int] = []
    threading.stack_size(65_536)

    def go(number: int) -> None:
        os.mkdir(at(f"new{number}"))
        done.append(number)

    threads = [threading.Thread(target=go, args=(number,)) for number in range(MANY)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(done) != MANY:
        raise OSError(5, f"{MANY - len(done)} failed")


@attempt("a thousand threads that are denied", "out")
def _(at: At, _: At) -> None:
    passed: list[int] = []
    threading.stack_size(65_536)

    def go(number: int) -> None:
        try:
            os.mkdir(at(f"new{number}"))
            passed.append(number)
        except PermissionError:
            pass

    threads = [threading.Thread(target=go, args=(number,)) for number in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not passed:
        raise OSError(13, "all")


@attempt("descriptors closed while held", "in")
def _(at: At, _: At) -> None:
    number = os.open(at(), os.O_RDONLY)
    over = threading.Event()

    def turn() -> None:
        while not over.is_set():
            os.close(number)
            again = os.open(at(), os.O_RDONLY)
            if again != number:
                os.dup2(again, number)
                os.close(again)

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        for each in range(300):
            with contextlib.suppress(OSError):
                raw(258, number, b"new%d" % each, 0o755)
    finally:
        over.set()
        thread.join()


@attempt("connecting what is no socket", "in")
def _(at: At, _: At) -> None:
    file = os.open(at("file"), os.O_RDONLY)
    for _ in range(MANY):
        try:
            raw(42, file, b"\1\0x", 3)
        except OSError as error:
            if error.errno != 88:  # ENOTSOCK
                raise
    for _ in range(100):
        with socket.socket(socket.AF_UNIX) as mine, contextlib.suppress(FileNotFoundError):
            mine.connect(at("nothing")[-100:])


@attempt("nobody who reads", "in")
def _(at: At, _: At) -> None:
    os.mkfifo(at("fifo"))
    children = [_in_child(lambda: os.close(os.open(at("fifo"), os.O_WRONLY))) for _ in range(50)]
    time.sleep(0.2)
    os.mkdir(at("meanwhile"))
    for child in children[:25]:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    reader = os.open(at("fifo"), os.O_RDONLY | os.O_NONBLOCK)
    for child in children[25:]:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code:
            raise OSError(code, "a writer")
    os.close(reader)


@attempt("a gate that may not look", "in")
def _(at: At, _: At) -> None:
    libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: its memory is nobody's business
    if os.getuid() == 0:
        os.mkdir(at("new"))
        return
    try:
        os.mkdir(at("new"))
    except PermissionError:
        return
    raise AssertionError("without a look")


@attempt("memory that nobody answers for", "bare")
def _(_at: At, _: At) -> None:
    fault = os.open("/dev/userfaultfd", os.O_RDONLY | os.O_CLOEXEC)
    made = raw(16, fault, 0xAA00, 0)
    raw(16, made, 0xC018AA3F, ctypes.create_string_buffer(b"\xaa" + bytes(23)))


@attempt("its own root process", "in")
def _(at: At, _: At) -> None:
    """Ends in the middle of a call, with the parent still there to tell."""
    child = _in_child(lambda: os.kill(os.getpid(), signal.SIGKILL))
    os.waitpid(child, 0)
    os.mkdir(at("new"))


assert WORLD is not None
