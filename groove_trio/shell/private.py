"""The directory that belongs to the user and not to a project: where it is, and its lock.

```
~/.config/groove-trio/   0700; platformdirs says where, so XDG_CONFIG_HOME moves it
  seed                   0600, 32 random bytes
  credentials.json       0600, the encrypted keys
  lock                   0600, empty; held by whoever changes one of them
```

All of it blocks for the disk: call it in a thread.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from groove_trio.shell.files import ensure_private_dir, open_private
from groove_trio.words.errors import Busy, UnsafeState, shown

APP_NAME = "groove-trio"
LOCK = "lock"
LOCK_WAIT_S = 10.0
"""How long a change waits for another: thousands of times what one takes on a slow disk."""

_PAUSE_S = 0.005


def config_directory() -> Path:
    """Where the user's own files are; nothing is made or checked.

    Raises:
        UnsafeState: The user has no home directory, or one that is relative: that would be another
            place for each working directory, and inside the project for the daemon.
    """
    try:
        directory = platformdirs.user_config_path(APP_NAME, appauthor=False)
    except RuntimeError as error:
        raise UnsafeState(f"{error}; set HOME or XDG_CONFIG_HOME") from error
    if not directory.is_absolute():
        detail = f"the configuration directory {shown(str(directory))} is not an absolute path"
        raise UnsafeState(f"{detail}; check XDG_CONFIG_HOME and HOME", path=str(directory))
    return directory


def ensure_config_directory(directory: Path) -> None:
    """Makes the directory, and those above it, or checks the one that is there.

    Raises:
        UnsafeState: It has the wrong type, owner or mode, or can't be made.
    """
    try:
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # as XDG asks
        ensure_private_dir(directory)
    except OSError as error:
        detail = f"the directory {shown(str(directory))} can't be made: {error.strerror}"
        detail += "; XDG_CONFIG_HOME names another place for it"
        raise UnsafeState(detail, path=str(directory), reason=str(error.strerror)) from error


@contextmanager
def locked(directory: Path) -> Generator[None]:
    """Keeps every other process out that would change a file of the directory.

    Nobody holds it for longer than it takes to derive a key and replace a file, and the kernel
    drops it with the process that held it. Makes the directory.

    Raises:
        UnsafeState: The directory or the lock has the wrong type, owner or mode.
        Busy: Another has held it for `LOCK_WAIT_S`; a stopped process, say.
        OSError: The lock can't be made.
    """
    ensure_config_directory(directory)
    # Closing the descriptor gives the lock back. It is never deleted: a lock on a file that is
    # gone keeps nobody out.
    lock = open_private(directory / LOCK, os.O_RDWR | os.O_CREAT)
    try:
        _wait(lock, directory)
        yield
    finally:
        os.close(lock)


def _wait(lock: int, directory: Path) -> None:
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                detail = f"another process has held {shown(str(directory / LOCK))} for long"
                raise Busy(f"{detail}; see which with: lsof {directory / LOCK}") from error
        time.sleep(_PAUSE_S)
