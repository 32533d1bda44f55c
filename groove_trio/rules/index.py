"""Who holds which scope, ready to be asked by a thousand holders.

Everything that is held is filed four times: under its literal head, its literal tail, and the
literal beginnings of its last name and of the name before it. Two patterns can only overlap if,
in each of the four, the text of one continues that of the other. The texts that continue a given
one are neighbours in sorted order; those that it continues are its own beginnings, each one look
into a dict. The shortest of the four answers is gone through, and what fits in all four is
decided exactly.

Invariant: a pair that is never decided exactly has ends that no path can have both of.

Cost: for scopes that divide a project by directory or by file name, a few candidates for each
pattern. Twenty patterns with stars at both ends meet everything, and cost one exact decision
for each owner that they meet.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from groove_trio.rules.shapes import Ends, ends_of_path
from groove_trio.words.agents import MAX_PATTERN

if TYPE_CHECKING:
    from groove_trio.rules.scopes import Scope

Owner = TypeVar("Owner", bound=Hashable)

_LAST = "\U0010ffff"


class _Filed(NamedTuple):
    """Some expansions of one pattern that is held."""

    serial: int
    ends: Ends
    expansions: tuple[int, ...]


_Group = dict[int, _Filed]


class _Drawer:
    """What is filed under one of its texts."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._groups: dict[str, _Group] = {}

    def add(self, text: str, key: int, filed: _Filed) -> None:
        if text not in self._groups:
            self._groups[text] = {}
            insort(self._texts, text)
        self._groups[text][key] = filed

    def remove(self, text: str, key: int) -> None:
        group = self._groups[text]
        del group[key]
        if not group:
            del self._groups[text]
            del self._texts[bisect_left(self._texts, text)]

    def beginnings(self, text: str) -> list[_Group]:
        """What is filed under a text that this one continues, or under itself."""
        lengths = range(min(len(text), MAX_PATTERN + 1) + 1)
        return [group for end in lengths if (group := self._groups.get(text[:end]))]

    def groups(self, first: int, after: int) -> list[_Group]:
        """What is filed under a range of the sorted texts."""
        return [self._groups[text] for text in self._texts[first:after]]

    def near(self, text: str) -> _Near:
        """What is filed under a text that continues this one, or that this one continues."""
        after = bisect_left(self._texts, text + _LAST * (MAX_PATTERN + 2 - len(text)))
        return _Near(self, text, bisect_right(self._texts, text), after)


class _Near:
    """An answer of a drawer, gone through only if it is the shortest."""

    def __init__(self, drawer: _Drawer, text: str, first: int, after: int) -> None:
        self._drawer, self._first, self._after = drawer, first, after
        self._groups = drawer.beginnings(text)
        self.size = after - first + sum(map(len, self._groups))

    def __iter__(self) -> Iterator[_Filed]:
        more = self._drawer.groups(self._first, self._after)
        return (filed for group in (*self._groups, *more) for filed in group.values())


class ScopeIndex(Generic[Owner]):
    """Who holds which scope."""

    def __init__(self) -> None:
        self._held: dict[Owner, tuple[int, Scope]] = {}
        self._owners: dict[int, Owner] = {}
        self._drawers = tuple(_Drawer() for _ in Ends._fields)
        self._serial = 0

    def add(self, owner: Owner, scope: Scope) -> None:
        """Records a scope in place of the owner's last; the caller has checked for overlap."""
        self.remove(owner)
        self._serial += 1
        self._held[owner] = self._serial, scope
        self._owners[self._serial] = owner
        for key, filed in _filed(self._serial, scope):
            for drawer, text in zip(self._drawers, filed.ends, strict=True):
                drawer.add(text, key, filed)

    def remove(self, owner: Owner) -> None:
        """Forgets an owner, if known."""
        if owner not in self._held:
            return
        serial, scope = self._held.pop(owner)
        del self._owners[serial]
        for key, filed in _filed(serial, scope):
            for drawer, text in zip(self._drawers, filed.ends, strict=True):
                drawer.remove(text, key)

    def first_overlap(self, scope: Scope) -> tuple[Owner, str] | None:
        """An owner whose scope shares a path with `scope`, and that path."""
        near: dict[tuple[int, int], set[int]] = {}
        for ends, pattern, _ in scope.parts():
            answers = [d.near(text) for d, text in zip(self._drawers, ends, strict=True)]
            for filed in min(answers, key=lambda answer: answer.size):
                if ends.fit(filed.ends):
                    near.setdefault((filed.serial, pattern), set()).update(filed.expansions)
        for (serial, pattern), expansions in sorted(near.items()):
            owner = self._owners[serial]
            found = scope.meet(pattern, self._held[owner][1], expansions)
            if found is not None:
                return owner, found
        return None

    def owner_of(self, path: str) -> tuple[Owner, str] | None:
        """Who holds a path, by which pattern."""
        ends = ends_of_path(path)
        answers = [d.beginnings(text) for d, text in zip(self._drawers, ends, strict=True)]
        fewest = min(answers, key=lambda groups: sum(map(len, groups)))
        near = (filed for group in fewest for filed in group.values())
        for serial in sorted({filed.serial for filed in near if ends.fit(filed.ends)}):
            owner = self._owners[serial]
            if (pattern := self._held[owner][1].matching(path)) is not None:
                return owner, pattern
        return None


def _filed(serial: int, scope: Scope) -> Iterator[tuple[int, _Filed]]:
    for number, (ends, _, expansions) in enumerate(scope.parts()):
        yield serial * 1_000 + number, _Filed(serial, ends, expansions)
