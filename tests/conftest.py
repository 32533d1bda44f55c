"""Runs every `async def` test under trio; a test asks for the virtual clock by `autojump_clock`."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import signal
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
import trio
import trio.testing

TEST_DEADLINE_S = 60


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """A clock that jumps ahead whenever all tasks wait; never together with real processes."""
    return trio.testing.MockClock(autojump_threshold=0)


@pytest.fixture(autouse=True, scope="session")
def own_config() -> Iterator[None]:
    """Keeps every test, and every daemon that one starts, away from the user's own files.

    Not in /tmp: agents can't read what is new beside a hidden path, and tests' files are there.
    """
    with (
        tempfile.TemporaryDirectory(prefix="groove-config-", dir="/var/tmp") as config,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("XDG_CONFIG_HOME", config)
        yield


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> None:
    """A suite that a shell runs in the background ignores ^C, and so would all that it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def reaped() -> Iterator[None]:
    """Leaves no zombie to the next test, such as the guard of a daemon that a test killed."""
    yield
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


@pytest.fixture(autouse=True)
def unmoved() -> Iterator[None]:
    """Holds every test to leaving the process where it was, for the tests that come after it."""
    before = os.getcwd()
    yield
    assert os.getcwd() == before


def _as_sync(function: Any, clock: trio.abc.Clock | None) -> Any:
    @functools.wraps(function)
    def run(**arguments: Any) -> None:
        async def main() -> None:
            with trio.fail_after(TEST_DEADLINE_S if clock is None else 3600):
                await function(**arguments)

        trio.run(main, clock=clock, strict_exception_groups=True)

    return run


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """Wraps coroutine tests; everything else is pytest's own."""
    if inspect.iscoroutinefunction(pyfuncitem.obj):
        # Also when another fixture asked for the clock.
        clock = pyfuncitem.funcargs.get("autojump_clock")
        pyfuncitem.obj = _as_sync(pyfuncitem.obj, clock)
    return (yield)
