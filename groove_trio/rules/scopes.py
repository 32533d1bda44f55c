"""Scopes: what an agent may write, as patterns; matching, and the holders' index."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

from groove_trio.rules.overlap import witness
from groove_trio.rules.patterns import ANY, DEEP, STAR, Name, Names, Token, parse
from groove_trio.words.errors import InvalidScope
from groove_trio.words.schemas import MAX_PATTERNS

Owner = TypeVar("Owner", bound=Hashable)

PROTECTED = (
    ".git/hooks/**",
    ".git/config",
    ".groove/**",
    ".claude/**",
    ".codex/**",
    ".gemini/**",
    ".mcp.json",
    ".vscode/tasks.json",
    ".envrc",
    ".github/workflows/**",
    "CLAUDE.md",
    "AGENTS.md",
    "GEMINI.md",
)


class Scope:
    """Up to 20 patterns; matches a path when one of them does. Immutable and hashable."""

    __slots__ = ("_compiled", "patterns")

    def __init__(self, patterns: Iterable[str]) -> None:
        """Parses the patterns.

        Raises:
            InvalidScope: One of them breaks the language, or there are too many.
        """
        self.patterns = tuple(patterns)
        if len(self.patterns) > MAX_PATTERNS:
            reason = f"has {len(self.patterns)} patterns; at most {MAX_PATTERNS} are taken"
            raise InvalidScope(f"the scope {reason}", pattern="", reason=reason)
        self._compiled = tuple(parse(pattern) for pattern in self.patterns)

    def matches(self, path: str) -> bool:
        """Whether a path, relative to the project root, is in the scope."""
        return self.matching(path) is not None

    def matching(self, path: str) -> str | None:
        """The first pattern that matches a path, or None."""
        names = path.split("/")
        for pattern, expansions in zip(self.patterns, self._compiled, strict=True):
            if any(_match_names(expansion, names) for expansion in expansions):
                return pattern
        return None

    @property
    def expansions(self) -> tuple[Names, ...]:
        """All names of all patterns, braces expanded."""
        return tuple(each for compiled in self._compiled for each in compiled)

    def permits(self, path: str) -> tuple[str | None, str | None]:
        """The pattern that matches a path, and the protected pattern that forbids it all the same."""
        pattern = self.matching(path)
        rule = protected_by(path)
        return pattern, rule if pattern is None or rule != pattern else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scope) and self.patterns == other.patterns

    def __hash__(self) -> int:
        return hash(self.patterns)

    def __repr__(self) -> str:
        return f"Scope({list(self.patterns)!r})"


def overlap(a: Scope, b: Scope) -> str | None:
    """A path that both scopes match, or None when there is none."""
    for mine in a.expansions:
        for other in b.expansions:
            if (found := witness(mine, other)) is not None:
                return found
    return None


def protected_by(path: str) -> str | None:
    """The protected pattern that a path falls under, or None."""
    for pattern, scope in _PROTECTED:
        if path == pattern.removesuffix("/**") or scope.matches(path):
            return pattern
    return None


class ScopeIndex(Generic[Owner]):
    """Who holds which scope."""

    def __init__(self) -> None:
        self._held: dict[Owner, Scope] = {}

    def add(self, owner: Owner, scope: Scope) -> None:
        """Records a scope; the caller has checked for overlap."""
        self._held[owner] = scope

    def remove(self, owner: Owner) -> None:
        """Forgets an owner, if known."""
        self._held.pop(owner, None)

    def first_overlap(self, scope: Scope) -> tuple[Owner, str] | None:
        """The first owner whose scope shares a path with `scope`, and that path."""
        for owner, held in self._held.items():
            if (found := overlap(held, scope)) is not None:
                return owner, found
        return None

    def owner_of(self, path: str) -> tuple[Owner, str] | None:
        """Who holds a path, by which pattern."""
        for owner, scope in self._held.items():
            if (pattern := scope.matching(path)) is not None:
                return owner, pattern
        return None


def _match_names(pattern: Names, names: list[str]) -> bool:
    """Greedy with one step back to the last `DEEP`: linear in names times pattern names."""
    i = j = 0
    deep, resume = -1, 0
    while j < len(names):
        if i < len(pattern) and pattern[i] is DEEP:
            deep, resume, i = i, j, i + 1
        elif i < len(pattern) and _match_name(pattern[i], names[j]):
            i, j = i + 1, j + 1
        elif deep >= 0:
            resume += 1
            i, j = deep + 1, resume
        else:
            return False
    return all(name is DEEP for name in pattern[i:])


def _match_name(pattern: Name, name: str) -> bool:
    if not isinstance(pattern, tuple):
        return False
    i = j = 0
    star, resume = -1, 0
    while j < len(name):
        if i < len(pattern) and pattern[i] is STAR:
            star, resume, i = i, j, i + 1
        elif i < len(pattern) and _match_char(pattern[i], name[j]):
            i, j = i + 1, j + 1
        elif star >= 0:
            resume += 1
            i, j = star + 1, resume
        else:
            return False
    return name != "" and all(token is STAR for token in pattern[i:])


def _match_char(token: Token, char: str) -> bool:
    if isinstance(token, str):
        return token == char
    return True if token is ANY else token is not STAR and char in token  # type: ignore[operator]


_PROTECTED = tuple((pattern, Scope([pattern])) for pattern in PROTECTED)
