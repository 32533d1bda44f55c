"""What this kernel holds an agent with, found out by trying.

Versions say little: a container's own filter may refuse what the kernel has, an administrator may
have closed ptrace, and where somebody else's listener is installed already there is no second
one. So a sandbox is made once, around a program that opens a file to write, and the gate's own
means are used on it: its memory is read, a descriptor fetched and another handed over. Only
where that fails is it asked what is missing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from dataclasses import dataclass

import trio

from groove_trio.rules import bpf, landlock
from groove_trio.rules.calls import CWD
from groove_trio.rules.landlock import Ruleset
from groove_trio.rules.syscalls import Architecture
from groove_trio.shell.caller import Caller
from groove_trio.shell.census import Census
from groove_trio.shell.process import Tree
from groove_trio.shell.sandbox import Confinement, Listening, open_confined
from groove_trio.shell.seccomp import Notification, Notifications
from groove_trio.words.agents import Containment
from groove_trio.words.base import AgentId
from groove_trio.words.errors import GrooveError

PROBE = AgentId("probe000")
"""The agent that the program of the probe belongs to; ids that are given out are hexadecimal."""

PROBE_S = 10.0
"""How long, in seconds, each try may take; it takes a tenth of one."""

_ALL: tuple[Containment, ...] = ("gate", "wall", "hooks")
_CREATE_RULESET, _VERSION = 444, 1  # landlock_create_ruleset(2), LANDLOCK_CREATE_RULESET_VERSION
_WRITE = "import os; os.close(os.open('/dev/null', os.O_WRONLY))"
_PATH_ARGUMENT = 1  # of openat
_OPENAT2 = 437


@dataclass(frozen=True, slots=True)
class Kernel:
    """What agents can be held with here.

    Attributes:
        levels: The levels of containment that there are, the strongest first.
        missing: For each other level, what is missing, in words that continue "it needs".
        lacking: What is not held although Landlock is there, in words.
        landlock: The version of Landlock's interface, 0 without.
    """

    levels: tuple[Containment, ...]
    missing: dict[Containment, str]
    lacking: tuple[str, ...]
    landlock: int

    def told(self) -> list[str]:
        """What is missing, a sentence each; empty on a kernel that has all."""
        return [
            *(f"{level} is not available: it needs {why}" for level, why in self.missing.items()),
            *(f"gate and wall do not hold {what}" for what in self.lacking),
        ]


def architecture() -> Architecture | None:
    """This machine's architecture; None if there is no filter for it."""
    machine = platform.machine()
    if sys.maxsize >> 32 == 0 or sys.byteorder != "little":
        return None
    return "x86_64" if machine == "x86_64" else "aarch64" if machine == "aarch64" else None


def landlock_version() -> int:
    """The version of Landlock's interface that the kernel answers with; 0 without Landlock."""
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    none = ctypes.c_void_p(None)
    version: int = syscall(ctypes.c_long(_CREATE_RULESET), none, ctypes.c_size_t(0), _VERSION)
    return max(0, version)


async def probe(census: Census) -> Kernel:
    """Tries what this kernel has. Runs one or two short programs in trees of `census`."""
    machine, version = architecture(), landlock_version()
    missing: dict[Containment, str] = {}
    if machine is None:
        missing["gate"] = missing["wall"] = f"x86_64 or aarch64, not {platform.machine()}"
    elif version == 0:
        missing["gate"] = missing["wall"] = "Landlock in the kernel (Linux 5.13, CONFIG_LSM)"
    else:
        handled = landlock.handled(version)
        ruleset = Ruleset(handled, landlock.scoped(version), (("/", handled),))
        fault = await _tried(census, ruleset, bpf.program(machine, notify=True), notify=True)
        if fault is not None:
            missing["gate"] = fault
            fault = await _tried(census, ruleset, bpf.program(machine, notify=False), notify=False)
        if fault is not None:
            missing["wall"] = fault
    levels: list[Containment] = [level for level in _ALL if level not in missing]
    return Kernel(tuple(levels), missing, landlock.lacking(version), version)


async def _tried(census: Census, ruleset: Ruleset, program: bytes, *, notify: bool) -> str | None:
    """Makes a sandbox and uses it; None if it works, else what is missing."""
    means = _Means()
    with trio.move_on_after(PROBE_S):
        async with trio.open_nursery() as nursery:

            async def listening(_: Tree, listener: int) -> None:
                nursery.start_soon(means.answer, listener)
                await trio.lowlevel.checkpoint()

            told = await _run(census, Confinement(ruleset, program, notify), listening)
        return means.missing or told
    return f"a sandbox that is made within {PROBE_S:g} s"


async def _run(census: Census, confinement: Confinement, listening: Listening) -> str | None:
    try:
        confined = await open_confined(
            argv=[sys.executable, "-I", "-S", "-c", _WRITE],
            cwd="/",
            env={},
            agent=PROBE,
            census=census,
            confinement=confinement,
            listening=listening,
        )
    except GrooveError as error:
        return f"what a sandbox is made of. {error.detail.removesuffix('.')}"
    async with confined.tree as tree:
        ended = await tree.wait()
    return None if ended.ok else "a sandbox in which programs can open files"


class _Means:
    """Does to a held program what the gate does; `missing` says which of it is not permitted."""

    def __init__(self) -> None:
        self.missing: str | None = None

    async def answer(self, listener: int) -> None:
        notifications = Notifications(listener)
        try:
            while (held := await notifications.receive()) is not None:
                self._use(notifications, held)
        finally:
            notifications.close()

    def _use(self, notifications: Notifications, held: Notification) -> None:
        caller, what = Caller(held.pid), "reading an agent's memory"
        try:
            path = caller.text(held.arguments[_PATH_ARGUMENT])
            what = "reaching an agent's directory"
            os.close(caller.directory(CWD))
            what = "fetching an agent's descriptor"
            os.close(caller.descriptor(0))
            what = "opening a file for an agent by openat2 (Linux 5.6)"
            file = _open(path)
            try:
                what = "handing a descriptor to an agent (Linux 5.14)"
                notifications.hand_over(held.id, file, close_on_exec=True)
            finally:
                os.close(file)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "EIO")
            self.missing = f"{what}, which failed ({name})"
            notifications.fail(held.id, errno.EPERM)


def _open(path: str) -> int:
    how = struct.pack("=QQQ", os.O_WRONLY | os.O_CLOEXEC, 0, 0)  # struct open_how
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int)
    file: int = syscall(_OPENAT2, CWD, os.fsencode(path), how, len(how))
    if file < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return file
