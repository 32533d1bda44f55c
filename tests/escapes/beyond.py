"""What is no file: processes, signals, sockets, terminals, secrets, the daemon itself."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pty
import signal
import socket
import struct
import threading
import time
from typing import Any

from attacker import WORLD, At, attempt, libc, raw

DAEMON = int(WORLD.get("daemon", 0))
VICTIM = int(WORLD.get("victim", 0))
HOOKS = WORLD.get("level") == "hooks"

# Signals


def _pidfd(pid: int) -> int:
    return raw(434, pid, 0)


for _whose, _pid in (("the daemon", DAEMON), ("another agent", VICTIM)):
    attempt(f"kill {_whose}", "bare")(lambda _a, _b, pid=_pid: raw(62, pid, 0))
    attempt(f"tkill {_whose}", "bare")(lambda _a, _b, pid=_pid: raw(200, pid, 0))
    attempt(f"tgkill {_whose}", "bare")(lambda _a, _b, pid=_pid: raw(234, pid, pid, 0))
    attempt(f"queue a signal to {_whose}", "bare")(
        lambda _a, _b, pid=_pid: raw(129, pid, 0, struct.pack("=iii116x", 0, 0, -1))
    )
    attempt(f"signal {_whose} by descriptor", "bare")(
        lambda _a, _b, pid=_pid: raw(424, _pidfd(pid), 0, None, 0)
    )


@attempt("a signal by way of a pipe", "bare")
def _(_at: At, _: At) -> None:
    if HOOKS:
        return  # it would end it
    readable, writable = os.pipe()
    raw(72, readable, 8, VICTIM)  # F_SETOWN
    raw(72, readable, 10, signal.SIGUSR1)  # F_SETSIG
    raw(72, readable, 4, os.O_ASYNC)
    os.write(writable, b"x")
    time.sleep(0.1)
    with open(f"/proc/{VICTIM}/stat", "rb") as file:
        if file.read().rpartition(b")")[2].split()[0] not in b"ZX":
            raise OSError(1, "it lives")


# Other processes


@attempt("ptrace: the daemon", "bare")
def _(_at: At, _: At) -> None:
    raw(101, 0x4206, DAEMON, 0, 0)  # PTRACE_SEIZE, which stops nobody


@attempt("ptrace: another agent", "bare")
def _(_at: At, _: At) -> None:
    raw(101, 0x4206, VICTIM, 0, 0)


@attempt("ptrace: a child without its filter", "bare")
def _(_at: At, _: At) -> None:
    child = os.fork()
    if child == 0:
        signal.pause()
    try:
        raw(101, 0x4206, child, 0, 1 << 21)  # PTRACE_O_SUSPEND_SECCOMP
    finally:
        os.kill(child, signal.SIGKILL)
    if HOOKS:
        return
    raise AssertionError("a filter was laid aside")


@attempt("ptrace: a child whose call is changed", "out")
def _(at: At, inside: At) -> None:
    good, bad = (ctypes.create_string_buffer(each("file")) for each in (inside, at))
    child = os.fork()
    if child == 0:
        raw(101, 0, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        try:
            os.write(raw(2, good, os.O_WRONLY, 0), b"hacked")
        except OSError as error:
            os._exit(error.errno or 1)
        os._exit(0)
    os.waitpid(child, 0)
    registers = (ctypes.c_ulong * 27)()
    while True:
        raw(101, 24, child, 0, 0)  # PTRACE_SYSCALL
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            break
        raw(101, 12, child, 0, registers)
        if registers[15] == 2 and registers[14] == ctypes.addressof(good):
            registers[14] = ctypes.addressof(bad)
            raw(101, 13, child, 0, registers)
    if os.WEXITSTATUS(status):
        raise OSError(os.WEXITSTATUS(status), "")


@attempt("process_vm_writev: the daemon", "bare")
def _(_at: At, _: At) -> None:
    mine = ctypes.create_string_buffer(8)
    here = struct.pack("=QQ", ctypes.addressof(mine), 8)
    raw(311, DAEMON, here, 1, struct.pack("=QQ", 4096, 8), 1, 0)


@attempt("process_vm_readv: another agent", "bare")
def _(_at: At, _: At) -> None:
    mine = ctypes.create_string_buffer(8)
    here = struct.pack("=QQ", ctypes.addressof(mine), 8)
    raw(310, VICTIM, here, 1, struct.pack("=QQ", 4096, 8), 1, 0)


@attempt("the daemon's memory", "bare")
def _(_at: At, _: At) -> None:
    os.close(os.open(f"/proc/{DAEMON}/mem", os.O_RDWR))


@attempt("another agent's memory", "bare")
def _(_at: At, _: At) -> None:
    os.close(os.open(f"/proc/{VICTIM}/mem", os.O_RDWR))


@attempt("pidfd_getfd: of the daemon", "bare")
def _(_at: At, _: At) -> None:
    raw(438, _pidfd(DAEMON), 0, 0)


@attempt("process_madvise: the daemon", "bare")
def _(_at: At, _: At) -> None:
    raw(440, _pidfd(DAEMON), struct.pack("=QQ", 4096, 4096), 1, 20, 0)  # MADV_COLD


@attempt("kcmp: the daemon", "bare")
def _(_at: At, _: At) -> None:
    raw(312, os.getpid(), DAEMON, 1, 0, 0)


@attempt("migrate_pages: the daemon", "bare")
def _(_at: At, _: At) -> None:
    raw(256, DAEMON, 64, struct.pack("=Q", 1), struct.pack("=Q", 1))


@attempt("prlimit64: the daemon", "bare")
def _(_at: At, _: At) -> None:
    raw(302, DAEMON, 7, None, ctypes.create_string_buffer(16))


@attempt("prlimit64: itself", "bare")
def _(_at: At, _: At) -> None:
    raw(302, 0, 7, None, ctypes.create_string_buffer(16))


@attempt("setpriority: the daemon", "bare")
def _(_at: At, _: At) -> None:
    raw(141, 0, DAEMON, os.getpriority(os.PRIO_PROCESS, DAEMON))


@attempt("setpriority: all of the user's", "bare")
def _(_at: At, _: At) -> None:
    if not HOOKS:
        raw(141, 2, 0, 19)


@attempt("setpriority: itself", "bare")
def _(_at: At, _: At) -> None:
    raw(141, 0, os.getpid(), 5)
    raw(141, 0, 0, 6)
    raw(141, 1, os.getpgid(0), 7)


@attempt("sched_setaffinity: the daemon", "bare")
def _(_at: At, _: At) -> None:
    os.sched_setaffinity(DAEMON, os.sched_getaffinity(DAEMON))


@attempt("sched_setaffinity: a thread of its own", "bare")
def _(_at: At, _: At) -> None:
    told: list[OSError] = []

    def go() -> None:
        try:
            os.sched_setaffinity(threading.get_native_id(), os.sched_getaffinity(0))
        except OSError as error:
            told.append(error)

    thread = threading.Thread(target=go)
    thread.start()
    thread.join()
    if told:
        raise told[0]


@attempt("sched_setscheduler: the daemon", "bare")
def _(_at: At, _: At) -> None:
    raw(144, DAEMON, 0, struct.pack("=i", 0))


@attempt("sched_setparam: the daemon", "bare")
def _(_at: At, _: At) -> None:
    raw(142, DAEMON, struct.pack("=i", 0))


@attempt("sched_setattr: the daemon", "bare")
def _(_at: At, _: At) -> None:
    raw(314, DAEMON, struct.pack("=IIQiIQQQ", 48, 0, 0, 0, 0, 0, 0, 0), 0)


@attempt("ioprio_set: the daemon", "bare")
def _(_at: At, _: At) -> None:
    raw(251, 1, DAEMON, 0)


@attempt("how soon the daemon is killed for want of memory", "bare")
def _(_at: At, _: At) -> None:
    with open(f"/proc/{DAEMON}/oom_score_adj", "r+b", buffering=0) as file:
        value = file.read()
        file.seek(0)
        file.write(value)


# Sockets


def _connect(address: bytes, kind: int = socket.SOCK_STREAM) -> None:
    with socket.socket(socket.AF_UNIX, kind) as mine:
        mine.settimeout(5)
        mine.connect(address)


for _name in ("bus", "docker", "tmux", "systemd"):
    attempt(f"call the {_name}", "bare")(
        lambda _a, _b, name=_name: _connect(f"{WORLD['at']}/{name}".encode())
    )


@attempt("call the bus through a link", "out")
def _(_at: At, inside: At) -> None:
    os.symlink(f"{WORLD['at']}/bus", inside("bus"))
    _connect(inside("bus"))


@attempt("call the bus from its directory", "bare")
def _(_at: At, _: At) -> None:
    os.chdir(WORLD["at"])
    _connect(b"bus")


@attempt("call the bus under proc", "bare")
def _(_at: At, _: At) -> None:
    _connect(b"/proc/self/fd/%d" % os.open(f"{WORLD['at']}/bus", os.O_PATH))


@attempt("call an abstract name", "bare")
def _(_at: At, _: At) -> None:
    _connect(b"\0" + WORLD["abstract"].encode())


@attempt("send a datagram", "bare")
def _(_at: At, _: At) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mine:
        mine.sendto(b"hacked", f"{WORLD['at']}/datagrams")


@attempt("send a datagram from a pair", "bare")
def _(_at: At, _: At) -> None:
    mine, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    mine.sendto(b"hacked", f"{WORLD['at']}/datagrams")


@attempt("an abstract name of its own", "bare")
def _(_at: At, _: At) -> None:
    with socket.socket(socket.AF_UNIX) as mine:
        mine.bind(f"\0own-{os.getpid()}")
        mine.listen()
        _connect(b"\0own-%d" % os.getpid())


def _victim(wish: dict[str, Any]) -> str:
    """Has the other agent do something."""
    name = f"{WORLD['level']}-{wish['do']}.json"
    with open(f"{WORLD['asked']}/{name}.new", "w", encoding="utf-8") as file:
        json.dump(wish, file)
    os.rename(f"{WORLD['asked']}/{name}.new", f"{WORLD['asked']}/{name}")
    while not os.path.exists(f"{WORLD['told']}/{name}"):
        time.sleep(0.005)
    with open(f"{WORLD['told']}/{name}", encoding="utf-8") as file:
        return file.read()


@attempt("an abstract name that was its own", "bare")
def _(_at: At, _: At) -> None:
    name = f"{WORLD['abstract']}-once"
    with socket.socket(socket.AF_UNIX) as mine:
        mine.bind(f"\0{name}")
    _victim({"do": "bind", "name": name})
    _connect(b"\0" + name.encode())


# Terminals


@attempt("write to another's terminal", "bare")
def _(_at: At, _: At) -> None:
    os.write(os.open(WORLD["terminal"], os.O_WRONLY | os.O_NOCTTY), b"hacked\n")


@attempt("read another's terminal", "bare")
def _(_at: At, _: At) -> None:
    os.close(os.open(WORLD["terminal"], os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK))


@attempt("take another's terminal for its own", "bare")
def _(_at: At, _: At) -> None:
    os.setsid()
    os.close(os.open(WORLD["terminal"], os.O_RDONLY | os.O_NONBLOCK))
    os.write(os.open("/dev/tty", os.O_WRONLY), b"hacked\n")


@attempt("type into another's terminal", "bare")
def _(_at: At, _: At) -> None:
    terminal = os.open(WORLD["terminal"], os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
    raw(16, terminal, 0x5412, b"x")


@attempt("a terminal of its own", "bare")
def _(_at: At, _: At) -> None:
    above, below = pty.openpty()
    with open(os.ttyname(below), "r+b", buffering=0) as again:
        again.write(b"hello")
    if os.read(above, 5) != b"hello":
        raise OSError(5, "nothing came")


@attempt("a terminal that was its own", "bare")
def _(_at: At, _: At) -> None:
    above, below = pty.openpty()
    name = os.ttyname(below)
    os.close(below)
    os.close(above)
    taken = _victim({"do": "open a terminal"})
    if taken != name:
        raise OSError(-1, f"{name} went to somebody else")
    os.write(os.open(name, os.O_WRONLY | os.O_NOCTTY), b"hacked\n")


# Secrets and state

for _name, _path in {
    "a key": "{home}/.ssh/id_ed25519",
    "the seed": "{home}/.config/groove-trio/seed",
}.items():
    attempt(f"read {_name}", "bare")(
        lambda _a, _b, path=_path: os.close(os.open(path.format(**WORLD), os.O_RDONLY))
    )
    attempt(f"write {_name}", "bare")(
        lambda _a, _b, path=_path: os.write(
            os.open(path.format(**WORLD), os.O_WRONLY | os.O_APPEND), b""
        )
    )


@attempt("read a key from its directory", "bare")
def _(_at: At, _: At) -> None:
    os.chdir(f"{WORLD['home']}/.ssh")
    os.close(os.open("id_ed25519", os.O_RDONLY))


@attempt("read a key through a link", "out")
def _(_at: At, inside: At) -> None:
    os.symlink(f"{WORLD['home']}/.ssh", inside("ssh"))
    os.close(os.open(inside("ssh/id_ed25519"), os.O_RDONLY))


@attempt("move the secrets into the scope", "out")
def _(_at: At, inside: At) -> None:
    if HOOKS:
        return  # the next levels need them
    os.rename(f"{WORLD['home']}/.ssh", inside("ssh"))


@attempt("a table in the spool of cron", "bare")
def _(_at: At, _: At) -> None:
    os.close(os.open(f"{WORLD['at']}/cron/root", os.O_WRONLY | os.O_CREAT, 0o600))


for _name, _flags in {"append": os.O_WRONLY | os.O_APPEND, "read and write": os.O_RDWR}.items():
    attempt(f"the audit log: {_name}", "bare")(
        lambda _a, _b, flags=_flags: os.close(os.open(WORLD["audit"], flags))
    )


@attempt("the audit log: rename", "bare")
def _(_at: At, _: At) -> None:
    os.rename(WORLD["audit"], WORLD["audit"] + "x")
    os.rename(WORLD["audit"] + "x", WORLD["audit"])


@attempt("the daemon's directory: rename", "bare")
def _(_at: At, _: At) -> None:
    os.rename(f"{WORLD['project']}/.groove", f"{WORLD['project']}/.grooves")
    os.rename(f"{WORLD['project']}/.grooves", f"{WORLD['project']}/.groove")


@attempt("a setting of the kernel", "bare")
def _(_at: At, _: At) -> None:
    os.close(os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY))


@attempt("remove a device", "bare")
def _(_at: At, _: At) -> None:
    if os.getuid() == 0:
        raise OSError(13, "root might succeed, and the machine would be without it")
    os.unlink("/dev/full")


@attempt("memory shared by name", "bare")
def _(_at: At, _: At) -> None:
    raw(30, raw(29, WORLD["key"], 4096, 0o600), 0, 0)  # shmget, shmat


# Memory shared by files


@attempt("shared memory: its own", "bare")
def _(_at: At, _: At) -> None:
    mine = f"{WORLD['shared']}-mine"
    os.write(os.open(mine, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), b"x")
    os.close(os.open(mine, os.O_RDWR))
    os.unlink(mine)


@attempt("shared memory: another's", "bare")
def _(_at: At, _: At) -> None:
    os.write(os.open(WORLD["shared"], os.O_RDWR), b"hacked")


@attempt("shared memory: another's mode", "bare")
def _(_at: At, _: At) -> None:
    os.chmod(WORLD["shared"], 0o666)


@attempt("shared memory: its own in another's place", "bare")
def _(_at: At, _: At) -> None:
    mine = f"{WORLD['shared']}-mine"
    os.close(os.open(mine, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        os.rename(mine, WORLD["shared"])
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(mine)


@attempt("shared memory: a trap in it", "bare")
def _(_at: At, inside: At) -> None:
    os.symlink("/nowhere", f"{WORLD['shared']}-trap")
    os.unlink(f"{WORLD['shared']}-trap")


@attempt("shared memory: another's name", "bare")
def _(_at: At, _: At) -> None:
    os.unlink(WORLD["shared"])


# The daemon's port


def _stop(mine: socket.socket) -> None:
    """Asks the daemon to stop the other agent."""
    head = f"POST /api/agents/{WORLD['victim_id']}/stop HTTP/1.1\r\n"
    host = f"Host: 127.0.0.1:{WORLD['port']}\r\n"
    mine.settimeout(5)
    rest = "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    answer = b""
    with contextlib.suppress(ConnectionError):
        mine.sendall((head + host + rest).encode())
        answer = mine.recv(65_536)
    if not answer.startswith(b"HTTP/1.1 2"):
        raise OSError(13, answer.decode()[:20])


@attempt("ask the daemon to stop another agent", "bare")
def _(_at: At, _: At) -> None:
    with socket.create_connection(("127.0.0.1", WORLD["port"])) as mine:
        _stop(mine)


@attempt("be the daemon's own voice", "out")
def _(_at: At, inside: At) -> None:
    """Has the gate's copy be the only one of a connection, while it is looked for whose it is."""
    os.chdir(inside())
    busy = socket.socket(socket.AF_UNIX)
    busy.bind("busy")
    busy.listen(0)

    def wait(number: int) -> None:
        with contextlib.suppress(OSError):
            raw(42, number, struct.pack("=H", socket.AF_UNIX) + b"busy\0", 7)

    def fill() -> None:
        kept.append(socket.socket(socket.AF_UNIX))
        _behind(wait, kept[-1].fileno())

    kept: list[socket.socket] = []
    first = socket.socket(socket.AF_UNIX)
    kept.append(first)
    first.connect("busy")
    for _ in range(8):  # as many as the gate performs at a time
        fill()
    time.sleep(0.1)
    mine = socket.socket()
    number, away = mine.detach(), socket.socketpair()
    address = struct.pack("=H", socket.AF_INET) + struct.pack(
        "!H4s8x", WORLD["port"], b"\x7f\0\0\1"
    )
    _behind(lambda: raw(42, number, address, 16))
    time.sleep(0.05)
    fill()
    time.sleep(0.05)
    _behind(lambda: raw(42, number, address, 16))
    time.sleep(0.05)
    socket.send_fds(away[0], [b"x"], [number])
    os.close(number)
    kept.append(busy.accept()[0])
    time.sleep(0.2)
    _, descriptors, _, _ = socket.recv_fds(away[1], 1, 1)
    with socket.socket(fileno=descriptors[0]) as back:
        _stop(back)


def _behind(function: Any, *arguments: Any) -> None:
    def go() -> None:
        with contextlib.suppress(OSError):
            function(*arguments)

    threading.Thread(target=go, daemon=True).start()


assert libc
