"""A program of file operations, run one after the other; what each gives is what it says.

Run as a script it takes programs on its standard input, a JSON text a line, and answers each
with a line of results. It imports nothing but the standard library, so that it runs anywhere,
behind a gate and in front of it.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import stat
import sys
from contextlib import suppress
from typing import Any

CWD = -100
LINK_FOLLOW = 0x400
FCHMODAT2 = 452  # the same on both architectures
TOLD_FLAGS = os.O_ACCMODE | os.O_APPEND | os.O_SYNC | os.O_NOATIME
SLOTS = 4
FIRST_SLOT = 40  # descriptors have the same numbers everywhere

_libc = ctypes.CDLL(None, use_errno=True)


class Machine:
    """What a program works with: a root, a few descriptors, a directory and a mask."""

    def __init__(self, root: str) -> None:
        self.root = root
        os.chdir(root)
        os.umask(0o022)

    def close_all(self) -> None:
        os.closerange(FIRST_SLOT, FIRST_SLOT + SLOTS)
        os.chdir("/")

    def path(self, text: str) -> str:
        return text.replace("{root}", self.root)

    def at(self, slot: int | None) -> int:
        return CWD if slot is None else FIRST_SLOT + slot

    def run(self, step: list[Any]) -> list[Any]:
        name, *arguments = step
        try:
            return ["ok", getattr(self, f"do_{name}")(*arguments)]
        except OSError as fault:
            return ["no", errno.errorcode[fault.errno or 0]]

    # What may be asked for

    def do_open(self, slot: int, at: int | None, text: str, flags: int, mode: int) -> list[Any]:
        with suppress(OSError):
            told = os.stat(self.path(text), dir_fd=self._dir(at))
            if stat.S_ISFIFO(told.st_mode):
                flags |= os.O_NONBLOCK  # nobody else would come
        found = os.open(self.path(text), flags, mode, dir_fd=self._dir(at))
        if found != FIRST_SLOT + slot:
            os.dup2(found, FIRST_SLOT + slot)
            os.close(found)
        return self._told(FIRST_SLOT + slot)

    do_opendir = do_open

    def _told(self, descriptor: int) -> list[Any]:
        import fcntl

        told = os.fstat(descriptor)
        size = 0 if stat.S_ISDIR(told.st_mode) else told.st_size
        return [told.st_mode, size, fcntl.fcntl(descriptor, fcntl.F_GETFL) & TOLD_FLAGS]

    def do_close(self, slot: int) -> None:
        os.close(FIRST_SLOT + slot)

    def do_write(self, slot: int, text: str) -> int:
        return os.write(FIRST_SLOT + slot, text.encode())

    def do_pread(self, slot: int) -> str:
        return os.pread(FIRST_SLOT + slot, 100, 0).decode()

    def do_ftruncate(self, slot: int, length: int) -> None:
        os.ftruncate(FIRST_SLOT + slot, length)

    def do_fchmod(self, slot: int, mode: int) -> None:
        os.fchmod(FIRST_SLOT + slot, mode)

    def do_futime(self, slot: int, ns: int) -> None:
        os.utime(FIRST_SLOT + slot, ns=(ns, ns))

    def do_fsetxattr(self, slot: int, name: str, value: str, flags: int) -> None:
        os.setxattr(FIRST_SLOT + slot, name, value.encode(), flags)

    def do_fremovexattr(self, slot: int, name: str) -> None:
        os.removexattr(FIRST_SLOT + slot, name)

    def do_truncate(self, text: str, length: int) -> None:
        self._check(_libc.truncate(self._name(text), ctypes.c_long(length)))

    def do_mkdir(self, at: int | None, text: str, mode: int) -> None:
        os.mkdir(self.path(text), mode, dir_fd=self._dir(at))

    def do_mknod(self, at: int | None, text: str, mode: int) -> None:
        os.mknod(self.path(text), mode, dir_fd=self._dir(at))

    def do_symlink(self, target: str, at: int | None, text: str) -> None:
        os.symlink(self.path(target), self.path(text), dir_fd=self._dir(at))

    def do_unlink(self, at: int | None, text: str) -> None:
        os.unlink(self.path(text), dir_fd=self._dir(at))

    def do_rmdir(self, at: int | None, text: str) -> None:
        os.rmdir(self.path(text), dir_fd=self._dir(at))

    def do_rename(self, at: int | None, old: str, to: int | None, new: str, flags: int) -> None:
        if flags or at is not None or to is not None:
            at_fd, to_fd = self.at(at), self.at(to)
            done = _libc.renameat2(at_fd, self._name(old), to_fd, self._name(new), flags)
            self._check(done)
        else:
            os.rename(self.path(old), self.path(new))

    def do_link(self, at: int | None, old: str, to: int | None, new: str, follow: bool) -> None:
        flags = LINK_FOLLOW if follow else 0
        done = _libc.linkat(self.at(at), self._name(old), self.at(to), self._name(new), flags)
        self._check(done)

    def do_chmod(self, at: int | None, text: str, mode: int) -> None:
        os.chmod(self.path(text), mode, dir_fd=self._dir(at))

    def do_lchmod(self, at: int | None, text: str, mode: int) -> None:
        done = _libc.syscall(FCHMODAT2, self.at(at), self._name(text), mode, 0x100)
        self._check(done)

    def do_utime(self, at: int | None, text: str, ns: int, follow: bool) -> None:
        os.utime(self.path(text), ns=(ns, ns), dir_fd=self._dir(at), follow_symlinks=follow)

    def do_setxattr(self, text: str, name: str, value: str, flags: int, follow: bool) -> None:
        os.setxattr(self.path(text), name, value.encode(), flags, follow_symlinks=follow)

    def do_removexattr(self, text: str, name: str, follow: bool) -> None:
        os.removexattr(self.path(text), name, follow_symlinks=follow)

    def do_umask(self, mask: int) -> int:
        return os.umask(mask)

    def do_chdir(self, text: str) -> None:
        os.chdir(self.path(text))

    def do_fchdir(self, slot: int) -> None:
        os.fchdir(FIRST_SLOT + slot)

    def _dir(self, at: int | None) -> int | None:
        return None if at is None else FIRST_SLOT + at

    def _name(self, text: str) -> bytes:
        return os.fsencode(self.path(text))

    def _check(self, done: int) -> None:
        if done < 0:
            raise OSError(ctypes.get_errno(), "")


def serve(machine: type[Machine]) -> None:
    """Runs each program that comes; the end of the input is the end."""
    for line in sys.stdin:
        root, steps = json.loads(line)
        works = machine(root)
        results = [works.run(step) for step in steps]
        works.close_all()
        sys.stdout.write(json.dumps(results) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve(Machine)
