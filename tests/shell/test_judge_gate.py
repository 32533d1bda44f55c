"""Knocks of the gate: about paths that are resolved, and must not be resolved once more."""

from __future__ import annotations

from pathlib import Path

import pytest

from groove_trio.rules.locks import LockTable
from groove_trio.rules.scopes import Scope
from groove_trio.shell.judge import Judge
from groove_trio.words.actors import agent_actor
from groove_trio.words.base import AgentId
from groove_trio.words.knocks import Denied, Granted, Knock, Operation

A, B = AgentId("aaaaaaaa"), AgentId("bbbbbbbb")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    for name in ("src/deep", "docs", "elsewhere"):
        (root / name).mkdir(parents=True)
    (root / "src/to-docs").symlink_to("../docs")
    (root / "docs/to-src").symlink_to("../src")
    return root


@pytest.fixture
def judge(root: Path) -> Judge:
    table = LockTable()
    table.reserve(A, "a", Scope(["src/**", "lib/one/**"]))
    table.reserve(B, "b", Scope(["lib/two/**"]))
    judge = Judge(str(root), table, hidden=[])
    judge.cwds.update({A: str(root / "src"), B: str(root)})
    return judge


def asked(
    judge: Judge,
    path: str,
    operation: Operation = "write",
    call: str = "openat",
    agent: AgentId = A,
) -> bool:
    """Whether it is granted to A."""
    knock = Knock(
        agent=agent,
        operation=operation,
        path=path,
        actor=agent_actor(agent),
        source="gate",
        call=call,
    )
    decision = judge.decide(knock, 0)
    assert isinstance(decision, Granted | Denied)
    return isinstance(decision, Granted)


@pytest.mark.parametrize("operation", ["write", "create", "metadata", "delete", "rename"])
def test_no_link_is_followed_any_more(root: Path, judge: Judge, operation: Operation) -> None:
    """Whatever was put there since: what was resolved is what is decided on, and worked on."""
    assert asked(judge, f"{root}/src/to-docs/x", operation)
    assert asked(judge, f"{root}/src/to-docs", operation)
    assert not asked(judge, f"{root}/docs/to-src/x", operation)
    assert not asked(judge, f"{root}/docs/to-src", operation)


def test_a_hook_that_asks_the_same_is_resolved(root: Path, judge: Judge) -> None:
    assert not asked(judge, f"{root}/src/to-docs/x", call="")
    assert asked(judge, f"{root}/docs/to-src/x", call="")
    assert asked(judge, "x", call="")  # in its working directory


def test_what_is_no_path_of_the_project_is_denied(root: Path, judge: Judge) -> None:
    for path in (
        "x",
        "src/x",
        "",
        "/",
        "/etc/passwd",
        str(root),
        f"{root}x/src/x",
        f"{root.parent}",
    ):
        assert not asked(judge, path), path
    assert not asked(judge, f"{root}/src/../docs/x")  # which the kernel would never tell


@pytest.mark.parametrize("name", ["new\nline", "\udcff", "x (deleted)", "*", "src"])
def test_any_name_is_decided_on_as_it_is(root: Path, judge: Judge, name: str) -> None:
    assert asked(judge, f"{root}/src/{name}")
    assert not asked(judge, f"{root}/docs/{name}")


def test_directories_above_a_scope_may_be_made_and_nothing_else_of_them(
    root: Path, judge: Judge
) -> None:
    for call in ("mkdir", "mkdirat"):
        assert asked(judge, f"{root}/lib", "create", call)
        assert asked(judge, f"{root}/lib/one", "create", call)
        assert not asked(judge, f"{root}/lib/two", "create", call)
        assert not asked(judge, f"{root}/li", "create", call)
        assert not asked(judge, f"{root}/.git", "create", call)
        assert asked(judge, f"{root}/src/.git", "create", call)  # empty, it changes nothing yet
        assert not asked(judge, f"{root}/src/.git/hooks", "create", call)
    for call in ("openat", "mknodat", "symlinkat", "renameat2"):
        assert not asked(judge, f"{root}/lib", "create", call)
    for operation in ("write", "metadata", "delete", "rename"):
        assert not asked(judge, f"{root}/lib", operation, "unlinkat")


def test_a_providers_state_is_its_own_agents(root: Path, judge: Judge, tmp_path: Path) -> None:
    judge.states[A] = (str(tmp_path / "state"),)
    assert asked(judge, f"{tmp_path}/state/x/y")
    assert asked(judge, f"{tmp_path}/state", "metadata")
    assert not asked(judge, f"{tmp_path}/stately/x")
    assert not asked(judge, f"{tmp_path}/state/x", agent=B)
    assert not asked(judge, f"{tmp_path}/state/x", call="")  # a hook's word for it is not enough


def test_own_temporary_directory_is_open_and_nothing_protected_leaves_it(
    root: Path, judge: Judge
) -> None:
    own = root / f".groove/agents/{A}/tmp"
    (own / "pack/.git/hooks").mkdir(parents=True)
    (own / "plain").mkdir()
    assert asked(judge, f"{own}/x", "create")
    assert asked(judge, f"{own}/plain", "rename")
    assert not asked(judge, f"{own}/pack", "rename")
    assert not asked(judge, str(own), "rename")
    assert not asked(judge, f"{own}/x", "create", agent=B)
    assert not asked(judge, f"{root}/.groove/agents/{A}/spec.json")


def test_a_directory_with_a_protected_name_in_it_stays(root: Path, judge: Judge) -> None:
    (root / "src/deep/er").mkdir()
    assert asked(judge, f"{root}/src/deep", "rename")
    (root / "src/deep/er/CLAUDE.md").touch()
    assert not asked(judge, f"{root}/src/deep", "rename")
    assert asked(judge, f"{root}/src/deep", "delete", "rmdir")  # of what is empty, or not at all
    assert not asked(judge, f"{root}/src/deep", "delete", "")  # a tool may remove all of it
    assert asked(judge, f"{root}/src/deep/x", "rename")
    assert not asked(judge, f"{root}/src/CLAUDE.md", "rename")  # what is to be so
