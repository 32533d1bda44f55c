"""Whose a process is, by its line: known, the host's own, or nobody's."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator

import pytest

from groove_trio.shell.census import Census
from groove_trio.shell.lineage import attribute
from groove_trio.shell.marks import Marks
from groove_trio.shell.procfs import Process, read_process
from groove_trio.words.base import AgentId
from groove_trio.words.errors import NotAdmitted

AGENT = AgentId("3fa9c21e")


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as process:
        yield process
        process.kill()


def look(pid: int) -> Process:
    process = read_process(pid)
    assert process is not None
    return process


def test_we_are_the_owners() -> None:
    assert attribute(look(os.getpid()), Census(kill_strangers=True)) is None
    assert attribute(look(os.getppid()), Census(kill_strangers=True)) is None


def test_a_root_just_enrolled_is_its_agents(child: subprocess.Popen[bytes]) -> None:
    census = Census()
    census.enroll(AGENT, child.pid)
    assert attribute(look(child.pid), census) == AGENT


def test_without_a_mark_the_line_of_parents_decides() -> None:
    census = Census()
    census.marks.put = lambda pid, agent: None  # type: ignore[method-assign]
    with subprocess.Popen(
        ["sh", "-c", "sleep 600 & echo $!; wait"], start_new_session=True, stdout=subprocess.PIPE
    ) as shell:
        assert shell.stdout is not None
        grandchild = int(shell.stdout.readline())
        census.enroll(AGENT, shell.pid)
        assert attribute(look(grandchild), census) == AGENT
        os.killpg(shell.pid, 9)


def test_a_child_of_the_daemon_that_nobody_knows_is_refused(
    child: subprocess.Popen[bytes],
) -> None:
    with pytest.raises(NotAdmitted, match="left behind"):
        attribute(look(child.pid), Census(kill_strangers=True))


def test_an_embedding_programs_own_child_is_the_owners(child: subprocess.Popen[bytes]) -> None:
    assert attribute(look(child.pid), Census()) is None


def test_where_marks_cannot_be_put_a_child_nobody_knows_is_refused(
    child: subprocess.Popen[bytes],
) -> None:
    census = Census()
    census.marks.whole = False
    with pytest.raises(NotAdmitted):
        attribute(look(child.pid), census)


def test_a_spoiled_mark_is_nobodys(child: subprocess.Popen[bytes]) -> None:
    census = Census()
    census.enroll(AGENT, child.pid)
    resource.prlimit(child.pid, resource.RLIMIT_RSS, (4096, 4096))
    with pytest.raises(NotAdmitted, match="limits"):
        attribute(look(child.pid), census)


def test_an_agent_nobody_knows_is_another_daemons(child: subprocess.Popen[bytes]) -> None:
    Marks().put(child.pid, AGENT)
    with pytest.raises(NotAdmitted, match="another daemon"):
        attribute(look(child.pid), Census())


def test_a_process_that_is_gone_is_told_so(child: subprocess.Popen[bytes]) -> None:
    process = look(child.pid)
    child.kill()
    child.wait()
    with pytest.raises(ProcessLookupError):
        attribute(process, Census())
