from __future__ import annotations

import pytest

from groove_trio.rules.scopes import Scope
from groove_trio.words.agents import MAX_PATTERN, MAX_PATTERNS
from groove_trio.words.errors import InvalidScope


@pytest.mark.parametrize(
    ("pattern", "part"),
    [
        ("", "empty"),
        ("a" * (MAX_PATTERN + 1), f"{MAX_PATTERN + 1} characters"),
        ("..", "'..'"),
        ("a/../b", "'..'"),
        (".", "'.'"),
        ("a/./b", "'.'"),
        ("{a,..}/b", "'..'"),
        ("[.]/b", "'.'"),
        ("[.][.]", "'..'"),
        ("/a", "begins with '/'"),
        ("{a,/b}", "begins with '/'"),
        ("~/a", "begins with '~'"),
        ("{a,~b}", "begins with '~'"),
        ("!a", "begins with '!'"),
        ("{!a,b}", "begins with '!'"),
        ("a\\b", "backslash"),
        ("a//b", "empty name"),
        ("a{/,}/b", "empty name"),
        ("{,a}", "empty"),
        ("a\0b", "control"),
        ("a\nb", "control"),
        ("a\x7f", "control"),
        ("a\x9f", "control"),
        ("a\udc80", "surrogate"),
        ("a**", "glued"),
        ("**b/c", "glued"),
        ("***", "glued"),
        ("a{*,b}*", "glued"),
        ("a[b", "not closed"),
        ("a[b/c]", "not closed"),
        ("a]b", "without its '['"),
        ("[]", "empty class"),
        ("[z-a]", "backwards"),
        ("{a,b", "not closed"),
        ("{a,{b,c}}", "braces within braces"),
        ("a}b", "without its '{'"),
        ("{a,b}" * 6 + "{c,d}", "more than 64"),
    ],
)
def test_a_pattern_is_refused_with_its_reason(pattern: str, part: str) -> None:
    with pytest.raises(InvalidScope) as caught:
        Scope(["fine", pattern])
    assert part in str(caught.value)
    assert part in caught.value.fields["reason"]
    assert "pattern" in caught.value.fields


@pytest.mark.parametrize(
    "pattern",
    ["a" * MAX_PATTERN, "{a,b}" * 6, "{" + ",".join(map(str, range(64))) + "}", "a!b", "a~", "é/ü"],
)
def test_a_pattern_at_the_limit_is_taken(pattern: str) -> None:
    assert Scope([pattern]).patterns == (pattern,)


def test_a_scope_takes_so_many_patterns_and_no_more() -> None:
    assert len(Scope(map(str, range(MAX_PATTERNS))).patterns) == MAX_PATTERNS
    with pytest.raises(InvalidScope, match="at most 20"):
        Scope(map(str, range(MAX_PATTERNS + 1)))


@pytest.mark.parametrize(
    ("pattern", "inside", "outside"),
    [
        ("src/**", "src/a src/a/b src/.x", "src srca/b a/src/b"),
        ("src/", "src/a src/a/b", "src"),
        ("**", "a a/b .x", ""),
        ("*", "a .x", "a/b"),
        ("**/x", "x a/x a/b/x", "ax x/a"),
        ("a/**/b", "a/b a/x/b a/x/y/b", "ab a/xb"),
        ("*.py", "a.py .py", "a/b.py a.pyc"),
        ("?x", "ax .x", "x /x aax"),
        ("[a-c]", "a b c", "d A -"),
        ("[!a-c]", "d A - é", "a b"),
        ("[]x]", "] x", "a"),
        ("[a-]", "a -", "b"),
        ("{a,b/c}/*", "a/x b/c/x", "b/x c/x"),
        ("src{/**,}", "src src/a", "srca"),
    ],
)
def test_a_pattern_matches_as_the_table_says(pattern: str, inside: str, outside: str) -> None:
    scope = Scope([pattern])
    assert [path for path in inside.split() if not scope.matches(path)] == []
    assert [path for path in outside.split() if scope.matches(path)] == []


@pytest.mark.parametrize("path", ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "./a"])
def test_what_is_no_resolved_path_matches_nothing(path: str) -> None:
    assert Scope(["**", "a/**", "*", "a/*"]).matching(path) is None
