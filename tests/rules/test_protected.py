from __future__ import annotations

import pytest

from groove_trio.rules.protected import PROTECTED, protected_by, shields
from groove_trio.rules.scopes import Scope


@pytest.mark.parametrize("rule", PROTECTED)
def test_a_protected_name_is_denied_in_a_scope_of_everything(rule: str) -> None:
    path = rule.replace("**", "x/y")
    for each in (path, f"sub/dir/{path}"):
        assert Scope(["**"]).permits(each) == ("**", rule)
        assert protected_by(each) == rule


@pytest.mark.parametrize("rule", PROTECTED)
def test_what_packages_ship_is_not_protected_but_for_git_and_ourselves(rule: str) -> None:
    path = rule.replace("**", "x/y")
    everywhere = rule.startswith((".git/", ".groove/"))
    for each in (f"node_modules/package/{path}", f"a/node_modules/{path}"):
        assert protected_by(each) == (rule if everywhere else None)
    assert protected_by(rule.replace("**", "node_modules/y")) == rule


@pytest.mark.parametrize("rule", [rule for rule in PROTECTED if rule.endswith("/**")])
def test_the_directory_of_a_rule_is_protected_itself(rule: str) -> None:
    assert Scope(["**"]).permits(rule.removesuffix("/**"))[1] == rule


@pytest.mark.parametrize("path", [".git", "sub/.git", ".github", ".vscode", "a/b/.vscode"])
def test_a_directory_on_the_way_to_a_rule_is_shielded(path: str) -> None:
    assert protected_by(path) is None
    assert shields(path) is not None
    assert Scope(["**"]).permits(path)[1] == shields(path)


@pytest.mark.parametrize(
    "path",
    [
        "src/a.py",
        ".git/index",
        ".git/config.lock",
        ".github/CODEOWNERS",
        ".vscode/settings.json",
        "CLAUDE.md/x",
        "CLAUDE.mdx",
        "xCLAUDE.md",
        ".envrc.example",
        "hooks/x",
        "git/hooks/x",
    ],
)
def test_a_name_beside_a_protected_one_is_free(path: str) -> None:
    assert protected_by(path) is None
    assert shields(path) is None
    assert Scope(["**"]).permits(path) == ("**", None)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        (".github/workflows/**", ".github/workflows/ci.yml"),
        (".github/workflows/*.yml", ".github/workflows/ci.yml"),
        (".github/workflows/ci.yml", ".github/workflows/ci.yml"),
        ("CLAUDE.md", "CLAUDE.md"),
        ("sub/CLAUDE.md", "sub/CLAUDE.md"),
        ("{CLAUDE,README}.md", "CLAUDE.md"),
        ("vendor/lib/.git/hooks/**", "vendor/lib/.git/hooks/pre-commit"),
        (".git", ".git"),
        (".claude/", ".claude/settings.json"),
    ],
)
def test_a_pattern_that_spells_it_out_lifts_the_protection(pattern: str, path: str) -> None:
    assert Scope([pattern]).permits(path) == (pattern, None)
    assert Scope(["**", pattern]).permits(path) == (pattern, None)
    assert Scope([pattern, "**"]).permits(path) == (pattern, None)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        (".git*/**", ".github/workflows/ci.yml"),
        (".github/**", ".github/workflows/ci.yml"),
        (".github/*/ci.yml", ".github/workflows/ci.yml"),
        ("**/CLAUDE.md", "CLAUDE.md"),
        ("*/CLAUDE.md", "sub/CLAUDE.md"),
        ("CLAUDE.m?", "CLAUDE.md"),
        ("sub/**", "sub/CLAUDE.md"),
        ("**/.git/hooks/**", ".git/hooks/x"),
        (".claude/**", ".claude/CLAUDE.md"),
        (".claude/**", ".claude/x/.git/hooks/y"),
    ],
)
def test_a_wildcard_lifts_nothing(pattern: str, path: str) -> None:
    found, rule = Scope([pattern]).permits(path)
    assert found == pattern
    assert rule in PROTECTED


@pytest.mark.parametrize("pattern", [".groove/**", ".groove/x", "a/.groove/x", "**"])
def test_the_daemons_own_directory_is_never_lifted(pattern: str) -> None:
    path = pattern.replace("**", ".groove/x") if pattern == "**" else pattern.replace("**", "x")
    assert Scope([pattern]).permits(path) == (pattern, ".groove/**")


def test_a_literal_pattern_for_another_place_lifts_nothing() -> None:
    scope = Scope(["**", "sub/CLAUDE.md", ".github/workflows/**"])
    assert scope.permits("CLAUDE.md") == ("**", "CLAUDE.md")
    assert scope.permits("other/.github/workflows/x")[1] == ".github/workflows/**"


def test_a_path_outside_the_scope_still_names_its_rule() -> None:
    assert Scope(["src/**"]).permits(".git/hooks/x") == (None, ".git/hooks/**")
    assert Scope(["src/**"]).permits("lib/x") == (None, None)
