"""What can be told from the literal ends of a pattern, without an automaton.

A *shape* decides one expansion of a pattern on a path with comparisons of text. Five kinds are
decided entirely: ``a/b``, ``a/**``, ``a/b*c`` (one star, in the last name), ``a/**/b`` and
``a/**/b*c`` (the last name, at any depth). For all others the literal head and tail only rule
paths out. Shapes rely on the path being a resolved one, all of whose names are real.

*Ends* rule out that two patterns overlap: their literal heads, their literal tails and the
literal beginnings of their last two names must each fit, that is, one must continue the other.

Cost: a fraction of a microsecond each; linear in the text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from groove_trio.rules.patterns import DEEP, STAR, Token, Tokens

Decide = Callable[[str], bool]


class Shape(NamedTuple):
    """One expansion, as far as comparisons of text go.

    Attributes:
        head: What a path begins with.
        tail: What a path ends with.
        decide: Whether a path with this head and tail is matched; None if that takes more.
        spelled: How many leading names are spelled out.
    """

    head: str
    tail: str
    decide: Decide | None
    spelled: int


class Ends(NamedTuple):
    """What all paths of some expansions have in common at their ends.

    Attributes:
        head: What a path begins with.
        tail: What a path ends with, spelled backwards.
        last: What its last name begins with.
        parent: What the name before the last begins with; a slash closes a whole name, and
            a slash alone says that there is no such name.
    """

    head: str
    tail: str
    last: str
    parent: str

    def fit(self, other: Ends) -> bool:
        """False only if no path can have both ends: each text must continue the other."""
        # Spelled out, the most selective first: an index asks this thousands of times.
        head, tail, last, parent = self
        other_head, other_tail, other_last, other_parent = other
        return (
            (last.startswith(other_last) or other_last.startswith(last))
            and (head.startswith(other_head) or other_head.startswith(head))
            and (tail.startswith(other_tail) or other_tail.startswith(tail))
            and (parent.startswith(other_parent) or other_parent.startswith(parent))
        )


def shape_of(run: Tokens) -> Shape:
    """The shape of one expansion."""
    head = _literal(run)
    if len(head) == len(run):
        return Shape(head, head, _exactly(head), head.count("/") + 1)
    tail = _literal(run[::-1])[::-1]
    return Shape(head, tail, _decided(run[len(head) :], head, tail), head.count("/"))


def ends_of(runs: Sequence[Tokens]) -> Ends:
    """The ends that some expansions share."""
    return Ends(*map(_shared, zip(*map(_ends, runs), strict=True)))


def ends_of_path(path: str) -> Ends:
    """The ends of a path, all of them known."""
    parents, _, last = path.rpartition("/")
    return Ends(path, path[::-1], last, parents.rpartition("/")[2] + "/")


def _ends(run: Tokens) -> Ends:
    last = _name_start(run, len(run))
    parent = ""
    if last == 0:
        parent = "/"
    elif run[last - 1] == "/":
        parent = _literal(run[_name_start(run, last - 1) : last])
    return Ends(_literal(run), _literal(run[::-1]), _literal(run[last:]), parent)


def _name_start(run: Tokens, end: int) -> int:
    """Where the name begins that ends before `end`."""
    while end > 0 and run[end - 1] != "/" and run[end - 1] is not DEEP:
        end -= 1
    return end


def _literal(run: Sequence[Token]) -> str:
    """The literal characters that a run begins with."""
    for index, token in enumerate(run):
        if not isinstance(token, str):
            return "".join(map(str, run[:index]))
    return "".join(map(str, run))


def _shared(texts: Sequence[str]) -> str:
    """What all texts begin with."""
    low, high = min(texts), max(texts)
    for index, char in enumerate(low):
        if char != high[index]:
            return low[:index]
    return low


def _decided(rest: Tokens, head: str, tail: str) -> Decide | None:
    """The comparison for what follows the head, where it has a plain shape."""
    if rest == (DEEP, STAR):
        return _longer(len(head))
    if rest[0] is STAR and len(rest) == 1 + len(tail) and "/" not in tail:
        return _within(len(head), len(head) + len(tail))
    if rest[0] is not DEEP:
        return None
    stem = _literal(rest[1:])
    if "/" in tail or "/" in stem:
        return None
    if len(rest) == 1 + len(stem):
        return _named(stem)
    if rest[1 + len(stem)] is STAR and len(rest) == 2 + len(stem) + len(tail):
        return _named_like(stem, len(stem) + len(tail))
    return None


def _exactly(text: str) -> Decide:
    return lambda path: path == text


def _longer(length: int) -> Decide:
    return lambda path: len(path) > length


def _within(name: int, least: int) -> Decide:
    return lambda path: len(path) >= least and path.find("/", name) < 0


def _named(name: str) -> Decide:
    return lambda path: path[path.rfind("/") + 1 :] == name


def _named_like(stem: str, least: int) -> Decide:
    def decide(path: str) -> bool:
        begin = path.rfind("/") + 1
        return len(path) - begin >= least and path.startswith(stem, begin)

    return decide
