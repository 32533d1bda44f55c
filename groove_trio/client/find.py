"""Finds the daemon: by its address, or by the project that it was started for."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from groove_trio.words.errors import BadRequest, Unreachable, shown

STATE = ".groove"
MAX_FACTS = 65_536  # bytes; daemon.json is a few hundred
HTTP_PORT = 80
_NOT_FACTS = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


class Address(NamedTuple):
    """Where a daemon listens; `host` is without brackets."""

    host: str
    port: int

    @property
    def authority(self) -> str:
        """What goes into the Host field, such as ``127.0.0.1:31415`` or ``[::1]:31415``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Such as ``http://127.0.0.1:31415``."""
        return f"http://{self.authority}"


def parse_url(url: str) -> Address:
    """Reads a daemon's URL.

    Raises:
        BadRequest: It is not of the form ``http://127.0.0.1:31415``.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    extras = (parts.path.strip("/"), parts.query, parts.fragment, parts.username, parts.password)
    if parts.scheme != "http" or not host or any(extras) or port == 0:
        raise BadRequest(f"{shown(url)} is not like http://127.0.0.1:31415", field="url")
    return Address(host, HTTP_PORT if port is None else port)


def find_project(start: str | os.PathLike[str] | None = None) -> Path:
    """Walks up from a directory to the project that a daemon was started for.

    Args:
        start: Where to begin; the current directory if None.

    Raises:
        Unreachable: No directory on the way holds ``.groove/daemon.json``.
    """
    origin = Path(start if start is not None else os.curdir).absolute()
    for place in (origin, *origin.parents):
        if os.path.isfile(place / STATE / "daemon.json"):  # is_file() raises where we may not look
            return place
    raise Unreachable(
        f"no daemon runs for {shown(str(origin))} or a directory above it; "
        "start one: groove-trio start",
        project=str(origin),
    )


def address_of(project: Path) -> Address:
    """Where the daemon of a project says it listens.

    Raises:
        Unreachable: Its ``daemon.json`` is gone or makes no sense.
    """
    address = _published(project)
    if address is None:
        raise Unreachable(
            f"no daemon runs for {shown(str(project))}; start one: groove-trio start",
            project=str(project),
        )
    return address


def _published(project: Path) -> Address | None:
    try:
        with (project / STATE / "daemon.json").open("rb") as file:
            facts = json.loads(file.read(MAX_FACTS))
        return None if _is_gone(facts) else parse_url(facts["url"])
    except (*_NOT_FACTS, OSError, BadRequest):
        return None  # not what a daemon writes


def _is_gone(facts: dict[str, object]) -> bool:
    """Whether the process that wrote ``daemon.json`` is known to have ended.

    A daemon that was killed leaves the file behind, and its port may be that of another
    project's daemon by now, which must not get this one's orders.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        with open(f"/proc/{int(str(facts['pid']))}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return True
    return int(fields[19]) != facts["startTicks"]  # field 22 of proc_pid_stat(5)
