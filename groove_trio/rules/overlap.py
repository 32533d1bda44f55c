"""Whether two patterns share a path: reachability in a product of automata, and a witness.

Two patterns overlap when some path drives both from start to end, so the question is which
pairs of states can be reached together. The pairs are kept as *rows*: one pattern becomes a
small graph, and each of its nodes has the set of states of the other scope's `Automaton` that
can be reached together with it. Rows are integers; one operation advances all patterns of the
other scope. The graph has no cycles but loops, so one pass in topological order fills all
rows, and a loop is closed at once by `Automaton.read_name` and `Automaton.read_names`.

A path is not any text: no name is empty, ``.`` or ``..``. So a row is four sets, by what has
been read of the current name: nothing, ``.``, ``..``, or more. A slash or the end is taken only
after "more".

Invariants: rows hold exactly the reachable pairs (so the answer is neither too cautious nor too
bold), and the way back from a matched pair, step by step through pairs in the rows, always
arrives at the start and spells a witness.

Cost: nodes times about ten operations, each on an integer of as many bits as the other scope
has tokens. Expansions of braces share nodes: equal beginnings and equal ends are one. The way
back is as long as both patterns together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from groove_trio.rules.automaton import Automaton
from groove_trio.rules.patterns import (
    ANY,
    DEEP,
    DOT_RANGE,
    NAMEABLE,
    STAR,
    CharClass,
    Ranges,
    Token,
    Tokens,
)
from groove_trio.rules.patterns import common as shared_ranges

Row = tuple[int, int, int, int]
_SLASH: Final = "/"
_FULL_STOP: Final = "."
_EMPTY: Row = (0, 0, 0, 0)
_START, _DOT, _DOTS, _INSIDE = range(4)

State = tuple[int, int, int]
"""A pair of states, and what of a name has been read: node, bit, one of the four."""

# How a name goes on: from which of the four, to which, by what (see `choose`).
_MOVES = {
    _START: ((_INSIDE, "/"),),
    _DOT: ((_START, "."),),
    _DOTS: ((_DOT, "."),),
    _INSIDE: ((_DOTS, "?"), (_DOT, "x"), (_INSIDE, "?"), (_START, "x")),  # tried from the last
}
_READABLE = "xabcdefghijklmnopqrstuvwyz0123456789_-ABCDEFGHIJKLMNOPQRSTUVWXYZé"


class Node(NamedTuple):
    """A state of a pattern: whether it is matched, its loop, and its ways on.

    An edge without a token is taken without a character.
    """

    matched: bool
    loop: Token | None
    edges: tuple[tuple[Token | None, int], ...]


class Graph:
    """One pattern with all its expansions; the children of a node have smaller numbers."""

    def __init__(self, runs: Iterable[Tokens]) -> None:
        self._numbers: dict[Node, int] = {}
        self._chains: dict[tuple[Tokens, Token | None], int] = {}
        self.root = self._grow(list(dict.fromkeys(runs)), 0, None)
        self.nodes = list(self._numbers)
        del self._numbers, self._chains

    def _grow(self, runs: list[Tokens], depth: int, loop: Token | None) -> int:
        """Numbers the node that `runs` reach together after `depth` tokens."""
        if len(runs) == 1:
            return self._chain(runs[0][depth:], loop)
        groups: dict[Token, list[Tokens]] = {}
        for run in runs:
            if len(run) > depth:
                groups.setdefault(run[depth], []).append(run)
        edges: list[tuple[Token | None, int]] = []
        for token, group in groups.items():
            edges += self._edges(token, self._grow(group, depth + 1, _loop(token)))
        matched = any(len(run) == depth for run in runs)
        return self._number(Node(matched, loop, tuple(edges)))

    def _chain(self, run: Tokens, loop: Token | None) -> int:
        """Numbers the nodes of a run that goes on alone; equal ends are one."""
        key = run, loop
        if key not in self._chains:
            loops = [loop, *map(_loop, run)]
            number = self._number(Node(True, loops[-1], ()))
            for index in range(len(run) - 1, -1, -1):
                number = self._number(Node(False, loops[index], self._edges(run[index], number)))
            self._chains[key] = number
        return self._chains[key]

    def _edges(self, token: Token, child: int) -> tuple[tuple[Token | None, int], ...]:
        if token is STAR:
            return ((None, child),)
        if token is DEEP:
            return (None, child), (None, self._number(Node(False, DEEP, (("/", child),))))
        return ((token, child),)

    def _number(self, node: Node) -> int:
        return self._numbers.setdefault(node, len(self._numbers))


def _loop(token: Token) -> Token | None:
    return STAR if token is STAR else None


def witness(graph: Graph, other: Automaton, start: int) -> str | None:
    """A path that a pattern and one of the other scope's patterns match, or None.

    Args:
        graph: The pattern.
        other: The other scope.
        start: `Automaton.start` of those patterns of it that are of interest.
    """
    rows: list[Row] = [_EMPTY] * len(graph.nodes)
    rows[graph.root] = (start, 0, 0, 0)
    for number in range(graph.root, -1, -1):
        row = rows[number]
        if row == _EMPTY:
            continue
        node = graph.nodes[number]
        if node.loop is not None:
            row = other.read_name(row) if node.loop is STAR else other.read_names(row[_START])
            rows[number] = row
        if node.matched and (done := row[_INSIDE] & other.matched):
            return _Way(graph, other, rows, start).back(number, (done & -done).bit_length() - 1)
        for token, child in node.edges:
            rows[child] = _joined(rows[child], _read(other, row, token))
    return None


def _joined(a: Row, b: Row) -> Row:
    return b if a == _EMPTY else (a[0] | b[0], a[1] | b[1], a[2] | b[2], a[3] | b[3])


def _read(other: Automaton, row: Row, token: Token | None) -> Row:
    """The row after one token."""
    start, dot, dots, inside = row
    if token is None:
        return row
    if token == _SLASH:
        return other.step_slash(inside), 0, 0, 0
    dotted, plain = _takers(other, token)
    fresh, later = start | dot, dots | inside
    after = other.step(later, (dotted or 0) | (plain or 0)) if later else 0
    if plain is not None and fresh:
        after |= other.step(fresh, plain)
    if dotted is None or not fresh:
        return 0, 0, 0, after
    return 0, other.step(start, dotted), other.step(dot, dotted), after


def _takers(other: Automaton, token: Token) -> tuple[int | None, int | None]:
    """The bits of the other scope that take a dot with this token, and another character.

    None is not 0: where no bit takes the character, loops still do.
    """
    if token == _FULL_STOP:
        return other.dot, None
    if isinstance(token, str):
        return None, other.at(token)
    if isinstance(token, CharClass):
        return other.dot if DOT_RANGE in token.ranges else None, other.meeting(token)
    return other.dot, other.not_dot


class _Way:
    """The way back through filled rows."""

    def __init__(self, graph: Graph, other: Automaton, rows: list[Row], start: int) -> None:
        self._other, self._rows, self._start = other, rows, start
        self._root, self._firsts = graph.root, frozenset(other.bases)
        self._into: list[list[tuple[Token | None, int]]] = [[] for _ in graph.nodes]
        for number, node in enumerate(graph.nodes):
            if node.loop is not None:
                self._into[number].append((node.loop, number))
            for token, child in node.edges:
                self._into[child].append((token, number))

    def back(self, node: int, bit: int) -> str:
        """Spells a path that leads to a matched pair."""
        last = state = (node, bit, _INSIDE)
        came: dict[State, tuple[State, str]] = {}
        stack = [last]
        while stack:
            state = stack.pop()
            if state[0] == self._root and state[2] == _START and self._start >> state[1] & 1:
                break
            for before, char in self._before(state):
                if before not in came:
                    came[before] = (state, char)
                    stack.append(before)
        text: list[str] = []
        while state != last:
            state, char = came[state]
            text.append(char)
        return "".join(text)

    def _before(self, state: State) -> Iterator[tuple[State, str]]:
        """The states one move before, those that make a shorter way last."""
        node, bit, read = state
        here = self._others_before(bit)
        for token, parent in self._into[node]:
            if token is None:
                continue
            for taker, place in here:
                if taker is not None:
                    yield from self._reads(parent, place, read, token, taker)
        for token, parent in self._into[node]:
            if token is None and self._rows[parent][read] >> bit & 1:
                yield (parent, bit, read), ""
        for taker, place in here:
            if taker is None and self._rows[node][read] >> place & 1:
                yield (node, place, read), ""

    def _reads(
        self, node: int, bit: int, read: int, token: Token, taker: Token
    ) -> Iterator[tuple[State, str]]:
        for before, kind in _MOVES[read]:
            if self._rows[node][before] >> bit & 1 and (char := choose(token, taker, kind)):
                yield (node, bit, before), char

    def _others_before(self, bit: int) -> list[tuple[Token | None, int]]:
        """The bits that lead to a bit, with the token that takes the character, if one."""
        tokens = self._other.tokens
        found: list[tuple[Token | None, int]] = []
        if tokens[bit] in {STAR, DEEP}:
            found.append((tokens[bit], bit))
        if bit in self._firsts:
            return found
        token = tokens[bit - 1]
        found.append(("/" if token is DEEP else None if token is STAR else token, bit - 1))
        if token is DEEP and bit - 1 not in self._firsts:
            found.append(("/", bit - 2))
        return found


@lru_cache(maxsize=4096)
def choose(a: Token, b: Token, kind: str) -> str | None:
    """A character that two tokens or loops take, readable if there is one.

    Args:
        a: One token.
        b: The other.
        kind: ``/``, ``.``, ``x`` for all but these, or ``?`` for all but the slash.
    """
    if kind in {"/", "."}:
        return kind if _takes(a, kind) and _takes(b, kind) else None
    found = tuple(shared_ranges(_ranges(a), _ranges(b)))
    for char in _READABLE if kind == "x" else _READABLE + ".":
        if any(low <= ord(char) <= high for low, high in found):
            return char
    points = (point for low, high in found for point in (low, low + 1) if point <= high)
    return next((chr(point) for point in points if kind == "?" or chr(point) != "."), None)


def _takes(token: Token, char: str) -> bool:
    if token is DEEP:
        return True
    if char == "/":
        return token == _SLASH
    return token in {ANY, STAR} or (isinstance(token, CharClass | str) and char in token)


def _ranges(token: Token) -> Ranges:
    if isinstance(token, CharClass):
        return token.ranges
    if isinstance(token, str):
        return () if token == _SLASH else ((ord(token), ord(token)),)
    return NAMEABLE
