"""Whether two patterns share a path: a search over pairs of positions."""

from __future__ import annotations

from collections import deque
from functools import lru_cache

from groove_trio.rules.patterns import ANY, DEEP, STAR, Name, Names, Token

_SAMPLES = "abcdefghijklmnopqrstuvwxyz0123456789_-ABCDEFGHIJKLMNOPQRSTUVWXYZ.é\x01\x80\U0010ffff"


def witness(a: Names, b: Names) -> str | None:
    """A path that both match, or None."""
    seen: dict[tuple[int, int], tuple[tuple[int, int], str | None] | None] = {(0, 0): None}
    queue = deque([(0, 0)])
    while queue:
        i, j = here = queue.popleft()
        if i == len(a) and j == len(b):
            return _trace(seen, here)
        for there, name in _steps(a, b, i, j):
            if there not in seen:
                seen[there] = (here, name)
                queue.append(there)
    return None


def _trace(
    seen: dict[tuple[int, int], tuple[tuple[int, int], str | None] | None], at: tuple[int, int]
) -> str:
    names: list[str] = []
    while (step := seen[at]) is not None:
        at, name = step
        if name is not None:
            names.append(name)
    return "/".join(reversed(names))


def _steps(a: Names, b: Names, i: int, j: int) -> list[tuple[tuple[int, int], str | None]]:
    mine = a[i] if i < len(a) else None
    other = b[j] if j < len(b) else None
    found: list[tuple[tuple[int, int], str | None]] = []
    if mine is DEEP:
        found.append(((i + 1, j), None))
    if other is DEEP:
        found.append(((i, j + 1), None))
    if mine is None or other is None or (mine is DEEP and other is DEEP):
        return found
    name = common_name((STAR,) if mine is DEEP else mine, (STAR,) if other is DEEP else other)
    if name is not None:
        found.append(((i + (mine is not DEEP), j + (other is not DEEP)), name))
    return found


@lru_cache(maxsize=4096)
def common_name(a: Name, b: Name) -> str | None:
    """A name that both match, or None; never empty, ``.`` or ``..``."""
    assert isinstance(a, tuple) and isinstance(b, tuple)  # noqa: S101, PT018 - for the type checker
    start = (0, 0, "")
    seen = {(0, 0, "")}
    queue = deque([(start, "")])
    while queue:
        (i, j, dots), text = queue.popleft()
        if i == len(a) and j == len(b) and dots not in {"", ".", ".."}:
            return text
        mine = a[i] if i < len(a) else None
        other = b[j] if j < len(b) else None
        moves: list[tuple[int, int, str]] = []
        if mine is STAR:
            moves.append((i + 1, j, ""))
        if other is STAR:
            moves.append((i, j + 1, ""))
        if mine is not None and other is not None:
            for char in _common(mine, other):
                moves.append((i + (mine is not STAR), j + (other is not STAR), char))
        for x, y, char in moves:
            state = (x, y, dots if not char else _dots(dots, char))
            if state not in seen:
                seen.add(state)
                queue.append((state, text + char))
    return None


def _dots(dots: str, char: str) -> str:
    return dots + char if dots in {"", "."} and char == "." else "x"


def _common(a: Token, b: Token) -> list[str]:
    """Up to two characters that both tokens match: a plain one, and the dot."""
    if isinstance(a, str):
        return [a] if _takes(b, a) else []
    if isinstance(b, str):
        return [b] if _takes(a, b) else []
    candidates = _SAMPLES
    for token in (a, b):
        for low, high in getattr(token, "ranges", ()):
            candidates += "".join(map(chr, (low, high, max(low - 1, 1), min(high + 1, 0x10FFFF))))
    found = [char for char in candidates if char != "/" and _takes(a, char) and _takes(b, char)]
    return [*found[:1], *(["."] if "." in found[1:] else [])]


def _takes(token: Token, char: str) -> bool:
    if isinstance(token, str):
        return token == char
    return token in {ANY, STAR} or char in token  # type: ignore[operator]
