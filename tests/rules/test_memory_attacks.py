"""What grows with the number of questions asked must stop growing."""

from __future__ import annotations

from groove_trio.rules.automaton import MAX_KNOWN
from groove_trio.rules.leases import Leases
from groove_trio.rules.locks import Declared, LockTable
from groove_trio.rules.patterns import flat
from groove_trio.rules.scopes import Scope
from groove_trio.words.base import AgentId
from groove_trio.words.clock import NS
from groove_trio.words.leases import LeaseId

A = AgentId("aaaaaaaa")


def test_scope_does_not_remember_every_character_it_was_asked_about() -> None:
    scope = Scope(["src/*/t?st_*"])
    automaton = scope.automaton()
    known = automaton.remembered
    for first in range(0x3000, 0xD000, 1000):
        name = "".join(map(chr, range(first, first + 1000)))
        assert scope.matches(f"src/{name}/test_{name}")
    assert automaton.remembered <= known + MAX_KNOWN
    assert not scope.matches("src/x/tsst")


def test_scope_does_not_remember_every_class_it_was_compared_with() -> None:
    automaton = Scope(["a?b*/x"]).automaton()
    known = automaton.remembered
    for number in range(3 * MAX_KNOWN):
        _, token = flat(f"a[{chr(0x3000 + number)}-{chr(0xC000 + number)}]")
        assert not isinstance(token, str)
        automaton.meeting(token)  # type: ignore[arg-type]
    assert automaton.remembered <= known + 2 * MAX_KNOWN


def test_leases_renewed_again_and_again_leave_nothing_behind() -> None:
    table = LockTable()
    assert table.reserve(A, "a", Scope([])) is None
    for number in range(5000):
        lease = table.declare(A, ["docs/x"], NS, 86_400, "", LeaseId(f"{number:08x}"))
        assert isinstance(lease, Declared)
    assert table.leases.pending <= 2 * len(list(table.leases)) + Leases.SLACK
    assert table.leases.next_expiry() == 86_401 * NS
