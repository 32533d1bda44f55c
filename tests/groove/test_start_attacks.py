"""Who wins when several want one project, and what the others are told."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest

from groove_trio import Config, open_groove
from groove_trio.words.errors import AlreadyRunning, BindRefused, PortTaken


async def test_second_groove_hears_of_the_first_also_when_it_asks_for_the_same_port(
    project: Path,
) -> None:
    async with open_groove(Config(project=project, port=0)) as first:
        with pytest.raises(AlreadyRunning) as refused:
            async with open_groove(Config(project=project, port=first.port)):
                pass
    assert refused.value.fields["url"] == first.url


async def test_taken_port_leaves_the_project_free(project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        port = squatter.getsockname()[1]
        with pytest.raises(PortTaken):
            async with open_groove(Config(project=project, port=port)):
                pass
    async with open_groove(Config(project=project, port=port)) as groove:
        assert groove.port == port


async def test_refused_host_leaves_no_trace_in_the_project(project: Path) -> None:
    before = sorted(project.rglob("*"))
    with pytest.raises(BindRefused):
        async with open_groove(Config(project=project, host="0.0.0.0", port=0)):
            pass
    assert sorted(project.rglob("*")) == before


async def test_port_is_given_back_before_the_project(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever finds the project free must find the port free as well."""
    from groove_trio.shell.daemonfile import DaemonFile

    release = DaemonFile.release
    seen: list[int] = []
    async with open_groove(Config(project=project, port=0)) as groove:

        def look(claim: DaemonFile) -> None:
            with socket.socket() as probe:
                seen.append(probe.connect_ex(("127.0.0.1", groove.port)))
            release(claim)

        monkeypatch.setattr(DaemonFile, "release", look)
    assert seen == [errno.ECONNREFUSED]
