"""Attempts to get past the broker, to break it, or to slow it down."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from groove_trio.rules.scopes import Scope
from groove_trio.shell.audit import open_audit, verify_log
from groove_trio.shell.beneath import MAX_BENEATH
from groove_trio.shell.broker import Broker
from groove_trio.words.actors import OWNER
from groove_trio.words.base import AgentId
from groove_trio.words.events import AnyEvent
from groove_trio.words.knocks import Decision, Denied, Granted, Knock, Operation

A, B = AgentId("aaaaaaaa"), AgentId("bbbbbbbb")
TMP = f".groove/agents/{A}/tmp"
SLOW_S = 0.1  # far above what a bounded knock takes on a busy machine


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    for name in ("src", "docs", TMP):
        (root / name).mkdir(parents=True)
    (root / ".groove").chmod(0o700)
    return root


class Asked:
    """A running broker, and short ways to ask it."""

    def __init__(self, root: Path, broker: Broker, events: list[AnyEvent]) -> None:
        self.root, self.broker, self.events = root, broker, events

    async def add(self, agent: AgentId, *patterns: str) -> None:
        await self.broker.reserve(agent, agent[0], Scope(patterns), ".", OWNER)

    async def ask(self, operation: Operation, path: str) -> Decision:
        return await self.broker.knock(
            Knock(agent=A, operation=operation, path=path, actor=OWNER, source="library")
        )

    async def may(self, operation: Operation, path: str) -> bool:
        return isinstance(await self.ask(operation, path), Granted)


@asynccontextmanager
async def asked(root: Path) -> AsyncIterator[Asked]:
    events: list[AnyEvent] = []
    async with open_audit(root / ".groove/audit") as audit, trio.open_nursery() as nursery:
        broker = Broker(root, audit, events.append, root / ".groove/leases.json")
        await nursery.start(broker.run)
        yield Asked(root, broker, events)
        broker.close()
    assert verify_log(root / ".groove/audit").ok


# Protected names that come along


@pytest.mark.parametrize(
    "inner",
    ["CLAUDE.md", "a/AGENTS.md", ".git/hooks/pre-commit", "a/.claude/settings.json", ".envrc"],
)
@pytest.mark.parametrize("source", [f"{TMP}/x", "src/x"])
async def test_directory_with_a_protected_name_in_it_is_not_moved(
    root: Path, source: str, inner: str
) -> None:
    path = root / source / inner
    path.parent.mkdir(parents=True)
    path.touch()
    async with asked(root) as house:
        await house.add(A, "src/**")
        denied = await house.ask("rename", source)
        assert isinstance(denied, Denied)
        assert denied.rule.startswith("protected ")
        assert denied.path == source
        assert not await house.may("delete", "src/x") or source != "src/x"


async def test_directory_with_nothing_protected_in_it_is_moved(root: Path) -> None:
    for source in (f"{TMP}/x", "src/x"):
        (root / source / "a/.github").mkdir(parents=True)
        (root / source / "a/.github").rmdir()
        (root / source / "a/claude.md.txt").touch()
        (root / source / "link").symlink_to(root)
    async with asked(root) as house:
        await house.add(A, "src/**")
        assert await house.may("rename", f"{TMP}/x")
        assert await house.may("rename", "src/x")
        assert await house.may("rename", "src/new")


async def test_protected_name_that_the_scope_spells_out_comes_along(root: Path) -> None:
    (root / "src/x").mkdir()
    (root / "src/x/CLAUDE.md").touch()
    async with asked(root) as house:
        await house.add(A, "src/**", "src/x/CLAUDE.md")
        assert await house.may("rename", "src/x")


async def test_directory_too_large_to_look_through_is_not_moved(root: Path) -> None:
    big = root / "src/x"
    for number in range(MAX_BENEATH // 100):
        (big / f"{number:04d}").mkdir(parents=True)
    for number in range(MAX_BENEATH):
        os.close(os.open(big / f"f{number}", os.O_CREAT))
    async with asked(root) as house:
        await house.add(A, "src/**")
        began = time.process_time()
        denied = await house.ask("rename", "src/x")
        assert time.process_time() - began < SLOW_S
        assert isinstance(denied, Denied)
        assert "too many" in denied.reason


# Secrets by another name


async def test_secrets_are_hidden_where_their_directory_is_a_link(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dotfiles/keys").mkdir(parents=True)
    (tmp_path / "dotfiles/keys/id").touch()
    home = tmp_path / "home"
    home.mkdir()
    (home / ".ssh").symlink_to(tmp_path / "dotfiles/keys")
    monkeypatch.setenv("HOME", str(home))
    async with asked(root) as house:
        await house.add(A, "src/**")
        assert not await house.may("read", f"{home}/.ssh/id")
        assert not await house.may("read", f"{tmp_path}/dotfiles/keys/id")
        assert await house.may("read", f"{tmp_path}/dotfiles")


@pytest.mark.parametrize("tool", ["Grep", "grep_search"])
async def test_search_through_secrets_is_denied(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    home = tmp_path / "home"
    (home / "other").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    async with asked(root) as house:
        await house.add(A, "src/**")

        async def may(path: str, tool: str = tool) -> bool:
            knock = Knock(
                agent=A, operation="read", path=path, actor=OWNER, source="hook", tool=tool
            )
            return isinstance(await house.broker.knock(knock), Granted)

        assert [await may(path) for path in (f"{home}", f"{home}/.config", "/")] == [False] * 3
        assert [await may(path) for path in (f"{home}/other", ".", "src")] == [True] * 3
        assert await may(str(home), "LS")


# What a program that embeds us can hand in


@pytest.mark.parametrize(
    "field",
    [
        {"source": object()},
        {"source": []},
        {"source": "\udcff"},
        {"operation": "\udcff"},
        {"actor": None},
    ],
)
async def test_knock_with_a_senseless_field_does_not_end_the_broker(
    root: Path, field: dict[str, Any]
) -> None:
    async with asked(root) as house:
        await house.add(A, "src/**")
        fields: dict[str, Any] = {
            "agent": A,
            "operation": "write",
            "path": "src/x",
            "actor": OWNER,
        } | field
        await house.broker.knock(Knock(**({"source": "library"} | fields)))
        assert await house.may("write", "src/x")
        msgspec.json.encode(house.events)


async def test_lease_with_a_reason_that_is_no_text_does_not_end_the_broker(root: Path) -> None:
    async with asked(root) as house:
        await house.add(A, "src/**")
        lease = await house.broker.declare(A, ["docs/x"], 60, "caf\udce9")
        assert lease.reason == "caf\\udce9"
        assert await house.may("write", "docs/x")
        msgspec.json.encode(house.events)


# A lease file that nobody here wrote


@pytest.mark.parametrize(
    "paths",
    [
        ["../x/"],
        ["a//b/"],
        ["x/./y"],
        ["/etc/"],
        ["/"],
        [""],
        [],
        ["a\0b/"],
        ["docs/" + "x" * 5000],
        [f"w{number}" for number in range(65)],
    ],
)
async def test_lease_on_what_is_no_path_is_dropped(root: Path, paths: list[str]) -> None:
    lease = {"id": "11111111", "agent": A, "paths": paths, "reason": ""}
    lease |= {"since": "2020-01-01T00:00:00Z", "until": "2090-01-01T00:00:00.000000000Z"}
    file = root / ".groove/leases.json"
    file.touch(mode=0o600)
    file.write_text(json.dumps([lease]))
    async with asked(root) as house:
        await house.add(A, "src/**")
        await house.broker.restore_leases()
        assert house.broker.view().leases == []
        await house.add(B, "docs/**")


async def test_what_crashes_left_beside_the_lease_file_is_removed(root: Path) -> None:
    for number in range(3):
        (root / f".groove/.leases.json.0000000{number}.tmp").touch()
    async with asked(root) as house:
        await house.broker.restore_leases()
        assert not list((root / ".groove").glob("*.tmp"))
