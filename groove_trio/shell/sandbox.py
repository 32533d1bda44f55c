"""Opens a process tree inside a sandbox: the daemon's half of the talk with the launcher.

What is said, and in which order, is written down in `groove_trio.confine.launch`. The tree's
root is the launcher first and the agent's program afterwards: same process, same pid, same
pipes. The talk ends when exec closes the launcher's end of it.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import secrets
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio

from groove_trio.confine import launch
from groove_trio.rules.landlock import SCOPE_SIGNALS, Ruleset
from groove_trio.shell.census import AGENT_VARIABLE, PROJECT_VARIABLE, Census
from groove_trio.shell.ending import KILL_S
from groove_trio.shell.opening import open_tree
from groove_trio.shell.process import Tree
from groove_trio.shell.spawning import Command, explained
from groove_trio.words.base import AgentId
from groove_trio.words.errors import GrooveError, SpawnFailed, shown

LAUNCH_S = 30.0
"""How long, in seconds, a sandbox may take to be made: a third of what systemd gives a service
(DefaultTimeoutStartSec). It takes some 50 ms."""

MAX_HEARD = 65_536
"""The longest message that is taken from a launcher; a path and a few words are usual."""

_LAUNCHER = str(Path(launch.__file__).resolve())
_READ_BYTES = 65_536
_FAREWELL_S = 1.0  # for what a launcher that broke wrote to its standard error
_SUFFIXES = ("", ".moved", ".link")  # what a canary leaves where it is not held

Listening = Callable[[Tree, int], Awaitable[None]]
"""Takes a filter's listener over, and returns when held calls are answered. The descriptor is
the callee's from the call on, however that ends."""


@dataclass(frozen=True, slots=True)
class Confinement:
    """What an agent is put behind.

    Attributes:
        ruleset: The wall, if the kernel has one.
        program: The filter, an array of ``struct sock_filter``.
        notify: Whether the filter has a listener.
        canary: The directory where a file is planted for the canary; None sends no canary.
    """

    ruleset: Ruleset | None = None
    program: bytes | None = None
    notify: bool = False
    canary: str | None = None


@dataclass(slots=True)
class Confined:
    """A tree in its sandbox.

    Attributes:
        tree: The tree; its root runs the agent's program.
        canary: What was tried from inside and failed, with the name of the error: ``write``,
            ``rename``, ``symlink``, and ``signal`` where the kernel can hold it.
        skipped: Paths of the wall at which nothing is granted, with the reason's name.
    """

    tree: Tree
    canary: dict[str, str] = field(default_factory=dict[str, str])
    skipped: dict[str, str] = field(default_factory=dict[str, str])


async def open_confined(
    *,
    argv: Sequence[str],
    cwd: int | str,
    env: Mapping[str, str],
    agent: AgentId,
    census: Census,
    confinement: Confinement,
    listening: Listening | None = None,
    descriptor_limit: int | None = None,
) -> Confined:
    """Starts a program inside a sandbox; returns when exec has succeeded there.

    As `open_tree` otherwise. A cancellation ends what was begun, with all its processes.

    Args:
        argv: Program and arguments.
        cwd: Working directory: a path, or a descriptor that stays the caller's.
        env: The whole environment.
        agent: Whose tree it is.
        census: Where it is enrolled.
        confinement: The sandbox.
        listening: Who answers held calls; needed if the filter has a listener.
        descriptor_limit: Soft limit of descriptors for the tree, if not the daemon's own.

    Raises:
        SpawnFailed: The program or the directory is at fault, with the same words as without
            a sandbox; or a step of the sandbox (``what`` is ``sandbox``, ``step`` names it).
        OutOfResources: The machine is at fault.
    """
    place, path = (cwd, f"/proc/self/fd/{cwd}") if isinstance(cwd, int) else (None, cwd)
    command = Command(list(argv), path, place, dict(env), descriptor_limit)
    planted = _planted(confinement, agent)
    plan = plan_of(command, confinement, planted)
    tags = {name: env[name] for name in (AGENT_VARIABLE, PROJECT_VARIABLE) if name in env}
    ours, theirs = socket.socketpair()
    with trio.socket.from_stdlib_socket(ours) as connection:
        with theirs:
            number = theirs.fileno()
            tree = await open_tree(
                argv=[sys.executable, "-I", "-S", _LAUNCHER, str(number)],
                cwd=cwd,
                env=tags,
                agent=agent,
                census=census,
                descriptor_limit=descriptor_limit,
                pass_fds=(number,),
            )
        launching = _Launching(Confined(tree), command, _Talk(connection), listening)
        try:
            return await launching.through(plan)
        except BaseException:
            with trio.move_on_after(KILL_S + 1, shield=True):
                await tree.aclose()
            raise
        finally:
            _clean(planted)


class _Talk:
    """Messages over a socket, as the launcher writes and reads them."""

    def __init__(self, connection: trio.socket.SocketType) -> None:
        self.descriptors: list[int] = []
        self._connection = connection
        self._read = bytearray()

    async def say(self, messages: Sequence[Sequence[bytes]]) -> None:
        left = memoryview(b"".join(map(_framed, messages)))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # `hear` will tell
            while left:
                left = left[await self._connection.send(left) :]

    async def hear(self) -> list[bytes] | None:
        """The next message; None at the end.

        Raises:
            ValueError: It is longer than any that a launcher writes.
        """
        while (message := self._complete()) is None:
            if len(self._read) > MAX_HEARD:
                raise ValueError("the launcher says too much")
            try:
                data, passed, _, _ = await self._connection.recvmsg(
                    _READ_BYTES, socket.CMSG_SPACE(8), socket.MSG_CMSG_CLOEXEC
                )
            except ConnectionResetError:
                return None
            for level, kind, content in passed:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    self.descriptors += array.array("i", content)
            if not data:
                return None
            self._read += data
        return message

    def close(self) -> None:
        """Closes the descriptors that nobody took."""
        while self.descriptors:
            os.close(self.descriptors.pop())

    def _complete(self) -> list[bytes] | None:
        read, at, message = self._read, 4, list[bytes]()
        if len(read) < at:
            return None
        for _ in range(struct.unpack_from("<I", read)[0]):
            if len(read) < at + 4:
                return None
            end = at + 4 + struct.unpack_from("<I", read, at)[0]
            if len(read) < end:
                return None
            message.append(bytes(read[at + 4 : end]))
            at = end
        del read[:at]
        return message


class _Launching:
    """One launch, from the plan to exec."""

    def __init__(
        self, confined: Confined, command: Command, talk: _Talk, listening: Listening | None
    ) -> None:
        self._confined = confined
        self._command = command
        self._talk = talk
        self._listening = listening
        self._executing = False

    async def through(self, plan: Sequence[Sequence[bytes]]) -> Confined:
        try:
            with trio.move_on_after(LAUNCH_S) as deadline:
                await self._talk.say(plan)
                while (message := await self._talk.hear()) is not None:
                    await self._take(message)
        except ValueError as fault:
            raise _not_made(str(fault)) from fault
        finally:
            self._talk.close()
        if deadline.cancelled_caught:
            raise _not_made(f"it took longer than {LAUNCH_S:g} s")
        if not self._executing:
            raise _not_made(await self._broken())
        return self._confined

    async def _take(self, message: list[bytes]) -> None:
        match message:
            case [b"skipped", path, number]:
                self._confined.skipped[os.fsdecode(path)] = _name(int(number))
            case [b"listener"] if self._talk.descriptors and self._listening is not None:
                await self._listening(self._confined.tree, self._talk.descriptors.pop())
                await self._talk.say([[b"go"]])
            case [b"canary", *told]:
                numbers = map(int, told[1::2])
                report = zip(told[::2], numbers, strict=True)
                self._confined.canary = {name.decode(): _name(number) for name, number in report}
            case [b"executing"]:
                self._executing = True
            case [b"failed", step, number, text]:
                raise self._failure(step.decode(), int(number), text.decode())
            case _:
                raise ValueError(f"the launcher says {shown(message)}")

    def _failure(self, step: str, number: int, text: str) -> GrooveError:
        if step == "exec" and number:
            return explained(OSError(number, text), self._command)
        name = f" ({_name(number)})" if number else ""
        fields = {"errno": _name(number)} if number else {}
        return _not_made(f"{step}: {text.lower() if number else text}{name}", step=step, **fields)

    async def _broken(self) -> str:
        """Why a launcher ended without a word."""
        tree, told = self._confined.tree, b""
        with trio.move_on_after(_FAREWELL_S):
            while len(told) < MAX_HEARD and (more := await tree.receive("err")):
                told += more
        last = told.decode(errors="replace").strip().rpartition("\n")[2]
        return f"the launcher ended and said {shown(last)}" if last else "the launcher ended"


def plan_of(command: Command, confinement: Confinement, planted: str | None) -> list[list[bytes]]:
    """The plan as messages.

    Raises:
        SpawnFailed: No program is named, or something cannot be handed to the kernel.
    """
    if not command.argv or not command.argv[0]:
        raise explained(FileNotFoundError(errno.ENOENT, "no program is named"), command)
    try:
        plan = [
            [b"argv", *map(_encoded, command.argv)],
            [b"env", *(_variable(name, value) for name, value in command.env.items())],
        ]
    except ValueError as fault:
        raise SpawnFailed(
            f"The program or its environment cannot be handed to the kernel: {fault}.",
            errno="EINVAL",
            what="program",
        ) from fault
    plan.append([b"parent", _decimal(os.getpid())])
    ruleset = confinement.ruleset
    if ruleset is not None:
        rules = [each for path, rights in ruleset.rules for each in (path, rights)]
        plan.append([b"wall", *map(_field, (ruleset.handled, ruleset.scoped, *rules))])
    if confinement.program is not None:
        plan.append([b"filter", confinement.program, *[b"notify"] * confinement.notify])
    if planted is not None:
        holds_signals = ruleset is not None and ruleset.scoped & SCOPE_SIGNALS
        target = [_decimal(os.getpid())] if holds_signals else []
        plan.append([b"canary", _encoded(planted), *target])
    return [*plan, [b"start"]]


def _planted(confinement: Confinement, agent: AgentId) -> str | None:
    if confinement.canary is None:
        return None
    return f"{confinement.canary}/canary-{agent}-{secrets.token_hex(4)}"


def _clean(planted: str | None) -> None:
    for suffix in _SUFFIXES if planted is not None else ():
        with contextlib.suppress(OSError):
            os.unlink(f"{planted}{suffix}")


def _framed(message: Sequence[bytes]) -> bytes:
    strings = (struct.pack("<I", len(each)) + each for each in message)
    return struct.pack("<I", len(message)) + b"".join(strings)


def _field(value: str | int) -> bytes:
    return _encoded(value) if isinstance(value, str) else _decimal(value)


def _variable(name: str, value: str) -> bytes:
    if "=" in name or not name:
        raise ValueError("illegal environment variable name")
    return _encoded(f"{name}={value}")


def _encoded(text: str) -> bytes:
    data = os.fsencode(text)
    if b"\0" in data:
        raise ValueError("embedded null byte")
    return data


def _not_made(reason: str, **fields: str) -> SpawnFailed:
    return SpawnFailed(f"The sandbox could not be made: {reason}.", what="sandbox", **fields)


def _decimal(number: int) -> bytes:
    return b"%d" % number


def _name(number: int) -> str:
    return errno.errorcode.get(number, str(number))
