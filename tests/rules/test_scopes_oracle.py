"""The scope language against a slow and plain reading of its definition.

The reference expands braces by itself, turns each expansion into a regular expression name by
name, and tries every path up to a small length.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groove_trio.rules.scopes import Scope, overlap
from groove_trio.words.errors import InvalidScope

ALPHABET = "ab./"
LONGEST = 5


def valid(path: str) -> bool:
    return all(name not in {"", ".", ".."} for name in path.split("/"))


PATHS = [
    path
    for length in range(1, LONGEST + 1)
    for path in map("".join, product(ALPHABET, repeat=length))
    if valid(path)
]


def expand(pattern: str) -> list[str]:
    found = re.search(r"\{([^{}]*)\}", pattern)
    if not found:
        return [pattern]
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [each for part in found[1].split(",") for each in expand(before + part + after)]


def name_regex(name: str) -> str:
    def token(match: re.Match[str]) -> str:
        text = match[0]
        if text == "*":
            return "[^/]*"
        if text == "?":
            return "[^/]"
        if text[0] == "[":
            return "(?!/)" + text.replace("[!", "[^")
        return re.escape(text)

    return re.sub(r"\[!?[^\]]*\]|.", token, name)


@cache
def reference(pattern: str) -> re.Pattern[str]:
    """Names joined by '/', where every name of a path has one character or more."""
    choices = []
    for each in expand(pattern):
        names = (each + "**" if each.endswith("/") else each).split("/")
        text = ""
        for index, name in enumerate(names):
            last = index == len(names) - 1
            if name == "**":
                text += r".+" if last else r"(?:.*/)?"
            else:
                text += name_regex(name) + ("" if last else "/")
        choices.append(text)
    return re.compile("|".join(f"(?:{each})" for each in choices), re.DOTALL)


def members(pattern: str) -> set[str]:
    return {path for path in PATHS if reference(pattern).fullmatch(path)}


PIECES = ["a", "b", ".", "*", "?", "[ab]", "[!a]", "[.b]", "/", "/**/", "{a,b}", "{b,}", "{a/b,*}"]


def readable(pattern: str) -> bool:
    try:
        Scope([pattern])
    except InvalidScope:
        return False
    return True


patterns = st.one_of(
    st.sampled_from(["**", "**/a", "a/**", "**/*", "*/**/b", ".*", "..*", "a/", "**/.?", "[.]*"]),
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map("".join).filter(readable),
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=4)
    .map(lambda pieces: "**/" + "".join(pieces))
    .filter(readable),
)


@given(patterns)
@settings(max_examples=300, deadline=None)
def test_a_scope_matches_what_the_definition_says(pattern: str) -> None:
    scope = Scope([pattern])
    assert {path for path in PATHS if scope.matches(path)} == members(pattern)


@given(st.lists(patterns, min_size=1, max_size=4), st.sampled_from(PATHS))
@settings(max_examples=300, deadline=None)
def test_matching_names_the_first_pattern(texts: list[str], path: str) -> None:
    expected = next((text for text in texts if reference(text).fullmatch(path)), None)
    assert Scope(texts).matching(path) == expected


@given(patterns, patterns)
@settings(max_examples=1500, deadline=None)
def test_overlap_is_exact(one: str, other: str) -> None:
    a, b = Scope([one]), Scope([other])
    found, mirrored = overlap(a, b), overlap(b, a)
    assert (found is None) == (mirrored is None)
    for witness in (found, mirrored):
        if witness is not None:
            assert valid(witness)
            assert reference(one).fullmatch(witness)
            assert reference(other).fullmatch(witness)
            assert a.matches(witness)
            assert b.matches(witness)
    if found is None:
        assert not members(one) & members(other)


@given(st.lists(patterns, max_size=5), st.lists(patterns, max_size=5))
@settings(max_examples=300, deadline=None)
def test_scopes_overlap_when_two_of_their_patterns_do(one: list[str], other: list[str]) -> None:
    pairs = [overlap(Scope([a]), Scope([b])) for a in one for b in other]
    assert (overlap(Scope(one), Scope(other)) is None) == all(each is None for each in pairs)


@pytest.mark.parametrize("pattern", ["**", "a/**", "*", "**/a", "[ab]?"])
def test_overlap_with_itself_is_found(pattern: str) -> None:
    assert overlap(Scope([pattern]), Scope([pattern])) is not None


def test_an_empty_scope_overlaps_nothing() -> None:
    assert overlap(Scope([]), Scope(["**"])) is None
    assert not Scope([]).matches("a")
