"""Other ways to have an agent's opens decided on, for `bench_gate` to measure the gate against.

- `bare`: the kernel's notification is received and a descriptor handed over; nothing is read,
  decided or recorded. In plain Python, blocking; `bare_on_trio` waits in a trio task.
- `by_ptrace`: a tracer stops the process, reads the path, has it resolved, asks a broker and lets
  the process go on. `filtered`, it is stopped by a filter at these calls only; else at each call,
  twice, as where tracers have no filter. Another thread of the process could still change the
  path after it was looked at.
- `by_sandlock`: the package of this name has a function of ours decide on each event, in a thread
  of its own; ours has the trio thread ask a broker. It is told which call it is, and not on which
  path, so it asks about the one that we know to be meant.

The broker of the last two is that of the daemon, with a log of its own: what it decides, folds and
records is the same.
"""

from __future__ import annotations

import array
import ctypes
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from groove_trio.rules import bpf
from groove_trio.rules.scopes import Scope
from groove_trio.shell.audit import open_audit
from groove_trio.shell.broker import Broker
from groove_trio.shell.caller import Caller
from groove_trio.shell.kernel import architecture
from groove_trio.shell.seccomp import Notification, Notifications
from groove_trio.words.actors import OWNER, agent_actor
from groove_trio.words.base import AgentId
from groove_trio.words.knocks import Granted, Knock

CHILD = str(Path(__file__).with_name("gate_child.py"))
ARGV = [sys.executable, "-I", "-S", CHILD]
AGENT = AgentId("be4c4000")
RETURN_TRACE = 0x7FF0_0000  # SECCOMP_RET_TRACE, include/uapi/linux/seccomp.h

_CONT, _SYSCALL, _GET_REGISTERS, _SET_OPTIONS = 7, 24, 12, 0x4200
_OPTIONS = 0x1 | 0x80 | 0x100000  # TRACESYSGOOD, TRACESECCOMP, EXITKILL
_STOPPED_BY_FILTER = signal.SIGTRAP | 7 << 8
_STOPPED_AT_CALL = signal.SIGTRAP | 0x80
_OPENAT, _RSI, _OLD_RAX = 257, 13, 15  # of x86_64, and of its user_regs_struct

Decide = Callable[[int, str], None]
T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


def code() -> bytes:
    machine = architecture()
    assert machine is not None
    return bpf.program(machine, notify=True)


def held(place: Path, kind: str, count: int) -> tuple[subprocess.Popen[bytes], Notifications]:
    """A child whose calls the kernel holds for us."""
    ours, theirs = socket.socketpair()
    argv = [*ARGV, "held", str(theirs.fileno()), kind, str(count)]
    child = subprocess.Popen(argv, pass_fds=[theirs.fileno()], cwd=place, stdout=subprocess.PIPE)
    theirs.close()
    ours.send(code())
    _, extra, _, _ = ours.recvmsg(1, 64)
    listener = array.array("i", extra[0][2])[0]
    ours.send(b"g")
    ours.close()
    return child, Notifications(listener)


def told(child: subprocess.Popen[bytes]) -> float:
    out, _ = child.communicate(timeout=60)
    each: float = json.loads(out)["each_us"]
    return each


class Handing:
    """Answers without looking: with one file, or with a new one each time."""

    def __init__(self, place: Path, kind: str, notifications: Notifications) -> None:
        self.place = str(place / "bare")
        self.flags = os.O_WRONLY | os.O_CREAT
        self.fresh = kind == "create"
        self.notifications = notifications
        self.count = 0

    def answer(self, note: Notification) -> None:
        if note.number != _OPENAT:
            self.notifications.proceed(note.id)
            return
        self.count += 1
        name = f"{self.place}-{os.getpid()}-{self.count}" if self.fresh else self.place
        file = os.open(name, self.flags, 0o600)
        self.notifications.hand_over(note.id, file, close_on_exec=True)
        os.close(file)


def bare(place: Path, kind: str, count: int) -> float:
    child, notifications = held(place, kind, count)
    handing = Handing(place, kind, notifications)
    poll = select.poll()
    poll.register(notifications._descriptor, select.POLLIN)  # noqa: SLF001 - the bare loop
    while poll.poll()[0][1] & select.POLLIN:
        if (note := notifications._take()) is not None:  # noqa: SLF001
            handing.answer(note)
    return told(child)


def bare_on_trio(place: Path, kind: str, count: int) -> float:
    child, notifications = held(place, kind, count)
    handing = Handing(place, kind, notifications)

    async def main() -> None:
        while (note := await notifications.receive()) is not None:
            handing.answer(note)

    trio.run(main)
    return told(child)


def with_broker(place: Path, work: Callable[[Decide], Awaitable[T]]) -> T:
    """Does something with a broker at hand, as a gate has one."""
    root = Path(os.path.realpath(place.parent))

    async def main() -> T:
        with tempfile.TemporaryDirectory(dir=place.parent) as state:
            log = Path(state)
            async with open_audit(log / "audit") as audit, trio.open_nursery() as nursery:
                broker = Broker(root, audit, lambda _: None, log / "leases.json")
                await nursery.start(broker.run)
                await broker.reserve(AGENT, "bench", Scope(["work/**"]), "work", OWNER)
                done = await work(lambda pid, path: decide(broker, pid, path))
                broker.close()
        return done

    return trio.run(main)


def decide(broker: Broker, pid: int, path: str) -> None:
    if broker.again(AGENT, "write", path, "openat", pid):
        return
    knock = Knock(
        agent=AGENT,
        operation="write",
        path=path,
        actor=agent_actor(AGENT),
        source="gate",
        tool="python",
        call="openat",
        pid=pid,
    )
    decision, _ = broker.decide_now(knock)
    assert isinstance(decision, Granted), decision


def by_ptrace(place: Path, kind: str, count: int, *, filtered: bool) -> float:
    async def work(decide: Decide) -> float:
        with tempfile.NamedTemporaryFile() as file:
            if filtered:
                file.write(_returning(code(), bpf.USER_NOTIF, RETURN_TRACE))
                file.flush()
            argv = [*ARGV, "traced", file.name, kind, str(count)]
            with subprocess.Popen(argv, cwd=place, stdout=subprocess.PIPE) as child:
                _trace(child.pid, decide, go_on=_CONT if filtered else _SYSCALL)
                assert child.stdout is not None
                each: float = json.loads(child.stdout.read())["each_us"]
                return each

    return with_broker(place, work)


def _returning(program: bytes, old: int, new: int) -> bytes:
    """The filter with another answer."""
    changed = bytearray(program)
    for at in range(0, len(changed), 8):
        operation, _, _, operand = struct.unpack_from("=HBBI", changed, at)
        if operation == bpf.RETURN and operand == old:
            struct.pack_into("=I", changed, at + 4, new)
    return bytes(changed)


def _trace(pid: int, decide: Decide, *, go_on: int) -> None:
    caller = Caller(pid)
    registers = (ctypes.c_ulonglong * 27)()
    os.waitpid(pid, 0)
    _libc.ptrace(_SET_OPTIONS, pid, None, _OPTIONS)
    entering = False
    signaled = 0
    while True:
        _libc.ptrace(go_on, pid, None, signaled)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            return
        stopped, signaled = status >> 8, 0
        if stopped == _STOPPED_AT_CALL:
            entering = not entering
        elif stopped != _STOPPED_BY_FILTER:
            signaled = 0 if stopped == signal.SIGTRAP else stopped & 0xFF
            continue
        if stopped == _STOPPED_BY_FILTER or entering:
            _libc.ptrace(_GET_REGISTERS, pid, None, ctypes.addressof(registers))
            if registers[_OLD_RAX] == _OPENAT:
                path = caller.text(registers[_RSI])
                where = os.path.join(os.readlink(f"/proc/{pid}/cwd"), path)
                decide(pid, os.path.realpath(where))


def by_sandlock(place: Path, kind: str, count: int) -> float | None:
    """None: the package is not installed."""
    try:
        from sandlock import Sandbox, SyscallEvent
    except ImportError:
        return None
    path = f"{os.path.realpath(place)}/it"
    sandbox = partial(Sandbox, fs_readable=["/"], fs_writable=[str(place)], cwd=str(place))

    async def work(decide: Decide) -> float:
        token = trio.lowlevel.current_trio_token()

        def policy(event: SyscallEvent, _context: object) -> int:
            trio.from_thread.run_sync(decide, event.pid, path, trio_token=token)
            return 0

        argv = [*ARGV, kind, str(count)]
        ran = await trio.to_thread.run_sync(sandbox(policy_fn=policy).run, argv)
        each: float = json.loads(ran.stdout)["each_us"]
        return each

    return with_broker(place, work)
