"""The pattern language of scopes: from text to names of tokens, or a refusal with its reason.

A pattern is a path of names; braces are expanded first, so what follows knows none. A name is
a tuple of tokens: a literal character, `ANY` (``?``), `STAR` (``*``) or a `CharClass`. The name
``**`` becomes `DEEP`, any number of names; at the end of a pattern, where at least one name is
wanted, it becomes `DEEP` and one name ``*``. No name of a real path is empty, so a name ``*``
stands for at least one character.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Final

from groove_trio.words.errors import InvalidScope, shown
from groove_trio.words.schemas import MAX_PATTERN

MAX_EXPANSIONS = 64  # of the braces of one pattern; bash has no bound, a scope needs one


@dataclass(frozen=True, slots=True)
class CharClass:
    """One character of some ranges of code points, or of none of them.

    `ranges` are inclusive, sorted and disjoint.
    """

    ranges: tuple[tuple[int, int], ...]
    negated: bool

    def __contains__(self, char: object) -> bool:
        """Whether a character belongs to the class; ``/`` never does."""
        if not isinstance(char, str) or char == "/":
            return False
        point = ord(char)
        return any(low <= point <= high for low, high in self.ranges) is not self.negated


@dataclass(frozen=True, slots=True)
class Wild:
    """A token that stands for itself: `ANY`, `STAR` or the name `DEEP`."""

    sign: str


ANY: Final = Wild("?")
STAR: Final = Wild("*")
DEEP: Final = Wild("**")

Token = str | Wild | CharClass
Name = tuple[Token, ...] | Wild
"""The tokens of one name, or `DEEP`."""

Names = tuple[Name, ...]
ANY_NAME: Final[Name] = (STAR,)

_BRACES = re.compile(r"\{([^{}]*)\}")
_IN_CLASS = re.compile(r"\[!?\]?[^\]]*\]")


def parse(pattern: str) -> tuple[Names, ...]:
    """Reads one pattern; one tuple of names for each expansion of its braces.

    Raises:
        InvalidScope: The pattern breaks the language; `pattern` and `reason` are its fields.
    """
    if reason := _objection(pattern):
        raise _refusal(pattern, reason)
    try:
        whole = pattern + "**" if pattern.endswith("/") else pattern
        return tuple(dict.fromkeys(_names(each) for each in _expand(whole)))
    except ValueError as problem:
        raise _refusal(pattern, str(problem)) from None


def _refusal(pattern: str, reason: str) -> InvalidScope:
    return InvalidScope(
        f"the scope pattern {shown(pattern)} {reason}", pattern=shown(pattern), reason=reason
    )


def _objection(pattern: str) -> str | None:
    if not pattern:
        return "is empty"
    if len(pattern) > MAX_PATTERN:
        return f"has {len(pattern)} characters; at most {MAX_PATTERN} are taken"
    if any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in pattern):  # noqa: PLR2004 - C0, DEL, C1
        return "holds a NUL or another control character"
    if "\\" in pattern:
        return "holds a backslash; patterns have no escapes"
    if pattern[0] == "!":
        return "begins with '!'; a scope can't subtract"
    if pattern[0] == "~":
        return "begins with '~'; patterns are relative to the project root"
    return None


def _expand(pattern: str) -> Iterator[str]:
    """All texts that the braces stand for; brackets inside classes count as characters."""
    parts: list[list[str]] = []
    position, count = 0, 1
    while position < len(pattern):
        char = pattern[position]
        if char == "[" and (match := _IN_CLASS.match(pattern, position)):
            end = match.end()
            parts.append([pattern[position:end]])
        elif char == "{":
            if not (braces := _BRACES.match(pattern, position)):
                raise ValueError("has a '{' that is not closed, or braces within braces")
            end = braces.end()
            parts.append(braces[1].split(","))
            count *= len(parts[-1])
            if count > MAX_EXPANSIONS:
                raise ValueError(f"stands for more than {MAX_EXPANSIONS} patterns")
        elif char == "}":
            raise ValueError("has a '}' without its '{'")
        else:
            end = position + 1
            parts.append([char])
        position = end
    return ("".join(choice) for choice in product(*parts))


def _names(text: str) -> Names:
    """Reads a pattern without braces.

    Raises:
        ValueError: It breaks the language; the message continues "the pattern …".
    """
    if text.startswith("/"):
        raise ValueError("begins with '/'; patterns are relative to the project root")
    if text.startswith("~"):
        raise ValueError("begins with '~'; patterns are relative to the project root")
    if text.endswith("/"):
        text += "**"
    names: list[Name] = []
    for part in _split(text):
        name = _name(part)
        if name is not DEEP or not names or names[-1] is not DEEP:
            names.append(name)
    if names[-1] is DEEP:
        names.append(ANY_NAME)
    return tuple(names)


def _split(text: str) -> list[str]:
    return text.split("/")


def _name(part: str) -> Name:
    if not part:
        raise ValueError("has an empty name, as in '//'")
    if part in {".", ".."}:
        raise ValueError(f"has the name '{part}'")
    if part == "**":
        return DEEP
    if "**" in _IN_CLASS.sub("", part):
        raise ValueError("has '**' glued to other text; it must be a whole name")
    return tuple(_tokens(part))


def _tokens(part: str) -> Iterator[Token]:
    position = 0
    while position < len(part):
        char = part[position]
        if char == "[":
            match = _IN_CLASS.match(part, position)
            if match is None:
                raise ValueError("has a '[' that is not closed within its name")
            yield _char_class(match[0])
            position = match.end()
            continue
        if char == "]":
            raise ValueError("has a ']' without its '['")
        yield STAR if char == "*" else ANY if char == "?" else char
        position += 1


def _char_class(text: str) -> Token:
    negated = text[1] == "!"
    body = text[2 if negated else 1 : -1]
    ranges: list[tuple[int, int]] = []
    position = 0
    while position < len(body):
        low = high = ord(body[position])
        if body[position + 1 : position + 2] == "-" and position + 2 < len(body):
            high = ord(body[position + 2])
            position += 2
        if low > high:
            raise ValueError(f"has a range that runs backwards in {shown(text)}")
        ranges.append((low, high))
        position += 1
    if not ranges:
        raise ValueError("has an empty class")
    return CharClass(_merged(ranges), negated)


def _merged(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)
