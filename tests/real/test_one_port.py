"""Every socket of a daemon's whole process tree, as the kernel lists them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from groove_trio import AgentSpec, connect_groove, schemas
from groove_trio.cli.launch import start_detached, stop_daemon

OURS = {"GROOVE_URL", "GROOVE_AGENT", "GROOVE_PROJECT"}


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in OURS & os.environ.keys():
        monkeypatch.delenv(name)
    yield start_detached(tmp_path, port=0).url
    stop_daemon(tmp_path)


def tree_of(pid: int) -> list[psutil.Process]:
    """The daemon, its guard where it has one, and all beneath."""
    daemon = psutil.Process(pid)
    parent = daemon.parent()
    guarded = parent is not None and any("guard" in word for word in parent.cmdline())
    root = parent if parent is not None and guarded else daemon
    return [root, *root.children(recursive=True)]


def open_to_others(process: psutil.Process) -> set[tuple[str, int]]:
    """Where a process listens or takes datagrams."""
    return {
        (found.laddr.ip, found.laddr.port)
        for found in process.net_connections(kind="inet")
        if found.status == psutil.CONN_LISTEN
        or (found.type == socket.SOCK_DGRAM and not found.raddr)
    }


async def test_a_daemon_with_agents_has_one_listening_socket(url: str) -> None:
    async with connect_groove(url=url) as groove:
        for name in ("one", "two"):
            spec = AgentSpec(role="r", name=name, argv=["sleep", "60"], scope=[f"{name}/**"])
            await groove.spawn(spec)
        status: schemas.Status = await groove.status()
    tree = tree_of(status.pid)
    assert len(tree) >= 3
    found = {address for process in tree for address in open_to_others(process)}
    host, _, port = url.removeprefix("http://").rpartition(":")
    assert found == {(host, int(port))}
