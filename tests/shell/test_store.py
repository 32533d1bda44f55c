from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from groove_trio.shell import store as module
from groove_trio.shell.store import AgentStatus, Store
from groove_trio.words.agents import AgentSpec, AgentState
from groove_trio.words.base import AgentId
from groove_trio.words.errors import UnsafeState

ONE, TWO = AgentId("00000001"), AgentId("0000000a")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    store.prepare()
    return store


def spec(**fields: Any) -> AgentSpec:
    return AgentSpec(role="worker", name="w", **fields)


def status(agent: AgentId = ONE, state: AgentState = "starting", **fields: Any) -> AgentStatus:
    created = "2026-01-01T00:00:00.000000000Z"
    return AgentStatus(
        **{"id": agent, "state": state, "containment": "hooks", "created": created, **fields}
    )


def mode(path: Path) -> int:
    return path.lstat().st_mode & 0o777


def names(store: Store) -> set[str]:
    return {path.name for path in store.directory.iterdir()}


def test_everything_is_private_and_invisible_to_git(store: Store) -> None:
    old = os.umask(0)
    try:
        store.create(spec(), status())
        store.save_status(status(state="running"))
    finally:
        os.umask(old)
    for path in [store.state_dir, *store.state_dir.rglob("*")]:
        assert mode(path) == (0o700 if path.is_dir() else 0o600), path
    assert (store.state_dir / ".gitignore").read_text() == "*\n"


def test_what_was_saved_is_what_is_loaded(store: Store) -> None:
    asked = spec(
        argv=["sleep", "1"], scope=["src/**"], prompt="p", env={"A": "b"}, interactive=True
    )
    store.create(asked, status(TWO, created="2026-01-02T00:00:00.000000000Z"))
    store.create(spec(), status(ONE))
    ran = status(state="failed", reason="exit code 3", exit_code=3, pid=7, restarts=2)
    store.save_status(ran)
    store.save_spec(ONE, spec(grace_s=1.0))
    store.output(TWO).write_text('{"seq":1,"time":"t","stream":"out","text":"x"}\n{"seq":2,')
    store.output(TWO).chmod(0o600)
    one, two = store.load_all().agents
    assert (one.spec, one.status, one.last_seq) == (spec(grace_s=1.0), ran, 0)
    assert (two.spec, two.last_seq) == (asked, 1)


def test_loading_an_empty_store_finds_nothing(store: Store) -> None:
    loaded = store.load_all()
    assert (loaded.agents, loaded.aside) == ([], {})


def test_an_agent_that_cannot_be_made_leaves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    for fails in (1, 2):
        calls = []
        real = module.sync_directory

        def sync(path: Path, real: Any = real, calls: Any = calls, fails: int = fails) -> None:
            calls.append(path)
            full(path) if len(calls) == fails else real(path)

        monkeypatch.setattr(module, "sync_directory", sync)
        with pytest.raises(OSError, match="No space"):
            store.create(spec(), status())
        monkeypatch.undo()
        assert names(store) == set()


def test_removing_leaves_nothing_and_may_be_repeated(store: Store) -> None:
    store.create(spec(), status())
    (store.tmp(ONE) / "deep").mkdir()
    (store.tmp(ONE) / "deep" / "file").touch()
    store.remove(ONE)
    store.remove(ONE)
    assert names(store) == set()


def test_removing_does_not_follow_an_agents_links(store: Store, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    store.create(spec(), status())
    (store.tmp(ONE) / "link").symlink_to(precious)
    store.remove(ONE)
    assert (precious / "file").exists()


def test_half_made_and_half_removed_agents_are_cleared_away(store: Store) -> None:
    store.create(spec(), status())
    (store.directory / ".0000000b.new").mkdir()
    (store.directory / ".0000000c.gone" / "tmp").mkdir(parents=True)
    (store.directory / ONE / ".status.json.1234.tmp").touch(0o600)
    loaded = store.load_all()
    assert [agent.status.id for agent in loaded.agents] == [ONE]
    assert names(store) == {ONE}
    assert {p.name for p in (store.directory / ONE).iterdir()} == {
        "spec.json",
        "status.json",
        "tmp",
    }


@pytest.mark.parametrize("file", ["spec.json", "status.json"])
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff", b"null", b'{"role":""}', b"[" * 100_000, b'{"state":"flying"}'],
)
def test_what_cannot_be_understood_is_set_aside(store: Store, file: str, content: bytes) -> None:
    store.create(spec(), status())
    store.create(spec(), status(TWO))
    (store.directory / ONE / file).write_bytes(content)
    loaded = store.load_all()
    assert [agent.status.id for agent in loaded.agents] == [TWO]
    assert file in loaded.aside[ONE]
    assert names(store) == {f"{ONE}.bad", TWO}
    assert [agent.status.id for agent in store.load_all().agents] == [TWO]


@pytest.mark.parametrize("change", [{"id": TWO}, {"format": 2}])
def test_a_status_of_another_agent_or_format_is_set_aside(
    store: Store, change: dict[str, Any]
) -> None:
    store.create(spec(), status())
    path = store.directory / ONE / "status.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert list(store.load_all().aside) == [ONE]


def test_a_missing_file_sets_aside_and_a_second_time_too(store: Store) -> None:
    for name in (f"{ONE}.bad", f"{ONE}.2.bad"):
        store.create(spec(), status())
        (store.directory / ONE / "spec.json").unlink()
        assert list(store.load_all().aside) == [ONE]
        assert name in names(store)


@pytest.mark.parametrize("name", ["", "spec.json", "status.json", "output.jsonl", "tmp"])
def test_what_others_may_use_refuses_the_start(store: Store, name: str) -> None:
    store.create(spec(), status())
    store.output(ONE).touch(0o600)
    path = store.directory / ONE / name
    path.chmod(mode(path) | 0o040)
    with pytest.raises(UnsafeState) as caught:
        store.load_all()
    assert caught.value.fields["path"] == str(path)
    assert "mode" in caught.value.detail


@pytest.mark.parametrize("name", ["spec.json", "status.json", "output.jsonl", "tmp"])
def test_a_link_refuses_the_start(store: Store, tmp_path: Path, name: str) -> None:
    store.create(spec(), status())
    store.output(ONE).touch(0o600)
    path = store.directory / ONE / name
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeState, match="symbolic link"):
        store.load_all()


def test_a_stray_file_among_the_agents_refuses_the_start(store: Store) -> None:
    (store.directory / "stray").touch()
    with pytest.raises(UnsafeState):
        store.load_all()


def test_a_state_directory_of_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".groove").mkdir(mode=0o755)
    (tmp_path / ".groove").chmod(0o755)
    with pytest.raises(UnsafeState):
        Store(tmp_path).prepare()
