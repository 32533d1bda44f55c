"""Every system call of the table, made by number, inside of the scope and outside of it."""

from __future__ import annotations

import ctypes
import os
import socket
import struct

from attacker import AT_FDCWD, At, attempt, raw

NOFOLLOW, REMOVEDIR, EMPTY = 0x100, 0x200, 0x1000
TIMES = struct.pack("=qqqq", 1, 0, 2, 0)


def _open(at: At, name: str = "") -> int:
    return os.open(at(name), os.O_RDONLY)


@attempt("open: write")
def _(at: At, _: At) -> None:
    os.write(raw(2, at("file"), os.O_WRONLY, 0), b"hacked")


@attempt("open: read and write")
def _(at: At, _: At) -> None:
    os.write(raw(2, at("file"), os.O_RDWR, 0), b"hacked")


@attempt("open: append")
def _(at: At, _: At) -> None:
    os.write(raw(2, at("file"), os.O_WRONLY | os.O_APPEND, 0), b"hacked")


@attempt("open: create")
def _(at: At, _: At) -> None:
    raw(2, at("new"), os.O_CREAT, 0o600)


@attempt("open: truncate by reading")
def _(at: At, _: At) -> None:
    raw(2, at("file"), os.O_RDONLY | os.O_TRUNC, 0)


@attempt("open: access mode 3")
def _(at: At, _: At) -> None:
    raw(2, at("file"), 3 | os.O_TRUNC, 0)


@attempt("open: flags that nobody knows")
def _(at: At, _: At) -> None:
    os.write(raw(2, at("file"), os.O_WRONLY | 0x8000_0000, 0), b"hacked")


@attempt("openat: by directory")
def _(at: At, _: At) -> None:
    os.write(raw(257, _open(at), b"file", os.O_WRONLY, 0), b"hacked")


@attempt("openat: create exclusively")
def _(at: At, _: At) -> None:
    raw(257, AT_FDCWD, at("new"), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)


@attempt("openat: through a link")
def _(at: At, _: At) -> None:
    os.write(raw(257, AT_FDCWD, at("link"), os.O_WRONLY, 0), b"hacked")


@attempt("openat2: write")
def _(at: At, _: At) -> None:
    raw(437, AT_FDCWD, at("file"), struct.pack("=QQQ", os.O_WRONLY | os.O_TRUNC, 0, 0), 24)


@attempt("creat: what is there")
def _(at: At, _: At) -> None:
    raw(85, at("file"), 0o600)


@attempt("creat: what is new")
def _(at: At, _: At) -> None:
    raw(85, at("new"), 0o600)


@attempt("truncate")
def _(at: At, _: At) -> None:
    raw(76, at("file"), 3)


@attempt("mkdir")
def _(at: At, _: At) -> None:
    raw(83, at("new"), 0o755)


@attempt("mkdirat")
def _(at: At, _: At) -> None:
    raw(258, _open(at), b"new", 0o755)


@attempt("mknod: file")
def _(at: At, _: At) -> None:
    raw(133, at("new"), 0o100644, 0)


@attempt("mknodat: fifo")
def _(at: At, _: At) -> None:
    raw(259, _open(at), b"new", 0o010644, 0)


@attempt("rmdir")
def _(at: At, _: At) -> None:
    raw(84, at("empty"))


@attempt("unlink")
def _(at: At, _: At) -> None:
    raw(87, at("file"))


@attempt("unlink: a link")
def _(at: At, _: At) -> None:
    raw(87, at("link"))


@attempt("unlinkat: file")
def _(at: At, _: At) -> None:
    raw(263, _open(at), b"file", 0)


@attempt("unlinkat: directory")
def _(at: At, _: At) -> None:
    raw(263, _open(at), b"empty", REMOVEDIR)


@attempt("rename")
def _(at: At, _: At) -> None:
    raw(82, at("file"), at("new"))


@attempt("rename: over what is there")
def _(at: At, _: At) -> None:
    raw(82, at("other"), at("file"))


@attempt("rename: a directory")
def _(at: At, _: At) -> None:
    raw(82, at("full"), at("new"))


@attempt("rename: into the scope")
def _(at: At, inside: At) -> None:
    raw(82, at("file"), inside("new"))


@attempt("rename: out of the scope")
def _(at: At, inside: At) -> None:
    raw(82, inside("other"), at("file"))


@attempt("renameat")
def _(at: At, _: At) -> None:
    raw(264, _open(at), b"file", _open(at), b"new")


@attempt("renameat2: no replacing")
def _(at: At, _: At) -> None:
    raw(316, AT_FDCWD, at("file"), AT_FDCWD, at("new"), 1)


@attempt("renameat2: exchange")
def _(at: At, inside: At) -> None:
    raw(316, AT_FDCWD, inside("other"), AT_FDCWD, at("file"), 2)


@attempt("link")
def _(at: At, _: At) -> None:
    raw(86, at("file"), at("new"))


@attempt("link: into the scope")
def _(at: At, inside: At) -> None:
    raw(86, at("file"), inside("new"))
    with open(inside("new"), "r+b") as file:
        file.write(b"hacked")


@attempt("linkat: out of the scope")
def _(at: At, inside: At) -> None:
    raw(265, AT_FDCWD, inside("file"), _open(at), b"new", 0)


@attempt("linkat: of a descriptor")
def _(at: At, inside: At) -> None:
    raw(265, _open(at, "file"), b"", AT_FDCWD, inside("new"), EMPTY)


@attempt("linkat: of a descriptor under proc")
def _(at: At, inside: At) -> None:
    link = b"/proc/self/fd/%d" % _open(at, "file")
    raw(265, AT_FDCWD, link, AT_FDCWD, inside("new"), 0x400)


@attempt("symlink")
def _(at: At, _: At) -> None:
    raw(88, b"anywhere", at("new"))


@attempt("symlinkat")
def _(at: At, _: At) -> None:
    raw(266, b"anywhere", _open(at), b"new")


@attempt("chmod")
def _(at: At, _: At) -> None:
    raw(90, at("file"), 0o777)


@attempt("fchmod: opened for reading")
def _(at: At, _: At) -> None:
    raw(91, _open(at, "file"), 0o777)


@attempt("fchmodat")
def _(at: At, _: At) -> None:
    raw(268, _open(at), b"link", 0o777)


@attempt("fchmodat2")
def _(at: At, _: At) -> None:
    raw(452, AT_FDCWD, at("file"), 0o777, 0)


@attempt("fchmodat2: of a descriptor")
def _(at: At, _: At) -> None:
    raw(452, os.open(at("file"), os.O_PATH), b"", 0o777, EMPTY)


@attempt("chown")
def _(at: At, _: At) -> None:
    raw(92, at("file"), os.getuid(), -1)


@attempt("lchown")
def _(at: At, _: At) -> None:
    raw(94, at("link"), os.getuid(), -1)


@attempt("fchown: opened for reading")
def _(at: At, _: At) -> None:
    raw(93, _open(at, "file"), -1, os.getgid())


@attempt("fchownat")
def _(at: At, _: At) -> None:
    raw(260, _open(at), b"link", os.getuid(), -1, NOFOLLOW)


@attempt("utime")
def _(at: At, _: At) -> None:
    raw(132, at("file"), struct.pack("=qq", 1, 2))


@attempt("utimes")
def _(at: At, _: At) -> None:
    raw(235, at("file"), TIMES)


@attempt("futimesat")
def _(at: At, _: At) -> None:
    raw(261, _open(at), b"file", TIMES)


@attempt("utimensat")
def _(at: At, _: At) -> None:
    raw(280, AT_FDCWD, at("file"), TIMES, 0)


@attempt("utimensat: opened for reading")
def _(at: At, _: At) -> None:
    raw(280, _open(at, "file"), None, TIMES, 0)


@attempt("utimensat: under proc")
def _(at: At, _: At) -> None:
    raw(280, AT_FDCWD, b"/proc/self/fd/%d" % _open(at, "file"), TIMES, 0)


@attempt("setxattr")
def _(at: At, _: At) -> None:
    raw(188, at("file"), b"user.new", b"x", 1, 0)


@attempt("lsetxattr")
def _(at: At, _: At) -> None:
    raw(189, at("file"), b"user.new", b"x", 1, 0)


@attempt("fsetxattr: opened for reading")
def _(at: At, _: At) -> None:
    raw(190, _open(at, "file"), b"user.new", b"x", 1, 0)


@attempt("removexattr")
def _(at: At, _: At) -> None:
    raw(197, at("file"), b"user.mark")


@attempt("lremovexattr")
def _(at: At, _: At) -> None:
    raw(198, at("file"), b"user.mark")


@attempt("fremovexattr: opened for reading")
def _(at: At, _: At) -> None:
    raw(199, _open(at, "file"), b"user.mark")


@attempt("setxattrat")
def _(at: At, _: At) -> None:
    kept = ctypes.create_string_buffer(b"x")
    how = struct.pack("=QII", ctypes.addressof(kept), 1, 0)
    raw(463, AT_FDCWD, at("file"), 0, b"user.new", how, 16)


@attempt("removexattrat")
def _(at: At, _: At) -> None:
    raw(466, AT_FDCWD, at("file"), 0, b"user.mark")


@attempt("file_setattr")
def _(at: At, _: At) -> None:
    raw(469, AT_FDCWD, at("file"), struct.pack("=QIIII", 0x80, 0, 0, 0, 0), 24, 0)


def _command(at: At, command: int, value: bytes) -> None:
    raw(16, _open(at, "file"), command, value)


@attempt("ioctl: set flags")
def _(at: At, _: At) -> None:
    _command(at, 0x40086602, struct.pack("=q", 0x40))  # FS_IOC_SETFLAGS, FS_NODUMP_FL


@attempt("ioctl: set extended flags")
def _(at: At, _: At) -> None:
    _command(at, 0x401C5820, struct.pack("=IIIII8x", 0x80, 0, 0, 0, 0))  # FS_XFLAG_NODUMP


@attempt("connect")
def _(at: At, _: At) -> None:
    with socket.socket(socket.AF_UNIX) as mine:
        mine.connect(at("socket"))


@attempt("bind")
def _(at: At, _: At) -> None:
    with socket.socket(socket.AF_UNIX) as mine:
        mine.bind(at("new"))


@attempt("setsid", "bare")
def _(_at: At, _: At) -> None:
    raw(112)


@attempt("setpgid", "bare")
def _(_at: At, _: At) -> None:
    raw(109, 0, 0)


@attempt("umask", "bare")
def _(_at: At, _: At) -> None:
    raw(95, 0o22)


NOWHERE = 1  # an address where nothing is: where a call is not refused, it does no harm
REFUSED: dict[str, tuple[int, tuple[int, ...]]] = {
    "socket": (41, (1, 2, 0)),
    "socketpair": (53, (1, 2, 0, NOWHERE)),
    "unshare": (272, (0x10000000,)),
    "unshare: mounts": (272, (0x00020000,)),
    "clone": (56, (0x10000000 | 17, 0, 0, 0, 0)),
    "clone3": (435, (NOWHERE, 88)),
    "setns": (308, (-1, 0)),
    "chroot": (161, (NOWHERE,)),
    "pivot_root": (155, (NOWHERE, NOWHERE)),
    "mount": (165, (NOWHERE, NOWHERE, NOWHERE, 4096, 0)),
    "umount2": (166, (NOWHERE, 0)),
    "open_tree": (428, (-1, NOWHERE, 1)),
    "move_mount": (429, (-1, NOWHERE, -1, NOWHERE, 0)),
    "fsopen": (430, (NOWHERE, 0)),
    "fsconfig": (431, (-1, 99, 0, 0, 0)),
    "fsmount": (432, (-1, 0, 0)),
    "fspick": (433, (-1, NOWHERE, 0)),
    "mount_setattr": (442, (-1, NOWHERE, 0, NOWHERE, 32)),
    "open_tree_attr": (467, (-1, NOWHERE, 1, NOWHERE, 32)),
    "name_to_handle_at": (303, (-1, NOWHERE, NOWHERE, NOWHERE, 0)),
    "open_by_handle_at": (304, (-1, NOWHERE, 0)),
    "ioctl: TIOCSTI": (16, (-1, 0x5412, NOWHERE)),
    "ioctl: TIOCLINUX": (16, (-1, 0x541C, NOWHERE)),
    "ioctl: high half of the command": (16, (-1, 0x1_0000_5412, NOWHERE)),
    "fcntl: lease": (72, (-1, 1024, 1)),
    "bpf": (321, (99, NOWHERE, 0)),
    "perf_event_open": (298, (NOWHERE, 0, -1, -1, 0)),
    "userfaultfd": (323, (0xFFFF,)),
    "fanotify_init": (300, (0xFFFFFFFF, 0)),
    "init_module": (175, (NOWHERE, 0, NOWHERE)),
    "finit_module": (313, (-1, NOWHERE, 0)),
    "delete_module": (176, (NOWHERE, 0)),
    "kexec_load": (246, (0, 1 << 20, NOWHERE, 0)),
    "kexec_file_load": (320, (-1, -1, 0, NOWHERE, 0xFFFF)),
    "swapon": (167, (NOWHERE, 0)),
    "swapoff": (168, (NOWHERE,)),
    "acct": (163, (NOWHERE,)),
    "quotactl": (179, (0xFFFFFF, NOWHERE, 0, 0)),
    "quotactl_fd": (443, (-1, 0xFFFFFF, 0, 0)),
    "add_key": (248, (NOWHERE, NOWHERE, NOWHERE, 1, 0)),
    "request_key": (249, (NOWHERE, NOWHERE, NOWHERE, 0)),
    "keyctl": (250, (9999, 0, 0, 0, 0)),
    "mq_open": (240, (NOWHERE, 0, 0, 0)),
    "mq_unlink": (241, (NOWHERE,)),
    "io_uring_setup": (425, (1, NOWHERE)),
    "io_uring_enter": (426, (-1, 1, 1, 0, 0)),
    "io_uring_register": (427, (-1, 0, 0, 0)),
    "landlock_create_ruleset": (444, (0, 0, 1)),
    "landlock_add_rule": (445, (-1, 1, NOWHERE, 0)),
    "landlock_restrict_self": (446, (-1, 0)),
    "prlimit64": (302, (1, 7, 0, NOWHERE)),
    "ioctl: btrfs subvolume": (16, (-1, 0x5000940E, NOWHERE)),
    "ioctl: btrfs snapshot": (16, (-1, 0x50009417, NOWHERE)),
    "ioctl: bcachefs subvolume": (16, (-1, 0x4020BC10, NOWHERE)),
    "ioctl: userfaultfd": (16, (-1, 0xAA00, 0)),
    "a call that nobody knows": (9999, (0,)),
}
"""Calls that no agent may make, with what makes them fail where nothing refuses them."""


def _refused(number: int, arguments: tuple[int, ...]) -> None:
    result = raw(number, *arguments)
    if number == 56 and result == 0:
        os._exit(0)


for _name, (_number, _arguments) in REFUSED.items():
    attempt(_name, "bare")(lambda _a, _b, n=_number, a=_arguments: _refused(n, a))
