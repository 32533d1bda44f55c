"""The same programs in front of any gate, each operation judged by a model of the scope language.

The model walks paths by itself, name by name, and asks `Scope` and the protected names. What it
grants is done as it is. What it denies is done, too, but by a thread that Landlock lets change
nothing: whatever error the kernel gives before it would ask is the result, and where the kernel
would have gone on it is a denial. So no error of the kernel's is written down here.

Where the gate is known to differ from the kernel, `Machine.differs` says how and why.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import queue
import stat
import struct
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))
import filework
from filework import FIRST_SLOT

from groove_trio.rules import landlock
from groove_trio.rules.protected import protected_by, protection, shields
from groove_trio.rules.scopes import Scope

OWN = ".groove/agents/0badcafe/tmp/"
MAX_LINKS = 40
MAX_PATH = 4096
METADATA = {"chmod", "lchmod", "utime", "setxattr", "removexattr"} | {
    "fchmod",
    "futime",
    "fsetxattr",
    "fremovexattr",
}
WRITE_INTENT = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC

_libc = ctypes.CDLL(None, use_errno=True)


class Place(NamedTuple):
    """Where a path leads; `mode` is None where nothing is, `path` None where there is no name."""

    path: str | None
    mode: int | None


class Denied(Exception):
    """An operation that no agent gets, with the error that it should meet."""

    def __init__(self, number: int) -> None:
        self.number = number


def walk(start: str, text: str, *, follow: bool) -> Place:
    """Realpath by hand, one name after the other; the last may be absent."""
    links = 0
    here = os.open("/" if text.startswith("/") else start, os.O_PATH)
    names = [name for name in text.split("/") if name]
    try:
        while names:
            name = names.pop(0)
            try:
                mode = os.lstat(name, dir_fd=here).st_mode
            except FileNotFoundError:
                if names or not os.fstat(here).st_nlink:
                    raise
                return Place(f"{_path(here).rstrip('/')}/{name}", None)
            if stat.S_ISLNK(mode) and (names or follow):
                links += 1
                if links > MAX_LINKS:
                    raise OSError(errno.ELOOP, "")
                if _path(here) == f"/proc/{os.getpid()}/fd":
                    return of_descriptor(int(name))
                target = os.readlink(name, dir_fd=here)
                if target.startswith("/"):
                    here = _instead(here, os.open("/", os.O_PATH))
                names = [name for name in target.split("/") if name] + names
            elif names or name == "..":
                flags = os.O_PATH | os.O_DIRECTORY
                here = _instead(here, os.open(name, flags, dir_fd=here))
            elif name != ".":
                return Place(f"{_path(here).rstrip('/')}/{name}", mode)
        return Place(_path(here), os.fstat(here).st_mode)
    finally:
        os.close(here)


def _path(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")


def _instead(old: int, new: int) -> int:
    os.close(old)
    return new


def of_descriptor(number: int) -> Place:
    """What a descriptor means."""
    told = os.fstat(number)
    path = os.readlink(f"/proc/self/fd/{number}")
    named = path.startswith("/") and told.st_nlink > 0
    return Place(path if named else None, told.st_mode)


class Locked(threading.Thread):
    """A thread that shares everything with the others, and may change no file."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.asked: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.given: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run(self) -> None:
        _restrict()
        _lay_aside()
        while True:
            self.given.put(self.asked.get()())

    def do(self, function: Any) -> Any:
        self.asked.put(function)
        return self.given.get()


class Machine(filework.Machine):
    """Judges each step before it is done."""

    scope: Scope
    locked: Locked

    def run(self, step: list[Any]) -> list[Any]:
        known = self.differs(*step)
        if known is not None:
            return known
        try:
            self.judge(*step)
        except OSError as fault:  # the kernel will find the same; if not, the results differ
            if step[0] in METADATA:
                return ["no", errno.errorcode[fault.errno or 0]]
            return self.locked.do(lambda: filework.Machine.run(self, step))
        except Denied as denied:
            if step[0] in METADATA:  # which Landlock knows nothing of
                return ["no", errno.errorcode[denied.number]]
            result = self.fail(step)
            if result[0] == "no" and result[1] not in {"EACCES", "EXDEV"}:
                return result
            return ["no", errno.errorcode[denied.number]]
        return super().run(step)

    def fail(self, step: list[Any]) -> list[Any]:
        """Does what is denied where it cannot be done, to see what else is wrong with it."""
        if step[0] != "open":
            return self.locked.do(lambda: filework.Machine.run(self, step))
        # What asks about more than Landlock does: descriptors for ioctls, and O_TRUNC of a FIFO,
        # which does nothing. It may get a descriptor, so into a slot that nobody knows.
        if step[4] & os.O_ACCMODE == os.O_ACCMODE:
            step = [*step[:4], step[4] & ~os.O_WRONLY, *step[5:]]
        aside = [step[0], filework.SLOTS, *step[2:]]
        result = self.locked.do(lambda: filework.Machine.run(self, aside))
        if result[0] == "ok":
            os.close(FIRST_SLOT + filework.SLOTS)
        return result

    def differs(self, name: str, *arguments: Any) -> list[Any] | None:
        """What the gate answers on purpose in another way than the kernel."""
        flags = arguments[3] if name == "open" else 0
        if flags & os.O_TMPFILE == os.O_TMPFILE and not flags & os.O_PATH:
            return [
                "no",
                errno.errorcode[errno.EOPNOTSUPP],
            ]  # a file without a name could be given any
        return None

    # What is asked, by name of the step

    def judge(self, name: str, *arguments: Any) -> None:
        getattr(self, f"judge_{name}", lambda *_: None)(*arguments)

    def judge_open(self, slot: int, at: int | None, text: str, flags: int, mode: int) -> None:
        if not flags & WRITE_INTENT or flags & os.O_PATH:
            return
        fresh = flags & os.O_EXCL and flags & os.O_CREAT
        place = self.find(at, text, follow=not (flags & os.O_NOFOLLOW or fresh), must=False)
        if place.path != "/dev/null" and (
            place.mode is None or flags & (os.O_ACCMODE | os.O_TRUNC)
        ):
            if place.mode is not None and stat.S_ISSOCK(place.mode):
                raise Denied(errno.ENXIO)  # which is not asked about: nobody can open it
            self.ask(place)

    def judge_truncate(self, text: str, length: int) -> None:
        self.ask(self.find(None, text))

    def judge_mkdir(self, at: int | None, text: str, mode: int) -> None:
        place = self.name(at, text)
        name = self.inside(place)
        if not name or protected_by(name) is not None or not self.scope.reaches(f"{name}/"):
            self.ask(place)

    def judge_mknod(self, at: int | None, text: str, mode: int) -> None:
        self.ask(self.name(at, text))

    def judge_symlink(self, target: str, at: int | None, text: str) -> None:
        self.ask(self.name(at, text))

    def judge_unlink(self, at: int | None, text: str) -> None:
        self.ask_to_remove(self.name(at, text), errno.EISDIR, directory=False)

    def judge_rmdir(self, at: int | None, text: str) -> None:
        self.ask_to_remove(self.name(at, text), errno.ENOTDIR, directory=True)

    def ask_to_remove(self, place: Place, otherwise: int, *, directory: bool) -> None:
        if place.mode is not None and stat.S_ISDIR(place.mode) != directory:
            # Landlock is asked before the kernel sees that; the gate after: it is no denial.
            raise Denied(otherwise)
        if not directory or shields(self.inside(place)) is None:
            self.ask(place)
        elif not self.scope.matches(self.inside(place)):
            raise Denied(errno.EACCES)

    def judge_rename(self, at: int | None, old: str, to: int | None, new: str, flags: int) -> None:
        places = self.name(at, old), self.name(to, new)
        self.on_one_disk(*places)
        for place in places:
            self.ask(place)
            self.ask_beneath(place)

    def on_one_disk(self, *places: Place) -> None:
        disks = {os.stat(os.path.dirname(place.path or "/")).st_dev for place in places}
        if len(disks) > 1:
            raise OSError(errno.EXDEV, "")

    def judge_link(self, at: int | None, old: str, to: int | None, new: str, follow: bool) -> None:
        places = self.find(at, old, follow=follow), self.name(to, new)
        self.on_one_disk(*places)
        for place in places:
            self.ask(place)

    def judge_chmod(self, at: int | None, text: str, mode: int) -> None:
        self.ask(self.find(at, text))

    def judge_lchmod(self, at: int | None, text: str, mode: int) -> None:
        self.ask(self.find(at, text, follow=False))

    def judge_utime(self, at: int | None, text: str, ns: int, follow: bool) -> None:
        self.ask(self.find(at, text, follow=follow))

    def judge_setxattr(self, text: str, name: str, value: str, flags: int, follow: bool) -> None:
        self.ask(self.find(None, text, follow=follow))

    def judge_removexattr(self, text: str, name: str, follow: bool) -> None:
        self.ask(self.find(None, text, follow=follow))

    def judge_fchmod(self, slot: int, *_: Any) -> None:
        if fcntl.fcntl(FIRST_SLOT + slot, fcntl.F_GETFL) & os.O_PATH:
            raise OSError(errno.EBADF, "")  # it only stands for a name
        self.ask(of_descriptor(FIRST_SLOT + slot))

    judge_futime = judge_fsetxattr = judge_fremovexattr = judge_fchmod

    # Where it is, and whether it may be

    def start(self, at: int | None) -> str:
        place = "/proc/self/cwd" if at is None else f"/proc/self/fd/{FIRST_SLOT + at}"
        try:
            told = os.stat(place)
        except FileNotFoundError:
            raise OSError(errno.EBADF, "") from None
        if not stat.S_ISDIR(told.st_mode):
            raise OSError(errno.ENOTDIR, "")
        return place

    def read(self, text: str) -> str:
        """The path that the kernel is given, before it looks at anything else."""
        text = self.path(text)
        if not text or len(os.fsencode(text)) >= MAX_PATH:
            raise OSError(errno.ENAMETOOLONG if text else errno.ENOENT, "")
        return text

    def find(self, at: int | None, text: str, *, follow: bool = True, must: bool = True) -> Place:
        """What is there; a slash says that it is a directory, and has a link followed."""
        text = self.read(text)
        start = "/" if text.startswith("/") else self.start(at)
        slash = text.endswith(("/", "/.", "/..")) or text in {".", ".."}
        place = walk(start, text, follow=follow or slash)
        if place.mode is None and must:
            raise OSError(errno.ENOENT, "")
        if slash and place.mode is not None and not stat.S_ISDIR(place.mode):
            raise OSError(errno.ENOTDIR, "")
        return place

    def name(self, at: int | None, text: str) -> Place:
        """A name, whatever is there."""
        text = self.read(text)
        return walk("/" if text.startswith("/") else self.start(at), text, follow=False)

    def ask(self, place: Place) -> None:
        """Whether the scope holds it.

        Raises:
            Denied: It does not.
        """
        if place.path is None:
            return
        name = self.inside(place)
        if name.startswith(OWN):
            return
        if not name or not self.scope.matches(name) or protection(name) is not None:
            raise Denied(errno.EROFS if name.startswith(".groove/") else errno.EACCES)

    def inside(self, place: Place) -> str:
        """Its name in the project, if it is inside and not the project itself."""
        path = place.path or ""
        return path[len(self.root) + 1 :] if path.startswith(f"{self.root}/") else ""

    def ask_beneath(self, place: Place) -> None:
        """Whether a protected name lies in a directory that goes as a whole."""
        if place.path is None or place.mode is None or not stat.S_ISDIR(place.mode):
            return
        for above, directories, files in os.walk(place.path):
            inner = above[len(place.path) + 1 :]
            for each in (*directories, *files):
                if protection(f"{inner}/{each}" if inner else each) is not None:
                    hidden = place.path.startswith(f"{self.root}/.groove/")
                    raise Denied(errno.EROFS if hidden else errno.EACCES)


def _restrict(*places: str) -> None:
    """Lets this thread change files in these places only, and those it starts."""
    handled = landlock.WRITING | landlock.MAKE_CHAR | landlock.MAKE_BLOCK
    attribute = struct.pack("=Q", handled)
    ruleset = _libc.syscall(444, attribute, len(attribute), 0)
    for place in places:
        rights = landlock.WRITING if os.path.isdir(place) else landlock.WRITE_FILE
        descriptor = os.open(place, os.O_PATH)
        rule = struct.pack("=Qi", rights, descriptor)
        assert _libc.syscall(445, ruleset, 1, rule, 0) == 0
        os.close(descriptor)
    _libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS, of this thread
    assert ruleset >= 0
    assert _libc.syscall(446, ruleset, 0) == 0
    os.close(ruleset)


def _lay_aside() -> None:
    """Drops this thread's capabilities, which nothing behind a gate has."""
    assert _libc.capset(struct.pack("=II", 0x20080522, 0), bytes(24)) == 0


if __name__ == "__main__":
    place, *patterns = sys.argv[1:]
    _lay_aside()
    _restrict(place, "/dev/null")  # should the model ever be wrong, its own tree is all it has
    Machine.scope = Scope(patterns)
    Machine.locked = Locked()
    Machine.locked.start()
    filework.serve(Machine)
