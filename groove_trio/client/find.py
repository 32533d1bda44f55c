"""Finds the daemon: by its address, or by the project that it was started for."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from groove_trio.words.errors import BadRequest, Unreachable, shown

STATE = ".groove"
MAX_FACTS = 65_536  # bytes; daemon.json is a few hundred
HTTP_PORT = 80
_NOT_FACTS = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
_LISTENING = "0A"  # TCP_LISTEN of the kernel's include/net/tcp_states.h, as /proc/net/tcp has it


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
        Unreachable: Its ``daemon.json`` is gone or makes no sense, or somebody else has taken
            the port since.
    """
    address = _published(project)
    if address is None:
        raise Unreachable(
            f"no daemon runs for {shown(str(project))}; start one: groove-trio start",
            project=str(project),
        )
    owner = listener_uid(address)
    if owner is not None and owner != os.getuid():
        raise Unreachable(
            f"the daemon of {shown(str(project))} is gone, and port {address.port} now belongs "
            f"to another user (uid {owner}); start the daemon anew: groove-trio start",
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


def listener_uid(address: Address) -> int | None:
    """Who listens at a loopback address, so that nothing is told to a squatter.

    Returns:
        The user's id; None where nobody listens or where the kernel does not tell.
    """
    if not sys.platform.startswith("linux"):
        return None
    table, anywhere, here = _rows(address)
    found: int | None = None
    try:
        with open(table, encoding="ascii") as rows:
            for row in rows:
                fields = row.split()
                if fields[3] == _LISTENING and fields[1] in (anywhere, here):
                    found = int(fields[7])
                    if fields[1] == here:
                        break
    except (OSError, LookupError, ValueError):
        return None
    return found


def _rows(address: Address) -> tuple[str, str, str]:
    """The kernel's table, and how it writes the wildcard and this very address."""
    six = ":" in address.host
    try:
        packed = socket.inet_pton(socket.AF_INET6 if six else socket.AF_INET, address.host)
    except OSError:
        packed = b""  # a name: matches no row
    words = (packed[at : at + 4] for at in range(0, len(packed), 4))
    order = -1 if sys.byteorder == "little" else 1
    here = "".join(word[::order].hex() for word in words).upper()
    anywhere = "0" * (32 if six else 8)
    port = f":{address.port:04X}"
    return "/proc/net/tcp6" if six else "/proc/net/tcp", anywhere + port, here + port
