"""The pattern language of scopes: from text to tokens, or a refusal with its reason.

A pattern is read in three steps, each a function from texts to texts or tokens. *Braces* are
expanded first, as a shell does, so that what follows knows none. Each expansion is split at
``/`` into *names*, and each name into *tokens*: a literal character, `ANY` (``?``), `STAR`
(``*``) or a `CharClass`. Last, the names are joined again into one flat run of tokens, in which
the name ``**`` and the ``/`` behind it are the one token `DEEP`: "nothing, or anything that ends
in a slash". At the end of a pattern, where at least one name is wanted, ``**`` is `DEEP` and
`STAR`.

Three things hold for every run that `flat` hands out, and the automata rely on them:

- A class has two characters or more, none of them ``/``, NUL or half of a surrogate pair; a
  class of one character is that character.
- No name can be ``.`` or ``..`` alone, so every name is matched by some name of a real path.
- `DEEP` stands only where a name begins, and neither `DEEP` nor `STAR` follows its like.

Cost: linear in the text and in the length of its expansions, of which there are at most
`MAX_EXPANSIONS` a pattern.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product
from typing import Final

from groove_trio.words.agents import MAX_PATTERN
from groove_trio.words.errors import InvalidScope, shown

MAX_EXPANSIONS = 64  # of the braces of one pattern; bash has no bound, a scope needs one

Ranges = tuple[tuple[int, int], ...]
"""Inclusive ranges of code points, sorted and disjoint."""

# What a name of a path may hold: all but NUL and the slash. Surrogates stand for bytes that are
# no UTF-8; `?` and `*` match them, a class does not, since no class can name them. The dot is a
# range of its own, here and so in every class, since names of dots alone are none.
NAMEABLE: Final[Ranges] = (
    (1, ord(".") - 1),
    (ord("."), ord(".")),
    (ord("/") + 1, 0xD7FF),
    (0xE000, 0x10FFFF),
)
DOT_RANGE: Final = NAMEABLE[1]


@dataclass(frozen=True, slots=True, eq=False)
class CharClass:
    """One character of some ranges of code points; compared by identity, which is faster."""

    ranges: Ranges

    def __contains__(self, char: object) -> bool:
        """Whether a character belongs to the class."""
        return isinstance(char, str) and any(low <= ord(char) <= high for low, high in self.ranges)


@dataclass(frozen=True, slots=True, eq=False)
class Wild:
    """A token that stands for itself: `ANY`, `STAR` or `DEEP`."""

    sign: str


ANY: Final = Wild("?")
STAR: Final = Wild("*")
DEEP: Final = Wild("**/")

Token = str | Wild | CharClass
Tokens = tuple[Token, ...]

_WILD: Final[dict[str, Token]] = {"?": ANY, "*": STAR}
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_CLASS = r"\[!?\]?[^\]]*\]"
_PART = re.compile(rf"(?P<text>(?:{_CLASS}|[^{{}}])+)|\{{(?P<choice>[^{{}}]*)\}}")
_TOKEN = re.compile(rf"{_CLASS}|.", re.DOTALL)


def refusal(pattern: str, reason: str) -> InvalidScope:
    """The error for a pattern, `reason` continuing "the scope pattern …"."""
    return InvalidScope(
        f"the scope pattern {shown(pattern)} {reason}", pattern=shown(pattern), reason=reason
    )


def expand(pattern: str) -> tuple[str, ...]:
    """All different texts that the braces of a pattern stand for, in order.

    Raises:
        ValueError: It breaks the language; the message continues "the pattern …".
    """
    if not pattern:
        raise ValueError("is empty")
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"has {len(pattern)} characters; at most {MAX_PATTERN} are taken")
    if _CONTROL.search(pattern):
        raise ValueError("holds a NUL or another control character")
    if _SURROGATE.search(pattern):
        raise ValueError("holds half of a surrogate pair, which is no character")
    if "\\" in pattern:
        raise ValueError("holds a backslash; patterns have no escapes")
    texts = _choices(pattern) if "{" in pattern or "}" in pattern else [pattern]
    return tuple(dict.fromkeys(texts))


def _choices(pattern: str) -> list[str]:
    parts: list[list[str]] = []
    position, count = 0, 1
    while position < len(pattern):
        match = _PART.match(pattern, position)
        if match is None and pattern[position] == "{":
            raise ValueError("has a '{' that is not closed, or braces within braces")
        if match is None:
            raise ValueError("has a '}' without its '{'")
        choice = match["choice"]
        parts.append([match["text"]] if choice is None else choice.split(","))
        count *= len(parts[-1])
        if count > MAX_EXPANSIONS:
            raise ValueError(f"stands for more than {MAX_EXPANSIONS} patterns")
        position = match.end()
    return ["".join(each) for each in product(*parts)]


def flat(text: str) -> Tokens:
    """Reads one expansion.

    Raises:
        ValueError: It breaks the language; the message continues "the pattern …".
    """
    if text.startswith("/"):
        raise ValueError("begins with '/'; patterns are relative to the project root")
    if text.startswith("~"):
        raise ValueError("begins with '~'; patterns are relative to the project root")
    if text.startswith("!"):
        raise ValueError("begins with '!'; a scope can't subtract")
    *leading, last = (text + "**" if text.endswith("/") else text).split("/")
    tokens: list[Token] = []
    for name in leading:
        if name != "**":
            tokens += _name(name)
            tokens.append("/")
        elif not tokens or tokens[-1] is not DEEP:
            tokens.append(DEEP)
    if last != "**":
        return (*tokens, *_name(last))
    if not tokens or tokens[-1] is not DEEP:
        tokens.append(DEEP)
    return (*tokens, STAR)


@lru_cache(maxsize=4096)
def _name(text: str) -> Tokens:
    if not text:
        raise ValueError("has an empty name, as in '//'")
    if "[" in text or "]" in text:
        tokens: Tokens = tuple(map(_token, _TOKEN.findall(text)))
    else:
        tokens = tuple([_WILD.get(char, char) for char in text])
    if "**" in text and any(a is STAR is b for a, b in pairwise(tokens)):
        raise ValueError("has '**' glued to other text; it must be a whole name")
    if tokens in {(".",), (".", ".")}:
        raise ValueError(f"has the name '{'.' * len(tokens)}'")
    return tokens


def _token(text: str) -> Token:
    if text == "[":
        raise ValueError("has a '[' that is not closed within its name")
    if text == "]":
        raise ValueError("has a ']' without its '['")
    return _WILD.get(text, text) if len(text) == 1 else _char_class(text)


@lru_cache(maxsize=4096)
def _char_class(text: str) -> Token:
    negated = text[1] == "!"
    ranges = _merged(_read_ranges(text, 2 if negated else 1))
    found = tuple(common(NAMEABLE, _complement(ranges) if negated else ranges))
    if not found:
        raise ValueError("has a class that no character belongs to")
    if len(found) == 1 and found[0][0] == found[0][1]:
        return chr(found[0][0])
    return CharClass(found)


def _read_ranges(text: str, position: int) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    end = len(text) - 1
    while position < end:
        low = high = ord(text[position])
        if text[position + 1] == "-" and position + 2 < end:
            high = ord(text[position + 2])
            position += 2
        if low > high:
            raise ValueError(f"has a range that runs backwards in {shown(text)}")
        ranges.append((low, high))
        position += 1
    if not ranges:
        raise ValueError("has an empty class")
    return ranges


def _merged(ranges: list[tuple[int, int]]) -> Ranges:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def _complement(ranges: Ranges) -> Ranges:
    edges = [0, *(point for low, high in ranges for point in (low, high + 1)), 0x110000]
    return tuple((a, b - 1) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b)


def common(a: Ranges, b: Ranges) -> Iterator[tuple[int, int]]:
    """The ranges that two lists of ranges share."""
    i = j = 0
    while i < len(a) and j < len(b):
        low, high = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if low <= high:
            yield low, high
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
