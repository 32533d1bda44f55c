"""Where calls are made on the event loop: on local disks, as long as those answer at once."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from groove_trio.shell.mounts import SLOW_FOR_S, SLOW_S, Mounts


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    return clock


def test_a_local_disk_is_quick_and_what_is_not_known_is_not(tmp_path: Path) -> None:
    mounts = Mounts()
    assert mounts.quick(os.stat(tmp_path).st_dev)
    assert not mounts.quick(os.makedev(4000, 4000))


def test_a_disk_that_takes_long_is_left_alone_for_a_second(
    tmp_path: Path, now: list[float]
) -> None:
    mounts, device = Mounts(), os.stat(tmp_path).st_dev
    for _ in range(100):
        mounts.took(device, SLOW_S * 2)
    assert not mounts.quick(device)
    assert mounts.quick(os.stat("/proc").st_dev)  # another is not concerned
    now[0] += SLOW_FOR_S
    assert mounts.quick(device)
    for _ in range(100):
        mounts.took(device, SLOW_S / 100)
    assert mounts.quick(device)


def test_a_call_that_was_interrupted_is_no_matter(tmp_path: Path, now: list[float]) -> None:
    mounts, device = Mounts(), os.stat(tmp_path).st_dev
    mounts.took(device, SLOW_S * 5)
    assert mounts.quick(device)
    mounts.took(device, SLOW_S * 20)  # but one that takes very long is
    assert not mounts.quick(device)
