"""Which system calls knock, which are refused, and which don't exist for an agent.

The filter that this table becomes looks at numbers and registers only; it cannot follow a
pointer. So it stops what *may* change a file, and the gate looks closer. What it lets through
untouched are calls that change nothing outside the process, or that work on a descriptor that
was opened for writing and therefore knocked already.

Three answers:

- ``knock``: the kernel holds the caller and asks the gate, which decides and performs.
- ``refuse``: the gate answers with an error and puts it on record: no agent needs it, and it
  leads out of the sandbox, or round the gate.
- ``absent``: the kernel answers ENOSYS by itself, as an older kernel would, and programs fall
  back to a call that can be looked at: `openat2` and `clone3` carry their flags behind a
  pointer, `io_uring` performs file operations that no filter sees.

Numbers are those of ``arch/x86/entry/syscalls/syscall_64.tbl`` and of
``include/uapi/asm-generic/unistd.h``, which aarch64 uses; None where the architecture has not
got the call. A number newer than `NEWEST` is absent, whatever it will mean.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Answer = Literal["knock", "refuse", "absent"]
Architecture = Literal["x86_64", "aarch64"]

NEWEST: Final = 469
"""The last call that was looked at, `file_setattr` of Linux 6.17."""

ARCHITECTURES: Final[dict[Architecture, int]] = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""AUDIT_ARCH_*, include/uapi/linux/audit.h."""

X32_BIT: Final = 0x40000000
"""__X32_SYSCALL_BIT: the calls of the x32 ABI come under the name of x86_64."""


@dataclass(frozen=True, slots=True)
class Test:
    """A condition on the low half of a register: ``(argument & mask)`` is one of `values`.

    With `negate`, is none of them.
    """

    argument: int
    mask: int
    values: tuple[int, ...]
    negate: bool = False

    def holds(self, register: int) -> bool:
        """Whether it holds for what a register has."""
        return ((register & self.mask & 0xFFFFFFFF) in self.values) is not self.negate


@dataclass(frozen=True, slots=True)
class Call:
    """A system call that does not simply go through.

    Attributes:
        name: As the manual has it; the gate's name for what is to be done.
        x86_64: Its number there.
        aarch64: Its number there.
        when: All must hold for `answer` to be given; the call goes through otherwise.
        answer: What happens.
    """

    name: str
    x86_64: int | None
    aarch64: int | None
    answer: Answer = "knock"
    when: tuple[Test, ...] = ()

    def holds(self, arguments: Sequence[int]) -> bool:
        """Whether it is meant, of the calls of its number."""
        return all(test.holds(arguments[test.argument]) for test in self.when)

    def number(self, architecture: Architecture) -> int | None:
        """Its number on an architecture, if it has one."""
        return self.x86_64 if architecture == "x86_64" else self.aarch64


WRITE_INTENT: Final = 0o3 | 0o100 | 0o1000 | 0o20000000
"""Flags of an open that can change something: O_ACCMODE, O_CREAT, O_TRUNC and __O_TMPFILE, the
same on both architectures. Reads have none of them and are never stopped."""

AF_UNIX: Final = 1
NEW_NAMESPACES: Final = 0x7E020080
"""CLONE_NEW*: user, mount, pid, net, ipc, uts, cgroup and time; a user namespace gives back
every capability inside it."""

FILE_IOCTLS: Final = (
    0x40086602,  # FS_IOC_SETFLAGS: immutable, append-only
    0x40046602,  # FS_IOC32_SETFLAGS
    0x401C5820,  # FS_IOC_FSSETXATTR
    0x40087602,  # FS_IOC_SETVERSION
    0x40047602,  # FS_IOC32_SETVERSION
    0x800C6613,  # FS_IOC_SET_ENCRYPTION_POLICY
    0x40806685,  # FS_IOC_ENABLE_VERITY: makes a file read-only for ever
)
"""Commands that change a file through a descriptor that may have been opened for reading."""

ODD_IOCTLS: Final = (
    0x40086604,  # EXT4_IOC_SETVERSION
    0x40046604,  # EXT4_IOC32_SETVERSION
    0x00006609,  # EXT4_IOC_MIGRATE
    0x40047212,  # FAT_IOCTL_SET_ATTRIBUTES
    0x40186F04,  # OCFS2_IOC_REFLINK: makes a file, by a path behind a pointer
    0xC0506617,  # FS_IOC_ADD_ENCRYPTION_KEY
    0xC0406618,  # FS_IOC_REMOVE_ENCRYPTION_KEY: closes files to everybody
    0xC0406619,  # FS_IOC_REMOVE_ENCRYPTION_KEY_ALL_USERS
    0x0000AA00,  # USERFAULTFD_IOC_NEW: memory that has its reader wait, and the gate is one
)
"""The like of single file systems, and one device's; no agent needs them."""

CLONING: Final = (
    0x40049409,  # FICLONE
    0x4020940D,  # FICLONERANGE
    0xC0189436,  # FIDEDUPERANGE
)
"""The commands with btrfs' letter that all file systems share. They write to a descriptor that
was opened for writing, or change nothing that can be read."""

TERMINAL_IOCTLS: Final = (
    0x5412,  # TIOCSTI: types into somebody's terminal
    0x541C,  # TIOCLINUX: pastes into a console
)

_OPENS = (Test(1, WRITE_INTENT, (0,), negate=True),)
_OPENS_AT = (Test(2, WRITE_INTENT, (0,), negate=True),)
_MAKES_NAMESPACES = (Test(0, NEW_NAMESPACES, (0,), negate=True),)
_DATAGRAMS = (Test(0, 0xFFFFFFFF, (AF_UNIX,)), Test(1, 0xF, (2, 3)))  # SOCK_RAW is DGRAM there
_OF_VOLUMES = (  # the letters of btrfs and bcachefs
    Test(1, 0xFF00, (0x9400, 0xBC00)),
    Test(1, 0xFFFFFFFF, CLONING, negate=True),
)
_ANOTHER = (Test(0, 0xFFFFFFFF, (0,), negate=True),)
_ANOTHER_OF_A_KIND = (Test(1, 0xFFFFFFFF, (0,), negate=True),)
_OF_A_USER = (Test(0, 0xFFFFFFFF, (2,)),)  # PRIO_USER: all processes, the daemon too
_IO_OF_A_USER = (Test(0, 0xFFFFFFFF, (3,)),)  # IOPRIO_WHO_USER
_F_SETLEASE = (Test(1, 0xFFFFFFFF, (1024,)),)

CALLS: Final[tuple[Call, ...]] = (
    # Files that are opened to be changed
    Call("open", 2, None, when=_OPENS),
    Call("openat", 257, 56, when=_OPENS_AT),
    Call("creat", 85, None),
    Call("openat2", 437, 437, "absent"),
    Call("truncate", 76, 45),
    # Names
    Call("mkdir", 83, None),
    Call("mkdirat", 258, 34),
    Call("mknod", 133, None),
    Call("mknodat", 259, 33),
    Call("rmdir", 84, None),
    Call("unlink", 87, None),
    Call("unlinkat", 263, 35),
    Call("rename", 82, None),
    Call("renameat", 264, 38),
    Call("renameat2", 316, 276),
    Call("link", 86, None),
    Call("linkat", 265, 37),
    Call("symlink", 88, None),
    Call("symlinkat", 266, 36),
    # What is told of a file, by path and by descriptor
    Call("chmod", 90, None),
    Call("fchmod", 91, 52),
    Call("fchmodat", 268, 53),
    Call("fchmodat2", 452, 452),
    Call("chown", 92, None),
    Call("lchown", 94, None),
    Call("fchown", 93, 55),
    Call("fchownat", 260, 54),
    Call("utime", 132, None),
    Call("utimes", 235, None),
    Call("futimesat", 261, None),
    Call("utimensat", 280, 88),
    Call("setxattr", 188, 5),
    Call("lsetxattr", 189, 6),
    Call("fsetxattr", 190, 7),
    Call("removexattr", 197, 14),
    Call("lremovexattr", 198, 15),
    Call("fremovexattr", 199, 16),
    Call("setxattrat", 463, 463, "absent"),
    Call("removexattrat", 466, 466, "absent"),
    Call("file_setattr", 469, 469, "absent"),
    Call("ioctl", 16, 29, when=(Test(1, 0xFFFFFFFF, FILE_IOCTLS),)),
    # Sockets with a name in the file system
    Call("connect", 42, 203),
    Call("bind", 49, 200),
    Call("socket", 41, 198, "refuse", _DATAGRAMS),
    Call("socketpair", 53, 199, "refuse", _DATAGRAMS),
    # Processes that leave their session or group
    Call("setsid", 112, 157),
    Call("setpgid", 109, 154),
    # What is read only when it may have changed
    Call("umask", 95, 166),
    # Ways out
    Call("unshare", 272, 97, "refuse", _MAKES_NAMESPACES),
    Call("clone", 56, 220, "refuse", _MAKES_NAMESPACES),
    Call("clone3", 435, 435, "absent"),
    Call("setns", 308, 268, "refuse"),
    Call("chroot", 161, 51, "refuse"),
    Call("pivot_root", 155, 41, "refuse"),
    Call("mount", 165, 40, "refuse"),
    Call("umount2", 166, 39, "refuse"),
    Call("open_tree", 428, 428, "refuse"),
    Call("move_mount", 429, 429, "refuse"),
    Call("fsopen", 430, 430, "refuse"),
    Call("fsconfig", 431, 431, "refuse"),
    Call("fsmount", 432, 432, "refuse"),
    Call("fspick", 433, 433, "refuse"),
    Call("mount_setattr", 442, 442, "refuse"),
    Call("open_tree_attr", 467, 467, "refuse"),
    Call("name_to_handle_at", 303, 264, "refuse"),
    Call("open_by_handle_at", 304, 265, "refuse"),
    Call("ioctl", 16, 29, "refuse", (Test(1, 0xFFFFFFFF, TERMINAL_IOCTLS + ODD_IOCTLS),)),
    # They make and remove whole trees beneath a directory that is open for reading.
    Call("ioctl", 16, 29, "refuse", _OF_VOLUMES),
    Call("fcntl", 72, 25, "refuse", _F_SETLEASE),
    # What would see or steer other processes. Who may limit the daemon can have it killed.
    Call("prlimit64", 302, 261, "refuse", _ANOTHER),
    Call("sched_setparam", 142, 118, when=_ANOTHER),
    Call("sched_setscheduler", 144, 119, when=_ANOTHER),
    Call("sched_setaffinity", 203, 122, when=_ANOTHER),
    Call("sched_setattr", 314, 274, when=_ANOTHER),
    Call("setpriority", 141, 140, "refuse", _OF_A_USER),
    Call("setpriority", 141, 140, when=_ANOTHER_OF_A_KIND),
    Call("ioprio_set", 251, 30, "refuse", _IO_OF_A_USER),
    Call("ioprio_set", 251, 30, when=_ANOTHER_OF_A_KIND),
    # The kernel itself
    Call("bpf", 321, 280, "refuse"),
    Call("perf_event_open", 298, 241, "refuse"),
    Call("userfaultfd", 323, 282, "refuse"),
    Call("fanotify_init", 300, 262, "refuse"),
    Call("init_module", 175, 105, "refuse"),
    Call("finit_module", 313, 273, "refuse"),
    Call("delete_module", 176, 106, "refuse"),
    Call("kexec_load", 246, 104, "refuse"),
    Call("kexec_file_load", 320, 294, "refuse"),
    Call("swapon", 167, 224, "refuse"),
    Call("swapoff", 168, 225, "refuse"),
    Call("acct", 163, 89, "refuse"),
    Call("quotactl", 179, 60, "refuse"),
    Call("quotactl_fd", 443, 443, "refuse"),
    Call("add_key", 248, 217, "refuse"),  # the user's keyrings are outside every scope
    Call("request_key", 249, 218, "refuse"),
    Call("keyctl", 250, 219, "refuse"),
    Call("mq_open", 240, 180, "refuse"),  # message queues have names outside every scope, too
    Call("mq_unlink", 241, 181, "refuse"),
    Call("io_uring_setup", 425, 425, "absent"),
    Call("io_uring_enter", 426, 426, "absent"),
    Call("io_uring_register", 427, 427, "absent"),
    # A sandbox inside this one would bind the caller, and not the daemon that performs for it.
    Call("landlock_create_ruleset", 444, 444, "absent"),
    Call("landlock_add_rule", 445, 445, "absent"),
    Call("landlock_restrict_self", 446, 446, "absent"),
)
"""Every call that does not simply go through. One call may stand here twice, with different
conditions; the first that holds decides."""

REFUSED_WITH: Final = errno.EPERM
"""What a refused call gets: as from a kernel that asks for a capability."""


def by_number(architecture: Architecture) -> dict[int, list[Call]]:
    """The calls of an architecture, by number, in the order of the table."""
    found: dict[int, list[Call]] = {}
    for call in CALLS:
        number = call.number(architecture)
        if number is not None:
            found.setdefault(number, []).append(call)
    return found
