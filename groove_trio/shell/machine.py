"""What ties stored keys to this machine and this user."""

from __future__ import annotations

import os
import re
from pathlib import Path

from groove_trio.rules.envelope import Machine

MACHINE_ID_FILES = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
"""Where systemd and D-Bus keep the same id, made when the system was installed: machine-id(5)."""

_ID = re.compile(r"[0-9a-f]{32}\Z")


def this_machine() -> Machine:
    """The machine as it is now; asked anew each time, since a hostname changes while we run.

    Without a machine id, as in many containers and on images that were not started yet, that part
    is empty: keys are then bound to the hostname and the home directory alone.
    """
    return Machine(os.uname().nodename, os.path.expanduser("~"), _machine_id())


def _machine_id() -> str:
    for path in MACHINE_ID_FILES:
        try:
            told = path.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if _ID.match(told):  # not "uninitialized", nor empty
            return told
    return ""
