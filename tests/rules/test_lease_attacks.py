"""Leases on odd directories, and very many of them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groove_trio.rules.locks import Declared, Held, LockTable
from groove_trio.rules.owners import Overlap
from groove_trio.rules.scopes import Scope, overlap
from groove_trio.words.base import AgentId
from groove_trio.words.leases import LeaseId

A, B = AgentId("aaaaaaaa"), AgentId("bbbbbbbb")
SLOW_S = 1.0  # ten seconds were needed once


def leased(*claims: str) -> LockTable:
    table = LockTable()
    assert table.reserve(A, "a", Scope([])) is None
    assert isinstance(table.declare(A, claims, 0, 60, "", LeaseId("00000001")), Declared)
    return table


@pytest.mark.parametrize(
    "directory", ["x" * 250, "lib[a]", "li*", "l?b", "{lib,src}", "d/" * 150 + "e"]
)
def test_lease_on_an_odd_directory_is_in_nobodys_way(directory: str) -> None:
    table = leased(f"{directory}/")
    assert table.reserve(B, "b", Scope(["lib/**", "src/**"])) is None


@pytest.mark.parametrize("directory", ["x" * 250, "l[a]", "d/" * 150 + "e", "\x01", "e\u0301"])
def test_lease_on_an_odd_directory_holds_all_of_it(directory: str) -> None:
    table = leased(f"{directory}/")
    for pattern in ("**", "*/**", "**/*.md"):
        assert isinstance(table.reserve(B, "b", Scope([pattern])), Overlap)


def test_scope_far_down_is_not_in_the_way_of_a_long_directory() -> None:
    table = LockTable()
    assert table.reserve(A, "a", Scope([])) is None
    assert table.reserve(B, "b", Scope(["docs/" + "y" * 190])) is None
    claim = "docs/" + "z" * 198 + "/q/"
    assert isinstance(table.declare(A, [claim], 0, 60, "", LeaseId("00000001")), Declared)
    assert isinstance(table.declare(A, ["docs/"], 0, 60, "", LeaseId("00000002")), Held)


def test_reserving_beside_thousands_of_leased_directories_is_fast() -> None:
    table = LockTable()
    for agent in range(40):
        name = AgentId(f"{agent:08x}")
        assert table.reserve(name, name, Scope([])) is None
        for number in range(4):
            claims = [f"d{agent}/{number}/{each}/{'n' * 100}/" for each in range(60)]
            lease = LeaseId(f"{agent:04x}{number:04x}")
            assert isinstance(table.declare(name, claims, 0, 60, "", lease), Declared)
    began = time.process_time()
    assert table.reserve(A, "a", Scope(["src/**", "lib/*.py", "s?c/*/**", "*/x/**"])) is None
    assert time.process_time() - began < SLOW_S


def test_longest_directory_is_compared_with_any_scope() -> None:
    directory = "p/" * 2040
    for pattern in ("**/x", "*/*/**", "p/[a-z]/**", "p" * 200, "q*/**"):
        table = LockTable()
        assert table.reserve(A, "a", Scope([])) is None
        assert table.reserve(B, "b", Scope([pattern])) is None
        answer = table.declare(A, [directory], 0, 60, "", LeaseId("00000001"))
        assert isinstance(answer, Declared if pattern[0] == "q" or pattern[1:2] == "p" else Held)


TEXT = st.text("ab.", min_size=1, max_size=3).filter(lambda name: name not in {".", ".."})
NAME = st.sampled_from(["*", "a", "b", "a*", "?b", "[ab]", "ab", "{a,b}", "*.b", "**"])


@given(st.lists(TEXT, min_size=1, max_size=4), st.lists(NAME, min_size=1, max_size=5))
def test_directory_meets_a_scope_where_a_path_of_it_does(
    names: list[str], pattern: list[str]
) -> None:
    directory, scope = "/".join(names), Scope(["/".join(pattern)])
    shared = overlap(scope, Scope([directory, f"{directory}/**"]))
    assert scope.reaches(f"{directory}/") == (shared is not None)
    assert (overlap(scope, Scope.of_claim(f"{directory}/")) is None) == (shared is None)
    if shared is not None:
        assert scope.matches(shared)
        assert Scope.of_claim(f"{directory}/").matches(shared)
