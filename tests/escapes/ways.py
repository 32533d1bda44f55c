"""Ways round: links, descriptors, other processes' views, programs that know nothing of scopes."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence

from attacker import AT_FDCWD, WORLD, At, attempt, libc, raw

EMPTY, FOLLOW = 0x1000, 0x400
TMPFILE = os.O_TMPFILE


def write(path: bytes | str, flags: int = os.O_WRONLY) -> None:
    """Writes by a path."""
    descriptor = os.open(path, flags, 0o644)
    os.write(descriptor, b"hacked")
    os.close(descriptor)


# Links


@attempt("a chain of links", "out")
def _(at: At, inside: At) -> None:
    target = at("file")
    for number in range(20):
        os.symlink(target, inside(f"link{number}"))
        target = inside(f"link{number}")
    write(target)


@attempt("a dangling link", "out")
def _(at: At, inside: At) -> None:
    os.symlink(at("new"), inside("dangling"))
    write(inside("dangling"), os.O_WRONLY | os.O_CREAT)


@attempt("a link to a directory", "out")
def _(at: At, inside: At) -> None:
    os.symlink(at(), inside("elsewhere"))
    write(inside("elsewhere/new"), os.O_WRONLY | os.O_CREAT)


@attempt("a link that goes up", "out")
def _(at: At, inside: At) -> None:
    os.symlink(os.path.relpath(at("file"), inside()), inside("up"))
    write(inside("up"))


@attempt("a link made again after a denial", "out")
def _(at: At, inside: At) -> None:
    os.symlink(inside("file"), inside("turning"))
    write(inside("turning"))
    os.unlink(inside("turning"))
    os.symlink(at("file"), inside("turning"))
    write(inside("turning"))


@attempt("a hard link in the scope", "out")
def _(at: At, inside: At) -> None:
    os.link(at("file"), inside("mine"))
    write(inside("mine"))


@attempt("a directory moved away beneath its user", "out")
def _(at: At, inside: At) -> None:
    place = os.open(inside("full"), os.O_RDONLY)
    os.rename(inside("full"), at("got"))
    os.close(os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=place))


# Names


@attempt("dots", "out")
def _(at: At, inside: At) -> None:
    write(inside() + b"/../../docs/" + os.path.basename(at()) + b"/file")


@attempt("dots behind a link", "out")
def _(at: At, inside: At) -> None:
    os.symlink(at("full"), inside("deep"))
    write(inside("deep/../file"))


@attempt("a working directory outside", "out")
def _(at: At, _: At) -> None:
    os.chdir(at())
    write(b"file")


@attempt("a working directory reached by descriptor", "out")
def _(at: At, _: At) -> None:
    os.fchdir(os.open(at(), os.O_PATH))
    write(b"./full/../file")


@attempt("a working directory that was removed", "out")
def _(at: At, inside: At) -> None:
    os.chdir(inside("empty"))
    os.rmdir(inside("empty"))
    write(b"new", os.O_WRONLY | os.O_CREAT)


@attempt("a directory that is open as a place", "out")
def _(at: At, _: At) -> None:
    raw(83, b"/proc/self/fd/%d/new" % os.open(at(), os.O_PATH), 0o755)


@attempt("a path that is absolute, with a directory", "out")
def _(at: At, inside: At) -> None:
    os.close(os.open(at("file"), os.O_WRONLY | os.O_TRUNC, dir_fd=os.open(inside(), os.O_RDONLY)))


@attempt("a directory that is none", "out")
def _(at: At, inside: At) -> None:
    raw(257, os.open(inside("file"), os.O_RDONLY), b"../file", os.O_WRONLY, 0)


@attempt("a name that is not UTF-8")
def _(at: At, _: At) -> None:
    write(at() + b"/\xff\xfe", os.O_WRONLY | os.O_CREAT)


@attempt("a name with a newline")
def _(at: At, _: At) -> None:
    write(at() + b'/a\nb"}', os.O_WRONLY | os.O_CREAT)


@attempt("a path as long as can be")
def _(at: At, _: At) -> None:
    long = at() + b"/." * ((4094 - len(at()) - len("/file")) // 2) + b"/file"
    write(long)


@attempt("a path that is too long", "out")
def _(at: At, _: At) -> None:
    write(at() + b"/." * 2100 + b"/file")


@attempt("a path that ends where memory does")
def _(at: At, _: At) -> None:
    size = 2 * mmap.PAGESIZE
    start = libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, 0x22, -1, 0)
    raw(11, start + mmap.PAGESIZE, mmap.PAGESIZE)  # munmap
    name = at("file") + b"\0"
    ctypes.memmove(start + mmap.PAGESIZE - len(name), name, len(name))
    os.write(raw(2, start + mmap.PAGESIZE - len(name), os.O_WRONLY, 0), b"hacked")


@attempt("a path in no memory", "out")
def _(_at: At, _: At) -> None:
    raw(2, 1, os.O_WRONLY, 0)


@attempt("no path at all", "out")
def _(_at: At, _: At) -> None:
    raw(90, 0, 0o777)


# Descriptors


@attempt("reopened under proc")
def _(at: At, _: At) -> None:
    write(b"/proc/self/fd/%d" % os.open(at("file"), os.O_RDONLY))


@attempt("reopened under dev")
def _(at: At, _: At) -> None:
    write(b"/dev/fd/%d" % os.open(at("file"), os.O_RDONLY))


@attempt("reopened as a thread's")
def _(at: At, _: At) -> None:
    write(b"/proc/thread-self/fd/%d" % os.open(at("file"), os.O_PATH))


@attempt("reopened by number")
def _(at: At, _: At) -> None:
    write(b"/proc/%d/fd/%d" % (os.getpid(), os.open(at("file"), os.O_RDONLY)))


@attempt("reopened through a link")
def _(at: At, inside: At) -> None:
    os.symlink(b"/proc/self/fd/%d" % os.open(at("file"), os.O_RDONLY), inside("door"))
    write(inside("door"))


@attempt("truncated though open for reading", "out")
def _(at: At, _: At) -> None:
    raw(77, os.open(at("file"), os.O_RDONLY), 0)


@attempt("allocated though open for reading", "out")
def _(at: At, _: At) -> None:
    raw(285, os.open(at("file"), os.O_RDONLY), 0, 0, 4096)


@attempt("holes punched though open for reading", "out")
def _(at: At, _: At) -> None:
    raw(285, os.open(at("file"), os.O_RDONLY), 3, 0, 4096)


@attempt("mapped to write though open for reading", "out")
def _(at: At, _: At) -> None:
    start = libc.mmap(None, 4096, 3, 1, os.open(at("file"), os.O_RDONLY), 0)
    if start in {None, 2**64 - 1}:
        raise OSError(ctypes.get_errno(), "mmap")
    ctypes.memset(start, 0, 1)


@attempt("a mapping made writable", "out")
def _(at: At, _: At) -> None:
    start = libc.mmap(None, 4096, 1, 1, os.open(at("file"), os.O_RDONLY), 0)
    raw(10, start, 4096, 3)  # mprotect
    ctypes.memset(start, 0, 1)


@attempt("a mapping whose pages are removed", "out")
def _(at: At, _: At) -> None:
    start = libc.mmap(None, 4096, 1, 1, os.open(at("file"), os.O_RDONLY), 0)
    raw(28, start, 4096, 9)  # MADV_REMOVE


@attempt("spliced into a file that is open for reading", "out")
def _(at: At, _: At) -> None:
    readable, writable = os.pipe()
    os.write(writable, b"hacked")
    raw(275, readable, None, os.open(at("file"), os.O_RDONLY), None, 6, 0)


@attempt("cloned into a file that is open for reading", "out")
def _(at: At, inside: At) -> None:
    source = os.open(inside("other"), os.O_RDONLY)
    raw(16, os.open(at("file"), os.O_RDONLY), 0x40049409, source)  # FICLONE


@attempt("an unnamed file given a name", "out")
def _(at: At, inside: At) -> None:
    unnamed = os.open(inside(), TMPFILE | os.O_RDWR, 0o600)
    raw(265, unnamed, b"", AT_FDCWD, at("new"), EMPTY)


@attempt("an unnamed file made outside", "out")
def _(at: At, inside: At) -> None:
    unnamed = os.open(at(), TMPFILE | os.O_RDWR, 0o600)
    raw(265, AT_FDCWD, b"/proc/self/fd/%d" % unnamed, AT_FDCWD, inside("new"), FOLLOW)


@attempt("a descriptor passed from child to parent", "out")
def _(at: At, _: At) -> None:
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        try:
            socket.send_fds(theirs, [b"x"], [os.open(at("file"), os.O_RDONLY)])
        finally:
            os._exit(0)
    theirs.close()
    _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if not descriptors:
        raise OSError(13, "nothing came")
    raw(91, descriptors[0], 0o777)
    write(b"/proc/self/fd/%d" % descriptors[0])


@attempt("inherited descriptors", "bare")
def _(_at: At, _: At) -> None:
    for name in os.listdir("/proc/self/fd"):
        try:
            link = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the one that the list was read through
        if link.startswith("/") and not link.startswith("/proc/") and link != "/dev/null":
            return  # something came along that was opened by somebody else
        if "seccomp" in link or "socket" in link:
            return
    raise OSError(9, "nothing of use")


# Other processes' views


@attempt("its own root", "out")
def _(at: At, _: At) -> None:
    write(b"/proc/self/root" + at("file"))


@attempt("its parent's root", "out")
def _(at: At, _: At) -> None:
    write(b"/proc/%d/root" % os.getppid() + at("file"))


@attempt("its own working directory", "out")
def _(at: At, _: At) -> None:
    os.chdir(at())
    write(b"/proc/self/cwd/file")


@attempt("the daemon's root", "out")
def _(at: At, _: At) -> None:
    write(b"/proc/%d/root" % WORLD["daemon"] + at("file"))


@attempt("the daemon's working directory", "bare")
def _(_at: At, _: At) -> None:
    os.listdir(f"/proc/{WORLD['daemon']}/cwd/")


@attempt("the daemon's descriptors", "bare")
def _(_at: At, _: At) -> None:
    for number in range(64):
        try:
            os.close(os.open(f"/proc/{WORLD['daemon']}/fd/{number}", os.O_RDWR))
        except FileNotFoundError:
            continue
        return


@attempt("the daemon's environment", "bare")
def _(_at: At, _: At) -> None:
    os.close(os.open(f"/proc/{WORLD['daemon']}/environ", os.O_RDONLY))


@attempt("the files that its father has open", "out")
def _(at: At, _: At) -> None:
    place = os.open(at("file"), os.O_RDONLY)
    father = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            os.close(place)
            write(b"/proc/%d/fd/%d" % (father, place))
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise OSError(code, os.strerror(code))


def _by(argv: Sequence[str | bytes], told: int = 13) -> None:
    """Runs a program; raises if it fails."""
    if shutil.which(os.fsdecode(argv[0])) is None:
        raise OSError(-1, "NOT HERE")
    run = subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    if run.returncode:
        raise OSError(told, run.stderr.decode())


# Programs


@attempt("sh")
def _(at: At, _: At) -> None:
    _by(["sh", "-c", 'echo hacked > "$0"', at("file")])


@attempt("sh, cleared and doubly forked", "out")
def _(at: At, _: At) -> None:
    script = 'exec env -i PATH=/usr/bin:/bin setsid sh -c \'(echo hacked > "$0") & wait $!\' "$0"'
    _by(["sh", "-c", script, at("file")])


@attempt("python")
def _(at: At, _: At) -> None:
    code = "import sys; open(sys.argv[1], 'a').write('hacked')"
    _by([sys.executable, "-S", "-c", code, at("file")])


@attempt("sed -i")
def _(at: At, _: At) -> None:
    _by(["sed", "-i", "s/the/hacked/", at("file")])


@attempt("tee")
def _(at: At, _: At) -> None:
    _by(["sh", "-c", 'echo hacked | tee "$0"', at("file")])


@attempt("tee -a")
def _(at: At, _: At) -> None:
    _by(["sh", "-c", 'echo hacked | tee -a "$0"', at("file")])


@attempt("dd")
def _(at: At, _: At) -> None:
    _by(["dd", "if=/dev/zero", b"of=" + at("file"), "bs=1", "count=9", "conv=notrunc"])


@attempt("mv into place")
def _(at: At, inside: At) -> None:
    _by(["mv", inside("other"), at("file")])


@attempt("mv away")
def _(at: At, inside: At) -> None:
    _by(["mv", at("file"), inside("taken")])


@attempt("rm -rf")
def _(at: At, _: At) -> None:
    _by(["rm", "-rf", at("full")])


@attempt("cp --reflink")
def _(at: At, inside: At) -> None:
    _by(["cp", "--reflink=auto", "--sparse=always", inside("other"), at("file")])


@attempt("install")
def _(at: At, inside: At) -> None:
    _by(["install", "-m", "755", inside("other"), at("new")])


@attempt("truncate -s 0")
def _(at: At, _: At) -> None:
    _by(["truncate", "-s", "0", at("file")])


@attempt("touch")
def _(at: At, _: At) -> None:
    _by(["touch", at("file")])


@attempt("mkfifo")
def _(at: At, _: At) -> None:
    _by(["mkfifo", at("new")])


@attempt("tar -x")
def _(at: At, inside: At) -> None:
    os.chdir(inside())
    _by(["tar", "-cf", "some.tar", "other", "full"])
    os.chdir(at())
    _by(["tar", "-xf", inside("some.tar")])


@attempt("patch")
def _(at: At, inside: At) -> None:
    with open(inside("a.patch"), "w", encoding="utf-8") as file:
        file.write("--- file\n+++ file\n@@ -1 +1 @@\n-the file as it was\n+hacked\n")
    os.chdir(at())
    _by(["patch", "-p0", "-i", inside("a.patch")])


@attempt("git apply")
def _(at: At, inside: At) -> None:
    with open(inside("a.patch"), "w", encoding="utf-8") as file:
        file.write("--- a/file\n+++ b/file\n@@ -1 +1 @@\n-the file as it was\n+hacked\n")
    os.chdir(at())
    _by(["git", "apply", "--unsafe-paths", "--directory=" + os.fsdecode(at()), inside("a.patch")])


@attempt("git checkout")
def _(at: At, inside: At) -> None:
    os.environ.update(HOME=os.fsdecode(inside()), GIT_CONFIG_NOSYSTEM="1")
    repository = inside("repository")
    _by(["git", "init", "-q", "--bare", "--template=", repository])
    git = ["git", b"--git-dir=" + repository, "-c", "user.name=x", "-c", "user.email=x@y.zz"]
    os.chdir(inside())
    _by([*git, "--work-tree=.", "add", "file"])
    _by([*git, "--work-tree=.", "commit", "-qm", "x"])
    if at() == inside():
        os.unlink(at("file"))
    else:
        os.utime(inside("file"), (1, 1))  # so that git does not take what is there for it
    _by([*git, b"--work-tree=" + at(), "checkout", "-f", "HEAD", "--", "file"])


@attempt("rsync")
def _(at: At, inside: At) -> None:
    _by(["rsync", "-a", "--inplace", inside("other"), at("file")])


@attempt("find -delete")
def _(at: At, _: At) -> None:
    _by(["find", at("full"), "-delete"])


@attempt("chmod, the program")
def _(at: At, _: At) -> None:
    _by(["chmod", "777", at("file")])


# What runs


@attempt("a program from memory", "out")
def _(at: At, _: At) -> None:
    program = os.memfd_create("program")
    with open(shutil.which("sh") or "/bin/sh", "rb") as file:
        os.write(program, file.read())
    child = os.fork()
    if child == 0:
        try:
            os.execve(program, ["sh", "-c", 'echo hacked > "$0"', at("file")], {})
        finally:
            os._exit(126)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise OSError(13 if code in {1, 2} else 8, str(code))


@attempt("a thread", "out")
def _(at: At, _: At) -> None:
    failed: list[OSError] = []

    def go() -> None:
        try:
            write(at("file"))
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=go)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


@attempt("a grandchild that lost its parents", "out")
def _(at: At, _: At) -> None:
    readable, writable = os.pipe()
    if os.fork() == 0:
        if os.fork() == 0:
            os.setsid()
            told = b"0"
            try:
                write(at("file"))
            except OSError as error:
                told = b"%d" % (error.errno or 1)
            os.write(writable, told)
        os._exit(0)
    os.close(writable)
    code = int(os.read(readable, 9) or b"1")
    if code:
        raise OSError(code, os.strerror(code))


@attempt("the calls of 32 bits", "out")
def _(at: At, _: At) -> None:
    # mov eax, 10 (unlink); mov ebx, the path; int 0x80; ret
    low = libc.mmap(None, 8192, 7, 0x22 | 0x40, -1, 0)  # MAP_32BIT
    name = at("file") + b"\0"
    ctypes.memmove(low + 4096, name, len(name))
    code = b"\x53\xb8\x0a\0\0\0\xbb" + (low + 4096).to_bytes(4, "little") + b"\xcd\x80\x5b\xc3"
    ctypes.memmove(low, code, len(code))
    result = ctypes.CFUNCTYPE(ctypes.c_int)(low)()
    if result < 0:
        raise OSError(-result, os.strerror(-result))


@attempt("the calls of x32", "out")
def _(at: At, _: At) -> None:
    raw(0x4000_0000 | 87, at("file"))


@attempt("signals that come all the time", "in")
def _(at: At, _: At) -> None:
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, False)  # else what is not yet received ends with EINTR
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    for number in range(200):
        os.close(os.open(at(f"new{number}"), os.O_CREAT | os.O_WRONLY | os.O_EXCL))
        os.unlink(at(f"new{number}"))
    signal.setitimer(signal.ITIMER_REAL, 0)
