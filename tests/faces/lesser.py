"""Runs a command on a kernel that has less: ``python lesser.py landlock|listener COMMAND...``.

A filter that the command and all beneath it inherit says of one means what an older kernel says.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

SECCOMP = 317 if os.uname().machine == "x86_64" else 277
CREATE_RULESET = 444
NEW_LISTENER = 8
NUMBER, FLAGS = 0, 24  # offsets in struct seccomp_data: the call, its second argument

LOAD, IF_EQUAL, IF_ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
ALLOW, FAIL = 0x7FFF0000, 0x00050000

PROGRAMS = {
    "landlock": [
        (LOAD, 0, 0, NUMBER),
        (IF_EQUAL, 0, 1, CREATE_RULESET),
        (RETURN, 0, 0, FAIL | errno.ENOSYS),
        (RETURN, 0, 0, ALLOW),
    ],
    "listener": [
        (LOAD, 0, 0, NUMBER),
        (IF_EQUAL, 0, 3, SECCOMP),
        (LOAD, 0, 0, FLAGS),
        (IF_ANY_BIT, 0, 1, NEW_LISTENER),
        (RETURN, 0, 0, FAIL | errno.EINVAL),
        (RETURN, 0, 0, ALLOW),
    ],
}


def main(lacks: str, command: list[str]) -> None:
    code = b"".join(struct.pack("=HBBI", *each) for each in PROGRAMS[lacks])
    program = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("=HxxxxxxQ", len(code) // 8, ctypes.addressof(program))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, header, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
