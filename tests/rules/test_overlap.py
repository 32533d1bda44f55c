from __future__ import annotations

import random
from itertools import pairwise

import pytest

from groove_trio.rules.scopes import MAX_EXPANDED, Scope, ScopeIndex, overlap
from groove_trio.words.errors import InvalidScope


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("src/**", "src/a/*.py"),
        ("**/x", "a/**"),
        ("*a*", "*b*"),
        ("**/a/**", "**/b/**"),
        ("[a-f]x", "[!a-e]?"),
        ("{a,b}/**", "**/{c,d}"),
        (".?*", "?.*"),
        ("*", "[.]*"),
        ("**/..?", "*/?.*"),
        ("[\u0100-\u0200]", "[\u0180-\u0300]"),
        ("a/**/b/**/c", "a/c/**/b/**/c"),
        ("?" * 99 + "*", "*" + "?" * 120),
    ],
)
def test_a_witness_is_in_both(one: str, other: str) -> None:
    a, b = Scope([one]), Scope([other])
    for witness in (overlap(a, b), overlap(b, a)):
        assert witness is not None
        assert a.matches(witness)
        assert b.matches(witness)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("src/**", "src"),
        ("src/a/**", "src/b/**"),
        ("*.py", "**/*.js"),
        ("*a", "*b"),
        ("?", "[.]?"),
        ("?", "??"),
        ("*/*", "*"),
        ("[a-c]", "[!a-c]"),
        ("?/**", "..*/**"),
        (".[.a]", "..[!a]"),
        ("a/**/b", "a/**/c"),
        ("a/*/b", "a/b"),
        ("{a,b}/c", "{c,d}/**"),
        ("SRC/**", "src/**"),
    ],
)
def test_what_shares_nothing_has_no_witness(one: str, other: str) -> None:
    assert overlap(Scope([one]), Scope([other])) is None
    assert overlap(Scope([other]), Scope([one])) is None


def test_two_names_of_dots_alone_share_no_real_name() -> None:
    assert overlap(Scope(["[.a]"]), Scope(["[.b]"])) is None
    assert overlap(Scope(["[.a][.a]/x"]), Scope(["[.b][.b]/*"])) is None
    assert overlap(Scope(["[.a][.a][.a]"]), Scope(["[.b][.b][.b]"])) == "..."


def test_a_witness_is_text_that_json_can_carry() -> None:
    a, b = Scope(["[\ud7ff-\ue000]"]), Scope(["[!\ud7ff]"])
    assert overlap(a, b) == "\ue000"


def test_a_scope_is_bounded_with_its_braces_expanded() -> None:
    braces = "{a,b}" * 6
    assert Scope([braces + "x" * 170])
    # 64 expansions of 128 characters are 8,192: two of them are the limit.
    patterns = [braces + letter * 122 for letter in "xy"]
    assert MAX_EXPANDED == 2 * 64 * 128
    assert Scope(patterns).matches("ababab" + "y" * 122)
    with pytest.raises(InvalidScope, match="braces expanded"):
        Scope([*patterns, "z"])


def owner(number: int) -> Scope:
    kinds = ("src/pkg{}_{}/**", "lib/x{}_{}/*.py", "tests/**/test_{}_{}_*.py", "docs/*/m{}_{}/*.c")
    return Scope(kinds[index % 4].format(number, index) for index in range(8))


def test_an_index_finds_what_a_comparison_of_all_finds() -> None:
    draw = random.Random(7)
    pieces = ["a", "b", "*", "?", "/", "/**/", "{a,b}", "x", "[ab]"]
    for _ in range(40):
        held: dict[int, Scope] = {}
        index: ScopeIndex[int] = ScopeIndex()
        for number in range(12):
            texts = ("".join(draw.choices(pieces, k=5)) for _ in range(3))
            try:
                scope = Scope(texts)
            except InvalidScope:
                continue
            expected = any(overlap(scope, each) for each in held.values())
            found = index.first_overlap(scope)
            assert (found is not None) == expected
            if found is None:
                index.add(number, scope)
                held[number] = scope
            else:
                assert held[found[0]].matches(found[1])
                assert scope.matches(found[1])


def test_an_index_names_the_holder_of_a_path() -> None:
    index: ScopeIndex[int] = ScopeIndex()
    for number in range(30):
        assert index.first_overlap(owner(number)) is None
        index.add(number, owner(number))
    assert index.owner_of("src/pkg7_0/a/b.py") == (7, "src/pkg7_0/**")
    assert index.owner_of("tests/x/test_9_2_y.py") == (9, "tests/**/test_9_2_*.py")
    assert index.owner_of("docs/er/m3_3/x.c") == (3, "docs/*/m3_3/*.c")
    assert index.owner_of("src") is None
    assert index.owner_of("x" * 5000) is None


def test_an_owner_that_left_holds_nothing() -> None:
    index: ScopeIndex[str] = ScopeIndex()
    index.add("ann", Scope(["a/**"]))
    index.add("bob", Scope(["b/**"]))
    index.remove("ann")
    index.remove("nobody")
    assert index.first_overlap(Scope(["a/**"])) is None
    assert index.owner_of("a/x") is None
    index.add("bob", Scope(["c/**"]))
    assert index.owner_of("b/x") is None
    assert index.first_overlap(Scope(["**"])) is not None


def test_disjoint_neighbours_stay_disjoint_in_numbers() -> None:
    scopes = [owner(number) for number in range(20)]
    assert all(overlap(a, b) is None for a, b in pairwise(scopes))
