"""Ending trees while the daemon is out of descriptors: it can neither look nor open a pidfd."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio

from groove_trio.shell import ending
from groove_trio.shell.census import Census
from groove_trio.shell.opening import open_tree
from groove_trio.shell.process import Tree
from groove_trio.shell.subreaper import subreaper
from groove_trio.shell.takeup import end_one
from groove_trio.words.base import AgentId
from groove_trio.words.errors import OutOfResources

AGENT = AgentId("0badcafe")
PROJECT = "/nowhere/in/particular"

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Takes every descriptor there is, as connections of a busy daemon may."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 4, hard)
    )
    try:
        while True:
            try:
                taken.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@asynccontextmanager
async def opened(*argv: str) -> AsyncIterator[tuple[Tree, Census]]:
    env = {"PATH": os.environ["PATH"], "GROOVE_AGENT": AGENT, "GROOVE_PROJECT": PROJECT}
    census = Census(project=PROJECT)
    with subreaper():
        async with await open_tree(argv=argv, cwd="/", env=env, agent=AGENT, census=census) as tree:
            yield tree, census


async def test_a_program_is_asked_to_end_without_a_descriptor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ending, "KILL_S", 0.2)
    async with opened("sh", "-c", "trap 'echo bye; exit 7' TERM; echo on; while :; do :; done") as (
        tree,
        _,
    ):
        assert await tree.receive("out") == b"on\n"
        with no_descriptors():
            await tree.stop(1)
        assert await tree.receive("out") == b"bye\n"
        assert (await tree.wait()).code == 7


async def test_a_deaf_program_is_killed_without_a_descriptor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ending, "KILL_S", 0.5)
    async with opened("sh", "-c", "trap '' TERM; echo on; sleep 600 & wait; sleep 600") as (
        tree,
        _,
    ):
        assert await tree.receive("out") == b"on\n"
        with no_descriptors():
            left = await tree.stop(0.2)
        assert left == [tree.pid]  # nobody could see that it is gone
        assert await tree.stop(0) == []
        assert (await tree.wait()).signal == "SIGKILL"


async def test_what_nobody_could_see_is_not_called_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "KILL_S", 0.3)

    async def blind() -> None:
        await trio.lowlevel.checkpoint()
        raise OSError(errno.EMFILE, "too many open files")

    async with opened("sleep", "600") as (tree, census):
        monkeypatch.setattr(census, "refresh", blind)
        monkeypatch.setattr(os, "killpg", lambda *_: None)
        assert await tree.stop(0) == [tree.pid]
        monkeypatch.undo()


async def test_a_look_that_fails_frees_nothing_of_an_earlier_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ending, "KILL_S", 0.3)
    census = Census(project=PROJECT)
    with no_descriptors(), pytest.raises(OutOfResources) as caught:
        await end_one(AGENT, census, strict=False)
    assert caught.value.fields["errno"] == "EMFILE"


async def test_what_was_reaped_by_another_is_never_signalled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    struck: list[int] = []
    monkeypatch.setattr(ending, "KILL_S", 0.2)
    async with opened("true") as (tree, _):
        await tree.wait()
        os.waitpid(tree.pid, 0)  # an embedding program that reaps everybody's children
        monkeypatch.setattr(os, "killpg", lambda pid, _: struck.append(pid))
        with no_descriptors():
            await tree.stop(0)
        monkeypatch.undo()
    assert struck == []
