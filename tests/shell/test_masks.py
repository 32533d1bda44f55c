"""What is remembered of callers' file creation masks, and when it is not."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from groove_trio.shell.caller import REMEMBER_S, Caller, Remembered


@pytest.fixture(autouse=True)
def mask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    return clock


def test_a_mask_is_read_once_in_a_while(now: list[float]) -> None:
    masks, caller = Remembered(Caller.umask), Caller(os.getpid())
    assert masks.of(caller) == 0o022
    os.umask(0o077)
    assert masks.of(caller) == 0o022
    now[0] += REMEMBER_S * 1.01
    assert masks.of(caller) == 0o077


def test_whoever_sets_his_is_read_anew_until_that_is_done(now: list[float]) -> None:
    masks, caller = Remembered(Caller.umask), Caller(os.getpid())
    assert masks.of(caller) == 0o022
    masks.changes()
    assert masks.of(caller) == 0o022  # not yet: he was only let go on
    os.umask(0o077)
    assert masks.of(caller) == 0o077
    os.umask(0o027)
    now[0] += REMEMBER_S * 1.01
    assert masks.of(caller) == 0o027
    os.umask(0o022)
    assert masks.of(caller) == 0o027
