"""What the kernel has, tried out; and what is said where something is missing."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from groove_trio.rules import landlock
from groove_trio.shell import kernel
from groove_trio.shell.caller import Caller
from groove_trio.shell.census import Census
from groove_trio.shell.kernel import Kernel, architecture, landlock_version, probe

ACTIONS = Path("/proc/sys/kernel/seccomp/actions_avail")

needs_gate = pytest.mark.skipif(
    not ACTIONS.exists() or "user_notif" not in ACTIONS.read_text() or landlock_version() == 0,
    reason="NO USER NOTIFICATION or NO LANDLOCK: not tested",
)


async def probed() -> Kernel:
    before = len(os.listdir("/proc/self/fd"))
    found = await probe(Census())
    assert len(os.listdir("/proc/self/fd")) == before
    return found


@needs_gate
async def test_a_kernel_that_has_all_of_it_offers_every_level() -> None:
    found = await probed()
    assert found.levels == ("gate", "wall", "hooks")
    assert found.missing == {}
    assert found.landlock == landlock_version()
    assert found.lacking == landlock.lacking(found.landlock)


@needs_gate
@pytest.mark.parametrize(
    ("means", "told"),
    [
        ("text", "reading an agent's memory"),
        ("directory", "reaching an agent's directory"),
        ("descriptor", "fetching an agent's descriptor"),
    ],
)
async def test_where_the_gate_cannot_see_there_is_a_wall(
    means: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> str:
        raise PermissionError(errno.EPERM, "ptrace_scope")

    monkeypatch.setattr(Caller, means, refused)
    found = await probed()
    assert found.levels == ("wall", "hooks")
    assert found.missing == {"gate": f"{told}, which failed (EPERM)"}


@needs_gate
async def test_a_filter_that_the_kernel_refuses_leaves_hooks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernel.bpf, "program", lambda *_, **__: b"\0" * 8)
    found = await probed()
    assert found.levels == ("hooks",)
    assert set(found.missing) == {"gate", "wall"}
    assert "filter: invalid argument (EINVAL)" in found.missing["gate"]


async def test_without_landlock_or_on_another_machine_nothing_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernel, "landlock_version", lambda: 0)
    found = await probed()
    assert found.levels == ("hooks",)
    assert "Landlock" in found.missing["gate"]
    assert found.lacking == ("Landlock",)
    monkeypatch.setattr(kernel.platform, "machine", lambda: "riscv64")
    assert architecture() is None
    found = await probed()
    assert found.levels == ("hooks",)
    assert found.missing["wall"] == "x86_64 or aarch64, not riscv64"


@pytest.mark.parametrize("version", range(1, 9))
def test_each_version_is_asked_only_for_what_it_has(version: int) -> None:
    rights = landlock.handled(version)
    assert bool(rights & landlock.REFER) == (version >= 2)
    assert bool(rights & landlock.TRUNCATE) == (version >= 3)
    assert not rights & 0x8000  # IOCTL_DEV, never
    assert bool(landlock.scoped(version)) == (version >= 6)
    assert rights & 0x1FFF == 0x1FFF
    assert bool(landlock.lacking(version)) == (version < 6)
