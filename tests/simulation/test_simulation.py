"""Whole daemons under crashes, cancellations and a sick disk, each seed another story.

``GROOVE_SIMULATION_SEEDS=2000`` plays so many, ``GROOVE_SIMULATION_SEED=7`` that one again.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from actions import play

EVERY_DAY = 100
MEMORY = Path("/dev/shm")  # the disk is a model in any case, and deleting takes a real one long


def seeds() -> range:
    one = os.environ.get("GROOVE_SIMULATION_SEED")
    if one:
        return range(int(one), int(one) + 1)
    return range(int(os.environ.get("GROOVE_SIMULATION_SEEDS", EVERY_DAY)))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="groove-simulation-", dir=MEMORY) as directory:
        yield Path(directory)


@pytest.mark.parametrize("seed", seeds())
def test_daemon_keeps_its_word(seed: int, place: Path) -> None:
    play(seed, place)
