"""A disk that fails, and that forgets on a power cut what nobody had synced.

It is a real directory, so that the product's own calls do the work; beside it stands a model of
what a disk would still have. Of a file, that is what was there at its last sync, and a random
part of what came after. Of the names in a directory, it is those there were when the directory
was last synced, and a random part of what was done to them since, in its order.
"""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

Mood = Literal["well", "full", "failing"]

P_FULL = 0.7  # how often a full disk refuses; now and then something is deleted
P_FAILING = 0.6


class PowerCut(BaseException):
    """The process died in this call; nothing that it does afterwards reaches the disk."""


class Disk:
    """What stands behind a directory.

    Args:
        root: The directory; nothing outside is touched.
        chance: Decides.
        note: Told each call that changes something.

    Attributes:
        mood: How it takes what it is asked.
        slow_s: The longest that a job in a thread takes before and after its work.
        fuse: After how many calls the process dies; None for never.
        dead: Whether it has died.
        died: Called when it does.
    """

    def __init__(self, root: Path, chance: random.Random, note: Callable[[str], None]) -> None:
        self.root = root
        self.mood: Mood = "well"
        self.slow_s = 0.0
        self.fuse: int | None = None
        self.dead = False
        self.died: Callable[[], None] = lambda: None
        self._chance = chance
        self._note = note
        self._prefix = f"{root}/"
        self._aside = root.with_name(root.name + ".aside")
        self._aside.mkdir()
        self._kept = 0
        self._synced: dict[int, int] = {}  # bytes of a file that are on disk; by inode
        self._undo: dict[str, list[Callable[[], Any]]] = {}  # names changed since a sync
        self.real = {name: getattr(os, name) for name in _CALLS} | {"rmtree": shutil.rmtree}

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Stands between the product and the system's calls."""
        for name in _CALLS:
            patch.setattr(os, name, getattr(self, name))
        patch.setattr(shutil, "rmtree", self.rmtree)

    def delay_s(self) -> float:
        """How long a job waits for its turn, or for its answer."""
        return self._chance.choice((0.0, 0.001, self._chance.random() * self.slow_s))

    # The end of a process

    def die(self) -> None:
        """Ends the process: no later call has an effect."""
        if not self.dead:
            self.dead = True
            self.died()

    def settle(self) -> None:
        """All that is there is on disk."""
        self._synced.clear()
        self._undo.clear()

    def revive(self) -> None:
        """The next process finds the disk as the last one left it."""
        self.dead, self.fuse, self.mood, self.slow_s = False, None, "well", 0.0

    def cut_power(self) -> None:
        """Forgets what a machine forgets that loses its power."""
        for directory in sorted(self._undo, key=lambda name: (-name.count("/"), name)):
            undo = self._undo[directory]
            kept = self._chance.randint(0, len(undo))
            for job in reversed(undo[kept:]):
                try:
                    job()
                except OSError:  # went with a directory above it
                    continue
        for path in sorted(path for path in self.root.rglob("*") if path.is_file()):
            status = path.stat()
            synced = self._synced.get(status.st_ino, status.st_size)
            share = self._chance.choice((0.0, self._chance.random(), 1.0))
            if synced < status.st_size:
                size = synced + int((status.st_size - synced) * share)
                self._note(f"lost {self._name(path)} {status.st_size} -> {size}")
                os.truncate(path, size)
        self.settle()

    # The calls

    def open(self, path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        name = os.fspath(path)
        if not self._ours(name) or not flags & os.O_CREAT or os.path.lexists(name):
            return self.real["open"](path, flags, mode, **more)  # type: ignore[no-any-return]

        def make() -> int:
            descriptor = self.real["open"](path, flags, mode, **more)
            self._synced[os.fstat(descriptor).st_ino] = 0
            self._changed(name, lambda: self.real["unlink"](name))
            return descriptor  # type: ignore[no-any-return]

        return self._do("make", name, make)

    def write(self, descriptor: int, data: Any) -> int:
        name = self._behind(descriptor)
        if not self._ours(name):
            return self.real["write"](descriptor, data)  # type: ignore[no-any-return]
        if self._about_to_die():
            part = int(len(data) * self._chance.random())
            if part:
                self._write(descriptor, data[:part])
            self._burn(name)
        part = len(data)
        if self.mood != "well":
            if self._chance.random() < P_FULL:
                raise self._fault(name, errno.ENOSPC if self.mood == "full" else errno.EIO)
            part = max(1, int(part * self._chance.random()))  # a short write
        self._note(f"write {self._name(name)} {part} of {len(data)}")
        return self._write(descriptor, data[:part])

    def pwrite(self, descriptor: int, data: Any, offset: int) -> int:
        return self._do(  # type: ignore[no-any-return]
            "pwrite",
            self._behind(descriptor),
            lambda: self.real["pwrite"](descriptor, data, offset),
        )

    def ftruncate(self, descriptor: int, size: int) -> None:
        def cut() -> None:
            self.real["ftruncate"](descriptor, size)
            inode = os.fstat(descriptor).st_ino
            if inode in self._synced:
                self._synced[inode] = min(self._synced[inode], size)

        if not self._ours(self._behind(descriptor)):
            return cut()
        if self.dead:
            raise PowerCut
        return cut()  # giving room back needs none

    def fsync(self, descriptor: int) -> None:
        name = self._behind(descriptor)
        if self._ours(name):
            self._do("sync", name, lambda: self._sync(descriptor, name), failing=True)

    fdatasync = fsync

    def mkdir(self, path: Any, mode: int = 0o777, **more: Any) -> None:
        name = os.fspath(path)
        if not self._ours(name) or os.path.lexists(name):
            return self.real["mkdir"](path, mode, **more)  # type: ignore[no-any-return]

        def make() -> None:
            self.real["mkdir"](path, mode, **more)
            self._changed(name, lambda: self.real["rmtree"](name))

        return self._do("mkdir", name, make)

    def rename(self, source: Any, target: Any, **more: Any) -> None:
        before, after = os.fspath(source), os.fspath(target)
        if not self._ours(after) or not os.path.lexists(before):
            return self.real["rename"](source, target, **more)  # type: ignore[no-any-return]

        def move() -> None:
            kept = self._keep(after) if os.path.lexists(after) else None
            self.real["rename"](before, after)

            def back() -> None:
                self.real["rename"](after, before)
                if kept is not None:
                    self.real["rename"](kept, after)

            self._changed(after, back)

        return self._do("rename", after, move, failing=True)

    replace = rename

    def unlink(self, path: Any, **more: Any) -> None:
        name = os.fspath(path)
        if not self._ours(name) or not os.path.lexists(name):
            return self.real["unlink"](path, **more)  # type: ignore[no-any-return]

        def remove() -> None:
            kept = self._keep(name)
            self.real["unlink"](name)
            self._changed(name, lambda: self.real["rename"](kept, name))

        if self.dead:
            raise PowerCut
        return remove()  # giving room back needs none

    def rmtree(self, path: Any, *arguments: Any, **more: Any) -> None:
        name = os.fspath(path)
        if not self._ours(name) or not os.path.lexists(name):
            return self.real["rmtree"](path, *arguments, **more)  # type: ignore[no-any-return]

        def remove() -> None:
            kept = self._place()
            self.real["rename"](name, kept)
            self._changed(name, lambda: self.real["rename"](kept, name))

        if self.dead:
            raise PowerCut
        return remove()

    # What they share

    def _do(self, what: str, name: str, work: Callable[[], Any], *, failing: bool = False) -> Any:
        if not self._ours(name):
            return work()
        if self._about_to_die():
            if self._chance.random() < 0.5:
                work()
            self._burn(name)
        if self.mood == "full" and not failing and self._chance.random() < P_FULL:
            raise self._fault(name, errno.ENOSPC)
        if self.mood == "failing" and self._chance.random() < P_FAILING:
            raise self._fault(name, errno.EIO)
        self._note(f"{what} {self._name(name)}")
        return work()

    def _about_to_die(self) -> bool:
        if self.dead:
            raise PowerCut
        if self.fuse is not None:
            self.fuse -= 1
        return self.fuse == 0

    def _burn(self, name: str) -> None:
        self._note(f"died at {self._name(name)}")
        self.die()
        raise PowerCut

    def _fault(self, name: str, number: int) -> OSError:
        self._note(f"{errno.errorcode[number]} {self._name(name)}")
        return OSError(number, os.strerror(number))

    def _write(self, descriptor: int, data: Any) -> int:
        status = os.fstat(descriptor)
        self._synced.setdefault(status.st_ino, status.st_size)
        return self.real["write"](descriptor, data)  # type: ignore[no-any-return]

    def _sync(self, descriptor: int, name: str) -> None:
        status = os.fstat(descriptor)
        self._synced.pop(status.st_ino, None)
        self._undo.pop(name, None)  # of a directory

    def _changed(self, name: str, undo: Callable[[], Any]) -> None:
        self._undo.setdefault(os.path.dirname(name), []).append(undo)

    def _place(self) -> str:
        self._kept += 1
        return f"{self._aside}/{self._kept}"

    def _keep(self, name: str) -> str:
        kept = self._place()
        os.link(name, kept, follow_symlinks=False)
        return kept

    def _ours(self, name: Any) -> bool:
        return isinstance(name, str) and f"{name}/".startswith(self._prefix)

    def _behind(self, descriptor: int) -> str:
        return os.readlink(f"/proc/self/fd/{descriptor}")

    def _name(self, path: Any) -> str:
        return _HASH.sub("<log>", str(path).removeprefix(self._prefix))


_HASH = re.compile("[0-9a-f]{32}")  # of where the log is, which is another place each time
_CALLS = (
    "open",
    "write",
    "pwrite",
    "ftruncate",
    "fsync",
    "fdatasync",
    "mkdir",
    "rename",
    "replace",
    "unlink",
)
