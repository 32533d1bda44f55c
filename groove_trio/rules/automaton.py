"""Many patterns as one automaton whose states are the bits of one integer.

Every token of every pattern owns one bit, and one more bit behind its last token says that the
pattern is matched. A set of states is a Python integer, so one ``&`` or ``<<`` moves all states
of all patterns at once (shift-and; Baeza-Yates and Gonnet, 1992). Reading a character keeps the
bits whose token takes it and shifts them to their successors; `STAR` and `DEEP` also stay where
they are. `STAR` may be skipped, so whoever enters its bit has entered the next one, too; `DEEP`
may be skipped when it is entered, and is left on a slash.

Invariants:

- A set handed out is closed: behind the bit of a `STAR` its successor is set.
- Bits never leak from one pattern into the next, since nothing takes a character at the bit
  that says "matched".
- Patterns lie in order, so the lowest matched bit belongs to the first pattern that matches.

Cost: building is linear in the tokens; a step is ten operations on an integer of as many bits
as there are tokens, for whatever the patterns hold. There is no backtracking to blow up.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable

from groove_trio.rules.patterns import ANY, DEEP, STAR, CharClass, Token, Tokens

MAX_KNOWN = 1024
"""Characters, and classes of others, that an automaton remembers before it forgets them all."""


class Automaton:
    """The patterns of a scope, ready to run.

    Attributes:
        tokens: The token of every bit; None for the bit that says "matched".
        bases: The first bit of every run of tokens.
        matched: The bits that say "matched".
    """

    def __init__(self, runs: Iterable[Tokens]) -> None:
        self.tokens: list[Token | None] = []
        self.bases: list[int] = []
        for run in runs:
            self.bases.append(len(self.tokens))
            self.tokens += run
            self.tokens.append(None)
        self._at: dict[str, int] = {}
        self._meeting: dict[CharClass, int] = {}
        self._tree: list[int] = []
        self._build()

    def _build(self) -> None:
        places: defaultdict[Token | None, list[int]] = defaultdict(list)
        for bit, token in enumerate(self.tokens):
            places[token].append(bit)
        self.matched, self._slash = _mask(places.pop(None, [])), _mask(places.pop("/", []))
        self._any, self._star = _mask(places.pop(ANY, [])), _mask(places.pop(STAR, []))
        self._deep = _mask(places.pop(DEEP, []))
        self._loops = self._star | self._deep
        self._literals = {t: bits for t, bits in places.items() if isinstance(t, str)}
        self._classes = {t: _mask(bits) for t, bits in places.items() if isinstance(t, CharClass)}
        self._edges = self._sweep()
        self.dot = self.at(".")
        taking = ((1 << len(self.tokens)) - 1) ^ self.matched ^ self._slash ^ self._loops
        self.not_dot = taking & ~self._literal(".")
        self._within = taking | self._star
        self._across = self._within | self._slash | self._deep
        self._fresh: int | None = None

    def _sweep(self) -> tuple[list[int], list[int]]:
        """Where classes begin and end, and from each such point on, the bits that take it."""
        toggles: dict[int, int] = {}
        for token, mask in self._classes.items():
            for low, high in token.ranges:
                toggles[low] = toggles.get(low, 0) ^ mask
                toggles[high + 1] = toggles.get(high + 1, 0) ^ mask
        points, inside, masks = sorted(toggles), 0, [0]
        for point in points:
            inside ^= toggles[point]
            masks.append(inside)
        return points, masks

    @property
    def remembered(self) -> int:
        """How many answers are kept."""
        return len(self._at) + len(self._meeting)

    def start(self, runs: Iterable[int]) -> int:
        """The states before the first character of the runs with these numbers."""
        states = _mask([self.bases[run] for run in runs])
        states |= (states & self._deep) << 1
        return states | (states & self._star) << 1

    def at(self, char: str) -> int:
        """The bits whose token takes a character other than the slash."""
        mask = self._at.get(char)
        if mask is None:
            points, masks = self._edges
            mask = self._literal(char) | self._any | masks[bisect_right(points, ord(char))]
            if len(self._at) >= MAX_KNOWN:
                self._at.clear()
            self._at[char] = mask
        return mask

    def _literal(self, char: str) -> int:
        return _mask(self._literals.get(char, []))

    def meeting(self, token: CharClass) -> int:
        """The bits whose token shares a character with a class, the dot aside."""
        mask = self._meeting.get(token)
        if mask is None:
            mask = self._any
            for low, high in token.ranges:
                if low != high:
                    mask |= self.at(chr(low)) | self._beginning(low + 1, high)
                elif chr(low) != ".":
                    mask |= self.at(chr(low))
            if len(self._meeting) >= MAX_KNOWN:
                self._meeting.clear()
            self._meeting[token] = mask
        return mask

    def _beginning(self, low: int, high: int) -> int:
        """The bits with a character or a range of their class that begins in low..high.

        A tree of unions answers in logarithmic time: a thousand classes may each span
        thousands of characters.
        """
        if not self._tree:
            self._plant()
        size = len(self._points)
        left, right = bisect_left(self._points, low) + size, bisect_right(self._points, high) + size
        mask = 0
        while left < right:
            if left & 1:
                mask |= self._tree[left]
                left += 1
            if right & 1:
                right -= 1
                mask |= self._tree[right]
            left, right = left >> 1, right >> 1
        return mask

    def _plant(self) -> None:
        begins = {ord(char): _mask(bits) for char, bits in self._literals.items()}
        for token, mask in self._classes.items():
            for low, _ in token.ranges:
                begins[low] = begins.get(low, 0) | mask
        self._points = sorted(begins)
        size = len(self._points)
        self._tree = [0] * size + [begins[point] for point in self._points] or [0]
        for node in range(size - 1, 0, -1):
            self._tree[node] = self._tree[2 * node] | self._tree[2 * node + 1]

    def step(self, states: int, takers: int) -> int:
        """The states after a character that `takers` take, which is not the slash."""
        after = (states & takers) << 1 | (states & self._loops)
        return after | (after & self._star) << 1

    def step_slash(self, states: int) -> int:
        """The states after a slash."""
        after = (states & (self._slash | self._deep)) << 1
        after |= (after & self._deep) << 1 | (states & self._deep)
        return after | (after & self._star) << 1

    def flood(self, states: int) -> int:
        """The states after any run of characters without a slash.

        The carry of one addition runs from the lowest state of each unbroken run of tokens to
        the first bit behind it (Myers, 1999).
        """
        within = self._within
        return ((states & within) + within) ^ within | states

    def flood_across(self, states: int) -> int:
        """All bits from the states to the ends of their patterns."""
        across = self._across
        return ((states & across) + across) ^ across | states

    def read_name(self, row: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        """The states after any run of characters within a name; see `overlap` for rows."""
        start, dot, dots, inside = row
        if start:
            dot |= self.step(start, self.dot)
        if dot:
            dots |= self.step(dot, self.dot)
            inside |= self.step(start | dot, self.not_dot)
        elif start:
            inside |= self.step(start, self.not_dot)
        if dots:
            inside |= self.step(dots, self.not_dot | self.dot)
        return start, dot, dots, self.flood(inside) if inside else 0

    def read_names(self, start: int) -> tuple[int, int, int, int]:
        """The states after any run of characters that is part of a path, from a name's start.

        Every name of every pattern is matched by some real name, so once a name has begun, all
        later names of its pattern are reached in every way that their own beginning allows.
        """
        inside = self.read_name((start, 0, 0, 0))[3]
        if later := self.step_slash(inside):
            if self._fresh is None:
                begun = self.start(range(len(self.bases)))
                begun |= self.step_slash(self._slash | self._deep)
                self._fresh = self.read_name((begun, 0, 0, 0))[3]
            inside |= self.flood_across(later) & self._fresh
            start |= later | self.step_slash(inside)
        _, dot, dots, more = self.read_name((start, 0, 0, 0))
        return start, dot, dots, inside | more

    def run(self, path: str, states: int) -> int:
        """The states after reading a path."""
        at = self._at
        for char in path:
            if char == "/":
                states = self.step_slash(states)
            else:
                mask = at.get(char)
                states = self.step(states, self.at(char) if mask is None else mask)
            if not states:
                return 0
        return states

    def first_matched(self, states: int) -> int | None:
        """The number of the first run of tokens that is matched."""
        if done := states & self.matched:
            return bisect_right(self.bases, (done & -done).bit_length() - 1) - 1
        return None


def _mask(bits: list[int]) -> int:
    """The integer with these bits, which are in ascending order."""
    if len(bits) <= 1:
        return 1 << bits[0] if bits else 0
    buffer = bytearray((bits[-1] >> 3) + 1)
    for bit in bits:
        buffer[bit >> 3] |= 1 << (bit & 7)
    return int.from_bytes(buffer, "little")
