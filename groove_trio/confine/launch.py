"""The launcher: makes a sandbox around itself, and becomes the agent's program.

Run by the daemon as a file, by an isolated interpreter, in a session and a working directory
that are the agent's already: ``python -I -S launch.py <descriptor>``. The descriptor is one end
of a socket pair; over it come the plan and the word to go, and back go the listener of the
filter, the canary's report and every failure. So nothing of the daemon's own code runs between
fork and exec, where it must not beside threads.

Messages
    A message is a list of byte strings: how many they are, then each with its length before it;
    both are 32 bits, little-endian. The first string names the message. Numbers are decimal.

    The plan, in any order, closed by ``start``:

    - ``argv``, program, arguments…: what to become
    - ``env``, ``NAME=value``…: the whole environment
    - ``parent``, pid: whose death is ours
    - ``wall``, handled rights, scopes, then path and rights by turns: a Landlock ruleset; paths
      are absolute and hold no link
    - ``filter``, ``struct sock_filter[]``, ``notify`` or nothing: what seccomp is to run
    - ``canary``, path, pid or nothing: what must fail inside: a path where a file is planted,
      and a process that must not be reached by a signal

    Then, from here to the daemon unless said otherwise:

    - ``skipped``, path, errno: a path of the wall could not be opened, so nothing is granted
    - ``listener`` with the descriptor (SCM_RIGHTS); the daemon answers ``go`` once it listens
    - ``canary``, then attempt and errno by turns; errno 0 is an attempt that succeeded
    - ``executing``; then the end of the stream, which is the exec that succeeded, or
    - ``failed``, step, errno, text: nothing was or will be run. It may come at any time.

Standard library only, and of that only what starts fast: an operation less is a millisecond
less for every agent. No `enum`, so neither `signal` nor `socket` but what that is made of.
"""

from __future__ import annotations

import _socket
import ctypes
import errno
import os
import resource
import stat
import struct
import sys

TYPE_CHECKING = False  # of `typing`, which takes longer to import than all else together
if TYPE_CHECKING:
    from collections.abc import Callable

EXIT_NOT_RUN = 127
"""Exit code when nothing was run, as shells have it; the daemon was told why."""

# System calls of Linux: x86_64 and aarch64, or the same on both.
_PRCTL, _CAPSET, _SECCOMP = (157, 126, 317) if os.uname().machine == "x86_64" else (167, 91, 277)
_CLOSE_RANGE, _OPENAT2 = 436, 437
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446

# Options of prctl(2).
_SET_PDEATHSIG = 1
_SET_DUMPABLE = 4
_CAPBSET_DROP = 24
_SET_SECUREBITS = 28
_SET_NO_NEW_PRIVS = 38
_CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL = 47, 4

_CAPABILITY_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
_LOCKED_BITS = 0xEF
"""NOROOT, NO_SETUID_FIXUP and NO_CAP_AMBIENT_RAISE set, KEEP_CAPS not, and all four locked:
root is nobody, now and after every exec."""

_NO_SYMLINKS = 0x04  # RESOLVE_NO_SYMLINKS of openat2(2)

_RULE_PATH_BENEATH = 1
_FILE_RIGHTS = 0x1 | 0x2 | 0x4 | 0x4000 | 0x8000
"""EXECUTE, WRITE_FILE, READ_FILE, TRUNCATE, IOCTL_DEV: all that a rule on a file may grant."""

_MODE_FILTER = 1
_NEW_LISTENER, _WAIT_KILLABLE_RECV = 0x08, 0x20

_KILL, _PIPE, _XFSZ = 9, 13, 25  # signals, on both architectures
_DEFAULT = 0  # SIG_DFL

_FIRST = 3  # descriptor behind the standard streams

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.argtypes = (ctypes.c_long,) * 7
_syscall.restype = ctypes.c_long


class Plan:
    """What the daemon wants; the names are those of the messages."""

    def __init__(self) -> None:
        self.argv: list[bytes] = []
        self.env: list[bytes] = []
        self.parent: list[bytes] = []
        self.wall: list[bytes] = []
        self.filter: list[bytes] = []
        self.canary: list[bytes] = []


class Link:
    """The connection to the daemon."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self.descriptor = descriptor
        self._socket = _socket.socket(fileno=descriptor)

    def say(self, *strings: bytes | int, descriptor: int | None = None) -> None:
        """Sends a message, with a descriptor if there is one to hand over."""
        parts = [each if isinstance(each, bytes) else b"%d" % each for each in strings]
        framed = b"".join(struct.pack("<I", len(each)) + each for each in parts)
        data = struct.pack("<I", len(parts)) + framed
        if descriptor is not None:
            passed = struct.pack("i", descriptor)
            rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, passed)]
            data = data[self._socket.sendmsg([data], rights) :]
        self._socket.sendall(data)

    def hear(self) -> list[bytes]:
        """The next message.

        Raises:
            EOFError: The daemon went away.
        """
        (count,) = struct.unpack("<I", self._exactly(4))
        return [
            self._exactly(length)
            for _ in range(count)
            for (length,) in [struct.unpack("<I", self._exactly(4))]
        ]

    def _exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            more = self._socket.recv(length - len(data))
            if not more:
                raise EOFError("the daemon went away")
            data += more
        return data


def hear_plan(plan: Plan, link: Link) -> None:
    """Reads the plan, up to the word to start."""
    while (message := link.hear())[0] != b"start":
        vars(plan)[message[0].decode()] = message[1:]


def close_others(_plan: Plan, link: Link) -> None:
    """Leaves nothing open but the standard streams and the link."""
    if link.descriptor > _FIRST:
        _kernel(_CLOSE_RANGE, _FIRST, link.descriptor - 1)
    _kernel(_CLOSE_RANGE, link.descriptor + 1, 0xFFFF_FFFF)


def plant(plan: Plan, _link: Link) -> None:
    """Makes the file that is to be attacked from inside."""
    if plan.canary:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        os.close(os.open(plan.canary[0], flags, 0o600))


def limit_core(_plan: Plan, _link: Link) -> None:
    """A core dump is a file that nobody asked for, full of what the agent was told."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def hide_from_tracers(_plan: Plan, _link: Link) -> None:
    """Keeps other processes of the user out while the sandbox is half made."""
    _kernel(_PRCTL, _SET_DUMPABLE, 0)


def drop_capabilities(_plan: Plan, _link: Link) -> None:
    """Gives up every capability, and every way to have one again.

    The bounding set and the secure bits are only for those who have CAP_SETPCAP; whoever has
    not gets no capability by `forbid_privileges` either.
    """
    _kernel(_PRCTL, _CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL)
    try:
        _kernel(_PRCTL, _SET_SECUREBITS, _LOCKED_BITS)
        for capability in range(64):
            _kernel(_PRCTL, _CAPBSET_DROP, capability)
    except OSError as fault:
        if fault.errno not in {errno.EPERM, errno.EINVAL}:  # EINVAL: that was the last
            raise
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION, 0))
    none = ctypes.create_string_buffer(24)
    _kernel(_CAPSET, ctypes.addressof(header), ctypes.addressof(none))


def die_with_parent(plan: Plan, _link: Link) -> None:
    """Has the kernel kill us when the daemon dies; says so if it is dead already."""
    _kernel(_PRCTL, _SET_PDEATHSIG, _KILL)
    if os.getppid() != int(plan.parent[0]):
        raise EOFError("the daemon went away")


def forbid_privileges(_plan: Plan, _link: Link) -> None:
    """No exec gives more than was there before: set-user-id bits and file capabilities are void."""
    _kernel(_PRCTL, _SET_NO_NEW_PRIVS, 1)


def build_wall(plan: Plan, link: Link) -> None:
    """Goes behind the Landlock ruleset."""
    if not plan.wall:
        return
    handled, scoped, *rules = plan.wall
    attributes = ctypes.create_string_buffer(struct.pack("=QQQ", int(handled), 0, int(scoped)))
    ruleset = _kernel(_CREATE_RULESET, ctypes.addressof(attributes), 24)
    rule = ctypes.create_string_buffer(12)
    # The daemon resolved the paths; a link that stands there now was put there since.
    flags = struct.pack("=QQQ", os.O_PATH | os.O_CLOEXEC, 0, _NO_SYMLINKS)  # struct open_how
    how = ctypes.create_string_buffer(flags)
    for path, rights in zip(rules[::2], rules[1::2], strict=True):
        try:
            name = ctypes.create_string_buffer(path)
            beneath = _kernel(_OPENAT2, 0, ctypes.addressof(name), ctypes.addressof(how), 24)
        except OSError as fault:
            link.say(b"skipped", path, fault.errno or 0)
            continue
        directory = stat.S_ISDIR(os.fstat(beneath).st_mode)
        granted = int(rights) if directory else int(rights) & _FILE_RIGHTS
        if granted:  # the kernel takes no rule that grants nothing
            struct.pack_into("=Qi", rule, 0, granted, beneath)
            _kernel(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.addressof(rule))
        os.close(beneath)
    _kernel(_RESTRICT_SELF, ruleset)
    os.close(ruleset)


def load_filter(plan: Plan, link: Link) -> None:
    """Installs the filter, hands its listener over, and waits until somebody listens."""
    if not plan.filter:
        return
    code, *notify = plan.filter
    program = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("=HxxxxxxQ", len(code) // 8, ctypes.addressof(program))
    pointer = ctypes.create_string_buffer(header)
    at = ctypes.addressof(pointer)
    if not notify:
        _kernel(_SECCOMP, _MODE_FILTER, 0, at)
        return
    try:
        listener = _kernel(_SECCOMP, _MODE_FILTER, _NEW_LISTENER | _WAIT_KILLABLE_RECV, at)
    except OSError as fault:
        if fault.errno != errno.EINVAL:
            raise
        listener = _kernel(_SECCOMP, _MODE_FILTER, _NEW_LISTENER, at)  # before Linux 5.19
    link.say(b"listener", descriptor=listener)
    os.close(listener)
    if link.hear()[0] != b"go":
        raise EOFError("the daemon does not listen")


def show_to_daemon(_plan: Plan, _link: Link) -> None:
    """Lets the gate read our memory: the next calls knock."""
    _kernel(_PRCTL, _SET_DUMPABLE, 1)


def send_canary(plan: Plan, link: Link) -> None:
    """Tries from inside what must fail, and reports how it did.

    Raises:
        PermissionError: Something did not fail.
    """
    if not plan.canary:
        return
    path, *target = plan.canary
    attempts: list[tuple[bytes, Callable[[], object]]] = [
        (b"write", lambda: os.close(os.open(path, os.O_WRONLY))),
        (b"rename", lambda: os.rename(path, path + b".moved")),
        (b"symlink", lambda: os.symlink(path, path + b".link")),
    ]
    # Signal 0 is checked as any other and does no harm where it goes through.
    if target:
        attempts.append((b"signal", lambda: os.kill(int(target[0]), 0)))
    report = [(name, _errno_of(attempt)) for name, attempt in attempts]
    link.say(b"canary", *(string for pair in report for string in pair))
    passed = [name.decode() for name, number in report if number == 0]
    if passed:
        raise PermissionError(0, f"not held: {', '.join(passed)}")


def execute(plan: Plan, link: Link) -> None:
    """Becomes the program, found as `os.execvpe` and `subprocess` find it.

    Raises:
        OSError: As exec said it.
    """
    # Python ignores these; a program is to find them as they were.
    _libc.signal(_PIPE, _DEFAULT)
    _libc.signal(_XFSZ, _DEFAULT)
    env = dict(variable.split(b"=", 1) for variable in plan.env)
    program = plan.argv[0]
    candidates = [program]
    if b"/" not in program:
        places = env.get(b"PATH", os.defpath.encode()).split(b":")
        candidates = [os.path.join(place, program) for place in places]
    told: OSError | None = None
    link.say(b"executing")
    for candidate in candidates:
        try:
            os.execve(candidate, plan.argv, env)  # noqa: S606 - it is what we are for
        except OSError as fault:
            if told is None or told.errno in {errno.ENOENT, errno.ENOTDIR}:
                told = fault
    assert told is not None
    raise told


STEPS: tuple[tuple[str, Callable[[Plan, Link], None]], ...] = (
    ("plan", hear_plan),
    ("descriptors", close_others),
    ("canary", plant),
    ("core limit", limit_core),
    ("dumpable", hide_from_tracers),
    ("capabilities", drop_capabilities),
    ("parent death", die_with_parent),
    ("no new privileges", forbid_privileges),
    ("wall", build_wall),
    ("filter", load_filter),
    ("dumpable", show_to_daemon),
    ("canary", send_canary),
    ("exec", execute),
)
"""What is done, in this order: a file that is planted, before it is forbidden; what makes the
kernel forget the parent's death, before that; Landlock, before a filter that would look at it."""


def main(descriptor: int) -> None:
    """Takes every step; comes back only if one fails, after telling which."""
    plan, link = Plan(), Link(descriptor)
    for name, step in STEPS:
        try:
            step(plan, link)
        except OSError as fault:
            link.say(b"failed", name.encode(), fault.errno or 0, str(fault.strerror).encode())
            return
        except Exception as fault:  # noqa: BLE001 - whatever it is, nothing is run
            link.say(b"failed", name.encode(), 0, repr(fault).encode())
            return


def _errno_of(attempt: Callable[[], object]) -> int:
    try:
        attempt()
    except OSError as fault:
        return fault.errno or errno.EIO
    return 0


def _kernel(number: int, *arguments: int) -> int:
    result: int = _syscall(number, *arguments, *(0,) * (6 - len(arguments)))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


if __name__ == "__main__":
    main(int(sys.argv[1]))
    os._exit(EXIT_NOT_RUN)
