"""Scopes: what an agent may write, as patterns.

A scope answers two questions, and both answers are exact. *Does it hold this path?* Nearly all
patterns in use have one of four plain shapes, and those are answered with a few comparisons of
text; the others run together as one `Automaton`. *Does it share a path with that scope?* A look
at the literal ends of two patterns settles most pairs; `overlap.witness` settles the rest.

Invariants:

- A `Scope` is immutable; what is compiled lazily is a function of its patterns.
- A path that is no resolved path (empty, ``..``, ``//``) is in no scope, not even in ``**``.
- A scope stands for at most `MAX_EXPANDED` characters once its braces are expanded. That is
  four times the longest scope without braces, and the bound from which all times follow.

Cost: microseconds for what is common; docs/discussion/scopes.md has the worst cases, measured.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from groove_trio.rules.automaton import Automaton
from groove_trio.rules.index import ScopeIndex
from groove_trio.rules.overlap import Graph, witness
from groove_trio.rules.patterns import DEEP, STAR, Tokens, expand, flat, refusal
from groove_trio.rules.protected import PROTECTED, protected_by, protection, shields
from groove_trio.rules.shapes import Ends, ends_of, shape_of
from groove_trio.words.agents import MAX_PATTERNS
from groove_trio.words.errors import InvalidScope

__all__ = ["PROTECTED", "Scope", "ScopeIndex", "overlap", "protected_by", "shields"]

# One pattern of 200 characters with 64 expansions fits.
MAX_EXPANDED: Final = 16_384

MAX_PARTS: Final = 128  # expansions that a scope files one by one in an index


class Scope:
    """Up to 20 patterns; matches a path when one of them does. Immutable and hashable."""

    __slots__ = ("_automaton", "_ends", "_graphs", "_pattern_of", "_runs", "_shapes", "patterns")

    def __init__(self, patterns: Iterable[str]) -> None:
        """Reads the patterns.

        Raises:
            InvalidScope: One of them breaks the language, or there is too much of them.
        """
        self.patterns = tuple(patterns)
        if len(self.patterns) > MAX_PATTERNS:
            reason = f"has {len(self.patterns)} patterns; at most {MAX_PATTERNS} are taken"
            raise InvalidScope(f"the scope {reason}", pattern="", reason=reason)
        self._settle(_read(self.patterns))

    @classmethod
    def of_claim(cls, claim: str) -> Scope:
        """What a lease covers: one name or, with a slash at its end, a directory with all beneath.

        The claim is a resolved path of any length and taken literally, so no pattern can say it.
        """
        scope, name = cls(()), tuple(claim.removesuffix("/"))
        scope.patterns = (claim,)
        runs: tuple[tuple[Tokens, ...], ...] = ((name,),)
        if claim.endswith("/"):
            scope.patterns = (claim.removesuffix("/"), claim)
            runs = (*runs, ((*name, "/", DEEP, STAR),))
        scope._settle(runs)
        return scope

    def _settle(self, runs: tuple[tuple[Tokens, ...], ...]) -> None:
        self._runs = runs
        self._pattern_of = tuple(number for number, runs in enumerate(self._runs) for _ in runs)
        self._shapes = tuple(shape_of(run) for runs in self._runs for run in runs)
        self._ends: tuple[Ends, ...] | None = None
        self._graphs: list[Graph | None] = [None] * len(self.patterns)
        self._automaton: Automaton | None = None

    def matches(self, path: str) -> bool:
        """Whether a resolved path, relative to the project root, is in the scope."""
        return self.matching(path) is not None

    def matching(self, path: str) -> str | None:
        """The first pattern that matches a resolved path, or None."""
        # "..", "." and empty names begin or end somewhere below; most paths have none of these.
        if ("/." in path or path[:1] in "/." or "//" in path or path[-1] == "/") and not _real(
            path
        ):
            return None
        number = self._first(path, 0)
        return None if number is None else self.patterns[number]

    def reaches(self, directory: str) -> bool:
        """Whether it holds a directory (given with its slash), or anything beneath it."""
        if self.matches(directory.removesuffix("/")):
            return True
        open_runs: list[int] = []
        for run, shape in enumerate(self._shapes):
            if shape.head.startswith(directory):
                return True
            if directory.startswith(shape.head):
                open_runs.append(run)
        if not open_runs:
            return False
        # Every name of a pattern is matched by some name, so what is left can be matched.
        automaton = self.automaton()
        return automaton.run(directory, automaton.start(open_runs)) != 0

    def permits(self, path: str) -> tuple[str | None, str | None]:
        """The pattern that matches a path, and the protected pattern that forbids it all the same.

        Any pattern of the scope may lift the protection, not only the first that matches.
        """
        pattern = self.matching(path)
        guard = protection(path)
        if guard is None:
            return pattern, None
        if pattern is not None and guard.lifted:
            number = self._first(path, guard.names)
            if number is not None:
                return self.patterns[number], None
        return pattern, guard.rule

    def _first(self, path: str, spelled: int) -> int | None:
        """The first pattern that matches a path and spells out so many leading names."""
        undecided: list[int] = []
        for run, (head, tail, decide, names) in enumerate(self._shapes):
            if names >= spelled and path.startswith(head) and path.endswith(tail):
                if decide is None:
                    undecided.append(run)
                elif decide(path):
                    found = self._first_of(path, undecided)
                    return self._pattern_of[run] if found is None else found
        return self._first_of(path, undecided)

    def _first_of(self, path: str, runs: list[int]) -> int | None:
        if not runs:
            return None
        automaton = self.automaton()
        matched = automaton.first_matched(automaton.run(path, automaton.start(runs)))
        return None if matched is None else self._pattern_of[matched]

    def automaton(self) -> Automaton:
        """All patterns as one automaton."""
        if self._automaton is None:
            self._automaton = Automaton(run for runs in self._runs for run in runs)
        return self._automaton

    def graph(self, pattern: int) -> Graph:
        """One pattern as a graph."""
        graph = self._graphs[pattern]
        if graph is None:
            graph = self._graphs[pattern] = Graph(self._runs[pattern])
        return graph

    @property
    def ends(self) -> tuple[Ends, ...]:
        """The literal ends of each pattern, all its expansions taken together."""
        if self._ends is None:
            self._ends = tuple(map(ends_of, self._runs))
        return self._ends

    def parts(self) -> list[tuple[Ends, int, tuple[int, ...]]]:
        """The literal ends of everything that is held: ends, pattern, expansions.

        Each expansion by itself; if there are very many, those of one pattern together.
        """
        if len(self._pattern_of) <= MAX_PARTS:
            numbered = enumerate(self._pattern_of)
            runs = [run for each in self._runs for run in each]
            return [(ends_of([runs[run]]), pattern, (run,)) for run, pattern in numbered]
        return [
            (ends, pattern, tuple(self.expansions_of([pattern])))
            for pattern, ends in enumerate(self.ends)
        ]

    def expansions_of(self, patterns: Collection[int]) -> list[int]:
        """The numbers of all expansions of some patterns."""
        return [run for run, number in enumerate(self._pattern_of) if number in patterns]

    def meet(self, pattern: int, other: Scope, expansions: Iterable[int]) -> str | None:
        """A path that one pattern and some expansions of another scope match, or None."""
        automaton = other.automaton()
        return witness(self.graph(pattern), automaton, automaton.start(sorted(expansions)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scope) and self.patterns == other.patterns

    def __hash__(self) -> int:
        return hash(self.patterns)

    def __repr__(self) -> str:
        return f"Scope({list(self.patterns)!r})"


def _read(patterns: tuple[str, ...]) -> tuple[tuple[Tokens, ...], ...]:
    found: list[tuple[Tokens, ...]] = []
    room = MAX_EXPANDED
    for pattern in patterns:
        try:
            texts = expand(pattern)
            room -= sum(map(len, texts))
            found.append(tuple(dict.fromkeys(map(flat, texts))) if room >= 0 else ())
        except ValueError as problem:
            raise refusal(pattern, str(problem)) from None
        if room < 0:
            most = f"more than {MAX_EXPANDED} characters, braces expanded"
            raise refusal(pattern, f"brings the scope to {most}")
    return tuple(found)


def _real(path: str) -> bool:
    return not any(name in {"", ".", ".."} for name in path.split("/"))


def overlap(a: Scope, b: Scope) -> str | None:
    """A path that both scopes match, or None when there is none."""
    for number, ends in enumerate(a.ends):
        near = {index for index, other in enumerate(b.ends) if ends.fit(other)}
        if near and (found := a.meet(number, b, b.expansions_of(near))) is not None:
            return found
    return None
